//! What a copy held when its mirror was lost, kept while the copy is brought up to date again: until
//! then it is a mixture of old and new, and if the other array is lost for good in the middle, the
//! old image is all that is whole (FAILURES F14).
//!
//! A sparse file beside the volume's. A region is copied into it once, before the first write into
//! that region, and is there for good before that write begins:
//!
//! ```text
//! 0             4096                      data                       data + size of the volume
//! | header page | 16 bytes for each region | the regions, each at its own offset |
//! ```
//! Where the file system can share blocks between files (XFS, btrfs), the regions' part is made all at once
//! when the image is begun, as a *checkpoint* (reflink) of the volume's file, flushed; then only entries are written
//! for what is overwritten, and it comes back in the same way. Elsewhere, and where sharing is refused,
//! each region is copied.
//!
//! A region's entry is written, and flushed, after its content was: an entry that is there tells the
//! truth, and a region without one was not touched. The header tells the cut (`mirror::before`) that the
//! image is of; whether it counts stands in the group's register. Where nothing is worth keeping (a
//! blank copy), the header says *void*: that the copy was blank stays known over restarts.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::block::{BLOCK, Extent, Op, Request, StoreResult};
use crate::format::{Format, Slots, slots::SLOT_UNIT};
use crate::mirror::{REGION_BLOCKS, VolumeId};
use crate::mutation::{self, Mutation};
use crate::sys::buffer::Buffer;
use crate::sys::directory;
use crate::sys::engine::Engine;
use crate::sys::file::{Access, RawFile};
use crate::sys::pool;

use super::data_dir::sync_directory_of;
use super::handle::{Durability, Handle};
use super::volume_file::DataFile;

const HEADER: Slots =
    Slots { format: Format { magic: *b"TWLNBEF\0", version: 2, readable_from: 2 }, slot_len: SLOT_UNIT };
/// Two slots.
const HEADER_LEN: u64 = 2 * SLOT_UNIT as u64;
const ENTRY: u64 = 16;
const ENTRY_MAGIC: [u8; 4] = *b"KEPT";
/// Between a volume's path and the number of its image.
const INFIX: &str = ".before.";

/// A copy's content as it was; clones share it.
#[derive(Clone, Debug)]
pub struct BeforeImage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: RawFile,
    header: Header,
    regions: Mutex<Regions>,
    changed: Notify,
}

/// What an image is made for.
#[derive(Clone, Copy, Debug)]
pub struct New {
    pub id: VolumeId,
    pub blocks: u64,
    /// Which content it is of.
    pub cut: u64,
    /// When the copy was known to be in sync last, in seconds since 1970.
    pub as_of: Option<u64>,
    /// The copy is blank.
    pub void: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    id: VolumeId,
    blocks: u64,
    /// When the copy was known to be in sync last, in seconds since 1970; zero: not known.
    as_of: u64,
    /// The copy was blank: nothing is kept of it.
    void: bool,
    /// Holds what every region held from the start, by shared blocks.
    checkpoint: bool,
    cut: u64,
}

impl Header {
    fn encode(&self, sequence: u64) -> Vec<u8> {
        let mut body = self.id.0.to_vec();
        body.extend_from_slice(&self.blocks.to_le_bytes());
        body.extend_from_slice(&self.as_of.to_le_bytes());
        body.push(u8::from(self.void));
        body.extend_from_slice(&self.cut.to_le_bytes());
        body.push(u8::from(self.checkpoint));
        HEADER.encode(sequence, &body).unwrap_or_default() // 42 bytes fit in any slot
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let newest = HEADER.decode(bytes).ok()?;
        let (id, rest) = newest.body.split_first_chunk::<16>()?;
        let (blocks, rest) = rest.split_first_chunk::<8>()?;
        let (as_of, rest) = rest.split_first_chunk::<8>()?;
        let (void, rest) = rest.split_first()?;
        Some(Self {
            id: VolumeId(*id),
            blocks: u64::from_le_bytes(*blocks),
            as_of: u64::from_le_bytes(*as_of),
            void: *void != 0,
            cut: u64::from_le_bytes(*rest.first_chunk()?),
            checkpoint: rest.get(8).is_some_and(|&byte| byte != 0),
        })
    }
}

#[derive(Debug, Default)]
struct Regions {
    kept: BTreeSet<u64>,
    /// On their way into the file.
    busy: BTreeSet<u64>,
}

/// What a file beside a volume's turned out to be.
enum Opened {
    Image(BeforeImage),
    /// A crash came before its header.
    Blank,
    Foreign,
}

