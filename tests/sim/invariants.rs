//! What an all-seeing observer checks while the world runs: rules 1 to 18 as far as they show in
//! gates, configurations, disks and answers.

use std::collections::{BTreeMap, BTreeSet};

use twinlun::arbitration::{Config, Gate, InSync, Mode, Side, Tenure, Vote};
use twinlun::block::{Extent, Op, Outcome};
use twinlun::mirror::{DirtyMap, Limits, MapError, RegionRun, SessionId, Volume, VolumeAction};

use crate::disk::Owner;
use crate::layout::{self, Stamp, span};
use crate::mutations;
use crate::network::WITNESS;
use crate::plan::Plan;
use crate::volumes::{self, Command};
use crate::world::{Phase, World};

/// Acknowledged writes of one block, newest last.
type Acknowledged = Vec<(Stamp, u64)>;
/// How many are remembered for each block.
const REMEMBERED: usize = 48;

/// A command that has begun to touch the disks.
#[derive(Clone, Copy, Debug)]
struct Begun {
    tenure: Tenure,
    /// Both copies held the same where it writes.
    equal: bool,
}

pub struct Watch {
    /// Configurations seen chosen anywhere: group, lineage (counter, id), epoch.
    chain: BTreeMap<(usize, u32, u64, u64), Config>,
    /// Who ever voted for whom: group, lineage, epoch, primary, voter.
    votes: BTreeSet<(usize, u32, u64, Side, usize)>,
    /// The newest of each group.
    pub newest: Vec<Option<Config>>,
    /// The first configuration of each group.
    pub first: Vec<Option<Config>>,
    /// Last published gate: array, group.
    pub gates: Vec<Vec<Gate>>,
    /// Regions whose durable map names them: array, volume.
    durable: Vec<Vec<u64>>,
    /// Start of each attempt's command, by stamp.
    starts: Vec<u64>,
    acknowledged: Vec<Vec<Acknowledged>>,
    /// Newest session whose frames were sent while both copies were needed: group.
    session_both: Vec<Option<(Tenure, SessionId)>>,
    /// Session of the last frame taken: array, group.
    session_taken: Vec<Vec<Option<(Tenure, SessionId)>>>,
    /// Lives of both arrays when the first frame was taken in this tenure's {A,B}: group.
    joined: Vec<Option<[u32; 2]>>,
    /// Tenure in which a command did its first I/O: array, volume, slot.
    began: Vec<Vec<Vec<Option<Begun>>>>,
    /// The gate under which the action being carried out was said, if not the present one.
    pub said_under: Option<Gate>,
}

impl Watch {
    pub fn new(plan: &Plan, blocks: usize) -> Self {
        let volumes = plan.volumes.len();
        Self {
            chain: BTreeMap::new(),
            votes: BTreeSet::new(),
            newest: vec![None; plan.groups],
            first: vec![None; plan.groups],
            gates: vec![vec![Gate::closed(Tenure::default()); plan.groups]; 2],
            durable: vec![vec![0; volumes]; 2],
            starts: Vec::new(),
            acknowledged: vec![vec![Vec::new(); blocks]; volumes],
            session_both: vec![None; plan.groups],
            session_taken: vec![vec![None; plan.groups]; 2],
            joined: vec![None; plan.groups],
            began: vec![vec![Vec::new(); volumes]; 2],
            said_under: None,
        }
    }

    /// What was acknowledged of a volume is given up.
    pub fn forget_acknowledged(&mut self, v: usize) {
        self.acknowledged[v].iter_mut().for_each(Vec::clear);
    }

    pub fn attempt_started(&mut self, stamp: Stamp, now: u64) {
        let at = stamp as usize;
        if self.starts.len() <= at {
            self.starts.resize(at + 1, 0);
        }
        self.starts[at] = now;
    }
}

/// A configuration in few words.
pub fn brief(config: &Config) -> String {
    format!(
        "e{} t{} {} {:?} {:?} w{:02x}",
        config.epoch.0,
        config.tenure_epoch.0,
        config.primary,
        config.in_sync,
        config.quorum,
        config.witness.map_or(0, |w| w.0[0])
    )
}

const fn name(array: usize) -> &'static str {
    match array {
        0 => "A",
        1 => "B",
        _ => "witness",
    }
}

