//! What a new configuration means for one volume (ARBITRATION `learn`, `restart`), and how a
//! volume enters and leaves a group.

use crate::arbitration::{Config, Gate, InSync, Mode, Side};
use crate::block::Refusal;
use crate::mutation::{self, Mutation};
use crate::time::{Duration, Time};

use super::api::{Context, RegionRun, VolumeAction};
use super::command::Stage;
use super::findings::VerifyEnd;
use super::volume::{Membership, Volume};

/// How long hosts' commands wait for the group's control after their volume entered a group.
const ENROL_HOLD: Duration = Duration::from_secs(2);

impl Volume {
    /// Puts the volume into a group (at start, or by `admitrcopyvv`); commands wait for
    /// `set_gate`, at most two seconds. With `full` every region becomes out of sync (first sync: on
    /// the primary; blank disk: where it is); the membership may be made durable once
    /// `Status::map_pending` is false.
    pub fn enrol(&mut self, me: Side, config: &Config, full: bool, cx: Context, out: &mut Vec<VolumeAction>) {
        self.group = Some(Membership { me, config: *config });
        self.unflushed.set_stable(true);
        self.unflushed.made_anew();
        let tenure = config.tenure();
        let hold_until = cx.now.grantor + ENROL_HOLD;
        self.gate = Gate { tenure, mode: Mode::Held, lease_end: Time::ZERO, hold_until };
        if self.is_primary() {
            // Commands of the solitary volume go on as the group's. Those already writing have no
            // activity bit: with `full` their regions are out of sync, and copied after them.
            let order = self.in_order();
            for &slot in &order {
                self.commands.get(slot).tenure = tenure;
            }
            self.give_back(order);
        } else {
            self.refuse_all(Refusal::Standby, true, cx, out);
        }
        if full && (self.is_primary() || !mutation::on(Mutation::R18CopyCounts)) {
            let everything = RegionRun { first: 0, count: u64::MAX };
            self.must_copy.insert_run(everything);
            self.map.mark_all_out_of_sync(&self.must_copy);
            self.raise_barrier(out);
        }
        if self.is_alone() {
            self.plan_out_of_sync();
        } else {
            self.must_copy.clear();
        }
        self.settle(cx, out);
    }

    /// Nothing this copy holds counts: every region is out of sync. Only while it is in no group; what it was
    /// before is in doubt no more once `Status::map_pending` is false.
    pub fn disown(&mut self, out: &mut Vec<VolumeAction>) {
        if mutation::on(Mutation::R18CopyCounts) {
            return;
        }
        let mut everything = self.must_copy.clone();
        everything.insert_run(RegionRun { first: 0, count: u64::MAX });
        self.map.mark_all_out_of_sync(&everything);
        self.raise_barrier(out);
    }

    /// Takes the volume out of its group: solitary, its map cleared. Where it did not serve, what waits came for a
    /// copy that did, and is refused.
    pub fn withdraw(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        let serves = self.is_primary() && self.gate.may_start(cx.now);
        if self.group.is_some() && !serves && !mutation::on(Mutation::LeftCopyServesParked) {
            self.refuse_all(Refusal::Standby, !self.is_primary(), cx, out);
        }
        self.end_verify(VerifyEnd::NotInSync, out);
        self.end_session();
        self.end_applies(out);
        self.group = None;
        self.unflushed.set_stable(true);
        self.unflushed.forget_peer();
        self.gate = Gate::solitary();
        self.joining = false;
        self.barrier = 0;
        self.must_copy.clear();
        self.recovering.clear();
        self.failed_here.clear();
        self.lost.clear();
        self.found_lost.clear();
        self.map.clear_all_activity();
        self.map.clear_all_out_of_sync();
        self.forget_marks();
        self.forget_cut();
        let order = self.in_order();
        for &slot in &order {
            self.commands.get(slot).tenure = self.gate.tenure;
        }
        self.give_back(order);
        self.reconsider_all(cx, out);
        self.request_map(out);
        self.settle(cx, out);
    }

