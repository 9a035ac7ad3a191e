//! One array's part in arbitration of one group: voter, learner and holder of leases; what it
//! proposes is in [`super::proposer`].
//!
//! Messages that tell of the register wait until the register is durable. Questions for leases do
//! not: they name only what is durable already ("renewals need no disk").

use std::collections::VecDeque;

use crate::mutation::{self, Mutation};
use crate::time::{Duration, Now, Time};

use super::overriding::Overriding;
use super::proposer::Proposer;
use super::voter::{Identity, Learned, Register};
use super::{
    Ballot, Body, Config, Connection, GroupId, InSync, Incarnation, MemoryId, Message, Promise, Side, Tenure,
    Timers, Transition, Vote, Voter, VoterRecord,
};

/// What the proposer must know of the world outside arbitration, as of this call. `group::Control`
/// sets it before every call; each guard of ARBITRATION *guards* reads it again right before the
/// own vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Environment {
    /// What is wanted now; proposed as soon as its guard holds.
    pub intent: Option<Transition>,
    /// *promote*: the primary does not answer heartbeats, or lets its leases run out although it does
    /// ([`Arbiter::primary_is_silent`]).
    pub primary_lost: bool,
    /// Commands are held for a switch over or hand over.
    pub holding: bool,
    /// *switch over*: session up, no command in flight, nothing recovering, own activity cleared
    /// durably.
    pub drained: bool,
    /// *hand over*: not recovering after a restart, and majority or session up.
    pub may_hand_over: bool,
    /// *join*: `try_join` of every volume holds and the session it was asked in is up.
    pub join_ready: bool,
    /// *drop*: the session is closed on every volume (rules 11, 14).
    pub session_closed: bool,
    /// A write to `data_dir` hangs: no lease is asked for.
    pub stalled: bool,
    /// *pre-elect*: the other array said on this link that it has lost the witness too (T17).
    pub peer_lost_witness: bool,
    /// Something is in this array's memory and not on its disk, or is to be left there (T13).
    pub memory: bool,
    /// *drop*, *promote*, *switch over*: something that this array holds may not be on its disk, or may come
    /// to be so (T13).
    pub unflushed: bool,
    /// *switch over*, *hand over*: the same of the peer, which has not confirmed otherwise in this session.
    pub peer_unflushed: bool,
    /// The other array said on this link that it may have lost what its memory held (T13).
    pub peer_tainted: bool,
    /// A flush failed here: no later one proves anything.
    pub flush_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArbiterAction {
    Persist {
        sequence: u64,
        record: VoterRecord,
    },
    Send {
        to: Voter,
        connection: Connection,
        message: Message,
    },
    /// Chosen by somebody; volumes and gate must follow before anything after this is carried out.
    Learned {
        old: Config,
        new: Config,
    },
    Proposed {
        transition: Option<Transition>,
        round: u64,
    },
    /// A voter refused what this array proposes; `promise`: the one to another array that binds it; `higher`:
    /// it has promised a higher ballot.
    Refused {
        by: Voter,
        promise: Option<Promise>,
        higher: bool,
    },
    /// Two overrides met.
    Split,
    /// The group has a tombstone now.
    Removed,
}

/// A grant, counted from the send of its own question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    pub tenure: Tenure,
    /// `None`: granted by the peer.
    pub incarnation: Option<Incarnation>,
    /// On the holder's clock.
    pub end: Time,
}

/// A question for a lease, or a read, that is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub to: Voter,
    connection: Connection,
    pub number: u64,
    /// On the holder's clock.
    pub sent: Time,
    /// On the grantor's clock.
    pub at: Time,
    tenure: Tenure,
    pub lease: Duration,
}

/// What is known of another voter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Other {
    pub connection: Option<Connection>,
    /// The witness's, as told on this connection.
    pub incarnation: Option<Incarnation>,
    /// Send time of the newest answered question on the grantor clock.
    pub heard: Option<Time>,
    /// Its undecided vote for the epoch after the chosen one, as last told.
    pub vote: Option<Vote>,
    /// Its promise as last told, and when the question was sent.
    pub promise: Option<(Promise, Time)>,
    /// It says that the group was removed.
    pub removed: bool,
}

