//! The dirty map: one activity bit and one out-of-sync bit for each region, in pages of 4 KiB.
//!
//! Three states of a bit matter. In memory it says what must be on disk soon; `sure` says that the
//! disk holds it whatever becomes of a page now being written; only a sure bit lets the write it
//! covers begin (rule 10). A bit that is on disk without need costs a copy in vain, never data.
//!
//! The file: one header page, then two slots for each page of the map. A page is written to its
//! slots in turn, so that a torn write leaves the one before; generation `n` lies in slot `n % 2`.

use super::api::{Geometry, MapGeneration, REGION_BLOCKS};
use super::map_page::{self, MapError, PAGE, Slot, check_header, encode, slot};
use super::regions::{PAGE_REGIONS, PAGE_WORDS, PageBits, RegionSet};

/// One page of the dirty map to be written: `bytes` at `offset` of the volume's map file. Pages of
/// a snapshot may be written in any order.
#[derive(Clone, Debug)]
pub struct MapPage {
    /// Byte offset in the map file; a multiple of 4096.
    pub offset: u64,
    pub bytes: Box<[u8; PAGE]>,
}

/// The dirty map of one volume.
#[derive(Clone, Debug)]
pub struct DirtyMap {
    geometry: Geometry,
    activity: RegionSet,
    out_of_sync: RegionSet,
    sure_activity: RegionSet,
    sure_out_of_sync: RegionSet,
    /// By page: its newest durable generation, and whether memory differs from the last snapshot.
    pages: Vec<PageState>,
    changed: u32,
    /// The snapshot being written, with what it makes sure.
    writing: Option<MapGeneration>,
    written: Vec<(usize, Box<PageBits>, Box<PageBits>)>,
    taken: u64,
    durable: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct PageState {
    generation: u64,
    changed: bool,
}

impl DirtyMap {
    /// A map without a bit set.
    pub fn new(geometry: Geometry) -> Self {
        let regions = geometry.blocks.div_ceil(REGION_BLOCKS);
        let set = RegionSet::new(regions);
        Self {
            geometry,
            pages: vec![PageState::default(); set.page_count()],
            activity: set.clone(),
            out_of_sync: set.clone(),
            sure_activity: set.clone(),
            sure_out_of_sync: set,
            changed: 0,
            writing: None,
            written: Vec::new(),
            taken: 0,
            durable: 0,
        }
    }

    /// What the map file of a new volume begins with (at offset 0); written once, durably, before
    /// the volume is used. The rest of the file may be a hole.
    pub fn file_header(geometry: Geometry) -> Box<[u8; PAGE]> {
        map_page::encode_header(geometry.id)
    }

    /// Length of the map file in bytes.
    pub fn file_len(geometry: Geometry) -> u64 {
        let pages = geometry.blocks.div_ceil(REGION_BLOCKS).div_ceil(PAGE_REGIONS);
        (1 + 2 * pages) * PAGE as u64
    }

    /// Reads a map file (its whole content; a short one is as if followed by zeroes).
    ///
    /// # Errors
    /// A file or page that is not this volume's, a newer format, or both slots of a page torn.
    pub fn decode(geometry: Geometry, file: &[u8]) -> Result<Self, MapError> {
        let header: &[u8; PAGE] = file.first_chunk().ok_or(MapError::NotAMap)?;
        check_header(header, geometry.id)?;
        let mut map = Self::new(geometry);
        for page in 0..map.pages.len() {
            let at = PAGE * (1 + 2 * page);
            let number = u32::try_from(page).map_err(|_| MapError::NotAMap)?;
            let slots = [
                slot(geometry.id, number, file.get(at..).unwrap_or_default())?,
                slot(geometry.id, number, file.get(at + PAGE..).unwrap_or_default())?,
            ];
            let newest = match slots {
                [Slot::Blank, Slot::Blank | Slot::Torn] => continue, // never completed its first write
                [Slot::Valid(even), Slot::Valid(odd)] => {
                    if even.generation() > odd.generation() {
                        even
                    } else {
                        odd
                    }
                }
                [Slot::Valid(valid), _] | [_, Slot::Valid(valid)] => valid,
                [Slot::Torn, _] => return Err(MapError::Torn { page: number }),
            };
            let (generation, activity, out_of_sync) = newest.read();
            map.pages[page].generation = generation;
            map.activity.set_page(page, &activity);
            map.out_of_sync.set_page(page, &out_of_sync);
        }
        map.sure_activity = map.activity.clone();
        map.sure_out_of_sync = map.out_of_sync.clone();
        Ok(map)
    }

