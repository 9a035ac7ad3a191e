//! What a copy held before its resync (F14): the shell's part of `mirror::before`, as `volume::keeping`
//! and `store::before` play it, on a file that may lose what was not flushed, and what an observer
//! expects of it.
//!
//! An array makes, fills and removes one image at a time for each volume. Which seeds keep images is
//! drawn apart from everything else.

use std::collections::BTreeMap;

use twinlun::arbitration::{Config, InSync};
use twinlun::block::{Extent, StoreResult};
use twinlun::mirror::{ApplyId, REGION_BLOCKS};
use twinlun::mutation::{self, Mutation};

use crate::control::side;
use crate::disk::{Kind, Owner};
use crate::host::MS;
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
    /// Of the register (`group::cut`).
    cut: u64,
    /// The process knows it: it was made in this life, or found at the start.
    known: bool,
    /// Its making is durable.
    made: bool,
    /// The copy was blank: nothing is kept.
    void: bool,
    regions: BTreeMap<u64, Kept>,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Make,
    Content { region: u64 },
    Entry,
    Remove,
}

/// A frame that waits for what it will overwrite.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    cut: u64,
    apply: ApplyId,
    extent: Extent,
}

/// Whether a frame's region is to be kept.
#[derive(PartialEq)]
enum Need {
    Keep,
    /// Nothing that counts is overwritten, or it is on record that the copy is a mixture.
    No,
    /// The frame is of a content that has ended.
    Late,
}

/// A frame waits so long until it is on record that what it overwrites is not kept.
const RECORD_WAIT: u64 = 10_000 * MS;

/// One volume's image and what is being done about it.
#[derive(Clone, Debug, Default)]
pub struct Keeping {
    image: Option<Image>,
    waiting: Vec<Waiting>,
    /// Frames whose regions are not kept, each until that is on record, or the time of its end.
    recording: Vec<(Waiting, u64)>,
    work: Option<(u32, Work)>,
    /// An image may be there that counts no more.
    spent: bool,
}

fn regions_of(extent: Extent) -> core::ops::Range<u64> {
    extent.lba / REGION_BLOCKS..extent.end().div_ceil(REGION_BLOCKS)
}

impl Keeping {
    pub fn is_quiet(&self) -> bool {
        self.work.is_none() && !self.holds_frames()
    }

    /// Frames that the core gave to the disk wait for the image.
    pub fn holds_frames(&self) -> bool {
        !self.waiting.is_empty() || !self.recording.is_empty()
    }

    fn known(&self) -> Option<&Image> {
        self.image.as_ref().filter(|image| image.known)
    }

    /// What was not durable is there or not.
    pub fn crash(&mut self, rng: &mut Prng) {
        let work = self.work.take();
        self.waiting.clear();
        self.recording.clear();
        self.spent = false;
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
        let removed = matches!(work, Some((_, Work::Remove))) && rng.coin();
        let unmade = !image.made && rng.coin();
        (image.made, image.known) = (true, false);
        if removed || unmade {
            self.image = None;
        }
    }

    /// At a start: the process finds the file.
    pub fn found(&mut self) {
        self.image.iter_mut().for_each(|image| image.known = true);
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
    /// The cut under which that was to be kept.
    cut: u64,
}

#[derive(Clone, Debug)]
pub struct Images {
    pub on: bool,
    /// Of a thousand writes to an image's file so many find no space.
    no_space: u64,
    chance: Prng,
    /// Array, group.
    pub mixtures: [Vec<Mixture>; 2],
}

impl Images {
    pub fn new(groups: usize) -> Self {
        let none = vec![Mixture::default(); groups];
        Self { on: false, no_space: 0, chance: Prng::new(STREAM), mixtures: [none.clone(), none] }
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
        if chance.per_mille(300) {
            self.images.no_space = 100;
        }
        self.images.chance = chance;
    }

    /// A frame is to be written: at once, or once what it overwrites is kept. True: later.
    pub fn keep_first(&mut self, a: usize, v: usize, apply: ApplyId, extent: Extent) -> bool {
        if !self.images.on {
            return false;
        }
        let Some(cut) = self.arrays[a].volumes[v].core.image_to_keep() else { return false };
        self.arrays[a].kept[v].waiting.push(Waiting { cut, apply, extent });
        self.go_on_keeping(a, v);
        true
    }

