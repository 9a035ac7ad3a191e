//! Disks of this array that fail or do not finish their I/O, and what is known of the other array's
//! (F22, F23).
//!
//! A *volume's* disk is bad when hosts' or mirrored I/O fails or hangs, or when a probe does
//! ([`Probe`]): a primary in sync hands over (T14); a secondary tells the primary, which drops it, and is
//! not promoted. What hangs stays in doubt: it is marked active, refused to its host, and the new
//! primary's hello is answered only after the last of it has ended (rule 5). A disk is good again once a
//! probe that began after the trouble has ended well and nothing old is outstanding; its copy is then
//! caught up after a while, which doubles when it keeps happening ([`PeerDisk`]).
//!
//! A `data_dir` that hangs: nothing can be voted, so no lease is asked for. The secondary notices
//! that (`Arbiter::primary_is_silent`) and is promoted once the promises have run out. A secondary with
//! such a `data_dir` could not be promoted either, so it is dropped, too.

#[cfg(doc)]
use super::probe::Probe;
#[cfg(doc)]
use crate::arbitration::Arbiter;
use crate::arbitration::Timers;
use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::api::{Action, LogEntry, SessionMessage};
use super::control::Control;
use super::probe::{Probed, Trouble};

/// The other array's disk counts as steady again after this many times `rejoin_delay_max` in sync.
const STEADY: u32 = 10;

/// What this array knows of its volumes' disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Disks {
    /// Since when some I/O has been seen to take longer than `disk_timeout`.
    suspect_since: Option<Time>,
    /// What the probes said last; `None`: nothing yet, or there are none here.
    probed: Option<Probed>,
    /// What is wrong, or was and nothing has proved yet that it is over.
    trouble: Option<Trouble>,
    /// When hosts' or mirrored I/O was last seen to be in trouble.
    io_trouble: Time,
    /// The other array was told on this link that they are bad.
    told: bool,
}

impl Disks {
    /// Moments to look again; past ones mean nothing.
    pub fn timeouts(&self, control: &Control) -> [Time; 2] {
        let timers = &control.settings.timers;
        let late = control.sum.oldest_store_io.map_or(Time::ZERO, |at| at + timers.disk_timeout);
        [late, self.suspect_since.map_or(Time::ZERO, |since| since + timers.heartbeat)]
    }

    /// What is wrong with the volumes' disks.
    pub const fn trouble(&self) -> Option<Trouble> {
        self.trouble
    }

    /// A new link: the other array knows nothing of this one's disks.
    pub const fn link_is_new(&mut self) {
        self.told = false;
    }
}

/// What this array knows of the other one's disks, and for how long it is kept out for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct PeerDisk {
    /// It says that they are bad.
    pub bad: bool,
    /// Zero: no trouble, or long ago.
    delay: Duration,
    good_since: Time,
    /// It was mirrored to since.
    tried: bool,
    /// Both copies are in sync since.
    joined_at: Option<Time>,
}

impl PeerDisk {
    /// They turned bad, or failed what was mirrored.
    fn fails(&mut self, now: Now, timers: &Timers) {
        let steady =
            self.joined_at.take().is_some_and(|at| now.grantor >= at + timers.rejoin_delay_max * STEADY);
        let tried = core::mem::take(&mut self.tried);
        self.delay = if self.delay.is_zero() || steady || mutation::on(Mutation::NoHysteresis) {
            timers.rejoin_delay
        } else if tried {
            (self.delay * 2).min(timers.rejoin_delay_max)
        } else {
            self.delay // the same trouble, seen in another way
        };
        self.good_since = now.grantor;
    }

    /// A session is open.
    pub const fn tried(&mut self) {
        self.tried = true;
    }

    pub const fn joined(&mut self, now: Now) {
        self.joined_at = Some(now.grantor);
    }

    /// Nothing is mirrored there before.
    pub fn until(&self) -> Time {
        if self.bad { Time::FOREVER } else { self.good_since + self.delay }
    }

