//! The words between a [`Volume`](super::Volume), its shell and the group's control.

use crate::arbitration::Tenure;
use crate::block::{Extent, Op, Outcome, StoreResult};
use crate::time::{Duration, Now, Time};

/// UUID of a virtual volume; the same on both arrays of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub [u8; 16]);

/// What a volume is, for as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    pub id: VolumeId,
    /// Capacity in logical blocks.
    pub blocks: u64,
}

/// What a volume promises of a write that it answered (DESIGN §4 *write promise*).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WritePromise {
    /// It is on stable storage, on every copy in sync.
    #[default]
    Stable,
    /// Both arrays hold it in memory, as a mirrored cache; on stable storage after a flush. An array
    /// alone in sync holds it on stable storage all the same.
    Memory,
}

/// Logical blocks in one region of the dirty map (1 MiB).
pub const REGION_BLOCKS: u64 = 2048;

/// Consecutive regions of the dirty map. Clipped to the volume by whoever reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RegionRun {
    pub first: u64,
    pub count: u64,
}

/// The named limits of one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Host commands in the ledger, parked ones included; `Refusal::Busy` past it. At most
    /// [`Limits::COMMANDS_MAX`].
    pub commands: u32,
    /// Regions copied at a time. At most [`Limits::COPIES_MAX`].
    pub copies: u32,
    /// Regions kept marked active without a write in flight: what a crash copies in vain, against
    /// what a busy host pays in map writes.
    pub active_regions: u32,
    /// How long an idle region stays marked active.
    pub activity_linger: Duration,
    /// Write promise *memory*: most bytes that this store holds in memory and not on its disk. Past it
    /// writes are stable. It bounds how long the flush takes that comes before *drop* and *promote*.
    pub unflushed_bytes: u64,
}

impl Limits {
    /// The sequence of a frame carries its slot in 18 bits; this is what memory is meant to bear.
    pub const COMMANDS_MAX: u32 = 8192;
    /// Copies are read and sent whole, 1 MiB each.
    pub const COPIES_MAX: u32 = 64;
    /// Frames of one copy: at most one for each physical block of the region.
    pub const COPY_FRAMES_MAX: u32 = 256;
    /// Frames a secondary holds: all that a primary within its limits can have sent in a session.
    pub const APPLIES_MAX: u32 = Self::COMMANDS_MAX + Self::COPIES_MAX * Self::COPY_FRAMES_MAX;
    /// Blocks fetched from the peer at once: what one frame of a lane carries (32 MiB).
    pub const FETCH_BLOCKS_MAX: u64 = 65_536;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            commands: 1024,
            copies: 4,
            active_regions: 1024,
            activity_linger: Duration::from_secs(4),
            unflushed_bytes: 32 << 20,
        }
    }
}

/// A host command inside one volume's ledger: a slot (below `Limits::commands`), and which use of
/// the slot it is. A shell that keeps payloads by slot compares the whole id before it acts: an
/// action carried out late may name a use that is over (its session is, too: skip the action).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// A frame of the peer being applied to this copy (secondary side). Slot below
/// [`Limits::APPLIES_MAX`]; see [`CommandId`] for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplyId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// A region being copied to the peer (resync, or recovery of an in-doubt region). Slot below
/// `Limits::COPIES_MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// A flush of this array's store that no command asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SyncId(pub(super) u32);

impl CommandId {
    /// The whole id as one number, for a shell that hands it out as a ticket.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.slot as u64
    }

    /// The id that [`CommandId::to_bits`] gave.
    pub const fn from_bits(bits: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "each half is taken apart again")]
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }

    pub const fn slot(self) -> u32 {
        self.slot
    }
}

impl ApplyId {
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

impl CopyId {
    pub const fn slot(self) -> u32 {
        self.slot
    }
}

/// One of the data connections between the arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u16);

/// A mirror session of a group: boot counter of the primary (durable), then a counter (rule 14).
/// Compared within one tenure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub boot: u64,
    pub counter: u64,
}

