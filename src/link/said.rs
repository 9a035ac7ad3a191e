//! Reasons for the log, each once: who cannot connect, or is refused, tries again several times a second.

use std::sync::{Mutex, PoisonError};

/// What was said last.
#[derive(Debug, Default)]
pub struct Said(Mutex<String>);

impl Said {
    /// Is this another reason than the last one?
    pub fn is_new(&self, why: &str) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = *last != why;
        if new {
            why.clone_into(&mut last);
        }
        new
    }

    /// All went well; the next reason is a new one.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
