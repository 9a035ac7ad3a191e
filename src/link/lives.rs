//! Is a caller the newest life of its array that was ever heard?

use std::sync::{Arc, Mutex, PoisonError};

use crate::store::lives::{Lives, Start};
use crate::wire::Hello;

/// Checks a hello against the lives heard before, and notes it down, durably, without blocking the caller.
///
/// # Errors
/// Why the caller is refused, in words.
pub async fn admit(lives: &Arc<Mutex<Lives>>, hello: &Hello) -> Result<(), String> {
    let start = Start {
        data_dir: hello.identity,
        number: hello.life,
        nonce: hello.nonce.0,
        name: hello.name.clone(),
    };
    let lives = Arc::clone(lives);
    let noted = move || lives.lock().unwrap_or_else(PoisonError::into_inner).admit(&start);
    match tokio::task::spawn_blocking(noted).await {
        Ok(admitted) => admitted.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
