//! What a copy held before its resync (F14): the shell's part of `mirror::before`, as `volume::keeping`
//! and `store::before` play it, on a file that may lose what was not flushed, and what an observer
//! expects of it.
//!
//! An array makes, fills and removes one image at a time for each volume. Which seeds keep images is
//! drawn apart from everything else.

use std::collections::BTreeMap;

use twinlun::arbitration::{Config, InSync};
use twinlun::block::Extent;
use twinlun::mirror::{ApplyId, ImageStep, REGION_BLOCKS};
use twinlun::mutation::{self, Mutation};

use crate::control::side;
use crate::disk::{Kind, Owner};
use crate::layout::{PER_REGION, Stamp};
use crate::prng::Prng;
use crate::volumes::IoOwner;
use crate::world::{Event, World};

/// Begins the stream of chance for images.
const STREAM: u64 = 0x00be_f03e;

pub type Region = [Stamp; PER_REGION];

/// One region in the image's file.
#[derive(Clone, Copy, Debug)]
struct Kept {
    content: Region,
    /// Durable.
    settled: bool,
    /// There is an entry for it; durable or not.
    entry: Option<bool>,
}

/// An image's file, as a disk has it.
#[derive(Clone, Debug, Default)]
struct Image {
    /// Its making is durable.
    made: bool,
    /// The copy was blank: nothing is kept.
    void: bool,
    /// The copies were equal: it counts for nothing.
    superseded: bool,
    regions: BTreeMap<u64, Kept>,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Make { life: u64 },
    Content { region: u64 },
    Entry,
    Supersede,
    Remove,
}

/// A frame that waits for what it will overwrite.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    life: u64,
    apply: ApplyId,
    extent: Extent,
}

/// One volume's image and what is being done about it.
#[derive(Clone, Debug, Default)]
pub struct Keeping {
    image: Option<Image>,
    /// The number under which the process knows it.
    life: Option<u64>,
    waiting: Vec<Waiting>,
    work: Option<(u32, Work)>,
    step: Option<ImageStep>,
}

fn regions_of(extent: Extent) -> core::ops::Range<u64> {
    extent.lba / REGION_BLOCKS..extent.end().div_ceil(REGION_BLOCKS)
}

impl Keeping {
    pub fn is_quiet(&self) -> bool {
        self.work.is_none() && self.waiting.is_empty()
    }

