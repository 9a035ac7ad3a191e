//! Is a caller the newest life of its array that was ever heard?

use std::sync::{Arc, Mutex, PoisonError};

use crate::store::lives::{LifeError, Lives, Start};
use crate::wire::{Frame, Hello};

/// Checks a hello against the lives heard before, and notes it down, durably, without blocking the caller.
///
/// # Errors
/// What the caller is to be told.
pub async fn admit(lives: &Arc<Mutex<Lives>>, hello: &Hello) -> Result<(), Frame> {
    let start = Start {
        data_dir: hello.identity,
        number: hello.life,
        nonce: hello.nonce.0,
        name: hello.name.clone(),
    };
    let lives = Arc::clone(lives);
    let noted = move || lives.lock().unwrap_or_else(PoisonError::into_inner).admit(&start);
    match tokio::task::spawn_blocking(noted).await {
        Ok(Err(error @ LifeError::Restored { .. })) => Err(Frame::Restored(error.to_string())),
        Ok(admitted) => admitted.map_err(|error| Frame::Refused(error.to_string())),
        Err(error) => Err(Frame::Refused(error.to_string())),
    }
}

/// The array that said `hello` is older now: noted down, in the background. What cannot be noted is said, and
/// heard again with the next age.
pub fn note(lives: &Arc<Mutex<Lives>>, hello: &Hello, age: u64) {
    let (lives, hello) = (Arc::clone(lives), Hello { life: age, ..hello.clone() });
    tokio::spawn(async move {
        if let Err(Frame::Refused(why) | Frame::Restored(why)) = admit(&lives, &hello).await {
            tracing::warn!(array = hello.name, why, "an age is not noted down");
        }
    });
}