impl World {
    /// A voter holds this configuration as chosen (one per epoch; rule 4).
    pub fn note_chosen(&mut self, voter: usize, group: usize, config: &Config) {
        self.watch.first[group].get_or_insert(*config);
        let key = |epoch: u64| (group, config.lineage.counter, config.lineage.id, epoch);
        match self.watch.chain.get(&key(config.epoch.0)) {
            Some(known) if known != config => {
                let text = format!(
                    "two configurations of one epoch: {} holds {}, another voter {}",
                    name(voter),
                    brief(config),
                    brief(known)
                );
                return self.violate(text);
            }
            Some(_) => return,
            None => {}
        }
        self.say(|| format!("CHOSEN group {group} at {}: {}", name(voter), brief(config)));
        self.note_whole(group, config);
        self.note_members_equal(group, config.in_sync);
        let previous = self.watch.chain.get(&key(config.epoch.0.wrapping_sub(1))).copied();
        self.watch.chain.insert(key(config.epoch.0), *config);
        if let Some(previous) = previous
            && previous.primary != config.primary
            && !previous.holds(config.primary)
        {
            self.violate(format!(
                "rule 4: {} follows {}: the new primary was not in sync",
                brief(config),
                brief(&previous)
            ));
        }
        if config.in_sync == InSync::Both && previous.is_some_and(|p| p.in_sync == InSync::Primary) {
            self.memory.joined_at[group] = self.now;
        }
        if config.in_sync == InSync::Primary || previous.is_some_and(|p| p.primary != config.primary) {
            self.watch.joined[group] = None;
        }
        let newest = &mut self.watch.newest[group];
        if newest.is_none_or(|n| (n.lineage.counter, n.epoch) < (config.lineage.counter, config.epoch)) {
            *newest = Some(*config);
        }
    }

    /// T20: an array votes for its own promotion when another voter has, and so never leaves a vote
    /// behind that nobody else wants.
    pub fn note_vote(&mut self, voter: usize, group: usize, vote: Option<Vote>) {
        let Some(Vote { value, .. }) = vote else { return };
        let key = |voter| (group, value.lineage.counter, value.epoch.0, value.primary, voter);
        if !self.watch.votes.insert(key(voter)) || value.primary as usize != voter {
            return;
        }
        let previous = (group, value.lineage.counter, value.lineage.id, value.epoch.0.wrapping_sub(1));
        let in_office = self.watch.chain.get(&previous).is_none_or(|chosen| chosen.primary == value.primary);
        let wanted = (0..=WITNESS).any(|other| other != voter && self.watch.votes.contains(&key(other)));
        if !in_office && !wanted {
            self.violate(format!("T20: {} votes for itself before anybody else did", name(voter)));
        }
    }

    /// Rule 1, at each change of a gate, and rule 5 when one opens.
    pub fn note_gate(&mut self, a: usize, group: usize, gate: Gate) {
        let old = core::mem::replace(&mut self.watch.gates[a][group], gate);
        if old == gate {
            return;
        }
        if (old.mode, old.tenure) != (gate.mode, gate.tenure) {
            self.say(|| format!("GATE {} group {group}: {gate:?}", name(a)));
        }
        if self.plan.only_witness
            && self.now >= self.plan.calm
            && self.phase == Phase::Storm
            && matches!(old.mode, Mode::Both | Mode::Alone | Mode::Draining)
        {
            let now = self.arrays[a].clocks.now(self.now);
            if gate.mode == Mode::Closed || now.holder >= old.lease_end {
                let text =
                    format!("rule 13: {} stops though only the witness is gone: {old:?} {gate:?}", name(a));
                return self.violate(text);
            }
        }
        let serves = |world: &Self, a: usize| {
            let array = &world.arrays[a];
            let gate = &world.watch.gates[a][group];
            let now = array.clocks.now(world.now);
            array.alive && (gate.may_answer(now) || gate.may_start(now))
        };
        if !serves(self, a) {
            return;
        }
        if serves(self, 1 - a) {
            let text = format!(
                "rule 1: both arrays serve group {group}: A {:?}, B {:?}",
                self.watch.gates[0][group], self.watch.gates[1][group]
            );
            return self.violate(text);
        }
        let plan = &self.plan;
        let late = self.arrays[a].store.under_way().any(|(_, io)| {
            let v = usize::from(io.volume);
            let member = plan.volumes[v].group == group && self.arrays[a].volumes[v].member;
            member && matches!(io.owner, Owner::Apply(_))
        });
        let waits = |v: usize| plan.volumes[v].group == group && self.arrays[a].kept[v].holds_frames();
        if late || (0..plan.volumes.len()).any(waits) {
            self.violate(format!("rule 5: {} opens its gate while older applies run", name(a)));
        }
    }

