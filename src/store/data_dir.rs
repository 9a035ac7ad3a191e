//! The directory of an array or a witness: what lies where in it, the lock that keeps a second
//! daemon out, and the identity that lives as long as the directory does.
//!
//! ```text
//! LOCK            held while the daemon runs; names its process
//! IDENTITY        two-slot record: UUID, owner, boot counter, age
//! votes           record table: one entry a group
//! objects         the object store
//! PROBE           written now and then to see whether the disk works
//! maps/UUID       dirty map of a volume
//! volumes/NAME    data of volumes without a path of their own
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;
use uuid::Uuid;

use super::records::{RecordError, RecordFile};
use crate::arbitration::Side;
use crate::format::{Format, Slots, slots::SLOT_UNIT};
use crate::mirror::VolumeId;
use crate::mutation::{self, Mutation};
use crate::sys::directory;
use crate::sys::engine::Engine;
use crate::sys::file::{Access, RawFile};

const IDENTITY: Slots =
    Slots { format: Format { magic: *b"TWLNID\0\0", version: 1, readable_from: 1 }, slot_len: SLOT_UNIT };

/// Whose directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Array(Side),
    Witness,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Array(side) => write!(f, "array {side}"),
            Self::Witness => f.write_str("a witness"),
        }
    }
}

/// Who this daemon is, durably.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made with the directory; another one after a restoration that was noticed ([`DataDir::become_new`]).
    pub uuid: Uuid,
    pub owner: Owner,
    /// Starts of the daemon on this directory, this one included (rule 14).
    pub boot: u64,
    /// Rises with each start, and by [`AGE_STEP`] with each [`DataDir::raise_age`]: of two states of one
    /// directory the one with the lower number is the older one (FAILURES F33).
    pub age: u64,
    /// The directory was made by this very start: this is a new array (rule 18).
    pub fresh: bool,
}

#[derive(Debug, Error)]
pub enum DataDirError {
    #[error("data_dir {path}: {source}", path = path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("data_dir {path} is in use by process {pid}; stop that daemon first, or give this one a data_dir of its own", path = path.display())]
    Locked { path: PathBuf, pid: String },
    #[error("data_dir {path} belongs to {found}, but the configuration says {expected}", path = path.display())]
    OtherOwner { path: PathBuf, found: Owner, expected: Owner },
    #[error("data_dir {path} has no IDENTITY but holds {found}; restore IDENTITY, or name an empty directory", path = path.display())]
    NoIdentity { path: PathBuf, found: String },
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("data_dir {path}: IDENTITY is of no known shape", path = path.display())]
    BadIdentity { path: PathBuf },
}

/// How much older a directory is after [`DataDir::raise_age`]. Far more than a copy of the older state can be
/// started without being heard, each time one older.
pub const AGE_STEP: u64 = 1 << 20;

/// An open, locked directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// As of this start.
    identity: Identity,
    record: Mutex<(RecordFile, Identity)>,
    engine: Engine,
    /// Held until the daemon ends.
    _lock: RawFile,
}

/// Names that the directory may hold before it has an identity.
const HARMLESS: [&str; 3] = ["LOCK", "IDENTITY", "lost+found"];

