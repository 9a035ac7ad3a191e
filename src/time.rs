//! Time as the cores see it: a number handed in by the shell, never read from a clock.
//!
//! Two clocks matter (DESIGN §3.3). The *holder* of a lease must never think it younger than it
//! is, so its clock takes the largest advance of every source; a *grantor* must never think its
//! promise older than it is, so it counts CLOCK_MONOTONIC alone. [`Now`] carries both.

use core::ops::{Add, Sub};
pub use core::time::Duration;

/// Nanoseconds since an arbitrary origin of one clock of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Self = Self(0);
    /// Later than any instant a process can reach: "no end".
    pub const FOREVER: Self = Self(u64::MAX);

    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Time from `earlier` to `self`; zero when `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;
    /// Saturates at [`Time::FOREVER`].
    fn add(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;
    /// Saturates at [`Time::ZERO`].
    fn sub(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

/// One reading of both clocks, taken together by the shell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Now {
    /// CLOCK_MONOTONIC: promises, restart periods, `start_wait`, every ordinary timer.
    pub grantor: Time,
    /// The largest advance among BOOTTIME, REALTIME (forward) and TSC: the age of a held lease.
    pub holder: Time,
}
