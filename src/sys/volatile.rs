//! Test builds: a disk with a volatile cache. What was written and not flushed is held in memory;
//! when the process dies, or [`crash`](Volatile::crash) is called, some of its sectors have
//! reached the file and the others have not, at random and from a seed.
//!
//! All handles of one file in the process share one cache. To make a bare SIGKILL tear as well,
//! each write lets some of its sectors through at once, as a real cache writes back when it likes.
//! "Reached the file" means the page cache of this machine, which outlives the process.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// What a disk writes as one.
const SECTOR: u64 = 512;
const SECTOR_LEN: usize = 512;

/// Sectors held at most (64 MiB); beyond that the oldest LBA is written back, as a full cache does.
const HELD_MAX: usize = 128 << 10;

/// A volatile file of this process.
#[derive(Debug)]
pub struct Volatile {
    file: File,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    held: BTreeMap<u64, Box<[u8; SECTOR_LEN]>>,
    /// The power went: nothing works on this cache any more.
    dead: bool,
}

/// The volatile files of this process, by device and inode.
type Files = HashMap<(u64, u64), Weak<Volatile>>;

static FILES: Mutex<Option<Files>> = Mutex::new(None);
/// Of eight sectors written, so many reach the file at once.
static WRITE_BACK: AtomicU64 = AtomicU64::new(1);
static SEED: AtomicU64 = AtomicU64::new(0x9e37_79b9_7f4a_7c15);

/// Sets where the random choices go on from.
pub fn seed(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// Lets the random choices go on from another number at each start of a daemon. Some lives write
/// back nothing by themselves, others nearly all; `TWINLUN_WRITE_BACK` says how many sectors of
/// eight, if it is set.
pub fn seed_from_environment() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    seed(u64::from(now.subsec_nanos()) << 32 | u64::from(std::process::id()));
    let given = std::env::var("TWINLUN_WRITE_BACK").ok().and_then(|text| text.parse().ok());
    WRITE_BACK.store(given.unwrap_or_else(|| random() % 8), Ordering::Relaxed);
}

