//! The shell's part in keeping what a copy held (`mirror::before`, `store::before`): makes the image
//! with the first frame, fills it before each write, removes it when it counts no more, and writes it
//! back. Whether an image counts is the core's to say.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::block::{Extent, StoreResult};
use crate::mutation::{self, Mutation};
use crate::store::{BeforeImage, Handle};
use crate::sys::pool;

use super::shell::Volume;
use super::thread::{DataThread, Job};

/// How often a roll-back looks whether it may begin.
const LOOK: Duration = Duration::from_millis(20);
/// What is on its way to the disk, and the dirty map, are waited for so long before a roll-back.
const ROLL_BACK_WAIT: Duration = Duration::from_secs(10);
/// A frame waits so long until it is on record that what it overwrites is not kept; the primary gives
/// it up before, and sends it again.
const RECORD_WAIT: Duration = Duration::from_secs(10);

/// A volume's image, if there is one.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    image: Mutex<Option<BeforeImage>>,
    /// One image is made, or removed, at a time.
    making: Mutex<()>,
    /// When the copy was known to be in sync last, in seconds since 1970; zero: not in this life.
    in_sync_until: AtomicU64,
    /// The image is being written back.
    rolling_back: AtomicBool,
}

/// What an operator is told of a kept image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptImage {
    /// Seconds since 1970; `None`: before the array was started last.
    pub as_of: Option<u64>,
    /// Of 1 MiB each.
    pub regions: u64,
    /// By shared blocks.
    pub checkpoint: bool,
}

/// Why an image is not written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollBackError {
    #[error("its older content is being put back already; wait for that (showeventlog)")]
    Running,
    #[error("what is on its way to this copy's disk does not end; check that disk")]
    NotDrained,
    #[error("this copy's disk failed ({0:?}) while its older content was being put back; try again")]
    Store(StoreResult),
    #[error("the array is stopping")]
    Stopping,
}

impl Keeping {
    /// Never held across a call of the system: the control thread looks here, too.
    fn lock(&self) -> MutexGuard<'_, Option<BeforeImage>> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn image(&self) -> Option<BeforeImage> {
        self.lock().clone()
    }

    pub fn has_image(&self) -> bool {
        self.lock().is_some()
    }

    fn put(&self, image: Option<BeforeImage>) {
        let before = std::mem::replace(&mut *self.lock(), image);
        drop(before); // the last handle of a removed file gives its space back, which may take long
    }

    /// Removes the image, if there is one that `counts` denies. Under `making`.
    fn remove_spent(
        &self,
        counts: impl FnOnce(&BeforeImage) -> bool,
        remove: impl FnOnce(&BeforeImage) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(image) = self.image().filter(|image| !counts(image)) else { return Ok(()) };
        match remove(&image) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.put(None),
        }
        Ok(())
    }
}

/// Whether a frame's region is to be kept.
enum Need {
    Keep,
    /// Nothing that counts is overwritten, or it is on record that the copy is a mixture.
    No,
    /// The frame is of a content that has ended.
    Late,
}

impl Volume {
    /// At the start of the array: an image that the former life has left.
    pub fn found_image(&self, image: BeforeImage) {
        self.keeping().put(Some(image));
    }

    /// The copy was in sync until now.
    pub fn was_in_sync_until(&self, seconds_since_1970: u64) {
        self.keeping().in_sync_until.store(seconds_since_1970, Ordering::Relaxed);
    }

    /// The image that counts, if there is one.
    fn image(&self) -> Option<BeforeImage> {
        let image = self.keeping().image()?;
        self.with(|core, _, _| core.image_counts(image.cut())).then_some(image)
    }

    /// Not in sync, and nothing whole is kept: what this copy holds is a mixture of old and new.
    pub fn is_mixture(&self) -> bool {
        self.with(|core, _, _| core.is_mixture()) || self.was_blank()
    }

    /// Not in sync, and blank before it was first brought up to date.
    pub fn was_blank(&self) -> bool {
        self.image().is_some_and(|image| image.is_void())
    }

    /// The whole image that is kept while the copy is a mixture.
    pub fn kept_image(&self) -> Option<KeptImage> {
        let image = self.image().filter(|image| !image.is_void())?;
        let regions = image.regions().len() as u64;
        Some(KeptImage { as_of: image.as_of(), regions, checkpoint: image.is_checkpoint() })
    }

    fn need(&self, cut: u64) -> Need {
        match self.with(|core, _, _| core.image_to_keep()) {
            Some(present) if present == cut => Need::Keep,
            Some(_) => Need::Late,
            None => Need::No,
        }
    }

