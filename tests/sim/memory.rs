//! Volumes with the write promise *memory* (T13): which seeds draw them, what becomes of an array's page
//! cache when it crashes, and what hosts may lose.
//!
//! Nothing is lost by the crash of one array. When both have lost their caches, the array that goes on says
//! so, and only then a block may go back, to a state at or after the last acknowledged flush; the histories
//! of before are not judged any further.

use std::sync::atomic::{AtomicBool, Ordering};

use twinlun::arbitration::{InSync, MemoryId};
use twinlun::group::LogEntry;
use twinlun::mirror::WritePromise;

use crate::layout;
use crate::prng::Prng;
use crate::world::World;

/// Begins the stream of chance for memory volumes.
const MEMORY: u64 = 0x3e30_12f1_0513_c0de;

/// Every seed has memory volumes.
static ALWAYS: AtomicBool = AtomicBool::new(false);

/// From now on each seed has memory volumes, or only those that draw them.
pub fn in_every_seed(always: bool) {
    ALWAYS.store(always, Ordering::Relaxed);
}

/// What the world keeps about memory volumes.
#[derive(Debug, Default)]
pub struct MemoryWatch {
    /// Chance of its own: other seeds stay what they are.
    chance: Option<Prng>,
    /// Per mille of process crashes that the page cache outlives.
    survives: u64,
    /// Of eight blocks in a cache that is lost, so many had been written back.
    written_back: u64,
    /// When each array last lost its cache.
    lost_at: [Option<u64>; 2],
    /// When each group last came in sync.
    pub joined_at: Vec<u64>,
    /// By volume: when its group's promise was last void. Operations that began before are not judged.
    voided_at: Vec<u64>,
    /// By volume: start of the latest flush that was acknowledged.
    floor: Vec<u64>,
}

impl World {
    /// Whether this seed has memory volumes, and which.
    pub fn plan_memory(&mut self, seed: u64) {
        let mut chance = Prng::new(seed ^ MEMORY);
        let drawn = chance.below(5) == 0 || ALWAYS.load(Ordering::Relaxed);
        let volumes = self.plan.volumes.len();
        if self.script.is_none() && drawn && !self.plan.only_witness {
            let all = (1_u32 << volumes) - 1;
            let some = chance.below(u64::from(all)) as u32 + 1;
            self.plan.memory = if chance.coin() { all } else { some };
        }
        self.memory.survives = chance.pick(&[0, 0, 300, 1000]);
        self.memory.written_back = chance.pick(&[0, 0, 2, 6]);
        if self.script.is_some() {
            self.memory.survives = 0;
            self.memory.written_back = 0;
        }
        self.memory.chance = Some(chance);
        self.memory.joined_at = vec![0; self.plan.groups];
        self.memory.voided_at = vec![0; volumes];
        self.memory.floor = vec![0; volumes];
        for a in 0..2 {
            for v in 0..volumes {
                self.arrays[a].store.cached[v] = self.is_memory(v);
            }
        }
    }

    pub fn is_memory(&self, v: usize) -> bool {
        self.plan.memory >> v & 1 == 1
    }

    pub fn promise(&self, v: usize) -> WritePromise {
        if self.is_memory(v) { WritePromise::Memory } else { WritePromise::Stable }
    }

    /// One of the arrays has lost its cache since the group came in sync: until it is dropped, or relieved, it
    /// need not hold what the other one does.
    pub fn cache_lost(&self, g: usize) -> bool {
        let memory =
            (0..self.plan.volumes.len()).any(|v| self.plan.volumes[v].group == g && self.is_memory(v));
        let joined = self.memory.joined_at[g];
        memory && self.memory.lost_at.iter().any(|at| at.is_some_and(|at| at >= joined))
    }

    /// A process, or its machine, died: its page cache lives on, or not. Blocks that went back are pushed to
    /// `changed`.
    pub fn crash_cache(&mut self, a: usize, power: bool, changed: &mut Vec<(u8, usize)>) {
        let survives = self.memory.survives;
        let Some(chance) = &mut self.memory.chance else { return };
        if self.plan.memory == 0 {
            return;
        }
        if !power && chance.per_mille(survives) {
            // The next process flushes it before it does anything else.
            let before = changed.len();
            self.arrays[a].store.flush_all(changed);
            if changed.len() != before {
                self.memory.lost_at[a] = Some(self.now); // what a failed flush dropped
            }
            return;
        }
        let back = self.memory.written_back;
        self.arrays[a].store.lose_cache(chance, back, changed);
        self.memory.lost_at[a] = Some(self.now);
        let id = chance.next_u64();
        self.arrays[a].memory = memory_id(id);
        self.say(|| format!("array {a} has lost its page cache"));
    }

