//! Small durable records in two slots each (`format::slots`): one to a file ([`RecordFile`]:
//! identity), or many, by key, in one file with one flush for a batch ([`RecordTable`]: votes).
//!
//! Space is taken when a file is made or grown, so that a full disk never keeps a vote from being
//! written. All calls block: they are for the metadata thread.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use tracing::warn;

use super::data_dir::sync_directory_of;
use crate::format::slots::{Newest, SLOT_UNIT};
use crate::format::{Format, SlotError, Slots};
use crate::mutation::{self, Mutation};
use crate::sys::directory;
use crate::sys::engine::Engine;
use crate::sys::file::{Access, RawFile};

#[derive(Debug, Error)]
pub enum RecordError {
    #[error("{path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {source}; start this array with an empty data_dir and mirror its volumes anew (a backup would be refused)", path = path.display())]
    Unreadable { path: PathBuf, source: SlotError },
    #[error("{path}: entry {entry}: {source}; start this array with an empty data_dir and mirror its volumes anew (a backup would be refused)", path = path.display())]
    Entry { path: PathBuf, entry: usize, source: SlotError },
    #[error("{path}: entries {first} and {second} are for one key", path = path.display())]
    Duplicate { path: PathBuf, first: usize, second: usize },
    #[error("{path}: a record of {len} bytes; at most {max} fit", path = path.display())]
    TooLong { path: PathBuf, len: usize, max: usize },
    #[error("{path}: more than {max} records", path = path.display())]
    TooMany { path: PathBuf, max: usize },
}

/// Opens `path`, or makes it with `len` zeroes in space that is its own from then on.
fn open_or_make(path: &Path, len: usize, engine: Engine) -> io::Result<RawFile> {
    let access = Access { volatile: engine.is_volatile(), ..Access::default() };
    match RawFile::open(path, access) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let file = RawFile::open(path, Access { create_new: true, ..access })?;
    let filled =
        reserve(&file, 0, len).and_then(|()| sync_directory_of(path, Mutation::DataDirNamesNotSynced));
    match filled {
        Ok(()) => Ok(file),
        Err(error) => {
            // It holds nothing yet; best effort.
            let _ = directory::remove(path, engine.is_volatile());
            Err(error)
        }
    }
}

/// Appends `len` zeroes at `offset`, the end of the file, on stable storage.
fn reserve(file: &RawFile, offset: u64, len: usize) -> io::Result<()> {
    file.set_len(offset + len as u64)?;
    file.write_at(&vec![0; len], offset, false)?;
    file.sync_data()
}

fn read_all(file: &RawFile) -> io::Result<Vec<u8>> {
    /// No file of records grows near this; a foreign one may be of any size.
    const FILE_MAX: u64 = 1 << 30;
    let size = file.size()?;
    if size > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "far too long to be a file of records"));
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)]; // at most FILE_MAX
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn note_torn(path: &Path, newest: &Newest) {
    if let Some(torn) = &newest.torn {
        warn!(
            "{}: a record {torn}: a write that was cut off; going on from record {}",
            path.display(),
            newest.sequence
        );
    }
}

/// Where the newest record stands.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    sequence: u64,
    slot: usize,
}

impl Place {
    fn of(newest: &Newest) -> Self {
        Self { sequence: newest.sequence, slot: newest.slot }
    }

    /// After nothing: record 1 in slot 0.
    fn next(place: Option<Self>) -> Self {
        place.map_or(Self { sequence: 1, slot: 0 }, |at| Self {
            sequence: at.sequence.saturating_add(1),
            slot: 1 - at.slot,
        })
    }
}

/// One record in a file of its own.
#[derive(Debug)]
pub struct RecordFile {
    file: RawFile,
    slots: Slots,
    newest: Option<Place>,
}