impl DataDir {
    /// Opens the directory, made if it is not there, takes its lock and durably counts this start.
    /// Blocks.
    ///
    /// # Errors
    /// Another daemon has it; it belongs to another side or role; it has content but no identity;
    /// a torn or foreign IDENTITY; a full disk.
    pub fn open(path: &Path, owner: Owner, engine: Engine) -> Result<Self, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_owned(), source };
        let absent = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let made: Vec<_> = path.ancestors().take_while(absent).collect();
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let lock = Self::lock(path)?;
        let identity_path = path.join("IDENTITY");
        if !identity_path.exists() {
            let foreign = fs::read_dir(path).map_err(failed)?.flatten().map(|entry| entry.file_name());
            let foreign = foreign.filter(|name| !HARMLESS.iter().any(|harmless| name == harmless));
            if let Some(found) = foreign.min() {
                let found = found.to_string_lossy().into_owned();
                return Err(DataDirError::NoIdentity { path: path.to_owned(), found });
            }
        }
        let (mut record, body) = RecordFile::open(&identity_path, IDENTITY, engine)?;
        let identity = match body {
            None => Identity { uuid: Uuid::new_v4(), owner, boot: 1, age: 1, fresh: true },
            Some(body) => {
                let known =
                    decode(&body).ok_or_else(|| DataDirError::BadIdentity { path: path.to_owned() })?;
                if known.owner != owner {
                    let path = path.to_owned();
                    return Err(DataDirError::OtherOwner { path, found: known.owner, expected: owner });
                }
                Identity { boot: known.boot.saturating_add(1), age: known.age.saturating_add(1), ..known }
            }
        };
        record.write(&encode(&identity))?;
        for below in ["maps", "volumes"] {
            DirBuilder::new().recursive(true).mode(0o700).create(path.join(below)).map_err(failed)?;
        }
        sync_directory_of(&identity_path, Mutation::DataDirNamesNotSynced).map_err(failed)?;
        for directory in made {
            sync_directory_of(directory, Mutation::DataDirNamesNotSynced).map_err(failed)?;
        }
        let record = Mutex::new((record, identity));
        Ok(Self { path: path.to_owned(), identity, record, engine, _lock: lock })
    }

    /// From the next start on this is another array: a new UUID, whose starts are counted from 1. Blocks.
    ///
    /// # Errors
    /// The disk's; the identity is the old one then.
    pub fn become_new(&self) -> Result<(), DataDirError> {
        self.change(|identity| *identity = Identity { uuid: Uuid::new_v4(), boot: 0, age: 0, ..*identity })?;
        Ok(())
    }

    /// Makes the directory older than every copy taken of it so far, durably, and tells its age. Blocks.
    ///
    /// # Errors
    /// The disk's; the age is what it was then.
    pub fn raise_age(&self) -> Result<u64, DataDirError> {
        self.change(|identity| identity.age = identity.age.saturating_add(AGE_STEP))
    }

    fn change(&self, change: impl FnOnce(&mut Identity)) -> Result<u64, DataDirError> {
        let mut guard = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let (record, identity) = &mut *guard;
        let mut changed = *identity;
        change(&mut changed);
        record.write(&encode(&changed))?;
        *identity = changed;
        Ok(changed.age)
    }

    fn lock(path: &Path) -> Result<RawFile, DataDirError> {
        let failed = |source| DataDirError::Io { path: path.to_owned(), source };
        let name = path.join("LOCK");
        let lock = match RawFile::open(&name, Access::default()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match RawFile::open(&name, Access { create_new: true, ..Access::default() }) {
                    // Somebody else made it just now.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        RawFile::open(&name, Access::default())
                    }
                    made => made,
                }
            }
            opened => opened,
        };
        let lock = lock.map_err(failed)?;
        if !lock.lock().map_err(failed)? {
            // Only for the message.
            let pid = fs::read_to_string(&name).unwrap_or_default();
            let pid = if pid.trim().is_empty() { "(unknown)".to_owned() } else { pid.trim().to_owned() };
            return Err(DataDirError::Locked { path: path.to_owned(), pid });
        }
        let pid = format!("{}\n", std::process::id());
        lock.set_len(0).and_then(|()| lock.write_at(pid.as_bytes(), 0, false)).map_err(failed)?;
        Ok(lock)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub const fn identity(&self) -> Identity {
        self.identity
    }

    /// The engine that the directory's own files are written through.
    pub const fn engine(&self) -> Engine {
        self.engine
    }

    /// The record table with the votes of all groups.
    pub fn votes(&self) -> PathBuf {
        self.path.join("votes")
    }

    /// The event log.
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// What probes of the directory's disk write.
    pub fn probe(&self) -> PathBuf {
        self.path.join("PROBE")
    }

    /// The object store.
    pub fn objects(&self) -> PathBuf {
        self.path.join("objects")
    }

    /// The dirty map of a volume.
    pub fn map(&self, volume: VolumeId) -> PathBuf {
        self.path.join("maps").join(Uuid::from_bytes(volume.0).to_string())
    }

    /// Where a volume's data lies unless its creator names another place. `name` is a valid volume
    /// name (no slash).
    pub fn volume(&self, name: &str) -> PathBuf {
        self.volumes().join(name)
    }

    /// Where data of volumes without a path of their own lies.
    pub fn volumes(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// The device that the directory lies on; a volume on the same one is to be warned about: a
    /// hung disk then stops votes as well.
    ///
    /// # Errors
    /// The system's.
    pub fn device(&self) -> io::Result<u64> {
        Ok(std::os::unix::fs::MetadataExt::dev(&fs::metadata(&self.path)?))
    }
}

fn encode(identity: &Identity) -> Vec<u8> {
    let owner = match identity.owner {
        Owner::Array(Side::A) => 0,
        Owner::Array(Side::B) => 1,
        Owner::Witness => 2,
    };
    let Identity { uuid, boot, age, .. } = identity;
    [&uuid.as_bytes()[..], &[owner], &boot.to_le_bytes(), &age.to_le_bytes()].concat()
}

fn decode(body: &[u8]) -> Option<Identity> {
    let (uuid, rest) = body.split_first_chunk::<16>()?;
    let (&owner, rest) = rest.split_first()?;
    let owner = match owner {
        0 => Owner::Array(Side::A),
        1 => Owner::Array(Side::B),
        2 => Owner::Witness,
        _ => return None,
    };
    let (boot, rest) = rest.split_first_chunk::<8>()?;
    let boot = u64::from_le_bytes(*boot);
    // Records of before ages were kept have none: starts alone counted.
    let age = rest.first_chunk::<8>().map_or(boot, |age| u64::from_le_bytes(*age));
    Some(Identity { uuid: Uuid::from_bytes(*uuid), owner, boot, age, fresh: false })
}

