//! A second machine that calls itself the witness while the first one lives (rule 12): blank, with an
//! old copy of the state, or with the present one. Each array is led to either machine, until one of
//! them is turned off for good.
//!
//! Which seeds have one is drawn apart from everything else.

use crate::faults::Step;
use crate::host::MS;
use crate::network::{A, B, Process, SECOND_WITNESS, Use, WITNESS};
use crate::prng::Prng;
use crate::witness::{Return, Witness};
use crate::world::World;

/// Begins the stream of chance for second witnesses.
const STREAM: u64 = 0x0002_3117_4e55;
/// A blank witness keeps silent for about this long (the longest lease any witness grants).
const SILENCE: u64 = 10_400 * MS;

/// What the second machine begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Blank,
    /// An old copy of the first one's state.
    Old,
    /// What stands on the first one's disk now.
    Copy,
}

pub struct Second {
    pub witness: Witness,
    /// Which machine each array reaches under the witness's address.
    pub leads: [Process; 2],
}

impl Second {
    pub fn new(seed: u64) -> Self {
        let mut witness = Witness::new(&mut Prng::new(seed ^ STREAM));
        witness.alive = false;
        Self { witness, leads: [WITNESS; 2] }
    }
}

impl World {
    pub fn voter(&self, which: Process) -> &Witness {
        if which == SECOND_WITNESS { &self.second.witness } else { &self.witness }
    }

    pub fn voter_mut(&mut self, which: Process) -> &mut Witness {
        if which == SECOND_WITNESS { &mut self.second.witness } else { &mut self.witness }
    }

    /// Decides whether and when this seed has two witnesses; not in one that loses an array, or turns one off.
    pub fn plan_second_witness(&mut self, seed: u64) {
        let mut chance = Prng::new(seed.rotate_left(32) ^ STREAM);
        let loses = self.steps.iter().any(|step| matches!(step, Step::Lose { .. } | Step::GiveWord { .. }));
        if self.script.is_some() || loses || !chance.per_mille(100) {
            return;
        }
        let begin = chance.between(self.plan.calm, self.plan.faults_until * 2 / 3);
        let origin = chance.pick(&[Origin::Blank, Origin::Old, Origin::Copy]);
        let led = chance.pick(&[[true, false], [false, true], [true, true]]);
        self.at(begin, Step::SecondWitness { origin, led });
        let end = begin + chance.between(SILENCE / 2, SILENCE * 5 / 2);
        for _ in 0..chance.below(4) {
            let array = chance.below(2) as usize;
            let second = chance.coin();
            self.at(chance.between(begin, end), Step::LeadTo { array, second });
        }
        if chance.coin() {
            // The link is cut about when the second one begins to speak.
            let at = begin + SILENCE * chance.between(85, 115) / 100;
            let span = self.plan.promise() * chance.between(1, 3);
            for (from, to) in [(A, B), (B, A)] {
                if self.plan.only_witness {
                    break;
                }
                self.at(at, Step::Cut { from, to, lane: None });
                self.at(at + span, Step::Mend { from, to, lane: None });
            }
        }
        self.at(end, Step::OneWitness { second: chance.coin() });
    }

    /// The second machine comes up; these arrays reach it from now on.
    pub fn second_witness(&mut self, origin: Origin, led: [bool; 2]) {
        if self.second.witness.alive {
            return;
        }
        self.second.witness.image = match origin {
            Origin::Blank => None,
            Origin::Copy => self.witness.image.clone(),
            Origin::Old => {
                let backups = &self.witness.backups;
                let n = self.rng.below(backups.len().max(1) as u64) as usize;
                backups.get(n).cloned()
            }
        };
        self.second.witness.token = false;
        self.witness_restart(SECOND_WITNESS, Return::Rebooted);
        for (array, led) in led.into_iter().enumerate() {
            self.lead_to(array, led);
        }
    }

    /// From now on the array reaches the other machine. One that is not there any more leads nowhere.
    pub fn lead_to(&mut self, array: usize, second: bool) {
        if !self.second.witness.alive {
            return;
        }
        let leads = if second { SECOND_WITNESS } else { WITNESS };
        if core::mem::replace(&mut self.second.leads[array], leads) != leads {
            self.reset_connections(array, Use::Witness);
        }
    }

    /// One of the two is turned off for good. The other one is restarted with what it holds, and is the
    /// witness.
    pub fn one_witness(&mut self, second: bool) {
        if !self.second.witness.alive {
            return;
        }
        self.witness_crash(SECOND_WITNESS);
        if second {
            self.witness_crash(WITNESS);
            let boot = self.witness.boot.max(self.second.witness.boot) + 1;
            core::mem::swap(&mut self.witness, &mut self.second.witness);
            self.witness.boot = boot;
            self.second.witness.boot = boot;
            (self.witness.wake_at, self.second.witness.wake_at) = (u64::MAX, u64::MAX);
        }
        self.second.leads = [WITNESS; 2];
        if second {
            self.witness_restart(WITNESS, Return::Continuous);
        }
    }
}