    /// What has begun on the volume belongs to no tenure.
    pub fn forget_begun(&mut self, a: usize, v: usize) {
        self.watch.began[a][v].clear();
    }

    pub fn forget_process(&mut self, a: usize) {
        for gate in &mut self.watch.gates[a] {
            *gate = Gate::closed(gate.tenure);
        }
        for volume in &mut self.watch.began[a] {
            volume.clear();
        }
        for v in 0..self.plan.volumes.len() {
            self.note_map_durable(a, v);
        }
    }

    pub fn note_volume_action(&mut self, a: usize, v: usize, action: &VolumeAction) {
        let group = self.plan.volumes[v].group;
        match *action {
            VolumeAction::Local { command, .. } | VolumeAction::Compare { command } => {
                let gate = self.watch.said_under.unwrap_or(self.watch.gates[a][group]);
                let began = &mut self.watch.began[a][v];
                let slot = command.slot() as usize;
                if began.len() <= slot {
                    began.resize(slot + 1, None);
                }
                if began[slot].is_none() && self.arrays[a].volumes[v].member {
                    let extent = self.arrays[a].volumes[v]
                        .commands
                        .get(slot)
                        .and_then(Option::as_ref)
                        .map(|c| c.request.extent);
                    let [one, other] = [0, 1].map(|array| &self.arrays[array].store.volumes[v]);
                    let equal = extent
                        .is_some_and(|extent| span(extent).range().all(|index| one[index] == other[index]));
                    began[slot] = Some(Begun { tenure: gate.tenure, equal });
                    let arrived = self.arrays[a].volumes[v].commands.get(slot).and_then(Option::as_ref);
                    if arrived.and_then(|c| c.arrived).is_some_and(|tenure| tenure != gate.tenure) {
                        self.violate(format!("rule 6: {} starts a command of another tenure", name(a)));
                        return;
                    }
                    // Its map bits may have become durable only while the gate drains.
                    if !gate.may_answer(self.arrays[a].clocks.now(self.now)) {
                        self.violate(format!(
                            "rule 6: {} starts a command while its gate is {gate:?}",
                            name(a)
                        ));
                    }
                }
            }
            VolumeAction::Mirror { header, .. } if self.watch.gates[a][group].needs_both() => {
                self.watch.session_both[group] = Some((header.tenure, header.session));
            }
            VolumeAction::Free { command } => {
                if let Some(began) = self.watch.began[a][v].get_mut(command.slot() as usize) {
                    *began = None;
                }
            }
            VolumeAction::Apply { header, .. } => {
                let gate = self.watch.said_under.unwrap_or(self.watch.gates[a][group]);
                if header.tenure != gate.tenure {
                    self.violate(format!("rule 5: {} applies a frame of another tenure", name(a)));
                    return;
                }
                self.watch.session_taken[a][group] = Some((header.tenure, header.session));
                let Some(newest) = self.watch.newest[group] else { return };
                if newest.in_sync != InSync::Both || newest.tenure() != header.tenure {
                    return;
                }
                if header.session.boot != self.arrays[1 - a].boot_counter {
                    return; // late, of the primary's former life
                }
                let lives = [self.arrays[0].boot, self.arrays[1].boot];
                let joined = *self.watch.joined[group].get_or_insert(lives);
                if joined[a] != lives[a] && joined[1 - a] == lives[1 - a] {
                    self.violate(format!(
                        "rule 16: {} restarted since it came in sync and takes frames of that epoch",
                        name(a)
                    ));
                }
            }
            _ => {}
        }
    }

