//! What hosts and operators see of the group (DESIGN §5 and §7).

use crate::arbitration::{InSync, Quorum};
use crate::time::Now;

use super::api::{Action, GroupState, LogEntry, PathState, PathView, Reason, Role, SyncStatus};
use super::control::Control;
use super::probe::Trouble;

impl Control {
    /// Reports the view when it has changed.
    pub(super) fn report(&mut self, now: Now, out: &mut Vec<Action>) {
        let view = self.look(now);
        if self.view != Some(view) {
            let before = self.view.replace(view).and_then(|before| before.reason);
            if let Some(reason) = view.reason.filter(|reason| before != Some(*reason) && reason.lasts()) {
                self.log(LogEntry::NotServing { reason }, out);
            }
            out.push(Action::Path(view));
        }
    }

    fn look(&self, now: Now) -> PathView {
        let applied = &self.applied;
        let chosen = self.arbiter.chosen();
        let primary = self.is_primary();
        let changing = self.is_changing(now);
        let pending = now.grantor < self.promotion_hold(now);
        let held = now.grantor < self.hold_until;
        // While roles change, commands that come are held. A host brings them only to a path it thinks
        // usable (Linux's scsi_dh_alua sends nothing to a standby group, and asks one in transition
        // again after 2 s, twice), so a path that holds is told as what it is to a host, a slow one. A
        // former primary in failsafe is left instead: it holds for those who have nowhere else to go.
        let own = if self.serving && !changing {
            PathState::Optimized
        } else if (changing && held) || pending {
            PathState::NonOptimized
        } else if changing || (primary && held) {
            PathState::Transitioning
        } else {
            PathState::Standby
        };
        PathView {
            own,
            peer: self.peer_path(changing, pending, now),
            role: if primary { Role::Primary } else { Role::Secondary },
            reversed: applied.primary != applied.natural,
            state: self.state(changing, pending),
            sync: self.sync(),
            reason: self.reason(changing, now),
            tenure: applied.tenure(),
            epoch: chosen.epoch,
            in_sync: chosen.in_sync,
            quorum: chosen.quorum,
            witness: chosen.witness,
            witness_heard: self.arbiter.witness_heard(now),
            link_up: self.link.is_some(),
            declined: self.primary.declined.filter(|_| primary),
            kept_out: self.peer_disk.keeps_out(now).filter(|_| primary && !self.is_both()),
            cut_changes: !self.cut_is_applied(),
            promise_void: self.memory.void,
            session_up: if primary { self.primary.is_up() } else { self.secondary.accepted.is_some() },
        }
    }

    /// Roles are changing, and hosts are told to wait for the outcome.
    fn is_changing(&self, now: Now) -> bool {
        let held = now.grantor < self.hold_until;
        let voted = self.arbiter.vote().is_some_and(|vote| vote.primary != self.applied.primary);
        let chosen = self.arbiter.chosen().primary != self.applied.primary;
        let waits_for_new_primary = !self.is_primary() && self.link.is_some();
        self.changes.role_change.is_some()
            || (held && (voted || chosen || waits_for_new_primary))
            || (chosen && self.is_primary())
    }

    /// The other array's target port group is listed only while it cannot be what this array does
    /// not know: Linux believes every group in an answer (HOSTS.md).
    fn peer_path(&self, changing: bool, pending: bool, now: Now) -> Option<PathState> {
        if changing {
            let path = if now.grantor < self.hold_until {
                PathState::NonOptimized
            } else {
                PathState::Transitioning
            };
            return (self.serving || self.link.is_some()).then_some(path);
        }
        if self.serving {
            return Some(PathState::Standby);
        }
        if self.is_primary() || pending {
            return None;
        }
        let promised = self.arbiter.promise_to_peer(now).is_some() && self.link.is_some();
        let read = self.arbiter.witness_promises(self.me.other(), now);
        (promised || read).then_some(PathState::Optimized)
    }

    fn state(&self, changing: bool, pending: bool) -> GroupState {
        if self.arbiter.is_removed() {
            GroupState::Removed
        } else if self.arbiter.is_split() {
            GroupState::SplitBrain
        } else if self.is_diverged() {
            GroupState::Diverged
        } else if changing {
            GroupState::SwitchingOver
        } else if pending {
            GroupState::PromotionPending
        } else if self.is_primary() && !self.serving {
            GroupState::Failsafe
        } else if self.policy.started {
            GroupState::Started
        } else {
            GroupState::Stopped
        }
    }

    fn sync(&self) -> SyncStatus {
        if self.is_both() && self.sum.recovering == 0 {
            SyncStatus::Synced
        } else if self.is_primary() && self.primary.is_up() {
            SyncStatus::Syncing { left: self.sum.dirty + self.sum.recovering }
        } else if !self.is_primary() && self.secondary.accepted.is_some() && !self.is_both() {
            SyncStatus::Syncing { left: 0 }
        } else {
            SyncStatus::NotSynced
        }
    }

    /// Why this array does not serve.
    fn reason(&self, changing: bool, now: Now) -> Option<Reason> {
        if self.arbiter.is_removed() {
            return Some(Reason::Removed);
        }
        if self.arbiter.is_split() {
            return Some(Reason::SplitBrain);
        }
        if self.serving {
            return None;
        }
        if self.wanted.is_some() {
            return Some(Reason::Overriding);
        }
        if self.is_diverged() {
            return Some(Reason::Diverged);
        }
        if self.arbiter.is_told_removed() && self.secondary.accepted.is_none() {
            return Some(Reason::RemovedElsewhere);
        }
        if self.is_primary() {
            return Some(if self.stalled {
                Reason::DataDirHangs
            } else if self.arbiter.voted_away() && !changing {
                Reason::VotedAway
            } else if changing {
                Reason::Switching
            } else if !self.settled() {
                Reason::Persisting
            } else if self.arbiter.is_tainted() {
                Reason::Tainted
            } else if self.draining {
                Reason::Draining
            } else if self.flushes_first() {
                Reason::Flushing
            } else if self.arbiter.needs_no_lease() && !self.arbiter.has_contact() {
                Reason::NoContact
            } else {
                Reason::NoLease
            });
        }
        let stale = self.applied.in_sync == InSync::Primary;
        Some(if self.stalled {
            Reason::DataDirHangs
        } else if let Some(trouble) = self.disks.trouble() {
            match trouble {
                Trouble::Hangs => Reason::DiskHangs,
                Trouble::Fails => Reason::DiskFails,
            }
        } else if stale {
            Reason::StaleSecondary
        } else if !self.primary_is_lost(now) {
            Reason::Secondary
        } else if self.applied.quorum == Quorum::PrimaryAlone {
            Reason::PrimaryAlone
        } else if self.arbiter.is_tainted() {
            Reason::Tainted
        } else if !self.promotes_itself() {
            Reason::ManualFailover
        } else if !self.arbiter.start_wait_over(now) {
            Reason::StartWait
        } else if self.arbiter.promise_to_peer(now).is_some()
            || self.arbiter.witness_promises(self.me.other(), now)
        {
            Reason::PromiseRuns
        } else if !self.arbiter.witness_heard(now) {
            Reason::NoMajority
        } else {
            Reason::Secondary
        })
    }
}
