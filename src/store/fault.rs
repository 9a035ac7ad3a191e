//! Test builds only: bad blocks under the volumes' files, which cannot be read until they are written
//! whole. `TWINLUN_FAULT=bad_blocks:N`: every Nth physical block of every volume, from the start of the
//! array on. `TWINLUN_BAD_BLOCKS` names a file that may come and change at any time; each line is the
//! LBA of a physical block, of every volume; with `!` before it writing does not help.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::block::{BLOCKS_PER_PHYSICAL, Extent};

/// `TWINLUN_BAD_DISK` names a file that may come and go at any time: while it is there every write of a volume's
/// data, and every probe, fails.
///
/// # Errors
/// It is there.
pub fn disk_works() -> io::Result<()> {
    static SWITCH: OnceLock<Option<PathBuf>> = OnceLock::new();
    let switch = SWITCH.get_or_init(|| std::env::var_os("TWINLUN_BAD_DISK").map(PathBuf::from));
    match switch {
        Some(path) if path.exists() => Err(io::Error::other("a bad disk, for the test")),
        _ => Ok(()),
    }
}

fn list() -> Option<&'static PathBuf> {
    static LIST: OnceLock<Option<PathBuf>> = OnceLock::new();
    LIST.get_or_init(|| std::env::var_os("TWINLUN_BAD_BLOCKS").map(PathBuf::from)).as_ref()
}

/// Blocks that were bad and have been written since.
fn mended() -> MutexGuard<'static, BTreeSet<(PathBuf, u64)>> {
    static MENDED: Mutex<BTreeSet<(PathBuf, u64)>> = Mutex::new(BTreeSet::new());
    MENDED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of how many physical blocks one is bad.
fn one_in() -> Option<u64> {
    static ONE_IN: OnceLock<Option<u64>> = OnceLock::new();
    let read = || std::env::var("TWINLUN_FAULT").ok()?.strip_prefix("bad_blocks:")?.parse().ok();
    ONE_IN.get_or_init(read).filter(|n| *n > 0)
}

/// Bad blocks that `extent` touches: where, and whether for good.
fn met(extent: Extent) -> Vec<(Extent, bool)> {
    if let Some(n) = one_in() {
        let whole = extent.physical();
        let blocks = whole.lba / BLOCKS_PER_PHYSICAL..whole.end() / BLOCKS_PER_PHYSICAL;
        let bad = blocks.filter(|block| block % n == 0);
        return bad
            .map(|block| (Extent::new(block * BLOCKS_PER_PHYSICAL, BLOCKS_PER_PHYSICAL), false))
            .collect();
    }
    let text = list().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let block = |line: &str| {
        let lba: u64 = line.trim_start_matches('!').parse().ok()?;
        Some((Extent::new(lba, BLOCKS_PER_PHYSICAL).physical(), line.starts_with('!')))
    };
    text.lines().filter_map(block).filter(|(bad, _)| bad.overlaps(extent)).collect()
}

pub fn read_fails(file: &Path, extent: Extent) -> bool {
    let met = met(extent);
    !met.is_empty() && {
        let mended = mended();
        met.iter().any(|(bad, _)| !mended.contains(&(file.to_owned(), bad.lba)))
    }
}

/// A write is about to begin; `false`: it fails.
pub fn may_write(file: &Path, extent: Extent) -> bool {
    for (bad, for_good) in met(extent) {
        let whole = extent.lba <= bad.lba && bad.end() <= extent.end();
        let mut mended = mended();
        let place = (file.to_owned(), bad.lba);
        if for_good || (!whole && !mended.contains(&place)) {
            return false;
        }
        mended.insert(place);
    }
    true
}
