//! What both arrays hold alike of the group's objects: its members, their sizes and exports (the *group state*). The
//! primary counts its changes and tells it to the secondary, which is joined only when it holds the very state that
//! this primary has told it.

use crate::arbitration::{Connection, Epoch, Tenure};
use crate::mutation::{self, Mutation};

use super::api::Action;
use super::control::Control;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// The number of what this array's objects hold.
    own: u64,
    /// Told by the primary, and held here since: in which term of office (counter of the lineage, epoch), and its
    /// number, which means nothing in any other one.
    told: Option<((u32, Epoch), u64)>,
    /// As primary: on which link, and in which term of office, the other array was told.
    told_on: Option<(Connection, Tenure)>,
}

impl State {
    pub const fn own(&self) -> u64 {
        self.own
    }

    /// This array's objects hold it, by its own count.
    pub fn counted(&mut self, sequence: u64) {
        self.own = self.own.max(sequence);
    }

    /// They hold what the primary told.
    pub fn heard(&mut self, tenure: (u32, Epoch), sequence: u64) {
        self.told = self.told.max(Some((tenure, sequence)));
        self.own = sequence;
    }
}

impl Control {
    /// As secondary: the number of the state that the present primary has told, and that is held here.
    pub(super) fn state_of_primary(&self) -> u64 {
        if mutation::on(Mutation::JoinByOwnNumber) {
            return self.state.own;
        }
        let Tenure { lineage, epoch } = self.applied.tenure();
        match self.state.told {
            Some((tenure, sequence)) if tenure == (lineage.counter, epoch) => sequence,
            _ => 0,
        }
    }

    /// A primary tells its state once on each link, and when it takes office: whatever the other array counted, or
    /// lost, before.
    pub(super) fn tell_state(&mut self, out: &mut Vec<Action>) {
        let office = self.settled()
            && self.stays_in_office()
            && !self.arbiter.is_removed()
            && !self.arbiter.is_split();
        let Some(link) = self.link.filter(|_| office) else { return };
        let on = Some((link.connection, self.applied.tenure()));
        if self.state.told_on != on && !mutation::on(Mutation::SmallerCopyStays) {
            self.state.told_on = on;
            out.push(Action::SendGroupState);
        }
    }
}
