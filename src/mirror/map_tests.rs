//! The dirty map and its file, torn, foreign and damaged.

use super::super::api::VolumeId;
use super::super::map_page::seal;
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
    for (durable_writes, torn_at) in (0..4).flat_map(|writes| [0, 512, 1024, 3584].map(|at| (writes, at))) {
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
    assert_eq!(DirtyMap::decode(other, &file).unwrap_err(), MapError::Foreign { found: VolumeId([7; 16]) });
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
