//! The mirror's core: one [`Volume`] per virtual volume, on both arrays.
//!
//! It orders commands that overlap, binds each to its tenure, marks the dirty map before a copy
//! can differ, sends every write to both copies, and applies what the peer sends. Pure: payloads,
//! sockets and disks belong to the shell, which keeps them under the numbers given out here.

mod api;

pub use api::{
    ApplyId, CommandId, Context, CopyId, CopyKind, FrameHeader, LaneId, MapGeneration, SessionId, Status,
    VolumeAction,
};
