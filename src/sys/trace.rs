//! Test builds: what was asked of the disks and when it ended, so that a test can show that an
//! answer came after the flush it promises. Off until [`start`]; one trace for the process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    /// Not stable by itself.
    Write,
    /// O_DSYNC or RWF_DSYNC.
    StableWrite,
    Punch,
    Flush,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Submitted {
        op: u64,
        kind: Kind,
        file: (u64, u64),
        offset: u64,
        len: u64,
    },
    Completed {
        op: u64,
        ok: bool,
    },
    /// Whatever a caller wants to see in the order of things ("answered tag 7").
    Note(String),
}

/// Events kept at most; what comes later is not recorded.
const EVENTS_MAX: usize = 1 << 20;

static EVENTS: Mutex<Option<Vec<Event>>> = Mutex::new(None);
static NEXT: AtomicU64 = AtomicU64::new(1);

/// Begins a new trace.
pub fn start() {
    *EVENTS.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
}

/// Ends the trace and gives it out.
pub fn take() -> Vec<Event> {
    EVENTS.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
}

fn push(event: Event) {
    if let Some(events) = EVENTS.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        && events.len() < EVENTS_MAX
    {
        events.push(event);
    }
}

/// Puts a word of the caller's into the trace.
pub fn note(word: impl Into<String>) {
    push(Event::Note(word.into()));
}

/// An operation under way.
#[derive(Debug)]
pub(super) struct Op(u64);

pub(super) fn submitted(kind: Kind, file: (u64, u64), offset: u64, len: u64) -> Op {
    let op = NEXT.fetch_add(1, Ordering::Relaxed);
    push(Event::Submitted { op, kind, file, offset, len });
    Op(op)
}

pub(super) fn completed(op: &Op, ok: bool) {
    push(Event::Completed { op: op.0, ok });
}
