//! The consistent image of a copy that is being brought up to date (F14): when the shell must keep
//! what a frame is about to overwrite, when the image has served its purpose, and how it comes back
//! into the copy before an override.
//!
//! ```text
//!  behind, first frame        all equal: the primary asks for the join
//!  ------------------> kept ------------------------------------------> released, durably
//!      ^                 | the primary is lost for good: override            |  "ready" is answered,
//!      |                 v                                                   v  and only then joined
//!      |             rolled back, its regions out of sync                 complete
//!      +---------------- a new session finds the copy behind again -----------+
//! ```
//! An image that is found after a crash is therefore whole: nothing was written under it that it
//! does not hold.

use crate::arbitration::InSync;
use crate::mutation::{self, Mutation};

use super::api::VolumeAction;
use super::volume::Volume;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Before {
    /// Counts the images: each begins from another consistent content.
    life: u64,
    /// The shell has one.
    exists: bool,
    /// It is to go, and the shell was told (`true`), or not yet.
    releasing: Option<bool>,
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
        }
    }

    /// The copies are equal: the image, if there is one, is to go. True: it has, durably, and the
    /// secondary may say that it is ready for the join.
    pub fn release_image(&mut self) -> bool {
        if self.before.exists && !mutation::on(Mutation::BeforeOutlivesJoin) {
            self.before.releasing.get_or_insert(false);
            return false;
        }
        self.before.complete = true;
        true
    }

    /// The shell, after each call: the image is to be removed now; then [`Self::image_released`].
    pub fn take_image_release(&mut self) -> bool {
        self.before.releasing == Some(false) && self.before.releasing.replace(true).is_some()
    }

    /// The image is gone, durably.
    pub fn image_released(&mut self, out: &mut Vec<VolumeAction>) {
        self.before.exists = false;
        self.before.releasing = None;
        self.before.complete = self.is_behind();
        out.push(VolumeAction::Poke);
    }

    /// The image could not be removed; it is tried again when the primary asks for the join again.
    pub fn image_release_failed(&mut self) {
        self.before.releasing = None;
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
            self.before.releasing.get_or_insert(false);
        }
        self.before.complete = false;
        self.before.life += 1;
    }

    /// The image of these regions is about to be written back. No frame is taken and no session
    /// accepted until [`Self::end_roll_back`]; the regions are out of sync here, which must be
    /// durable ([`Self::roll_back_is_marked`]) before the first is written. False: not behind, or
    /// frames are still on their way to the disk; ask again.
    pub fn begin_roll_back(&mut self, regions: &[u64], out: &mut Vec<VolumeAction>) -> bool {
        if !self.is_behind() {
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
