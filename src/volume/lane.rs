//! The sending end of a lane, as volumes see it: a queue that the lane's connection drains.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::Notify;

use crate::arbitration::GroupId;
use crate::block::StoreResult;
use crate::mirror::{FrameHeader, SessionId, VolumeId};
use crate::sys::buffer::Buffer;

/// One frame on its way to the peer.
#[derive(Debug)]
pub enum LaneFrame {
    Data {
        group: GroupId,
        volume: VolumeId,
        header: FrameHeader,
        data: Buffer,
    },
    /// Blocks that the peer's `Read` asked for, under its header.
    Given {
        group: GroupId,
        volume: VolumeId,
        header: FrameHeader,
        data: Buffer,
    },
    /// A question for the digests of the header's extent.
    AskSums {
        group: GroupId,
        volume: VolumeId,
        header: FrameHeader,
    },
    /// The digests that were asked for, under the header that asked.
    Sums {
        group: GroupId,
        volume: VolumeId,
        header: FrameHeader,
        data: Buffer,
    },
    Acknowledge {
        volume: VolumeId,
        session: SessionId,
        sequence: u64,
        /// `None`: refused, another session or tenure is in force.
        result: Option<StoreResult>,
    },
    /// Asks the peer's end for a sign of life.
    Ask,
    /// Gives one.
    Here,
}

/// Queue of one lane that is up; lives on the lane's data thread. What can be in it is bounded by
/// the ledger's slots (one frame each), the copies in progress, the frames received (one
/// acknowledgement each), and the signs of life (one a tick, and one for each that was asked for).
#[derive(Debug, Default)]
pub struct LaneOut {
    queue: RefCell<VecDeque<LaneFrame>>,
    wake: Notify,
    closed: Cell<bool>,
    /// Newest version of the lane format that the peer speaks.
    version: u8,
}

impl LaneOut {
    pub fn new(version: u8) -> Self {
        Self { version, ..Self::default() }
    }

    pub const fn version(&self) -> u8 {
        self.version
    }

    /// Queues a frame; dropped when the lane is closed (the session ends with it anyway).
    pub fn push(&self, frame: LaneFrame) {
        if self.closed.get() {
            return;
        }
        let mut queue = self.queue.borrow_mut();
        queue.push_back(frame);
        if queue.len() == 1 {
            drop(queue);
            self.wake.notify_one();
        }
    }

    /// Takes everything queued so far (appending).
    pub fn drain(&self, into: &mut VecDeque<LaneFrame>) {
        into.append(&mut self.queue.borrow_mut());
    }

    /// Ends when something may have been queued since the last `drain`, or the lane was closed.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }

    pub fn close(&self) {
        self.closed.set(true);
        self.queue.borrow_mut().clear();
        self.wake.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }
}
