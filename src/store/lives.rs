//! What is known of other arrays' lives: the highest age of each `data_dir` that was ever heard, durable.
//!
//! An array says how old its `data_dir` is in every hello, and when that has risen (`array::age`). One that comes
//! with an age heard before, or a lower one, in another process, was restored from a backup (or is a copy): its data lacks writes
//! that were acknowledged since, its votes lack what it has voted. It gets no contact, hence no lease, and no
//! mirror session (FAILURES F33).

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

use super::records::{Key, RecordError, RecordTable};
use crate::format::Format;
use crate::sys::engine::Engine;

const FORMAT: Format = Format { magic: *b"TWLNLIF\0", version: 1, readable_from: 1 };

#[derive(Debug, Error)]
pub enum LifeError {
    #[error(
        "the data_dir of {name} is older than one heard here before (its age is {found}, {known} was heard): \
         it was restored from a backup or copied, and lacks what was written and voted since. {name} goes on as a \
         new array, and serves no group until its primary has mirrored it anew"
    )]
    Restored { name: String, found: u64, known: u64 },
    #[error("the start of {name} cannot be noted down: {source}")]
    Record { name: String, source: RecordError },
}

/// What an array says of its present life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// UUID of its `data_dir`.
    pub data_dir: Key,
    /// How old it is.
    pub number: u64,
    /// Random at each start.
    pub nonce: [u8; 16],
    /// The array's name, for operators.
    pub name: String,
}

/// The table, and its copy in memory.
#[derive(Debug)]
pub struct Lives {
    table: RecordTable,
    known: BTreeMap<Key, (u64, [u8; 16])>,
}

impl Lives {
    /// Opens (or makes) the file `lives` of a `data_dir`. Blocks.
    ///
    /// # Errors
    /// As [`RecordTable::open`].
    pub fn open(data_dir: &Path, engine: Engine) -> Result<Self, RecordError> {
        let (table, records) = RecordTable::open(&data_dir.join("lives"), FORMAT, engine)?;
        let known = records.into_iter().filter_map(|(identity, body)| {
            let (life, rest) = body.split_first_chunk::<8>()?;
            Some((identity, (u64::from_le_bytes(*life), *rest.first_chunk::<16>()?)))
        });
        Ok(Self { known: known.collect(), table })
    }

    /// Is this the newest life of the array that was ever heard? It is noted down, durably, before this
    /// returns. Blocks.
    ///
    /// # Errors
    /// [`LifeError::Restored`]; a disk that does not take the note.
    pub fn admit(&mut self, start: &Start) -> Result<(), LifeError> {
        let restored = |known| LifeError::Restored { name: start.name.clone(), found: start.number, known };
        match self.known.get(&start.data_dir) {
            Some(&(life, nonce)) if life >= start.number && nonce == start.nonce => return Ok(()),
            Some(&(life, _)) if life >= start.number => return Err(restored(life)),
            _ => {}
        }
        let body = [&start.number.to_le_bytes()[..], &start.nonce].concat();
        let failed = |source| LifeError::Record { name: start.name.clone(), source };
        self.table.write([(start.data_dir, &body[..])]).map_err(failed)?;
        self.known.insert(start.data_dir, (start.number, start.nonce));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(number: u64, nonce: u8) -> Start {
        Start { data_dir: [1; 16], number, nonce: [nonce; 16], name: "array-a".into() }
    }

    #[test]
    fn a_life_that_was_heard_before_in_another_process_is_refused_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Lives::open(dir.path(), Engine::Plain).unwrap();
        let mut lives = open();
        for (life, nonce) in [(3, 1), (3, 1), (5, 2), (5, 2)] {
            lives.admit(&start(life, nonce)).unwrap();
        }
        drop(lives);
        let mut lives = open();
        for (life, nonce) in [(4, 1), (5, 3), (3, 1)] {
            let error = lives.admit(&start(life, nonce)).unwrap_err();
            assert!(matches!(error, LifeError::Restored { known: 5, .. }), "{error}");
        }
        lives.admit(&start(5, 2)).unwrap();
        lives.admit(&Start { data_dir: [2; 16], ..start(1, 9) }).unwrap();
        lives.admit(&start(6, 3)).unwrap();
        // It grows older while it runs; what was said before arrives late.
        lives.admit(&start(900, 3)).unwrap();
        lives.admit(&start(6, 3)).unwrap();
        let error = lives.admit(&start(7, 4)).unwrap_err();
        assert!(matches!(error, LifeError::Restored { known: 900, .. }), "{error}");
    }
}