/// Messages held for the disk at most: each voter has at most a handful of exchanges under way.
const OUTBOX_MAX: usize = 256;
/// Questions remembered per voter: answers to older ones come too late to matter.
const ASKED_MAX: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arbiter {
    pub(super) me: Side,
    pub(super) group: GroupId,
    pub(super) timers: Timers,
    pub(super) register: Register,
    /// This life began with a register read from disk.
    pub(super) restarted: bool,
    /// After a restart: the former primary is still waited for (`start_wait`). It is there, and what
    /// befalls it later is its own matter, as soon as it asks this array for a lease.
    pub(super) awaits_primary: bool,
    /// Since when the peer has not asked for a lease of the chosen configuration.
    pub(super) peer_quiet_since: Time,
    /// One round trip with the peer or the enrolled witness since (T16).
    pub(super) contact: bool,
    pub(super) began: Time,
    /// When the enrolled witness was last heard, by the send of an answered question; a witness just
    /// enrolled, and one that this life has not heard yet, count from then on.
    pub(super) witness_seen: Time,
    /// Newest record handed out for writing, and up to which records are durable.
    pub(super) sequence: u64,
    pub(super) durable: u64,
    /// The sequence that holds `chosen`.
    pub(super) chosen_sequence: u64,
    /// The sequence that holds `cut` and `mixture`.
    cut_sequence: u64,
    pub(super) outbox: VecDeque<(u64, Voter, Connection, Message)>,
    pub(super) peer: Other,
    pub(super) witness: Other,
    pub(super) peer_lease: Option<Lease>,
    pub(super) witness_lease: Option<Lease>,
    pub(super) asked: VecDeque<Asked>,
    pub(super) number: u64,
    pub(super) next_ask: Time,
    pub(super) proposer: Proposer,
    pub(super) env: Environment,
    /// What holds this array's unflushed writes.
    pub(super) memory: MemoryId,
    /// This array was in {A,B} and may have lost what its memory held (T13).
    pub(super) tainted: bool,
    /// The record with the present mark of an unclean stop.
    pub(super) mark_sequence: u64,
    pub(super) split: bool,
    pub(super) overriding: Option<Overriding>,
    /// The ballot last asked of the witness for an override or its withdrawal, and when to ask again.
    pub(super) withdraw_ballot: Ballot,
    pub(super) withdraw_at: Time,
    /// The witness holds the other one of two lineages: it has no say in what ends both.
    pub(super) witness_split: bool,
}

impl Arbiter {
    /// `record.chosen` is given. `restarted`: the record was read from disk after a restart;
    /// otherwise it was just made and is persisted by `begin`.
    pub fn new(
        me: Side,
        group: GroupId,
        timers: Timers,
        record: VoterRecord,
        restarted: bool,
        seed: u64,
    ) -> Self {
        Self {
            me,
            group,
            timers,
            register: Register::new(record),
            restarted,
            awaits_primary: restarted,
            peer_quiet_since: Time::ZERO,
            contact: !restarted,
            began: Time::ZERO,
            witness_seen: Time::ZERO,
            sequence: 0,
            durable: 0,
            chosen_sequence: 0,
            cut_sequence: 0,
            outbox: VecDeque::new(),
            peer: Other::default(),
            witness: Other::default(),
            peer_lease: None,
            witness_lease: None,
            asked: VecDeque::new(),
            number: 0,
            next_ask: Time::ZERO,
            proposer: Proposer::new(seed),
            env: Environment::default(),
            memory: MemoryId::default(),
            tainted: false,
            mark_sequence: 0,
            split: false,
            overriding: None,
            withdraw_ballot: Ballot::NONE,
            withdraw_at: Time::ZERO,
            witness_split: false,
        }
    }

