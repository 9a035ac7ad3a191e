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

#[cfg(test)]
mod tests {
    use super::super::{
        Body, Connection, Environment, Epoch, GroupId, Side, Timers, Transition, Voter, VoterRecord,
    };
    use super::*;
    use crate::time::{Now, Time};

    const OWN: MemoryId = MemoryId([1; 16]);
    const FORMER: MemoryId = MemoryId([2; 16]);

    fn at(ms: u64) -> Now {
        Now { grantor: Time::from_millis(ms), holder: Time::from_millis(ms) }
    }

    fn config(epoch: u64, primary: Side, in_sync: InSync) -> Config {
        let genesis = Config::genesis(Side::A, 7, None);
        Config { epoch: Epoch(epoch), primary, in_sync, quorum: super::super::Quorum::Majority, ..genesis }
    }

    /// Array A, its register as it is found on disk.
    fn started(record: VoterRecord, restarted: bool) -> (Arbiter, Vec<ArbiterAction>) {
        let mut out = Vec::new();
        let mut arbiter = Arbiter::new(Side::A, GroupId([9; 16]), Timers::default(), record, restarted, 1);
        arbiter.begin(OWN, at(1000), &mut out);
        (arbiter, out)
    }

    fn marked(mark: Option<MemoryId>, config: Config) -> VoterRecord {
        VoterRecord { unflushed: mark, ..VoterRecord::new(config) }
    }

    fn persisted(out: &[ArbiterAction]) -> Option<(u64, VoterRecord)> {
        out.iter().rev().find_map(|action| match action {
            ArbiterAction::Persist { sequence, record } => Some((*sequence, *record)),
            _ => None,
        })
    }

    fn environment(arbiter: &mut Arbiter, env: Environment) -> Option<(u64, VoterRecord)> {
        let mut out = Vec::new();
        arbiter.set_environment(env);
        arbiter.tick(at(1100), &mut out);
        persisted(&out)
    }

    #[test]
    fn the_mark_is_on_disk_before_anything_is_left_in_memory_and_goes_when_all_is_flushed() {
        let (mut arbiter, out) = started(VoterRecord::new(config(2, Side::A, InSync::Both)), false);
        arbiter.persisted(persisted(&out).unwrap().0, at(1000), &mut Vec::new());
        assert!(!arbiter.may_hold_unflushed());
        let wants = Environment { memory: true, ..Environment::default() };
        let (sequence, record) = environment(&mut arbiter, wants).expect("marked");
        assert_eq!(record.unflushed, Some(OWN));
        assert!(!arbiter.may_hold_unflushed(), "not on disk yet");
        arbiter.persisted(sequence, at(1200), &mut Vec::new());
        assert!(arbiter.may_hold_unflushed());
        assert_eq!(environment(&mut arbiter, wants), None, "once");
        let (_, record) = environment(&mut arbiter, Environment::default()).expect("flushed");
        assert_eq!(record.unflushed, None);
        assert!(!arbiter.may_hold_unflushed(), "as soon as the mark is to go");
    }

    #[test]
    fn alone_there_is_no_mark_and_nothing_is_left_in_memory() {
        let (mut arbiter, out) = started(VoterRecord::new(config(2, Side::A, InSync::Primary)), false);
        arbiter.persisted(persisted(&out).unwrap().0, at(1000), &mut Vec::new());
        let wants = Environment { memory: true, ..Environment::default() };
        assert_eq!(environment(&mut arbiter, wants), None);
        assert!(!arbiter.may_hold_unflushed());
    }

    #[test]
    fn who_finds_the_mark_of_another_memory_in_both_is_tainted_and_nobody_else() {
        let both = config(2, Side::A, InSync::Both);
        for (record, restarted, tainted) in [
            (marked(Some(FORMER), both), true, true),
            (marked(Some(MemoryId::LOST), both), true, true),
            (marked(Some(OWN), both), true, false),
            (marked(None, both), true, false),
            (marked(Some(FORMER), both), false, false),
            (marked(Some(FORMER), config(3, Side::A, InSync::Primary)), true, false),
        ] {
            let (arbiter, _) = started(record, restarted);
            assert_eq!(arbiter.is_tainted(), tainted, "{:?} restarted {restarted}", record.unflushed);
        }
    }

