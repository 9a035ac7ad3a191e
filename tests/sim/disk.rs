//! An array's disks. Volumes: I/O takes its time, takes effect at some instant in between, and a
//! crash of the machine decides at random (sector by sector) what of the I/O under way happened.
//! Files of `data_dir`: a write is durable when it completes; until then a crash may lose, keep or
//! tear it.

use twinlun::block::{BLOCKS_PER_PHYSICAL, Extent, StoreResult};
use twinlun::mirror::SyncId;

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
    /// A flush that no command asked for.
    Sync(SyncId),
    /// What is cached and not on the medium any more is forgotten.
    Forget(SyncId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Compare,
    Write,
    /// Into the cache of a memory volume; on the medium after a flush.
    CachedWrite,
    Flush,
    /// Blocks that a failed flush dropped read as the medium has them.
    Forget,
}

impl Kind {
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::CachedWrite)
    }
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
            (Self::Full, Kind::Write | Kind::CachedWrite) => Some(StoreResult::NoSpace),
            (Self::Full, Kind::Flush) | (_, Kind::Forget) => None,
            (_, Kind::Write | Kind::CachedWrite | Kind::Flush) | (Self::Everything, _) => {
                Some(StoreResult::Failed)
            }
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
    /// Of a flush: the blocks it writes, one bit each.
    flushes: u64,
    /// When it is over, once it was submitted.
    pub done_at: u64,
    pub result: StoreResult,
}

pub type IoId = u32;

pub struct Store<O> {
    /// Content of each volume's blocks of interest.
    pub volumes: Vec<Vec<Stamp>>,
    /// Of memory volumes: what of it is on the medium.
    pub stable: Vec<Vec<Stamp>>,
    /// Which volumes have a cache.
    pub cached: Vec<bool>,
    /// Blocks that a failed flush has dropped: they read as before, and no later flush writes them.
    dropped: Vec<Vec<bool>>,
    /// First blocks of the physical blocks that cannot be read until they are written whole, by volume.
    pub bad: Vec<Vec<u64>>,
    slots: Vec<Option<Io<O>>>,
    free: Vec<IoId>,
}

impl<O: Copy> Store<O> {
    pub fn new(volumes: usize, blocks: usize) -> Self {
        let (bad, slots, free) = (vec![Vec::new(); volumes], Vec::new(), Vec::new());
        let (cached, dropped) = (vec![false; volumes], vec![vec![false; blocks]; volumes]);
        let stable = vec![vec![0; blocks]; volumes];
        Self { volumes: vec![vec![0; blocks]; volumes], stable, cached, dropped, bad, slots, free }
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
            flushes: 0,
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
        if io.kind == Kind::Forget {
            return;
        }
        if io.kind == Kind::Flush {
            let v = usize::from(io.volume);
            io.flushes = unflushed(&self.volumes[v], &self.stable[v], &self.dropped[v]);
            return;
        }
        let bad = &self.bad[usize::from(io.volume)];
        let reads = if io.kind.changes() { io.extent } else { io.extent.physical() };
        let met = bad.iter().map(|lba| Extent::new(*lba, BLOCKS_PER_PHYSICAL)).any(|block| {
            let covered = reads.lba <= block.lba && block.end() <= reads.end();
            reads.overlaps(block) && (!io.kind.changes() || !covered)
        });
        if met && io.result == StoreResult::Done {
            io.result = StoreResult::Failed;
        }
        if !io.kind.changes() {
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
        let v = usize::from(io.volume);
        let (stable, dropped) = (&mut self.stable[v], &mut self.dropped[v]);
        let blocks = &mut self.volumes[v];
        match io.kind {
            Kind::Forget => {
                for index in (0..blocks.len()).filter(|index| core::mem::take(&mut dropped[*index])) {
                    blocks[index] = stable[index];
                }
                let span = crate::layout::Span { first: 0, count: blocks.len() as _ };
                Some((io.volume, Payload { span, ..Payload::default() }))
            }
            Kind::Flush => {
                let covered = (0..blocks.len()).filter(|index| io.flushes >> index & 1 == 1);
                for index in covered {
                    if io.result == StoreResult::Done {
                        stable[index] = blocks[index];
                    } else {
                        dropped[index] |= stable[index] != blocks[index];
                    }
                }
                None
            }
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
            Kind::Write | Kind::CachedWrite => {
                if io.result != StoreResult::Done {
                    for (slot, (index, stamp)) in io.payload.iter().enumerate() {
                        if io.torn >> slot & 1 == 1 {
                            blocks[index] = stamp;
                            stable[index] = stamp;
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
                for index in touched.range() {
                    dropped[index] = false;
                    if io.kind == Kind::Write {
                        stable[index] = blocks[index];
                    }
                }
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
            if io.effective || io.done_at == 0 || !io.kind.changes() || io.result != StoreResult::Done {
                continue;
            }
            let fate = rng.below(3);
            for (index, stamp) in io.payload.iter() {
                if fate == 1 || (fate == 2 && rng.coin()) {
                    self.volumes[usize::from(io.volume)][index] = stamp;
                    if io.kind == Kind::Write {
                        self.stable[usize::from(io.volume)][index] = stamp;
                    }
                    changed.push((io.volume, index));
                }
            }
        }
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }
}

impl<O> Store<O> {
    /// The cache is gone; `written_back` of eight of its blocks are on the medium.
    pub fn lose_cache(&mut self, rng: &mut Prng, written_back: u64, changed: &mut Vec<(u8, usize)>) {
        for v in 0..self.volumes.len() {
            for index in 0..self.volumes[v].len() {
                if !self.cached[v] || self.volumes[v][index] == self.stable[v][index] {
                    continue;
                }
                if rng.below(8) < written_back && !self.dropped[v][index] {
                    self.stable[v][index] = self.volumes[v][index];
                } else {
                    self.volumes[v][index] = self.stable[v][index];
                    changed.push((v as u8, index));
                }
            }
            self.dropped[v].fill(false);
        }
    }

    /// The cache outlived its process, and is written back; what a failed flush dropped of it is forgotten.
    pub fn flush_all(&mut self, changed: &mut Vec<(u8, usize)>) {
        for v in 0..self.volumes.len() {
            for index in 0..self.volumes[v].len() {
                if core::mem::take(&mut self.dropped[v][index]) {
                    self.volumes[v][index] = self.stable[v][index];
                    changed.push((v as u8, index));
                } else {
                    self.stable[v][index] = self.volumes[v][index];
                }
            }
        }
    }

    /// What is read once everything that a failed flush dropped is forgotten.
    pub fn kept(&self, v: usize, index: usize) -> Stamp {
        if self.dropped[v][index] { self.stable[v][index] } else { self.volumes[v][index] }
    }
}

fn unflushed(blocks: &[Stamp], stable: &[Stamp], dropped: &[bool]) -> u64 {
    let dirty = |index: &usize| blocks[*index] != stable[*index] && !dropped[*index];
    (0..blocks.len()).filter(dirty).fold(0, |mask, index| mask | 1 << index)
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
