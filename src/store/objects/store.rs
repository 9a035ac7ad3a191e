//! The objects on disk: one redb file, a table per kind, each value in an envelope.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use uuid::Uuid;

use super::backend::Backend;
use super::model::Objects;
use crate::format::{EnvelopeError, Format};
use crate::mutation::Mutation;
use crate::store::data_dir::sync_directory_of;
use crate::sys::engine::Engine;
use crate::sys::file::{Access, RawFile};

type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const VOLUMES: Table = Table::new("volumes");
const HOSTS: Table = Table::new("hosts");
const VLUNS: Table = Table::new("vluns");
const GROUPS: Table = Table::new("groups");
const TOMBSTONES: Table = Table::new("tombstones");

/// Each value: this envelope around JSON.
const FORMAT: Format = Format { magic: *b"TWLNOBJ\0", version: 1, readable_from: 1 };

/// What redb may keep in memory: objects are few, and kept in memory anyway.
const CACHE_BYTES: usize = 1 << 20;

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("object store {path} is in use by another process", path = path.display())]
    Locked { path: PathBuf },
    #[error("object store {path}: {source}", path = path.display())]
    Database { path: PathBuf, source: Box<redb::Error> },
    #[error("object store {path}: an entry of table {table} {source}", path = path.display())]
    Envelope { path: PathBuf, table: String, source: EnvelopeError },
    #[error("object store {path}: an entry of table {table} cannot be read: {source}", path = path.display())]
    Value { path: PathBuf, table: String, source: serde_json::Error },
}

/// The durable objects of one array.
#[derive(Debug)]
pub struct ObjectStore {
    path: PathBuf,
    database: Database,
    current: ArcSwap<Objects>,
    /// One writer at a time; readers take the snapshot and never wait.
    writer: Mutex<()>,
}

/// A key of a table as bytes.
trait Key: Ord {
    fn bytes(&self) -> Vec<u8>;
}

impl Key for Uuid {
    fn bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Key for (Uuid, Uuid) {
    fn bytes(&self) -> Vec<u8> {
        [self.0.into_bytes(), self.1.into_bytes()].concat()
    }
}

impl ObjectStore {
    /// Opens the store at `path`, or makes an empty one.
    ///
    /// # Errors
    /// The file is no object store, damaged, of a newer format, open elsewhere, or cannot be read;
    /// always by name.
    pub fn open(path: &Path, engine: Engine) -> Result<Self, StoreError> {
        let failed =
            |source: redb::Error| StoreError::Database { path: path.to_owned(), source: source.into() };
        let file = open_or_make(path, engine).map_err(|source| failed(redb::Error::Io(source)))?;
        if !file.lock().map_err(|source| failed(redb::Error::Io(source)))? {
            return Err(StoreError::Locked { path: path.to_owned() });
        }
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(Backend(file))
            .map_err(|error| failed(error.into()))?;
        let read = database.begin_read().map_err(|error| failed(error.into()))?;
        let objects = Objects {
            volumes: load(path, &read, VOLUMES, |v: &super::VirtualVolume| v.uuid)?,
            hosts: load(path, &read, HOSTS, |h: &super::Host| h.uuid)?,
            vluns: load(path, &read, VLUNS, |v: &super::Vlun| (v.volume, v.host))?,
            groups: load(path, &read, GROUPS, |g: &super::Group| g.uuid)?,
            tombstones: load(path, &read, TOMBSTONES, |t: &super::Tombstone| t.uuid)?,
        };
        drop(read);
        let current = ArcSwap::from_pointee(objects);
        Ok(Self { path: path.to_owned(), database, current, writer: Mutex::new(()) })
    }

    /// The objects as of now; stays as it is while others change the store.
    pub fn snapshot(&self) -> Arc<Objects> {
        self.current.load_full()
    }

    /// Changes the objects: all of `change`, durably, or nothing. Blocks for the disk; not for data
    /// threads.
    ///
    /// # Errors
    /// The outer one when the disk failed (nothing is shown then), the inner one is `change`'s own.
    pub fn update<T, E>(
        &self,
        change: impl FnOnce(&mut Objects) -> Result<T, E>,
    ) -> Result<Result<T, E>, StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let mut after = Objects::clone(&before);
        let value = match change(&mut after) {
            Ok(value) => value,
            Err(error) => return Ok(Err(error)),
        };
        if after != *before {
            self.persist(&before, &after).map_err(|source| self.failed(source))?;
            self.current.store(Arc::new(after));
        }
        Ok(Ok(value))
    }

    fn failed(&self, source: redb::Error) -> StoreError {
        StoreError::Database { path: self.path.clone(), source: source.into() }
    }

    fn persist(&self, before: &Objects, after: &Objects) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        save(&write, VOLUMES, &before.volumes, &after.volumes)?;
        save(&write, HOSTS, &before.hosts, &after.hosts)?;
        save(&write, VLUNS, &before.vluns, &after.vluns)?;
        save(&write, GROUPS, &before.groups, &after.groups)?;
        save(&write, TOMBSTONES, &before.tombstones, &after.tombstones)?;
        write.commit()?;
        Ok(())
    }
}

