//! How fast a resync, or a verify, may go on while hosts work: their latency stays within twice what it is when
//! nothing is copied. Hosts that rest leave it the whole machine.
//!
//! Ten times a second the mean latency of the hosts' commands, over all volumes of the array, is
//! compared with the quiet one, which is measured before the first region is copied and now and
//! then again, with copying paused for a moment. Copying slows down by much and speeds up by little.
//! Single looks vary by more than copying does to them, on both sides of the comparison: each is the
//! mean of several. A machine that is busy with something else would otherwise slow a resync down to
//! its least rate, which would help nobody.

use std::time::Duration;

use crate::time::Time;
use crate::volume::latency;

use super::{Controller, LOOK};

/// Between two looks while something is copied.
const STEP: Duration = Duration::from_millis(100);
const STEP_NS: u64 = 100_000_000;
/// Looks without copying that a measurement of the quiet latency takes; what was copied before is
/// over by the second.
const MEASURE: u32 = 3;
/// Looks between two measurements.
const RUN: u32 = 50;
/// Regions of 1 MiB per look: at first, at least, at most.
const FIRST: f64 = 1.0;
const LEAST: f64 = 0.1;
const MOST: f64 = 64.0;
/// The mean is held below this part of twice the quiet latency.
const MARGIN: f64 = 0.85;
/// Looks that the latency beside copying is the mean of, and the quiet one: of four measurements.
const BESIDE: usize = 5;
const QUIET: usize = 8;
/// The rate changes from look to look by these factors, or less.
const FASTER: f64 = 1.1;
const SLOWER: f64 = 0.6;
/// Latencies below this, in nanoseconds, are noise: no host feels twice of it.
const FLOOR: f64 = 100_000.0;

/// The pure part: one mean latency in, what may be copied until the next one out.
#[derive(Clone, Debug, PartialEq)]
pub struct Throttle {
    state: State,
    quiet: Latest<QUIET>,
    beside: Latest<BESIDE>,
    rate: f64,
    credit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Measuring { left: u32 },
    Running { left: u32 },
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            state: State::Measuring { left: MEASURE },
            quiet: Latest::default(),
            beside: Latest::default(),
            rate: FIRST,
            credit: 0.0,
        }
    }
}

impl Throttle {
    /// `mean`: latency of the hosts' commands since the last call, in nanoseconds; `None`: there were
    /// none. Returns how many regions may be begun until the next call; `None`: as many as go.
    pub fn step(&mut self, mean: Option<f64>) -> Option<u32> {
        let Some(mean) = mean else {
            // Nobody waits.
            *self = Self { rate: self.rate, state: State::Running { left: 0 }, ..Self::default() };
            return None;
        };
        match self.state {
            State::Measuring { left } => {
                // The first sample still has what was copied before in it.
                if left < MEASURE {
                    self.quiet.add(mean);
                }
                self.state =
                    if left > 1 { State::Measuring { left: left - 1 } } else { State::Running { left: RUN } };
                return Some(0);
            }
            State::Running { left: 0 } => {
                self.credit = 0.0;
                self.state = State::Measuring { left: MEASURE };
                return Some(0);
            }
            State::Running { left } => self.state = State::Running { left: left - 1 },
        }
        self.beside.add(mean);
        let most = 2.0 * MARGIN * self.quiet.mean().unwrap_or(FLOOR).max(FLOOR);
        let factor = self.beside.mean().map_or(1.0, |beside| (most / beside).clamp(SLOWER, FASTER));
        self.rate = (self.rate * factor).clamp(LEAST, MOST);
        self.credit = (self.credit + self.rate).min(self.rate + 1.0);
        let whole = self.credit.floor();
        self.credit -= whole;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and MOST + 1")]
        Some(whole as u32)
    }
}

/// The last few samples, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
struct Latest<const N: usize> {
    samples: [f64; N],
    /// All that ever came.
    count: usize,
}

impl<const N: usize> Default for Latest<N> {
    fn default() -> Self {
        Self { samples: [0.0; N], count: 0 }
    }
}

impl<const N: usize> Latest<N> {
    fn add(&mut self, sample: f64) {
        self.samples[self.count % N] = sample;
        self.count += 1;
    }

    fn mean(&self) -> Option<f64> {
        let known = &self.samples[..self.count.min(N)];
        #[expect(clippy::cast_precision_loss, reason = "at most N")]
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64)
    }
}