    /// Sees to it that what `extent` holds is kept in the image of `cut`, or that it is on record that
    /// the copy is a mixture. `Err`: neither, and the extent must not be written to.
    pub(super) async fn keep(&self, handle: &Handle, cut: u64, extent: Extent) -> Result<(), StoreResult> {
        let kept = match self.keeping().image().filter(|image| image.cut() == cut) {
            Some(image) => image.keep(handle, extent).await,
            None => {
                // A blank copy is worth no image.
                let whole = Extent::new(0, handle.file().blocks());
                let blank = handle.next_data(whole).await?.is_none();
                let volume = self.clone();
                let made = pool::run(move || volume.make_image(cut, blank)).await;
                match made.and_then(|made| made) {
                    Ok(Some(image)) => image.keep(handle, extent).await,
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        };
        if let Err(error) = &kept {
            tracing::warn!(
                volume = ?self, %error,
                "what this copy held before its resync cannot be kept: until it is in sync again it is a mixture, \
                 and an override would serve that"
            );
            self.with(|core, _, out| core.cannot_keep(cut, out));
        }
        if kept.is_ok() && matches!(self.need(cut), Need::Keep) {
            return Ok(());
        }
        self.on_record(cut).await
    }

    /// Waits until nothing more is to be kept for the content of `cut`: it is on record that the copy is a mixture.
    async fn on_record(&self, cut: u64) -> Result<(), StoreResult> {
        let recorded = async {
            loop {
                match self.need(cut) {
                    Need::No => return Ok(()),
                    Need::Late => return Err(StoreResult::Failed),
                    Need::Keep => tokio::time::sleep(LOOK).await,
                }
            }
        };
        tokio::time::timeout(RECORD_WAIT, recorded).await.unwrap_or(Err(StoreResult::Failed))
    }

    /// There is no space for what is copied to this volume: the image's is given back, once it is on record that the
    /// copy is a mixture. True: there was one.
    pub(super) async fn give_image_up(&self) -> bool {
        let Some(image) = self.image().filter(|image| !image.is_void()) else { return false };
        let cut = image.cut();
        drop(image); // an open file keeps its space
        tracing::warn!(
            volume = ?self,
            "no space for what this copy held before its resync: until it is in sync again it is a mixture, and an \
             override would serve that"
        );
        self.with(|core, _, out| core.cannot_keep(cut, out));
        if self.on_record(cut).await.is_err() {
            return false;
        }
        let volume = self.clone();
        pool::run(move || volume.release_image()).await.is_ok()
    }

    /// `None`: none is needed any more. Blocks.
    fn make_image(&self, cut: u64, blank: bool) -> io::Result<Option<BeforeImage>> {
        let keeping = self.keeping();
        let _one = keeping.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = keeping.image().filter(|image| image.cut() == cut) {
            return Ok(Some(image));
        }
        if !matches!(self.need(cut), Need::Keep) {
            return Ok(None);
        }
        #[cfg(feature = "testing")]
        if super::fault::image_fails() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.remove_spent_image();
        let as_of = Some(keeping.in_sync_until.load(Ordering::Relaxed)).filter(|at| *at != 0);
        let image = self.file().new_image(cut, as_of, blank)?;
        keeping.put(Some(image.clone()));
        // The cut may have ended meanwhile, and whoever looked then found none.
        self.remove_spent_image();
        Ok(Some(image))
    }

    /// Under `making`.
    fn remove_spent_image(&self) {
        let counts = |image: &BeforeImage| self.with(|core, _, _| core.image_counts(image.cut()));
        if let Err(error) = self.keeping().remove_spent(counts, BeforeImage::remove) {
            // It takes space, and is removed before the next one is made, or at the next start.
            tracing::error!(volume = ?self, %error, "an image that counts no more cannot be removed");
        }
    }

    /// Removes the image if it counts no more. Blocks.
    pub fn release_image(&self) {
        let _one = self.keeping().making.lock().unwrap_or_else(PoisonError::into_inner);
        self.remove_spent_image();
    }

    /// Nothing that the copy holds counts, or the volume is about to be removed. Blocks.
    ///
    /// # Errors
    /// The system's; the image may still be there.
    pub fn drop_image(&self) -> io::Result<()> {
        let _one = self.keeping().making.lock().unwrap_or_else(PoisonError::into_inner);
        self.keeping().remove_spent(|_| false, BeforeImage::remove)
    }

    /// Before images are written back: nothing new comes into the copy any more, what was on its way is
    /// on its disk, and the regions of its image are durably out of sync. All volumes of a group are
    /// held so before one image is written back.
    ///
    /// # Errors
    /// See [`RollBackError`]; nothing was put back.
    pub async fn hold_for_roll_back(&self) -> Result<HeldCopy, RollBackError> {
        let running = RollingBack::begin(self).ok_or(RollBackError::Running)?;
        let held = async {
            loop {
                // A frame that was on its way may add to it.
                let regions = self.image().map(|image| image.regions()).unwrap_or_default();
                let drained = self.with(|core, _, out| core.begin_roll_back(&regions, out));
                if drained && self.with(|core, _, _| core.roll_back_is_marked(&regions)) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(ROLL_BACK_WAIT, held).await.map_err(|_| RollBackError::NotDrained)?;
        Ok(HeldCopy(running))
    }
}

/// A copy into which nothing comes until this is dropped.
#[derive(Debug)]
pub struct HeldCopy(RollingBack);

impl HeldCopy {
    /// Writes the kept image back, so that the copy is again what it was when the mirror was lost.
    /// Returns what was put back; `None`: there is no whole image, and the copy is as it is.
    ///
    /// # Errors
    /// See [`RollBackError`]; the image stays, and the copy is brought up to date by the next session
    /// whatever was put back already.
    pub async fn roll_back(self) -> Result<Option<KeptImage>, RollBackError> {
        let volume = self.0.0.clone();
        let Some(kept) = volume.kept_image() else { return Ok(None) };
        let Some(image) = volume.image() else { return Ok(None) };
        let (tell, told) = oneshot::channel();
        let restoring = volume.clone();
        let restore = move || {
            let Some(thread) = DataThread::current() else { return };
            tokio::task::spawn_local(async move {
                #[cfg(feature = "testing")]
                super::fault::slow_restore().await;
                let restored = match thread.handle(&restoring) {
                    Some(handle) => image.restore(&handle).await.map(|_| ()),
                    None => Err(StoreResult::Failed),
                };
                drop(self);
                // Whoever asked may have gone.
                let _ = tell.send(restored);
            });
        };
        volume.mailboxes().send(0, Job::Call(Box::new(restore)));
        told.await.map_err(|_| RollBackError::Stopping)?.map_err(RollBackError::Store)?;
        Ok(Some(kept))
    }
}

/// One roll-back of a volume. It ends when this is dropped: by what writes the image back, however long whoever asked
/// for it waits.
#[derive(Debug)]
struct RollingBack(Volume);

impl RollingBack {
    /// `None`: one is under way.
    fn begin(volume: &Volume) -> Option<Self> {
        let runs = volume.keeping().rolling_back.swap(true, Ordering::AcqRel);
        (!runs || mutation::on(Mutation::RollBackRunsTwice)).then(|| Self(volume.clone()))
    }
}

impl Drop for RollingBack {
    fn drop(&mut self) {
        self.0.keeping().rolling_back.store(false, Ordering::Release);
        self.0.with(|core, _, out| core.end_roll_back(out));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::VolumeId;
    use crate::store::DataFile;
    use crate::sys::engine::Engine;

    /// A directory that hangs must not keep anybody from asking what is kept: `showrcopy` asks it on
    /// the control thread.
    #[test]
    fn an_image_is_looked_at_while_its_removal_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let id = VolumeId([1; 16]);
        let data = DataFile::create(&directory.path().join("v"), id, 1 << 20, Engine::Plain).unwrap();
        let keeping = Keeping::default();
        keeping.put(Some(data.new_image(1, None, false).unwrap()));
        let removed = keeping.remove_spent(
            |_| false,
            |image| {
                assert!(keeping.image.try_lock().is_ok(), "the lock is held while a file is removed");
                image.remove()
            },
        );
        assert!(removed.is_ok() && keeping.image().is_none() && data.find_image().unwrap().is_none());
    }

    #[test]
    fn an_image_that_cannot_be_removed_stays_known() {
        let directory = tempfile::tempdir().unwrap();
        let id = VolumeId([1; 16]);
        let data = DataFile::create(&directory.path().join("v"), id, 1 << 20, Engine::Plain).unwrap();
        let keeping = Keeping::default();
        keeping.put(Some(data.new_image(1, None, false).unwrap()));
        let hung = |_: &BeforeImage| Err(io::ErrorKind::TimedOut.into());
        assert!(keeping.remove_spent(|_| false, hung).is_err() && keeping.image().is_some());
        assert!(keeping.remove_spent(|_| true, hung).is_ok(), "one that counts is left alone");
    }
}