    /// The volume has grown; no bit of what is new is set.
    pub(super) fn grow(&mut self, blocks: u64) {
        self.geometry.blocks = self.geometry.blocks.max(blocks);
        let regions = self.geometry.blocks.div_ceil(REGION_BLOCKS);
        for set in
            [&mut self.activity, &mut self.out_of_sync, &mut self.sure_activity, &mut self.sure_out_of_sync]
        {
            set.grow(regions);
        }
        self.pages.resize(self.activity.page_count(), PageState::default());
    }

    pub(super) const fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) const fn activity(&self) -> &RegionSet {
        &self.activity
    }

    pub(super) const fn out_of_sync(&self) -> &RegionSet {
        &self.out_of_sync
    }

    /// Activity bits that the disk holds for certain.
    pub(super) const fn sure_activity(&self) -> &RegionSet {
        &self.sure_activity
    }

    /// Out-of-sync bits that the disk holds for certain.
    pub(super) const fn sure_out_of_sync(&self) -> &RegionSet {
        &self.sure_out_of_sync
    }

    pub(super) fn mark_active(&mut self, region: u64) {
        if self.activity.insert(region) {
            self.touch(region);
        }
    }

    pub(super) fn clear_active(&mut self, region: u64) {
        if self.activity.remove(region) {
            self.touch(region);
        }
    }

    pub(super) fn mark_out_of_sync(&mut self, region: u64) {
        if self.out_of_sync.insert(region) {
            self.touch(region);
        }
    }

    pub(super) fn clear_out_of_sync(&mut self, region: u64) {
        if self.out_of_sync.remove(region) {
            self.touch(region);
        }
    }

    /// `oos |= set`.
    pub(super) fn mark_all_out_of_sync(&mut self, set: &RegionSet) {
        let before = self.out_of_sync.len();
        self.out_of_sync.union(set);
        if self.out_of_sync.len() != before {
            self.touch_all();
        }
    }

    /// `oos |= activity`.
    pub(super) fn activity_to_out_of_sync(&mut self) {
        let before = self.out_of_sync.len();
        self.out_of_sync.union(&self.activity);
        if self.out_of_sync.len() != before {
            self.touch_all();
        }
    }

    pub(super) fn clear_all_activity(&mut self) {
        if !self.activity.is_empty() {
            self.activity.clear();
            self.touch_all();
        }
    }

    pub(super) fn clear_all_out_of_sync(&mut self) {
        if !self.out_of_sync.is_empty() {
            self.out_of_sync.clear();
            self.touch_all();
        }
    }

    fn touch(&mut self, region: u64) {
        let page = usize::try_from(region / PAGE_REGIONS).unwrap_or(usize::MAX);
        if let Some(state) = self.pages.get_mut(page)
            && !state.changed
        {
            state.changed = true;
            self.changed += 1;
        }
    }

    /// A change of whole sets: every page that has, or had, anything to say is written again.
    fn touch_all(&mut self) {
        for page in 0..self.pages.len() {
            let state = &mut self.pages[page];
            let blank = state.generation == 0
                && self.writing.is_none()
                && self.activity.page(page) == [0; PAGE_WORDS]
                && self.out_of_sync.page(page) == [0; PAGE_WORDS];
            if !state.changed && !blank {
                state.changed = true;
                self.changed += 1;
            }
        }
    }

