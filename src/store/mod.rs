//! Shells around disks: data files, dirty maps, votes, the object store.

mod before;
pub mod data_dir;
mod event_file;
#[cfg(feature = "testing")]
mod fault;
mod handle;
pub mod lives;
#[cfg(test)]
mod loop_device_tests;
pub mod map_file;
pub mod objects;
mod probe;
pub mod records;
mod renew;
pub mod volume_file;

pub use before::{BeforeImage, is_before_image};
pub use data_dir::{DataDir, DataDirError, Identity, Owner};
pub use event_file::EventFile;
pub use handle::{Durability, Handle};
pub use map_file::MapFile;
pub use probe::{DirectoryProbe, WeakDataFile};
pub use records::{RecordError, RecordFile, RecordTable};
pub use volume_file::{DataFile, Stamp, VolumeFileError};
