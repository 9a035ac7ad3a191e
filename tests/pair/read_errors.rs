//! F38: blocks that a disk cannot read. The fault switch of test builds makes them bad
//! (`TWINLUN_BAD_BLOCKS`); what lies under them is overwritten, so that only the other array has it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use super::initiator::Status;
use super::lun::{Lun, Portal};
use super::site::{Array, LIMIT, Pair, Place, qemu_io, read_back, until, write_and_read};

/// In the 256 KiB from 1 MiB on that the tests write: physical blocks, one of them the last.
const BAD: [u64; 3] = [2048, 2128, 2552];
const PATTERN: u8 = 0x5a;
const GARBAGE: [u8; 4096] = [0xee; 4096];
/// A host's read is answered within this (F38), on a busy machine too.
const SOON: Duration = Duration::from_secs(10);

fn list(place: &Place) -> PathBuf {
    place.directory.join(format!("{}.bad", place.name))
}

fn with_fault(mut pair: Pair) -> Pair {
    for place in [&mut pair.a, &mut pair.b] {
        let path = list(place).to_str().unwrap().to_owned();
        place.environment.push(("TWINLUN_BAD_BLOCKS".into(), path));
    }
    pair
}

fn volume(place: &Place) -> File {
    let path = place.data_dir.join("volumes/v0");
    File::options().read(true).write(true).open(path).unwrap()
}

/// Makes blocks bad, and loses what they held; `for_good`: not to be written either.
fn spoil(array: &Array, blocks: &[u64], for_good: bool) {
    spoil_at(&array.place, blocks, for_good);
}

fn spoil_at(place: &Place, blocks: &[u64], for_good: bool) {
    let file = volume(place);
    for lba in blocks {
        file.write_all_at(&GARBAGE, lba * 512).unwrap();
    }
    file.sync_all().unwrap();
    let mark = if for_good { "!" } else { "" };
    let lines: String = blocks.iter().map(|lba| format!("{mark}{lba}\n")).collect();
    fs::write(list(place), lines).unwrap();
}

fn held(array: &Array, lba: u64) -> [u8; 4096] {
    let mut block = [0; 4096];
    volume(&array.place).read_exact_at(&mut block, lba * 512).unwrap();
    block
}

/// A pair in sync that holds the pattern; `None`, with a note: no initiator here.
fn written() -> Option<(Pair, Array, Array)> {
    let pair = with_fault(Pair::new());
    let (a, b) = pair.in_sync();
    qemu_io(&a.place, "read 0 4k")?.unwrap();
    write_and_read(&a.place, &a.place, PATTERN);
    assert_eq!(held(&b, BAD[0]), [PATTERN; 4096]);
    Some((pair, a, b))
}

#[test]
fn what_a_cannot_read_comes_from_b_and_is_written_anew() {
    let Some((_pair, a, b)) = written() else { return };
    let epoch = a.group()["epoch"].clone();
    spoil(&a, &BAD, false);
    let begin = std::time::Instant::now();
    read_back(&a.place, PATTERN);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    for lba in BAD {
        assert_eq!(held(&a, lba), [PATTERN; 4096], "LBA {lba}");
    }
    let events = a.cli(&["showeventlog"]);
    assert!(events.contains("3 blocks of 4 KiB from LBA 2048 on could not be read"), "{events}");
    let group = a.group();
    assert_eq!((&group["epoch"], &group["serves"]), (&epoch, &serde_json::json!(true)));
    // Mended for good: B is not needed any more.
    b.daemon.kill();
    until("alone", LIMIT, || (a.group()["inSync"] == false).then_some(()));
    read_back(&a.place, PATTERN);
}

#[test]
fn a_block_that_cannot_be_written_either_is_answered_and_handed_over() {
    let Some((pair, a, b)) = written() else { return };
    spoil(&a, &BAD, true);
    read_back(&a.place, PATTERN);
    let events = a.cli(&["showeventlog"]);
    assert!(events.contains("LBA 2048 can be neither read nor written"), "{events}");
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    read_back(&pair.b, PATTERN);
}

