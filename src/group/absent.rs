//! Enrolment of an array that takes no part in a group (rule 18): when the primary may offer the group to it,
//! and when that array may take the offer.

use crate::arbitration::Config;

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
