//! An operator who gives his word that an array is off, and it is: he turns it off, has what the other
//! one held before a resync put back, and overrides (F13, F14, F35). The array that was off comes back
//! when the witness has heard of the override, or the other array tells it.

use twinlun::arbitration::Lineage;
use twinlun::block::Extent;
use twinlun::group::Command;
use twinlun::mirror::REGION_BLOCKS;
use twinlun::mutation::{self, Mutation};

use crate::control::{group_id, side};
use crate::disk::{Kind, Owner};
use crate::faults::Step;
use crate::host::MS;
use crate::layout::{Payload, Stamp, span};
use crate::prng::Prng;
use crate::world::{Phase, World};

/// How often he looks.
const LOOK: u64 = 20 * MS;
/// After a refusal.
const AGAIN: u64 = 1_000 * MS;
/// He waits so long for the middle of a resync.
const PATIENCE: u64 = 15_000 * MS;
/// A disk or a map is waited for so long before a roll-back is given up, and begun again.
const ROLL_BACK_WAIT: u64 = 10_000 * MS;

/// When he acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Now,
    /// While the survivor's copy is being brought up to date.
    Resync,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Stage {
    #[default]
    Begins,
    /// Nothing more comes into any volume of the group; what was on its way is awaited.
    Holds {
        since: u64,
    },
    /// What was kept is written back, volume after volume.
    PutsBack {
        volume: usize,
    },
    Ordered {
        ticket: u64,
    },
    Waits {
        until: u64,
    },
    Done,
}

#[derive(Clone, Debug, Default)]
pub struct Word {
    /// Turned off for as long as the word is needed.
    pub off: Option<usize>,
    boot: u32,
    stages: Vec<Stage>,
    /// What the survivor held before anything was put back, by volume.
    untouched: Vec<Option<Vec<Stamp>>>,
    /// Whether the register told that it counts what they held, when they began; by group.
    stands: Vec<Option<bool>>,
    /// New histories, by group.
    lineages: Vec<Option<Lineage>>,
    /// Not before this the other array comes back.
    returns_at: u64,
    returns: u64,
    /// Writes of a roll-back under way, by volume, and whether one failed.
    writes: Vec<u32>,
    failed: Vec<bool>,
}

impl World {
    pub fn plan_word(&mut self, chance: &mut Prng) {
        let at = chance.between(self.plan.calm + 500 * MS, self.plan.faults_until);
        let array = chance.below(2) as usize;
        let moment = if chance.per_mille(750) { Moment::Resync } else { Moment::Now };
        self.word.returns = chance.between(500, 20_000) * MS;
        self.at(at, Step::GiveWord { array, moment, until: at + PATIENCE, late: chance.below(200) * MS });
    }

    /// `array` is to serve without the other one.
    pub fn give_word(&mut self, array: usize, moment: Moment, until: u64, late: u64) {
        if self.word.off.is_some() || (self.phase != Phase::Storm) {
            return;
        }
        let mixture = self.images.mixtures[array].iter().any(|mixture| mixture.before.is_some());
        if moment == Moment::Resync && !mixture && self.now < until {
            return self.at(LOOK, Step::GiveWord { array, moment, until, late });
        }
        if moment == Moment::Resync && late != 0 {
            return self.at(late, Step::GiveWord { array, moment: Moment::Now, until, late: 0 });
        }
        self.crash_array(1 - array, true);
        let (groups, volumes) = (self.plan.groups, self.plan.volumes.len());
        self.word = Word {
            off: Some(1 - array),
            boot: self.arrays[array].boot,
            stages: vec![Stage::Begins; groups],
            untouched: vec![None; volumes],
            stands: vec![None; groups],
            lineages: vec![None; groups],
            returns_at: 0,
            returns: self.word.returns,
            writes: vec![0; volumes],
            failed: vec![false; volumes],
        };
        self.at(LOOK, Step::KeepWord { array });
    }

