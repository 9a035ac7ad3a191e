//! An array's disks. Volumes: I/O takes its time, takes effect at some instant in between, and a
//! crash of the machine decides at random (sector by sector) what of the I/O under way happened.
//! Files of `data_dir`: a write is durable when it completes; until then a crash may lose, keep or
//! tear it.

use twinlun::block::{BLOCKS_PER_PHYSICAL, Extent, StoreResult};

use crate::layout::{Payload, Stamp, neighbours, span};
use crate::prng::Prng;

/// Who waits for a piece of volume I/O; meaning is the array shell's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner<C, A, K> {
    Command(C),
    /// The peer's blocks over what could not be read.
    Mend(C),
    Apply(A),
    Copy(K),
    /// The peer's block over what could not be read of a region in doubt.
    Weigh(K),
    /// What a copy held before its resync comes back.
    Back,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Compare,
    Write,
}

/// How a volume's disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Writes fail and leave nothing behind.
    Writes,
    /// Writes fail, and of each a part (none, some, all of its blocks) is on the medium.
    TornWrites,
    /// There is no room: writes change nothing.
    Full,
    /// Reads and writes fail.
    Everything,
}

impl Failure {
    /// How I/O of this kind ends, if it fails.
    pub const fn result(self, kind: Kind) -> Option<StoreResult> {
        match (self, kind) {
            (Self::Full, Kind::Write) => Some(StoreResult::NoSpace),
            (_, Kind::Write) | (Self::Everything, _) => Some(StoreResult::Failed),
            _ => None,
        }
    }
}

/// One piece of I/O of a volume.
#[derive(Clone, Copy, Debug)]
pub struct Io<O> {
    pub owner: O,
    pub volume: u8,
    pub kind: Kind,
    pub extent: Extent,
    /// What is written, what to compare with, or (after the effect) what was read.
    pub payload: Payload,
    /// For a write of less than whole physical blocks: what stood around it when it was read.
    around: Option<Payload>,
    effective: bool,
    /// Of a write that fails: which blocks reach the medium all the same (one bit each).
    pub torn: u8,
    /// When it is over, once it was submitted.
    pub done_at: u64,
    pub result: StoreResult,
}

pub type IoId = u32;

pub struct Store<O> {
    /// Content of each volume's blocks of interest.
    pub volumes: Vec<Vec<Stamp>>,
    /// First blocks of the physical blocks that cannot be read until they are written whole, by volume.
    pub bad: Vec<Vec<u64>>,
    slots: Vec<Option<Io<O>>>,
    free: Vec<IoId>,
}

impl<O: Copy> Store<O> {
    pub fn new(volumes: usize, blocks: usize) -> Self {
        let (bad, slots, free) = (vec![Vec::new(); volumes], Vec::new(), Vec::new());
        Self { volumes: vec![vec![0; blocks]; volumes], bad, slots, free }
    }