/// A snapshot of the dirty map handed out for writing; durable snapshots are reported by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapGeneration(pub u64);

/// What every data-path call brings: the time, and the lane the calling thread owns (frames that
/// the call causes go out on it; `None` when the caller owns none that is up).
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub now: Now,
    pub lane: Option<LaneId>,
}

/// What a frame on a lane says, without its payload. `sequence` is unique within the session of
/// the volume; the ack names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameHeader {
    pub tenure: Tenure,
    pub session: SessionId,
    pub sequence: u64,
    pub op: Op,
    pub extent: Extent,
    /// The frame may be acknowledged as soon as the peer's memory holds it; else its disk must.
    pub memory: bool,
}

impl FrameHeader {
    /// The header of the `index`-th frame of a copy (from zero, below
    /// [`Limits::COPY_FRAMES_MAX`]): `Write` for data, `Unmap` for a hole.
    #[must_use]
    pub const fn copy_frame(self, index: u32, op: Op, extent: Extent) -> Self {
        Self { sequence: self.sequence + index as u64, op, extent, ..self }
    }
}

/// Why a region was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyFailed {
    /// This array's store could not be read.
    Store,
    /// The lane is gone. Nothing is wrong with the store; the lane's loss ends the session, and the
    /// next one begins the copy again.
    Lane,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyKind {
    /// Out-of-sync region, while this copy serves alone.
    Resync,
    /// In-doubt region after this primary's restart or after a write that failed on one copy
    /// (rules 15, 17): nothing touches it until both copies are equal.
    Recover,
    /// Both copies in sync are compared.
    Verify,
}

/// What the shell must do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VolumeAction {
    /// Do the command's I/O on this array's store; then `local_done`. `stable`: a write must be on
    /// stable storage by then; else what it wrote may be lost until the next flush.
    /// A CompareAndWrite comes first as `Compare` and, when equal, again as `Local`.
    Local { command: CommandId, stable: bool },
    /// Read and compare only; then `local_done` with `Done` or `Differs`.
    Compare { command: CommandId },
    /// Send the command's data on `lane`; the peer's answer comes back through `mirror_acked`.
    Mirror { command: CommandId, lane: LaneId, header: FrameHeader },
    /// Flush this array's store: all that was reported done before is on stable storage afterwards; then
    /// `synced`.
    Sync { sync: SyncId },
    /// Forget what is cached of this array's store and was written, or could not be: reads show what the disk
    /// holds afterwards; then `forgotten`.
    Forget { sync: SyncId },
    /// Send the header on `lane`: the peer is to flush its store. Its answer comes through `mirror_acked`.
    MirrorSync { lane: LaneId, header: FrameHeader },
    /// What the command reads cannot be read here: ask the peer for the header's extent on `lane`
    /// (`Op::Read`). Its blocks come back through `fetched`, or through `mirror_acked` when it has
    /// none to give.
    Fetch { command: CommandId, lane: LaneId, header: FrameHeader },
    /// Write what was fetched over what of it cannot be read here (stable); then `local_done`. The
    /// data of a read are the fetched ones, whatever comes of the writing.
    Mend { command: CommandId },
    /// The shell answers the host (nothing for `Aborted`). Exactly one for each command. The
    /// payload is kept: a command refused while its I/O runs is still re-sent to the peer.
    Answer { command: CommandId, outcome: Outcome },
    /// The command is over in every respect, after its `Answer` (mostly in the same batch; of
    /// different batches that different threads carry out either may come first): when both were
    /// carried out the shell drops the payload and calls `release`, which alone lets the slot be
    /// used again.
    Free { command: CommandId },
    /// Map pages changed and something waits for them: call `map_pages`, write them durably, then
    /// `map_durable`.
    PersistMap,
    /// Read the header's extent from this copy and send it on `lane` as one or more frames
    /// (`FrameHeader::copy_frame`; holes as `Unmap`), then call `copy_sent` with their number.
    /// The peer's answers come through `mirror_acked` like all others, in any order with it.
    Copy { copy: CopyId, kind: CopyKind, lane: LaneId, header: FrameHeader },
    /// Verify: make the digests of the header's extent of this copy, then `summed`; and ask the peer for
    /// its digests on `lane`, which come back through `sums_given` (or `mirror_acked`: it cannot).
    Sum { check: CopyId, lane: LaneId, header: FrameHeader },
    /// Verify, recovery: ask the peer for the header's extent on `lane` (`Op::Read`); its blocks come back
    /// through `blocks_given` (or `mirror_acked`).
    AskBlocks { lane: LaneId, header: FrameHeader },
    /// Secondary: write the frame's payload to this copy (`stable` as with `Local`), then `applied`.
    /// `Op::Read`: read the extent and keep what was read; `Op::Flush`: flush the store; then `applied`.
    Apply { apply: ApplyId, lane: LaneId, header: FrameHeader, stable: bool },
    /// Secondary: the frame will not be applied (its session is over): drop its payload.
    Discard { apply: ApplyId },
    /// Secondary: tell the primary on `lane` how the frame ended. `None`: refused, another session
    /// or tenure is in force (the primary closes its session on that).
    Acknowledge { lane: LaneId, session: SessionId, sequence: u64, result: Option<StoreResult> },
    /// Secondary: send the primary on `lane` what was read for this frame.
    Give { apply: ApplyId, lane: LaneId, header: FrameHeader },
    /// Something that the group's control decides on has changed: let it look at `status`.
    Poke,
}