    /// A configuration was chosen (ARBITRATION `learn`): carries out what it means for maps,
    /// session and commands. Call before the `set_gate` that follows from it; until then nothing
    /// starts under a new tenure. What must be durable before an answer (drop: out of sync |=
    /// activity) holds the answers back by itself. A join that was allowed and lost to another
    /// value stays required until `cancel_join`.
    pub fn learned(&mut self, new: &Config, cx: Context, out: &mut Vec<VolumeAction>) {
        let Some(group) = &mut self.group else { return };
        let me = group.me;
        let old = core::mem::replace(&mut group.config, *new);
        if old == *new {
            return;
        }
        if old.in_sync != new.in_sync || old.tenure() != new.tenure() {
            self.unflushed.forget_peer();
        }
        let same_tenure = old.tenure() == new.tenure();
        let was = old.primary == me;
        let is = new.primary == me;
        if !same_tenure {
            // Parked commands go on waiting, writes among them for a refusal when the gate opens;
            // nothing else outlives the tenure (rule 6).
            let mode = if self.gate.mode == Mode::Closed { Mode::Closed } else { Mode::Held };
            let ran = matches!(self.gate.mode, Mode::Both | Mode::Alone);
            let hold_until = if ran { cx.now.grantor + ENROL_HOLD } else { self.gate.hold_until };
            self.gate = Gate { tenure: new.tenure(), mode, lease_end: Time::ZERO, hold_until };
            self.end_applies(out);
        }
        if was && !(is && same_tenure) {
            self.leave_office(cx, out);
        }
        if is && !(was && same_tenure) {
            self.take_office(out);
        }
        if was && is && same_tenure {
            match (old.in_sync, new.in_sync) {
                (InSync::Both, InSync::Primary) => self.peer_dropped(cx, out),
                (InSync::Primary, InSync::Both) => {
                    self.joining = false;
                    self.forget_failure(); // what failed before was copied, or answered
                    self.must_copy.clear();
                    self.map.clear_all_out_of_sync();
                }
                _ => {}
            }
        }
        if !is && new.in_sync == InSync::Primary {
            self.unflushed.give_up(); // what it may lack is out of sync
        }
        // In sync as secondary, by this very step: whatever the maps say was copied.
        let was_in_sync_secondary = !was && same_tenure && old.in_sync == InSync::Both;
        if !is && new.in_sync == InSync::Both && !was_in_sync_secondary {
            self.unflushed.made_anew();
            self.map.clear_all_activity();
            self.map.clear_all_out_of_sync();
        }
        self.verify_after_change(same_tenure, out);
        self.settle(cx, out);
    }

    /// Ceased to be primary: nothing more is sent, started or answered. The activity map stays:
    /// it names what may differ.
    fn leave_office(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        self.end_session();
        self.joining = false;
        self.must_copy.clear();
        self.recovering.clear();
        self.failed_here.clear();
        self.lost.clear();
        self.found_lost.clear();
        self.forget_failure();
        self.forget_marks();
        let order = self.in_order();
        for &slot in &order {
            let stage = self.commands.at(slot).stage;
            let queued_on = mutation::on(Mutation::T10CommandOutlivesTenure) && stage == Stage::Queued;
            if !matches!(stage, Stage::Parked | Stage::Vacant | Stage::Freed) && !queued_on {
                self.refuse(slot, Refusal::Standby, cx, out);
            }
        }
        self.give_back(order);
    }

    /// Became primary, by promote, switch over or hand over.
    fn take_office(&mut self, out: &mut Vec<VolumeAction>) {
        self.forget_marks();
        self.recovering.clear();
        self.failed_here.clear();
        self.lost.clear();
        self.found_lost.clear();
        self.must_copy.clear();
        self.joining = false;
        self.map.activity_to_out_of_sync();
        self.raise_barrier(out);
        if self.is_alone() {
            self.plan_out_of_sync();
        }
    }

    /// {A,B} -> {me}: what may not be on the peer is out of sync, durably before any answer (rule
    /// 10); nothing is in doubt any more, and errors held back are answered (rule 17).
    fn peer_dropped(&mut self, cx: Context, out: &mut Vec<VolumeAction>) {
        if !mutation::on(Mutation::R11VolumesStopApart) {
            self.end_session();
        }
        self.joining = false;
        if mutation::on(Mutation::T12DropForgetsActivity) {
            self.map.clear_all_activity();
        }
        self.map.activity_to_out_of_sync();
        self.raise_barrier(out);
        self.must_copy.clear();
        self.plan_out_of_sync();
        self.recovering.clear();
        self.failed_here.clear();
        self.lost.clear();
        self.found_lost.clear();
        self.reconsider_all(cx, out);
    }

    /// After a restart of this array as chosen primary, once, before the gate opens (rule 15).
    /// `both`: chosen, or an own undecided vote, is {A,B}: active regions are in doubt; else they
    /// are out of sync.
    pub fn restart_recovery(&mut self, both: bool, cx: Context, out: &mut Vec<VolumeAction>) {
        if !self.is_primary() {
            return;
        }
        if both {
            self.unflushed.forget_what_peer_flushed();
            self.joining = self.is_alone();
            self.plan_owed = self.joining;
            if self.joining {
                self.must_copy.clear(); // nothing was dirty when the vote was cast
            }
            if !mutation::on(Mutation::T8NoRecovery) {
                self.recovering.union(self.map.activity());
            }
        } else {
            self.map.activity_to_out_of_sync();
            self.plan_out_of_sync();
            self.raise_barrier(out);
        }
        self.settle(cx, out);
    }

    /// Nothing is counted as active any more; the bits stay as they are.
    fn forget_marks(&mut self) {
        self.active.clear();
        let order = self.in_order();
        for &slot in &order {
            self.commands.get(slot).marked = false;
        }
        self.give_back(order);
    }
}