#[test]
fn alone_it_is_a_medium_error_and_nothing_is_guessed() {
    let Some((_pair, mut a, b)) = written() else { return };
    b.daemon.kill();
    until("alone", LIMIT, || (a.group()["inSync"] == false).then_some(()));
    spoil(&a, &BAD, false);
    qemu_io(&a.place, "read 1M 256k").unwrap().expect_err("nobody has these blocks");
    qemu_io(&a.place, "read -P 0x5a 1028k 36k").unwrap().expect("its neighbours are there");
    assert_eq!(held(&a, BAD[0]), GARBAGE, "nothing was written");
    assert!(a.daemon.is_alive());
    assert_eq!(a.group()["serves"], true);
    // The host writes them anew.
    write_and_read(&a.place, &a.place, 0x11);
}

#[test]
fn what_neither_array_can_read_is_a_medium_error_and_no_hand_over() {
    let Some((_pair, a, b)) = written() else { return };
    spoil(&a, &BAD[..2], false);
    spoil(&b, &BAD[1..2], false);
    let epoch = a.group()["epoch"].clone();
    qemu_io(&a.place, "read 1M 256k").unwrap().expect_err("nobody has these blocks");
    qemu_io(&a.place, "read -P 0x5a 1M 40k").unwrap().expect("B has the first");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(a.group()["epoch"], epoch);
    write_and_read(&a.place, &a.place, 0x22);
    assert!(a.group()["serves"] == true && a.group()["inSync"] == true);
}

fn lun(place: &Place) -> Lun {
    until("a session", LIMIT, || Portal::of(place).open(1).ok())
}

/// What `lba` holds, once the array serves.
fn read(place: &Place, lba: u64) -> Vec<u8> {
    until("data", LIMIT, || lun(place).read(lba, 8).ok().filter(|data| data.len() == 4096))
}

/// A restarts with its last write in doubt, and blocks of that region bad (`a`), some of them at B as well
/// (`b`). Without a witness B is not promoted meanwhile, however long that takes.
fn restarted_in_doubt(a_bad: &[u64], b_bad: &[u64]) -> (tempfile::TempDir, Array, Array) {
    let pair = with_fault(Pair::new());
    let (a, b) = pair.in_sync();
    let Pair { a: place, witness, directory, .. } = pair;
    witness.kill();
    let data = vec![PATTERN; 256 << 10];
    assert_eq!(lun(&place).write(2048, &data).unwrap(), Status::GOOD);
    a.daemon.kill();
    spoil_at(&place, a_bad, false);
    spoil(&b, b_bad, false);
    (directory, place.start(), b)
}

#[test]
fn a_block_in_doubt_after_a_restart_comes_from_b_and_the_group_is_in_sync_again() {
    let (_directory, a, b) = restarted_in_doubt(&BAD, &[2200]);
    assert_eq!(read(&a.place, BAD[1]), vec![PATTERN; 4096]);
    for lba in BAD {
        assert_eq!(held(&a, lba), [PATTERN; 4096], "LBA {lba}");
    }
    until("synced", LIMIT, || (a.group()["sync"] == "Synced").then_some(()));
    let events = a.cli(&["showeventlog"]);
    assert!(events.contains("in doubt since a restart"), "{events}");
    assert_eq!(held(&b, 2200), [PATTERN; 4096], "B's bad block was written anew by the copy");
}

#[test]
fn a_block_in_doubt_that_neither_can_read_is_an_error_and_nothing_else_waits() {
    let (_directory, a, _b) = restarted_in_doubt(&BAD, &BAD[1..2]);
    assert_eq!(read(&a.place, BAD[0]), vec![PATTERN; 4096]);
    assert!(lun(&a.place).read(BAD[1], 8).is_err(), "nobody has it");
    let events = a.cli(&["showeventlog"]);
    assert!(events.contains("can be read on neither array"), "{events}");
    assert_eq!(a.group()["serves"], true);
    let anew = vec![0x22; 4096];
    assert_eq!(lun(&a.place).write(BAD[1], &anew).unwrap(), Status::GOOD);
    until("synced", LIMIT, || (a.group()["sync"] == "Synced").then_some(()));
    assert_eq!(read(&a.place, BAD[1]), anew);
}

#[test]
fn what_each_array_can_read_makes_up_for_the_other() {
    let Some((_pair, a, b)) = written() else { return };
    spoil(&a, &BAD[..1], false);
    spoil(&b, &BAD[1..], false);
    read_back(&a.place, PATTERN);
    assert_eq!(held(&a, BAD[0]), [PATTERN; 4096]);
    assert_eq!(a.group()["serves"], true);
}
