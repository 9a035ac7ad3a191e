//! The words between a [`Volume`](super::Volume), its shell and the group's control.

use crate::arbitration::Tenure;
use crate::block::{Extent, Op, Outcome, StoreResult};
use crate::time::Now;

/// A host command inside one volume's ledger: index of a slot, reused after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u32);

/// A frame of the peer being applied to this copy (secondary side).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplyId(pub u32);

/// A region being copied to the peer (resync, or recovery of an in-doubt region).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CopyId(pub u32);

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CopyKind {
    /// Out-of-sync region, while this copy serves alone.
    Resync,
    /// In-doubt region after this primary's restart or after a write that failed on one copy
    /// (rules 15, 17): nothing touches it until both copies are equal.
    Recover,
}

/// What the shell must do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VolumeAction {
    /// Do the command's I/O on this array's store (stable when it writes); then `local_done`.
    /// A CompareAndWrite comes first as `Compare` and, when equal, again as `Local`.
    Local { command: CommandId },
    /// Read and compare only; then `local_done` with `Done` or `Differs`.
    Compare { command: CommandId },
    /// Send the command's data on `lane`; the peer's answer comes back through `mirror_acked`.
    Mirror { command: CommandId, lane: LaneId, header: FrameHeader },
    /// The command is over. The shell answers the host (nothing for `Aborted`), frees the payload
    /// and must call `release` before the slot is used again.
    Answer { command: CommandId, outcome: Outcome },
    /// Map pages changed and something waits for them: call `map_pages`, write them durably, then
    /// `map_durable`.
    PersistMap,
    /// Read the region from this copy and send it on `lane` as one or more frames with this header
    /// (holes as `Unmap`); when the peer acknowledged all of them, call `copy_done`.
    Copy { copy: CopyId, kind: CopyKind, lane: LaneId, header: FrameHeader },
    /// Secondary: write the frame's payload to this copy (stable), then `applied`.
    Apply { apply: ApplyId, lane: LaneId, header: FrameHeader },
    /// Secondary: tell the primary on `lane` how the frame ended. `None`: refused, another session
    /// or tenure is in force (the primary closes its session on that).
    Acknowledge { lane: LaneId, session: SessionId, sequence: u64, result: Option<StoreResult> },
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
    /// Regions that must still be copied to the peer.
    pub dirty_regions: u64,
    /// Regions in doubt (rules 15, 17).
    pub recovering_regions: u64,
    /// Regions with the activity bit set.
    pub active_regions: u64,
    /// Writes in flight that were not sent in the present session.
    pub unsent: u32,
    /// Map changes not yet durable.
    pub map_pending: bool,
    /// Grantor-clock instant at which the oldest unacknowledged frame was sent.
    pub oldest_unacked: Option<crate::time::Time>,
    /// The peer answered a frame with a failure, or refused it: the session is no longer of use.
    pub peer_failed: bool,
    /// This copy's store failed a write (not for want of space) or a read.
    pub store_failed: bool,
}