    /// Rules 2, 3 and 6 at an answer.
    pub fn note_answer(&mut self, a: usize, v: usize, command: &Command, outcome: Outcome) {
        if !self.arrays[a].volumes[v].member {
            return self.note_lone_answer(a, v, command, outcome);
        }
        let group = self.plan.volumes[v].group;
        let gate = self.watch.said_under.unwrap_or(self.watch.gates[a][group]);
        let read = matches!(command.request.op, Op::Read | Op::CompareAndWrite);
        let failed = matches!(outcome, Outcome::WriteError | Outcome::NoSpace) && command.request.op.writes();
        // An error held back is answered by the very step that takes *drop* in, before the gate follows.
        let dropped =
            self.watch.newest[group].is_some_and(|n| n.in_sync == InSync::Primary && n.primary as usize == a);
        if gate.needs_both()
            && !self.is_lost(group)
            && !self.cache_lost(group)
            && ((failed && !dropped) || (outcome == Outcome::Good && read))
        {
            // Nothing that overlaps runs now, so what this command saw (or left in doubt) is the same
            // on both copies (rules 7, 15, 17); but after an error that was held back a write may run
            // that waited for it. What is lost differs, and nobody reads it.
            for index in span(command.request.extent).range() {
                let [one, other] = [0, 1].map(|array| self.arrays[array].store.volumes[v][index]);
                let block = Extent::new(layout::lba(index), 1);
                let lost = failed && self.arrays[a].volumes[v].core.is_lost(block);
                if one != other && !lost && !(failed && self.later_write(a, v, command, index, [one, other]))
                {
                    let rule = if failed { "17" } else { "7, 15" };
                    return self.violate(format!(
                        "rule {rule}: {} answers {outcome:?} to {:?} while block {} differs (A {one}, B {other})",
                        name(a),
                        command.request.op,
                        layout::lba(index)
                    ));
                }
            }
        }
        if outcome != Outcome::Good {
            return;
        }
        let now = self.arrays[a].clocks.now(self.now);
        if !gate.may_answer(now) {
            return self.violate(format!("rule 6: {} answers GOOD while its gate is {gate:?}", name(a)));
        }
        let began = self.watch.began[a][v].get(command.id.slot() as usize).copied().flatten();
        if began.is_some_and(|began| began.tenure != gate.tenure) {
            return self.violate(format!("rule 6: {} answers a command of another tenure", name(a)));
        }
        if command.request.op == Op::Flush && self.is_memory(v) {
            let started = self.watch.starts.get(command.tag as usize).copied().unwrap_or(0);
            return self.check_flushed(a, v, started);
        }
        if !command.request.op.writes() {
            return;
        }
        let blocks = span(command.request.extent);
        let holds = |world: &Self, array: usize| {
            blocks.range().all(|index| world.arrays[array].store.volumes[v][index] == command.tag)
        };
        if !holds(self, a) {
            return self.violate(format!(
                "rule 2: {} acknowledges {} without holding it",
                name(a),
                command.tag
            ));
        }
        if !holds(self, 1 - a) {
            let newest = self.watch.newest[group];
            let alone = gate.mode == Mode::Alone
                && newest.is_some_and(|n| n.in_sync == InSync::Primary && n.primary as usize == a);
            // It was there before it was lost.
            if !alone && !self.is_lost(group) && !self.cache_lost(group) {
                return self.violate(format!(
                    "rules 2, 3: {} acknowledges write {} that the other does not hold (gate {gate:?}, newest {newest:?})",
                    name(a),
                    command.tag
                ));
            }
        }
        self.remember(v, command);
    }

    /// An answer for a volume that is in no group.
    fn note_lone_answer(&mut self, a: usize, v: usize, command: &Command, outcome: Outcome) {
        if outcome != Outcome::Good {
            return;
        }
        self.check_alone(a, v);
        if command.request.op.writes() {
            self.remember(v, command);
        }
    }

    fn remember(&mut self, v: usize, command: &Command) {
        for index in span(command.request.extent).range() {
            let list = &mut self.watch.acknowledged[v][index];
            if list.len() == REMEMBERED {
                list.remove(0);
            }
            list.push((command.tag, self.now));
        }
    }

    /// The block differs because another host command is writing it, not this one.
    fn later_write(&self, a: usize, v: usize, ended: &Command, index: usize, held: [Stamp; 2]) -> bool {
        self.arrays[a].volumes[v].commands.iter().flatten().any(|c| {
            let began = self.watch.began[a][v].get(c.id.slot() as usize).copied().flatten();
            let writes = c.request.op.writes() && span(c.request.extent).range().contains(&index);
            // The one that ended may stand on the other copy if it stood on both when this one began.
            let settled = began.is_some_and(|began| began.equal || !held.contains(&ended.tag));
            c.tag != ended.tag && writes && !c.answered && settled && held.contains(&c.tag)
        })
    }

    /// A block of one copy changed: rule 10, where it differs from the other copy.
    pub fn note_medium_changed(&mut self, a: usize, v: usize, index: usize) {
        self.check_covered(v, index);
        let group = self.plan.volumes[v].group;
        let Some(newest) = self.watch.newest[group] else { return };
        let alone = newest.in_sync == InSync::Primary && newest.primary as usize != a;
        if alone && !self.resyncing(a, group) {
            self.check_cut(a, group);
        }
    }