    /// After each call of a volume's core.
    pub fn look_at_release(&mut self, a: usize, v: usize) {
        if !self.images.on {
            return;
        }
        if self.arrays[a].volumes[v].core.take_image_spent() {
            self.arrays[a].kept[v].spent = true;
            self.go_on_keeping(a, v);
        }
        self.look_at_record(a, v);
    }

    fn need(&self, a: usize, v: usize, cut: u64) -> Need {
        match self.arrays[a].volumes[v].core.image_to_keep() {
            Some(present) if present == cut => Need::Keep,
            Some(_) => Need::Late,
            None => Need::No,
        }
    }

    /// Frames whose regions are not kept go on once that is on record.
    fn look_at_record(&mut self, a: usize, v: usize) {
        while let Some(at) = self.arrays[a].kept[v]
            .recording
            .iter()
            .position(|(frame, until)| self.now >= *until || self.need(a, v, frame.cut) != Need::Keep)
        {
            let (frame, _) = self.arrays[a].kept[v].recording.remove(at);
            match self.need(a, v, frame.cut) {
                Need::No => self.write_frame(a, v, frame.apply, frame.extent),
                Need::Keep | Need::Late => self.refuse_frame(a, v, frame.apply),
            }
        }
    }

    /// The first frame that waits goes on: what it overwrites is kept, or need not be, or cannot.
    fn first_goes_on(&mut self, a: usize, v: usize, kept: bool) {
        let now = self.now;
        let keeping = &mut self.arrays[a].kept[v];
        if keeping.waiting.is_empty() {
            return;
        }
        let frame = keeping.waiting.remove(0);
        if kept && self.need(a, v, frame.cut) == Need::Keep {
            return self.write_frame(a, v, frame.apply, frame.extent);
        }
        self.arrays[a].kept[v].recording.push((frame, now + RECORD_WAIT));
        if !kept {
            self.with_volume(a, v, 0, |core, _, out| core.cannot_keep(frame.cut, out));
        }
        self.look_at_record(a, v);
    }

    /// The image is known, and counts.
    fn image_counts(&self, a: usize, v: usize) -> bool {
        let cut = self.arrays[a].kept[v].known().map(|image| image.cut);
        cut.is_some_and(|cut| self.arrays[a].volumes[v].core.image_counts(cut))
    }

    /// The whole image that may be written back.
    pub fn whole_image(&self, a: usize, v: usize) -> Option<Vec<(u64, Region)>> {
        let image = self.arrays[a].kept[v].known().filter(|image| !image.void)?;
        if !self.image_counts(a, v) {
            return None;
        }
        let kept = image.regions.iter().filter(|(_, kept)| kept.entry.is_some());
        Some(kept.map(|(region, kept)| (*region, kept.content)).collect())
    }

    /// The copy was blank before its resync.
    fn was_blank(&self, a: usize, v: usize) -> bool {
        self.image_counts(a, v) && self.arrays[a].kept[v].known().is_some_and(|image| image.void)
    }

    fn finds_no_space(&mut self) -> bool {
        self.images.no_space != 0 && self.images.chance.per_mille(self.images.no_space)
    }