    /// How long it must have worked before it is mirrored to again, while that keeps it out.
    pub fn keeps_out(&self, now: Now) -> Option<Duration> {
        (now.grantor < self.until()).then_some(self.delay)
    }

    /// The link is gone: nothing is known of them any more. What they did before is remembered.
    pub fn link_is_gone(&mut self, now: Now) {
        if core::mem::take(&mut self.bad) {
            self.good_since = now.grantor;
        }
    }

    /// An operator wants the group mirrored now.
    pub const fn forgive(&mut self) {
        self.delay = Duration::ZERO;
    }
}

impl Control {
    /// Looks at the age of the oldest I/O, at errors and at the probes. I/O that is late counts when it is
    /// still there a heartbeat after it was first found too old: the completions of a process that stood
    /// still as a whole come in by then.
    pub(super) fn watch_disks(&mut self, now: Now, out: &mut Vec<Action>) {
        let timers = &self.settings.timers;
        let late = self.sum.oldest_store_io.is_some_and(|at| now.grantor >= at + timers.disk_timeout);
        let since = late.then(|| self.disks.suspect_since.unwrap_or(now.grantor));
        let hang = since.is_some_and(|since| now.grantor >= since + timers.heartbeat);
        self.disks.suspect_since = since;
        let probed = self.disks.probed.filter(|_| !mutation::on(Mutation::ProbeIgnored));
        let by_probe = match probed {
            Some(Probed::Bad(trouble)) => Some(trouble),
            Some(Probed::Good { .. }) | None => None,
        };
        let by_io = if hang { Some(Trouble::Hangs) } else { self.sum.store_failed.then_some(Trouble::Fails) };
        if by_io.is_some() {
            self.disks.io_trouble = now.grantor;
        }
        // Over once nothing old is outstanding and a probe ended well that began after the last of it.
        let proved = match probed {
            Some(Probed::Good { began }) => began > self.disks.io_trouble,
            Some(Probed::Bad(_)) => false,
            None => true,
        };
        let lingers = self.disks.trouble.filter(|_| late || !proved);
        let trouble = by_io.max(by_probe).or(lingers);
        let before = core::mem::replace(&mut self.disks.trouble, trouble);
        if trouble != before {
            self.log(LogEntry::VolumeDisk(trouble), out);
        }
        self.tell_of_disks(out);
    }

    /// A secondary that cannot keep what is mirrored to it, or could not vote, says so.
    fn tell_of_disks(&mut self, out: &mut Vec<Action>) {
        let bad = self.disks.trouble.is_some() || self.stalled;
        if self.link.is_some() && self.disks.told != bad {
            self.disks.told = bad;
            self.tell(SessionMessage::DiskBad(bad), out);
        }
    }

    /// The probes' word.
    pub(super) const fn disk_probed(&mut self, probed: Probed) {
        self.disks.probed = Some(probed);
    }

    /// A volume's disk of this array is bad, as far as is known: the next probe is to be a real one.
    pub const fn disk_is_bad(&self) -> bool {
        self.disks.trouble.is_some()
    }

    /// The other array told of its disks.
    pub(super) fn peer_disk_is(&mut self, bad: bool, now: Now, out: &mut Vec<Action>) {
        if self.peer_disk.bad == bad {
            return;
        }
        if bad {
            self.peer_disk_fails(now);
        }
        self.peer_disk.good_since = now.grantor;
        self.peer_disk.bad = bad;
        self.log(LogEntry::PeerDisk { bad, delay: self.peer_disk.delay }, out);
    }

    /// The other array's disks turned bad, or failed what was mirrored to them.
    pub(super) fn peer_disk_fails(&mut self, now: Now) {
        self.peer_disk.fails(now, &self.settings.timers);
    }

    pub(super) fn data_dir(&mut self, stalled: bool, out: &mut Vec<Action>) {
        if self.stalled != stalled {
            self.stalled = stalled;
            self.log(LogEntry::DataDirHangs(stalled), out);
        }
    }
}
