//! A volume's disk was exchanged, wiped or lost: its copy begins anew, blank, under a new copy number.

use std::io;
use std::path::Path;

use super::data_dir::sync_directory_of;
use super::volume_file::{
    DataFile, Stamp, TRAILER, VolumeFileError, read_record, whole_blocks, write_record,
};
use crate::mutation::Mutation;
use crate::sys::directory;
use crate::sys::engine::Engine;
use crate::sys::file::{Access, Medium, RawFile};

/// What stands where a copy is to begin anew.
enum Place {
    Nothing,
    /// A file that holds an older copy, or nothing.
    File,
    /// A device with an older copy; its size without the record.
    Device(RawFile, u64),
    BlankDevice,
}

fn look(path: &Path, stamp: Stamp, size: u64, engine: Engine) -> Result<Place, VolumeFileError> {
    let failed = |source| VolumeFileError::Io { path: path.to_owned(), source };
    let raw = match RawFile::open(path, Access { volatile: engine.is_volatile(), ..Access::default() }) {
        Ok(raw) => raw,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Place::Nothing),
        Err(error) => return Err(failed(error)),
    };
    let len = whole_blocks(raw.size().map_err(failed)?);
    let at = len.saturating_sub(TRAILER);
    let own = len > TRAILER
        && matches!(read_record(&raw, at).map_err(failed)?, Ok((found, _)) if found.id == stamp.id);
    if raw.medium() == Medium::Device {
        if own && size > at {
            return Err(VolumeFileError::TooLarge { path: path.to_owned(), asked: size, limit: at });
        }
        return Ok(if own { Place::Device(raw, at) } else { Place::BlankDevice });
    }
    // Its lock goes with the file, which is opened for this alone.
    if !raw.lock().map_err(failed)? {
        return Err(VolumeFileError::Locked { path: path.to_owned() });
    }
    drop(raw);
    if !own && !DataFile::is_left_over(path, |_| true).map_err(failed)? {
        return Err(VolumeFileError::Foreign { path: path.to_owned() });
    }
    Ok(Place::File)
}

impl DataFile {
    /// Could [`DataFile::renew`] begin here? (A device is looked at whether it is blank only then.) Blocks.
    ///
    /// # Errors
    /// As `renew`.
    pub fn is_renewable(path: &Path, stamp: Stamp, size: u64, engine: Engine) -> Result<(), VolumeFileError> {
        look(path, stamp, size, engine).map(drop)
    }

    /// Makes the copy that `stamp` names where an older one of the same volume, something blank, or nothing
    /// is. A file begins blank; a device that holds an older copy keeps its content, which counts for nothing.
    /// Durable when it returns. Blocks.
    ///
    /// # Errors
    /// As [`DataFile::create`]; what belongs to something else is refused by name and left alone.
    pub fn renew(path: &Path, stamp: Stamp, size: u64, engine: Engine) -> Result<Self, VolumeFileError> {
        let failed = |source| VolumeFileError::Io { path: path.to_owned(), source };
        match look(path, stamp, size, engine)? {
            Place::Nothing | Place::BlankDevice => {}
            Place::File => {
                directory::remove(path, engine.is_volatile()).map_err(failed)?;
                sync_directory_of(path, Mutation::VolumeRemovalNotSynced).map_err(failed)?;
            }
            Place::Device(raw, at) => {
                write_record(&raw, at, stamp, size).map_err(failed)?;
                drop(raw);
                return Self::open(path, stamp, size, engine);
            }
        }
        Self::create(path, stamp, size, engine)
    }
}
