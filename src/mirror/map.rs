//! The dirty map: one activity bit and one out-of-sync bit for each region, in pages of 4 KiB.
//!
//! Three states of a bit matter. In memory it says what must be on disk soon; `sure` says that the
//! disk holds it whatever becomes of a page now being written; only a sure bit lets the write it
//! covers begin (rule 10). A bit that is on disk without need costs a copy in vain, never data.
//!
//! The file: one header page, then two slots for each page of the map. A page is written to its
//! slots in turn, so that a torn write leaves the one before; generation `n` lies in slot `n % 2`.

use crc_fast::CrcAlgorithm;

use super::api::{Geometry, MapGeneration, REGION_BLOCKS, VolumeId};
use super::regions::{PAGE_REGIONS, PAGE_WORDS, PageBits, RegionSet};

/// Bytes of a page of the map, and of its file's header.
const PAGE: usize = 4096;
const HEADER_MAGIC: [u8; 8] = *b"twlnDMF\n";
const PAGE_MAGIC: [u8; 8] = *b"twlnDMP\n";
/// Format written here, and the oldest reader that understands it.
const VERSION: u16 = 1;
const READABLE_FROM: u16 = 1;
/// Page header: magic 8, version 2, readable from 2, page number 4, volume 16, generation 8,
/// CRC32C of the page with this field zero 4, zeroes to 64; then activity, then out-of-sync bits.
/// The file's header page has the region size in blocks where a page has its generation.
const CRC_AT: usize = 40;
const ACTIVITY_AT: usize = 64;
const OOS_AT: usize = ACTIVITY_AT + PAGE_WORDS * 8;
/// Number that the header page carries in place of a page number.
const HEADER_NUMBER: u32 = u32::MAX;

/// One page of the dirty map to be written: `bytes` at `offset` of the volume's map file. Pages of
/// a snapshot may be written in any order.
#[derive(Clone, Debug)]
pub struct MapPage {
    /// Byte offset in the map file; a multiple of 4096.
    pub offset: u64,
    pub bytes: Box<[u8; PAGE]>,
}

/// Why a map file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    #[error(
        "the dirty map has no valid header: it is not a dirty map, or was torn at creation; restore it, or replace the volume's copy and let it be synchronised in full"
    )]
    NotAMap,
    #[error(
        "the dirty map has format version {version}; this program reads up to {VERSION}: use a newer one"
    )]
    Version { version: u16 },
    #[error("the dirty map belongs to another volume ({})", uuid::Uuid::from_bytes(.found.0))]
    Foreign { found: VolumeId },
    #[error("the dirty map counts regions of {blocks} blocks, not {REGION_BLOCKS}")]
    RegionSize { blocks: u64 },
    #[error("page {page} of the dirty map is torn or damaged in both of its slots")]
    Torn { page: u32 },
    #[error(
        "page {page} of the dirty map holds page {found}, or one of another volume: the file was mixed up"
    )]
    Misplaced { page: u32, found: u32 },
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
        let mut page = Box::new([0; PAGE]);
        put_header(&mut page, HEADER_MAGIC, HEADER_NUMBER, geometry.id, REGION_BLOCKS);
        seal(&mut page);
        page
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
                    if generation(even) > generation(odd) {
                        even
                    } else {
                        odd
                    }
                }
                [Slot::Valid(valid), _] | [_, Slot::Valid(valid)] => valid,
                [Slot::Torn, _] => return Err(MapError::Torn { page: number }),
            };
            map.pages[page].generation = generation(newest);
            let activity = bits(newest, ACTIVITY_AT);
            let out_of_sync = bits(newest, OOS_AT);
            map.activity.set_page(page, &activity);
            map.out_of_sync.set_page(page, &out_of_sync);
        }
        map.sure_activity = map.activity.clone();
        map.sure_out_of_sync = map.out_of_sync.clone();
        Ok(map)
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
            let number = u32::try_from(page).unwrap_or(HEADER_NUMBER);
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

enum Slot<'a> {
    Blank,
    Torn,
    Valid(&'a [u8; PAGE]),
}

/// What lies in one slot. A valid page in the wrong place is an error, never a torn one.
fn slot(id: VolumeId, number: u32, bytes: &[u8]) -> Result<Slot<'_>, MapError> {
    let Some(page) = bytes.first_chunk::<PAGE>() else {
        let blank = bytes.iter().all(|&byte| byte == 0);
        return Ok(if blank { Slot::Blank } else { Slot::Torn });
    };
    if page.iter().all(|&byte| byte == 0) {
        return Ok(Slot::Blank);
    }
    if page[..8] != PAGE_MAGIC || !sealed(page) {
        return Ok(Slot::Torn);
    }
    check_version(page)?;
    let found = u32::from_le_bytes(array(page, 12));
    if found != number || array::<16>(page, 16) != id.0 {
        return Err(MapError::Misplaced { page: number, found });
    }
    Ok(Slot::Valid(page))
}

