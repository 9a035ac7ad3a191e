//! What an arbiter's register, leases and neighbours mean for serving (ARBITRATION `serve`,
//! `both`): pure questions, nothing changes here.

use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::arbiter::{Arbiter, Lease, Other};
use super::transition::pre_elects;
use super::{Config, InSync, Incarnation, Quorum, Side, Voter, VoterRecord};

impl Arbiter {
    pub const fn record(&self) -> &VoterRecord {
        &self.register.record
    }

    /// Newest configuration known to be committed.
    pub fn chosen(&self) -> Config {
        self.register.record.chosen.expect("an array's record holds a configuration from its making on")
    }

    /// The own, undecided vote for the next epoch.
    pub fn vote(&self) -> Option<Config> {
        self.register.record.vote.map(|vote| vote.value)
    }

    /// `chosen` is on this array's disk.
    pub const fn chosen_is_durable(&self) -> bool {
        self.durable >= self.chosen_sequence
    }

    /// The whole register is on this array's disk.
    pub const fn is_durable(&self) -> bool {
        self.durable >= self.sequence
    }

    pub const fn is_removed(&self) -> bool {
        self.register.record.removed
    }

    /// The other array or the witness says that the group was removed, and the operator of this array has
    /// not said so yet.
    pub const fn is_told_removed(&self) -> bool {
        (self.peer.removed || self.witness.removed) && !self.is_removed()
    }

    pub const fn is_split(&self) -> bool {
        self.split
    }

    pub fn is_primary(&self) -> bool {
        self.chosen().primary == self.me
    }

    /// ARBITRATION `both(i)`: an acknowledgement needs both copies.
    pub fn needs_both(&self) -> bool {
        let voted = self.vote().is_some_and(|vote| vote.in_sync == InSync::Both);
        self.chosen().in_sync == InSync::Both
            || ((voted || self.proposes_both()) && !mutation::on(Mutation::T4JoinNotNeeded))
    }

    /// An own vote names the other array: nothing is served until that epoch is decided (T3).
    pub fn voted_away(&self) -> bool {
        self.vote().is_some_and(|vote| vote.primary != self.me) && !mutation::on(Mutation::T3ServesAfterVote)
    }

    /// Nobody else can be promoted: no lease is needed (with the contact rule).
    pub fn needs_no_lease(&self) -> bool {
        let chosen = self.chosen();
        let vote = self.vote();
        let alone = chosen.quorum == Quorum::PrimaryAlone
            && vote.is_none_or(|vote| vote.quorum == Quorum::PrimaryAlone);
        let solofree =
            chosen.in_sync == InSync::Primary && vote.is_none_or(|vote| vote.in_sync == InSync::Primary);
        alone || solofree
    }

    /// Contact rule (T16): after a restart one fresh round trip with the peer or the enrolled
    /// witness comes before anything that needs no lease.
    pub fn has_contact(&self) -> bool {
        self.contact || mutation::on(Mutation::T16NoContactNeeded)
    }

    /// ARBITRATION `serve`, arbitration's part: until when this array may serve (holder clock).
    /// `None`: it may not.
    pub fn serves_until(&self) -> Option<Time> {
        if !self.is_primary() || self.voted_away() || self.is_removed() || self.split || self.tainted {
            return None;
        }
        if self.needs_no_lease() && self.has_contact() {
            return Some(Time::FOREVER);
        }
        self.lease_end()
    }

    /// End of the best lease that counts, on the holder's clock.
    pub fn lease_end(&self) -> Option<Time> {
        let chosen = self.chosen();
        let of_tenure = |lease: &&Lease| lease.tenure == chosen.tenure();
        let of_witness = |lease: &&Lease| {
            (lease.incarnation == chosen.witness || mutation::on(Mutation::R12BlankWitnessVotes))
                && self.vote().is_none_or(|vote| vote.witness == lease.incarnation)
        };
        let peer = self.peer_lease.as_ref().filter(of_tenure);
        let peer = peer.filter(|_| !mutation::on(Mutation::R13WitnessNeeded));
        let witness = self.witness_lease.as_ref().filter(of_tenure).filter(of_witness);
        peer.into_iter().chain(witness).map(|lease| lease.end).max()
    }

    pub(super) fn is_leased(&self, now: Now) -> bool {
        self.is_primary() && self.serves_until().is_some_and(|end| now.holder < end)
    }