    /// The array takes frames of a session that was opened after the drop.
    fn resyncing(&self, a: usize, group: usize) -> bool {
        let taken = self.watch.session_taken[a][group];
        taken.is_some() && taken != self.watch.session_both[group]
    }

    pub fn check_covered(&mut self, v: usize, index: usize) {
        if self.is_lost(self.plan.volumes[v].group) || !self.is_mirrored(v) {
            return;
        }
        let [a, b] = [0, 1].map(|array| self.arrays[array].store.volumes[v][index]);
        let bit = 1_u64 << layout::region(index);
        if a != b && (self.watch.durable[0][v] | self.watch.durable[1][v]) & bit == 0 {
            self.violate(format!(
                "rule 10: volume {v} block {} differs (A {a}, B {b}) and no durable map names its region",
                layout::lba(index)
            ));
        }
    }

    /// The map file of a volume changed.
    pub fn note_map_durable(&mut self, a: usize, v: usize) {
        let size = self.arrays[a].copies[v].size;
        let geometry = volumes::geometry(v, size);
        let mut runs: Vec<RegionRun> = Vec::new();
        let read = mutations::whole(|| {
            let map = DirtyMap::decode(geometry, &self.arrays[a].maps[v].bytes)?;
            Volume::restore(geometry, Limits::default(), map).dirty_runs(&mut runs);
            Ok::<(), MapError>(())
        });
        if let Err(error) = read {
            return self.violate(format!("map of volume {v} on {}: {error}", name(a)));
        }
        let mut mask = 0_u64;
        for run in runs {
            for region in run.first..(run.first + run.count).min(size) {
                mask |= 1 << region;
            }
        }
        let old = core::mem::replace(&mut self.watch.durable[a][v], mask);
        if old & !mask != 0 {
            for index in 0..self.registers[v].len() {
                if (old & !mask) >> layout::region(index) & 1 == 1 {
                    self.check_covered(v, index);
                }
            }
        }
    }

    /// Rule 11: the copy that was dropped is a consistent cut over all volumes of its group: it
    /// lacks no acknowledged write that ended before one it holds began.
    pub fn check_cut(&mut self, a: usize, group: usize) {
        // A lost cache takes what it takes: that copy is tainted, and no cut.
        if self.cache_lost(group) {
            return;
        }
        if self.lossy || self.arrays[a].absent[group] {
            return;
        }
        let volumes = (0..self.plan.volumes.len()).filter(|&v| self.plan.volumes[v].group == group);
        // One that has just entered was never equal.
        let dropped = |v: &usize| self.is_mirrored(*v) && !self.operator.entered[*v];
        let volumes: Vec<usize> = volumes.filter(dropped).collect();
        let mut newest = 0;
        let mut newest_stamp = 0;
        for &v in &volumes {
            for &stamp in &self.arrays[a].store.volumes[v] {
                let start = self.watch.starts.get(stamp as usize).copied().unwrap_or(0);
                if stamp != 0 && start > newest {
                    (newest, newest_stamp) = (start, stamp);
                }
            }
        }
        for &v in &volumes {
            for (index, list) in self.watch.acknowledged[v].iter().enumerate() {
                let held = self.arrays[a].store.volumes[v][index];
                let Some(at) = list.iter().position(|(stamp, _)| *stamp == held) else { continue };
                if let Some((lacking, _)) = list[at + 1..].iter().find(|(_, end)| *end < newest) {
                    let text = format!(
                        "rule 11: {} dropped from group {group} holds write {newest_stamp} but not {lacking} (volume {v} block {}), acknowledged before that began",
                        name(a),
                        layout::lba(index)
                    );
                    return self.violate(text);
                }
            }
        }
    }

    /// Both copies equal, every block one that a register may hold (at rest).
    pub fn check_rest(&mut self) {
        for v in 0..self.plan.volumes.len() {
            for index in 0..self.registers[v].len() {
                let [a, b] = [0, 1].map(|array| self.arrays[array].store.volumes[v][index]);
                if a != b {
                    self.violate(format!(
                        "at rest volume {v} block {} differs: A {a}, B {b}",
                        layout::lba(index)
                    ));
                }
                let last = self.registers[v][index].final_value(a, self.now);
                if let Err(anomaly) = last.or_else(|anomaly| if self.lossy { Ok(()) } else { Err(anomaly) }) {
                    self.violate(format!("at rest volume {v} block {}: {}", layout::lba(index), anomaly.0));
                }
            }
        }
    }
}
