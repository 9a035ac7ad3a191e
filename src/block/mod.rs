//! The one vocabulary between front ends, mirror and store: what is done to a range of blocks,
//! and how it ended. Payloads are not here: they stay with the shell, under the command's number.

/// Logical block size in bytes; the only one twinlun offers (512e: 512 logical, 4096 physical).
pub const BLOCK: u32 = 512;
/// Physical block of the store in bytes. Overlap is computed on it (rule 8).
pub const PHYSICAL_BLOCK: u32 = 4096;
/// Logical blocks in one physical block.
pub const BLOCKS_PER_PHYSICAL: u64 = (PHYSICAL_BLOCK / BLOCK) as u64;

/// A range of logical blocks of one volume. `blocks` may be zero (an empty range overlaps nothing).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    pub lba: u64,
    pub blocks: u64,
}

impl Extent {
    pub const fn new(lba: u64, blocks: u64) -> Self {
        Self { lba, blocks }
    }

    /// First block after the range (saturating: callers check ranges against the capacity first).
    pub const fn end(self) -> u64 {
        self.lba.saturating_add(self.blocks)
    }

    pub const fn bytes(self) -> u64 {
        self.blocks.saturating_mul(BLOCK as u64)
    }

    pub const fn offset(self) -> u64 {
        self.lba.saturating_mul(BLOCK as u64)
    }

    /// The range widened to whole physical blocks.
    #[must_use]
    pub const fn physical(self) -> Self {
        if self.blocks == 0 {
            return self;
        }
        let first = self.lba / BLOCKS_PER_PHYSICAL * BLOCKS_PER_PHYSICAL;
        let end = self.end().div_ceil(BLOCKS_PER_PHYSICAL) * BLOCKS_PER_PHYSICAL;
        Self { lba: first, blocks: end - first }
    }

    pub const fn overlaps(self, other: Self) -> bool {
        self.blocks != 0 && other.blocks != 0 && self.lba < other.end() && other.lba < self.end()
    }
}

/// What is to be done. Data of `Write`, `WriteSame` (one block) and `CompareAndWrite` (compare
/// half, then write half) travels beside the request, owned by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Read,
    Write,
    /// One logical block of data repeated over the extent (SBC-4 WRITE SAME).
    WriteSame,
    /// Zeroes over the extent; the store may punch a hole.
    WriteZeroes,
    /// The extent reads as zeroes afterwards (LBPRZ = 1); the store punches a hole.
    Unmap,
    /// Atomic compare, then write (SBC-4 COMPARE AND WRITE). `blocks` counts one half.
    CompareAndWrite,
    /// Everything acknowledged before is on stable storage (SYNCHRONIZE CACHE). Extent ignored.
    Flush,
}

impl Op {
    /// Changes the medium (and is therefore mirrored).
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Flush)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    pub op: Op,
    pub extent: Extent,
}

/// Why a volume does not carry out media commands now. The front end turns it into its own words
/// (SCSI: 02/04/0B; NVMe: ANA status).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The other array serves, or nobody may (standby: 02/04/0B).
    Standby,
    /// Roles are changing and the hold ran out (02/04/0B all the same, because a path failed by 0A
    /// comes back late).
    Transition,
    /// A named limit on commands in flight was reached (TASK SET FULL).
    Busy,
    /// A write was held while the array took office: the host, if it still wants it, sends it again
    /// (BUSY).
    Again,
}

/// How a block request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Good,
    /// COMPARE AND WRITE: byte offset of the first difference (0E/1D/00).
    Miscompare {
        offset: u32,
    },
    /// No space for it on the store (07/27/07).
    NoSpace,
    /// The store cannot read it (03/11/00).
    ReadError,
    /// The store cannot write it (03/0C/00).
    WriteError,
    Refused(Refusal),
    /// Aborted before it took effect; nothing is answered to the host.
    Aborted,
}

/// How one piece of I/O on this array's own store ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreResult {
    Done,
    /// COMPARE AND WRITE's first half found a difference at this byte offset; nothing written.
    Differs {
        offset: u32,
    },
    NoSpace,
    Failed,
}