/// SplitMix64 over a shared counter: one more random word.
fn random() -> u64 {
    let mut word = SEED.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The power goes for every volatile file of this process; see [`Volatile::crash`].
pub fn crash_all() {
    let files = FILES.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
    for file in files.into_values().filter_map(|file| file.upgrade()) {
        file.crash();
    }
    super::volatile_names::crash();
}

/// The names in `directory` are what they were when it was flushed last.
pub fn crash_names(directory: &std::path::Path) {
    super::volatile_names::crash_in(directory);
}

/// The power goes for the whole array: [`crash_all`], then the process ends at once.
pub fn crash_and_abort() -> ! {
    crash_all();
    std::process::abort()
}

fn dead() -> io::Error {
    io::Error::other("the power of this volatile file went")
}

impl Volatile {
    /// The cache of this file; one for all its handles.
    pub(super) fn of(file: &File, identity: (u64, u64)) -> io::Result<Arc<Self>> {
        let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
        let files = files.get_or_insert_default();
        files.retain(|_, cache| cache.strong_count() > 0);
        if let Some(cache) = files.get(&identity).and_then(Weak::upgrade)
            && !cache.cache().dead
        {
            return Ok(cache);
        }
        let cache = Arc::new(Self { file: file.try_clone()?, cache: Mutex::default() });
        files.insert(identity, Arc::downgrade(&cache));
        Ok(cache)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, Cache>> {
        let cache = self.cache();
        if cache.dead { Err(dead()) } else { Ok(cache) }
    }

    pub(super) fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        let cache = self.alive()?;
        self.file.read_exact_at(into, offset)?;
        let end = offset + into.len() as u64;
        for (&sector, bytes) in cache.held.range(offset / SECTOR..end.div_ceil(SECTOR)) {
            let (at, from) = overlap(sector, offset);
            let len = (SECTOR_LEN - from).min(into.len() - at);
            into[at..at + len].copy_from_slice(&bytes[from..from + len]);
        }
        Ok(())
    }

    pub(super) fn write_at(&self, bytes: &[u8], offset: u64, stable: bool) -> io::Result<()> {
        let mut cache = self.alive()?;
        if stable {
            self.file.write_all_at(bytes, offset)?;
        }
        let end = offset + bytes.len() as u64;
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let (at, to) = overlap(sector, offset);
            let len = (SECTOR_LEN - to).min(bytes.len() - at);
            if stable {
                // A sector that is part held, part written now, has both parts stable afterwards.
                if let Some(mut held) = cache.held.remove(&sector) {
                    held[to..to + len].copy_from_slice(&bytes[at..at + len]);
                    self.file.write_all_at(&held[..], sector * SECTOR)?;
                }
                continue;
            }
            let mut whole = match cache.held.remove(&sector) {
                Some(held) => held,
                None => {
                    let mut whole = Box::new([0; SECTOR_LEN]);
                    if len < SECTOR_LEN {
                        self.file.read_exact_at(&mut whole[..], sector * SECTOR)?;
                    }
                    whole
                }
            };
            whole[to..to + len].copy_from_slice(&bytes[at..at + len]);
            if random() % 8 < WRITE_BACK.load(Ordering::Relaxed) {
                self.file.write_all_at(&whole[..], sector * SECTOR)?;
            } else {
                cache.held.insert(sector, whole);
            }
        }
        while cache.held.len() > HELD_MAX {
            if let Some((sector, bytes)) = cache.held.pop_first() {
                self.file.write_all_at(&bytes[..], sector * SECTOR)?;
            }
        }
        Ok(())
    }

    /// The length itself is not held back; what is held beyond it goes.
    pub(super) fn set_len(&self, bytes: u64) -> io::Result<()> {
        let mut cache = self.alive()?;
        let last = bytes / SECTOR;
        cache.held.retain(|&sector, _| sector < last);
        self.file.set_len(bytes)
    }

    /// A punched hole: zeroes like any other write that is not flushed.
    pub(super) fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let zeroes = vec![0; 1 << 20];
        let mut at = offset;
        while at < offset + len {
            let part = (offset + len - at).min(zeroes.len() as u64);
            self.write_at(&zeroes[..usize::try_from(part).unwrap_or(zeroes.len())], at, false)?;
            at += part;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        let mut cache = self.alive()?;
        for (sector, bytes) in std::mem::take(&mut cache.held) {
            self.file.write_all_at(&bytes[..], sector * SECTOR)?;
        }
        Ok(())
    }

    pub(super) fn next_data(&self, offset: u64, end: u64) -> io::Result<Option<(u64, u64)>> {
        let cache = self.alive()?;
        let below = super::file::seek_data(&self.file, offset, end)?;
        let held = cache.held.range(offset / SECTOR..end.div_ceil(SECTOR)).next();
        let held = held.map(|(sector, _)| ((sector * SECTOR).max(offset), ((sector + 1) * SECTOR).min(end)));
        Ok(match (below, held) {
            (Some(below), Some(held)) => Some(if held.0 < below.0 { held } else { below }),
            (below, held) => below.or(held),
        })
    }

    /// The power goes: of what is held, a random part reaches the file (a sector whole or not at
    /// all), the rest is lost, and every handle fails from now on. Opening the file again begins anew.
    pub fn crash(&self) {
        let mut cache = self.cache();
        cache.dead = true;
        let keep = random() % 5; // from "nothing" to "nearly all"
        for (sector, bytes) in std::mem::take(&mut cache.held) {
            if random() % 4 < keep {
                // A test's file; when it cannot be written the sector is simply lost.
                let _ = self.file.write_all_at(&bytes[..], sector * SECTOR);
            }
        }
    }
}

/// Where sector `sector` begins in bytes that begin at `offset`, and where these begin in it.
fn overlap(sector: u64, offset: u64) -> (usize, usize) {
    let start = sector * SECTOR;
    let at = start.saturating_sub(offset);
    let from = offset.saturating_sub(start);
    (usize::try_from(at).unwrap_or(usize::MAX), usize::try_from(from).unwrap_or(0))
}
