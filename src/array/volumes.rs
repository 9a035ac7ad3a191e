//! The volumes that are open on this array: data file, dirty map and core of each.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::link::lane::Volumes;
use crate::mirror::{self, DirtyMap, Geometry, Limits, MapError, VolumeId, WritePromise};
use crate::store::data_dir::DataDir;
use crate::store::map_file::MapFile;
use crate::store::objects::{Objects, Provisioning, VirtualVolume};
use crate::store::{DataFile, VolumeFileError, is_before_image};
use crate::sys::directory;
use crate::sys::engine::Engine;
use crate::sys::pool;
use crate::volume::{DataThread, For, Listener, Mailboxes, Mending, Volume};

use super::events::EventLog;
use super::metadata::Metadata;

/// Pause before a map that could not be written is tried again.
const MAP_RETRY: Duration = Duration::from_millis(250);

#[derive(Debug, Error)]
pub enum OpenError {
    #[error(transparent)]
    Data(#[from] VolumeFileError),
    #[error("dirty map {path}: {source}", path = path.display())]
    MapFile { path: PathBuf, source: io::Error },
    #[error("dirty map {path}: {source}", path = path.display())]
    Map { path: PathBuf, source: MapError },
    #[error("the image beside {path} of what the copy held before its resync: {source}", path = path.display())]
    Image { path: PathBuf, source: io::Error },
}

/// Opens volumes, keeps them, and writes their maps.
#[derive(Clone)]
pub struct VolumeSet {
    volumes: Volumes,
    maps: Arc<Maps>,
    mailboxes: Mailboxes,
    data_dir: Arc<DataDir>,
    engine: Engine,
}

impl fmt::Debug for VolumeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VolumeSet").field("volumes", &self.volumes.load().len()).finish_non_exhaustive()
    }
}

/// Map files by volume; written on the metadata thread only.
struct Maps {
    files: Mutex<BTreeMap<VolumeId, Arc<Mutex<MapFile>>>>,
    metadata: Metadata,
    pokes: mpsc::UnboundedSender<VolumeId>,
    log: EventLog,
    /// Mendings by volume: a bad disk has many, of which the 1st, 2nd, 4th, ... are told.
    mendings: Mutex<BTreeMap<(VolumeId, bool), u64>>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Maps")
    }
}

impl Maps {
    fn file(&self, volume: VolumeId) -> Option<Arc<Mutex<MapFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(&volume).cloned()
    }
}

impl Listener for Maps {
    fn poke(&self, volume: VolumeId) {
        // Nobody listens any more only while the process ends.
        let _ = self.pokes.send(volume);
    }

    fn release_image(&self, volume: &Volume) {
        let volume = volume.clone();
        // Neither a vote nor a map waits for that disk.
        if let Err(error) = pool::start(move || volume.release_image()) {
            tracing::warn!(%error, "an image that may count no more is left for later");
        }
    }

    fn read_failed(&self, volume: &Volume, mending: Mending) {
        let count = {
            let mut mendings = self.mendings.lock().unwrap_or_else(PoisonError::into_inner);
            let count = mendings.entry((volume.id(), mending.failed_at.is_some())).or_default();
            *count += 1;
            *count
        };
        if count.is_power_of_two() {
            self.log.add(None, None, describe(volume, mending, count));
        }
    }

    fn persist_map(&self, volume: &Volume) {
        let Some(file) = self.file(volume.id()) else { return };
        let volume = volume.clone();
        self.metadata.run(move || write_map(&volume, &file));
    }
}

