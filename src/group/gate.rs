//! The gate that follows from arbitration, session and change of roles as they are now.

use crate::arbitration::{Gate, Mode, Quorum};
use crate::mutation::{self, Mutation};
use crate::time::{Now, Time};

use super::change::Change;
use super::control::{Control, FAILSAFE_HOLD};

impl Control {
    fn held(&self, until: Time, now: Now) -> Gate {
        let tenure = self.applied.tenure();
        if now.grantor < until {
            Gate { tenure, mode: Mode::Held, lease_end: Time::ZERO, hold_until: until }
        } else {
            Gate::closed(tenure)
        }
    }

    pub(super) fn plan_gate(&self, now: Now) -> Gate {
        let tenure = self.applied.tenure();
        if self.arbiter.is_removed() || self.arbiter.is_split() {
            return Gate::closed(tenure);
        }
        if !self.stays_in_office() {
            // Secondary, or a configuration that changes roles is on its way to the disk.
            let until = self.hold_until.max(self.promotion_hold(now));
            return self.held(until, now);
        }
        if self.arbiter.voted_away() {
            return self.held(self.hold_until, now); // T3
        }
        let (draining, handing) = match self.changes.role_change {
            Some(Change { hand_over: true, .. }) => (false, true),
            Some(Change { hand_over: false, .. }) => (true, false),
            None => (false, false),
        };
        // Until a configuration is durable here both copies are needed, and nothing it frees is free.
        let mut until = self.arbiter.serves_until();
        if !self.settled() {
            let before = self.arbiter.lease_end().max(Some(self.gate.lease_end));
            until = until.min(before);
        }
        let Some(lease_end) = until.filter(|_| !self.draining && !handing && !self.flushes_first()) else {
            return self.held(self.hold_until, now);
        };
        if now.holder >= lease_end + FAILSAFE_HOLD {
            return self.held(self.hold_until, now);
        }
        let both = self.is_both() || self.arbiter.needs_both() || self.changes.joining;
        let mode = if draining {
            Mode::Draining
        } else if both {
            Mode::Both
        } else {
            Mode::Alone
        };
        let hold_until = if draining { self.hold_until } else { Time::ZERO };
        Gate { tenure, mode, lease_end, hold_until }
    }

    /// DESIGN §5, *promotion pending*: an in-sync secondary that may be promoted holds commands
    /// until the promise to the lost primary is over.
    pub(super) fn promotion_hold(&self, now: Now) -> Time {
        let pending = !self.is_primary()
            && self.is_both()
            && self.applied.quorum == Quorum::Majority
            && self.promotes_itself()
            && self.arbiter.start_wait_over(now);
        match self.link_lost {
            Some(lost) if pending => lost + self.settings.timers.promote_hold,
            _ => Time::ZERO,
        }
    }

    /// A group that is being stopped is left to its primary, which will drop this array. One that lost its memory
    /// cannot: it is relieved, and the group is stopped here.
    pub(super) fn promotes_itself(&self) -> bool {
        let waits = self.peer_is_tainted() && !mutation::on(Mutation::T13StoppedNotRelieved);
        let by_policy = self.policy.auto_failover && (self.policy.started || waits);
        by_policy || self.changes.operator_failover
    }
}