    /// Frames that the core gave to the disk wait for the image.
    pub fn holds_frames(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The whole image that may be written back.
    pub fn whole(&self) -> Option<Vec<(u64, Region)>> {
        let image = self.image.as_ref().filter(|image| !image.void && self.life.is_some())?;
        if image.superseded {
            return None;
        }
        let kept = image.regions.iter().filter(|(_, kept)| kept.entry.is_some());
        Some(kept.map(|(region, kept)| (*region, kept.content)).collect())
    }

    pub fn is_superseded(&self) -> bool {
        self.image.as_ref().is_some_and(|image| image.superseded)
    }

    pub fn is_void(&self) -> bool {
        self.image.as_ref().is_some_and(|image| image.void)
    }

    /// What was not durable is there or not.
    pub fn crash(&mut self, rng: &mut Prng) {
        let work = self.work.take();
        self.waiting.clear();
        (self.life, self.step) = (None, None);
        let Some(image) = &mut self.image else { return };
        for kept in image.regions.values_mut() {
            if !kept.settled && rng.coin() {
                kept.content = Region::default();
            }
            if kept.entry == Some(false) && rng.coin() {
                kept.entry = None;
            }
            (kept.settled, kept.entry) = (true, kept.entry.map(|_| true));
        }
        image.regions.retain(|_, kept| kept.entry.is_some());
        image.superseded |= matches!(work, Some((_, Work::Supersede))) && rng.coin();
        let removed = matches!(work, Some((_, Work::Remove))) && rng.coin();
        let unmade = !image.made && rng.coin();
        image.made = true;
        if removed || unmade {
            self.image = None;
        }
    }

    /// At a start: the process finds the file. Its number is that of a core that was just made.
    pub fn found(&mut self) -> Option<u64> {
        self.life = self.image.as_ref().map(|_| 0);
        self.life
    }

    /// Everything in the file so far is durable.
    fn flushed(&mut self) {
        for kept in self.image.iter_mut().flat_map(|image| image.regions.values_mut()) {
            kept.settled = true;
            kept.entry = kept.entry.map(|_| true);
        }
    }

    fn is_kept(&self, region: u64) -> bool {
        let Some(image) = &self.image else { return false };
        let entry = image.regions.get(&region).and_then(|kept| kept.entry);
        let written = mutation::on(Mutation::BeforeEntryNotFlushed) && entry.is_some();
        image.void || entry == Some(true) || written
    }
}

/// What an observer knows of one copy.
#[derive(Clone, Debug, Default)]
pub struct Mixture {
    /// What all its volumes held when its resync began.
    pub before: Option<Vec<Vec<Stamp>>>,
    /// It became equal in this session (its tenure's epoch, boot, counter).
    equal: Option<(u64, u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct Images {
    pub on: bool,
    /// Array, group.
    pub mixtures: [Vec<Mixture>; 2],
}

impl Images {
    pub fn new(groups: usize) -> Self {
        Self { on: false, mixtures: [vec![Mixture::default(); groups], vec![Mixture::default(); groups]] }
    }
}

impl World {
    /// Decides whether arrays keep images in this seed, and whether an operator gives his word.
    pub fn plan_images(&mut self, seed: u64) {
        let mut chance = Prng::new(seed ^ STREAM);
        self.images.on = self.script.is_some_and(|script| script.images);
        let loses = self.steps.iter().any(|step| matches!(step, crate::faults::Step::Lose { .. }));
        if self.script.is_some() || self.plan.only_witness || loses || !chance.per_mille(200) {
            return;
        }
        self.images.on = true;
        if chance.coin() {
            self.plan_word(&mut chance);
        }
    }

    /// A frame is to be written: at once, or once what it overwrites is kept. True: later.
    pub fn keep_first(&mut self, a: usize, v: usize, apply: ApplyId, extent: Extent) -> bool {
        if !self.images.on {
            return false;
        }
        let Some(life) = self.arrays[a].volumes[v].core.image_to_keep() else { return false };
        self.arrays[a].kept[v].waiting.push(Waiting { life, apply, extent });
        self.go_on_keeping(a, v);
        true
    }

    /// After each call of a volume's core.
    pub fn look_at_release(&mut self, a: usize, v: usize) {
        if !self.images.on {
            return;
        }
        if let Some(step) = self.arrays[a].volumes[v].core.take_image_step() {
            self.note_equal(a, v);
            self.arrays[a].kept[v].step = Some(step);
            self.go_on_keeping(a, v);
        }
    }

    fn go_on_keeping(&mut self, a: usize, v: usize) {
        loop {
            let keeping = &self.arrays[a].kept[v];
            if keeping.work.is_some() {
                return;
            }
            if let Some(step) = self.arrays[a].kept[v].step.take() {
                let work = if step == ImageStep::Remove { Work::Remove } else { Work::Supersede };
                return self.begin_keeping(a, v, work);
            }
            let keeping = &self.arrays[a].kept[v];
            let Some(waiting) = keeping.waiting.first().copied() else { return };
            let wanted = self.arrays[a].volumes[v].core.image_to_keep() == Some(waiting.life);
            let missing = keeping.image.is_none() || keeping.life != Some(waiting.life);
            if missing && !wanted && !mutation::on(Mutation::BeforeMadeAgain) {
                // The copies became equal while it waited.
                self.arrays[a].kept[v].waiting.remove(0);
                self.write_frame(a, v, waiting.apply, waiting.extent);
                continue;
            }
            if missing {
                let void = self.arrays[a].store.volumes[v].iter().all(|&stamp| stamp == 0);
                let keeping = &mut self.arrays[a].kept[v];
                keeping.image = Some(Image { void, ..Image::default() });
                return self.begin_keeping(a, v, Work::Make { life: waiting.life });
            }
            if let Some(region) = regions_of(waiting.extent).find(|region| !keeping.is_kept(*region)) {
                let mut content = Region::default();
                let first = region as usize * PER_REGION;
                content.copy_from_slice(&self.arrays[a].store.volumes[v][first..first + PER_REGION]);
                let kept = Kept { content, settled: false, entry: None };
                if let Some(image) = &mut self.arrays[a].kept[v].image {
                    image.regions.insert(region, kept);
                }
                if mutation::on(Mutation::BeforeContentNotFlushed) {
                    self.enter(a, v, region);
                } else {
                    self.begin_keeping(a, v, Work::Content { region });
                }
                continue;
            }
            self.arrays[a].kept[v].waiting.remove(0);
            self.write_frame(a, v, waiting.apply, waiting.extent);
        }
    }

    /// The region's entry, after its content.
    fn enter(&mut self, a: usize, v: usize, region: u64) {
        if let Some(image) = &mut self.arrays[a].kept[v].image
            && let Some(kept) = image.regions.get_mut(&region)
        {
            kept.entry = Some(false);
        }
        if !mutation::on(Mutation::BeforeEntryNotFlushed) {
            self.begin_keeping(a, v, Work::Entry);
        }
    }

    fn begin_keeping(&mut self, a: usize, v: usize, work: Work) {
        let token = self.new_token();
        self.arrays[a].kept[v].work = Some((token, work));
        let after = self.rng.between(self.plan.io_min, self.plan.io_max) + self.arrays[a].disk_hang(self.now);
        let boot = self.arrays[a].boot;
        self.queue.push(self.now + after, Event::SyncDone { process: a as u8, boot, token });
    }

    fn worked(&self, a: usize, token: u32) -> Option<(usize, Work)> {
        if !self.images.on {
            return None;
        }
        let found = |keeping: &Keeping| keeping.work.filter(|(t, _)| *t == token).map(|(_, work)| work);
        self.arrays[a].kept.iter().enumerate().find_map(|(v, keeping)| found(keeping).map(|work| (v, work)))
    }

    /// On the disk, whether the process knows it yet or not. True: the token was an image's.
    pub fn image_durable(&mut self, a: usize, token: u32) -> bool {
        let Some((v, work)) = self.worked(a, token) else { return false };
        let keeping = &mut self.arrays[a].kept[v];
        match work {
            Work::Make { .. } => keeping.image.iter_mut().for_each(|image| image.made = true),
            Work::Content { .. } | Work::Entry => keeping.flushed(),
            Work::Supersede => keeping.image.iter_mut().for_each(|image| image.superseded = true),
            Work::Remove => keeping.image = None,
        }
        true
    }

    /// The process learns of it.
    pub fn image_written(&mut self, a: usize, token: u32) -> bool {
        let Some((v, work)) = self.worked(a, token) else { return false };
        self.arrays[a].kept[v].work = None;
        match work {
            Work::Make { life } => {
                self.arrays[a].kept[v].life = Some(life);
                self.with_volume(a, v, 0, |core, _, _| core.image_made(life));
            }
            Work::Content { region } => self.enter(a, v, region),
            Work::Entry => {}
            Work::Supersede => self.with_volume(a, v, 0, |core, _, out| core.image_superseded(out)),
            Work::Remove => {
                self.arrays[a].kept[v].life = None;
                self.with_volume(a, v, 0, |core, _, out| core.image_released(out));
            }
        }
        self.go_on_keeping(a, v);
        true
    }

    /// A kept frame goes to the disk.
    fn write_frame(&mut self, a: usize, v: usize, apply: ApplyId, extent: Extent) {
        let held = self.arrays[a].volumes[v].applying.get(apply.slot() as usize).copied().flatten();
        let Some(held) = held.filter(|held| held.id == apply) else { return };
        let owner: IoOwner = Owner::Apply(apply);
        self.begin_io(a, v, owner, Kind::Write, extent, held.payload);
    }

    // What the observer expects.

    /// A frame of a session is about to change a copy that is behind.
    pub fn note_frame(&mut self, a: usize, v: usize, session: (u64, u64, u64)) {
        if !self.images.on || self.arrays[a].volumes[v].core.image_to_keep().is_none() {
            return;
        }
        let group = self.plan.volumes[v].group;
        let again = self.images.mixtures[a][group].equal.is_some_and(|equal| equal != session);
        if again || self.images.mixtures[a][group].before.is_none() {
            let before = Some(self.arrays[a].store.volumes.clone());
            self.images.mixtures[a][group] = Mixture { before, equal: None };
        }
    }

    /// The copy became equal to the primary's: what came before is of no use.
    fn note_equal(&mut self, a: usize, v: usize) {
        let group = self.plan.volumes[v].group;
        if self.arrays[a].volumes[v].core.is_behind()
            && let Some((tenure, session)) = self.watch.session_taken(a, group)
        {
            let session = (tenure.epoch.0, session.boot, session.counter);
            self.images.mixtures[a][group].equal.get_or_insert(session);
        }
    }

    /// A configuration was chosen: who is in sync has nothing to keep.
    pub fn note_whole(&mut self, group: usize, config: &Config) {
        for a in 0..2 {
            // An override may be chosen before the array itself knows: then it is put back once more.
            let known = self.word.off != Some(1 - a);
            if known && (config.in_sync == InSync::Both || config.primary == side(a)) {
                self.images.mixtures[a][group] = Mixture::default();
            }
        }
    }

    /// The copy of a group that an override is about to serve: as its resync found it; or, if it had become
    /// equal since, that or as it was before anything was put back (`untouched`).
    pub fn check_put_back(&mut self, a: usize, group: usize, untouched: &[Vec<Stamp>]) {
        let volumes: Vec<usize> =
            (0..self.plan.volumes.len()).filter(|&v| self.plan.volumes[v].group == group).collect();
        if volumes.iter().any(|&v| self.arrays[a].kept[v].is_void()) {
            return; // a mixture, and known as one
        }
        let Mixture { before, equal } = &self.images.mixtures[a][group];
        let store = &self.arrays[a].store;
        let is_untouched = volumes.iter().all(|&v| store.volumes[v] == untouched[v]);
        let wanted = match before {
            Some(before) if equal.is_none() || !is_untouched => before,
            _ => untouched,
        };
        for &v in &volumes {
            let held = &store.volumes[v];
            if let Some(index) = (0..held.len()).find(|&index| held[index] != wanted[v][index]) {
                let text = format!(
                    "F14: array {a} is to serve volume {v} of group {group} with {} in block {}, but held {} when its \
                     copy was whole (equal again: {equal:?})",
                    held[index],
                    crate::layout::lba(index),
                    wanted[v][index]
                );
                return self.violate(text);
            }
        }
        self.check_cut(a, group);
    }
}