/// The throttle of an array, while anything is copied.
#[derive(Debug, Default)]
pub(super) struct Pace {
    throttle: Option<Throttle>,
    due: Time,
    /// Whose turn it is when there is not a region for each.
    turn: usize,
}

impl Controller {
    /// How long the loop may sleep.
    pub(super) fn look(&self) -> Duration {
        if self.pace.throttle.is_some() { STEP } else { LOOK }
    }

    pub(super) fn pace_resyncs(&mut self, now: Time) {
        if now < self.pace.due {
            return;
        }
        self.pace.due = Time(now.0.saturating_add(STEP_NS));
        self.tell_verified();
        let members = self.groups.values().flat_map(|entry| &entry.members);
        let copied: Vec<_> =
            members.filter(|volume| volume.with(|core, _, _| core.resyncs() || core.verifies())).collect();
        if copied.is_empty() {
            if self.pace.throttle.take().is_some() {
                latency::measure(false);
            }
            return;
        }
        latency::measure(true);
        let throttle = self.pace.throttle.get_or_insert_default();
        let allowed = throttle.step(latency::mean());
        let count = copied.len();
        self.pace.turn = self.pace.turn.wrapping_add(1);
        for (at, volume) in copied.iter().enumerate() {
            let share = allowed.map(|allowed| {
                let whole = u32::try_from(count).unwrap_or(u32::MAX);
                let more = (at + self.pace.turn) % count < (allowed % whole) as usize;
                allowed / whole + u32::from(more)
            });
            volume.with(|core, context, out| core.allow_copies(share, context, out));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk whose latency grows by `cost` of the quiet one for each region copied in a step.
    fn settle(quiet: f64, cost: f64, steps: u32) -> (f64, f64) {
        let mut throttle = Throttle::default();
        let (mut copied, mut total, mut worst) = (0.0, 0.0, 0.0_f64);
        for step in 0..steps {
            let mean = quiet * (1.0 + cost * copied);
            if step > steps / 2 {
                worst = worst.max(mean / quiet);
                total += copied;
            }
            copied = f64::from(throttle.step(Some(mean)).expect("hosts work"));
        }
        (worst, total / f64::from(steps / 2))
    }

    #[test]
    fn latency_stays_near_twice_the_quiet_one() {
        for cost in [0.02, 0.1, 0.3] {
            let (worst, rate) = settle(1e6, cost, 1000);
            assert!(worst < 2.4, "{cost}: {worst}");
            assert!(rate * cost > 0.4, "{cost}: hardly anything is copied, {rate} a step");
        }
    }

    #[test]
    fn however_slow_the_disk_something_is_copied() {
        let (_, rate) = settle(1e6, 50.0, 1000);
        assert!((0.05..0.3).contains(&rate), "{rate}");
    }

    #[test]
    fn a_disk_that_does_not_feel_it_is_used() {
        let (_, rate) = settle(1e6, 0.0, 1000);
        assert!(rate > MOST * 0.8, "{rate}");
    }

    /// Something else makes the latency of single looks half as long or many times as long.
    #[test]
    fn a_noisy_machine_does_not_stop_a_resync() {
        let noise = [1.0, 0.6, 1.9, 1.1, 2.6, 0.8, 1.3, 9.0, 0.7, 2.1, 1.0];
        let mut throttle = Throttle::default();
        let (mut copied, mut total, mut worst) = (0.0, 0.0, 0.0);
        for step in 0..2000 {
            let mean = 1e6 * noise[step % noise.len()] * (1.0 + 0.1 * copied);
            copied = f64::from(throttle.step(Some(mean)).expect("hosts work"));
            if step >= 1000 {
                total += copied;
                worst = f64::max(worst, 1.0 + 0.1 * copied);
            }
        }
        assert!(total / 1000.0 > 2.0, "{} regions a look", total / 1000.0);
        assert!(worst < 3.5, "what copying adds at its worst: {worst}");
    }

    #[test]
    fn hosts_that_rest_leave_it_everything_and_are_measured_anew() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.step(None), None);
        for _ in 0..=MEASURE {
            assert_eq!(throttle.step(Some(1e6)), Some(0), "the quiet latency first");
        }
        assert_eq!(throttle.quiet.mean(), Some(1e6));
        let begun: u32 = (0..10).filter_map(|_| throttle.step(Some(1e6))).sum();
        assert!(begun > 5);
        assert_eq!(throttle.step(None), None);
    }
}