    fn go_on_keeping(&mut self, a: usize, v: usize) {
        loop {
            if self.arrays[a].kept[v].work.is_some() {
                return;
            }
            let known = self.arrays[a].kept[v].known().is_some();
            let spent = core::mem::take(&mut self.arrays[a].kept[v].spent);
            if spent && known && !self.image_counts(a, v) {
                return self.begin_keeping(a, v, Work::Remove);
            }
            let keeping = &self.arrays[a].kept[v];
            let Some(waiting) = keeping.waiting.first().copied() else { return };
            if keeping.known().is_none_or(|image| image.cut != waiting.cut) {
                if self.need(a, v, waiting.cut) != Need::Keep {
                    self.first_goes_on(a, v, true);
                    continue;
                }
                if known && !self.image_counts(a, v) {
                    return self.begin_keeping(a, v, Work::Remove);
                }
                if self.finds_no_space() {
                    self.first_goes_on(a, v, false);
                    continue;
                }
                let void = self.arrays[a].store.volumes[v].iter().all(|&stamp| stamp == 0);
                let made = Image { cut: waiting.cut, void, ..Image::default() };
                self.arrays[a].kept[v].image = Some(made);
                return self.begin_keeping(a, v, Work::Make);
            }
            if let Some(region) = regions_of(waiting.extent).find(|region| !keeping.is_kept(*region)) {
                if self.finds_no_space() {
                    self.first_goes_on(a, v, false);
                    continue;
                }
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
            self.first_goes_on(a, v, true);
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
            Work::Make => keeping.image.iter_mut().for_each(|image| image.made = true),
            Work::Content { .. } | Work::Entry => keeping.flushed(),
            Work::Remove => keeping.image = None,
        }
        true
    }

    /// The process learns of it.
    pub fn image_written(&mut self, a: usize, token: u32) -> bool {
        let Some((v, work)) = self.worked(a, token) else { return false };
        self.arrays[a].kept[v].work = None;
        match work {
            Work::Make => {
                let keeping = &mut self.arrays[a].kept[v];
                keeping.image.iter_mut().for_each(|image| image.known = true);
                // The cut may have ended meanwhile.
                keeping.spent = true;
            }
            Work::Content { region } => self.enter(a, v, region),
            Work::Entry | Work::Remove => {}
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

    /// The shell could not keep what the frame overwrites, and it is not on record.
    fn refuse_frame(&mut self, a: usize, v: usize, apply: ApplyId) {
        self.drop_applying(a, v, apply);
        self.with_volume(a, v, 0, |core, cx, out| core.applied(apply, StoreResult::Failed, cx, out));
    }

    // What the observer expects.

    /// A frame is about to change a copy that is behind.
    pub fn note_frame(&mut self, a: usize, v: usize) {
        if !self.images.on {
            return;
        }
        let Some(cut) = self.arrays[a].volumes[v].core.image_to_keep() else { return };
        let group = self.plan.volumes[v].group;
        let mixture = &self.images.mixtures[a][group];
        if mixture.before.is_none() || mixture.cut != cut {
            let before = Some(self.arrays[a].store.volumes.clone());
            self.images.mixtures[a][group] = Mixture { before, cut };
        }
    }

    /// Whether the register on disk says that what the resync found counts; `None`: that is being written.
    pub fn cut_stands(&self, a: usize, group: usize) -> Option<bool> {
        let mixture = &self.images.mixtures[a][group];
        let stands = mixture.before.is_some() && self.cut_on_disk(a, group) == Some(mixture.cut);
        self.votes_written(a, group).then_some(stands)
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

    /// The copy of a group that an override is about to serve: as its resync found it, or, if it had become
    /// equal since, as it was before anything was put back (`untouched`). Which of the two the register told when
    /// the operator began (`stands`); either, all of the group alike, if he came while that was being written.
    pub fn check_put_back(&mut self, a: usize, group: usize, untouched: &[Vec<Stamp>], stands: Option<bool>) {
        let volumes: Vec<usize> =
            (0..self.plan.volumes.len()).filter(|&v| self.plan.volumes[v].group == group).collect();
        let is_mixture = |v: usize| self.arrays[a].volumes[v].core.is_mixture() || self.was_blank(a, v);
        if volumes.iter().any(|&v| is_mixture(v)) {
            return; // and known as one
        }
        let store = &self.arrays[a].store;
        let is_untouched = volumes.iter().all(|&v| store.volumes[v] == untouched[v]);
        let wanted = match &self.images.mixtures[a][group].before {
            Some(before) if stands.unwrap_or(!is_untouched) => before,
            _ => untouched,
        };
        for &v in &volumes {
            let held = &store.volumes[v];
            if let Some(index) = (0..held.len()).find(|&index| held[index] != wanted[v][index]) {
                let text = format!(
                    "F14: array {a} is to serve volume {v} of group {group} with {} in block {}, but held {} when its \
                     copy was whole (its cut stood: {stands:?})",
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
