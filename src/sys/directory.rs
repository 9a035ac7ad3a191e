//! Names of files: removing one, and making what was made, renamed or removed durable.
//!
//! In test builds the names of *volatile* files are volatile too (`super::volatile_names`).

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The directory that `path` stands in.
pub(super) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Removes the name of a file. Durable after [`sync_of`]. `volatile`: the file was opened so.
///
/// # Errors
/// The system's.
pub fn remove(path: &Path, volatile: bool) -> io::Result<()> {
    #[cfg(feature = "testing")]
    if volatile {
        return super::volatile_names::remove(path);
    }
    let _ = volatile; // never so in ordinary builds
    fs::remove_file(path)
}

/// Names in the directory of `path` were made, renamed or removed: makes that durable.
///
/// # Errors
/// The system's.
pub fn sync_of(path: &Path) -> io::Result<()> {
    let parent = parent_of(path);
    #[cfg(feature = "testing")]
    super::volatile_names::sync(&parent)?;
    File::open(parent)?.sync_all()
}
