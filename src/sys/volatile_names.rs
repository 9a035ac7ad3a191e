//! Test builds: the names of volatile files. A new file has no name on disk until its directory is
//! flushed (it is an O_TMPFILE until then, and is linked by the flush); a removed one keeps its
//! name until then. A process that dies, by whatever means, so loses what it did not flush. The
//! process itself sees its names at once, if it opens files through `RawFile`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::AtFlags;
use nix::unistd::linkat;

use super::directory::parent_of;

#[derive(Debug)]
struct Names {
    made: BTreeMap<PathBuf, File>,
    removed: BTreeSet<PathBuf>,
}

static NAMES: Mutex<Names> = Mutex::new(Names { made: BTreeMap::new(), removed: BTreeSet::new() });

fn names() -> MutexGuard<'static, Names> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Opens `path` as `options` say, or makes it.
pub(super) fn open(path: &Path, options: &mut OpenOptions, create_new: bool) -> io::Result<File> {
    let mut names = names();
    let removed = names.removed.contains(path);
    if !create_new {
        return match names.made.get(path) {
            Some(made) => options.open(by_descriptor(made)),
            None if removed => Err(io::ErrorKind::NotFound.into()),
            None => options.open(path),
        };
    }
    if names.made.contains_key(path) || (!removed && path.symlink_metadata().is_ok()) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(parent_of(path))?;
    names.made.insert(path.to_owned(), file.try_clone()?);
    Ok(file)
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    let mut names = names();
    if names.made.remove(path).is_some() {
        return Ok(());
    }
    if names.removed.contains(path) {
        return Err(io::ErrorKind::NotFound.into());
    }
    path.symlink_metadata()?;
    names.removed.insert(path.to_owned());
    Ok(())
}

/// The names in `directory` become what the process takes them for.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    let mut names = names();
    let gone: Vec<_> = names.removed.iter().filter(|path| parent_of(path) == directory).cloned().collect();
    for path in gone {
        fs::remove_file(&path)?;
        names.removed.remove(&path);
    }
    let new: Vec<_> = names.made.keys().filter(|path| parent_of(path) == directory).cloned().collect();
    for path in new {
        if let Some(file) = names.made.get(&path) {
            let from = by_descriptor(file);
            linkat(nix::fcntl::AT_FDCWD, &from, nix::fcntl::AT_FDCWD, &path, AtFlags::AT_SYMLINK_FOLLOW)?;
            names.made.remove(&path);
        }
    }
    Ok(())
}

/// As [`crash`], for one directory.
pub(super) fn crash_in(directory: &Path) {
    let mut names = names();
    names.made.retain(|path, _| parent_of(path) != directory);
    names.removed.retain(|path| parent_of(path) != directory);
}

/// The power goes: nothing that was not flushed has happened.
pub(super) fn crash() {
    let mut names = names();
    names.made.clear();
    names.removed.clear();
}
