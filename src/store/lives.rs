//! What is known of other arrays' lives: the highest start of each `data_dir` that was ever heard, durable.
//!
//! An array counts the starts of its `data_dir` and says the number in every hello. One that comes with a
//! number heard before, in another process, was restored from a backup (or is a copy): its data lacks writes
//! that were acknowledged since, its votes lack what it has voted. It gets no contact, hence no lease, and no
//! mirror session (FAILURES F33).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;

use super::records::{Key, RecordError, RecordTable};
use crate::format::Format;
use crate::group::BootNonce;
use crate::sys::engine::Engine;
use crate::wire::Hello;

const FORMAT: Format = Format { magic: *b"TWLNLIF\0", version: 1, readable_from: 1 };

#[derive(Debug, Error)]
pub enum LifeError {
    #[error(
        "the data_dir of {name} is older than one heard here before (it starts for time {found}, {known} was heard): \
         it was restored from a backup or copied, and lacks what was written and voted since. Start {name} with an \
         empty data_dir and mirror its volumes anew"
    )]
    Restored { name: String, found: u64, known: u64 },
    #[error("the start of {name} cannot be noted down: {source}")]
    Record { name: String, source: RecordError },
}

/// The table, and its copy in memory.
#[derive(Debug)]
pub struct Lives {
    table: RecordTable,
    known: BTreeMap<Key, (u64, BootNonce)>,
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
            Some((identity, (u64::from_le_bytes(*life), BootNonce(*rest.first_chunk::<16>()?))))
        });
        Ok(Self { known: known.collect(), table })
    }

    /// Is this the newest life of the array that was ever heard? It is noted down, durably, before this
    /// returns. Blocks.
    ///
    /// # Errors
    /// [`LifeError::Restored`]; a disk that does not take the note.
    pub fn admit(&mut self, hello: &Hello) -> Result<(), LifeError> {
        let restored = |known| LifeError::Restored { name: hello.name.clone(), found: hello.life, known };
        match self.known.get(&hello.identity) {
            Some(&(life, nonce)) if life == hello.life && nonce == hello.nonce => return Ok(()),
            Some(&(life, _)) if life >= hello.life => return Err(restored(life)),
            _ => {}
        }
        let body = [&hello.life.to_le_bytes()[..], &hello.nonce.0].concat();
        let failed = |source| LifeError::Record { name: hello.name.clone(), source };
        self.table.write([(hello.identity, &body[..])]).map_err(failed)?;
        self.known.insert(hello.identity, (hello.life, hello.nonce));
        Ok(())
    }
}

/// [`Lives::admit`] from a task that must not block.
///
/// # Errors
/// Why the caller is refused, in words.
pub async fn admit(lives: &Arc<Mutex<Lives>>, hello: &Hello) -> Result<(), String> {
    let (lives, hello) = (Arc::clone(lives), hello.clone());
    let noted = move || lives.lock().unwrap_or_else(PoisonError::into_inner).admit(&hello);
    match tokio::task::spawn_blocking(noted).await {
        Ok(admitted) => admitted.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::Side;
    use crate::wire::Role;

    fn hello(life: u64, nonce: u8) -> Hello {
        Hello {
            role: Role::Array(Side::A),
            identity: [1; 16],
            nonce: BootNonce([nonce; 16]),
            life,
            name: "array-a".into(),
            system: 7,
            lanes: 2,
        }
    }

    #[test]
    fn a_life_that_was_heard_before_in_another_process_is_refused_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Lives::open(dir.path(), Engine::Plain).unwrap();
        let mut lives = open();
        for (life, nonce) in [(3, 1), (3, 1), (5, 2), (5, 2)] {
            lives.admit(&hello(life, nonce)).unwrap();
        }
        drop(lives);
        let mut lives = open();
        for (life, nonce) in [(4, 1), (5, 3), (3, 1)] {
            let error = lives.admit(&hello(life, nonce)).unwrap_err();
            assert!(matches!(error, LifeError::Restored { known: 5, .. }), "{error}");
        }
        lives.admit(&hello(5, 2)).unwrap();
        lives.admit(&Hello { identity: [2; 16], ..hello(1, 9) }).unwrap();
        lives.admit(&hello(6, 3)).unwrap();
    }
}
