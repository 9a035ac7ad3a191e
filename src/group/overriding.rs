//! The operator's *override*, and what becomes of the history it ends (DESIGN §3.2, T12, T15).
//!
//! An array that was primary and alone in sync when it learns of an override by the other one may hold
//! writes that are nowhere else. It takes no session then until an operator has said that they may be
//! overwritten (*discard*), or overrides in its turn. Its map does not tell: what it had copied to the
//! other array already was put back there to what it was, if the override came in the middle (F14).

use crate::arbitration::LEASE_MAX;
use crate::time::{Now, Time};

use super::api::{Action, LogEntry, Refused};
use super::control::Control;

/// An override that the operator waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Wanted {
    ticket: u64,
    stale: bool,
    /// It is given up then.
    pub until: Time,
}

impl Control {
    /// This copy holds writes that the primary lacks, of a history that an override ended.
    pub(super) fn is_diverged(&self) -> bool {
        !self.is_primary() && self.arbiter.record().overridden
    }

    pub(super) fn begin_override(
        &mut self,
        ticket: u64,
        stale: bool,
        now: Now,
        out: &mut Vec<Action>,
    ) -> Result<Option<()>, Refused> {
        if self.link.is_some() && !self.arbiter.is_split() {
            return Err(Refused::PeerLinked);
        }
        if self.serving {
            return Err(Refused::Serves);
        }
        let whole =
            self.arbiter.chosen().holds(self.me) && !self.arbiter.is_tainted() && !self.sum.flush_failed;
        if !stale && !whole {
            return Err(Refused::MayBeStale);
        }
        if self.wanted.is_some() || self.changes.operator_failover {
            return Err(Refused::Busy);
        }
        // A promise of this array may run, one of the witness, and the silence of a new witness.
        let until = now.grantor + self.settings.timers.promise_of(LEASE_MAX) * 3;
        self.log(LogEntry::Override { stale }, out);
        self.wanted = Some(Wanted { ticket, stale, until });
        self.arbiter.begin_override(stale, now);
        self.arbiter.ask_soon(now);
        Ok(None)
    }

    /// The override came to an end, one way or the other.
    pub(super) fn watch_override(&mut self, now: Now, out: &mut Vec<Action>) {
        let Some(wanted) = self.wanted else { return };
        if self.settled() && !self.arbiter.is_overriding() {
            // Somebody's new lineage is in force.
            let result = if self.is_primary() { Ok(()) } else { Err(Refused::NotPrimary) };
            self.wanted = None;
            out.push(Action::Outcome { ticket: wanted.ticket, result });
        } else if self.arbiter.override_would_lose() {
            self.end_override(Refused::MayBeStale, out);
        } else if self.serving {
            self.end_override(Refused::Serves, out);
        } else if now.grantor >= wanted.until {
            self.end_override(Refused::PromiseHolds, out);
        }
    }

    pub(super) fn end_override(&mut self, why: Refused, out: &mut Vec<Action>) {
        if let Some(wanted) = self.wanted.take() {
            self.arbiter.end_override();
            self.log(LogEntry::OverrideGivenUp { why }, out);
            out.push(Action::Outcome { ticket: wanted.ticket, result: Err(why) });
        }
    }

    /// The operator gives up what only this copy holds.
    pub(super) fn discard(&mut self, out: &mut Vec<Action>) -> Result<Option<()>, Refused> {
        if !self.is_diverged() {
            return Err(Refused::NotDiverged);
        }
        self.log(LogEntry::Discarded, out);
        self.arbiter.discard(&mut self.pending);
        Ok(Some(()))
    }
}
