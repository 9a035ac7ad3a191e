//! Writing the peer's blocks over what cannot be read here (F38).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::block::{BLOCK, BLOCKS_PER_PHYSICAL, Extent, StoreResult};
use crate::store::{Durability, Handle};
use crate::sys::buffer::Buffer;

use super::shell::Volume;

/// Physical blocks written anew by this process, for `/metrics`.
pub static MENDED_BLOCKS: AtomicU64 = AtomicU64::new(0);

/// Who found what cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// A host's command, which is answered with the peer's blocks.
    Host,
    Verify,
    /// The copy of a region in doubt (rules 15, 17).
    Recovery,
}

/// How a mending went, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mending {
    /// First block that could not be read.
    pub lba: u64,
    /// Physical blocks written anew with the peer's data.
    pub mended: u64,
    /// The block at which writing failed, too.
    pub failed_at: Option<u64>,
    pub found_by: For,
}

/// Looks at each physical block of `extent` and writes the one of `data` where it cannot be read;
/// what can be read stays as it is, holes among it. (A write makes a disk put a good sector in the
/// place of a bad one.) Stops at the first that cannot be written.
pub(super) async fn mend(
    volume: &Volume,
    handle: &Handle,
    extent: Extent,
    data: &Buffer,
    found_by: For,
) -> StoreResult {
    let mut at = extent.lba;
    let mut mending = Mending { lba: extent.lba, mended: 0, failed_at: None, found_by };
    while at < extent.end() {
        let block = Extent::new(at, BLOCKS_PER_PHYSICAL.min(extent.end() - at));
        at = block.end();
        if handle.read(block).await.is_ok() {
            continue;
        }
        if mending.mended == 0 {
            mending.lba = block.lba;
        }
        let from = usize::try_from((block.lba - extent.lba) * u64::from(BLOCK)).unwrap_or(usize::MAX);
        let len = usize::try_from(block.bytes()).unwrap_or(0); // at most a physical block
        let Some(end) = from.checked_add(len).filter(|end| *end <= data.len()) else {
            return StoreResult::Failed;
        };
        let written = handle.write(block, &data.slice(from..end), Durability::Stable).await;
        if written != StoreResult::Done {
            volume.tell_of_mending(Mending { failed_at: Some(block.lba), ..mending });
            return written;
        }
        mending.mended += 1;
        MENDED_BLOCKS.fetch_add(1, Ordering::Relaxed);
    }
    volume.tell_of_mending(mending);
    StoreResult::Done
}
