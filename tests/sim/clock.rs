//! Clocks of one process: a grantor's and a holder's, each off by up to 0.8 % (DESIGN 3.3).

use twinlun::time::{Now, Time};

use crate::prng::Prng;

/// Largest error of a clock's rate in parts per million.
const RATE_ERROR_PPM: u64 = 8_000;

#[derive(Clone, Copy, Debug)]
struct Clock {
    origin: u64,
    /// Rate in parts per million of true time.
    ppm: u64,
}

impl Clock {
    fn new(rng: &mut Prng) -> Self {
        // The extremes are the interesting rates.
        let ppm = match rng.below(4) {
            0 => 1_000_000 - RATE_ERROR_PPM,
            1 => 1_000_000 + RATE_ERROR_PPM,
            _ => rng.between(1_000_000 - RATE_ERROR_PPM, 1_000_000 + RATE_ERROR_PPM),
        };
        Self { origin: (1 << 36) + rng.below(1 << 40), ppm }
    }

    fn read(self, at: u64) -> Time {
        Time(self.origin + (u128::from(at) * u128::from(self.ppm) / 1_000_000) as u64)
    }

    /// The first true instant at which this clock reads at least `time`.
    fn when(self, time: Time) -> u64 {
        if time == Time::FOREVER {
            return u64::MAX;
        }
        let span = time.0.saturating_sub(self.origin);
        u64::try_from((u128::from(span) * 1_000_000).div_ceil(u128::from(self.ppm))).unwrap_or(u64::MAX)
    }
}

/// Both clocks of a process. They run on while it is stopped; they belong to the machine and
/// survive a restart of the process.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    grantor: Clock,
    holder: Clock,
}

impl Clocks {
    pub fn new(rng: &mut Prng) -> Self {
        Self { grantor: Clock::new(rng), holder: Clock::new(rng) }
    }

    pub fn now(&self, at: u64) -> Now {
        Now { grantor: self.grantor.read(at), holder: self.holder.read(at) }
    }

    /// True instant of a reading of the grantor's clock.
    pub fn when_grantor(&self, time: Time) -> u64 {
        self.grantor.when(time)
    }
}
