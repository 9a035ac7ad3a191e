//! Shells around disks: data files, dirty maps, votes, the object store.

pub mod data_dir;
mod handle;
pub mod objects;
pub mod volume_file;

pub use handle::{Durability, Handle};
pub use volume_file::{DataFile, VolumeFileError};