/// What is to be done about a region.
enum Turn {
    Kept,
    Busy,
    Yours,
}

/// Where the images of the volume at `path` are looked for.
fn siblings(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|file| file.strip_prefix(name)?.strip_prefix(INFIX)?.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a file of a volumes' directory is an image of this kind.
pub fn is_before_image(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.rsplit_once(INFIX).is_some_and(|(_, number)| number.parse::<u64>().is_ok()))
}

impl BeforeImage {
    /// Makes an image beside the volume's file, with nothing in it yet, or as a checkpoint of `shared`, the
    /// volume's own file, where that may share blocks and the file system can. Durable when it returns. Blocks.
    ///
    /// # Errors
    /// The system's: a full disk, a volume as large as a file may be.
    pub fn create(volume: &Path, new: New, engine: Engine, shared: Option<&RawFile>) -> io::Result<Self> {
        let New { id, blocks, cut, as_of, void } = new;
        let mut header = Header { id, blocks, as_of: as_of.unwrap_or(0), void, cut, checkpoint: false };
        let number = siblings(volume)?.last().map_or(1, |(number, _)| number + 1);
        let mut name = volume.as_os_str().to_owned();
        name.push(format!("{INFIX}{number}"));
        let path = PathBuf::from(name);
        let access = Access { create_new: true, volatile: engine.is_volatile(), ..Access::default() };
        let file = RawFile::open(&path, access)?;
        let made = (|| {
            file.set_len(if void { HEADER_LEN } else { data_start(blocks) + blocks * u64::from(BLOCK) })?;
            if let Some(volume) = shared.filter(|_| !void) {
                let len = blocks * u64::from(BLOCK);
                header.checkpoint = file.clone_from(data_start(blocks), volume, 0, len)?;
            }
            let slot = header.encode(1);
            file.write_at(&[&slot[..], &slot[..]].concat(), 0, false)?;
            if !mutation::on(Mutation::BeforeHeaderNotFlushed) {
                file.sync_data()?;
            }
            sync_directory_of(&path, Mutation::VolumeNameNotSynced)
        })();
        if let Err(error) = made {
            // It holds nothing yet; best effort.
            let _ = directory::remove(&path, engine.is_volatile());
            return Err(error);
        }
        Ok(Self::new(file, header, BTreeSet::new()))
    }

    fn new(file: RawFile, header: Header, kept: BTreeSet<u64>) -> Self {
        let regions = Mutex::new(Regions { kept, busy: BTreeSet::new() });
        Self(Arc::new(Inner { file, header, regions, changed: Notify::new() }))
    }

    /// The copy was blank, and nothing is kept of it.
    pub fn is_void(&self) -> bool {
        self.0.header.void
    }

    /// Which content it is of.
    pub fn cut(&self) -> u64 {
        self.0.header.cut
    }

    /// The image that a former life has left beside the volume's file; older ones, and what a
    /// crash left of one that was being made, are removed. Blocks.
    ///
    /// # Errors
    /// The system's. An image of another volume is none of ours, and is left alone.
    pub fn find(volume: &Path, id: VolumeId, blocks: u64, engine: Engine) -> io::Result<Option<Self>> {
        let mut newest = None;
        for (_, path) in siblings(volume)?.into_iter().rev() {
            match Self::open(&path, id, blocks, engine)? {
                Opened::Image(image) if newest.is_none() => newest = Some(image),
                Opened::Image(older) => older.remove()?,
                Opened::Blank => directory::remove(&path, engine.is_volatile())?,
                Opened::Foreign => {
                    tracing::warn!(path = %path.display(), "holds no image of this volume; left alone");
                }
            }
        }
        Ok(newest)
    }