/// A mending in words; `count`: how many this volume had since the array was started.
fn describe(volume: &Volume, mending: Mending, count: u64) -> String {
    let Mending { lba, mended, failed_at, found_by } = mending;
    let path = volume.file().path().display();
    match failed_at {
        Some(at) if found_by == For::Verify => {
            format!("{path}: verify found that LBA {at} can be neither read nor written; replace that disk")
        }
        None if found_by == For::Verify => format!(
            "{path}: verify found {mended} blocks of 4 KiB from LBA {lba} on that could not be read; they were \
             written anew with the other array's blocks; {count} such finds and reads since the start; watch \
             that disk"
        ),
        Some(at) if found_by == For::Recovery => format!(
            "{path}: LBA {at}, in doubt since a restart or a failed write, can be neither read nor written; \
             replace that disk"
        ),
        None if found_by == For::Recovery => format!(
            "{path}: {mended} blocks of 4 KiB from LBA {lba} on, in doubt since a restart or a failed write, \
             could not be read; they were written anew with the other array's blocks; {count} such finds and \
             reads since the start; watch that disk"
        ),
        Some(at) => format!(
            "{path}: LBA {at} can be neither read nor written; the host was answered with the other array's \
             data; replace that disk"
        ),
        None if mended == 0 => format!(
            "{path}: a read at LBA {lba} failed and succeeds now; the host was answered with the other \
             array's data; {count} such reads since the start; watch that disk"
        ),
        None => format!(
            "{path}: {mended} blocks of 4 KiB from LBA {lba} on could not be read; the host was answered with \
             the other array's data, with which they were written anew; {count} such reads since the start; \
             watch that disk"
        ),
    }
}

/// Writes the changed pages of a volume's map until none is left. On the metadata thread.
fn write_map(volume: &Volume, file: &Mutex<MapFile>) {
    let mut pages = Vec::new();
    loop {
        pages.clear();
        let Some(generation) = volume.with(|core, _, _| core.map_pages(&mut pages)) else { return };
        let written = file.lock().unwrap_or_else(PoisonError::into_inner).write(&pages);
        match written {
            Ok(()) => volume.with(|core, context, out| core.map_durable(generation, context, out)),
            Err(error) => {
                tracing::error!(?volume, %error, "the dirty map cannot be written; writes wait for it");
                std::thread::sleep(MAP_RETRY);
                volume.with(|core, context, out| core.map_failed(generation, context, out));
                return;
            }
        }
    }
}

impl VolumeSet {
    pub fn new(
        data_dir: Arc<DataDir>,
        engine: Engine,
        mailboxes: Mailboxes,
        metadata: Metadata,
        pokes: mpsc::UnboundedSender<VolumeId>,
        log: EventLog,
    ) -> Self {
        let maps = Maps { files: Mutex::default(), metadata, pokes, log, mendings: Mutex::default() };
        let maps = Arc::new(maps);
        Self { volumes: Arc::new(ArcSwap::from_pointee(BTreeMap::new())), maps, mailboxes, data_dir, engine }
    }

    /// The volumes as the lanes look them up.
    pub fn shared(&self) -> Volumes {
        Arc::clone(&self.volumes)
    }

