//! Disks of this array that do not finish their I/O (F22, F23).
//!
//! A *volume's* disk that hangs: a primary in sync hands over (T14). What hangs stays in doubt: it is
//! marked active, refused to its host, and the new primary's hello is answered only after the last
//! of it has ended (rule 5). A disk that finishes what it held is back, and its copy is caught up.
//!
//! A `data_dir` that hangs: nothing can be voted, so no lease is asked for. The secondary notices
//! that (`Arbiter::primary_is_silent`) and is promoted once the promises have run out.

#[cfg(doc)]
use crate::arbitration::Arbiter;
use crate::time::{Now, Time};

use super::api::{Action, LogEntry};
use super::control::Control;

/// What this array knows of its volumes' disks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Disks {
    /// Since when some I/O has been seen to take longer than `disk_timeout`.
    suspect_since: Option<Time>,
    /// A disk hangs.
    pub hang: bool,
}

impl Disks {
    /// Moments to look again; past ones mean nothing.
    pub fn timeouts(&self, control: &Control) -> [Time; 2] {
        let timers = &control.settings.timers;
        let late = control.sum.oldest_store_io.map_or(Time::ZERO, |at| at + timers.disk_timeout);
        [late, self.suspect_since.map_or(Time::ZERO, |since| since + timers.heartbeat)]
    }
}

impl Control {
    /// Looks at the age of the oldest I/O. It counts when it is still there a heartbeat after it was
    /// first found too old: the completions of a process that stood still as a whole come in by then.
    pub(super) fn watch_disks(&mut self, now: Now, out: &mut Vec<Action>) {
        let timers = &self.settings.timers;
        let late = self.sum.oldest_store_io.is_some_and(|at| now.grantor >= at + timers.disk_timeout);
        let since = late.then(|| self.disks.suspect_since.unwrap_or(now.grantor));
        let hang = since.is_some_and(|since| now.grantor >= since + timers.heartbeat);
        self.disks.suspect_since = since;
        if hang != self.disks.hang {
            self.disks.hang = hang;
            self.log(LogEntry::VolumeDiskHangs(hang), out);
        }
    }

    pub(super) fn data_dir(&mut self, stalled: bool, out: &mut Vec<Action>) {
        if self.stalled != stalled {
            self.stalled = stalled;
            self.log(LogEntry::DataDirHangs(stalled), out);
        }
    }
}
