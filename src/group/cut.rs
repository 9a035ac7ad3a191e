//! The cut from which this array's copy is brought up to date (FAILURES F14, `mirror::before`): its
//! number stands in the register, so that all volumes of the group begin and end it together, and it
//! is on disk before a volume acts on it.

use crate::mutation::{self, Mutation};

use super::api::{Action, LogEntry, Members, SessionMessage};
use super::control::Control;

impl Control {
    /// As secondary, not in sync with the primary.
    pub(super) fn is_behind(&self) -> bool {
        !self.applied.holds(self.me)
    }

    /// What the register tells of the cut is on disk here, and the volumes know it.
    pub(super) fn cut_is_applied(&self) -> bool {
        let record = self.arbiter.record();
        self.applied_cut == (record.cut, record.mixture)
    }

    /// Tells the volumes of the cut once it is on disk here.
    pub(super) fn apply_cut(&mut self, members: &mut dyn Members) {
        if self.cut_is_applied() || !self.arbiter.cut_is_durable() {
            return;
        }
        let record = self.arbiter.record();
        self.applied_cut = (record.cut, record.mixture);
        self.tell_cut(members);
    }

    pub(super) fn tell_cut(&self, members: &mut dyn Members) {
        let (cut, mixture) = self.applied_cut;
        let complete = self.is_behind() && self.secondary.is_equal();
        members.each(&mut |_, volume, _| volume.set_cut(cut, mixture, complete));
    }

    /// A volume cannot keep what it held: then no volume's image is worth anything.
    pub(super) fn note_mixture(&mut self, out: &mut Vec<Action>) {
        // A cut that is about to end needs nothing kept any more.
        if self.sum.unkept && self.is_behind() && self.cut_is_applied() && !self.applied_cut.1 {
            self.log(LogEntry::Mixture, out);
            self.arbiter.note_mixture(&mut self.pending);
        }
    }

    /// Ready for the join: the content that the copy had before counts no more, for good.
    pub(super) fn answer_join_query(&mut self, out: &mut Vec<Action>) {
        let applied = self.cut_is_applied() || mutation::on(Mutation::BeforeOutlivesJoin);
        if !applied || self.disk_is_bad() {
            return;
        }
        let Some((session, wanted)) = self.secondary.take_query() else { return };
        let group_state = self.state_of_primary();
        // Behind with the objects: with the number told last, so that the primary tells its own.
        if !self.sum.map_pending || group_state < wanted {
            self.tell(SessionMessage::JoinReady { session, group_state }, out);
        }
    }
}