    /// The own lease promise to the other array: how long it still runs.
    pub fn promise_to_peer(&self, now: Now) -> Option<Duration> {
        self.register.bound_to_other(self.me, now)
    }

    /// The witness's promise to `side` as read within the last lease: how long it still ran.
    pub fn witness_promises(&self, side: Side, now: Now) -> bool {
        self.witness.promise.is_some_and(|(promise, at)| {
            promise.holder == side && now.grantor.since(at) < promise.remaining.min(self.timers.lease)
        })
    }

    /// The enrolled witness answered within the last lease.
    pub fn witness_heard(&self, now: Now) -> bool {
        self.witness.connection.is_some()
            && self.witness.incarnation.is_some()
            && self.witness.incarnation == self.chosen().witness
            && self.witness.heard.is_some_and(|at| now.grantor.since(at) < self.timers.lease)
    }

    /// The enrolled witness has not been heard for `witness_lost_after` (DESIGN §3.5).
    pub fn witness_is_lost(&self, now: Now) -> bool {
        self.witness_lost_at().is_some_and(|at| now.grantor >= at)
    }

    /// When the enrolled witness counts as lost unless it is heard before (grantor clock).
    pub fn witness_lost_at(&self) -> Option<Time> {
        self.chosen().witness.map(|_| self.witness_seen + self.timers.witness_lost_after)
    }

    /// T17: the other array's *pre-elect* is voted for only if the witness is lost here as well. What
    /// this array has voted for before may be chosen, and is voted for again.
    pub(super) fn would_pre_elect(&self, value: &Config, now: Now) -> bool {
        !pre_elects(value, &self.chosen())
            || self.vote() == Some(*value)
            || self.witness_is_lost(now)
            || mutation::on(Mutation::T17PreElectByOneView)
    }

    /// A witness is connected that is not the enrolled one, or is to end `primary_alone`.
    pub fn witness_to_enrol(&self) -> Option<Incarnation> {
        let chosen = self.chosen();
        let seen = self.witness.connection.and(self.witness.incarnation)?;
        (chosen.quorum == Quorum::PrimaryAlone || chosen.witness != Some(seen)).then_some(seen)
    }

    /// Rule 18: the configuration with which an array without a past may begin. This one is alone in it, and
    /// nothing is undecided: no vote that was lost can matter.
    pub fn may_enrol_peer(&self) -> Option<Config> {
        let chosen = self.chosen();
        let alone = chosen.in_sync == InSync::Primary || mutation::on(Mutation::R18EnrolsBoth);
        (self.is_primary() && alone && self.vote().is_none()).then_some(chosen)
    }

    /// Another voter's undecided vote names the other array, so that it grants nothing to this
    /// primary: *drop* past it (ARBITRATION `propose`, T20).
    pub fn vote_in_the_way(&self) -> Option<Voter> {
        let names_other = |other: &Other| {
            other.connection.is_some() && other.vote.is_some_and(|vote| vote.value.primary != self.me)
        };
        if !self.is_primary() || self.chosen().in_sync == InSync::Primary {
            return None;
        }
        if names_other(&self.peer) {
            Some(Voter::Array(self.me.other()))
        } else if names_other(&self.witness) {
            Some(Voter::Witness)
        } else {
            None
        }
    }

    /// As secondary: the primary is connected, and yet has asked for no lease for as long as a promise
    /// lasts. It serves nothing by this voter's promise then, and does not try to: its `data_dir`
    /// hangs, its control stands still, or it has voted itself away. For *promote* that is as good as
    /// a lost link (DESIGN §6); what makes it safe is what always does, the promises.
    pub fn primary_is_silent(&self, now: Now) -> bool {
        let ignored = mutation::on(Mutation::T14SilenceIsNoLoss);
        self.silence_begins().is_some_and(|at| now.grantor >= at) && !ignored
    }

    pub(super) fn silence_begins(&self) -> Option<Time> {
        let linked = !self.is_primary() && self.peer.connection.is_some();
        linked.then(|| self.peer_quiet_since + self.timers.promise())
    }

    /// The former primary has had its time to return, or did return.
    pub fn start_wait_over(&self, now: Now) -> bool {
        !self.awaits_primary || now.grantor.since(self.began) >= self.timers.start_wait
    }
}