    pub fn begin(&mut self, owner: O, volume: u8, kind: Kind, extent: Extent, payload: Payload) -> IoId {
        let io = Io {
            owner,
            volume,
            kind,
            extent,
            payload: Payload { span: span(extent), ..payload },
            around: None,
            effective: false,
            torn: 0,
            done_at: 0,
            result: StoreResult::Done,
        };
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(io);
            id
        } else {
            self.slots.push(Some(io));
            (self.slots.len() - 1) as IoId
        }
    }

    pub fn get_mut(&mut self, id: IoId) -> Option<&mut Io<O>> {
        self.slots.get_mut(id as usize).and_then(Option::as_mut)
    }

    /// The kernel has it: a read-modify-write reads what is around now.
    pub fn submitted(&mut self, id: IoId) {
        let Some(Some(io)) = self.slots.get_mut(id as usize) else { return };
        let bad = &self.bad[usize::from(io.volume)];
        let reads = if io.kind == Kind::Write { io.extent } else { io.extent.physical() };
        let met = bad.iter().map(|lba| Extent::new(*lba, BLOCKS_PER_PHYSICAL)).any(|block| {
            let covered = reads.lba <= block.lba && block.end() <= reads.end();
            reads.overlaps(block) && (io.kind != Kind::Write || !covered)
        });
        if met && io.result == StoreResult::Done {
            io.result = StoreResult::Failed;
        }
        if io.kind != Kind::Write {
            return;
        }
        let (whole, partial) = neighbours(io.extent);
        if partial {
            let mut around = Payload { span: whole, ..Payload::default() };
            for (slot, index) in whole.range().enumerate() {
                around.stamps[slot] = self.volumes[usize::from(io.volume)][index];
            }
            io.around = Some(around);
        }
    }

    /// The instant at which the medium changes or is read. Changed blocks: `(volume, span)`.
    pub fn effect(&mut self, id: IoId) -> Option<(u8, Payload)> {
        let io = self.slots.get_mut(id as usize)?.as_mut()?;
        if io.effective {
            return None;
        }
        io.effective = true;
        let blocks = &mut self.volumes[usize::from(io.volume)];
        match io.kind {
            Kind::Read | Kind::Compare if io.result != StoreResult::Done => None,
            Kind::Read => {
                for (slot, index) in io.payload.span.range().enumerate() {
                    io.payload.stamps[slot] = blocks[index];
                }
                None
            }
            Kind::Compare => {
                let found = io.payload.span.range().map(|index| blocks[index]);
                let differs = found.zip(io.payload.stamps).position(|(found, wanted)| found != wanted);
                if let Some(at) = differs {
                    io.result = StoreResult::Differs { offset: at as u32 * 512 };
                }
                for (slot, index) in io.payload.span.range().enumerate() {
                    io.payload.stamps[slot] = blocks[index];
                }
                None
            }
            Kind::Write => {
                if io.result != StoreResult::Done {
                    for (slot, (index, stamp)) in io.payload.iter().enumerate() {
                        if io.torn >> slot & 1 == 1 {
                            blocks[index] = stamp;
                        }
                    }
                    return (io.torn != 0).then_some((io.volume, io.payload));
                }
                let written = io.extent;
                self.bad[usize::from(io.volume)]
                    .retain(|lba| !(written.lba <= *lba && lba + BLOCKS_PER_PHYSICAL <= written.end()));
                if let Some(around) = io.around {
                    for (index, stamp) in around.iter() {
                        blocks[index] = stamp;
                    }
                }
                for (index, stamp) in io.payload.iter() {
                    blocks[index] = stamp;
                }
                let touched = io.around.map_or(io.payload.span, |around| around.span);
                Some((io.volume, Payload { span: touched, ..Payload::default() }))
            }
        }
    }

    pub fn end(&mut self, id: IoId) -> Option<Io<O>> {
        let io = self.slots.get_mut(id as usize)?.take()?;
        self.free.push(id);
        Some(io)
    }

    /// I/O under way: ids, with `submitted` or not.
    pub fn under_way(&self) -> impl Iterator<Item = (IoId, &Io<O>)> {
        self.slots.iter().enumerate().filter_map(|(id, io)| io.as_ref().map(|io| (id as IoId, io)))
    }

    /// The process (or machine) died: what was submitted and had no effect yet lands, is lost, or
    /// lands in part; what was not submitted is lost. Whatever changed is pushed to `changed`.
    pub fn crash(&mut self, rng: &mut Prng, changed: &mut Vec<(u8, usize)>) {
        for id in 0..self.slots.len() {
            let Some(io) = self.slots[id].take() else { continue };
            self.free.push(id as IoId);
            if io.effective || io.done_at == 0 || io.kind != Kind::Write || io.result != StoreResult::Done {
                continue;
            }
            let fate = rng.below(3);
            for (index, stamp) in io.payload.iter() {
                if fate == 1 || (fate == 2 && rng.coin()) {
                    self.volumes[usize::from(io.volume)][index] = stamp;
                    changed.push((io.volume, index));
                }
            }
        }
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }
}

/// Sector of `data_dir`'s disk: what tears.
const SECTOR: usize = 512;

/// A file of `data_dir`, with writes that are under way.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// What is durable.
    pub bytes: Vec<u8>,
    pending: Vec<(u32, u64, Vec<u8>)>,
}

impl File {
    /// A write begins; `token` names it.
    pub fn write(&mut self, token: u32, offset: u64, bytes: Vec<u8>) {
        self.pending.push((token, offset, bytes));
    }

    pub fn put(&mut self, offset: u64, bytes: &[u8]) {
        let at = offset as usize;
        if self.bytes.len() < at + bytes.len() {
            self.bytes.resize(at + bytes.len(), 0);
        }
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Writes of `token` are durable. False: none was pending.
    pub fn durable(&mut self, token: u32) -> bool {
        let mut any = false;
        let mut i = 0;
        while i < self.pending.len() {
            if self.pending[i].0 == token {
                let (_, offset, bytes) = self.pending.remove(i);
                self.put(offset, &bytes);
                any = true;
            } else {
                i += 1;
            }
        }
        any
    }

    /// What was not durable is kept, lost, or torn.
    pub fn crash(&mut self, rng: &mut Prng) {
        for (_, offset, bytes) in core::mem::take(&mut self.pending) {
            match rng.below(3) {
                0 => {}
                1 => self.put(offset, &bytes),
                _ => {
                    for (i, sector) in bytes.chunks(SECTOR).enumerate() {
                        if rng.coin() {
                            self.put(offset + (i * SECTOR) as u64, sector);
                        }
                    }
                }
            }
        }
    }
}
