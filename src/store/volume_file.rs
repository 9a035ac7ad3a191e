//! The data of one virtual volume: a sparse file or a block device.
//!
//! Data begins at offset 0. Behind it, in the last 8 KiB of the file or device, stands the
//! volume's record (magic, UUID, size), so that a blank, foreign or exchanged disk is noticed
//! wherever it turns up. A [`DataFile`] is the open, locked volume; each data thread takes its own
//! [`Handle`](super::Handle) of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use thiserror::Error;

use crate::block::{BLOCK, PHYSICAL_BLOCK};
use crate::format::{Format, SlotError, Slots, slots::SLOT_UNIT};
use crate::mirror::VolumeId;
use crate::mutation::{self, Mutation};
use crate::sys::directory;
use crate::sys::engine::Engine;
use crate::sys::file::{Access, Medium, RawFile};

use super::before::{BeforeImage, New as NewImage};
use super::data_dir::sync_directory_of;

pub(super) const RECORD: Slots =
    Slots { format: Format { magic: *b"TWLNVOL\0", version: 1, readable_from: 1 }, slot_len: SLOT_UNIT };

/// Bytes behind the data that a volume's record takes.
pub const TRAILER: u64 = 2 * SLOT_UNIT as u64;

/// What is looked at before a block device is taken for blank: where labels, partition tables and
/// file systems have their first marks.
const BLANK_PROBE: usize = 1 << 20;

/// Whose data a file holds. A volume whose disk was exchanged gets a new copy number, so that the old disk,
/// when it turns up again, is not taken for the present one: it lacks what was written since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub id: VolumeId,
    /// 0: the first copy.
    pub copy: u64,
}

impl From<VolumeId> for Stamp {
    fn from(id: VolumeId) -> Self {
        Self { id, copy: 0 }
    }
}

/// Why a data file is not made or not taken.
#[derive(Debug, Error)]
pub enum VolumeFileError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} exists already; remove it or choose another path", path = path.display())]
    Exists { path: PathBuf },
    #[error("{path}: a volume of {asked} bytes does not fit; the limit here is {limit} bytes", path = path.display())]
    TooLarge { path: PathBuf, asked: u64, limit: u64 },
    #[error("{path}: the size {asked} is not a positive multiple of {PHYSICAL_BLOCK} bytes", path = path.display())]
    BadSize { path: PathBuf, asked: u64 },
    #[error("{path}: no space left for it", path = path.display())]
    NoSpace { path: PathBuf },
    #[error("{path} is in use by another process", path = path.display())]
    Locked { path: PathBuf },
    #[error("{path} is not blank (something begins in its first MiB or stands in its last 8 KiB); clear it with `wipefs -a` and `blkdiscard` if its content may go", path = path.display())]
    NotBlank { path: PathBuf },
    /// A new, replaced or wiped disk: holds no volume at all.
    #[error("{path} holds no volume (its record {source})", path = path.display())]
    NoVolume { path: PathBuf, source: SlotError },
    #[error("{path} holds another volume ({found}, expected {expected})", path = path.display())]
    OtherVolume { path: PathBuf, found: String, expected: String },
    #[error("{path} holds something else than this volume; move it away, or give the volume's data another path", path = path.display())]
    Foreign { path: PathBuf },
    #[error("{path} holds an older copy of this volume, from before its disk was exchanged", path = path.display())]
    OlderCopy { path: PathBuf },
    #[error("{path} holds {found} bytes of data, expected {expected}", path = path.display())]
    OtherSize { path: PathBuf, found: u64, expected: u64 },
}

/// The open, locked data of one volume; clones share it.
#[derive(Clone, Debug)]
pub struct DataFile {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// Holds the lock for as long as the volume is open; never O_DIRECT.
    pub(super) lock: RawFile,
    /// What the data threads' handles are made of.
    pub(super) raw: RawFile,
    pub(super) engine: Engine,
    /// Bytes of data; grows.
    size: AtomicU64,
    stamp: Stamp,
    /// I/O errors so far; bounds what is logged.
    pub(super) errors: AtomicU64,
    /// Fully provisioned: space once taken is not given back.
    pub(super) keeps_space: AtomicBool,
    /// What the names of images begin with, where that is not the volume's own path.
    images_at: OnceLock<PathBuf>,
    /// Something became stable here since the flag was last taken.
    pub(super) wrote: AtomicBool,
    /// Held while the volume grows.
    pub(super) record: Mutex<()>,
    /// The device that the content lies on.
    device: u64,
}