fn open_or_make(path: &Path, engine: Engine) -> io::Result<RawFile> {
    let access = Access { volatile: engine.is_volatile(), ..Access::default() };
    match RawFile::open(path, access) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    let file = RawFile::open(path, Access { create_new: true, ..access })?;
    sync_directory_of(path, Mutation::DataDirNamesNotSynced)?;
    Ok(file)
}

fn load<K: Key, V: DeserializeOwned>(
    path: &Path,
    read: &redb::ReadTransaction,
    table: Table,
    key: impl Fn(&V) -> K,
) -> Result<BTreeMap<K, V>, StoreError> {
    use redb::TableHandle;

    let failed = |source: redb::Error| StoreError::Database { path: path.to_owned(), source: source.into() };
    let name = table.name().to_owned();
    let table = match read.open_table(table) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error.into())),
    };
    let mut map = BTreeMap::new();
    for entry in table.iter().map_err(|error| failed(error.into()))? {
        let (_, value) = entry.map_err(|error| failed(error.into()))?;
        let record = FORMAT.decode(value.value()).map_err(|source| StoreError::Envelope {
            path: path.to_owned(),
            table: name.clone(),
            source,
        })?;
        let value: V = serde_json::from_slice(record.payload).map_err(|source| StoreError::Value {
            path: path.to_owned(),
            table: name.clone(),
            source,
        })?;
        map.insert(key(&value), value);
    }
    Ok(map)
}

/// Writes the difference between two states of one table.
fn save<K: Key, V: Serialize + PartialEq>(
    write: &redb::WriteTransaction,
    table: Table,
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
) -> Result<(), redb::Error> {
    let mut table = write.open_table(table)?;
    for key in before.keys().filter(|key| !after.contains_key(key)) {
        table.remove(key.bytes().as_slice())?;
    }
    for (key, value) in after.iter().filter(|(key, value)| before.get(key) != Some(value)) {
        let json = serde_json::to_vec(value).map_err(|error| redb::Error::Io(error.into()))?;
        let mut bytes = Vec::with_capacity(json.len() + crate::format::envelope::HEADER_LEN);
        FORMAT.encode(&json, &mut bytes);
        table.insert(key.bytes().as_slice(), bytes.as_slice())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{host, volume};
    use super::*;

    #[test]
    fn survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects");
        let store = ObjectStore::open(&path, Engine::Plain).unwrap();
        store
            .update(|o| {
                o.add_volume(volume("vmfs.0", 1))?;
                o.add_host(host("esx", 2, "iqn.1998-01.com.example:esx"))?;
                o.add_vlun("vmfs.0", "esx", Some(4))
            })
            .unwrap()
            .unwrap();
        let before = store.snapshot();
        drop(store);
        let store = ObjectStore::open(&path, Engine::Plain).unwrap();
        assert_eq!(store.snapshot(), before);
        store.update(|o| o.remove_vlun("vmfs.0", "esx")).unwrap().unwrap();
        drop(store);
        let store = ObjectStore::open(&path, Engine::Plain).unwrap();
        assert_eq!(store.snapshot().vluns().count(), 0);
        assert_eq!(store.snapshot().volumes().count(), 1);
    }

    #[test]
    fn a_refused_change_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = ObjectStore::open(&dir.path().join("objects"), Engine::Plain).unwrap();
        let refused = store.update(|o| {
            o.add_volume(volume("a", 1))?;
            o.remove_volume("b")
        });
        assert!(refused.unwrap().is_err());
        assert_eq!(store.snapshot().volumes().count(), 0);
    }

    #[test]
    fn is_open_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects");
        let _held = ObjectStore::open(&path, Engine::Plain).unwrap();
        assert!(matches!(ObjectStore::open(&path, Engine::Plain), Err(StoreError::Locked { .. })));
    }

    /// What was reported changed is there after a power failure, and nothing in between.
    #[cfg(feature = "testing")]
    #[test]
    fn transactions_survive_power_failures() {
        crate::sys::volatile::seed(21);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects");
        let mut expected = Objects::default();
        for life in 1..20_u128 {
            let store = ObjectStore::open(&path, Engine::Volatile).unwrap();
            assert_eq!(*store.snapshot(), expected);
            for n in 0..4 {
                let name = format!("v{life}.{n}");
                store.update(|o| o.add_volume(volume(&name, life * 10 + n)).map(|_| ())).unwrap().unwrap();
                if n == 3 {
                    store.update(|o| o.remove_volume(&format!("v{life}.0")).map(|_| ())).unwrap().unwrap();
                }
            }
            expected = Objects::clone(&store.snapshot());
            let access = Access { volatile: true, ..Access::default() };
            RawFile::open(&path, access).unwrap().cut_power();
            // The dead file's errors at closing are none of ours.
            drop(store);
        }
    }

    #[test]
    fn a_foreign_file_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("objects");
        std::fs::write(&path, vec![0x42; 8192]).unwrap();
        let error = ObjectStore::open(&path, Engine::Plain).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), vec![0x42; 8192], "the file was touched");
    }
}
