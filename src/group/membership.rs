//! How volumes enter, leave and grow in a group that runs: when they may, and the order of the steps on both
//! arrays. Each step is durable before the next one begins, and a crash may come between any two of them.
//! What a step does to disks and objects is the shell's; that the order is sound, the simulator's to show.

use crate::arbitration::InSync;
use crate::mutation::{self, Mutation};

use super::api::{Action, Members, PathView, Reason, Refused, Role, SessionEnd};
use super::control::Control;
use crate::time::Now;

/// Which of the two arrays a step is taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Where the operator gave the command.
    Here,
    /// The other array, which was asked.
    There,
}

/// One step of a volume's entry or leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The other array takes its own steps; if it refuses, nothing is changed here.
    Ask,
    /// The copy is there, of the right size and identity; what was kept of it in another group goes.
    Copy,
    /// Every region is out of sync, durably (rule 10).
    Mark,
    /// The objects: the volume is a member.
    Join,
    /// The running group's control knows the member.
    Enrol,
    /// The objects: it is a member no more. Its exports go at the same time, unless this array served it.
    Leave,
    /// The running group's control knows it no more.
    Withdraw,
    /// The other array hears of the group's objects.
    Share,
}

/// The steps of `admitrcopyvv`. Whatever becomes of the other array's marks: a copy says by itself that it holds
/// nothing, before it is a member.
pub fn entry(at: At) -> &'static [Step] {
    use Step::{Ask, Copy, Enrol, Join, Mark, Share};
    match (at, mutation::on(Mutation::R10AdmittedUnmarked), mutation::on(Mutation::R10MarkedAfterEntry)) {
        (At::Here, true, _) => &[Ask, Join, Enrol, Share],
        (At::There, true, _) => &[Copy, Join, Enrol],
        (At::Here, _, true) => &[Ask, Join, Mark, Enrol, Share],
        (At::There, _, true) => &[Copy, Join, Mark, Enrol],
        (At::Here, ..) => &[Ask, Mark, Join, Enrol, Share],
        (At::There, ..) => &[Copy, Mark, Join, Enrol],
    }
}

/// The steps of `dismissrcopyvv`. The other array's copy is exported to nobody before this one, which goes on being
/// served, is this array's own: the two bear one identity.
pub fn leaving(at: At) -> &'static [Step] {
    use Step::{Ask, Leave, Share, Withdraw};
    match at {
        At::Here => &[Ask, Leave, Withdraw, Share],
        At::There => &[Leave, Withdraw],
    }
}

/// One step of a volume's growth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// The other array's copy grows; if it cannot, nothing is changed here.
    Ask,
    /// The data have grown, by what reads as zeroes, durably.
    Data,
    /// The objects: the volume has this size. Before it, a restart cuts the data off again.
    Size,
    /// The data path and the hosts know.
    Tell,
}

/// The steps of `growvv`: nobody may have written where a crash, or a failover, takes something away again.
pub fn growth(mirrored: bool) -> &'static [Growth] {
    use Growth::{Ask, Data, Size, Tell};
    match (mirrored, mutation::on(Mutation::GrowsHereFirst), mutation::on(Mutation::GrowthToldFirst)) {
        (true, true, _) => &[Data, Size, Tell, Ask],
        (true, _, true) => &[Ask, Data, Tell, Size],
        (true, ..) => &[Ask, Data, Size, Tell],
        (false, _, true) => &[Data, Tell, Size],
        (false, ..) => &[Data, Size, Tell],
    }
}

impl PathView {
    /// May the members of the group be changed by a command that is given here?
    ///
    /// # Errors
    /// The group is in sync, or not this array's.
    pub fn may_change_members(view: Option<&Self>) -> Result<(), Refused> {
        match view {
            Some(view) if view.in_sync == InSync::Both => Err(Refused::InSync),
            Some(view) if view.role == Role::Primary => Ok(()),
            _ => Err(Refused::NotPrimary),
        }
    }

    /// This array serves the group's volumes, and goes on doing so when they leave it. Any other array's copies
    /// bear the same identity: they must be exported to nobody before they are its own.
    pub fn goes_on_exporting(view: Option<&Self>) -> bool {
        let serves =
            |view: &Self| view.role == Role::Primary && matches!(view.reason, None | Some(Reason::Removed));
        view.is_some_and(serves) || mutation::on(Mutation::LeftCopyExported)
    }

    /// May a mirrored volume grow by a command that is given here?
    pub fn may_grow(view: Option<&Self>) -> bool {
        view.is_some_and(|view| {
            view.role == Role::Primary
                && view.reason.is_none()
                && view.in_sync == InSync::Both
                && view.link_up
        })
    }
}

impl Control {
    /// Members are about to be changed, step by step on both arrays: until all of that is done nothing is mirrored,
    /// so that the group does not come in sync in between, with a member that one of them does not know.
    ///
    /// # Errors
    /// As [`PathView::may_change_members`], asked at this very moment.
    pub(super) fn hold_members(
        &mut self,
        now: Now,
        members: &mut dyn Members,
        out: &mut Vec<Action>,
    ) -> Result<(), Refused> {
        if mutation::on(Mutation::MembersNotHeld) {
            return Ok(());
        }
        if !self.is_primary() || !self.stays_in_office() {
            return Err(Refused::NotPrimary);
        }
        if self.is_both() || self.arbiter.needs_both() {
            return Err(Refused::InSync);
        }
        self.members_held += 1;
        self.end_session(SessionEnd::MembersChanged, now, members, out);
        Ok(())
    }

    /// They are changed, or stay as they were.
    pub(super) const fn release_members(&mut self) {
        self.members_held = self.members_held.saturating_sub(1);
    }
}
