//! A core's actions together with the payloads they need, ready to be carried out on a thread.

use crate::arbitration::GroupId;
use crate::block::{Extent, Request, StoreResult};
use crate::mirror::{ApplyId, CommandId, CopyId, FrameHeader, LaneId, SessionId, SyncId};
use crate::store::Durability;
use crate::sys::buffer::Buffer;

use super::mend::For;

/// One step that the shell carries out without holding the volume's lock.
#[derive(Debug)]
pub enum Work {
    /// I/O of a host command on this array's copy.
    Local { command: CommandId, request: Request, data: Buffer, durability: Durability },
    /// First half of COMPARE AND WRITE.
    Compare { command: CommandId, request: Request, data: Buffer },
    /// The command's data to the peer.
    Mirror { group: GroupId, lane: LaneId, header: FrameHeader, data: Buffer },
    /// A region to the peer.
    Copy { group: GroupId, copy: CopyId, lane: LaneId, header: FrameHeader },
    /// A frame of the peer into this copy; what it overwrites is kept first in image `keep`, if any.
    Apply { apply: ApplyId, header: FrameHeader, data: Buffer, keep: Option<u64>, durability: Durability },
    /// A flush of this copy that no command asked for.
    Sync { sync: SyncId },
    /// What is cached of this copy and not to be written any more is forgotten.
    Forget { sync: SyncId },
    /// A question of the peer for blocks of this copy.
    Lend { apply: ApplyId, extent: Extent },
    /// A question of the peer for digests of this copy.
    LendSums { apply: ApplyId, extent: Extent },
    /// The blocks, or with `sums` the digests, that the peer asked for.
    Give { group: GroupId, lane: LaneId, header: FrameHeader, data: Buffer, sums: bool },
    /// Verify: the digests of this copy, and the question for the peer's.
    Sum { group: GroupId, check: CopyId, lane: LaneId, header: FrameHeader },
    /// Verify, recovery: the peer's blocks against this copy's.
    Weigh { check: CopyId, extent: Extent, data: Buffer, found_by: For },
    /// The peer's blocks over what of their extent cannot be read here.
    Mend { command: CommandId, extent: Extent, data: Buffer },
    /// The end of a frame to the peer. `None`: refused.
    Acknowledge { lane: LaneId, session: SessionId, sequence: u64, result: Option<StoreResult> },
}