    /// The first call. `memory`: what holds unflushed writes in this life.
    pub fn begin(&mut self, memory: MemoryId, now: Now, out: &mut Vec<ArbiterAction>) {
        self.begin_memory(memory);
        self.began = now.grantor;
        self.witness_seen = now.grantor;
        self.next_ask = now.grantor;
        if self.restarted {
            self.register.restarted(&self.timers, now);
        } else {
            self.persist(out);
            self.chosen_sequence = self.sequence;
        }
    }

    // Events.

    /// The environment as of now, for the calls that follow.
    pub fn set_environment(&mut self, env: Environment) {
        self.env = env;
    }

    pub(super) fn other(&self, voter: Voter) -> &Other {
        if voter == Voter::Witness { &self.witness } else { &self.peer }
    }

    fn other_mut(&mut self, voter: Voter) -> &mut Other {
        if voter == Voter::Witness { &mut self.witness } else { &mut self.peer }
    }

    /// A connection to another voter is up; it replaces an older one.
    pub fn connected(
        &mut self,
        voter: Voter,
        connection: Connection,
        now: Now,
        out: &mut Vec<ArbiterAction>,
    ) {
        self.disconnected(voter);
        self.other_mut(voter).connection = Some(connection);
        if voter == Voter::Array(self.me.other()) {
            self.peer_quiet_since = now.grantor;
        }
        if self.split {
            self.say(voter, Body::Learn, out); // it has to know as well
        }
        self.ask_one(voter, now, out);
        self.resend(voter, out);
        self.advance(now, out);
    }

    /// The connection is gone: whatever it still carries is ignored.
    pub fn disconnected(&mut self, voter: Voter) {
        let heard = self.other(voter).heard;
        *self.other_mut(voter) = Other { heard, ..Other::default() };
        self.asked.retain(|asked| asked.to != voter);
        self.outbox.retain(|(_, to, _, _)| *to != voter);
    }

    /// Every record up to this sequence is on stable storage.
    pub fn persisted(&mut self, sequence: u64, now: Now, out: &mut Vec<ArbiterAction>) {
        let chosen_was_durable = self.chosen_is_durable();
        self.durable = self.durable.max(sequence.min(self.sequence));
        self.flush(out);
        if !chosen_was_durable && self.chosen_is_durable() {
            self.next_ask = now.grantor;
            if self.is_removed() {
                out.push(ArbiterAction::Removed);
            }
        }
        self.tick(now, out);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now, out: &mut Vec<ArbiterAction>) {
        self.keep_mark(out);
        if now.grantor >= self.next_ask && self.chosen_is_durable() && !self.is_removed() && !self.split {
            // All groups ask at the same moments, so that one message carries them.
            let period = self.timers.renewal.as_nanos().max(1);
            let next = (u128::from(now.grantor.0) / period + 1) * period;
            self.next_ask = Time(u64::try_from(next).unwrap_or(u64::MAX));
            self.ask_one(Voter::Array(self.me.other()), now, out);
            self.ask_one(Voter::Witness, now, out);
        }
        self.advance(now, out);
    }

    /// Asks everybody at the next `tick`.
    pub fn ask_soon(&mut self, now: Now) {
        self.next_ask = now.grantor;
    }

    /// When `tick` is due next (grantor clock).
    pub fn next_timeout(&self, now: Now) -> Option<Time> {
        let ask = self.chosen_is_durable().then_some(self.next_ask);
        self.proposer
            .timeouts()
            .into_iter()
            .chain(ask)
            .chain(self.silence_begins())
            .chain(self.override_timeouts())
            .chain(self.register.next_end(now))
            .filter(|&at| at > now.grantor)
            .min()
    }

    /// The operator removes the group: a tombstone here and with everybody reached.
    pub fn remove(&mut self, out: &mut Vec<ArbiterAction>) {
        if self.is_removed() && self.is_durable() {
            out.push(ArbiterAction::Removed); // a crash came between the vote and the objects
        }
        self.entomb(out);
        for voter in [Voter::Array(self.me.other()), Voter::Witness] {
            self.say(voter, Body::Remove, out);
        }
    }

