//! The shell's part in keeping what a copy held (`mirror::before`, `store::before`): makes the image
//! with the first frame, fills it before each write, removes it, and writes it back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::block::{Extent, StoreResult};
use crate::mirror::ImageStep;
use crate::mutation::{self, Mutation};
use crate::store::{BeforeImage, Handle};
use crate::sys::pool;

use super::shell::Volume;
use super::thread::{DataThread, Job};

/// How often a roll-back looks whether it may begin.
const LOOK: Duration = Duration::from_millis(20);
/// What is on its way to the disk, and the dirty map, are waited for so long before a roll-back.
const ROLL_BACK_WAIT: Duration = Duration::from_secs(10);

/// A volume's image, if there is one.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    image: Mutex<Option<(u64, BeforeImage)>>,
    /// One image is made at a time.
    making: Mutex<()>,
    /// When the copy was known to be in sync last, in seconds since 1970; zero: not in this life.
    in_sync_until: AtomicU64,
}

/// What an operator is told of a kept image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptImage {
    /// Seconds since 1970; `None`: before the array was started last.
    pub as_of: Option<u64>,
    /// Of 1 MiB each.
    pub regions: u64,
}

/// Why an image is not written back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollBackError {
    #[error("what is on its way to this copy's disk does not end; check that disk")]
    NotDrained,
    #[error("this copy's disk failed ({0:?}) while its older content was being put back; try again")]
    Store(StoreResult),
    #[error("the array is stopping")]
    Stopping,
}