    fn open(path: &Path, id: VolumeId, blocks: u64, engine: Engine) -> io::Result<Opened> {
        let file = RawFile::open(path, Access { volatile: engine.is_volatile(), ..Access::default() })?;
        let size = file.size()?;
        let mut header = vec![0; HEADER.file_len()];
        if size >= HEADER_LEN {
            file.read_at(&mut header, 0)?;
        }
        let Some(header) = Header::decode(&header) else {
            let blank = header.iter().all(|&byte| byte == 0) && file.next_data(0, size)?.is_none();
            return Ok(if blank { Opened::Blank } else { Opened::Foreign });
        };
        // A copy that is smaller than the primary's may have grown since.
        if header.id != id || header.blocks > blocks {
            return Ok(Opened::Foreign);
        }
        let blocks = header.blocks;
        if !header.void && size < data_start(blocks) + blocks * u64::from(BLOCK) {
            return Ok(Opened::Foreign);
        }
        let mut kept = BTreeSet::new();
        if header.void {
            return Ok(Opened::Image(Self::new(file, header, kept)));
        }
        let (mut at, end) = (HEADER_LEN, data_start(blocks));
        while let Some((start, stop)) = file.next_data(at, end)? {
            // Of a sparse index only what is there is read, a MiB at a time.
            let from = start / ENTRY * ENTRY;
            let stop = stop.min(from + (1 << 20));
            let mut entries = vec![0; usize::try_from(stop - from).unwrap_or(0)]; // at most a MiB
            file.read_at(&mut entries, from)?;
            for (entry, index) in entries.chunks(16).zip((from - HEADER_LEN) / ENTRY..) {
                if *entry == entry_of(index) {
                    kept.insert(index);
                }
            }
            at = stop;
        }
        Ok(Opened::Image(Self::new(file, header, kept)))
    }

    /// When the copy was known to be in sync last, in seconds since 1970; `None`: before the array
    /// was started last.
    pub fn as_of(&self) -> Option<u64> {
        Some(self.0.header.as_of).filter(|as_of| *as_of != 0)
    }

    fn lock(&self) -> MutexGuard<'_, Regions> {
        self.0.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Regions kept, ascending.
    pub fn regions(&self) -> Vec<u64> {
        self.lock().kept.iter().copied().collect()
    }