    fn entomb(&mut self, out: &mut Vec<ArbiterAction>) {
        if !core::mem::replace(&mut self.register.record.removed, true) {
            self.proposer.stop();
            self.persist(out);
            self.chosen_sequence = self.sequence;
        }
    }

    /// A message came in. Ignored unless its connection is the present one to that voter (T16).
    pub fn receive(
        &mut self,
        from: Voter,
        connection: Connection,
        message: &Message,
        now: Now,
        out: &mut Vec<ArbiterAction>,
    ) {
        if message.group != self.group || self.other(from).connection != Some(connection) {
            return;
        }
        if from == Voter::Witness {
            self.witness.incarnation = message.incarnation.or(self.witness.incarnation);
        }
        // Somebody else's word ends nothing here: without its group a volume is written to alone.
        let removed = matches!(message.body, Body::Remove | Body::Removed);
        self.other_mut(from).removed = removed;
        if removed && mutation::on(Mutation::ToldRemovedRemoves) {
            self.entomb(out);
        }
        match message.body {
            Body::Removed => return,
            _ if self.is_removed() => return self.say(from, Body::Removed, out),
            Body::Remove => return,
            _ => {}
        }
        let Some(told) = message.chosen else { return };
        match self.learn(&told, now, out) {
            Learned::Split => {
                self.witness_split |= from == Voter::Witness;
                if !core::mem::replace(&mut self.split, true) {
                    self.proposer.stop();
                    out.push(ArbiterAction::Split);
                    self.say(from, Body::Learn, out);
                }
                return self.advance_override(now, out);
            }
            Learned::Older => return self.say(from, Body::Learn, out),
            Learned::Newer | Learned::Same => {}
        }
        self.take(from, &message.body, now, out);
        self.advance(now, out);
    }

    /// The body of a message whose sender's `chosen` is the own one.
    fn take(&mut self, from: Voter, body: &Body, now: Now, out: &mut Vec<ArbiterAction>) {
        let identity = Identity::Array { me: self.me, leased: self.is_leased(now) };
        let promise = self.register.promise(now);
        // A voter for another lineage has nothing to say in this one, until that is decided.
        let mute = self.votes_for_override() || self.is_overriding();
        match (*body, from) {
            (Body::Prepare { .. } | Body::Accept { .. } | Body::Ask { .. }, Voter::Array(_)) if mute => {}
            (Body::Prepare { ballot }, Voter::Array(_)) => {
                let answer = if self.register.prepare(ballot) {
                    self.persist(out);
                    Body::Promised { ballot, vote: self.register.record.vote, promise }
                } else {
                    Body::Refused { ballot, promised: self.register.record.promised, promise }
                };
                self.say(from, answer, out);
            }
            (Body::Accept { ballot, value }, Voter::Array(sender)) => {
                let answer = if self.register.may_accept(identity, sender, ballot, &value, now)
                    && self.would_pre_elect(&value, now)
                {
                    self.register.accept(ballot, &value);
                    self.persist(out);
                    Body::Accepted { ballot }
                } else {
                    Body::Refused { ballot, promised: self.register.record.promised, promise }
                };
                self.say(from, answer, out);
            }
            (Body::Ask { number, lease }, Voter::Array(sender)) => {
                self.peer_quiet_since = now.grantor;
                let granted = self.register.grant(identity, sender, lease, &self.timers, now);
                if granted == Some(true) {
                    self.persist(out);
                }
                let answer = if granted.is_some() {
                    self.awaits_primary = false;
                    Body::Granted { number, tenure: self.chosen().tenure() }
                } else {
                    Body::NotGranted { number, vote: self.register.record.vote }
                };
                self.say(from, answer, out);
            }
            (Body::Read { number }, Voter::Array(_)) => {
                self.say(from, Body::State { number, vote: self.register.record.vote, promise }, out);
            }
            (Body::Granted { number, tenure }, _) => {
                if let Some(asked) = self.answered(from, number) {
                    self.other_mut(from).vote = None;
                    self.lease_granted(from, asked, tenure, now);
                }
            }
            (Body::NotGranted { number, vote }, _) => {
                let asked = self.answered(from, number);
                if asked.is_some() {
                    self.other_mut(from).vote = vote;
                }
            }
            (Body::State { number, vote, promise }, _) => {
                if let Some(asked) = self.answered(from, number) {
                    let other = self.other_mut(from);
                    other.vote = vote;
                    other.promise = promise.map(|promise| (promise, asked.at));
                }
            }
            (Body::Promised { ballot, vote, promise }, _) => {
                if from == Voter::Witness {
                    self.witness_promised(ballot, vote, promise, now, out);
                }
                self.promised(from, ballot, vote, promise, now);
            }
            (Body::Accepted { ballot }, _) => self.accepted(from, ballot),
            (Body::Refused { ballot, promised, promise }, _) => {
                let running = self.refused(from, ballot, promised, promise, now);
                if running {
                    out.push(ArbiterAction::Refused { by: from, promise, higher: promised > ballot });
                }
            }
            _ => {}
        }
    }