impl DataFile {
    /// Makes the volume's data: a sparse file at `path` (which must not exist), or the block device
    /// `path` (which must be blank). All of it reads as zeroes. Durable when it returns. Blocks.
    ///
    /// # Errors
    /// See [`VolumeFileError`]; a file that could not be completed is removed again.
    pub fn create(
        path: &Path,
        stamp: impl Into<Stamp>,
        size: u64,
        engine: Engine,
    ) -> Result<Self, VolumeFileError> {
        let id = stamp.into();
        let failed = |source| VolumeFileError::Io { path: path.to_owned(), source };
        if size == 0 || !size.is_multiple_of(u64::from(PHYSICAL_BLOCK)) {
            return Err(VolumeFileError::BadSize { path: path.to_owned(), asked: size });
        }
        if fs::metadata(path).is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_block_device(&m.file_type())) {
            return Self::create_on_device(path, id, size, engine);
        }
        let access = Access { create_new: true, volatile: engine.is_volatile(), ..Access::default() };
        let raw = RawFile::open(path, access).map_err(|source| {
            if source.kind() == io::ErrorKind::AlreadyExists {
                VolumeFileError::Exists { path: path.to_owned() }
            } else {
                failed(source)
            }
        })?;
        let made = Self::fill(&raw, id, size).and_then(|()| {
            sync_directory_of(path, Mutation::VolumeNameNotSynced).map_err(failed)?;
            Self::locked(raw, id, size, engine)
        });
        if made.is_err() {
            // Best effort: the file is ours, new and empty.
            let _ = directory::remove(path, engine.is_volatile());
        }
        made
    }

    fn create_on_device(path: &Path, id: Stamp, size: u64, engine: Engine) -> Result<Self, VolumeFileError> {
        let failed = |source| VolumeFileError::Io { path: path.to_owned(), source };
        let access = Access { exclusive: true, volatile: engine.is_volatile(), ..Access::default() };
        let raw = RawFile::open(path, access).map_err(failed)?;
        let len = whole_blocks(raw.size().map_err(failed)?);
        let limit = len.saturating_sub(TRAILER);
        if size > limit {
            return Err(VolumeFileError::TooLarge { path: path.to_owned(), asked: size, limit });
        }
        let mut probe = vec![0; BLANK_PROBE.min(usize::try_from(len).unwrap_or(BLANK_PROBE))];
        raw.read_at(&mut probe, 0).map_err(failed)?;
        let mut trailer = vec![0; RECORD.file_len()];
        raw.read_at(&mut trailer, limit).map_err(failed)?;
        if probe.iter().chain(&trailer).any(|&byte| byte != 0) {
            return Err(VolumeFileError::NotBlank { path: path.to_owned() });
        }
        write_record(&raw, limit, id, size).map_err(failed)?;
        Self::locked(raw, id, size, engine)
    }

    fn fill(raw: &RawFile, id: Stamp, size: u64) -> Result<(), VolumeFileError> {
        let path = raw.path();
        let sized = size.checked_add(TRAILER).ok_or_else(|| io::ErrorKind::FileTooLarge.into());
        let tried = sized.and_then(|len: u64| {
            raw.set_len(len)?;
            // The last block is written and read back: some file systems promise lengths that
            // they cannot address.
            write_record(raw, size, id, size)?;
            read_record(raw, size)
        });
        match tried {
            Ok(Ok(record)) if record == (id, size) => Ok(()),
            Ok(_) => {
                Err(VolumeFileError::TooLarge { path: path.to_owned(), asked: size, limit: size_limit(raw) })
            }
            Err(source) => Err(match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    VolumeFileError::NoSpace { path: path.to_owned() }
                }
                io::ErrorKind::FileTooLarge | io::ErrorKind::InvalidInput => {
                    let limit = size_limit(raw);
                    VolumeFileError::TooLarge { path: path.to_owned(), asked: size, limit }
                }
                _ => VolumeFileError::Io { path: path.to_owned(), source },
            }),
        }
    }

    /// Takes space for all of the volume, durably, and never gives any of it back: holes are written
    /// as zeroes from now on. Blocks.
    ///
    /// # Errors
    /// `NoSpace`; a file system that cannot reserve space.
    pub fn reserve(&self) -> Result<(), VolumeFileError> {
        let path = || self.path().to_owned();
        self.keep_space();
        if self.inner.lock.medium() == Medium::Device {
            return Ok(());
        }
        let flush = || {
            if mutation::on(Mutation::ReservationNotFlushed) { Ok(()) } else { self.inner.lock.sync_data() }
        };
        let reserved = self.inner.lock.allocate(0, self.size_bytes()).and_then(|()| flush());
        reserved.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                VolumeFileError::NoSpace { path: path() }
            }
            _ => VolumeFileError::Io { path: path(), source },
        })
    }

    /// Grows the volume's data to `size` bytes; what is new reads as zeroes. Durable when it returns. Cut off
    /// by a crash it is undone by the next [`DataFile::open`], which is asked for the old size. Blocks.
    ///
    /// # Errors
    /// `BadSize` (not larger, or no multiple), `TooLarge` with the limit, `NoSpace`; nothing has changed then.
    pub fn grow(&self, size: u64) -> Result<(), VolumeFileError> {
        let _record = self.inner.record.lock().unwrap_or_else(PoisonError::into_inner);
        let (raw, old) = (&self.inner.lock, self.size_bytes());
        let path = || raw.path().to_owned();
        if size <= old || !size.is_multiple_of(u64::from(PHYSICAL_BLOCK)) {
            return Err(VolumeFileError::BadSize { path: path(), asked: size });
        }
        let failed = |source| VolumeFileError::Io { path: path(), source };
        if raw.medium() == Medium::Device {
            let limit = whole_blocks(raw.size().map_err(failed)?).saturating_sub(TRAILER);
            if size > limit {
                return Err(VolumeFileError::TooLarge { path: path(), asked: size, limit });
            }
            // What a device holds behind the volume is anybody's.
            zero_out(raw, old, size).map_err(failed)?;
            write_body(raw, limit, &body_of(self.inner.stamp, size, Some(old))).map_err(failed)?;
        } else {
            let grown = Self::fill(raw, self.inner.stamp, size).and_then(|()| {
                if self.inner.keeps_space.load(Ordering::Relaxed) {
                    raw.allocate(old, size - old).map_err(|source| match source.kind() {
                        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                            VolumeFileError::NoSpace { path: path() }
                        }
                        _ => VolumeFileError::Io { path: path(), source },
                    })?;
                }
                // The old record has become a part of the data.
                let stable = !mutation::on(Mutation::GrowthNotFlushed);
                raw.write_at(&vec![0; RECORD.file_len()], old, stable).map_err(failed)
            });
            if let Err(error) = grown {
                // What cannot be undone now is undone when the volume is opened next.
                let undone =
                    write_record(raw, old, self.inner.stamp, old).and_then(|()| raw.set_len(old + TRAILER));
                if let Err(undone) = undone {
                    tracing::warn!(path = %path().display(), %undone, "a growth that failed is not undone yet");
                }
                return Err(error);
            }
        }
        self.inner.size.store(size, Ordering::Release);
        Ok(())
    }

    /// Space once taken is not given back: the volume is fully provisioned.
    pub fn keep_space(&self) {
        self.inner.keeps_space.store(true, Ordering::Relaxed);
    }

    /// Is there a file at `path` that holds nothing: no data, and no record or one that `is_known` does not
    /// know? A creation that was cut off leaves such a file. Blocks.
    ///
    /// # Errors
    /// The system's.
    pub fn is_left_over(path: &Path, is_known: impl Fn(VolumeId) -> bool) -> io::Result<bool> {
        let raw = RawFile::open(path, Access::default())?;
        // What another process holds open is nobody's left-over.
        if raw.medium() == Medium::Device || !raw.lock()? {
            return Ok(false);
        }
        let size = raw.size()?;
        let data_end = size.saturating_sub(TRAILER);
        if size < TRAILER || !size.is_multiple_of(u64::from(PHYSICAL_BLOCK)) {
            return Ok(size == 0);
        }
        if raw.next_data(0, data_end)?.is_some() {
            return Ok(false);
        }
        let mut trailer = vec![0; RECORD.file_len()];
        raw.read_at(&mut trailer, data_end)?;
        Ok(match read_record(&raw, data_end)? {
            Ok((stamp, found)) => found == data_end && !is_known(stamp.id),
            Err(_) => trailer.iter().all(|&byte| byte == 0),
        })
    }

    /// Opens the volume's data and takes its lock. Blocks.
    ///
    /// # Errors
    /// Everything that is not this very volume is refused by name: blank, torn, foreign, another
    /// volume, another size; and one that is open elsewhere.
    pub fn open(
        path: &Path,
        stamp: impl Into<Stamp>,
        size: u64,
        engine: Engine,
    ) -> Result<Self, VolumeFileError> {
        let id = stamp.into();
        let failed = |source| VolumeFileError::Io { path: path.to_owned(), source };
        let device =
            fs::metadata(path).is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_block_device(&m.file_type()));
        let access = Access { exclusive: device, volatile: engine.is_volatile(), ..Access::default() };
        let raw = RawFile::open(path, access).map_err(failed)?;
        let len = whole_blocks(raw.size().map_err(failed)?);
        let Some(at) = len.checked_sub(TRAILER) else {
            return Err(VolumeFileError::OtherSize { path: path.to_owned(), found: len, expected: size });
        };
        if raw.medium() != Medium::Device && at > size && settle_growth(&raw, id, size, at).map_err(failed)? {
            return Self::locked(raw, id, size, engine);
        }
        let (found, found_size) = match read_record(&raw, at).map_err(failed)? {
            Ok(record) => record,
            Err(source) => return Err(VolumeFileError::NoVolume { path: path.to_owned(), source }),
        };
        if found.id == id.id && found.copy != id.copy {
            return Err(VolumeFileError::OlderCopy { path: path.to_owned() });
        }
        if found != id {
            let uuid = |stamp: Stamp| uuid::Uuid::from_bytes(stamp.id.0).to_string();
            return Err(VolumeFileError::OtherVolume {
                path: path.to_owned(),
                found: uuid(found),
                expected: uuid(id),
            });
        }
        if raw.medium() == Medium::Device && read_was(&raw, at).map_err(failed)? == Some(size) {
            // A growth that was cut off: nobody was ever told of the new size.
            write_record(&raw, at, id, size).map_err(failed)?;
            return Self::locked(raw, id, size, engine);
        }
        if found_size != size || (raw.medium() != Medium::Device && at != size) || at < size {
            let found = found_size.min(at);
            return Err(VolumeFileError::OtherSize { path: path.to_owned(), found, expected: size });
        }
        Self::locked(raw, id, size, engine)
    }

    fn locked(raw: RawFile, stamp: Stamp, size: u64, engine: Engine) -> Result<Self, VolumeFileError> {
        let path = raw.path().to_owned();
        match raw.lock() {
            Ok(true) => {}
            Ok(false) => return Err(VolumeFileError::Locked { path }),
            Err(source) => return Err(VolumeFileError::Io { path, source }),
        }
        // The data path's handles are made of this one, with O_DIRECT where it is to be had.
        let direct = Access { direct: true, volatile: engine.is_volatile(), ..Access::default() };
        let failed = |source| VolumeFileError::Io { path: path.clone(), source };
        let data = raw.reopen(direct).map_err(failed)?;
        let device = data.device().map_err(failed)?;
        Ok(Self {
            inner: Arc::new(Inner {
                lock: raw,
                raw: data,
                engine,
                size: AtomicU64::new(size),
                stamp,
                errors: AtomicU64::new(0),
                keeps_space: AtomicBool::new(false),
                images_at: OnceLock::new(),
                wrote: AtomicBool::new(false),
                record: Mutex::new(()),
                device,
            }),
        })
    }

    /// Removes the data of a volume that is closed here: the file, or the record on a device (whose
    /// data stays until it is overwritten). Blocks.
    ///
    /// # Errors
    /// As [`DataFile::open`]: nothing that is not this volume is removed.
    pub fn remove(
        path: &Path,
        stamp: impl Into<Stamp>,
        size: u64,
        engine: Engine,
    ) -> Result<(), VolumeFileError> {
        let failed = |source| VolumeFileError::Io { path: path.to_owned(), source };
        let file = Self::open(path, stamp, size, engine)?;
        if file.inner.raw.medium() == Medium::Device {
            let at = whole_blocks(file.inner.lock.size().map_err(failed)?).saturating_sub(TRAILER);
            let blank = vec![0; RECORD.file_len()];
            let stable = !mutation::on(Mutation::VolumeWipeNotStable);
            return file.inner.lock.write_at(&blank, at, stable).map_err(failed);
        }
        directory::remove(path, engine.is_volatile()).map_err(failed)?;
        sync_directory_of(path, Mutation::VolumeRemovalNotSynced).map_err(failed)
    }

    /// Begins an image of what the volume holds, beside it. Blocks.
    ///
    /// # Errors
    /// See [`BeforeImage::create`].
    pub fn new_image(&self, cut: u64, as_of: Option<u64>, void: bool) -> io::Result<BeforeImage> {
        // What a fully provisioned volume has taken is its own: overwriting shared blocks would take more.
        let shared = (!self.inner.keeps_space.load(Ordering::Relaxed)).then_some(&self.inner.lock);
        let new = NewImage { id: self.id(), blocks: self.blocks(), cut, as_of, void };
        BeforeImage::create(self.images_at(), new, self.inner.engine, shared)
    }

    /// Images of a block device lie beside `path`; of a file, beside that file.
    pub fn keep_device_images_at(&self, path: PathBuf) {
        if self.inner.raw.medium() == Medium::Device {
            // Set once, by whoever opens the volume.
            let _ = self.inner.images_at.set(path);
        }
    }

    fn images_at(&self) -> &Path {
        self.inner.images_at.get().map_or_else(|| self.path(), PathBuf::as_path)
    }

    /// The image that a former life of the array has left. Blocks.
    ///
    /// # Errors
    /// See [`BeforeImage::find`].
    pub fn find_image(&self) -> io::Result<Option<BeforeImage>> {
        BeforeImage::find(self.images_at(), self.id(), self.blocks(), self.inner.engine)
    }

    pub fn id(&self) -> VolumeId {
        self.inner.stamp.id
    }

    pub fn path(&self) -> &Path {
        self.inner.raw.path()
    }

    pub fn size_bytes(&self) -> u64 {
        self.inner.size.load(Ordering::Acquire)
    }

    /// Capacity in logical blocks.
    pub fn blocks(&self) -> u64 {
        self.size_bytes() / u64::from(BLOCK)
    }

    /// Bytes of storage taken (less than the size where the volume is thin).
    ///
    /// # Errors
    /// The system's.
    pub fn allocated(&self) -> io::Result<u64> {
        self.inner.raw.allocated()
    }

    /// The device the data lies on (`st_dev` or `st_rdev`).
    pub fn device(&self) -> u64 {
        self.inner.device
    }

    /// What the page cache holds of the volume and is not to be written any more is forgotten, as far as the kernel
    /// can: what a failed flush could not write is not shown any longer.
    pub fn forget_cache(&self) {
        if let Err(error) = self.inner.lock.forget_cache() {
            tracing::warn!(%error, "the page cache of a volume cannot be dropped");
        }
    }

    /// Everything written before is on stable storage. Blocks.
    ///
    /// # Errors
    /// The system's: what was not on stable storage may be lost.
    pub fn flush(&self) -> io::Result<()> {
        self.inner.lock.sync_data()
    }

    /// Reads and writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.inner.raw.direct().is_some()
    }
}