impl Keeping {
    fn lock(&self) -> MutexGuard<'_, Option<(u64, BeforeImage)>> {
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Volume {
    /// At the start of the array: an image that the former life has left.
    pub fn found_image(&self, image: BeforeImage) {
        // Made before the first configuration of this life is learned.
        const LIFE: u64 = 0;
        let superseded = image.is_superseded();
        *self.keeping().lock() = Some((LIFE, image));
        self.with(|core, _, out| {
            core.image_made(LIFE);
            if superseded {
                core.image_superseded(out);
            }
        });
    }

    /// The copy was in sync until now.
    pub fn was_in_sync_until(&self, seconds_since_1970: u64) {
        self.keeping().in_sync_until.store(seconds_since_1970, Ordering::Relaxed);
    }

    /// Not in sync, and nothing whole is kept: what this copy holds is a mixture of old and new.
    pub fn is_mixture(&self) -> bool {
        self.keeping().lock().as_ref().is_some_and(|(_, image)| image.is_void() && !image.is_superseded())
    }

    /// The copies were equal, and are whole as they are: no image of this group comes back.
    pub fn has_superseded_image(&self) -> bool {
        self.keeping().lock().as_ref().is_some_and(|(_, image)| image.is_superseded())
    }

    /// The whole image that is kept while the copy is a mixture.
    pub fn kept_image(&self) -> Option<KeptImage> {
        let kept = self.keeping().lock();
        let (_, image) = kept.as_ref().filter(|(_, image)| !image.is_void())?;
        Some(KeptImage { as_of: image.as_of(), regions: image.regions().len() as u64 })
    }

    /// Sees to it that what `extent` holds is kept in image `life`, or that the image is known to be
    /// void. `Err`: neither, and the extent must not be written to.
    pub(super) async fn keep(&self, handle: &Handle, life: u64, extent: Extent) -> Result<(), StoreResult> {
        let known =
            self.keeping().lock().as_ref().filter(|(of, _)| *of == life).map(|(_, image)| image.clone());
        let image = match known {
            Some(image) => image,
            None => {
                // A blank copy is worth no image.
                let whole = Extent::new(0, handle.file().blocks());
                let blank = handle.next_data(whole).await?.is_none();
                let volume = self.clone();
                let made = pool::run(move || volume.make_image(life, blank)).await;
                match made.and_then(|made| made) {
                    Ok(Some(image)) => image,
                    // The copies became equal while this frame was on its way: nothing counts any more.
                    Ok(None) => return Ok(()),
                    Err(error) => {
                        tracing::error!(volume = ?self, %error, "no image of the copy as it was can be begun");
                        return Err(StoreResult::Failed);
                    }
                }
            }
        };
        if let Err(error) = image.keep(handle, extent).await {
            tracing::warn!(
                volume = ?self, %error,
                "what this copy held before its resync cannot be kept: until it is in sync again it is a mixture, \
                 and an override would serve that"
            );
            let voided = pool::run(move || image.declare_void()).await;
            return voided.and_then(|voided| voided).map_err(|_| StoreResult::Failed);
        }
        Ok(())
    }

    /// Blocks. `None`: none is wanted any more.
    fn make_image(&self, life: u64, blank: bool) -> std::io::Result<Option<BeforeImage>> {
        let keeping = self.keeping();
        let _one = keeping.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, image)) = &*keeping.lock()
            && *of == life
        {
            return Ok(Some(image.clone()));
        }
        let wanted = self.with(|core, _, _| core.image_to_keep());
        if wanted != Some(life) && !mutation::on(Mutation::BeforeMadeAgain) {
            return Ok(None);
        }
        let as_of = Some(keeping.in_sync_until.load(Ordering::Relaxed)).filter(|at| *at != 0);
        let image = self.file().new_image(as_of, blank)?;
        *keeping.lock() = Some((life, image.clone()));
        self.with(|core, _, _| core.image_made(life));
        Ok(Some(image))
    }

    /// Supersedes the image, or removes it; the core is told when that is durable. Blocks.
    pub fn let_image_go(&self, step: ImageStep) {
        let keeping = self.keeping();
        let _one = keeping.making.lock().unwrap_or_else(PoisonError::into_inner);
        let image = keeping.lock().as_ref().map(|(_, image)| image.clone());
        let done = match (image, step) {
            (None, _) => Ok(()),
            (Some(image), ImageStep::Supersede) => image.supersede(),
            (Some(image), ImageStep::Remove) => image.remove(),
        };
        if let Err(error) = done
            && error.kind() != std::io::ErrorKind::NotFound
        {
            // Not joined until it is gone: it must not be taken for an image of what comes then.
            tracing::error!(volume = ?self, %error, "the image of the copy as it was cannot be removed");
            return self.with(|core, _, _| core.image_step_failed());
        }
        match step {
            ImageStep::Supersede => self.with(|core, _, out| core.image_superseded(out)),
            ImageStep::Remove => {
                *keeping.lock() = None;
                self.with(|core, _, out| core.image_released(out));
            }
        }
    }

    /// The volume is about to be removed. Blocks.
    pub fn drop_image(&self) {
        if let Some((_, image)) = self.keeping().lock().take()
            && let Err(error) = image.remove()
        {
            tracing::warn!(volume = ?self, %error, "the image of a removed volume is left behind");
        }
    }

    /// Writes the kept image back, so that the copy is again what it was when the mirror was lost.
    /// Returns what was put back; `None`: there is no whole image, and the copy is as it is.
    ///
    /// # Errors
    /// See [`RollBackError`]; the image stays, and the copy is brought up to date by the next session
    /// whatever was put back already.
    pub async fn roll_back(&self) -> Result<Option<KeptImage>, RollBackError> {
        let Some(kept) = self.kept_image() else { return Ok(None) };
        let Some((_, image)) = self.keeping().lock().clone() else { return Ok(None) };
        let regions = image.regions();
        let done = self.roll_back_to(image, &regions).await;
        self.with(|core, _, out| core.end_roll_back(out));
        done.map(|()| Some(kept))
    }

    async fn roll_back_to(&self, image: BeforeImage, regions: &[u64]) -> Result<(), RollBackError> {
        let marked = async {
            loop {
                let drained = self.with(|core, _, out| core.begin_roll_back(regions, out));
                if drained && self.with(|core, _, _| core.roll_back_is_marked(regions)) {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(ROLL_BACK_WAIT, marked).await.map_err(|_| RollBackError::NotDrained)?;
        let (tell, told) = oneshot::channel();
        let volume = self.clone();
        let restore = move || {
            let Some(thread) = DataThread::current() else { return };
            tokio::task::spawn_local(async move {
                let restored = match thread.handle(&volume) {
                    Some(handle) => image.restore(&handle).await.map(|_| ()),
                    None => Err(StoreResult::Failed),
                };
                // Whoever asked may have gone.
                let _ = tell.send(restored);
            });
        };
        self.mailboxes().send(0, Job::Call(Box::new(restore)));
        told.await.map_err(|_| RollBackError::Stopping)?.map_err(RollBackError::Store)
    }
}