fn check_header(page: &[u8; PAGE], id: VolumeId) -> Result<(), MapError> {
    if page[..8] != HEADER_MAGIC || !sealed(page) {
        return Err(MapError::NotAMap);
    }
    check_version(page)?;
    let found = VolumeId(array(page, 16));
    if found != id {
        return Err(MapError::Foreign { found });
    }
    let blocks = generation(page);
    if blocks != REGION_BLOCKS {
        return Err(MapError::RegionSize { blocks });
    }
    Ok(())
}

fn check_version(page: &[u8; PAGE]) -> Result<(), MapError> {
    let readable_from = u16::from_le_bytes(array(page, 10));
    if readable_from > VERSION {
        return Err(MapError::Version { version: u16::from_le_bytes(array(page, 8)) });
    }
    Ok(())
}

fn encode(
    id: VolumeId,
    number: u32,
    generation: u64,
    activity: &PageBits,
    oos: &PageBits,
) -> Box<[u8; PAGE]> {
    let mut page = Box::new([0; PAGE]);
    put_header(&mut page, PAGE_MAGIC, number, id, generation);
    for (at, bits) in [(ACTIVITY_AT, activity), (OOS_AT, oos)] {
        for (bytes, word) in page[at..].chunks_exact_mut(8).zip(bits) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }
    seal(&mut page);
    page
}

fn put_header(page: &mut [u8; PAGE], magic: [u8; 8], number: u32, id: VolumeId, generation: u64) {
    page[..8].copy_from_slice(&magic);
    page[8..10].copy_from_slice(&VERSION.to_le_bytes());
    page[10..12].copy_from_slice(&READABLE_FROM.to_le_bytes());
    page[12..16].copy_from_slice(&number.to_le_bytes());
    page[16..32].copy_from_slice(&id.0);
    page[32..40].copy_from_slice(&generation.to_le_bytes());
}

fn crc(page: &[u8; PAGE]) -> [u8; 4] {
    let mut digest = crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&page[..CRC_AT]);
    digest.update(&[0; 4]);
    digest.update(&page[CRC_AT + 4..]);
    u32::try_from(digest.finalize()).unwrap_or(0).to_le_bytes()
}