    /// A round trip of this life with `from` was completed while both knew the same `chosen`.
    pub(super) fn note_contact(&mut self, from: Voter) {
        let counts = match from {
            Voter::Array(_) => true,
            Voter::Witness => {
                self.witness.incarnation.is_some() && self.witness.incarnation == self.chosen().witness
            }
        };
        self.contact |= counts;
    }

    /// Matches an answer with its question on the same connection.
    fn answered(&mut self, from: Voter, number: u64) -> Option<Asked> {
        let at = self.asked.iter().position(|asked| asked.to == from && asked.number == number)?;
        let asked = self.asked.remove(at)?;
        let other = self.other_mut(from);
        other.heard = other.heard.max(Some(asked.at));
        if from == Voter::Witness && self.witness.incarnation == self.chosen().witness {
            self.witness_seen = self.witness_seen.max(asked.at);
        }
        self.note_contact(from);
        Some(asked)
    }

    fn lease_granted(&mut self, from: Voter, asked: Asked, tenure: Tenure, now: Now) {
        let chosen = self.chosen();
        if !self.is_primary() || tenure != chosen.tenure() || asked.tenure != tenure || asked.lease.is_zero()
        {
            return;
        }
        let counted_from = if mutation::on(Mutation::R1LeaseFromReceipt) { now.holder } else { asked.sent };
        let end = counted_from + asked.lease;
        let (slot, incarnation) = match from {
            Voter::Array(_) => (&mut self.peer_lease, None),
            Voter::Witness => (&mut self.witness_lease, self.witness.incarnation),
        };
        let longer = slot
            .filter(|lease| lease.tenure == tenure && lease.incarnation == incarnation && lease.end > end);
        *slot = longer.or(Some(Lease { tenure, incarnation, end }));
    }

    /// ARBITRATION `learn`, what concerns arbitration.
    pub(super) fn learn(&mut self, told: &Config, now: Now, out: &mut Vec<ArbiterAction>) -> Learned {
        let old = self.chosen();
        let learned = self.register.learn(told, Some(self.me), now);
        if learned != Learned::Newer {
            return learned;
        }
        self.learn_memory(&old, told);
        self.proposer.stop();
        self.split = false;
        self.witness_split = false;
        let new_lineage = told.lineage.counter > old.lineage.counter;
        if told.primary == self.me || told.in_sync == InSync::Both {
            self.register.record.overridden = false;
        } else if new_lineage && old.primary == self.me && old.in_sync == InSync::Primary {
            self.register.record.overridden = !mutation::on(Mutation::T12OverrideOverwrites);
        }
        if !old.holds(self.me) && told.holds(self.me) {
            self.register.record.end_cut();
        }
        if new_lineage {
            self.overriding = None;
        }
        self.peer.vote = None;
        self.witness.vote = None;
        self.peer_quiet_since = now.grantor;
        if old.witness != told.witness {
            self.witness_seen = now.grantor;
        }
        if old.tenure() != told.tenure() {
            self.peer_lease = None;
            self.witness_lease = None;
            self.asked.clear();
            if told.primary != self.me {
                // A new primary may not even know yet: it gets the time of one lease to begin with.
                self.proposer.not_before(now.grantor + self.timers.promise());
            }
        }
        self.persist(out);
        self.chosen_sequence = self.sequence;
        self.cut_sequence = self.sequence;
        self.next_ask = now.grantor;
        out.push(ArbiterAction::Learned { old, new: *told });
        learned
    }

