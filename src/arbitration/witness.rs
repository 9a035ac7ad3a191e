//! The witness: the third voter of many groups. It never calls anybody.

use std::collections::{BTreeMap, VecDeque};

use crate::format::{EnvelopeError, Format};
use crate::mutation::{self, Mutation};
use crate::time::Now;

use super::fields::{Reader, Writer};
use super::owners::{self, Caller, OwnerMap, Owners};
use super::voter::{Identity, Learned, Register};
use super::{Body, Connection, GroupId, Incarnation, LEASE_MAX, Message, Timers, VoterRecord};

/// All that a witness keeps durably.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WitnessImage {
    pub incarnation: Incarnation,
    /// Grows with each durable change; the token in `/run` must name the same number.
    pub sequence: u64,
    pub groups: BTreeMap<GroupId, VoterRecord>,
    /// Whose the groups are, those included that only an older incarnation knew. Empty in what a version 1
    /// wrote: each side is then the first one's that speaks for it.
    pub owners: OwnerMap,
}

const IMAGE_FORMAT: Format = Format { magic: *b"TWLNWITN", version: 2, readable_from: 2 };

impl WitnessImage {
    /// The image in its envelope.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::with_capacity(64 + self.groups.len() * 160);
        let mut w = Writer::new(&mut payload);
        w.incarnation(&self.incarnation);
        w.u64(self.sequence);
        w.u32(u32::try_from(self.groups.len()).unwrap_or(u32::MAX)); // bounded by GROUPS_MAX
        let mut body = Vec::with_capacity(160);
        for (group, record) in &self.groups {
            body.clear();
            record.encode_body(&mut body);
            w.group(*group);
            w.u16(u16::try_from(body.len()).unwrap_or(u16::MAX)); // some 150 bytes
            w.bytes(&body);
        }
        owners::write_all(&mut w, &self.owners);
        IMAGE_FORMAT.encode(&payload, out);
    }

    /// # Errors
    /// See [`EnvelopeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let record = IMAGE_FORMAT.decode(bytes)?;
        let mut r = Reader::new(record.payload);
        Self::read(&mut r, record.version).filter(|_| r.is_empty()).ok_or(EnvelopeError::Damaged)
    }

    fn read(r: &mut Reader<'_>, version: u16) -> Option<Self> {
        let incarnation = r.incarnation()?;
        let sequence = r.u64()?;
        let mut groups = BTreeMap::new();
        for _ in 0..r.u32()? {
            let group = r.group()?;
            let length = usize::from(r.u16()?);
            let record = VoterRecord::decode_body(r.slice(length)?).ok()?;
            groups.insert(group, record);
        }
        let owners = if version < 2 { OwnerMap::new() } else { owners::read_all(r)? };
        Some(Self { incarnation, sequence, groups, owners })
    }
}

/// What the witness's shell must do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessAction {
    /// Write `image()` (or at least these records, with its incarnation and sequence) durably, then
    /// the token, then call `persisted`.
    Persist { sequence: u64, groups: Vec<GroupId> },
    /// Answers to one batch, all on the connection it came by; drop them when it is gone.
    Reply { connection: Connection, messages: Vec<Message> },
}

/// Answers that wait for the disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    pub needs: u64,
    pub connection: Connection,
    pub messages: Vec<Message>,
}

/// The pure core of the witness.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WitnessCore {
    timers: Timers,
    incarnation: Incarnation,
    pub(super) sequence: u64,
    pub(super) durable: u64,
    pub(super) groups: BTreeMap<GroupId, Register>,
    owners: OwnerMap,
    /// A group that was last spoken of by somebody whose it is not.
    foreign: Option<GroupId>,
    /// Votes and grants of a new incarnation begin when every lease that an older one may have
    /// granted is over.
    pub(super) blanket: crate::time::Time,
    pub(super) held: VecDeque<Held>,
}

impl WitnessCore {
    /// Most groups a witness takes: bounds what a client can make grow.
    pub const GROUPS_MAX: usize = 4096;
    /// Most groups of one array: nobody takes the room of all others.
    pub const GROUPS_OF_ONE_MAX: usize = 512;
    /// Batches waiting for the disk; beyond it the oldest is dropped (its sender asks again).
    pub const HELD_MAX: usize = 1024;