fn seal(page: &mut [u8; PAGE]) {
    let crc = crc(page);
    page[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
}

fn sealed(page: &[u8; PAGE]) -> bool {
    crc(page) == array::<4>(page, CRC_AT)
}

fn generation(page: &[u8; PAGE]) -> u64 {
    u64::from_le_bytes(array(page, 32))
}

fn bits(page: &[u8; PAGE], at: usize) -> PageBits {
    let mut bits = [0; PAGE_WORDS];
    for (word, bytes) in bits.iter_mut().zip(page[at..].chunks_exact(8)) {
        // Chunks of eight bytes by construction; `fold` needs no fallible conversion.
        *word = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
    }
    bits
}

/// `N` bytes of a page; every caller's `at` is a constant inside it.
fn array<const N: usize>(page: &[u8; PAGE], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&page[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn geometry() -> Geometry {
        Geometry { id: VolumeId([7; 16]), blocks: (PAGE_REGIONS + 10) * REGION_BLOCKS }
    }

    /// A disk image of the map file and how snapshots get there.
    fn write(file: &mut [u8], pages: &[MapPage]) {
        for page in pages {
            let at = usize::try_from(page.offset).unwrap();
            file[at..at + PAGE].copy_from_slice(&*page.bytes);
        }
    }

    fn new_file() -> Vec<u8> {
        let mut file = vec![0; usize::try_from(DirtyMap::file_len(geometry())).unwrap()];
        file[..PAGE].copy_from_slice(&*DirtyMap::file_header(geometry()));
        file
    }

    fn persist(map: &mut DirtyMap, file: &mut [u8]) {
        let mut pages = Vec::new();
        let generation = map.snapshot(&mut pages).unwrap();
        write(file, &pages);
        assert!(map.snapshot_durable(generation));
    }

    #[test]
    fn comes_back_from_its_file() {
        let (mut map, mut file) = (DirtyMap::new(geometry()), new_file());
        map.mark_active(3);
        map.mark_out_of_sync(PAGE_REGIONS + 1);
        persist(&mut map, &mut file);
        map.clear_active(3);
        map.mark_active(9);
        persist(&mut map, &mut file);
        let read = DirtyMap::decode(geometry(), &file).unwrap();
        assert!(read.activity().contains(9) && read.sure_activity().contains(9));
        assert!(!read.activity().contains(3));
        assert!(read.out_of_sync().contains(PAGE_REGIONS + 1));
        assert_eq!((read.activity().len(), read.out_of_sync().len()), (1, 1));
    }

    #[test]
    fn a_torn_page_leaves_the_one_before() {
        for (durable_writes, torn_at) in (0..4).flat_map(|writes| [0, 512, 1024, 3584].map(|at| (writes, at)))
        {
            let (mut map, mut file) = (DirtyMap::new(geometry()), new_file());
            for region in 0..durable_writes {
                map.mark_active(region);
                persist(&mut map, &mut file);
            }
            map.mark_active(16_000);
            let mut pages = Vec::new();
            map.snapshot(&mut pages).unwrap();
            let page = &mut pages[0];
            let at = usize::try_from(page.offset).unwrap();
            // Sectors before `torn_at` are new, the others are as they were; and the reverse.
            for new_first in [true, false] {
                let mut torn = file.clone();
                let range = if new_first { 0..torn_at } else { torn_at..PAGE };
                torn[at..at + PAGE][range.clone()].copy_from_slice(&page.bytes[range]);
                let read = DirtyMap::decode(geometry(), &torn).unwrap();
                for region in 0..durable_writes {
                    assert!(read.activity().contains(region), "{durable_writes} {torn_at}");
                }
            }
        }
    }

    #[test]
    fn refuses_by_name_what_is_not_its_own() {
        let (mut map, mut file) = (DirtyMap::new(geometry()), new_file());
        assert_eq!(DirtyMap::decode(geometry(), &[]).unwrap_err(), MapError::NotAMap);
        assert_eq!(DirtyMap::decode(geometry(), &[0; 8192]).unwrap_err(), MapError::NotAMap);
        let other = Geometry { id: VolumeId([8; 16]), ..geometry() };
        assert_eq!(
            DirtyMap::decode(other, &file).unwrap_err(),
            MapError::Foreign { found: VolumeId([7; 16]) }
        );
        map.mark_active(1);
        persist(&mut map, &mut file);
        map.mark_active(2);
        persist(&mut map, &mut file);
        let mut misplaced = file.clone();
        misplaced.copy_within(PAGE..2 * PAGE, 3 * PAGE);
        assert_eq!(
            DirtyMap::decode(geometry(), &misplaced).unwrap_err(),
            MapError::Misplaced { page: 1, found: 0 }
        );
        let mut both = file.clone();
        both[PAGE + 100] ^= 1;
        assert!(DirtyMap::decode(geometry(), &both).is_ok());
        both[2 * PAGE + 100] ^= 1;
        assert_eq!(DirtyMap::decode(geometry(), &both).unwrap_err(), MapError::Torn { page: 0 });
        let mut newer = DirtyMap::file_header(geometry());
        newer[8] = 9;
        newer[10] = 9;
        seal(&mut newer);
        assert_eq!(DirtyMap::decode(geometry(), &newer[..]).unwrap_err(), MapError::Version { version: 9 });
    }

    #[test]
    fn a_bit_is_sure_only_while_every_page_that_may_be_on_disk_has_it() {
        let (mut map, mut file) = (DirtyMap::new(geometry()), new_file());
        map.mark_active(1);
        assert!(!map.sure_activity().contains(1));
        let mut pages = Vec::new();
        let first = map.snapshot(&mut pages).unwrap();
        map.mark_active(2); // after the snapshot: not in it
        assert!(map.snapshot(&mut pages).is_none(), "one snapshot at a time");
        assert!(map.snapshot_durable(first));
        assert!(map.sure_activity().contains(1) && !map.sure_activity().contains(2));
        persist(&mut map, &mut file);
        assert!(map.sure_activity().contains(2));
        map.clear_active(1);
        assert!(map.sure_activity().contains(1), "still on disk: nothing was written since");
        let clearing = map.snapshot(&mut pages).unwrap();
        map.mark_active(1);
        assert!(!map.sure_activity().contains(1), "the page on its way lacks it");
        assert!(map.snapshot_durable(clearing));
        assert!(!map.sure_activity().contains(1) && map.changed());
    }

    #[test]
    fn a_failed_snapshot_goes_to_the_same_slot_again() {
        let (mut map, mut file) = (DirtyMap::new(geometry()), new_file());
        map.mark_active(1);
        persist(&mut map, &mut file);
        map.mark_active(2);
        let mut pages = Vec::new();
        let failed = map.snapshot(&mut pages).unwrap();
        assert!(map.snapshot_failed(failed) && !map.snapshot_durable(failed));
        assert!(map.sure_activity().contains(1) && !map.sure_activity().contains(2));
        let mut again = Vec::new();
        map.snapshot(&mut again).unwrap();
        assert_eq!(pages[0].offset, again[0].offset);
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_or_a_map_but_never_a_panic(
            mut garbage in prop::collection::vec(any::<u8>(), 0..3 * PAGE),
            keep_header in any::<bool>(),
            flips in prop::collection::vec((0_usize..3 * PAGE, any::<u8>()), 0..4),
        ) {
            if keep_header {
                let mut map = DirtyMap::new(geometry());
                map.mark_active(5);
                garbage = new_file();
                persist(&mut map, &mut garbage);
            }
            for (at, value) in flips {
                if let Some(byte) = garbage.get_mut(at) { *byte ^= value; }
            }
            let _ = DirtyMap::decode(geometry(), &garbage);
        }
    }
}
