//! A voter's register and promise, the same for arrays and witness (ARBITRATION `Voter`).

use core::cmp::Ordering;

use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::transition::follows;
use super::{Ballot, Config, Incarnation, LEASE_MAX, Promise, Side, Timers, Vote, VoterRecord};

/// Who votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Identity {
    /// `leased`: this array is primary and holds a lease or needs none.
    Array {
        me: Side,
        leased: bool,
    },
    Witness(Incarnation),
}

/// What a comparison of chains says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Learned {
    /// Equal to what is known.
    Same,
    /// It was newer, and is known now.
    Newer,
    /// The sender knows less than this voter.
    Older,
    /// Two overrides: nothing may choose between them.
    Split,
}

/// Register and promise of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Register {
    pub record: VoterRecord,
    /// The lease promise; volatile. Meaningful while `until` is in the future.
    pub holder: Option<Side>,
    pub until: Time,
    /// Accepts and grants nothing before (lineage rule, new incarnation).
    pub refuses_until: Time,
}

impl Register {
    pub const fn new(record: VoterRecord) -> Self {
        Self { record, holder: None, until: Time::ZERO, refuses_until: Time::ZERO }
    }

    /// After a restart that kept the register: the primary of the chosen configuration counts as
    /// holder for one full period of the longest lease ever granted (T19).
    pub fn restarted(&mut self, timers: &Timers, now: Now) {
        if mutation::on(Mutation::T19PromiseForgotten) {
            return;
        }
        let longest = self.record.longest_lease;
        let longest = if longest.is_zero() { LEASE_MAX } else { longest };
        self.holder = self.record.chosen.map(|chosen| chosen.primary);
        self.until = now.grantor + timers.promise_of(longest);
    }

    /// Accepts and grants nothing before `until`.
    pub fn refuse_until(&mut self, until: Time) {
        self.refuses_until = self.refuses_until.max(until);
    }

    /// The running promise.
    pub fn promise(&self, now: Now) -> Option<Promise> {
        let holder = self.holder?;
        let remaining = self.until.since(now.grantor);
        (!remaining.is_zero()).then_some(Promise { holder, remaining })
    }

    /// The promise to anybody but `side`: how long it runs.
    pub fn bound_to_other(&self, side: Side, now: Now) -> Option<Duration> {
        self.promise(now).filter(|promise| promise.holder != side).map(|promise| promise.remaining)
    }

    /// When the running promise or the refusal of everything ends next.
    pub fn next_end(&self, now: Now) -> Option<Time> {
        [self.until, self.refuses_until].into_iter().filter(|&end| end > now.grantor).min()
    }

    /// ARBITRATION `learn`, the register's part. `me`: the array whose register it is; what it promised
    /// to itself (by its restart as primary) is no promise to another.
    pub fn learn(&mut self, told: &Config, me: Option<Side>, now: Now) -> Learned {
        if let Some(chosen) = &self.record.chosen {
            match told.chain_cmp(chosen) {
                None => return Learned::Split,
                Some(Ordering::Less) => return Learned::Older,
                Some(Ordering::Equal) => return Learned::Same,
                Some(Ordering::Greater) => {}
            }
            // Lineage rule: a promise to another outlives the override.
            let new_lineage = told.lineage.counter > chosen.lineage.counter;
            let bound = self.bound_to_other(told.primary, now).is_some() && self.holder != me;
            if new_lineage && bound {
                self.refuse_until(self.until);
            }
        }
        self.record.chosen = Some(*told);
        self.record.vote = None;
        self.record.promised = Ballot::NONE;
        Learned::Newer
    }

    /// ARBITRATION `prepare`. True: promised; the register changed.
    pub fn prepare(&mut self, ballot: Ballot) -> bool {
        let higher = ballot > self.record.promised;
        if higher {
            self.record.promised = ballot;
        }
        higher
    }

    /// ARBITRATION `accept`, all reasons to refuse.
    pub fn may_accept(
        &self,
        identity: Identity,
        sender: Side,
        ballot: Ballot,
        value: &Config,
        now: Now,
    ) -> bool {
        let Some(chosen) = &self.record.chosen else { return false };
        if ballot < self.record.promised || !follows(value, chosen) {
            return false;
        }
        if now.grantor < self.refuses_until && !mutation::on(Mutation::R12BlankWitnessVotes) {
            return false;
        }
        let own = matches!(identity, Identity::Array { me, .. } if me == sender);
        let new_office = value.primary != chosen.primary;
        if new_office
            && let Some(Promise { holder, .. }) = self.promise(now)
            && holder != value.primary
            && sender != holder
            && !(own && mutation::on(Mutation::T2OwnVoteIgnoresPromise))
        {
            return false;
        }
        match identity {
            Identity::Witness(incarnation) => {
                value.witness == Some(incarnation) || mutation::on(Mutation::R12BlankWitnessVotes)
            }
            // A primary that serves is not voted away by another; its own vote is none of that (T18).
            Identity::Array { me, leased } => {
                let refused_for_lease = chosen.primary == me && value.primary != me && leased;
                !refused_for_lease || (own && !mutation::on(Mutation::T18OwnVoteRefused))
            }
        }
    }

    /// Votes; `may_accept` was asked.
    pub fn accept(&mut self, ballot: Ballot, value: &Config) {
        self.record.promised = ballot;
        self.record.vote = Some(Vote { ballot, value: *value });
    }

    /// As witness: ARBITRATION *override*, all reasons to refuse. T15: no promise to the other array may
    /// run, a new incarnation's silence included.
    pub fn may_take_override(
        &self,
        from: Side,
        incarnation: Incarnation,
        ballot: Ballot,
        value: &Config,
        now: Now,
    ) -> bool {
        let bound = self.bound_to_other(from, now).is_some() || now.grantor < self.refuses_until;
        ballot == self.record.promised
            && self.record.chosen.is_some_and(|chosen| value.overrides(&chosen, from, incarnation))
            && (!bound || mutation::on(Mutation::T15OverrideIgnoresPromises))
    }

    /// Takes back a vote that is known not to be chosen, and never to become so.
    pub const fn withdraw(&mut self) {
        self.record.vote = None;
    }

    /// ARBITRATION `grant`. `Some(true)`: granted, and the record changed (longest lease).
    pub fn grant(
        &mut self,
        identity: Identity,
        from: Side,
        lease: Duration,
        timers: &Timers,
        now: Now,
    ) -> Option<bool> {
        let chosen = self.record.chosen?;
        if chosen.primary != from || lease > LEASE_MAX || lease.is_zero() {
            return None;
        }
        let blank_votes = mutation::on(Mutation::R12BlankWitnessVotes);
        if now.grantor < self.refuses_until && !blank_votes {
            return None;
        }
        if self.record.vote.is_some_and(|vote| vote.value.primary != from)
            && !mutation::on(Mutation::T2GrantAfterVote)
        {
            return None;
        }
        if let Identity::Witness(incarnation) = identity
            && chosen.witness != Some(incarnation)
            && !blank_votes
        {
            return None;
        }
        let no_longer = mutation::on(Mutation::R1PromiseNoLonger);
        let until = now.grantor + if no_longer { lease } else { timers.promise_of(lease) };
        // A shorter lease takes nothing back from a longer one that was promised before.
        self.until = if self.holder == Some(from) { self.until.max(until) } else { until };
        self.holder = Some(from);
        let longer = lease > self.record.longest_lease;
        if longer {
            self.record.longest_lease = lease;
        }
        Some(longer)
    }
}

#[cfg(test)]
#[path = "voter_tests.rs"]
mod tests;