    /// A witness that starts. `image`: its state file, `None` when there is none. `continued`: the
    /// token in `/run` matched it (rule 12, T6); otherwise `fresh` becomes its incarnation, and
    /// nothing but tombstones is kept.
    #[must_use]
    pub fn start(
        timers: Timers,
        image: Option<WitnessImage>,
        continued: bool,
        fresh: Incarnation,
        now: Now,
        out: &mut Vec<WitnessAction>,
    ) -> Self {
        let image = image.unwrap_or(WitnessImage {
            incarnation: fresh,
            sequence: 0,
            groups: BTreeMap::new(),
            owners: OwnerMap::new(),
        });
        let continued = continued || mutation::on(Mutation::T6RestoredKeepsIncarnation);
        let mut groups = BTreeMap::new();
        for (group, record) in image.groups {
            let mut register = Register::new(record);
            if continued {
                register.restarted(&timers, now);
            } else if !record.removed {
                continue;
            }
            groups.insert(group, register);
        }
        let incarnation = if continued { image.incarnation } else { fresh };
        // What the life before granted, and when, is not known: the longest there can be.
        let blanket = now.grantor + timers.promise_of(LEASE_MAX);
        let mut core = Self {
            timers,
            incarnation,
            sequence: image.sequence,
            durable: image.sequence,
            groups,
            owners: image.owners,
            foreign: None,
            blanket: if continued { crate::time::Time::ZERO } else { blanket },
            held: VecDeque::new(),
        };
        if !continued {
            core.persist(Vec::new(), out);
        }
        core
    }

    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub fn record(&self, group: GroupId) -> Option<&VoterRecord> {
        self.groups.get(&group).map(|register| &register.record)
    }

    /// All that must be durable, as of now.
    #[must_use]
    pub fn image(&self) -> WitnessImage {
        WitnessImage {
            incarnation: self.incarnation,
            sequence: self.sequence,
            groups: self.groups.iter().map(|(group, register)| (*group, register.record)).collect(),
            owners: self.owners.clone(),
        }
    }

    fn persist(&mut self, groups: Vec<GroupId>, out: &mut Vec<WitnessAction>) {
        self.sequence += 1;
        out.push(WitnessAction::Persist { sequence: self.sequence, groups });
    }

    /// A group that somebody spoke of whose it is not, since the last call; for the log.
    pub const fn take_foreign(&mut self) -> Option<GroupId> {
        self.foreign.take()
    }

    /// Is the group of `message` the caller's? One that is nobody's becomes its own, within bounds.
    fn admit(&mut self, from: &Caller, message: &Message) -> bool {
        if mutation::on(Mutation::WitnessOwnersIgnored) {
            return true;
        }
        let group = message.group;
        let known = self.owners.get(&group).copied();
        let Some(owners) = known.unwrap_or_default().with(from) else {
            self.foreign = Some(group);
            return false;
        };
        if known.is_none() {
            let is_new = !self.groups.contains_key(&group);
            if is_new && matches!(message.body, Body::Remove) || message.chosen.is_none() {
                return false; // there is nothing to remember
            }
            if owners::groups_of(&self.owners, from.name) >= Self::GROUPS_OF_ONE_MAX
                || (is_new && !self.has_room())
            {
                return false;
            }
        }
        self.owners.insert(group, owners);
        true
    }

    /// Room for another group; a tombstone that nobody needs any more makes way.
    fn has_room(&mut self) -> bool {
        let ownerless = self.groups.keys().filter(|group| !self.owners.contains_key(group)).count();
        if self.owners.len() + ownerless < Self::GROUPS_MAX {
            return true;
        }
        let over = self.owners.iter().find(|(_, owners)| owners.have_both_removed());
        let Some(group) = over.map(|(group, _)| *group) else { return false };
        self.owners.remove(&group);
        self.groups.remove(&group);
        true
    }