/// What the group's control needs to know of a volume; cheap to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status {
    /// Host commands started and not yet over.
    pub in_flight: u32,
    /// Commands parked or waiting, not started.
    pub waiting: u32,
    /// Own store I/O outstanding of any kind (commands, applies, copies): rule 5's drain.
    pub store_io: u32,
    /// Of these, begun under a tenure older than the gate's, or by frames of an older session.
    pub store_io_old: u32,
    /// Grantor-clock instant at which the oldest outstanding own store I/O of any kind began: a
    /// disk that hangs shows by it.
    pub oldest_store_io: Option<Time>,
    /// Regions that must still be copied to the peer.
    pub dirty_regions: u64,
    /// Regions in doubt (rules 15, 17).
    pub recovering_regions: u64,
    /// Of these, in doubt because this copy cannot hold, or cannot read, something of it (rule 17): no reason
    /// against a hand over.
    pub failed_regions: u64,
    /// Physical blocks in doubt that can be made equal from neither copy.
    pub lost_blocks: u64,
    /// Regions with the out-of-sync bit set.
    pub out_of_sync_regions: u64,
    /// Regions with the activity bit set.
    pub active_regions: u64,
    /// Writes in flight that were not sent in the present session.
    pub unsent: u32,
    /// Map changes not yet durable.
    pub map_pending: bool,
    /// Grantor-clock instant at which the oldest unacknowledged frame was sent.
    pub oldest_unacked: Option<Time>,
    /// The peer answered a frame with a failure, or refused it: the session is no longer of use.
    pub peer_failed: bool,
    /// Of these: the peer refused a frame; another session or tenure is in force there.
    pub peer_refused: bool,
    /// This copy's store failed a write (not for want of space) or a read.
    pub store_failed: bool,
    /// What a frame is about to overwrite cannot be kept (F14).
    pub unkept: bool,
    /// The volume's write promise is *memory*.
    pub memory: bool,
    /// This store took something that may not be on its disk yet.
    pub unflushed_here: bool,
    /// A flush of this store failed: what its memory held may be nowhere.
    pub flush_failed: bool,
    /// What the disk lacks and the kernel shows all the same is being forgotten: nothing is to be read.
    pub forgetting: bool,
    /// As primary: the peer may have acknowledged something that is not on its disk yet.
    pub unflushed_there: bool,
}