    /// An array said something of its memory.
    pub fn note_memory_log(&mut self, a: usize, g: usize, entry: &LogEntry) {
        if *entry != LogEntry::PromiseVoid {
            return;
        }
        let joined = self.memory.joined_at[g];
        let lost = |at: Option<u64>| at.is_some_and(|at| at >= joined);
        let failed = self.plan.weights.failing_disk != 0;
        if !self.memory.lost_at.iter().all(|at| lost(*at)) && !failed {
            let text = format!(
                "T13: array {a} calls the promise of group {g} void, but the caches were lost at {:?} and it came in sync at {joined}",
                self.memory.lost_at
            );
            return self.violate(text);
        }
        for v in 0..self.plan.volumes.len() {
            // What is on its disk. (A volume of the group that is stable has lost nothing, and is judged on; one
            // that has left the group is not spoken of.)
            let member = self.plan.volumes[v].group == g && self.arrays[a].volumes[v].member;
            if !member || !self.is_memory(v) {
                continue;
            }
            self.memory.voided_at[v] = self.now;
            let floor = self.memory.floor[v];
            self.watch.forget_acknowledged(v);
            for index in 0..self.registers[v].len() {
                let stamp = self.arrays[a].store.kept(v, index);
                if let Err(anomaly) = self.registers[v][index].fall_back(stamp, floor, self.now) {
                    let lba = layout::lba(index);
                    return self.violate(format!(
                        "T13: volume {v} block {lba} falls back behind the last flush: {}",
                        anomaly.0
                    ));
                }
            }
        }
    }

    /// A flush was acknowledged that began at `started`: what was acknowledged before is on both disks.
    pub fn note_flushed(&mut self, v: usize, started: u64) {
        self.memory.floor[v] = self.memory.floor[v].max(started);
    }

    /// Rule 2 of the promise, seen by an observer: when a flush is answered in {A,B}, no disk lacks what was
    /// acknowledged before the flush came.
    pub fn check_flushed(&mut self, a: usize, v: usize, started: u64) {
        let g = self.plan.volumes[v].group;
        let both = self.watch.gates[a][g].needs_both()
            && self.watch.newest[g].is_some_and(|newest| newest.in_sync == InSync::Both);
        for array in 0..2 {
            if (array != a && !both) || !self.arrays[array].alive {
                continue;
            }
            for index in 0..self.registers[v].len() {
                let store = &self.arrays[array].store;
                let (cached, stable) = (store.volumes[v][index], store.stable[v][index]);
                if cached != stable && self.registers[v][index].acknowledged_before(cached, started) {
                    return self.violate(format!(
                        "T13: array {a} answers a flush of volume {v} while array {array} holds {cached} of block {} in its cache alone",
                        layout::lba(index)
                    ));
                }
            }
        }
    }

    /// Operations that began before the promise was void are not judged.
    pub fn is_judged(&self, v: usize, started: u64) -> bool {
        !self.is_memory(v) || started >= self.memory.voided_at[v]
    }

    /// Clusters that a flush may still speak of are kept.
    pub fn keep_from(&self, v: usize, oldest: u64) -> u64 {
        if self.is_memory(v) { oldest.min(self.memory.floor[v]) } else { oldest }
    }

    /// A lone array that may lack what the other one has waits for it, by right.
    pub fn waits_for_memory(&self, a: usize, g: usize) -> bool {
        let failed = |v: usize| {
            self.plan.volumes[v].group == g && self.arrays[a].volumes[v].core.status().flush_failed
        };
        self.arrays[a].group(g).is_some_and(|group| group.control.arbiter().is_tainted())
            || (0..self.arrays[a].volumes.len()).any(failed)
    }

    /// A host's turn: now and then a flush of a memory volume.
    pub fn host_flushes(&mut self, v: usize) -> bool {
        let memory = self.is_memory(v);
        match &mut self.memory.chance {
            Some(chance) if memory => chance.below(10) == 0,
            _ => false,
        }
    }
}

pub fn memory_id(id: u64) -> MemoryId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    MemoryId(bytes)
}
