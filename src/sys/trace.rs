//! Test builds: what was asked of the disks and when it ended, so that a test can show that an
//! answer came after the flush it promises. Off until [`start`]; one trace for the process.
//!
//! A daemon whose environment has `TWINLUN_IO_TRACE` writes its trace to the file named there, a
//! line for each event at the moment it happens, with the time of the machine's clock (`strace -ttt`
//! shows the same): `SECONDS submitted OP KIND DEVICE:INODE OFFSET LENGTH`, `SECONDS completed OP
//! (ok|failed)`.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

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

static SINK: OnceLock<Mutex<File>> = OnceLock::new();
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

/// Writes the trace of this process to the file that `TWINLUN_IO_TRACE` names, if it does.
///
/// # Errors
/// The file cannot be opened.
pub fn start_from_environment() -> io::Result<()> {
    let Some(path) = std::env::var_os("TWINLUN_IO_TRACE") else { return Ok(()) };
    let file = File::options().create(true).append(true).open(path)?;
    SINK.get_or_init(|| Mutex::new(file));
    Ok(())
}

/// One line, unbuffered: a kill leaves all that happened before it.
fn tell(sink: &Mutex<File>, event: &Event) {
    let mut file = sink.lock().unwrap_or_else(PoisonError::into_inner);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (now.as_secs(), now.subsec_micros());
    let line = match event {
        Event::Submitted { op, kind, file: (device, inode), offset, len } => {
            format!("{seconds}.{micros:06} submitted {op} {kind:?} {device}:{inode} {offset} {len}\n")
        }
        Event::Completed { op, ok } => {
            format!("{seconds}.{micros:06} completed {op} {}\n", if *ok { "ok" } else { "failed" })
        }
        Event::Note(word) => format!("{seconds}.{micros:06} note {word}\n"),
    };
    // A test's file: what is missing in it makes the test fail.
    let _ = file.write_all(line.as_bytes());
}

fn push(event: Event) {
    if let Some(sink) = SINK.get() {
        tell(sink, &event);
    }
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
