//! What is known of other arrays' lives: the highest age of each `data_dir` that was ever heard, durable.
//!
//! An array says how old its `data_dir` is in every hello, and when that has risen (`array::age`). One that comes
//! with an age heard before, or a lower one, in another process, was restored from a backup (or is a copy): its data lacks writes
//! that were acknowledged since, its votes lack what it has voted. It gets no contact, hence no lease, and no
//! mirror session (FAILURES F33).
//!
//! An identity is one array's: what another name says of it is not believed, or anybody who speaks here could
//! bring an array into the reputation of being an old copy.

use std::collections::BTreeMap;
use std::path::Path;

use thiserror::Error;

use super::records::{Key, RecordError, RecordTable};
use crate::format::Format;
use crate::mutation::{self, Mutation};
use crate::sys::engine::Engine;

/// Version 2 adds the array's name and the order of notes.
const FORMAT: Format = Format { magic: *b"TWLNLIF\0", version: 2, readable_from: 2 };
/// Identities remembered of one name: an array that lost its `data_dir` has a new one. The one heard longest
/// ago makes way.
const IDENTITIES_OF_ONE_MAX: usize = 16;

#[derive(Debug, Error)]
pub enum LifeError {
    #[error(
        "the data_dir of {name} is older than one heard here before (its age is {found}, {known} was heard): \
         it was restored from a backup or copied, and lacks what was written and voted since. {name} goes on as a \
         new array, and serves no group until its primary has mirrored it anew"
    )]
    Restored { name: String, found: u64, known: u64 },
    #[error(
        "{name} shows the identity of {known}: a data_dir was copied, or an array was renamed; give {name} an empty \
         data_dir, or its old name"
    )]
    OtherName { name: String, known: String },
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
    /// The array's name; where TLS is used, that of its certificate.
    pub name: String,
}

/// What is known of one `data_dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    number: u64,
    nonce: [u8; 16],
    /// Empty: noted by version 1; the first name that shows this identity is its owner.
    name: String,
    /// Grows with each note of the file.
    order: u64,
}

impl Known {
    /// The same life, at this age or before.
    fn is_of(&self, start: &Start) -> bool {
        self.number >= start.number && self.nonce == start.nonce
    }

    fn encode(&self) -> Vec<u8> {
        let length = u8::try_from(self.name.len()).unwrap_or(u8::MAX); // names are short
        let number = self.number.to_le_bytes();
        [&number[..], &self.nonce, &self.order.to_le_bytes(), &[length], self.name.as_bytes()].concat()
    }

    /// `None`: of no known shape.
    fn decode(body: &[u8]) -> Option<Self> {
        let (number, rest) = body.split_first_chunk::<8>()?;
        let (nonce, rest) = rest.split_first_chunk::<16>()?;
        let number = u64::from_le_bytes(*number);
        if rest.is_empty() {
            return Some(Self { number, nonce: *nonce, name: String::new(), order: 0 }); // version 1
        }
        let (order, rest) = rest.split_first_chunk::<8>()?;
        let (length, name) = rest.split_first()?;
        let name = String::from_utf8(name.get(..usize::from(*length))?.to_vec()).ok()?;
        Some(Self { number, nonce: *nonce, name, order: u64::from_le_bytes(*order) })
    }
}

/// The table, and its copy in memory.
#[derive(Debug)]
pub struct Lives {
    table: RecordTable,
    known: BTreeMap<Key, Known>,
}

impl Lives {
    /// Opens (or makes) the file `lives` of a `data_dir`. Blocks.
    ///
    /// # Errors
    /// As [`RecordTable::open`].
    pub fn open(data_dir: &Path, engine: Engine) -> Result<Self, RecordError> {
        let (table, records) = RecordTable::open(&data_dir.join("lives"), FORMAT, engine)?;
        let known =
            records.into_iter().filter_map(|(identity, body)| Some((identity, Known::decode(&body)?)));
        Ok(Self { known: known.collect(), table })
    }

    /// Is this the newest life of the array that was ever heard? It is noted down, durably, before this
    /// returns. Blocks.
    ///
    /// # Errors
    /// [`LifeError::Restored`]; an identity that is another array's; a disk that does not take the note.
    pub fn admit(&mut self, start: &Start) -> Result<(), LifeError> {
        let name = || start.name.clone();
        match self.known.get(&start.data_dir) {
            Some(known)
                if !known.name.is_empty()
                    && known.name != start.name
                    && !mutation::on(Mutation::LivesOfAnyName) =>
            {
                return Err(LifeError::OtherName { name: name(), known: known.name.clone() });
            }
            Some(known) if known.is_of(start) && !known.name.is_empty() => return Ok(()),
            Some(known) if known.number >= start.number && !known.is_of(start) => {
                let (found, known) = (start.number, known.number);
                return Err(LifeError::Restored { name: name(), found, known });
            }
            _ => {}
        }
        let order = self.known.values().map(|known| known.order).max().unwrap_or(0).saturating_add(1);
        // One of version 1 that finds its owner may be older than what is said of it now.
        let number = self.known.get(&start.data_dir).map_or(0, |known| known.number).max(start.number);
        let noted = Known { number, nonce: start.nonce, name: name(), order };
        let over = self.oldest_of(start);
        let written = match over {
            Some(old) => self.table.replace(&old, start.data_dir, &noted.encode()),
            None => self.table.write([(start.data_dir, &noted.encode()[..])]),
        };
        written.map_err(|source| LifeError::Record { name: name(), source })?;
        if let Some(old) = over {
            self.known.remove(&old);
        }
        self.known.insert(start.data_dir, noted);
        Ok(())
    }