    fn remembered(&self, group: GroupId) -> (Option<VoterRecord>, Option<Owners>) {
        (self.record(group).copied(), self.owners.get(&group).copied())
    }

    /// One batch of `from`, of many groups: one `Persist` at most, one `Reply`. What concerns another
    /// pair's group is not answered.
    pub fn receive(
        &mut self,
        from: &Caller,
        connection: Connection,
        batch: &[Message],
        now: Now,
        out: &mut Vec<WitnessAction>,
    ) {
        let mut changed = Vec::new();
        let mut messages = Vec::with_capacity(batch.len());
        for message in batch {
            let before = self.remembered(message.group);
            if let Some(answer) = self.answer(from, message, now) {
                messages.push(answer);
            }
            if self.remembered(message.group) != before {
                changed.push(message.group);
            }
        }
        if !changed.is_empty() {
            changed.sort_unstable();
            changed.dedup();
            self.persist(changed, out);
        }
        if messages.is_empty() {
            return;
        }
        if self.durable == self.sequence {
            out.push(WitnessAction::Reply { connection, messages });
        } else {
            if self.held.len() >= Self::HELD_MAX {
                self.held.pop_front();
            }
            self.held.push_back(Held { needs: self.sequence, connection, messages });
        }
    }

    /// Everything up to this sequence is on stable storage.
    pub fn persisted(&mut self, sequence: u64, out: &mut Vec<WitnessAction>) {
        self.durable = self.durable.max(sequence.min(self.sequence));
        while let Some(held) = self.held.pop_front_if(|held| held.needs <= self.durable) {
            out.push(WitnessAction::Reply { connection: held.connection, messages: held.messages });
        }
    }

    fn answer(&mut self, caller: &Caller, message: &Message, now: Now) -> Option<Message> {
        let (group, from, incarnation) = (message.group, caller.side, self.incarnation);
        if !self.admit(caller, message) {
            return None;
        }
        let me = Identity::Witness(incarnation);
        let say = |chosen, body| Some(Message { group, chosen, incarnation: Some(incarnation), body });
        if matches!(message.body, Body::Remove) {
            self.groups.insert(group, Register::new(VoterRecord::tombstone()));
            if let Some(owners) = self.owners.get_mut(&group) {
                owners.remove(from);
            }
            return say(None, Body::Removed);
        }
        // A group it never heard of is taken by its first message.
        let told = message.chosen?;
        if !self.groups.contains_key(&group) {
            let mut register = Register::new(VoterRecord::blank());
            register.refuse_until(self.blanket);
            self.groups.insert(group, register);
        }
        let register = self.groups.get_mut(&group)?;
        if register.record.removed {
            return say(None, Body::Removed);
        }
        match register.learn(&told, None, now) {
            Learned::Split | Learned::Older => return say(register.record.chosen, Body::Learn),
            Learned::Same | Learned::Newer => {}
        }
        let promise = register.promise(now);
        let body = match message.body {
            Body::Prepare { ballot } => {
                if register.prepare(ballot) {
                    Body::Promised { ballot, vote: register.record.vote, promise }
                } else {
                    Body::Refused { ballot, promised: register.record.promised, promise }
                }
            }
            Body::Accept { ballot, value } => {
                if register.may_accept(me, from, ballot, &value, now) {
                    register.accept(ballot, &value);
                    Body::Accepted { ballot }
                } else {
                    Body::Refused { ballot, promised: register.record.promised, promise }
                }
            }
            Body::Ask { number, lease } => {
                if register.grant(me, from, lease, &self.timers, now).is_some() {
                    Body::Granted { number, tenure: told.tenure() }
                } else {
                    Body::NotGranted { number, vote: register.record.vote }
                }
            }
            Body::Override { ballot, value } => {
                if register.may_take_override(from, incarnation, ballot, &value, now) {
                    register.learn(&value, None, now);
                }
                Body::Learn
            }
            Body::Read { number } => Body::State { number, vote: register.record.vote, promise },
            _ => return None,
        };
        say(register.record.chosen, body)
    }
}

#[cfg(test)]
#[path = "witness_tests.rs"]
mod tests;