    #[test]
    fn a_tainted_primary_asks_for_no_lease_serves_nothing_and_keeps_its_mark() {
        let both = config(2, Side::A, InSync::Both);
        for mark in [Some(FORMER), None] {
            let (mut arbiter, mut out) = started(marked(mark, both), true);
            arbiter.connected(Voter::Array(Side::B), Connection(1), at(1050), &mut out);
            let asks = out.iter().any(|action| {
                matches!(action, ArbiterAction::Send { message, .. } if matches!(message.body, Body::Ask { .. }))
            });
            assert_eq!(asks, mark.is_none());
            let memory = Environment { memory: true, ..Environment::default() };
            let written = environment(&mut arbiter, memory).map(|(_, record)| record.unflushed);
            assert_eq!(written, mark.is_none().then_some(Some(OWN)), "a tainted array's mark stays as it is");
            assert!(mark.is_none() || arbiter.serves_until().is_none());
        }
    }

    #[test]
    fn a_tainted_array_proposes_neither_drop_nor_promotion() {
        for (primary, transition) in [(Side::A, Transition::Drop), (Side::B, Transition::Promote)] {
            for mark in [Some(FORMER), None] {
                let (mut arbiter, mut out) = started(marked(mark, config(2, primary, InSync::Both)), true);
                arbiter.connected(Voter::Witness, Connection(3), at(1050), &mut out);
                let env = Environment {
                    intent: Some(transition),
                    session_closed: true,
                    primary_lost: true,
                    ..Environment::default()
                };
                out.clear();
                arbiter.set_environment(env);
                arbiter.tick(at(600_000), &mut out);
                let proposed = out.iter().any(|action| matches!(action, ArbiterAction::Proposed { .. }));
                assert_eq!(proposed, mark.is_none(), "{transition:?} with mark {mark:?}");
            }
        }
    }

    #[test]
    fn drop_promote_and_the_changes_of_role_wait_for_the_flushes_they_need() {
        use Transition::{Drop, HandOver, Promote, SwitchOver};
        // What is unflushed here, and at the peer; who proposes in spite of it.
        for (here, there, free) in
            [(true, false, [false, false, false, true]), (false, true, [true, true, false, false])]
        {
            for (transition, free) in [Drop, Promote, SwitchOver, HandOver].into_iter().zip(free) {
                let primary = if transition == Promote { Side::B } else { Side::A };
                let record = VoterRecord::new(config(2, primary, InSync::Both));
                let (mut arbiter, mut out) = started(record, true);
                arbiter.connected(Voter::Witness, Connection(3), at(1050), &mut out);
                let holding = matches!(transition, SwitchOver | HandOver);
                let env = Environment {
                    intent: Some(transition),
                    session_closed: true,
                    primary_lost: true,
                    holding,
                    drained: true,
                    may_hand_over: true,
                    unflushed: here,
                    peer_unflushed: there,
                    ..Environment::default()
                };
                out.clear();
                arbiter.set_environment(env);
                arbiter.tick(at(600_000), &mut out);
                let proposed = out.iter().any(|action| matches!(action, ArbiterAction::Proposed { .. }));
                assert_eq!(proposed, free, "{transition:?}, unflushed here {here}, there {there}");
            }
        }
    }

    #[test]
    fn a_failed_flush_leaves_a_mark_that_no_memory_matches() {
        let (mut arbiter, _) = started(marked(Some(OWN), config(2, Side::A, InSync::Both)), true);
        let failed = Environment { memory: true, flush_failed: true, ..Environment::default() };
        let (_, record) = environment(&mut arbiter, failed).expect("marked");
        assert_eq!(record.unflushed, Some(MemoryId::LOST));
        let (arbiter, _) = started(record, true);
        assert!(arbiter.is_tainted(), "not even by the process that follows under the same kernel");
    }

    #[test]
    fn the_taint_ends_with_the_configuration_or_with_the_promise() {
        let both = config(2, Side::A, InSync::Both);
        let (mut arbiter, mut out) = started(marked(Some(FORMER), both), true);
        arbiter.learn(&config(3, Side::B, InSync::Primary), at(1100), &mut out);
        assert!(!arbiter.is_tainted());
        assert_eq!(persisted(&out).unwrap().1.unflushed, None);

        let (mut arbiter, mut out) = started(marked(Some(FORMER), both), true);
        arbiter.void_promise(&mut out);
        assert!(!arbiter.is_tainted());
        assert_eq!(persisted(&out).unwrap().1.unflushed, None, "nothing is in memory now");
        out.clear();
        arbiter.void_promise(&mut out);
        assert_eq!(out, []);
    }
}