impl RecordFile {
    /// Opens (or makes) the file; with it comes the record's body, `None` before the first write.
    ///
    /// # Errors
    /// Torn in both slots, foreign, of a newer format: refused by name. Never guessed at.
    pub fn open(path: &Path, slots: Slots, engine: Engine) -> Result<(Self, Option<Vec<u8>>), RecordError> {
        let failed = |source| RecordError::Io { path: path.to_owned(), source };
        let file = open_or_make(path, slots.file_len(), engine).map_err(failed)?;
        let bytes = read_all(&file).map_err(failed)?;
        match slots.decode(&bytes) {
            Ok(newest) => {
                note_torn(path, &newest);
                let place = Some(Place::of(&newest));
                Ok((Self { file, slots, newest: place }, Some(newest.body)))
            }
            Err(SlotError::Blank) => Ok((Self { file, slots, newest: None }, None)),
            Err(source) => Err(RecordError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// Replaces the record; on stable storage when it returns.
    ///
    /// # Errors
    /// After an I/O error the record is either the old or the new one.
    pub fn write(&mut self, body: &[u8]) -> Result<(), RecordError> {
        let path = || self.file.path().to_owned();
        let next = Place::next(self.newest);
        let Some(bytes) = self.slots.encode(next.sequence, body) else {
            return Err(RecordError::TooLong { path: path(), len: body.len(), max: self.slots.body_max() });
        };
        let stable = !mutation::on(Mutation::RecordNotStable);
        let offset = (next.slot * self.slots.slot_len) as u64;
        self.file
            .write_at(&bytes, offset, stable)
            .map_err(|source| RecordError::Io { path: path(), source })?;
        self.newest = Some(next);
        Ok(())
    }
}

/// A key in a [`RecordTable`]: a UUID.
pub type Key = [u8; 16];

/// Many records by key, each in two slots of 4 KiB, in one file.
#[derive(Debug)]
pub struct RecordTable {
    file: RawFile,
    format: Format,
    entries: BTreeMap<Key, (usize, Place)>,
    /// Entries the file has room for; those without a key are blank.
    room: usize,
}

/// Entries that are added at a time.
const GROWTH: usize = 16;
/// Bounds the file (128 MiB): far more groups than an array has.
const ENTRIES_MAX: usize = 16_384;

impl RecordTable {
    const ENTRY: usize = 2 * SLOT_UNIT;

    const fn slots(format: Format) -> Slots {
        Slots { format, slot_len: SLOT_UNIT }
    }

    /// Longest body of one record.
    pub const fn body_max(format: Format) -> usize {
        Self::slots(format).body_max() - size_of::<Key>()
    }

    /// Opens (or makes) the file; with it come all records.
    ///
    /// # Errors
    /// An entry that is torn in both slots, foreign, or of a newer format: refused by name.
    #[expect(clippy::type_complexity, reason = "the table and what is in it")]
    pub fn open(
        path: &Path,
        format: Format,
        engine: Engine,
    ) -> Result<(Self, Vec<(Key, Vec<u8>)>), RecordError> {
        let failed = |source| RecordError::Io { path: path.to_owned(), source };
        let file = open_or_make(path, GROWTH * Self::ENTRY, engine).map_err(failed)?;
        let bytes = read_all(&file).map_err(failed)?;
        let mut table = Self { file, format, entries: BTreeMap::new(), room: bytes.len() / Self::ENTRY };
        let mut records = Vec::new();
        for (entry, bytes) in bytes.chunks(Self::ENTRY).enumerate() {
            let error = |source| RecordError::Entry { path: path.to_owned(), entry, source };
            let newest = match Self::slots(format).decode(bytes) {
                Ok(newest) => newest,
                Err(SlotError::Blank) => continue,
                Err(source) => return Err(error(source)),
            };
            note_torn(path, &newest);
            let Some((key, body)) = newest.body.split_first_chunk::<16>() else {
                return Err(error(SlotError::Blank));
            };
            if let Some((first, _)) = table.entries.insert(*key, (entry, Place::of(&newest))) {
                return Err(RecordError::Duplicate { path: path.to_owned(), first, second: entry });
            }
            records.push((*key, body.to_vec()));
        }
        Ok((table, records))
    }

    /// Writes a record for each key, new or replaced, and flushes once; all are on stable storage
    /// when it returns. One key stands in a batch at most once.
    ///
    /// # Errors
    /// After an I/O error each record is either the old or the new one.
    pub fn write<'a>(&mut self, batch: impl IntoIterator<Item = (Key, &'a [u8])>) -> Result<(), RecordError> {
        let path = self.file.path().to_owned();
        let failed = |source| RecordError::Io { path: path.clone(), source };
        let mut written = Vec::new();
        let mut body = Vec::new();
        for (key, value) in batch {
            let (entry, next) = match self.entries.get(&key) {
                Some(&(entry, place)) => (entry, Place::next(Some(place))),
                None => (self.free_entry(&written)?, Place::next(None)),
            };
            body.clear();
            body.extend_from_slice(&key);
            body.extend_from_slice(value);
            let Some(bytes) = Self::slots(self.format).encode(next.sequence, &body) else {
                let max = Self::body_max(self.format);
                return Err(RecordError::TooLong { path, len: value.len(), max });
            };
            let offset = entry * Self::ENTRY + next.slot * SLOT_UNIT;
            self.file.write_at(&bytes, offset as u64, false).map_err(failed)?;
            written.push((key, entry, next));
        }
        if !written.is_empty() && !mutation::on(Mutation::VoteFlushSkipped) {
            self.file.sync_data().map_err(failed)?;
        }
        self.entries.extend(written.into_iter().map(|(key, entry, place)| (key, (entry, place))));
        Ok(())
    }

    /// As [`Self::write`], of one record that takes the place of another key's, which is over.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn replace(&mut self, old: &Key, key: Key, value: &[u8]) -> Result<(), RecordError> {
        let entry = self.entries.remove(old);
        self.entries.extend(entry.map(|entry| (key, entry)));
        let written = self.write([(key, value)]);
        if written.is_err()
            && let Some(entry) = self.entries.remove(&key)
        {
            self.entries.insert(*old, entry);
        }
        written
    }

    /// An entry without a record; the file grows when there is none.
    fn free_entry(&mut self, taken: &[(Key, usize, Place)]) -> Result<usize, RecordError> {
        let used =
            self.entries.len() + taken.iter().filter(|(key, ..)| !self.entries.contains_key(key)).count();
        if used >= ENTRIES_MAX {
            return Err(RecordError::TooMany { path: self.file.path().to_owned(), max: ENTRIES_MAX });
        }
        // Records are never removed, so entries fill up from the first on.
        let busy: std::collections::BTreeSet<usize> =
            self.entries.values().map(|(entry, _)| *entry).chain(taken.iter().map(|(_, e, _)| *e)).collect();
        let free = (0..).find(|entry| !busy.contains(entry)).unwrap_or(used);
        if free >= self.room {
            let offset = (self.room * Self::ENTRY) as u64;
            reserve(&self.file, offset, GROWTH * Self::ENTRY)
                .map_err(|source| RecordError::Io { path: self.file.path().to_owned(), source })?;
            self.room += GROWTH;
        }
        Ok(free)
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