    /// The operator looks after his overrides.
    pub fn keep_word(&mut self, array: usize) {
        if self.word.off != Some(1 - array) {
            return;
        }
        self.at(LOOK, Step::KeepWord { array });
        let there = &self.arrays[array];
        if !there.alive || there.paused || there.control_stalled || there.stopping {
            return;
        }
        if self.word.boot != there.boot {
            // What he had begun is forgotten there.
            self.word.boot = there.boot;
            self.word.writes.fill(0);
            self.word.failed.fill(false);
            for stage in self.word.stages.iter_mut().filter(|stage| **stage != Stage::Done) {
                *stage = Stage::Begins;
            }
        }
        for group in 0..self.plan.groups {
            let stage = self.word.stages[group];
            self.word.stages[group] = self.override_goes_on(array, group, stage);
        }
        if self.word.stages.iter().any(|stage| *stage != Stage::Done) {
            return;
        }
        if self.word.returns_at == 0 {
            let soon = if self.phase == Phase::Storm { self.word.returns } else { 0 };
            self.word.returns_at = self.now + soon;
        }
        if self.now >= self.word.returns_at && self.may_return(1 - array) {
            self.word.off = None;
            self.images.mixtures[array].fill(crate::keeping::Mixture::default());
            if self.phase != Phase::Storm {
                self.healed_at = self.now;
            }
            self.start_array(1 - array);
        }
    }

    fn override_goes_on(&mut self, a: usize, g: usize, stage: Stage) -> Stage {
        match stage {
            Stage::Done | Stage::Ordered { .. } => stage,
            Stage::Waits { until } if self.now < until => stage,
            Stage::Begins | Stage::Waits { .. } => {
                let Some(chosen) = self.arrays[a].chosen(g) else { return stage };
                if self.serves(a, g) {
                    return Stage::Done;
                }
                if self.arrays[a].control.is_some() {
                    return Stage::Begins;
                }
                if chosen.holds(side(a)) {
                    let stale = self.rng.coin();
                    return self.give_order(a, g, stale);
                }
                Stage::Holds { since: self.now }
            }
            Stage::Holds { since } => self.hold(a, g, since),
            Stage::PutsBack { volume } => self.put_back(a, g, volume),
        }
    }

    fn members(&self, group: usize) -> Vec<usize> {
        (0..self.plan.volumes.len()).filter(|&v| self.plan.volumes[v].group == group).collect()
    }

    /// As `array::Handle` and `volume::Volume::hold_for_roll_back` do it.
    fn hold(&mut self, a: usize, g: usize, since: u64) -> Stage {
        let members = self.members(g);
        let mut held = true;
        for &v in &members {
            let numbers: Vec<u64> =
                self.whole_image(a, v).unwrap_or_default().into_iter().map(|(number, _)| number).collect();
            let drained = self.with_volume(a, v, 0, |core, _, out| core.begin_roll_back(&numbers, out));
            held &= drained && self.arrays[a].volumes[v].core.roll_back_is_marked(&numbers);
        }
        let told = self.arrays[a]
            .group(g)
            .and_then(|group| group.control.view())
            .is_some_and(|view| !view.cut_changes);
        if !held || !told && !mutation::on(Mutation::CutChangesUnderRollBack) {
            if self.now < since + ROLL_BACK_WAIT {
                return Stage::Holds { since };
            }
            self.let_go(a, &members);
            return Stage::Waits { until: self.now + AGAIN };
        }
        if self.word.untouched[members[0]].is_none() {
            self.word.stands[g] = self.cut_stands(a, g);
        }
        for &v in &members {
            let content = self.arrays[a].store.volumes[v].clone();
            self.word.untouched[v].get_or_insert(content);
        }
        if members.iter().any(|&v| self.arrays[a].volumes[v].core.is_mixture()) {
            self.let_go(a, &members);
            return self.give_order(a, g, true);
        }
        self.put_back_from(a, g, 0)
    }

