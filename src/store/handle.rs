//! A data thread's handle of a volume's data: block requests in, [`StoreResult`] out.
//!
//! Deals with what the store's blocks ask for: transfers that O_DIRECT does not take as they are,
//! holes, zeroes and patterns. Callers never have two writes under way on one physical block of
//! 4 KiB (rule 8), so a read-modify-write needs no lock of its own.

use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use tracing::error;

use super::volume_file::DataFile;
use crate::block::{BLOCK, Extent, Op, Request, StoreResult};
use crate::mutation::{self, Mutation};
use crate::sys::buffer::Buffer;
use crate::sys::engine;

/// Zeroes and patterns are written in pieces of at most this many bytes.
const PIECE: u64 = 1 << 20;

/// When a write is on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Before it is reported done.
    Stable,
    /// After the next flush.
    AtFlush,
}

/// One thread's way to a volume's data. Cloning is cheap; it stays on its thread.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: DataFile,
    io: engine::Handle,
    /// Offsets and lengths of transfers are multiples of this.
    offset_align: u64,
    /// Addresses of transfers are multiples of this.
    memory_align: usize,
}

impl DataFile {
    /// A handle for the calling data thread, by the engine the volume was opened with.
    ///
    /// # Errors
    /// The system's (too many open files).
    pub fn handle(&self) -> io::Result<Handle> {
        let io = engine::Handle::new(&self.inner.raw, self.inner.engine)?;
        let direct = io.direct();
        let offset_align = direct.map_or(1, |d| d.offset as u64);
        Ok(Handle::with_alignment(self.clone(), io, offset_align, direct.map_or(1, |d| d.memory)))
    }

    /// As [`DataFile::handle`], with O_DIRECT's demands as on a disk with 4 KiB blocks.
    ///
    /// # Errors
    /// The system's.
    #[cfg(feature = "testing")]
    pub fn handle_with_large_blocks(&self) -> io::Result<Handle> {
        let io = engine::Handle::new(&self.inner.raw, self.inner.engine)?;
        Ok(Handle::with_alignment(self.clone(), io, u64::from(crate::block::PHYSICAL_BLOCK), 4096))
    }
}

impl Handle {
    fn with_alignment(file: DataFile, io: engine::Handle, offset_align: u64, memory_align: usize) -> Self {
        Self { inner: Rc::new(Inner { file, io, offset_align, memory_align }) }
    }

    /// The volume this is a handle of.
    pub fn file(&self) -> &DataFile {
        &self.inner.file
    }

    /// Every read, write and comparison is over when its future is first polled (files in memory).
    pub fn is_inline(&self) -> bool {
        self.inner.io.is_inline()
    }

    /// [`Handle::execute`] of this request is over when its future is first polled: as
    /// [`Handle::is_inline`], but for large holes, which are punched elsewhere.
    pub fn is_inline_for(&self, request: Request) -> bool {
        let punches = matches!(request.op, Op::Unmap | Op::WriteZeroes | Op::WriteSame);
        self.is_inline() && (!punches || request.extent.bytes() <= engine::PUNCH_INLINE_MAX)
    }

    fn holds(&self, extent: Extent) -> bool {
        extent.lba.checked_add(extent.blocks).is_some_and(|end| end <= self.inner.file.blocks())
    }

