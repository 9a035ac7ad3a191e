//! Mean latency of the hosts' commands, from submission to answer, while somebody wants to know.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::time::Time;

static MEASURED: AtomicBool = AtomicBool::new(false);
static SUM_NS: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Turns it on or off; off it costs nothing.
pub fn measure(on: bool) {
    if MEASURED.swap(on, Relaxed) != on {
        mean();
    }
}

pub(super) fn answered(submitted: Time, now: Time) {
    if MEASURED.load(Relaxed) {
        SUM_NS.fetch_add(now.0.saturating_sub(submitted.0), Relaxed);
        COUNT.fetch_add(1, Relaxed);
    }
}

/// In nanoseconds, since the last call; `None`: nothing was answered.
pub fn mean() -> Option<f64> {
    // One or the other command may be counted apart from its time: of no account.
    let (count, sum) = (COUNT.swap(0, Relaxed), SUM_NS.swap(0, Relaxed));
    #[expect(clippy::cast_precision_loss, reason = "a mean of nanoseconds")]
    (count > 0).then(|| sum as f64 / count as f64)
}
