//! The memory promise of a group (DESIGN §4, ARBITRATION T13): when its volumes may leave writes in memory,
//! what the two arrays tell each other of what they lost, and the stop in order.
//!
//! The volumes are told first and asked afterwards: what counts as flushed was found so after everything
//! new had become stable, and so stays flushed (the guards of *drop*, *promote*, *switch over*, *hand over*).

use crate::arbitration::{Epoch, InSync};
use crate::mirror::Context;
use crate::mutation::{self, Mutation};
use crate::time::Now;

use super::api::{Action, LogEntry, Members, Refused, SessionMessage};
use super::control::Control;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Memory {
    /// The volumes make everything stable, here and at the peer; so told before they were last looked at.
    pub stable: bool,
    /// In this epoch the other array may have lost what its memory held.
    peer: Option<Epoch>,
    /// What it was told of this array on this link.
    told: Option<(Epoch, bool)>,
    /// Both arrays lost theirs.
    pub void: bool,
    /// A stop in order: whose command it is, if that still waits for the end of the flush.
    pub stopping: Option<Option<u64>>,
}

impl Default for Memory {
    /// Volumes enter a group stable.
    fn default() -> Self {
        Self { stable: true, peer: None, told: None, void: false, stopping: None }
    }
}

impl Memory {
    /// A new connection, or none.
    pub const fn forget_peer(&mut self) {
        self.peer = None;
        self.told = None;
    }

    pub fn peer_says(&mut self, epoch: Epoch, tainted: bool) {
        self.peer = tainted.then_some(epoch);
    }
}

impl Control {
    /// The other array says, on this link and of this very epoch, that it may lack what was acknowledged.
    pub(super) fn peer_is_tainted(&self) -> bool {
        let chosen = self.arbiter.chosen();
        chosen.in_sync == InSync::Both && self.memory.peer == Some(chosen.epoch)
    }

    /// Rule 3 of T13: stable is everything outside {A,B}, from the wish for (or a vote for) a configuration of
    /// one member on, and while roles change.
    pub(super) fn must_be_stable(&self, now: Now) -> bool {
        self.wants_stability(now) || !self.arbiter.may_hold_unflushed()
    }

    /// The same without the mark: what the mark follows.
    fn wants_stability(&self, now: Now) -> bool {
        !self.is_both()
            || !self.settled()
            || self.arbiter.is_tainted()
            || self.arbiter.vote().is_some_and(|vote| vote.in_sync == InSync::Primary)
            || self.memory.stopping.is_some()
            || self.changes.dropping.is_some()
            || self.changes.role_change.is_some()
            || self.arbiter.is_overriding()
            || self.peer_is_tainted()
            || (!self.is_primary() && self.primary_is_lost(now))
    }

    /// Tells the volumes. Before they are looked at: only what is found flushed under this order counts.
    pub(super) fn order_stability(&mut self, now: Now, members: &mut dyn Members) {
        let stable = self.must_be_stable(now);
        let cx = Context { now, lane: None };
        if self.sum.memory || !stable {
            members.each(&mut |_, volume, out| volume.set_stable(stable, cx, out));
        }
        self.memory.stable = stable;
    }

    /// A vote that was just cast is in force before it leaves.
    pub(super) fn order_before_vote(&mut self, now: Now, members: &mut dyn Members) {
        if !self.memory.stable && self.must_be_stable(now) {
            let cx = Context { now, lane: None };
            members.each(&mut |_, volume, out| volume.set_stable(true, cx, out));
        }
    }

    /// The mark of an unclean stop is wanted: something is in memory, or is to be left there.
    pub(super) fn wants_mark(&self, now: Now) -> bool {
        self.sum.memory && (!self.wants_stability(now) || self.may_be_unflushed())
    }

    /// Something may be in this array's memory alone, or come to be.
    pub(super) fn may_be_unflushed(&self) -> bool {
        self.sum.memory && (!self.memory.stable || self.sum.unflushed_here)
    }

