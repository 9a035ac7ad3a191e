//! The file of one volume's dirty map. What its pages mean is the mirror's business; here they are
//! read whole, and written in batches with one flush.

use std::io;
use std::path::Path;

use super::data_dir::sync_directory_of;
use crate::mirror::MapPage;
use crate::mutation::{self, Mutation};
use crate::sys::directory;
use crate::sys::engine::Engine;
use crate::sys::file::{Access, RawFile};

/// Length of a page in bytes.
const PAGE: u64 = 4096;

/// An open map file. All calls block: they are for the metadata thread.
#[derive(Debug)]
pub struct MapFile {
    file: RawFile,
}

impl MapFile {
    /// Makes the map file of a new volume: `header` at its start, the rest a hole. Durable when it
    /// returns.
    ///
    /// # Errors
    /// The system's; `AlreadyExists`.
    pub fn create(path: &Path, header: &[u8; 4096], len: u64, engine: Engine) -> io::Result<Self> {
        let access = Access { create_new: true, volatile: engine.is_volatile(), ..Access::default() };
        let file = RawFile::open(path, access)?;
        let made = (|| {
            file.set_len(len.max(PAGE))?;
            file.write_at(header, 0, false)?;
            if !mutation::on(Mutation::MapHeaderFlushSkipped) {
                file.sync_data()?;
            }
            sync_directory_of(path, Mutation::MapNameNotSynced)
        })();
        if let Err(error) = made {
            // It holds nothing yet; best effort.
            let _ = directory::remove(path, engine.is_volatile());
            return Err(error);
        }
        Ok(Self { file })
    }

    /// Opens a map file and reads all of it (holes as zeroes).
    ///
    /// # Errors
    /// The system's; `InvalidData` when the file is longer than `len`, what this volume's map takes.
    pub fn open(path: &Path, len: u64, engine: Engine) -> io::Result<(Self, Vec<u8>)> {
        let access = Access { volatile: engine.is_volatile(), ..Access::default() };
        let file = RawFile::open(path, access)?;
        let size = file.size()?;
        if size > len.max(PAGE) {
            let what = format!("is {size} bytes long; the map of this volume takes {len}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?];
        let mut at = 0;
        while let Some((start, end)) = file.next_data(at, size)? {
            // Both lie below `size`, which is the vector's length.
            if let (Ok(from), Ok(to)) = (usize::try_from(start), usize::try_from(end)) {
                file.read_at(&mut bytes[from..to], start)?;
            }
            at = end;
        }
        Ok((Self { file }, bytes))
    }

    /// Writes the pages, in any order, and flushes once; all are on stable storage when it returns.
    ///
    /// # Errors
    /// The system's; each page is then the old or the new one, or torn.
    pub fn write(&self, pages: &[MapPage]) -> io::Result<()> {
        for page in pages {
            self.file.write_at(&page.bytes[..], page.offset, false)?;
        }
        if pages.is_empty() || mutation::on(Mutation::MapFlushSkipped) {
            return Ok(());
        }
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(offset: u64, byte: u8) -> MapPage {
        MapPage { offset, bytes: Box::new([byte; 4096]) }
    }

    #[test]
    fn pages_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let map = MapFile::create(&path, &[1; 4096], 1 << 20, Engine::Plain).unwrap();
        map.write(&[page(8192, 2), page(4096 * 100, 3)]).unwrap();
        drop(map);
        let (map, bytes) = MapFile::open(&path, 1 << 20, Engine::Plain).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        for (n, content) in bytes.chunks(4096).enumerate() {
            let expected = match n {
                0 => 1,
                2 => 2,
                100 => 3,
                _ => 0,
            };
            assert!(content.iter().all(|&b| b == expected), "page {n}");
        }
        map.write(&[page(8192, 4)]).unwrap();
        assert_eq!(MapFile::open(&path, 1 << 20, Engine::Plain).unwrap().1[8192], 4);
        let exists = MapFile::create(&path, &[1; 4096], 1 << 20, Engine::Plain).unwrap_err();
        assert_eq!(exists.kind(), io::ErrorKind::AlreadyExists);
        let longer = MapFile::open(&path, 1 << 19, Engine::Plain).unwrap_err();
        assert_eq!(longer.kind(), io::ErrorKind::InvalidData);
    }
}
