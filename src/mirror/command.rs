//! A host command's life in the ledger.
//!
//! ```text
//!            gate not open                  blocked, or region in doubt
//! submit ──► Parked ──────────► Queued ────────────────────────────────┐
//!                                 │ gate, hold                         │
//!        COMPARE AND WRITE ┌──────┴───────┐ write      read, flush ────┤
//!                          ▼              ▼                            │
//!                      Comparing ────► Marking ─────► Running ─────────┴► Freed
//!                                  map bits durable     │  ▲ equal, dropped
//!                                                       ▼  │
//!                                                      Failed (on this copy only)
//! ```
//! What cannot be read here (by a read, or a comparison) goes round by the peer, with its hold kept
//! ([`super::mend`]): Running or Comparing ──► Fetching ──► Mending ──► Running or Comparing.

use super::api::{CommandId, LaneId};
use crate::arbitration::Tenure;
use crate::block::{Extent, Op, Outcome, StoreResult};
use crate::time::Time;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    Vacant,
    /// Waits for the gate; has not arrived. Its tenure is the one it was parked in.
    Parked,
    /// Arrived; waits for what it overlaps, for its region to be equal again, or for the gate.
    Queued,
    /// COMPARE AND WRITE holds its range and compares.
    Comparing,
    /// Holds its range; waits for its map bits. Nothing is written yet.
    Marking,
    /// Its I/O was issued; `local` tells whether it has come back.
    Running,
    /// It cannot be read here; waits for the peer's blocks (`mirror` tells whether it was asked).
    Fetching,
    /// The peer's blocks are being written over what cannot be read.
    Mending,
    /// Failed on this copy while both are needed: its regions are in doubt (rule 17).
    Failed,
    /// Over; the shell has not released it yet.
    Freed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mirror {
    /// Not sent in the present session.
    Unsent,
    Sent {
        sequence: u64,
        lane: LaneId,
        at: Time,
        /// The peer may answer from its memory.
        memory: bool,
    },
    /// Of a write; `Done` outlives the session: the peer holds it, as durably as was asked for. (Within one {A,B} the
    /// peer is one life of one process: another one is dropped, rule 16.)
    Acked(StoreResult),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Command {
    pub generation: u32,
    pub stage: Stage,
    pub op: Op,
    pub extent: Extent,
    /// The extent in whole physical blocks: what is held against others (rule 8).
    pub held: Extent,
    pub tenure: Tenure,
    /// Order of arrival (of parking, while parked).
    pub arrived: u64,
    /// When it got its hold; zero before.
    pub started: u64,
    /// When its present I/O was given to this array's store.
    pub issued: Time,
    /// Ledger entries it waits for, while queued.
    pub blockers: u32,
    /// Entries that waited for it when they came; never too few.
    pub waiters: u32,
    pub local: Option<StoreResult>,
    pub mirror: Mirror,
    /// An outcome that only the check stands before (a comparison that found a difference).
    pub decided: Option<Outcome>,
    pub in_ledger: bool,
    /// Its regions are counted as active.
    pub marked: bool,
    pub answered: bool,
    pub aborting: bool,
    pub awaits_map: bool,
    /// The peer was asked for what could not be read here: once is enough.
    pub fetched: bool,
    /// What the peer is asked for: all it holds, or a piece of it.
    pub asks: Extent,
    /// The peer cannot give all of it: it is asked piece by piece.
    pub piecewise: bool,
    /// Its write is under way here and need not be stable.
    pub in_memory: bool,
    /// A flush that reaches both disks.
    pub flushes_both: bool,
    /// A flush: what it covers here and at the peer.
    pub covers: [u64; 2],
}

impl Command {
    pub const VACANT: Self = Self {
        generation: 0,
        stage: Stage::Vacant,
        op: Op::Read,
        extent: Extent::new(0, 0),
        held: Extent::new(0, 0),
        tenure: Tenure {
            lineage: crate::arbitration::Lineage { counter: 0, id: 0 },
            epoch: crate::arbitration::Epoch(0),
        },
        arrived: 0,
        started: 0,
        issued: Time::ZERO,
        blockers: 0,
        waiters: 0,
        local: None,
        mirror: Mirror::Unsent,
        decided: None,
        in_ledger: false,
        marked: false,
        answered: false,
        aborting: false,
        awaits_map: false,
        fetched: false,
        asks: Extent::new(0, 0),
        piecewise: false,
        in_memory: false,
        flushes_both: false,
        covers: [0; 2],
    };

    pub const fn is_live(&self) -> bool {
        !matches!(self.stage, Stage::Vacant | Stage::Freed)
    }

    /// Started, and not over.
    pub const fn in_flight(&self) -> bool {
        matches!(
            self.stage,
            Stage::Comparing
                | Stage::Marking
                | Stage::Running
                | Stage::Fetching
                | Stage::Mending
                | Stage::Failed
        )
    }

    pub const fn waiting(&self) -> bool {
        matches!(self.stage, Stage::Parked | Stage::Queued)
    }

    /// I/O of it runs on this array's store.
    pub const fn store_io(&self) -> bool {
        matches!(self.stage, Stage::Comparing | Stage::Mending)
            || (matches!(self.stage, Stage::Running) && self.local.is_none())
    }

    /// A write (or flush of both disks) that was issued and is still in flight: what a session must carry.
    pub const fn must_be_mirrored(&self) -> bool {
        matches!(self.stage, Stage::Running)
            && (self.op.writes() || self.flushes_both)
            && self.decided.is_none()
    }
}

/// The slots of a volume's commands.
#[derive(Clone, Debug, Default)]
pub(super) struct Commands {
    slots: Vec<Command>,
    free: Vec<u32>,
    live: u32,
}

impl Commands {
    /// Takes a slot, unless `limit` are taken.
    pub fn take(&mut self, limit: u32) -> Option<u32> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).ok().filter(|slot| *slot < limit)?;
                self.slots.push(Command::VACANT);
                slot
            }
        };
        let command = self.get(slot);
        *command = Command { generation: command.generation.wrapping_add(1), ..Command::VACANT };
        self.live += 1;
        Some(slot)
    }

    /// The command is over; the slot waits for `release`.
    pub fn over(&mut self, slot: u32) {
        self.get(slot).stage = Stage::Freed;
        self.live -= 1;
    }

    pub fn release(&mut self, id: CommandId) {
        if let Some(command) = self.slots.get_mut(id.slot as usize)
            && command.generation == id.generation
            && command.stage == Stage::Freed
        {
            command.stage = Stage::Vacant;
            self.free.push(id.slot);
        }
    }

    /// The command of a slot that was handed out.
    pub fn get(&mut self, slot: u32) -> &mut Command {
        &mut self.slots[slot as usize]
    }

    pub fn at(&self, slot: u32) -> &Command {
        &self.slots[slot as usize]
    }

    /// The live command of an id that came from outside.
    pub fn find(&self, id: CommandId) -> Option<&Command> {
        self.slots
            .get(id.slot as usize)
            .filter(|command| command.generation == id.generation && command.is_live())
    }

    pub fn find_slot(&self, slot: u32) -> Option<&Command> {
        self.slots.get(slot as usize).filter(|command| command.is_live())
    }

    pub fn id(&self, slot: u32) -> CommandId {
        CommandId { slot, generation: self.at(slot).generation }
    }

    pub const fn live(&self) -> u32 {
        self.live
    }

    pub fn iter_live(&self) -> impl Iterator<Item = &Command> {
        let slots = if self.live == 0 { &[][..] } else { &self.slots[..] };
        slots.iter().filter(|command| command.is_live())
    }

    #[cfg(any(test, feature = "testing"))]
    pub fn all(&self) -> &[Command] {
        &self.slots
    }

    /// Slots of the live commands in order of arrival, into `out`.
    pub fn in_order(&self, out: &mut Vec<u32>) {
        out.clear();
        if self.live != 0 {
            let slots = (0_u32..).zip(&self.slots);
            out.extend(slots.filter(|(_, command)| command.is_live()).map(|(slot, _)| slot));
            out.sort_unstable_by_key(|&slot| self.at(slot).arrived);
        }
    }
}
