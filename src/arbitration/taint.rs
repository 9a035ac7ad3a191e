//! The memory promise (T13): the mark of an unclean stop in this array's record, and the *taint* of one that
//! finds it there after its memory is gone.
//!
//! The invariant: an array whose disk may lack an acknowledged write of {A,B} is either alive, with that
//! write in its memory, or tainted, or no member of `in_sync` of the newest chosen configuration. The mark
//! is on disk before anything is left in memory ([`Arbiter::may_hold_unflushed`]), and goes when everything is
//! flushed and stays so. So it is gone with the own promise of a *drop* or *promote*, before anybody else is
//! asked: whoever votes for this array alone votes for a disk that holds everything, whatever befalls it later.
//! A tainted array therefore accepts what others propose: a vote for it alone is one for a whole disk, and after
//! a *switch over* to it ({A,B}) it serves nothing and is relieved. Refusing would leave votes undecided for ever.

use crate::mutation::{self, Mutation};

use super::arbiter::{Arbiter, ArbiterAction};
use super::{Config, InSync, MemoryId};

impl Arbiter {
    pub(super) fn begin_memory(&mut self, memory: MemoryId) {
        self.memory = memory;
        let lost = self.register.record.unflushed.is_some_and(|marked| marked != memory);
        self.tainted = self.restarted
            && lost
            && self.chosen().in_sync == InSync::Both
            && !mutation::on(Mutation::T13TaintIgnored);
    }

    /// This array was in {A,B}, and what its memory held may be gone. As primary it takes no lease, opens no
    /// session and serves nothing; as secondary it is not promoted. Over with the next *join*, or when the
    /// other one is tainted too ([`Arbiter::void_promise`]).
    pub const fn is_tainted(&self) -> bool {
        self.tainted
    }

    /// This array's disk lacks what it acknowledged from its memory (a flush failed), and the other array, which
    /// has it, is not there to take over: only that one may serve.
    pub const fn taint(&mut self) {
        self.tainted = true;
    }

    /// Both arrays lost what they held in memory: what was acknowledged from there is gone, and the primary,
    /// whose map names it, serves what its disk holds.
    pub fn void_promise(&mut self, out: &mut Vec<ArbiterAction>) {
        if core::mem::take(&mut self.tainted) {
            self.persist(out);
        }
    }

    /// Writes may be left in this array's memory: {A,B} is chosen and the mark of it on disk, with no vote
    /// for a configuration of one member (T13, rule 3).
    pub fn may_hold_unflushed(&self) -> bool {
        let marked =
            self.register.record.unflushed == Some(self.memory) && self.mark_sequence <= self.durable;
        marked && !self.tainted && self.chosen().in_sync == InSync::Both && !self.votes_for_one()
    }

    fn votes_for_one(&self) -> bool {
        self.vote().is_some_and(|vote| vote.in_sync == InSync::Primary)
    }

    /// What the record must say of the memory.
    fn wanted_mark(&self) -> Option<MemoryId> {
        let both = self.chosen().in_sync == InSync::Both;
        // An override asks for no flush: its vote proves nothing.
        let alone = self.votes_for_one()
            && !self.votes_for_override()
            && self.vote().is_some_and(|vote| vote.primary == self.me);
        if !both {
            None
        } else if self.tainted {
            self.register.record.unflushed
        } else if alone {
            None
        } else if self.env.flush_failed {
            Some(MemoryId::LOST)
        } else {
            self.env.memory.then_some(self.memory)
        }
    }

    /// The record that `sequence` will be says it.
    pub(super) fn mark(&mut self, sequence: u64) {
        if self.register.record.chosen.is_none() {
            return;
        }
        let mark = self.wanted_mark();
        if self.register.record.unflushed != mark {
            self.register.record.unflushed = mark;
            self.mark_sequence = sequence;
        }
    }

    /// Volumes of the group changed, or a stop in order has come to its end.
    pub(super) fn keep_mark(&mut self, out: &mut Vec<ArbiterAction>) {
        if !self.is_removed() && self.register.record.unflushed != self.wanted_mark() {
            self.persist(out);
        }
    }

    /// A copy that is made anew by a *join*, or counts for nothing, has lost nothing.
    pub(super) fn learn_memory(&mut self, old: &Config, new: &Config) {
        if old.in_sync == InSync::Primary || new.in_sync == InSync::Primary {
            self.tainted = false;
        }
    }
}
