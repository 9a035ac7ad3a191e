//! The consistent image of a copy that is being brought up to date (F14): when the shell must keep
//! what a frame is about to overwrite, when the image has served its purpose, and how it comes back
//! into the copy before an override.
//!
//! ```text
//!  behind, first frame        all equal: the primary asks for the join
//!  ------------------> kept ---------------------------------> superseded, durably, in all volumes
//!      ^                 | the primary is lost for good: override            |
//!      |                 v                                                   v
//!      |             rolled back, its regions out of sync         released, durably: complete;
//!      |                                                   "ready" is answered, and only then joined
//!      +---------------- a new session finds the copy behind again -----------+
//! ```
//! All volumes of a group are rolled back, or none: while some images are kept and others gone already,
//! the copies are whole as they are. So every image is superseded, durably, before the first one goes, and
//! one that is keeps all images of its group from coming back. No new session is accepted before all are
//! gone: what comes in it begins new images, of what is whole then.
//!
//! An image that is found after a crash is therefore whole: nothing was written under it that it
//! does not hold.

use crate::arbitration::InSync;
use crate::mutation::{self, Mutation};

use super::api::VolumeAction;
use super::volume::Volume;

/// What the shell is to do with an image that is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageStep {
    /// It counts for nothing from now on, durably; then [`Volume::image_superseded`].
    Supersede,
    /// It is removed; then [`Volume::image_released`].
    Remove,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Progress {
    Wanted,
    Told,
    Failed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Before {
    /// Counts the images: each begins from another consistent content.
    life: u64,
    /// The shell has one.
    exists: bool,
    /// It counts for nothing: the copies were equal.
    superseded: bool,
    /// The step on its way out that is not done yet.
    leaving: Option<(ImageStep, Progress)>,
    /// The copy holds all that the primary held: a frame overwrites nothing that counts.
    complete: bool,
    rolling_back: bool,
}

impl Volume {
    /// As secondary, not in sync with the primary.
    pub fn is_behind(&self) -> bool {
        self.group
            .is_some_and(|group| group.config.primary != group.me && group.config.in_sync == InSync::Primary)
    }

    /// The image that must hold what a frame overwrites, by its number; `None`: none need.
    pub fn image_to_keep(&self) -> Option<u64> {
        (self.is_behind() && !self.before.complete).then_some(self.before.life)
    }

    /// The shell has an image with that number, or found one at its start.
    pub fn image_made(&mut self, life: u64) {
        if life == self.before.life {
            self.before.exists = true;
            self.before.superseded = false;
        }
    }

    /// The copies of the whole group are equal: the image, if there is one, is to count for nothing. True:
    /// it does, durably.
    pub fn supersede_image(&mut self) -> bool {
        if !self.before.exists || self.before.superseded || mutation::on(Mutation::BeforeOutlivesJoin) {
            return true;
        }
        self.dismiss_image(ImageStep::Supersede);
        false
    }

    /// The images of the whole group are superseded: this one is to go. True: it has, durably, and the
    /// secondary may say that it is ready for the join.
    pub fn release_image(&mut self) -> bool {
        if self.before.exists && !mutation::on(Mutation::BeforeOutlivesJoin) {
            self.dismiss_image(ImageStep::Remove);
            return false;
        }
        self.before.complete = true;
        true
    }

    fn dismiss_image(&mut self, step: ImageStep) {
        self.before.leaving = match self.before.leaving {
            None => Some((step, Progress::Wanted)),
            Some((step, Progress::Failed)) => Some((step, Progress::Wanted)),
            going => going,
        };
    }

    /// The shell, after each call: what it is to do with the image now.
    pub fn take_image_step(&mut self) -> Option<ImageStep> {
        let Some((step, Progress::Wanted)) = self.before.leaving else { return None };
        self.before.leaving = Some((step, Progress::Told));
        Some(step)
    }

    /// The image is on its way out: nothing of it is written back.
    pub const fn is_image_leaving(&self) -> bool {
        self.before.leaving.is_some()
    }

    /// The image counts for nothing, durably (found so at a start, too).
    pub fn image_superseded(&mut self, out: &mut Vec<VolumeAction>) {
        self.before.superseded = true;
        let useless = self.group.is_some() && !self.is_behind();
        self.before.leaving = useless.then_some((ImageStep::Remove, Progress::Wanted));
        out.push(VolumeAction::Poke);
    }

    /// The image is gone, durably.
    pub fn image_released(&mut self, out: &mut Vec<VolumeAction>) {
        self.before.exists = false;
        self.before.superseded = false;
        self.before.leaving = None;
        self.before.complete = self.is_behind();
        out.push(VolumeAction::Poke);
    }

    /// The step could not be done; it is tried again when the primary asks for the join, or for a session,
    /// again.
    pub fn image_step_failed(&mut self) {
        self.before.leaving = self.before.leaving.map(|(step, _)| (step, Progress::Failed));
    }

    /// The copies were equal, and the image has not gone yet: all of the group's go before another session
    /// is accepted, so that what that brings begins new ones.
    pub const fn is_image_outdated(&self) -> bool {
        self.before.superseded || self.before.leaving.is_some()
    }

    /// A session was accepted that is not the one before: what comes in it begins a new image when
    /// the copy was whole.
    pub(super) fn image_of_new_session(&mut self) {
        if self.before.complete {
            self.before.complete = false;
            self.before.life += 1;
        }
    }

    /// A configuration was learned.
    pub(super) fn image_after_change(&mut self) {
        if self.is_behind() {
            return;
        }
        if self.before.exists {
            self.dismiss_image(ImageStep::Remove);
        }
        self.before.complete = false;
        self.before.life += 1;
    }

    /// The image of these regions is about to be written back. No frame is taken and no session
    /// accepted until [`Self::end_roll_back`]; the regions are out of sync here, which must be
    /// durable ([`Self::roll_back_is_marked`]) before the first is written. False: not behind, or
    /// frames are still on their way to the disk, or the image is on its way out; ask again.
    pub fn begin_roll_back(&mut self, regions: &[u64], out: &mut Vec<VolumeAction>) -> bool {
        if !self.is_behind() || self.is_image_leaving() {
            return false;
        }
        self.end_applies(out);
        self.before.rolling_back = true;
        for &region in regions {
            self.map.mark_out_of_sync(region);
        }
        self.request_map(out);
        self.status().store_io == 0
    }

    pub fn roll_back_is_marked(&self, regions: &[u64]) -> bool {
        regions.iter().all(|&region| self.map.sure_out_of_sync().contains(region))
    }

    /// The copy holds the image's content, or the attempt was given up (the image stays then).
    pub fn end_roll_back(&mut self, out: &mut Vec<VolumeAction>) {
        self.before.rolling_back = false;
        out.push(VolumeAction::Poke);
    }

    pub(super) const fn is_rolling_back(&self) -> bool {
        self.before.rolling_back
    }
}