    fn failed(&self, what: &str, extent: Extent, source: &io::Error) -> StoreResult {
        let no_space = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        // A broken disk fails every command: the 1st, 2nd, 4th, 8th, ... error is logged.
        let count = self.inner.file.inner.errors.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            error!(
                file = %self.inner.file.path().display(), lba = extent.lba, blocks = extent.blocks, count,
                "{what} failed: {source}"
            );
        }
        if no_space { StoreResult::NoSpace } else { StoreResult::Failed }
    }

    /// Carries out one request on this copy. `data`: Write: the extent's bytes; WriteSame: one
    /// block; CompareAndWrite: both halves, of which the second is written (after
    /// [`Handle::compare`]); else empty. Reads have their own call.
    pub async fn execute(&self, request: Request, data: &Buffer, durability: Durability) -> StoreResult {
        let extent = request.extent;
        match request.op {
            Op::Write => self.write(extent, data, durability).await,
            Op::WriteSame => self.write_same(extent, data, durability).await,
            Op::WriteZeroes | Op::Unmap => self.unmap(extent, durability).await,
            Op::CompareAndWrite => {
                let half = data.len() / 2;
                self.write(extent, &data.slice(half..data.len()), durability).await
            }
            Op::Flush => self.flush().await,
            Op::Read => self.read(extent).await.map_or_else(|failed| failed, |_| StoreResult::Done),
        }
    }

    /// The extent's bytes, if they can be had without waiting; else use [`Handle::read`].
    pub fn try_read_now(&self, extent: Extent) -> Option<Buffer> {
        if self.inner.io.direct().is_some() || !self.holds(extent) {
            return None;
        }
        #[cfg(feature = "testing")]
        if super::fault::read_fails(self.inner.file.path(), extent) {
            return None;
        }
        let mut buffer = Buffer::with_len(usize::try_from(extent.bytes()).ok()?);
        let bytes = buffer.as_mut_slice()?;
        (bytes.is_empty() || self.inner.io.try_read_now(bytes, extent.offset())).then_some(buffer)
    }

    /// The extent's bytes.
    ///
    /// # Errors
    /// `Failed`: the store cannot read them, or the extent lies outside.
    pub async fn read(&self, extent: Extent) -> Result<Buffer, StoreResult> {
        if !self.holds(extent) {
            return Err(StoreResult::Failed);
        }
        if extent.blocks == 0 {
            return Ok(Buffer::empty());
        }
        let whole = self.widened(extent);
        #[cfg(feature = "testing")]
        if super::fault::read_fails(self.inner.file.path(), whole) {
            return Err(self.failed("read", extent, &io::Error::other("a bad block, for the test")));
        }
        let read = match usize::try_from(whole.bytes()) {
            Ok(len) => self.inner.io.read(Buffer::with_len(len), whole.offset()).await,
            Err(_) => Err(io::ErrorKind::InvalidInput.into()),
        };
        match read {
            Ok(buffer) if whole == extent => Ok(buffer),
            Ok(buffer) => {
                let skip = usize::try_from(extent.offset() - whole.offset()).unwrap_or(0); // less than 4096
                let len = usize::try_from(extent.bytes()).unwrap_or(0); // less than buffer.len()
                Ok(buffer.slice(skip..skip + len))
            }
            Err(error) => Err(self.failed("read", extent, &error)),
        }
    }

    /// The extent widened to what a transfer takes. Stays inside the volume: its size is a multiple
    /// of the physical block.
    fn widened(&self, extent: Extent) -> Extent {
        let align = self.inner.offset_align;
        let whole = extent.offset().is_multiple_of(align) && extent.bytes().is_multiple_of(align);
        if whole { extent } else { extent.physical() }
    }

    /// Writes `data`, which is exactly the extent's bytes.
    pub async fn write(&self, extent: Extent, data: &Buffer, durability: Durability) -> StoreResult {
        if !self.holds(extent) || extent.bytes() != data.len() as u64 {
            return StoreResult::Failed;
        }
        if extent.blocks == 0 {
            return StoreResult::Done;
        }
        match self.write_aligned(extent, data, durability).await {
            Ok(()) => StoreResult::Done,
            Err(error) => self.failed("write", extent, &error),
        }
    }

    async fn write_aligned(&self, extent: Extent, data: &Buffer, durability: Durability) -> io::Result<()> {
        let stable = durability == Durability::Stable && !mutation::on(Mutation::StoreWriteNotStable);
        let written = self.write_blocks(extent, data, stable).await;
        if stable && written.is_ok() {
            self.inner.file.is_written();
        }
        written
    }

    async fn write_blocks(&self, extent: Extent, data: &Buffer, stable: bool) -> io::Result<()> {
        let whole = self.widened(extent);
        #[cfg(feature = "testing")]
        if !super::fault::may_write(self.inner.file.path(), extent) {
            return Err(io::Error::other("a bad block, for the test"));
        }
        #[cfg(feature = "testing")]
        super::fault::disk_works()?;
        if whole == extent {
            let data = if data.alignment() >= self.inner.memory_align {
                data.clone()
            } else {
                Buffer::copy_of(data.as_slice())
            };
            return self.inner.io.write(data, extent.offset(), stable).await;
        }
        // Read-modify-write of the physical blocks; the ledger lets nobody else write them now.
        let len = usize::try_from(whole.bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut buffer = self.inner.io.read(Buffer::with_len(len), whole.offset()).await?;
        let skip = usize::try_from(extent.offset() - whole.offset()).unwrap_or(0); // less than 4096
        if let Some(bytes) = buffer.as_mut_slice().and_then(|bytes| bytes.get_mut(skip..skip + data.len())) {
            bytes.copy_from_slice(data.as_slice());
        }
        self.inner.io.write(buffer, whole.offset(), stable).await
    }

    /// Writes one block of data over the whole extent (SBC-4 WRITE SAME). Zeroes punch a hole.
    pub async fn write_same(&self, extent: Extent, block: &Buffer, durability: Durability) -> StoreResult {
        if block.len() != BLOCK as usize {
            return StoreResult::Failed;
        }
        if block.as_slice().iter().all(|&byte| byte == 0) {
            return self.unmap(extent, durability).await;
        }
        if !self.holds(extent) {
            return StoreResult::Failed;
        }
        let piece = extent.bytes().min(PIECE);
        let mut pattern = Buffer::with_len(usize::try_from(piece).unwrap_or(0)); // at most PIECE
        for part in
            pattern.as_mut_slice().into_iter().flat_map(|bytes| bytes.chunks_exact_mut(BLOCK as usize))
        {
            part.copy_from_slice(block.as_slice());
        }
        self.write_pieces(extent, &pattern, durability).await
    }

    /// Writes `pattern` (whole blocks, all alike) over the extent again and again.
    async fn write_pieces(&self, extent: Extent, pattern: &Buffer, durability: Durability) -> StoreResult {
        let step = pattern.len() as u64 / u64::from(BLOCK);
        let mut at = extent.lba;
        while at < extent.end() {
            let part = Extent::new(at, step.min(extent.end() - at));
            let len = usize::try_from(part.bytes()).unwrap_or(0); // at most pattern.len()
            match self.write(part, &pattern.slice(0..len), durability).await {
                StoreResult::Done => at = part.end(),
                other => return other,
            }
        }
        StoreResult::Done
    }

    /// The extent reads as zeroes afterwards; whole physical blocks give their space back, unless the
    /// volume is fully provisioned.
    pub async fn unmap(&self, extent: Extent, durability: Durability) -> StoreResult {
        if !self.holds(extent) {
            return StoreResult::Failed;
        }
        let (head, hole, tail) = split_at_physical(extent);
        for edge in [head, tail] {
            if edge.blocks > 0 {
                let zeroes = Buffer::zeroed(usize::try_from(edge.bytes()).unwrap_or(0)); // below 8 KiB
                match self.write(edge, &zeroes, durability).await {
                    StoreResult::Done => {}
                    other => return other,
                }
            }
        }
        if hole.blocks == 0 {
            return StoreResult::Done;
        }
        let punched = if self.inner.file.inner.keeps_space.load(Ordering::Relaxed) {
            Ok(false)
        } else {
            self.inner.io.punch(hole.offset(), hole.bytes()).await
        };
        match punched {
            Ok(true) if durability == Durability::Stable => self.flush().await,
            Ok(true) => StoreResult::Done,
            Ok(false) => {
                let zeroes = Buffer::zeroed(usize::try_from(hole.bytes().min(PIECE)).unwrap_or(0));
                self.write_pieces(hole, &zeroes, durability).await
            }
            Err(error) => self.failed("unmap", extent, &error),
        }
    }

    /// Everything reported done before is on stable storage afterwards.
    pub async fn flush(&self) -> StoreResult {
        if mutation::on(Mutation::StoreFlushSkipped) {
            return StoreResult::Done;
        }
        match self.inner.io.flush().await {
            Ok(()) => {
                self.inner.file.is_written();
                StoreResult::Done
            }
            Err(error) => self.failed("flush", Extent::new(0, 0), &error),
        }
    }

    /// Compares the extent with `expected` (at least its bytes; what follows is not looked at):
    /// `Done` when equal, `Differs` with the offset of the first difference.
    pub async fn compare(&self, extent: Extent, expected: &Buffer) -> StoreResult {
        let found = match self.read(extent).await {
            Ok(found) => found,
            Err(failed) => return failed,
        };
        let Some(expected) = expected.as_slice().get(..found.len()) else { return StoreResult::Failed };
        match found.as_slice().iter().zip(expected).position(|(found, expected)| found != expected) {
            None => StoreResult::Done,
            Some(offset) => StoreResult::Differs { offset: u32::try_from(offset).unwrap_or(u32::MAX) },
        }
    }

    /// The first part of the extent that holds data, widened to physical blocks and clipped to the
    /// extent; `None`: all of it is a hole, and reads as zeroes. For resync, which sends holes as
    /// what they are.
    ///
    /// # Errors
    /// `Failed`: the store cannot tell.
    pub async fn next_data(&self, extent: Extent) -> Result<Option<Extent>, StoreResult> {
        if !self.holds(extent) {
            return Err(StoreResult::Failed);
        }
        let (start, end) = (extent.offset(), extent.offset() + extent.bytes());
        match self.inner.io.next_data(start, end).await {
            Ok(None) => Ok(None),
            Ok(Some((from, to))) => {
                let first = (from / u64::from(BLOCK)).max(extent.lba);
                let found = Extent::new(first, to.div_ceil(u64::from(BLOCK)) - first).physical();
                let first = found.lba.max(extent.lba);
                Ok(Some(Extent::new(first, found.end().min(extent.end()) - first)))
            }
            Err(error) => Err(self.failed("looking for data", extent, &error)),
        }
    }
}

/// An extent as (blocks before the first whole physical block, whole physical blocks, the rest).
fn split_at_physical(extent: Extent) -> (Extent, Extent, Extent) {
    let per = crate::block::BLOCKS_PER_PHYSICAL;
    let first = extent.lba.next_multiple_of(per).min(extent.end());
    let last = (extent.end() / per * per).max(first);
    (
        Extent::new(extent.lba, first - extent.lba),
        Extent::new(first, last - first),
        Extent::new(last, extent.end() - last),
    )
}

#[cfg(test)]
#[path = "handle_tests.rs"]
mod tests;