    /// Sees to it that every region of `extent` is kept as it was; then it may be written to.
    /// `handle`: of the volume, on the calling data thread.
    ///
    /// # Errors
    /// What could not be read or stored; the region must not be written to on the strength of it.
    pub async fn keep(&self, handle: &Handle, extent: Extent) -> io::Result<()> {
        // What a growth added since held nothing.
        let extent =
            Extent::new(extent.lba, extent.blocks.min(self.0.header.blocks.saturating_sub(extent.lba)));
        if extent.blocks == 0 {
            return Ok(());
        }
        for region in extent.lba / REGION_BLOCKS..extent.end().div_ceil(REGION_BLOCKS) {
            loop {
                let changed = self.0.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                match self.turn(region) {
                    Turn::Kept => break,
                    Turn::Busy => changed.await,
                    Turn::Yours => {
                        let copied = self.copy(handle, region).await;
                        let mut regions = self.lock();
                        regions.busy.remove(&region);
                        if copied.is_ok() {
                            regions.kept.insert(region);
                        }
                        drop(regions);
                        self.0.changed.notify_waiters();
                        copied?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn turn(&self, region: u64) -> Turn {
        let mut regions = self.lock();
        if self.0.header.void || regions.kept.contains(&region) {
            Turn::Kept
        } else if regions.busy.insert(region) {
            Turn::Yours
        } else {
            Turn::Busy
        }
    }

    fn extent(&self, region: u64) -> Extent {
        let lba = region * REGION_BLOCKS;
        Extent::new(lba, REGION_BLOCKS.min(self.0.header.blocks.saturating_sub(lba)))
    }

    async fn copy(&self, handle: &Handle, region: u64) -> io::Result<()> {
        if self.is_checkpoint() {
            let image = self.clone();
            return pool::run(move || image.store(region, &[])).await?;
        }
        let whole = self.extent(region);
        let mut pieces = Vec::new();
        let mut at = whole.lba;
        let failed = |_| io::Error::other("the region cannot be read");
        while let Some(data) = handle.next_data(Extent::new(at, whole.end() - at)).await.map_err(failed)? {
            pieces.push((data.offset(), handle.read(data).await.map_err(failed)?));
            at = data.end();
            if at >= whole.end() {
                break;
            }
        }
        let image = self.clone();
        pool::run(move || image.store(region, &pieces)).await?
    }

    /// Content first, its entry when that is there for good.
    fn store(&self, region: u64, pieces: &[(u64, Buffer)]) -> io::Result<()> {
        let Inner { file, header, .. } = &*self.0;
        for (offset, piece) in pieces {
            file.write_at(piece.as_slice(), data_start(header.blocks) + offset, false)?;
        }
        if !pieces.is_empty() {
            self.settle_content()?;
        }
        self.enter(region)?;
        if mutation::on(Mutation::BeforeEntryNotFlushed) {
            return Ok(());
        }
        file.sync_data()
    }

    fn settle_content(&self) -> io::Result<()> {
        if mutation::on(Mutation::BeforeContentNotFlushed) {
            return Ok(());
        }
        self.0.file.sync_data()
    }

    fn enter(&self, region: u64) -> io::Result<()> {
        self.0.file.write_at(&entry_of(region), HEADER_LEN + region * ENTRY, false)
    }

    /// Writes every region that was kept back into the volume. It may be cut off and begun again any
    /// number of times: the image stays as it is. Nobody else writes to the volume meanwhile.
    ///
    /// # Errors
    /// What could not be read or written.
    pub async fn restore(&self, handle: &Handle) -> Result<u64, StoreResult> {
        let mut count = 0;
        for region in self.regions() {
            let whole = self.extent(region);
            if self.is_checkpoint() {
                let (image, file) = (self.clone(), handle.file().clone());
                let shared = pool::run(move || image.share_back(&file, whole)).await;
                if shared.and_then(|shared| shared).unwrap_or(false) {
                    count += 1;
                    continue;
                }
            }
            let image = self.clone();
            let pieces = pool::run(move || image.load(whole)).await;
            let pieces = pieces.and_then(|pieces| pieces).map_err(|error| {
                tracing::error!(path = %self.0.file.path().display(), region, %error, "a kept region cannot be read");
                StoreResult::Failed
            })?;
            let unmap = Request { op: Op::Unmap, extent: whole };
            done(handle.execute(unmap, &Buffer::empty(), Durability::AtFlush).await)?;
            for (extent, piece) in pieces {
                done(handle.write(extent, &piece, Durability::AtFlush).await)?;
            }
            count += 1;
        }
        done(handle.flush().await)?;
        Ok(count)
    }

    /// Makes a region of the volume what this checkpoint holds of it. False: copy it.
    fn share_back(&self, volume: &DataFile, whole: Extent) -> io::Result<bool> {
        let from = data_start(self.0.header.blocks) + whole.offset();
        volume.inner.lock.clone_from(whole.offset(), &self.0.file, from, whole.bytes())
    }

    /// Whether it shares its blocks with the volume.
    pub fn is_checkpoint(&self) -> bool {
        self.0.header.checkpoint
    }

    fn load(&self, whole: Extent) -> io::Result<Vec<(Extent, Buffer)>> {
        let Inner { file, header, .. } = &*self.0;
        let start = data_start(header.blocks);
        let (mut at, end) = (start + whole.offset(), start + whole.offset() + whole.bytes());
        let mut pieces = Vec::new();
        while let Some((from, to)) = file.next_data(at, end)? {
            let first = (from - start) / u64::from(BLOCK);
            let extent = Extent::new(first, (to - start).div_ceil(u64::from(BLOCK)) - first);
            let mut piece = Buffer::with_len(usize::try_from(extent.bytes()).unwrap_or(0)); // at most a region
            let bytes = piece.as_mut_slice().ok_or(io::ErrorKind::OutOfMemory)?;
            file.read_at(bytes, start + extent.offset())?;
            pieces.push((extent, piece));
            at = to;
        }
        Ok(pieces)
    }

    /// Removes the image, durably; whoever still has it open keeps nothing that counts. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub fn remove(&self) -> io::Result<()> {
        directory::remove(self.0.file.path(), self.0.file.access().volatile)?;
        sync_directory_of(self.0.file.path(), Mutation::VolumeRemovalNotSynced)
    }
}

fn done(result: StoreResult) -> Result<(), StoreResult> {
    if result == StoreResult::Done { Ok(()) } else { Err(result) }
}

/// Where the regions begin: behind the entries, at a whole page.
const fn data_start(blocks: u64) -> u64 {
    HEADER_LEN + (blocks.div_ceil(REGION_BLOCKS) * ENTRY).next_multiple_of(4096)
}

fn entry_of(region: u64) -> [u8; 16] {
    let mut entry = [0; 16];
    let (magic, rest) = entry.split_at_mut(4);
    magic.copy_from_slice(&ENTRY_MAGIC);
    let (number, check) = rest.split_at_mut(8);
    number.copy_from_slice(&region.to_le_bytes());
    // Foreign bytes that look like an entry would have to know this, too.
    check.copy_from_slice(&crate::format::checksum(&region.to_le_bytes(), &ENTRY_MAGIC).to_le_bytes());
    entry
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod checkpoint_tests;
#[cfg(test)]
#[path = "before_tests.rs"]
mod tests;
