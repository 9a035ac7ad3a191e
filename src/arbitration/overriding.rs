//! *Override*: an operator's new lineage (ARBITRATION *guards*, T15, T22). It is no instance of the
//! chain: nobody is asked whether he agrees but the witness, if one is reached, and that one only
//! whether a promise of its still runs.
//!
//! ```text
//!   own promise over, the other array not linked
//!     a witness is reached, of any incarnation:
//!        Prepare to it --its promise to the other is over--> own vote for the new lineage, durable
//!        --> Override to it: it stores the configuration, and tells everybody from then on
//!     none was, for as long as the longest promise lasts: this array stores it alone
//! ```
//! The witness takes the override only under the very ballot it promised last, so that none that is
//! late takes effect once anything else was begun. From its vote on this array grants nothing and takes
//! no part in the old lineage. An override that was given up (the other array is back, a restart) is
//! taken back as soon as the witness promises a higher ballot without knowing of it.

use crate::mutation::{self, Mutation};
use crate::time::{Now, Time};

use super::arbiter::{Arbiter, ArbiterAction};
use super::{
    Ballot, Body, Config, Epoch, InSync, Incarnation, LEASE_MAX, Lineage, Promise, Quorum, Side, Vote, Voter,
};

/// An override that the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Overriding {
    /// Also if this copy is not, or may not be, in sync.
    stale: bool,
    /// No witness has been connected since.
    pub lonely_since: Time,
    /// The ballot the witness was asked for.
    ballot: Ballot,
    /// Nothing is sent before.
    pub next: Time,
    /// Configurations proposed so far: each has a lineage of its own.
    attempts: u32,
    /// The witness's vote says that this copy was dropped.
    dropped: bool,
}

impl Config {
    /// A new lineage with `primary` alone; `counter` above that of `self`. `witness`: the incarnation
    /// enrolled by the same act, `None`: none was reached.
    #[must_use]
    pub const fn overridden(&self, primary: Side, lineage: Lineage, witness: Option<Incarnation>) -> Self {
        let epoch = Epoch(self.epoch.0.saturating_add(1));
        Self {
            lineage,
            epoch,
            tenure_epoch: epoch,
            primary,
            in_sync: InSync::Primary,
            quorum: if witness.is_some() { Quorum::Majority } else { Quorum::PrimaryAlone },
            witness,
            natural: self.natural,
        }
    }

    /// `self` is an override of `chosen` by `from` through the witness of this incarnation.
    pub(super) fn overrides(&self, chosen: &Self, from: Side, witness: Incarnation) -> bool {
        self.lineage.counter > chosen.lineage.counter
            && *self == chosen.overridden(from, self.lineage, Some(witness))
    }
}

impl Arbiter {
    /// The operator wants this array in office, and gives his word that the other one is off.
    /// `stale`: even if this copy lacks writes.
    pub fn begin_override(&mut self, stale: bool, now: Now) {
        self.overriding = Some(Overriding {
            stale,
            lonely_since: now.grantor,
            ballot: Ballot::NONE,
            next: now.grantor,
            attempts: 0,
            dropped: false,
        });
    }

    /// The override is not wanted any more; what was begun of it is taken back.
    pub const fn end_override(&mut self) {
        self.overriding = None;
    }

    pub const fn is_overriding(&self) -> bool {
        self.overriding.is_some()
    }

    /// The override stands still because the witness says that this copy was, or may have been,
    /// dropped before the other array was lost.
    pub fn override_would_lose(&self) -> bool {
        let stale = self.overriding.is_some_and(|running| !running.stale);
        let holds = self.chosen().holds(self.me);
        stale && (!holds || self.overriding.is_some_and(|running| running.dropped))
    }

    /// An own vote for another lineage: this array takes no part in the present one.
    pub fn votes_for_override(&self) -> bool {
        self.vote().is_some_and(|vote| vote.lineage != self.chosen().lineage)
    }

    /// ARBITRATION *guards*, override.
    fn may_override(&self, now: Now) -> bool {
        let serves = self.serves_until().is_some_and(|end| now.holder < end);
        let seen = self.peer.connection.is_some() && !self.split;
        let bound =
            self.promise_to_peer(now).is_some() && !mutation::on(Mutation::T15OverrideIgnoresPromises);
        !self.is_removed() && !serves && !seen && !bound && !self.override_would_lose()
    }