    /// The same of the peer, as its primary knows it.
    pub(super) fn peer_may_be_unflushed(&self) -> bool {
        self.sum.memory && (!self.memory.stable || self.sum.unflushed_there)
    }

    /// An array alone in sync serves from its disk: what it took before is there first. (A write that was
    /// never acknowledged, shown to a host here and then lost, would be a read that goes back.)
    pub(super) fn flushes_first(&self) -> bool {
        let alone = self.is_primary() && !self.is_both();
        self.sum.forgetting
            || alone
                && self.sum.memory
                && self.sum.unflushed_here
                && !mutation::on(Mutation::T13AloneNotStable)
    }

    /// Both arrays were in {A,B} and lost what their memories held: nobody has it any more. This one, the
    /// primary, whose map names all of it, goes on with what its disk holds (rule 4 of T13).
    pub(super) fn void_promise(&mut self, now: Now, members: &mut dyn Members, out: &mut Vec<Action>) {
        let both = self.is_primary() && self.settled() && self.arbiter.is_tainted() && self.link.is_some();
        if both && self.peer_is_tainted() {
            self.memory.void = true;
            self.log(LogEntry::PromiseVoid, out);
            self.arbiter.void_promise(&mut self.pending);
            self.accept_loss(now, members);
        }
    }

    /// What a failed flush lost is of no matter any more.
    pub(super) fn accept_loss(&mut self, now: Now, members: &mut dyn Members) {
        let cx = Context { now, lane: None };
        members.each(&mut |_, volume, out| volume.accept_loss(cx, out));
        self.sum.flush_failed = false;
    }

    /// A disk that could not take what was acknowledged from memory: with the other array in reach it is handed
    /// over to (or this one is dropped); without, this array counts as one that lost its memory.
    pub(super) fn taint_if_lost(&mut self, now: Now, out: &mut Vec<Action>) {
        let both = self.is_both() && self.settled() && self.sum.flush_failed && !self.arbiter.is_tainted();
        let alone =
            if self.is_primary() { self.changes.dropping.is_some() } else { self.primary_is_lost(now) };
        if both && alone && !self.drop_is_voted() {
            self.log(LogEntry::Tainted, out);
            self.arbiter.taint();
            self.changes.dropping = None;
        }
    }

    pub(super) fn tell_of_taint(&mut self, out: &mut Vec<Action>) {
        let tainted = self.arbiter.is_tainted();
        let (epoch, told) = (self.arbiter.chosen().epoch, self.memory.told);
        let news = if tainted { told != Some((epoch, true)) } else { matches!(told, Some((_, true))) };
        // The configuration it speaks of goes first.
        if news && self.link.is_some() && self.settled() {
            self.memory.told = Some((epoch, tainted));
            self.tell(SessionMessage::Tainted { epoch, tainted }, out);
        }
    }

    /// SIGTERM. The mark of an unclean stop goes when everything is flushed, under a hand over or not.
    pub(super) fn leave_in_order(&mut self, ticket: u64, now: Now) -> Result<Option<()>, Refused> {
        let waits = self.sum.memory && !self.is_primary() && self.is_both();
        self.memory.stopping = Some(waits.then_some(ticket));
        if waits { Ok(None) } else { self.hand_over(super::change::Caller::Here { ticket }, now) }
    }

    /// The secondary's part of a stop in order is over when its record says that nothing is in memory.
    pub(super) fn end_stop(&mut self, out: &mut Vec<Action>) {
        let unmarked = self.arbiter.record().unflushed.is_none() && self.arbiter.is_durable();
        if let Some(Some(ticket)) = self.memory.stopping
            && (unmarked || self.arbiter.is_tainted())
        {
            self.memory.stopping = Some(None);
            out.push(Action::Outcome { ticket, result: Ok(()) });
        }
    }
}
