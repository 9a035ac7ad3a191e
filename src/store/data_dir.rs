//! The array's own directory: what lies where in it, the lock that keeps a second daemon out, and
//! the identity that this array has for as long as the directory lives.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// A file was made, renamed or removed: makes that durable.
///
/// # Errors
/// The system's.
pub fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

#[expect(unused, reason = "comes with the directory's layout")]
fn todo() {
    let _ = fs::metadata("");
}