/// The volume's record: UUID and size, written to both slots so that either one, rotten, is only
/// the worse for a warning.
pub(super) fn write_record(raw: &RawFile, at: u64, id: Stamp, size: u64) -> io::Result<()> {
    write_body(raw, at, &body_of(id, size, None))
}

/// `was`: the size before a growth of a device, whose record stays in its place. A first copy that never grew
/// has neither field.
fn body_of(stamp: Stamp, size: u64, was: Option<u64>) -> Vec<u8> {
    let mut body = [&stamp.id.0[..], &size.to_le_bytes()].concat();
    if was.is_some() || stamp.copy != 0 {
        body.extend(was.unwrap_or_default().to_le_bytes());
    }
    if stamp.copy != 0 {
        body.extend(stamp.copy.to_le_bytes());
    }
    body
}

fn write_body(raw: &RawFile, at: u64, body: &[u8]) -> io::Result<()> {
    let mut present = vec![0; RECORD.file_len()];
    raw.read_at(&mut present, at)?;
    let stable = !mutation::on(Mutation::VolumeRecordNotStable);
    let newest = RECORD.decode(&present).ok();
    let (sequence, first) = Slots::next(newest.as_ref());
    let slot = RECORD.encode(sequence, body).unwrap_or_default(); // 40 bytes fit in any slot
    if newest.is_none() {
        return raw.write_at(&[&slot[..], &slot[..]].concat(), at, stable);
    }
    // Over another record, one after the other: wherever it is cut off, one of them is whole.
    for place in [first, 1 - first] {
        raw.write_at(&slot, at + (place * SLOT_UNIT) as u64, stable)?;
    }
    Ok(())
}