    fn let_go(&mut self, a: usize, volumes: &[usize]) {
        for &v in volumes {
            self.with_volume(a, v, 0, |core, _, out| core.end_roll_back(out));
        }
    }

    /// The next volume with an image; after the last one the override is ordered.
    fn put_back_from(&mut self, a: usize, g: usize, first: usize) -> Stage {
        for v in self.members(g).into_iter().filter(|&v| v >= first) {
            let Some(regions) = self.whole_image(a, v) else {
                self.let_go(a, &[v]);
                continue;
            };
            for (number, stamps) in regions {
                let extent = Extent::new(number * REGION_BLOCKS, REGION_BLOCKS);
                self.word.writes[v] += 1;
                let payload = Payload { span: span(extent), stamps };
                self.begin_io(a, v, Owner::Back, Kind::Write, extent, payload);
            }
            return Stage::PutsBack { volume: v };
        }
        let untouched: Vec<Vec<Stamp>> =
            self.word.untouched.iter().map(|held| held.clone().unwrap_or_default()).collect();
        self.check_put_back(a, g, &untouched, self.word.stands[g]);
        self.give_order(a, g, true)
    }

    fn put_back(&mut self, a: usize, g: usize, v: usize) -> Stage {
        if self.word.writes[v] != 0 {
            return Stage::PutsBack { volume: v };
        }
        if core::mem::take(&mut self.word.failed[v]) {
            let left: Vec<usize> = self.members(g).into_iter().filter(|&left| left >= v).collect();
            self.let_go(a, &left);
            return Stage::Waits { until: self.now + AGAIN };
        }
        self.let_go(a, &[v]);
        self.put_back_from(a, g, v + 1)
    }

    /// An override was carried out.
    pub fn override_was_kept(&self) -> bool {
        self.word.lineages.iter().any(Option::is_some)
    }

    /// A region is written back.
    pub fn was_put_back(&mut self, v: usize, done: bool) {
        self.word.writes[v] = self.word.writes[v].saturating_sub(1);
        self.word.failed[v] |= !done;
    }

    fn give_order(&mut self, a: usize, g: usize, stale: bool) -> Stage {
        // Hosts' histories are not judged any more when what they were told is given up.
        self.lossy |= self.watch.newest[g].is_none_or(|newest| !newest.holds(side(a)));
        self.lossy |= self.waits_for_memory(a, g);
        let ticket = u64::from(self.new_token());
        self.word.stages[g] = Stage::Ordered { ticket };
        self.tell(a, g, twinlun::group::Event::Command { ticket, command: Command::Override { stale } });
        // It may have been refused at once.
        self.word.stages[g]
    }

    /// An override ended.
    pub fn override_ended(&mut self, a: usize, ticket: u64, done: bool) {
        let Some(g) = self.word.stages.iter().position(|stage| *stage == Stage::Ordered { ticket }) else {
            return;
        };
        self.word.stages[g] = if done { Stage::Done } else { Stage::Waits { until: self.now + AGAIN } };
        if done {
            self.word.lineages[g] = self.arrays[a].chosen(g).map(|chosen| chosen.lineage);
        }
    }

    /// Whatever the array that was off reaches first tells it of the override, or cannot tell it that it
    /// is still in office.
    fn may_return(&self, off: usize) -> bool {
        (0..self.plan.groups).all(|g| {
            let Some(lineage) = self.word.lineages[g] else { return true };
            let known = self.witness.image.as_ref().and_then(|image| image.groups.get(&group_id(g))?.chosen);
            let told = known.is_some_and(|known| known.lineage.counter >= lineage.counter);
            let enrolled = self.config_on_disk(off, g).and_then(|config| config.witness);
            let stranger = self.witness.alive && Some(self.witness.incarnation()) != enrolled;
            self.witness.alive && (told || stranger)
        })
    }
}
