//! Figures of the driver: one measured phase, one reading back of all blocks.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What one measured phase came to.
#[derive(Debug)]
pub struct Phase {
    pub name: String,
    pub since: Instant,
    pub last_done: Instant,
    pub gap: Duration,
    pub reads: u64,
    pub writes: u64,
    pub io_errors: u64,
    pub stale: u64,
    pub retries: u64,
}

impl Phase {
    pub fn new(name: &str) -> Self {
        let now = Instant::now();
        Self {
            name: name.to_owned(),
            since: now,
            last_done: now,
            gap: Duration::ZERO,
            reads: 0,
            writes: 0,
            io_errors: 0,
            stale: 0,
            retries: 0,
        }
    }

    pub fn report(&self, now: Instant, quiet: bool) -> Value {
        let open = if quiet { Duration::ZERO } else { now - self.last_done };
        json!({
            "event": "phase", "phase": self.name, "ms": millis(now - self.since), "gap_ms": millis(self.gap.max(open)),
            "reads": self.reads, "writes": self.writes, "io_errors": self.io_errors, "stale": self.stale, "retries": self.retries,
        })
    }
}

pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Debug, Default)]
pub struct Check {
    pub checked: u64,
    pub lost: u64,
    pub foreign: u64,
    pub first_wrong: Vec<Value>,
    pub served_before: Vec<u64>,
}