    /// The operator gives up what this array wrote alone before an override ended its history.
    pub fn discard(&mut self, out: &mut Vec<ArbiterAction>) {
        if core::mem::take(&mut self.register.record.overridden) {
            self.persist(out);
        }
    }

    /// This array's copy holds all that the primary holds: no older content of it counts any more, once
    /// [`Self::cut_is_durable`].
    pub fn end_cut(&mut self, out: &mut Vec<ArbiterAction>) {
        self.register.record.end_cut();
        self.persist(out);
        self.cut_sequence = self.sequence;
    }

    /// Not all that this array's copy held is kept.
    pub fn note_mixture(&mut self, out: &mut Vec<ArbiterAction>) {
        if !core::mem::replace(&mut self.register.record.mixture, true) {
            self.persist(out);
            self.cut_sequence = self.sequence;
        }
    }

    /// The register's `cut` and `mixture` are on this array's disk.
    pub const fn cut_is_durable(&self) -> bool {
        self.durable >= self.cut_sequence
    }

    // Sending.

    /// A lease is asked for by a primary; a secondary reads as often.
    fn ask_one(&mut self, to: Voter, now: Now, out: &mut Vec<ArbiterAction>) {
        let Some(connection) = self.other(to).connection else { return };
        if !self.chosen_is_durable() || self.is_removed() || self.split {
            return;
        }
        let asks = self.is_primary() && !self.env.stalled && !self.voted_away() && !self.is_tainted();
        self.number += 1;
        let number = self.number;
        let lease = if asks { self.timers.lease } else { Duration::ZERO };
        if self.asked.iter().filter(|asked| asked.to == to).count() >= ASKED_MAX
            && let Some(at) = self.asked.iter().position(|asked| asked.to == to)
        {
            self.asked.remove(at);
        }
        let chosen = self.chosen();
        let tenure = chosen.tenure();
        let (sent, at) = (now.holder, now.grantor);
        self.asked.push_back(Asked { to, connection, number, sent, at, tenure, lease });
        let body = if asks { Body::Ask { number, lease } } else { Body::Read { number } };
        let message = Message { group: self.group, chosen: Some(chosen), incarnation: None, body };
        out.push(ArbiterAction::Send { to, connection, message });
    }

    /// Sends when the register as it is now is durable.
    pub(super) fn say(&mut self, to: Voter, body: Body, out: &mut Vec<ArbiterAction>) {
        let Some(connection) = self.other(to).connection else { return };
        let message =
            Message { group: self.group, chosen: self.register.record.chosen, incarnation: None, body };
        if self.outbox.len() >= OUTBOX_MAX {
            self.outbox.pop_front();
        }
        self.outbox.push_back((self.sequence, to, connection, message));
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<ArbiterAction>) {
        while let Some(&(needs, to, connection, message)) = self.outbox.front() {
            if needs > self.durable {
                break;
            }
            self.outbox.pop_front();
            out.push(ArbiterAction::Send { to, connection, message });
        }
    }

    pub(super) fn persist(&mut self, out: &mut Vec<ArbiterAction>) {
        self.sequence += 1;
        self.mark(self.sequence);
        out.push(ArbiterAction::Persist { sequence: self.sequence, record: self.register.record });
    }
}