/// The size before the last growth, if the record tells of one.
fn read_was(raw: &RawFile, at: u64) -> io::Result<Option<u64>> {
    let mut bytes = vec![0; RECORD.file_len()];
    raw.read_at(&mut bytes, at)?;
    let newest = RECORD.decode(&bytes).ok();
    Ok(newest.and_then(|newest| Some(u64::from_le_bytes(*newest.body.get(24..)?.first_chunk::<8>()?))))
}

pub(super) type Found = Result<(Stamp, u64), SlotError>;

pub(super) fn read_record(raw: &RawFile, at: u64) -> io::Result<Found> {
    let mut bytes = vec![0; RECORD.file_len()];
    raw.read_at(&mut bytes, at)?;
    Ok(RECORD.decode(&bytes).and_then(|newest| {
        let fields = newest.body.split_first_chunk::<16>().and_then(|(id, rest)| {
            let copy =
                rest.get(16..).and_then(<[u8]>::first_chunk::<8>).copied().map_or(0, u64::from_le_bytes);
            Some((Stamp { id: VolumeId(*id), copy }, u64::from_le_bytes(*rest.first_chunk::<8>()?)))
        });
        fields.ok_or(SlotError::Blank)
    }))
}

/// The file is longer than the volume of `size` bytes, and ends at `at` plus a record: a growth that was
/// cut off before anybody was told of it is undone. False: it is something else. Nothing but records may
/// lie behind the data then.
fn settle_growth(raw: &RawFile, id: Stamp, size: u64, at: u64) -> io::Result<bool> {
    let old = matches!(read_record(raw, size)?, Ok(record) if record == (id, size));
    let new = matches!(read_record(raw, at)?, Ok(record) if record == (id, at));
    let behind = raw.next_data((size + TRAILER).min(at), at)?;
    if !(old || new) || behind.is_some() {
        return Ok(false);
    }
    tracing::warn!(path = %raw.path().display(), size, "a growth of this volume was cut off; it has its old size again");
    write_record(raw, size, id, size)?;
    raw.set_len(size + TRAILER)?;
    raw.sync_data()?;
    Ok(true)
}