    /// When the override is to be looked at (grantor clock); past ones mean nothing.
    pub(super) fn override_timeouts(&self) -> [Time; 2] {
        let lonely = |running: Overriding| running.lonely_since + self.timers.promise_of(LEASE_MAX);
        let withdrawal = if self.votes_for_override() { self.withdraw_at } else { Time::ZERO };
        [
            self.overriding.map_or(withdrawal, |running| running.next),
            self.overriding.map_or(Time::ZERO, lonely),
        ]
    }

    /// Carries an override on, or takes one back.
    pub(super) fn advance_override(&mut self, now: Now, out: &mut Vec<ArbiterAction>) {
        let connected = self.witness.connection.is_some() && !self.witness_split;
        let Some(running) = &mut self.overriding else {
            if self.votes_for_override() && connected && now.grantor >= self.withdraw_at {
                self.withdraw_at = now.grantor + self.timers.renewal;
                self.ask_witness(out);
            }
            return;
        };
        if connected {
            running.lonely_since = now.grantor;
        }
        let (lonely_since, next) = (running.lonely_since, running.next);
        if !self.may_override(now) || mutation::on(Mutation::OverrideLeftOut) {
            return;
        }
        if connected && now.grantor >= next {
            let ballot = self.ask_witness(out);
            if let Some(running) = &mut self.overriding {
                running.ballot = ballot;
                running.next = now.grantor + self.timers.renewal;
            }
        } else if !connected && now.grantor >= lonely_since + self.timers.promise_of(LEASE_MAX) {
            let value = self.new_lineage(None);
            self.overriding = None;
            // What a contact after a restart is to rule out, an override elsewhere, the operator's word has ruled out.
            self.contact = true;
            self.learn(&value, now, out);
        }
    }

    /// Asks the witness for a promise to a ballot above all.
    fn ask_witness(&mut self, out: &mut Vec<ArbiterAction>) -> Ballot {
        let ballot = self.register.record.promised.max(self.proposer.highest()).next(self.me);
        self.proposer.give_way();
        if self.register.prepare(ballot) {
            self.persist(out);
        }
        self.withdraw_ballot = ballot;
        self.say(Voter::Witness, Body::Prepare { ballot }, out);
        ballot
    }

    fn new_lineage(&mut self, witness: Option<Incarnation>) -> Config {
        let chosen = self.chosen();
        let attempts = self.overriding.as_ref().map_or(0, |running| running.attempts);
        let counter = chosen.lineage.counter.saturating_add(attempts.saturating_add(1));
        let lineage = Lineage { counter, id: self.proposer.draw() };
        chosen.overridden(self.me, lineage, witness)
    }

    /// The witness promised a ballot of an override, or of its withdrawal.
    pub(super) fn witness_promised(
        &mut self,
        ballot: Ballot,
        vote: Option<Vote>,
        promise: Option<Promise>,
        now: Now,
        out: &mut Vec<ArbiterAction>,
    ) {
        if ballot != self.withdraw_ballot {
            return;
        }
        let Some(running) = self.overriding else {
            if self.votes_for_override() {
                // It does not know of the override, and takes none of an older ballot.
                self.register.withdraw();
                self.persist(out);
            }
            return;
        };
        let Some(incarnation) = self.witness.incarnation.filter(|_| ballot == running.ballot) else { return };
        let me = self.me;
        let dropped = vote.is_some_and(|vote| !vote.value.holds(me));
        let bound = promise.filter(|promise| promise.holder != me).map(|promise| promise.remaining);
        let bound = bound.filter(|_| !mutation::on(Mutation::T15OverrideIgnoresPromises));
        self.overriding = Some(Overriding { dropped, ..running });
        if let Some(remaining) = bound {
            self.overriding = Some(Overriding { dropped, next: now.grantor + remaining, ..running });
            return;
        }
        if !self.may_override(now) || ballot < self.register.record.promised {
            return;
        }
        let value = self.new_lineage(Some(incarnation));
        self.overriding = Some(Overriding { dropped, attempts: running.attempts + 1, ..running });
        self.register.accept(ballot, &value);
        self.persist(out);
        self.say(Voter::Witness, Body::Override { ballot, value }, out);
    }
}