/// A file was made, renamed or removed: makes that durable. Test builds: unless `broken` is on.
///
/// # Errors
/// The system's.
pub fn sync_directory_of(path: &Path, broken: Mutation) -> io::Result<()> {
    if mutation::on(broken) { Ok(()) } else { directory::sync_of(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Owner = Owner::Array(Side::A);

    #[test]
    fn keeps_its_identity_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let first = DataDir::open(&path, A, Engine::Plain).unwrap().identity();
        assert!(first.fresh && first.boot == 1);
        let second = DataDir::open(&path, A, Engine::Plain).unwrap().identity();
        assert_eq!(second, Identity { boot: 2, age: 2, fresh: false, ..first });
        let other = DataDir::open(&path, Owner::Array(Side::B), Engine::Plain).unwrap_err();
        assert!(matches!(other, DataDirError::OtherOwner { .. }), "{other}");
        assert_eq!(DataDir::open(&path, A, Engine::Plain).unwrap().identity().boot, 3);
    }

    #[cfg(feature = "testing")]
    #[test]
    fn a_new_directory_and_those_in_it_are_there_after_a_power_failure() {
        use crate::sys::mounted_tests::{mounted, power_failure};

        let test = "store::data_dir::tests::a_new_directory_and_those_in_it_are_there_after_a_power_failure";
        let Some(at) = mounted(test, &["xfs"]) else { return };
        let kept = |name: &str, broken| {
            let path = at.join(name).join("a");
            mutation::set(broken);
            drop(DataDir::open(&path, A, Engine::Plain).unwrap());
            mutation::set(None);
            power_failure(&at);
            path.join("IDENTITY").exists() && path.join("maps").exists() && path.join("volumes").exists()
        };
        assert!(!kept("broken", Some(Mutation::DataDirNamesNotSynced)));
        assert!(kept("whole", None));
    }

    #[test]
    fn a_copy_of_before_its_age_was_raised_stays_the_younger_one_for_many_starts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let data_dir = DataDir::open(&path, A, Engine::Plain).unwrap();
        let backup = fs::read(path.join("IDENTITY")).unwrap();
        let age = data_dir.raise_age().unwrap();
        assert!(age > data_dir.identity().age);
        drop(data_dir);
        assert_eq!(DataDir::open(&path, A, Engine::Plain).unwrap().identity().age, age + 1);
        fs::write(path.join("IDENTITY"), backup).unwrap();
        for _ in 0..100 {
            assert!(DataDir::open(&path, A, Engine::Plain).unwrap().identity().age < age);
        }
        let data_dir = DataDir::open(&path, A, Engine::Plain).unwrap();
        data_dir.become_new().unwrap();
        let age = data_dir.raise_age().unwrap();
        let former = data_dir.identity();
        drop(data_dir);
        let anew = DataDir::open(&path, A, Engine::Plain).unwrap().identity();
        assert_eq!((anew.boot, anew.age, anew.uuid == former.uuid), (1, age + 1, false));
    }

    #[test]
    fn a_record_of_before_ages_were_kept_is_as_old_as_its_starts() {
        let identity = Identity { uuid: Uuid::new_v4(), owner: A, boot: 9, age: 77, fresh: false };
        let body = encode(&identity);
        assert_eq!(decode(&body), Some(identity));
        assert_eq!(decode(&body[..body.len() - 8]), Some(Identity { age: 9, ..identity }));
    }

    #[test]
    fn a_second_daemon_is_refused_and_told_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path(), A, Engine::Plain).unwrap();
        let error = DataDir::open(dir.path(), A, Engine::Plain).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        assert_eq!(DataDir::open(dir.path(), A, Engine::Plain).unwrap().identity().boot, 2);
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("holiday.jpg"), b"x").unwrap();
        let error = DataDir::open(dir.path(), A, Engine::Plain).unwrap_err();
        assert!(matches!(error, DataDirError::NoIdentity { .. }), "{error}");
        assert!(!dir.path().join("IDENTITY").exists());
    }

    #[test]
    fn a_foreign_or_torn_identity_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), A, Engine::Plain).unwrap());
        let path = dir.path().join("IDENTITY");
        let good = fs::read(&path).unwrap();
        let mut torn = good.clone();
        torn[30] ^= 1;
        torn[4096 + 30] ^= 1;
        for bad in [vec![0x11; 8192], torn] {
            fs::write(&path, bad).unwrap();
            let error = DataDir::open(dir.path(), A, Engine::Plain).unwrap_err().to_string();
            assert!(error.contains("IDENTITY"), "{error}");
        }
        fs::write(&path, good).unwrap();
        assert_eq!(DataDir::open(dir.path(), A, Engine::Plain).unwrap().identity().boot, 2);
    }
}
