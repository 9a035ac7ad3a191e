//! Probes of a disk: small writes that must end well within `disk_timeout` (F22, F23). A disk that
//! missed the deadline once is bad, whatever comes of that write later: only a probe that began after it
//! and ended well makes it good again.
//!
//! Pure. Who writes, and where, is the array's (`array::probes`).

use crate::arbitration::Timers;
use crate::mutation::{self, Mutation};
use crate::time::Time;

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trouble {
    /// It answers I/O with errors.
    Fails,
    /// It does not finish I/O.
    Hangs,
}

/// What the probes say of a group's disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probed {
    /// The newest probe of each ended well; the earliest of them began then.
    Good {
        began: Time,
    },
    Bad(Trouble),
}

impl Probed {
    /// What two disks of one group come to.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Bad(one), Self::Bad(other)) => Self::Bad(one.max(other)),
            (Self::Bad(trouble), _) | (_, Self::Bad(trouble)) => Self::Bad(trouble),
            (Self::Good { began: one }, Self::Good { began: other }) => Self::Good { began: one.min(other) },
        }
    }
}

/// The probes of one disk, one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Probe {
    running: Option<Time>,
    /// Since when the running one was seen to be late.
    late_since: Option<Time>,
    last: Option<Probed>,
}

impl Probe {
    /// A write begins.
    pub const fn begin(&mut self, now: Time) {
        self.running = Some(now);
        self.late_since = None;
    }

    /// It has ended.
    pub fn end(&mut self, well: bool) {
        let Some(began) = self.running.take() else { return };
        let missed = self.late_since.take().is_some() && self.last == Some(Probed::Bad(Trouble::Hangs));
        if missed && !mutation::on(Mutation::LateProbeCounts) {
            return; // no hope: the next one tells
        }
        self.last = Some(if well { Probed::Good { began } } else { Probed::Bad(Trouble::Fails) });
    }

    /// What is known now. Call at least every heartbeat: a write counts as hanging when it is still there a
    /// heartbeat after it was first found too old, so that a process that stood still as a whole condemns
    /// no disk.
    pub fn look(&mut self, now: Time, timers: &Timers) -> Option<Probed> {
        let late = self.running.is_some_and(|began| now >= began + timers.disk_timeout);
        if late {
            let since = *self.late_since.get_or_insert(now);
            if now >= since + timers.heartbeat {
                self.last = Some(Probed::Bad(Trouble::Hangs));
            }
        }
        self.last
    }

    /// The last word was a bad one.
    pub const fn is_bad(&self) -> bool {
        matches!(self.last, Some(Probed::Bad(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    const BAD: Option<Probed> = Some(Probed::Bad(Trouble::Hangs));

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    /// Begins at 0 and ends at 6 s; what is said then, and after the next one.
    fn missed() -> (Option<Probed>, Option<Probed>) {
        let timers = Timers::default();
        let mut probe = Probe::default();
        probe.begin(ms(0));
        assert_eq!(probe.look(ms(2499), &timers), None);
        assert_eq!(probe.look(ms(2600), &timers), None, "the process may have stood still");
        assert_eq!(probe.look(ms(2850), &timers), BAD);
        probe.end(true);
        let then = probe.look(ms(6000), &timers);
        probe.begin(ms(7000));
        probe.end(true);
        (then, probe.look(ms(7010), &timers))
    }

    #[test]
    fn a_probe_that_missed_its_deadline_proves_nothing_later() {
        let good = Some(Probed::Good { began: ms(7000) });
        assert_eq!(missed(), (BAD, good));
        mutation::set(Some(Mutation::LateProbeCounts));
        assert_eq!(missed(), (Some(Probed::Good { began: ms(0) }), good));
        mutation::set(None);
    }

    #[test]
    fn one_that_fails_is_bad_until_one_ends_well() {
        let timers = Timers::default();
        let mut probe = Probe::default();
        probe.begin(ms(0));
        probe.end(false);
        assert_eq!(probe.look(ms(1), &timers), Some(Probed::Bad(Trouble::Fails)));
        probe.begin(ms(10));
        assert!(probe.is_bad());
        probe.end(true);
        assert_eq!(probe.look(ms(11), &timers), Some(Probed::Good { began: ms(10) }));
    }

    #[test]
    fn the_process_that_stood_still_condemns_no_disk() {
        let timers = Timers::default();
        let mut probe = Probe::default();
        probe.begin(ms(0));
        assert_eq!(probe.look(ms(60_000), &timers), None);
        probe.end(true);
        let later = ms(60_000) + Duration::from_millis(250);
        assert_eq!(probe.look(later, &timers), Some(Probed::Good { began: ms(0) }));
    }

    #[test]
    fn the_worst_of_a_groups_disks_counts() {
        let good = |at| Probed::Good { began: ms(at) };
        let (fails, hangs) = (Probed::Bad(Trouble::Fails), Probed::Bad(Trouble::Hangs));
        assert_eq!(good(3).and(good(2)), good(2));
        assert_eq!(good(3).and(fails), fails);
        assert_eq!(hangs.and(fails), hangs);
    }
}
