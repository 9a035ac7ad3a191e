//! The mirror's core: one [`Volume`] per virtual volume, on both arrays.
//!
//! It orders commands that overlap, binds each to its tenure, marks the dirty map before a copy
//! can differ, sends every write to both copies, and applies what the peer sends. Pure: payloads,
//! sockets and disks belong to the shell, which keeps them under the numbers given out here.

mod active;
mod api;
mod before;
#[cfg(feature = "testing")]
pub mod canonical;
mod command;
mod copy;
mod findings;
pub mod frame;
mod host;
mod map;
mod map_page;
mod mend;
mod office;
mod overlap;
mod recover;
mod regions;
mod secondary;
mod session;
mod unflushed;
mod verify;
mod volume;

#[cfg(test)]
mod pair;
#[cfg(test)]
mod tests;

pub use api::{
    ApplyId, CommandId, Context, CopyFailed, CopyId, CopyKind, FrameHeader, Geometry, LaneId, Limits,
    MapGeneration, REGION_BLOCKS, RegionRun, SessionId, Status, SyncId, VolumeAction, VolumeId, WritePromise,
};
pub use findings::{
    DIFFERENCES_MAX, Difference, Finding, PIECE_BLOCKS, Sum, VerifyEnd, VerifyRefused, VerifyReport,
    Weighing, pieces,
};
pub use map::{DirtyMap, MapPage};
pub use map_page::MapError;
pub use volume::Volume;
