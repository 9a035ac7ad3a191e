//! What a verify finds, in words for its shell and for operators.

use super::api::REGION_BLOCKS;
use crate::block::Extent;

/// Blocks of one digest (64 KiB): small enough that one damaged block costs little to fetch.
pub const PIECE_BLOCKS: u64 = 128;
/// Differences told one by one; of those beyond only the number is known.
pub const DIFFERENCES_MAX: usize = 64;

/// A strong digest of one piece (SHA-256); the shell's work.
pub type Sum = [u8; 32];

/// Digests that an extent has: one for each [`PIECE_BLOCKS`], the last perhaps of fewer.
pub const fn pieces(extent: Extent) -> u64 {
    extent.blocks.div_ceil(PIECE_BLOCKS)
}

/// What is wrong with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Finding {
    /// The copies differ.
    Differs,
    /// The other array cannot read it.
    UnreadableThere,
    /// Neither array can read it, or this one cannot and its disk does not take the other's blocks.
    Lost,
}

/// One extent that is not alike on both copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Difference {
    pub extent: Extent,
    pub finding: Finding,
    /// The other copy has been made equal to this one there.
    pub repaired: bool,
}

/// How a verify ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum VerifyEnd {
    #[error("complete")]
    Complete,
    #[error("cancelled")]
    Cancelled,
    #[error("cut short: the copies are no longer in sync")]
    NotInSync,
    #[error("cut short: roles have changed")]
    RolesChanged,
    #[error("cut short: the other array runs a version that knows no verify; upgrade it")]
    PeerTooOld,
}

/// Why no verify is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum VerifyRefused {
    #[error("this array is not the group's primary; give the command there")]
    NotPrimary,
    #[error(
        "the group is not in sync: a copy that is behind is known to differ; wait until it is (showrcopy)"
    )]
    NotInSync,
    #[error("the group is not mirrored at the moment; check the replication links (showrcopy)")]
    NoSession,
    #[error("a verify of it is under way; wait for it, or cancel it")]
    Busy,
}

/// What a verify has found so far, or found in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    pub repair: bool,
    /// Regions of 1 MiB that the volume has, and how many of them were compared.
    pub regions: u64,
    pub compared: u64,
    /// Everything before this block was compared.
    pub reached: u64,
    /// Logical blocks that are not alike, and how many of them were made so.
    pub differing: u64,
    pub repaired: u64,
    /// Regions in which something could not be read here and was written anew with the other's blocks.
    pub mended: u64,
    /// In the order found; the first [`DIFFERENCES_MAX`] of them.
    pub differences: Vec<Difference>,
    /// Differences beyond those.
    pub left_out: u64,
    /// `None`: under way.
    pub end: Option<VerifyEnd>,
}

/// What a weighing found (see [`Volume::weighed`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weighing {
    /// Where the copies differ, ascending.
    pub differing: Vec<Extent>,
    /// Something could not be read here, and was written anew.
    pub mended: bool,
}

impl VerifyReport {
    pub(super) const fn new(repair: bool, regions: u64) -> Self {
        Self {
            repair,
            regions,
            compared: 0,
            reached: 0,
            differing: 0,
            repaired: 0,
            mended: 0,
            differences: Vec::new(),
            left_out: 0,
            end: None,
        }
    }

    pub(super) fn add(&mut self, extent: Extent, finding: Finding) {
        self.differing += extent.blocks;
        let difference = Difference { extent, finding, repaired: false };
        let room = self.differences.len() < DIFFERENCES_MAX;
        match self.differences.last_mut() {
            // Neighbours, over the border of two regions too.
            Some(last)
                if last.extent.end() == extent.lba
                    && last.finding == finding
                    && !last.repaired
                    && !extent.lba.is_multiple_of(REGION_BLOCKS) =>
            {
                last.extent.blocks += extent.blocks;
            }
            _ if room => self.differences.push(difference),
            _ => self.left_out += 1,
        }
    }
}
