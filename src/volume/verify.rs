//! The shell's part of a verify: the digests of this copy, and the comparison of blocks.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ring::digest;

use crate::block::{BLOCK, Extent, StoreResult};
use crate::mirror::{PIECE_BLOCKS, Sum, VerifyRefused, VerifyReport, Weighing};
use crate::store::Handle;
use crate::sys::buffer::Buffer;

use super::mend;
use super::shell::Volume;

/// The newest verify of a volume, as an operator is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Name of the volume when it began.
    pub name: String,
    /// Seconds since 1970.
    pub began: u64,
    /// `None`: under way, or only just over.
    pub ended: Option<u64>,
    pub report: VerifyReport,
}

/// What the core does not know of the newest verify.
#[derive(Debug, Default)]
pub(super) struct Verifying(Mutex<Option<(String, u64, Option<u64>)>>);

impl Verifying {
    fn lock(&self) -> MutexGuard<'_, Option<(String, u64, Option<u64>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    /// Begins a verify; `now` in seconds since 1970.
    ///
    /// # Errors
    /// See [`VerifyRefused`].
    pub fn begin_verify(&self, name: &str, repair: bool, now: u64) -> Result<(), VerifyRefused> {
        self.with(|core, context, out| core.begin_verify(repair, context, out))?;
        *self.verifying().lock() = Some((name.to_owned(), now, None));
        Ok(())
    }

    /// The newest verify since the array was started.
    pub fn verified(&self) -> Option<Verified> {
        let report = self.with(|core, _, _| core.verified())?;
        let (name, began, ended) = self.verifying().lock().clone()?;
        Some(Verified { name, began, ended, report })
    }

    /// The newest verify, once, when it has ended; `now` in seconds since 1970.
    pub fn take_verified(&self, now: u64) -> Option<Verified> {
        let report = self.with(|core, _, _| core.take_verified())?;
        let mut kept = self.verifying().lock();
        let (name, began, ended) = kept.as_mut()?;
        *ended = Some(now);
        Some(Verified { name: name.clone(), began: *began, ended: *ended, report })
    }
}

/// The digests of an extent of this copy.
#[derive(Debug)]
pub(super) struct Summed {
    pub sums: Vec<Sum>,
    /// Nothing had to be read.
    pub hole: bool,
}

fn digest(bytes: &[u8]) -> Sum {
    let mut sum = Sum::default();
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
}

/// The digest of a piece of a hole, which reads as zeroes.
fn zeroes(piece: Extent) -> Sum {
    static WHOLE: OnceLock<Sum> = OnceLock::new();
    let of = |blocks: u64| digest(&vec![0; usize::try_from(Extent::new(0, blocks).bytes()).unwrap_or(0)]);
    if piece.blocks == PIECE_BLOCKS { *WHOLE.get_or_init(|| of(PIECE_BLOCKS)) } else { of(piece.blocks) }
}

/// Makes the digests of `extent`, one piece in memory at a time; holes are not read.
pub(super) async fn sum(handle: &Handle, extent: Extent) -> Result<Summed, StoreResult> {
    let mut data = handle.next_data(extent).await?;
    let mut summed = Summed { sums: Vec::new(), hole: true };
    let mut at = extent.lba;
    while at < extent.end() {
        let piece = Extent::new(at, PIECE_BLOCKS.min(extent.end() - at));
        if data.is_some_and(|data| data.end() <= at) {
            data = handle.next_data(Extent::new(at, extent.end() - at)).await?;
        }
        if data.is_some_and(|data| data.lba < piece.end()) {
            let read = handle.read(piece).await?;
            summed.sums.push(digest(read.as_slice()));
            summed.hole = false;
            // Hosts' commands on this thread come between two pieces.
            tokio::task::yield_now().await;
        } else {
            summed.sums.push(zeroes(piece));
        }
        at = piece.end();
    }
    Ok(summed)
}

/// Compares `extent` of this copy with the peer's blocks of it; what cannot be read here is written anew
/// with those (F38).
pub(super) async fn weigh(
    volume: &Volume,
    handle: &Handle,
    extent: Extent,
    theirs: &Buffer,
    found_by: mend::For,
) -> Result<Weighing, StoreResult> {
    let mut mended = false;
    let own = match handle.read(extent).await {
        Ok(own) => own,
        Err(_) => {
            match mend::mend(volume, handle, extent, theirs, found_by).await {
                StoreResult::Done => mended = true,
                failed => return Err(failed),
            }
            handle.read(extent).await?
        }
    };
    Ok(Weighing { differing: differing(extent, own.as_slice(), theirs.as_slice()), mended })
}

/// The blocks of `extent` that differ, neighbours together.
fn differing(extent: Extent, own: &[u8], theirs: &[u8]) -> Vec<Extent> {
    let block = usize::try_from(BLOCK).unwrap_or(usize::MAX);
    let mut found: Vec<Extent> = Vec::new();
    for (lba, (own, theirs)) in (extent.lba..).zip(own.chunks(block).zip(theirs.chunks(block))) {
        if own == theirs {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end() == lba => last.blocks += 1,
            _ => found.push(Extent::new(lba, 1)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_differ_are_named_neighbours_together() {
        let own = vec![0; 8 * 512];
        let mut theirs = own.clone();
        for at in [512, 1024, 2047, 4095] {
            theirs[at] = 1;
        }
        let found = differing(Extent::new(100, 8), &own, &theirs);
        assert_eq!(found, [Extent::new(101, 3), Extent::new(107, 1)]);
        assert_eq!(differing(Extent::new(100, 8), &own, &own), []);
    }

    #[test]
    fn a_hole_has_the_digest_of_its_zeroes() {
        for blocks in [1, 8, PIECE_BLOCKS] {
            let bytes = vec![0; usize::try_from(blocks).unwrap() * 512];
            assert_eq!(zeroes(Extent::new(5, blocks)), digest(&bytes));
        }
        assert_ne!(digest(&[0; 512]), digest(&[1; 512]));
    }
}
