//! Enrolment of an array that takes no part in a group (rule 18): when the primary may offer the group to it,
//! and when that array may take the offer.

use crate::arbitration::Config;

use crate::mutation::{self, Mutation};

use super::control::Control;
use super::{GroupState, Role};

impl Control {
    /// The configuration with which the other array may be enrolled: this one is alone in it and serves, nothing is
    /// undecided, and the other one is linked and answers no session. No vote that was lost can matter then: phase 1
    /// of the next epoch is this array by itself, and a vote of its own for a join is decided before.
    ///
    /// The caller sees to it that what was to be written before is durable before it offers.
    pub fn offer(&self) -> Option<Config> {
        let view = self.view()?;
        let silent = view.link_up && !view.session_up && view.state != GroupState::Stopped;
        let offers = view.role == Role::Primary && view.reason.is_none() && silent;
        self.arbiter.may_enrol_peer().filter(|_| offers)
    }
}

/// May a copy whose last known configuration was `known` hold what the history of `offered` lacks? The chain of
/// one lineage takes its primary from one array to another only with everything that was acknowledged.
pub fn may_hold_more(known: Option<Config>, offered: &Config) -> bool {
    known.is_some_and(|known| known.lineage != offered.lineage || known.epoch > offered.epoch)
}

/// One step by which an array that took no part in a group is enrolled. Each is durable before the next begins; a
/// crash before `Present` leaves it absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enrolment {
    /// The objects: this array takes no part in the group.
    Absent,
    /// Volumes that the primary's group has not are members no more.
    Others,
    /// Each volume is there, as large as the primary's, and every region of it out of sync.
    Copies,
    /// The first vote: what the primary offers.
    Vote,
    /// The objects: this array takes part.
    Present,
    /// Its control begins, as after a restart.
    Begin,
}

pub fn enrolment() -> &'static [Enrolment] {
    use Enrolment::{Absent, Begin, Copies, Others, Present, Vote};
    match (mutation::on(Mutation::R18PresentBeforeMarks), mutation::on(Mutation::R18PresentBeforeVote)) {
        (true, _) => &[Absent, Others, Vote, Present, Copies, Begin],
        (_, true) => &[Absent, Others, Copies, Present, Vote, Begin],
        _ => &[Absent, Others, Copies, Vote, Present, Begin],
    }
}
