//! Arrays that lose their votes and their data, or get old ones back, and their enrolment (rule 18).
//!
//! Which seeds lose something, and when, is drawn apart from everything else: the histories of the others do
//! not depend on it.

use twinlun::arbitration::{Config, Connection, InSync, Quorum};
use twinlun::group::{Event as Happened, Life, may_hold_more};
use twinlun::mirror::LaneId;
use twinlun::mutation::{self, Mutation};

use crate::control::{PeerText, group_id, side};
use crate::disk::File;
use crate::faults::Step;
use crate::host::MS;
use crate::network::ConnectionId;
use crate::prng::Prng;
use crate::volumes;
use crate::world::{Message, Phase, World};

/// Heartbeats between two looks whether the other array misses a group.
pub const OFFER_EVERY: u64 = 10;
/// A loss that may not happen yet is tried again after this.
const TRY_AGAIN: u64 = 300 * MS;
/// Without a word from the dead side: how long until the operator gives his, as no automatic way is left.
const OPERATOR_AFTER: u64 = 35_000 * MS;

/// What is left of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: blank disks, no `data_dir`.
    Everything,
    /// Disks and `data_dir` as of an earlier time; the loss is noticed (a `data_dir` counts its starts).
    Recent,
}

impl World {
    /// Decides whether and when this seed loses an array's past.
    pub fn plan_losses(&mut self, seed: u64) {
        let mut chance = Prng::new(seed ^ 0x5afe_10c4_1057_da7a);
        if self.script.is_some() || self.plan.only_witness || self.plan.memory != 0 || !chance.per_mille(150)
        {
            return;
        }
        for _ in 0..chance.between(1, 2) {
            let array = chance.below(2) as usize;
            let loss = if chance.coin() { Loss::Everything } else { Loss::Recent };
            let at = chance.between(self.plan.calm + 500 * MS, self.plan.faults_until);
            self.at(at, Step::Lose { array, loss });
        }
    }

    /// The other array, alone, holds everything and may go on: what is lost here is lost to nobody.
    fn may_lose(&self, a: usize) -> bool {
        let other = 1 - a;
        (0..self.plan.groups).all(|g| {
            let Some(newest) = self.watch.newest[g] else { return false };
            let chosen = [0, 1].map(|array| self.arrays[array].chosen(g));
            let settled = [0, 1].iter().all(|&array| {
                self.arrays[array].group(g).is_none_or(|group| group.control.arbiter().vote().is_none())
            });
            let both = newest.in_sync == InSync::Both
                && chosen == [Some(newest); 2]
                && self.arrays[0].control.is_some()
                && (self.serves(0, g) || self.serves(1, g));
            let alone =
                newest.in_sync == InSync::Primary && newest.primary == side(other) && self.serves(other, g);
            // A promotion of the lost one that the witness has voted for would have to be finished.
            let settled = settled && self.witness.is_settled(group_id(g));
            // On its way back to a majority the primary needs the very array that would be lost (as in F36).
            let settled = settled && newest.quorum == Quorum::Majority;
            // What the other one knows it does not forget, and it does not need the lost one for what it began.
            let sound = self.votes_written(other, g)
                && self.arrays[other].group(g).is_some_and(|group| !group.control.arbiter().proposing());
            settled && sound && !self.lossy && (both || alone)
        })
    }

    pub fn lose(&mut self, a: usize, loss: Loss) {
        if self.phase != Phase::Storm {
            return;
        }
        if !self.may_lose(a) {
            return self.at(TRY_AGAIN, Step::Lose { array: a, loss });
        }
        self.crash_array(a, false);
        self.arrays[a].absent.fill(true);
        // A new `data_dir` counts its starts from one.
        self.arrays[a].boot_counter = 0;
        if loss == Loss::Everything {
            for v in 0..self.plan.volumes.len() {
                self.arrays[a].store.volumes[v].fill(0);
                self.arrays[a].maps[v] = volumes::new_map(v, self.plan.regions);
                self.note_map_durable(a, v);
            }
            for g in 0..self.plan.groups {
                self.arrays[a].votes[g] = File::default();
            }
            if mutation::on(Mutation::R18LostVotesCount) {
                for g in 0..self.plan.groups {
                    let Some(first) = self.watch.first[g] else { continue };
                    self.write_first_vote(a, g, first);
                }
                self.arrays[a].absent.fill(false);
            }
        } else if mutation::on(Mutation::R18LostVotesCount) {
            self.arrays[a].absent.fill(false);
        }
        self.at(500 * MS, Step::Start { array: a });
    }

