//! The consistent image of a copy that is being brought up to date (F14): when the shell must keep
//! what a frame is about to overwrite, which image counts, and how it comes back into the copy before
//! an override.
//!
//! What the copies of a group held when they fell behind is their *cut*, and has a number in the
//! group's register (`arbitration::VoterRecord`): one for all volumes, so that they begin and end it
//! together, whatever a crash leaves of each one's image.
//!
//! ```text
//!  behind, a frame           all equal: the primary asks for the join
//!  ----------------> kept, as of cut N ------------------------> cut N + 1, durably in the register
//!                      | the primary is lost for good:             |  "ready" is answered, and only
//!                      v override                                  v  then joined; the image of N goes
//!                    rolled back, its regions out of sync       complete: nothing is kept
//!                                                                  |  a new session finds the copy
//!                                                                  +-> behind again: kept, of N + 1
//! ```
//! An image that bears the number in the register is therefore whole: nothing was written under that
//! number that it does not hold, and a volume without one was not written to. Any other image is
//! worth nothing, and may be removed at leisure. Where something cannot be kept, the register says so
//! before the write: then no volume's image counts, and the copy is a mixture.

use crate::mutation::{self, Mutation};

use super::api::VolumeAction;
use super::volume::Volume;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Before {
    /// As in the register, durably.
    cut: u64,
    /// Not all of the cut is kept in this group, durably so.
    mixture: bool,
    /// The shell could not keep something; the register is to say so.
    unkept: bool,
    /// The copy holds all that the primary held: a frame overwrites nothing that counts.
    complete: bool,
    /// An image may be there that counts no more; the shell is to look.
    spent: bool,
    rolling_back: bool,
}

impl Volume {
    /// As secondary, not in sync with the primary.
    pub fn is_behind(&self) -> bool {
        self.group.is_some_and(|group| !group.config.holds(group.me))
    }

    /// The cut whose image must hold what a frame overwrites; `None`: none need.
    pub fn image_to_keep(&self) -> Option<u64> {
        let before = &self.before;
        (self.is_behind() && !before.complete && !before.mixture).then_some(before.cut)
    }

    /// An image of that cut may be written back, or added to.
    pub fn image_counts(&self, cut: u64) -> bool {
        let before = &self.before;
        let of_this = before.cut == cut || mutation::on(Mutation::BeforeCutIgnored);
        self.group.is_some() && of_this && !before.mixture
    }

    /// The copy was behind when not everything of its cut could be kept, and still is.
    pub fn is_mixture(&self) -> bool {
        self.is_behind() && self.before.mixture && !self.before.complete
    }

    /// Control: the cut in the register, durably; `complete`: the copy holds all that the primary holds.
    pub fn set_cut(&mut self, cut: u64, mixture: bool, complete: bool) {
        let mixture = mixture && !mutation::on(Mutation::BeforeMixtureForgotten);
        let rolling_back = self.before.rolling_back;
        self.before = Before { cut, mixture, complete, unkept: false, spent: true, rolling_back };
    }

    /// The shell cannot keep what a frame overwrites. [`Self::image_to_keep`] says when the frame may
    /// go on all the same.
    pub fn cannot_keep(&mut self, cut: u64, out: &mut Vec<VolumeAction>) {
        if self.image_to_keep() == Some(cut) {
            self.before.unkept = true;
            out.push(VolumeAction::Poke);
        }
    }

    /// Something cannot be kept, or the copy was no whole one (a flush of it had failed) when it fell behind.
    pub(super) fn is_unkept(&self) -> bool {
        self.before.unkept || self.was_torn()
    }

    /// What it held when it fell behind is of no moment, and the register does not say so yet.
    pub(super) fn was_torn(&self) -> bool {
        self.has_phantoms() && self.is_behind() && !self.before.mixture
    }

    /// The shell, after each call: an image that [`Self::image_counts`] denies is to be removed.
    pub fn take_image_spent(&mut self) -> bool {
        core::mem::take(&mut self.before.spent)
    }

    /// A session was accepted that is not the one before: what comes in it is kept.
    pub(super) const fn image_of_new_session(&mut self) {
        self.before.complete = false;
    }

    /// In no group any more.
    pub(super) fn forget_cut(&mut self) {
        self.before = Before { spent: true, ..Before::default() };
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
