//! An operator who changes what is mirrored: volumes leave a running group and enter it again (`dismissrcopyvv`,
//! `admitrcopyvv`), and grow (`growvv`). He repeats a verb until both arrays have it. What the observer expects of
//! them is here as well.
//!
//! Which seeds have one is drawn apart from everything else.

use twinlun::arbitration::InSync;
use twinlun::group::{Command, PathView, Refused};

use crate::control::side;
use crate::faults::Step;
use crate::host::MS;
use crate::plan::Plan;
use crate::prng::Prng;
use crate::scripts::Script;
use crate::verbs::Change;
use crate::world::{Phase, World};

/// Begins the stream of chance.
const STREAM: u64 = 0x3e3b_e125;
/// How often he looks.
const LOOK: u64 = 100 * MS;

#[derive(Clone, Debug)]
pub struct Operator {
    pub on: bool,
    pub chance: Prng,
    /// Volumes that are to be members.
    inside: Vec<bool>,
    /// Sizes, in regions.
    wanted: Vec<u64>,
    /// Groups that he has stopped.
    stopped: Vec<bool>,
    /// Volumes that have not been equal on both arrays since they entered.
    pub entered: Vec<bool>,
}

impl Operator {
    /// Decides whether this seed has one; volumes that are to grow have room to.
    pub fn draw(seed: u64, script: Option<&Script>, plan: &mut Plan) -> Self {
        let scripted = script.is_some();
        let mut chance = Prng::new(seed ^ STREAM);
        let on = match script {
            Some(script) => script.members,
            None => !plan.only_witness && chance.per_mille(150),
        };
        let grows = on && chance.per_mille(600);
        let room = plan.regions + u64::from(grows) * chance.between(1, 2);
        plan.room = if scripted { plan.room.max(plan.regions) } else { room };
        let volumes = plan.volumes.len();
        Self {
            on,
            chance,
            inside: vec![true; volumes],
            wanted: vec![plan.regions; volumes],
            stopped: vec![false; plan.groups],
            entered: vec![false; volumes],
        }
    }
}

impl World {
    /// After the other plans: not in seeds whose copies are lost, kept, or put in office.
    pub fn plan_members(&mut self) {
        let scripted = self.script.is_some();
        let loses = self.steps.iter().any(|step| matches!(step, Step::Lose { .. }));
        if !self.operator.on || (!scripted && (loses || self.images.on)) {
            self.operator.on = false;
            return;
        }
        self.at(LOOK, Step::LookAtMembers);
        if scripted {
            return;
        }
        let mut chance = self.operator.chance.clone();
        for volume in 0..self.plan.volumes.len() {
            for _ in 0..chance.below(4) {
                let at = chance.between(self.plan.calm / 2, self.plan.faults_until);
                self.at(at, Step::WantMember { volume, inside: false });
                let back = at + chance.between(10, 12_000) * MS;
                self.at(back, Step::WantMember { volume, inside: true });
            }
            for size in self.plan.regions + 1..=self.plan.room {
                let at = chance.between(self.plan.calm / 2, self.plan.faults_until);
                self.at(at, Step::WantSize { volume, size });
            }
        }
        self.operator.chance = chance;
    }

    pub fn want_member(&mut self, volume: usize, inside: bool) {
        self.operator.inside[volume] = inside || self.phase != Phase::Storm;
    }

    pub fn want_size(&mut self, volume: usize, size: u64) {
        self.operator.wanted[volume] = self.operator.wanted[volume].max(size);
    }

    fn member_change(&self, p: usize, v: usize) -> Option<Change> {
        let [here, there] = [p, 1 - p].map(|a| self.arrays[a].copies[v].member);
        match (self.operator.inside[v], here, there) {
            (true, true, true) | (false, false, false) => None,
            (true, false, _) => Some(Change::Enter { volume: v }),
            // He has to end what he had begun.
            (true, true, false) | (false, ..) => Some(Change::Leave { volume: v, serves: true }),
        }
    }

    /// Members are to be changed: he starts the group himself.
    pub fn operator_changes(&self, g: usize) -> bool {
        let of_group = |v: &usize| self.plan.volumes[*v].group == g;
        self.operator.on
            && (0..self.plan.volumes.len()).filter(of_group).any(|v| self.member_change(0, v).is_some())
    }

    /// Something is left for him to do.
    pub fn operator_waits(&self, g: usize) -> bool {
        self.operator.on
            && (0..self.plan.volumes.len()).filter(|&v| self.plan.volumes[v].group == g).any(|v| {
                let to = self.operator.wanted[v];
                self.member_change(0, v).is_some() || self.arrays.iter().any(|a| a.copies[v].size < to)
            })
    }

    /// His round.
    pub fn look_at_members(&mut self) {
        self.at(LOOK, Step::LookAtMembers);
        if self.phase != Phase::Storm {
            self.operator.inside.fill(true);
        }
        for g in 0..self.plan.groups {
            self.look_at_members_of(g);
        }
    }