fn zero_out(raw: &RawFile, from: u64, to: u64) -> io::Result<()> {
    let flush = || if mutation::on(Mutation::GrowthNotFlushed) { Ok(()) } else { raw.sync_data() };
    if raw.punch(from, to - from)? {
        return flush();
    }
    let zeroes = vec![0; BLANK_PROBE];
    let mut at = from;
    while at < to {
        let len = usize::try_from(to - at).unwrap_or(usize::MAX).min(zeroes.len());
        raw.write_at(&zeroes[..len], at, false)?;
        at += len as u64;
    }
    flush()
}

pub(super) fn whole_blocks(bytes: u64) -> u64 {
    bytes - bytes % u64::from(PHYSICAL_BLOCK)
}

/// The largest volume that a file here can hold: tried on the file itself, which is about to go.
fn size_limit(raw: &RawFile) -> u64 {
    let block = u64::from(PHYSICAL_BLOCK);
    let (mut fits, mut fails) = (0, i64::MAX.unsigned_abs() / block + 1);
    while fails - fits > 1 {
        let middle = fits + (fails - fits) / 2;
        if raw.set_len(middle * block).is_ok() {
            fits = middle;
        } else {
            fails = middle;
        }
    }
    (fits * block).saturating_sub(TRAILER)
}

#[cfg(test)]
#[path = "volume_file_tests.rs"]
mod tests;