    pub fn get(&self, id: VolumeId) -> Option<Volume> {
        self.volumes.load().get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Volume> {
        self.volumes.load().values().cloned().collect()
    }

    /// Makes the data and the map of a new volume, and opens it. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is left behind.
    pub fn create(&self, volume: &VirtualVolume) -> Result<Volume, OpenError> {
        let data = DataFile::create(&volume.path, volume.stamp(), volume.size_bytes, self.engine)?;
        self.complete(volume, data)
    }

    /// Could a copy that does not open begin anew? Blocks.
    ///
    /// # Errors
    /// What is in the way, by name.
    pub fn is_renewable(&self, volume: &VirtualVolume) -> Result<(), OpenError> {
        Ok(DataFile::is_renewable(&volume.path, volume.stamp(), volume.size_bytes, self.engine)?)
    }

    /// Makes a copy whose disk was exchanged anew: blank data, an empty map. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`]: what is in the way, by name.
    pub fn renew(&self, volume: &VirtualVolume) -> Result<Volume, OpenError> {
        let data = DataFile::renew(&volume.path, volume.stamp(), volume.size_bytes, self.engine)?;
        let path = self.data_dir.map(volume.volume_id());
        match directory::remove(&path, self.data_dir.engine().is_volatile()) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::MapFile { path, source });
            }
            _ => {}
        }
        let volume = self.complete(volume, data)?;
        // What an image beside the old copy tells is not of this one.
        let image = volume.file().find_image();
        if let Some(image) =
            image.map_err(|source| OpenError::Image { path: volume.file().path().into(), source })?
        {
            volume.found_image(image);
            volume
                .drop_image()
                .map_err(|source| OpenError::Image { path: volume.file().path().into(), source })?;
        }
        Ok(volume)
    }

    /// Space and map of data that was just made.
    fn complete(&self, volume: &VirtualVolume, data: DataFile) -> Result<Volume, OpenError> {
        let geometry = geometry(volume);
        if volume.provisioning == Provisioning::Full
            && let Err(error) = data.reserve()
        {
            drop(data);
            self.withdraw(volume);
            return Err(error.into());
        }
        let path = self.data_dir.map(geometry.id);
        let header = DirtyMap::file_header(geometry);
        let len = DirtyMap::file_len(geometry);
        match MapFile::create(&path, &header, len, self.data_dir.engine()) {
            Ok(file) => {
                data.keep_device_images_at(self.data_dir.volume(&volume.uuid.to_string()));
                Ok(self.adopt(geometry, volume.promise, data, file, DirtyMap::new(geometry)))
            }
            Err(source) => {
                drop(data);
                self.withdraw(volume);
                Err(OpenError::MapFile { path, source })
            }
        }
    }

    /// Removes the data of a volume that could not be made.
    fn withdraw(&self, volume: &VirtualVolume) {
        let removed = DataFile::remove(&volume.path, volume.stamp(), volume.size_bytes, self.engine);
        if let Err(error) = removed {
            tracing::warn!(%error, "the data of a volume that could not be made is left behind");
        }
    }

    /// Removes what creations that were cut off have left in `data_dir`: files that hold nothing and belong to
    /// no volume. One that holds something is named in the log and left alone. Blocks; before volumes are open.
    pub fn sweep(&self, objects: &Objects) {
        let Ok(entries) = std::fs::read_dir(self.data_dir.volumes()) else { return };
        let claimed: Vec<_> = objects.volumes().map(|volume| volume.path.clone()).collect();
        let is_known = |id| objects.volumes().any(|volume| volume.volume_id() == id);
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
            if claimed.contains(&path) || is_before_image(&path) {
                continue;
            }
            match DataFile::is_left_over(&path, is_known) {
                Ok(true) => match std::fs::remove_file(&path) {
                    Ok(()) => {
                        tracing::info!(path = %path.display(), "what was left of a volume's creation is removed")
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "a left-over file cannot be removed")
                    }
                },
                Ok(false) => {
                    tracing::warn!(path = %path.display(), "this file belongs to no volume; remove it if its content may go")
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "this file belongs to no volume and cannot be read")
                }
            }
        }
    }

    /// Removes images beside volumes that are in no group any more. Blocks.
    pub fn drop_lone_images(&self, objects: &Objects) {
        for volume in self.all() {
            let member = |id: VolumeId| objects.group_of_volume(uuid::Uuid::from_bytes(id.0)).is_some();
            if !member(volume.id())
                && let Err(error) = volume.drop_image()
            {
                tracing::warn!(?volume, %error, "an image that counts no more cannot be removed");
            }
        }
    }

    /// Opens a volume made before. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`]: anything that is not this very volume, by name.
    pub fn open(&self, volume: &VirtualVolume) -> Result<Volume, OpenError> {
        let geometry = geometry(volume);
        let data = DataFile::open(&volume.path, volume.stamp(), volume.size_bytes, self.engine)?;
        if volume.provisioning == Provisioning::Full {
            data.keep_space();
        }
        let path = self.data_dir.map(geometry.id);
        let (file, bytes) = MapFile::open(&path, DirtyMap::file_len(geometry), self.data_dir.engine())
            .map_err(|source| OpenError::MapFile { path: path.clone(), source })?;
        let map = DirtyMap::decode(geometry, &bytes).map_err(|source| OpenError::Map { path, source })?;
        data.keep_device_images_at(self.data_dir.volume(&volume.uuid.to_string()));
        let image =
            data.find_image().map_err(|source| OpenError::Image { path: volume.path.clone(), source })?;
        let volume = self.adopt(geometry, volume.promise, data, file, map);
        if let Some(image) = image {
            volume.found_image(image);
        }
        Ok(volume)
    }

    fn adopt(
        &self,
        geometry: Geometry,
        promise: WritePromise,
        data: DataFile,
        file: MapFile,
        map: DirtyMap,
    ) -> Volume {
        let mut core = mirror::Volume::restore(geometry, Limits::default(), map);
        core.set_promise(promise);
        let listener: Arc<dyn Listener> = Arc::clone(&self.maps) as Arc<dyn Listener>;
        let volume = Volume::new(geometry.id, core, data, self.mailboxes.clone(), listener);
        let mut files = self.maps.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(geometry.id, Arc::new(Mutex::new(file)));
        drop(files);
        self.volumes.rcu(|volumes| {
            let mut volumes = BTreeMap::clone(volumes);
            volumes.insert(geometry.id, volume.clone());
            volumes
        });
        volume
    }

    /// Flushes every volume whose write promise is *memory*. Blocks.
    ///
    /// # Errors
    /// The first that cannot be flushed: what was in memory of it may be lost.
    pub fn flush_memory(&self) -> io::Result<()> {
        self.all().iter().filter(|volume| is_memory(volume)).try_for_each(|volume| volume.file().flush())
    }

    /// After a flush: what a flush of a former process failed to write is not shown any more.
    pub fn forget_memory(&self) {
        self.all().iter().filter(|volume| is_memory(volume)).for_each(|volume| volume.file().forget_cache());
    }

    /// Nothing that the copy holds, or held, counts any more: its map says so, durably, when this returns. The
    /// volume is in no group. Blocks.
    ///
    /// # Errors
    /// An image beside it cannot be removed. The map cannot be written now; it is tried again.
    pub fn disown(&self, id: VolumeId) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let (volume, file) = (self.get(id).ok_or_else(gone)?, self.maps.file(id).ok_or_else(gone)?);
        volume.drop_image()?;
        volume.with(|core, _, out| core.disown(out));
        let (done, wait) = std::sync::mpsc::channel();
        self.maps.metadata.run(move || {
            write_map(&volume, &file);
            let _ = done.send(volume.with(|core, _, _| core.status().map_pending));
        });
        match wait.recv() {
            Ok(false) => Ok(()),
            _ => Err(io::Error::other("the dirty map is not written yet")),
        }
    }

    /// Closes a volume on every thread and removes its data and map. Blocks. The caller has seen
    /// to it that nothing is exported or mirrored.
    ///
    /// # Errors
    /// What could not be removed; the volume is closed all the same.
    pub fn remove(&self, volume: &VirtualVolume) -> Result<(), OpenError> {
        let id = volume.volume_id();
        if let Some(open) = self.get(id)
            && let Err(error) = open.drop_image()
        {
            tracing::warn!(volume = ?open, %error, "the image of a removed volume is left behind");
        }
        self.close(id);
        let map = self.data_dir.map(id);
        if let Err(source) = std::fs::remove_file(&map)
            && source.kind() != io::ErrorKind::NotFound
        {
            return Err(OpenError::MapFile { path: map, source });
        }
        Ok(DataFile::remove(&volume.path, volume.stamp(), volume.size_bytes, self.engine)?)
    }

    /// Closes a volume on every thread. Blocks until no thread holds its file.
    pub fn close(&self, id: VolumeId) {
        self.volumes.rcu(|volumes| {
            let mut volumes = BTreeMap::clone(volumes);
            volumes.remove(&id);
            volumes
        });
        self.maps.files.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let (closed, wait) = std::sync::mpsc::channel();
        self.mailboxes.everywhere(move || {
            if let Some(thread) = DataThread::current() {
                thread.forget(id);
            }
            let _ = closed.send(());
        });
        // Each thread drops its sender after it has let go; the last one ends the wait.
        while wait.recv_timeout(CLOSE_WAIT).is_ok() {}
    }
}

/// How long a removal waits for a data thread to let go of a file.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

fn geometry(volume: &VirtualVolume) -> Geometry {
    Geometry { id: volume.volume_id(), blocks: volume.size_bytes / u64::from(crate::block::BLOCK) }
}

fn is_memory(volume: &Volume) -> bool {
    volume.with(|core, _, _| core.promise() == WritePromise::Memory)
}