    fn look_at_members_of(&mut self, g: usize) {
        let primary = |a: &usize| {
            let array = &self.arrays[*a];
            let runs = array.alive && !array.paused && !array.control_stalled && !array.stopping;
            runs && array.chosen(g).is_some_and(|chosen| chosen.primary == side(*a))
        };
        let Some(p) = [0, 1].into_iter().rfind(primary) else { return };
        if self.is_changing(p, g) {
            return;
        }
        let view = self.arrays[p].group(g).and_then(|group| group.control.view());
        let volumes: Vec<usize> =
            (0..self.plan.volumes.len()).filter(|&v| self.plan.volumes[v].group == g).collect();
        // The two arrays do not come in sync with a verb that was cut short: that one again, before any other.
        let cut_short =
            volumes.iter().filter(|&&v| self.arrays[0].copies[v].member != self.arrays[1].copies[v].member);
        let change = cut_short.chain(&volumes).find_map(|&v| self.member_change(p, v));
        let Some(change) = change else {
            if core::mem::take(&mut self.operator.stopped[g]) {
                return self.order_start(g);
            }
            let to = |v: usize| self.operator.wanted[v];
            let smaller = |v: usize| self.arrays.iter().any(|a| a.copies[v].size < to(v));
            let grows = volumes.iter().find(|&&v| self.is_mirrored(v) && smaller(v));
            if let Some(&volume) = grows
                && PathView::may_grow(view.as_ref())
            {
                let to = self.operator.wanted[volume];
                self.begin_verb(p, Change::Grow { volume, to });
            }
            return;
        };
        let elsewhere =
            |v: usize| !self.arrays[p].copies[v].exported && self.arrays[1 - p].copies[v].exported;
        if let Change::Enter { volume } = change
            && elsewhere(volume)
            && self.operator.chance.per_mille(850)
        {
            // The copy that hosts use is to stay: the group goes there first.
            self.operator.stopped[g] = false;
            if view.is_some_and(|view| view.in_sync == InSync::Both) {
                self.order_at(p, g, Command::SwitchOver);
            } else {
                self.order_start(g);
            }
            return;
        }
        match PathView::may_change_members(view.as_ref()) {
            Err(Refused::InSync) => {
                self.operator.stopped[g] = true;
                self.order_at(p, g, Command::Stop);
            }
            // A volume leaves only a group that is stopped.
            Ok(()) if matches!(change, Change::Leave { .. }) && self.arrays[p].objects[g].policy.started => {
                self.operator.stopped[g] = true;
                self.order_at(p, g, Command::Stop);
            }
            Ok(()) => self.begin_verb(p, change),
            Err(_) => {}
        }
    }

    // What the observer expects.

    /// Both arrays hold the volume as a member of the group.
    pub fn is_mirrored(&self, v: usize) -> bool {
        self.arrays.iter().all(|array| array.copies[v].member)
    }

    /// A volume is a member, durably, on one array more: rule 10 holds for it.
    pub fn note_entry(&mut self, v: usize) {
        self.operator.entered[v] = true;
        for index in 0..self.registers[v].len() {
            self.check_covered(v, index);
        }
    }

    pub fn note_leaving(&mut self, a: usize, v: usize) {
        self.say(|| format!("volume {v} has left its group at {a}"));
    }

    /// The control of the array begins, or ends, to see to the volume: what ran before belongs to no tenure of
    /// the group.
    pub fn watch_member(&mut self, a: usize, v: usize) {
        self.forget_begun(a, v);
        for command in self.arrays[a].volumes[v].commands.iter_mut().flatten() {
            command.arrived = None;
        }
    }

    /// A configuration was chosen: with both in sync all members are equal.
    pub fn note_members_equal(&mut self, g: usize, in_sync: InSync) {
        if in_sync != InSync::Both {
            return;
        }
        for v in 0..self.plan.volumes.len() {
            if self.plan.volumes[v].group == g && self.is_mirrored(v) {
                self.operator.entered[v] = false;
            }
        }
    }

    /// Rule 1 for a volume that is in no group: no other array could answer for it.
    pub fn check_alone(&mut self, a: usize, v: usize) {
        let other = &self.arrays[1 - a];
        if !other.alive || !other.copies[v].exported {
            return;
        }
        let now = other.clocks.now(self.now);
        if other.volumes.get(v).is_some_and(|shell| shell.core.gate().may_start(now)) {
            self.violate(format!(
                "rule 1: array {a} answers for volume {v}, and array {} could as well",
                1 - a
            ));
        }
    }

    /// At rest: whatever was done to the members, hosts have both paths.
    pub fn check_exports(&mut self) {
        for v in 0..self.plan.volumes.len() {
            for a in 0..2 {
                if !self.arrays[a].copies[v].exported {
                    self.violate(format!("at rest array {a} does not export volume {v}"));
                }
            }
        }
    }
}
