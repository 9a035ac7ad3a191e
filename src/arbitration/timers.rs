//! The timers of DESIGN §3.3, and the sums they must keep.

use crate::time::Duration;

/// A grantor refuses any longer lease.
pub const LEASE_MAX: Duration = Duration::from_secs(10);

/// Clock rates are trusted to 0.8 %: a promise outlasts its lease by 2 % and the margin.
const fn outlast(lease: Duration, margin: Duration) -> Duration {
    let nanos = lease.as_nanos() + lease.as_nanos() / 50;
    // A lease is at most LEASE_MAX, so the sum fits.
    #[expect(clippy::cast_possible_truncation, reason = "at most some 10^10 nanoseconds")]
    Duration::from_nanos(nanos as u64).saturating_add(margin)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timers {
    pub lease: Duration,
    pub renewal: Duration,
    pub heartbeat: Duration,
    pub voter_margin: Duration,
    pub lane_timeout: Duration,
    pub link_timeout: Duration,
    pub mirror_timeout: Duration,
    pub disk_timeout: Duration,
    /// How often a disk is probed on which nothing else is written.
    pub disk_probe: Duration,
    pub switchover_hold: Duration,
    pub promote_hold: Duration,
    pub witness_lost_after: Duration,
    pub start_wait: Duration,
    pub rejoin_delay: Duration,
    pub rejoin_delay_max: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            lease: Duration::from_millis(3000),
            renewal: Duration::from_millis(750),
            heartbeat: Duration::from_millis(250),
            voter_margin: Duration::from_millis(100),
            lane_timeout: Duration::from_millis(300),
            link_timeout: Duration::from_millis(1500),
            mirror_timeout: Duration::from_millis(2000),
            disk_timeout: Duration::from_millis(2500),
            disk_probe: Duration::from_secs(3),
            switchover_hold: Duration::from_millis(2000),
            promote_hold: Duration::from_millis(5000),
            witness_lost_after: Duration::from_secs(30),
            start_wait: Duration::from_secs(30),
            rejoin_delay: Duration::from_secs(5),
            rejoin_delay_max: Duration::from_secs(60),
        }
    }
}

/// A sum of timers that breaks a gap of FAILURES.md.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {left:?} against {right:?}; {advice}")]
pub struct TimerError {
    pub rule: &'static str,
    pub left: Duration,
    pub right: Duration,
    pub advice: &'static str,
}

impl Timers {
    /// How long a grantor keeps a promise of this lease.
    #[must_use]
    pub const fn promise_of(&self, lease: Duration) -> Duration {
        outlast(lease, self.voter_margin)
    }

    /// The promise that goes with `lease`.
    #[must_use]
    pub const fn promise(&self) -> Duration {
        self.promise_of(self.lease)
    }

    /// Refuses values whose sums break the gaps of FAILURES.md.
    ///
    /// # Errors
    /// The first rule that does not hold.
    pub fn check(&self) -> Result<(), TimerError> {
        const fn ms(ms: u64) -> Duration {
            Duration::from_millis(ms)
        }
        let promise = self.promise();
        let two_beats = self.heartbeat * 2;
        let at_most = |rule, left: Duration, right: Duration, advice| {
            if left <= right { Ok(()) } else { Err(TimerError { rule, left, right, advice }) }
        };
        for (rule, value) in [
            ("lease must not be zero", self.lease),
            ("renewal must not be zero", self.renewal),
            ("heartbeat must not be zero", self.heartbeat),
            ("voter_margin must not be zero", self.voter_margin),
            ("rejoin_delay must not be zero", self.rejoin_delay),
            ("disk_probe must not be zero", self.disk_probe),
        ] {
            at_most(rule, ms(1), value, "give at least 1 ms")?;
        }
        at_most("lease <= 10 s (lease_max)", self.lease, LEASE_MAX, "shorten lease")?;
        at_most("4 x renewal <= lease", self.renewal * 4, self.lease, "shorten renewal or lengthen lease")?;
        at_most(
            "link_timeout + 2 heartbeat + 0.3 s < promise - renewal",
            self.link_timeout + two_beats + ms(300) + Duration::from_nanos(1),
            promise.saturating_sub(self.renewal),
            "the primary must drop its peer before that may prepare: shorten link_timeout or heartbeat, or lengthen lease",
        )?;
        at_most(
            "promise + renewal + 0.5 s <= 5 s",
            promise + self.renewal + ms(500),
            ms(5000),
            "a failover must end within 5 s: shorten lease or renewal",
        )?;
        at_most(
            "promise + renewal + 0.5 s <= promote_hold",
            promise + self.renewal + ms(500),
            self.promote_hold,
            "commands must be held until the promotion: lengthen promote_hold",
        )?;
        at_most(
            "link_timeout + 2 heartbeat + 0.5 s <= 3 s",
            self.link_timeout + two_beats + ms(500),
            ms(3000),
            "shorten link_timeout or heartbeat",
        )?;
        at_most(
            "mirror_timeout + 0.5 s <= 3 s",
            self.mirror_timeout + ms(500),
            ms(3000),
            "shorten mirror_timeout",
        )?;
        at_most(
            "disk_timeout + 0.5 s <= 3 s",
            self.disk_timeout + ms(500),
            ms(3000),
            "shorten disk_timeout",
        )?;
        at_most(
            "lane_timeout + 0.2 s <= 0.5 s",
            self.lane_timeout + ms(200),
            ms(500),
            "shorten lane_timeout",
        )?;
        at_most(
            "rejoin_delay <= rejoin_delay_max",
            self.rejoin_delay,
            self.rejoin_delay_max,
            "shorten rejoin_delay",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_keep_every_sum() {
        assert_eq!(Timers::default().check(), Ok(()));
        assert_eq!(Timers::default().promise(), Duration::from_millis(3160));
    }

    #[test]
    fn each_sum_is_checked() {
        let good = Timers::default();
        let ms = Duration::from_millis;
        let broken = [
            (Timers { lease: ms(0), ..good }, "lease must"),
            (Timers { lease: ms(11_000), ..good }, "lease <= 10"),
            (Timers { renewal: ms(800), ..good }, "4 x renewal"),
            (Timers { link_timeout: ms(1700), ..good }, "link_timeout + 2 heartbeat + 0.3"),
            (Timers { lease: ms(3700), ..good }, "promise + renewal + 0.5 s <= 5 s"),
            (Timers { promote_hold: ms(4000), ..good }, "promise + renewal + 0.5 s <= promote_hold"),
            (Timers { mirror_timeout: ms(2600), ..good }, "mirror_timeout"),
            (Timers { disk_timeout: ms(2600), ..good }, "disk_timeout"),
            (Timers { lane_timeout: ms(400), ..good }, "lane_timeout"),
            (Timers { rejoin_delay: ms(61_000), ..good }, "rejoin_delay <="),
        ];
        for (timers, rule) in broken {
            let error = timers.check().expect_err(rule);
            assert!(error.rule.starts_with(rule), "{error}");
        }
    }
}