    /// The identity that makes way for a new one of the same name, if there are too many.
    fn oldest_of(&self, start: &Start) -> Option<Key> {
        if self.known.contains_key(&start.data_dir) {
            return None;
        }
        let own = || self.known.iter().filter(|(_, known)| known.name == start.name);
        (own().count() >= IDENTITIES_OF_ONE_MAX)
            .then(|| own().min_by_key(|(_, known)| known.order).map(|(key, _)| *key))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(number: u64, nonce: u8) -> Start {
        Start { data_dir: [1; 16], number, nonce: [nonce; 16], name: "array-a".into() }
    }

    fn open(dir: &Path) -> Lives {
        Lives::open(dir, Engine::Plain).unwrap()
    }

    #[test]
    fn a_life_that_was_heard_before_in_another_process_is_refused_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut lives = open(dir.path());
        for (life, nonce) in [(3, 1), (3, 1), (5, 2), (5, 2)] {
            lives.admit(&start(life, nonce)).unwrap();
        }
        drop(lives);
        let mut lives = open(dir.path());
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

    #[test]
    fn an_identity_is_one_array_s_and_nobody_else_makes_it_old() {
        let dir = tempfile::tempdir().unwrap();
        let mut lives = open(dir.path());
        lives.admit(&start(5, 1)).unwrap();
        for number in [u64::MAX, 5, 1] {
            let claimed = Start { number, name: "x".into(), ..start(5, 1) };
            let error = lives.admit(&claimed).unwrap_err();
            assert!(matches!(&error, LifeError::OtherName { known, .. } if known == "array-a"), "{error}");
        }
        drop(lives);
        let mut lives = open(dir.path());
        lives.admit(&start(6, 2)).unwrap();
    }

    #[cfg(feature = "testing")]
    #[test]
    fn by_identity_alone_anybody_makes_it_old() {
        let run = std::thread::spawn(|| {
            mutation::set(Some(Mutation::LivesOfAnyName));
            an_identity_is_one_array_s_and_nobody_else_makes_it_old();
        });
        assert!(run.join().is_err(), "the mutation changes nothing");
    }

    #[test]
    fn notes_of_version_1_are_read_and_find_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = Format { version: 1, readable_from: 1, ..FORMAT };
        let (mut table, _) = RecordTable::open(&dir.path().join("lives"), first, Engine::Plain).unwrap();
        let body = [&5u64.to_le_bytes()[..], &[2; 16]].concat();
        table.write([([1; 16], &body[..])]).unwrap();
        drop(table);
        let mut lives = open(dir.path());
        assert!(matches!(lives.admit(&start(4, 1)), Err(LifeError::Restored { known: 5, .. })));
        lives.admit(&start(5, 2)).unwrap();
        drop(lives);
        let mut lives = open(dir.path());
        let other = Start { name: "x".into(), ..start(6, 3) };
        assert!(matches!(lives.admit(&other), Err(LifeError::OtherName { .. })));
        lives.admit(&start(6, 3)).unwrap();
    }

    #[test]
    fn an_array_that_shows_ever_new_identities_takes_the_room_of_its_own_only() {
        let dir = tempfile::tempdir().unwrap();
        let mut lives = open(dir.path());
        lives.admit(&Start { data_dir: [0xff; 16], name: "array-b".into(), ..start(7, 1) }).unwrap();
        let size = || std::fs::metadata(dir.path().join("lives")).unwrap().len();
        for n in 0..100 {
            lives.admit(&Start { data_dir: [n; 16], ..start(1, n) }).unwrap();
        }
        assert_eq!(lives.known.len(), IDENTITIES_OF_ONE_MAX + 1);
        let grown = size();
        for n in 100..200 {
            lives.admit(&Start { data_dir: [n; 16], ..start(1, n) }).unwrap();
        }
        assert_eq!(size(), grown);
        let known = lives.known.clone();
        drop(lives);
        let mut lives = open(dir.path());
        assert_eq!(lives.known, known);
        let old = Start { data_dir: [0xff; 16], name: "array-b".into(), ..start(6, 9) };
        assert!(matches!(lives.admit(&old), Err(LifeError::Restored { known: 7, .. })));
        assert!(lives.known.contains_key(&[199; 16]) && !lives.known.contains_key(&[100; 16]));
    }
}