    /// Bits of the first 64 regions: activity, out of sync.
    #[cfg(feature = "testing")]
    pub fn first_words(&self) -> (u64, u64) {
        (self.activity.page(0)[0], self.out_of_sync.page(0)[0])
    }

    /// What of its writing is not told by the sets.
    #[cfg(feature = "testing")]
    pub(super) fn canonical(&self, into: &mut super::canonical::Canonical) {
        into.put(u64::from(self.changed));
        into.put(self.taken - self.durable);
        into.put(self.pages.iter().any(|page| page.generation != 0));
        for (_, activity, out_of_sync) in &self.written {
            into.put(activity[0]);
            into.put(out_of_sync[0]);
        }
    }

    /// Memory differs from the last snapshot.
    pub(super) const fn changed(&self) -> bool {
        self.changed != 0
    }

    pub(super) const fn writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Number of the snapshot that will hold everything in memory now: the one being taken next,
    /// or the last one when nothing has changed since.
    pub(super) const fn covering(&self) -> u64 {
        if self.changed() { self.taken + 1 } else { self.taken }
    }

    /// Number of the newest snapshot on disk.
    pub(super) const fn durable(&self) -> u64 {
        self.durable
    }

    /// See `Volume::map_pages`.
    pub(super) fn snapshot(&mut self, out: &mut Vec<MapPage>) -> Option<MapGeneration> {
        if self.writing.is_some() || self.changed == 0 {
            return None;
        }
        for page in 0..self.pages.len() {
            let state = &mut self.pages[page];
            if !state.changed {
                continue;
            }
            state.changed = false;
            let generation = state.generation + 1;
            let (activity, out_of_sync) = (self.activity.page(page), self.out_of_sync.page(page));
            narrow(&mut self.sure_activity, page, &activity);
            narrow(&mut self.sure_out_of_sync, page, &out_of_sync);
            let number = u32::try_from(page).unwrap_or(u32::MAX);
            let slot = 1 + 2 * page as u64 + generation % 2;
            out.push(MapPage {
                offset: slot * PAGE as u64,
                bytes: encode(self.geometry.id, number, generation, &activity, &out_of_sync),
            });
            self.written.push((page, Box::new(activity), Box::new(out_of_sync)));
        }
        self.changed = 0;
        self.taken += 1;
        self.writing = Some(MapGeneration(self.taken));
        self.writing
    }

    /// The snapshot is on disk: its bits are sure. False: it is not the one being written.
    pub(super) fn snapshot_durable(&mut self, generation: MapGeneration) -> bool {
        if self.writing != Some(generation) {
            return false;
        }
        self.writing = None;
        self.durable = generation.0;
        for (page, activity, out_of_sync) in self.written.drain(..) {
            self.pages[page].generation += 1;
            self.sure_activity.set_page(page, &activity);
            self.sure_out_of_sync.set_page(page, &out_of_sync);
        }
        true
    }

    /// The snapshot may be on disk in part: its pages are to be written again, to the same slots
    /// (the other slot holds the last page that is whole for certain).
    pub(super) fn snapshot_failed(&mut self, generation: MapGeneration) -> bool {
        if self.writing != Some(generation) {
            return false;
        }
        self.writing = None;
        for (page, ..) in self.written.drain(..) {
            if !self.pages[page].changed {
                self.pages[page].changed = true;
                self.changed += 1;
            }
        }
        true
    }
}

/// While a page is being written the disk may hold the old or the new: only bits of both are sure.
fn narrow(sure: &mut RegionSet, page: usize, new: &PageBits) {
    let mut bits = sure.page(page);
    for (bit, new) in bits.iter_mut().zip(new) {
        *bit &= new;
    }
    sure.set_page(page, &bits);
}

#[cfg(test)]
#[path = "map_tests.rs"]
mod tests;
