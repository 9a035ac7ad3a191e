//! When to spin briefly before sleeping.

use std::time::{Duration, Instant};

/// How long a spin lasts: a wake-up from sleep costs about half of it, and a client that sends its
/// next request on an answer is back within it.
const SPIN: Duration = Duration::from_micros(50);
/// After n spins in vain, the next 2^n waits (at most this many) sleep at once.
const SKIP_MAX: u32 = 256;

/// Decides at each moment without work whether to look once more or to sleep. A connection whose
/// requests come slower than [`SPIN`] soon spins at one wait of [`SKIP_MAX`] only; an idle one has
/// no waits at all and costs nothing.
#[derive(Debug, Default)]
pub struct Spin {
    until: Option<Instant>,
    in_vain: u32,
    skip: u32,
}

impl Spin {
    /// There is nothing to do: true for one more turn of spinning, false for sleep.
    pub fn again(&mut self, now: Instant) -> bool {
        match self.until {
            Some(until) if now < until => true,
            Some(_) => {
                self.until = None;
                self.in_vain = (self.in_vain + 1).min(SKIP_MAX.ilog2());
                self.skip = 1 << self.in_vain;
                false
            }
            None if self.skip > 0 => {
                self.skip -= 1;
                false
            }
            None => {
                self.until = Some(now + SPIN);
                true
            }
        }
    }

    /// Something came.
    pub fn work(&mut self) {
        if self.until.take().is_some() {
            self.in_vain = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_requests_are_awaited_spinning_slow_ones_asleep() {
        let mut spin = Spin::default();
        let mut now = Instant::now();
        for _ in 0..100 {
            assert!(spin.again(now));
            now += SPIN / 2;
            assert!(spin.again(now));
            spin.work();
        }
        let mut spins = 0;
        for _ in 0..2000 {
            if spin.again(now) {
                spins += 1;
                now += SPIN;
                assert!(!spin.again(now));
            }
            now += Duration::from_millis(1);
            spin.work();
        }
        assert!((1..20).contains(&spins), "{spins}");
    }
}
