//! How old this array's `data_dir` is, and telling it to who listens (FAILURES F33).
//!
//! A `data_dir` that comes back from a backup, or with a snapshot of its machine, lacks what was written and
//! voted since. The other array and the witness know it by its age: they have noted down a higher one. So
//! the age rises, durably, while there are writes and somebody hears of it; at most what was written within
//! [`EVERY`] after a backup can be lost with it unnoticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;

use super::handle::Handle;
use super::metadata::Metadata;
use crate::mutation::{self, Mutation};
use crate::store::data_dir::DataDir;
use crate::volume;
use crate::wire::Hello;

/// How often the age is looked at.
const EVERY: Duration = Duration::from_secs(5);

/// The age as it is on disk now; cheap to clone.
#[derive(Clone, Debug)]
pub struct Age(Arc<AtomicU64>);

impl Age {
    pub fn new(of_start: u64) -> Self {
        Self(Arc::new(AtomicU64::new(of_start)))
    }

    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// This array's hello, as old as it is now.
    pub fn hello(&self, own: &Hello) -> Hello {
        Hello { life: self.now(), ..own.clone() }
    }
}

/// Raises the age again and again, until dropped.
pub async fn keep_raising(handle: Handle, data_dir: Arc<DataDir>, age: Age, metadata: Metadata) {
    loop {
        sleep(EVERY).await;
        let heard = handle.control(|controller| controller.is_heard()).await.unwrap_or(false);
        if !heard || !volume::take_written() || mutation::on(Mutation::AgeStays) {
            continue;
        }
        let (raised, wait) = oneshot::channel();
        let data_dir = Arc::clone(&data_dir);
        metadata.run(move || {
            let _ = raised.send(data_dir.raise_age());
        });
        match wait.await {
            Ok(Ok(raised)) => {
                age.0.store(raised, Ordering::Relaxed);
                // Fails only while the process ends.
                let _ = handle.control(|controller| controller.tell_age()).await;
            }
            Ok(Err(error)) => {
                volume::note_written();
                tracing::warn!(%error, "the age of the data_dir cannot be written; trying again");
            }
            Err(_) => return,
        }
    }
}
