//! Small real writes that show whether a disk works: of a volume's own place, and of `data_dir`. Each
//! blocks for as long as the disk takes, for ever if it must: only for threads that do nothing else.

use std::io;
use std::path::Path;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use super::volume_file::{DataFile, Inner, RECORD, TRAILER, read_record, whole_blocks};
use crate::format::slots::SLOT_UNIT;
use crate::sys::file::{Access, Medium, RawFile};

/// A volume's data, if it is still open: does not keep it so.
#[derive(Clone, Debug)]
pub struct WeakDataFile(Weak<Inner>);

impl WeakDataFile {
    pub fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }

    pub fn upgrade(&self) -> Option<DataFile> {
        self.0.upgrade().map(|inner| DataFile { inner })
    }
}

impl DataFile {
    /// Tells open volumes apart, for as long as the volume or a [`WeakDataFile`] of it is there.
    pub fn address(&self) -> usize {
        std::sync::Arc::as_ptr(&self.inner).addr()
    }

    pub fn downgrade(&self) -> WeakDataFile {
        WeakDataFile(std::sync::Arc::downgrade(&self.inner))
    }

    /// A write has become stable.
    pub(super) fn is_written(&self) {
        // Looked at first: the data threads share the line, and write to it once in a while only.
        if !self.inner.wrote.load(Ordering::Relaxed) {
            self.inner.wrote.store(true, Ordering::Relaxed);
        }
    }

    /// Has anything become stable here since this was asked last?
    pub fn was_written(&self) -> bool {
        self.inner.wrote.swap(false, Ordering::Relaxed)
    }

    /// Writes the second copy of the volume's record once more, as it is, onto stable storage; nothing while the
    /// volume grows. A full disk is none that does not work. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn probe(&self) -> io::Result<()> {
        #[cfg(feature = "testing")]
        super::fault::disk_works()?;
        // A growth may take long on a disk that works; hosts' I/O shows one that does not.
        let Ok(_record) = self.inner.record.try_lock() else { return Ok(()) };
        let raw = &self.inner.lock;
        let at = if raw.medium() == Medium::Device {
            whole_blocks(raw.size()?).saturating_sub(TRAILER)
        } else {
            self.size_bytes()
        };
        match read_record(raw, at)? {
            Ok((found, _)) if found.id == self.id() => {}
            // A device that grew meanwhile has its record elsewhere.
            _ => return raw.sync_data(),
        }
        let mut slots = vec![0; RECORD.file_len()];
        raw.read_at(&mut slots, at)?;
        unless_full(raw.write_at(&slots[SLOT_UNIT..], at + SLOT_UNIT as u64, true))
    }
}

fn unless_full(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Ok(())
        }
        other => other,
    }
}

/// Probes the disk of a directory, by a file of its own.
#[derive(Debug)]
pub struct DirectoryProbe {
    file: RawFile,
    count: u64,
}

impl DirectoryProbe {
    /// # Errors
    /// The file cannot be opened or made.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = match RawFile::open(path, Access::default()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                RawFile::open(path, Access { create_new: true, ..Access::default() })?
            }
            opened => opened?,
        };
        Ok(Self { file, count: 0 })
    }

    /// Writes the file's block onto stable storage. A full disk is none that does not work. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self) -> io::Result<()> {
        self.count += 1;
        let mut block = vec![0; SLOT_UNIT];
        block[..8].copy_from_slice(&self.count.to_le_bytes());
        unless_full(self.file.write_at(&block, 0, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::VolumeId;
    use crate::sys::engine::Engine;

    const ID: VolumeId = VolumeId([3; 16]);

    #[test]
    fn a_probe_leaves_the_volume_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let file = DataFile::create(&path, ID, 1 << 20, Engine::Plain).unwrap();
        let before = std::fs::read(&path).unwrap();
        file.probe().unwrap();
        assert!(!file.was_written(), "a probe is no I/O of hosts");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        file.grow(2 << 20).unwrap();
        file.probe().unwrap();
        drop(file);
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[..2 << 20].iter().all(|&byte| byte == 0), "nothing lands in the data");
        DataFile::open(&path, ID, 2 << 20, Engine::Plain).unwrap().probe().unwrap();
    }

    #[test]
    fn a_closed_volume_is_probed_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v");
        let file = DataFile::create(&path, ID, 1 << 20, Engine::Plain).unwrap();
        let weak = file.downgrade();
        assert!(weak.upgrade().is_some());
        drop(file);
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn a_directory_is_probed_by_a_file_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let mut probe = DirectoryProbe::open(&directory.path().join("PROBE")).unwrap();
        probe.write().unwrap();
        probe.write().unwrap();
        assert_eq!(std::fs::read(directory.path().join("PROBE")).unwrap()[0], 2);
        DirectoryProbe::open(&directory.path().join("none/PROBE")).unwrap_err();
    }
}