    /// The primary looks whether the other array misses one of its groups.
    pub fn make_offers(&mut self, a: usize, connection: ConnectionId) {
        for g in 0..self.plan.groups {
            // One that has the group does nothing with an offer.
            if !self.arrays[1 - a].absent[g] {
                continue;
            }
            let offer = self.arrays[a].group(g).and_then(|group| group.control.offer());
            if let (Some(chosen), true) = (offer, self.votes_written(a, g)) {
                self.send(connection, a, Message::Peer(PeerText::Offer { group: g, chosen }));
            }
        }
    }

    /// The array that misses the group is enrolled, step by step (`verbs.rs`).
    pub fn take_offer(&mut self, a: usize, g: usize, chosen: Config) {
        if !self.arrays[a].absent[g] {
            return;
        }
        let known = self.config_on_disk(a, g);
        // After an override the operator discards, if he is asked to.
        let overridden = known.is_some_and(|known| known.lineage.counter < chosen.lineage.counter);
        if may_hold_more(known, &chosen) && !overridden {
            return self.violate(format!("{known:?} of a lost copy is newer than the offered {chosen:?}"));
        }
        if self.is_enrolling(a, g) {
            return; // one at a time
        }
        self.say(|| format!("{a} is to be enrolled in group {g} with {chosen:?}"));
        self.begin_enrolment(a, g, chosen);
    }

    /// The array takes part in the group, durably: its vote counts, and its copies do not.
    pub fn note_present(&mut self, a: usize, g: usize, offered: &Config) {
        let votes = self
            .config_on_disk(a, g)
            .is_some_and(|vote| vote.lineage == offered.lineage && vote.epoch >= offered.epoch);
        if !votes {
            return self
                .violate(format!("rule 18: {a} takes part in group {g} without the vote it was offered"));
        }
        for v in (0..self.plan.volumes.len()).filter(|&v| self.plan.volumes[v].group == g).collect::<Vec<_>>()
        {
            for index in 0..self.registers[v].len() {
                self.check_covered(v, index);
            }
        }
    }

    /// The last step of an enrolment.
    pub fn enrolled(&mut self, a: usize, g: usize) {
        let shell = self.read_group(a, g, Life::Restarted);
        self.arrays[a].groups[g] = shell;
        self.enrol_members(a, g, true);
        self.begin_group(a, g);
        if let (Some(connection), true) = (self.arrays[a].control, self.arrays[a].liveness.is_some()) {
            let (connection, peer) = (Connection(u64::from(connection)), self.arrays[1 - a].nonce);
            self.tell(a, g, Happened::LinkUp { connection, peer });
        }
        if let Some(witness) = self.arrays[a].witness {
            self.tell(a, g, Happened::WitnessUp { connection: Connection(u64::from(witness)) });
        }
        for lane in 0..self.plan.lanes {
            if self.arrays[a].lane(lane).is_some() {
                self.tell(a, g, Happened::LaneUp(LaneId(lane)));
            }
        }
    }

    /// After healing: with one copy lost and a witness that was replaced meanwhile nobody can decide but an operator:
    /// turns the array off that has nothing to say, gives his word for it (`failover -f`), and turns it on again.
    pub fn help_the_survivor(&mut self) {
        for a in 0..2 {
            let waits = |g: &usize| self.arrays[a].absent[*g] && !self.serves(1 - a, *g);
            let waiting: Vec<usize> = (0..self.plan.groups).filter(waits).collect();
            match self.switched_off {
                None if !waiting.is_empty() && self.now > self.healed_at + OPERATOR_AFTER => {
                    self.crash_array(a, false);
                    self.switched_off = Some(a);
                    self.healed_at = self.now;
                }
                Some(off) if off == a && waiting.is_empty() => {
                    self.start_array(a);
                    self.switched_off = None;
                    self.healed_at = self.now;
                }
                Some(off) if off == a => {
                    for g in waiting {
                        self.order_override(1 - a, g, false);
                    }
                }
                _ => {}
            }
        }
    }

    /// A second fault by which the last copy would be handed to the one that was just lost, or lost as well: an
    /// operator would have to decide.
    pub fn would_be_second(&self, step: Step) -> bool {
        let lost = (0..self.plan.groups).any(|g| self.is_lost(g));
        lost && matches!(step, Step::Stop { .. } | Step::DiskFails { .. } | Step::DiskHang { .. })
    }

    /// One of the copies is nobody's: that they differ says nothing.
    pub fn is_lost(&self, group: usize) -> bool {
        self.arrays.iter().any(|array| array.absent[group])
    }
}
