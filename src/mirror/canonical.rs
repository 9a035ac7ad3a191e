//! Test builds: the form in which states that behave alike are equal, so that an exploration of all
//! states ends (`tests/model`). Numbers that only have to differ, or to come in an order, are told by
//! their rank; names of slots by what holds them; instants, which only a `tick` compares with, not at all.

use std::hash::{Hash, Hasher};

use super::api::{FrameHeader, SessionId};
use super::command::{Command, Mirror};
use super::regions::RegionSet;
use super::session::TARGET_MASK;
use super::volume::Volume;

/// Numbers that are ranked among each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scale {
    Epochs,
    Sessions,
    /// Of a volume, on both arrays: its number.
    Sequences(u64),
    /// Of one array's volume.
    Ledger(u64),
    Arrivals(u64),
}

/// What is told of a state, word by word.
#[derive(Debug, Default)]
pub struct Canonical {
    words: Vec<u64>,
    ranked: Vec<(Scale, u64, usize)>,
}

/// Who asks, and how a slot of the ledger is called.
#[expect(missing_debug_implementations, reason = "it holds a closure")]
pub struct Names<'a> {
    /// The same on both arrays.
    pub volume: u64,
    pub side: u64,
    pub command: &'a dyn Fn(u32) -> u64,
}

impl Hasher for Canonical {
    fn finish(&self) -> u64 {
        self.words.len() as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.words.push(u64::from_le_bytes(word));
        }
    }
}

impl Canonical {
    pub fn clear(&mut self) {
        self.words.clear();
        self.ranked.clear();
    }

    pub fn put(&mut self, word: impl Into<u64>) {
        self.words.push(word.into());
    }

    /// A number of which only the order among the others of its scale matters.
    pub fn rank(&mut self, scale: Scale, number: u64) {
        self.ranked.push((scale, number, self.words.len()));
        self.words.push(0);
    }

    pub fn session(&mut self, id: SessionId) {
        self.rank(Scale::Sessions, id.boot << 32 | id.counter);
    }

    pub fn header(&mut self, volume: u64, header: &FrameHeader) {
        self.rank(Scale::Epochs, header.tenure.epoch.0);
        self.session(header.session);
        self.sequence(volume, header.session, header.sequence);
        header.op.hash(self);
        header.extent.hash(self);
    }

    /// Ranked without its target: slots have no names of their own.
    pub fn sequence(&mut self, volume: u64, session: SessionId, sequence: u64) {
        let number = session.boot << 52 | session.counter << 40 | (sequence / (TARGET_MASK + 1));
        self.rank(Scale::Sequences(volume), number);
        let copies = sequence & super::copy::COPY_BIT != 0;
        self.put(if copies { sequence & TARGET_MASK } else { 0 });
    }

    fn set(&mut self, set: &RegionSet) {
        let mut from = 0;
        while let Some(region) = set.next_from(from) {
            self.put(region);
            from = region + 1;
        }
        self.put(u64::MAX);
    }

    /// 128 bits of hash over all that was told.
    pub fn digest(&mut self) -> u128 {
        self.ranked.sort_unstable();
        let (mut last, mut rank) = (None, 0);
        for &(scale, number, at) in &self.ranked {
            if last.is_none_or(|(of, before)| of != scale || before != number) {
                rank = if last.is_some_and(|(of, _)| of == scale) { rank + 1 } else { 1 };
                last = Some((scale, number));
            }
            self.words[at] = rank;
        }
        let fold = |seed: u64| {
            self.words.iter().fold(seed, |state, word| {
                let wide = u128::from(state ^ word) * u128::from(seed | 1);
                let low = wide & u128::from(u64::MAX);
                let mixed = u64::try_from((wide >> 64) ^ low).unwrap_or(0);
                mixed.rotate_left(23).wrapping_add(0x9E37_79B9_7F4A_7C15)
            })
        };
        u128::from(fold(0xA076_1D64_78BD_642F)) << 64 | u128::from(fold(0xE703_7ED1_A0B4_28DB))
    }
}

impl Volume {
    /// All of this state that its behaviour depends on.
    pub fn canonical(&self, names: &Names<'_>, into: &mut Canonical) {
        let me = names.side << 8 | names.volume;
        let now = self.is_primary();
        into.put(now);
        if let Some(group) = &self.group {
            into.rank(Scale::Epochs, group.config.epoch.0);
            into.rank(Scale::Epochs, group.config.tenure_epoch.0);
            group.config.in_sync.hash(into);
        }
        into.rank(Scale::Epochs, self.gate.tenure.epoch.0);
        self.gate.mode.hash(into);
        into.put(self.gate.lease_end.0 == 0);
        into.put(self.gate.hold_until.0 == 0);
        let mut live: Vec<(u64, &Command)> = Vec::new();
        for (slot, command) in (0..).zip(self.commands.all()) {
            if command.is_live() {
                live.push(((names.command)(slot), command));
            }
        }
        live.sort_unstable_by_key(|(name, _)| *name);
        for (name, command) in live {
            into.put(name);
            self.command(me, names.volume, command, into);
        }
        into.put(u64::MAX);
        self.active.canonical(into);
        for set in [&self.must_copy, &self.recovering, &self.failed_here] {
            into.set(set);
        }
        for set in [
            self.map.activity(),
            self.map.out_of_sync(),
            self.map.sure_activity(),
            self.map.sure_out_of_sync(),
        ] {
            into.set(set);
        }
        self.lost.hash(into);
        self.found_lost.hash(into);
        self.map.canonical(into);
        self.copies.canonical(me, names.volume, self.session.as_ref().map(|session| session.id), into);
        if let Some(session) = &self.session {
            session.canonical(into);
        }
        self.applies.canonical(me, names.volume, into);
        self.before.hash(into);
        into.put(self.barrier.saturating_sub(self.map.durable()));
        let flags = [
            self.session.is_some(),
            self.verify.is_some(),
            self.joining,
            self.plan_owed,
            self.store_failed.is_some(),
            self.peer_failed,
            self.peer_refused,
            self.hand_over_hopeless,
            self.lost_until.is_some(),
            self.poke_when_durable,
        ];
        flags.hash(into);
        self.waits_canonical(names, into);
    }

    fn command(&self, me: u64, volume: u64, command: &Command, into: &mut Canonical) {
        (command.op, command.extent, command.stage, command.blockers).hash(into);
        into.rank(Scale::Epochs, command.tenure.epoch.0);
        into.rank(Scale::Ledger(me), command.arrived);
        if command.started != 0 {
            into.rank(Scale::Ledger(me), command.started);
        }
        match command.mirror {
            Mirror::Unsent => into.put(0_u64),
            Mirror::Sent { sequence, lane, .. } => {
                into.put(1 + u64::from(lane.0));
                let session = self.session.as_ref().map(|session| session.id).unwrap_or_default();
                into.sequence(volume, session, sequence);
            }
            Mirror::Acked(result) => {
                into.put(9_u64);
                result.hash(into);
            }
        }
        (command.local, command.decided, command.asks).hash(into);
        let flags = [
            command.started != 0,
            command.in_ledger,
            command.marked,
            command.answered,
            command.aborting,
            command.awaits_map,
            command.fetched,
            command.piecewise,
        ];
        flags.hash(into);
    }
}
