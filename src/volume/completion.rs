//! How outcomes travel back to the connection that submitted the request.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::block::Outcome;
use crate::sys::buffer::Buffer;

/// One request that is over.
#[derive(Debug)]
pub struct Completion {
    /// The submitter's own number for the request.
    pub tag: u64,
    pub outcome: Outcome,
    /// `Read` with `Good`: the data, exactly the extent's bytes. Otherwise empty.
    pub data: Buffer,
}

/// Where outcomes of one connection are collected; any thread may push, the connection drains.
#[derive(Debug, Default)]
pub struct CompletionQueue {
    done: Mutex<Vec<Completion>>,
    wake: Notify,
}

/// Return address of a request.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    pub queue: Arc<CompletionQueue>,
    pub tag: u64,
}

impl CompletionQueue {
    pub fn push(&self, completion: Completion) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.push(completion);
        drop(done);
        self.wake.notify_one();
    }

    /// Moves everything collected so far into `into` (appending). Cheap when nothing is there.
    pub fn drain(&self, into: &mut Vec<Completion>) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        into.append(&mut done);
    }

    /// Ends when something may have been pushed since the last `drain`; cancel safe.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }
}
