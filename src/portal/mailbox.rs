//! What one session tells another, whichever data threads they run on.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::iscsi::ManagementId;
use crate::iscsi::pdu::TaskFunction;
use crate::time::Duration;

/// A message to a session.
#[derive(Debug)]
pub enum Letter {
    /// End without a word: the initiator has come back, or the session is not wanted any more.
    Terminate,
    /// Abort the commands of this unit (of every unit for `None`) and let go of the barrier when
    /// they are over.
    Abort { unit: Option<u64>, barrier: Arc<Barrier> },
    /// Everybody concerned by the session's own task management function is done.
    Managed { id: ManagementId },
    /// Ask the initiator to log out.
    RequestLogout { grace: Duration },
}

/// Letters to one session. Bounded by what sends them: one `Abort` for each task management
/// function in progress of other sessions, of which each has a fixed number.
#[derive(Debug, Default)]
pub struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    wake: Notify,
}

impl Mailbox {
    pub fn post(&self, letter: Letter) {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).push(letter);
        self.wake.notify_one();
    }

    /// Moves all letters into `into`.
    pub fn collect(&self, into: &mut Vec<Letter>) {
        into.append(&mut self.letters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Ends when a letter may have come since the last `collect`; cancel safe.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }
}

/// Shared by all sessions that a task management function concerns; when the last one lets go, the
/// session that asked is told.
#[derive(Debug)]
pub struct Barrier {
    pub asker: Arc<Mailbox>,
    pub id: ManagementId,
    pub function: TaskFunction,
}

impl Drop for Barrier {
    fn drop(&mut self) {
        self.asker.post(Letter::Managed { id: self.id });
    }
}
