//! How large a volume may be: what the file system takes, tried when it is made.

use std::fs;
use std::process::Command;

use crate::disk::Disk;
use crate::lun::Portal;
use crate::site::{Array, INITIATOR, Place};

const MIB: u64 = 1 << 20;
/// The most that DESIGN promises.
const LARGEST: u64 = 64 << 40;
/// ext4 with blocks of 4 KiB numbers them with 32 bits in each file.
const EXT4_MAX: u64 = 16 << 40;

fn export(array: &Array, volume: &str) {
    array.cli(&["createhost", "h", INITIATOR]);
    array.cli(&["createvlun", volume, "1", "h"]);
}

#[test]
fn a_volume_of_64_tib_works_to_its_last_block() {
    let on_tmpfs = Command::new("stat").args(["-f", "-c", "%T", "/dev/shm"]).output();
    if !on_tmpfs.is_ok_and(|output| output.stdout.starts_with(b"tmpfs")) {
        println!("skipped: /dev/shm is no tmpfs here");
        return;
    }
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let place = Place::new(directory.path(), "array-a", "a");
    let array = place.start();
    array.cli(&["createvv", "big", "64T"]);
    export(&array, "big");
    assert_eq!(array.get("/api/v1/volumes/big")["sizeMiB"], LARGEST / MIB);
    let last = LARGEST / 512 - 8;
    let mut lun = Portal::of(&place).open(1).unwrap();
    for (lba, byte) in [(0, 1), (last / 2 / 8 * 8, 2), (last, 3)] {
        assert_eq!(lun.write(lba, &[byte; 4096]).unwrap().status, 0);
    }
    assert_ne!(lun.write(last + 1, &[4; 4096]).unwrap().status, 0, "past the end");
    drop(lun);
    array.daemon.kill();
    let array = place.start();
    let mut lun = Portal::of(&place).open(1).unwrap();
    for (lba, byte) in [(0, 1), (last / 2 / 8 * 8, 2), (last, 3), (4096, 0)] {
        assert!(lun.read(lba, 8).unwrap() == vec![byte; 4096], "block {lba}");
    }
    drop(array);
    let data = fs::metadata(place.data_dir.join("volumes/big")).unwrap();
    let taken = std::os::unix::fs::MetadataExt::blocks(&data) * 512;
    assert!(data.len() >= LARGEST && taken < MIB, "{} bytes long, {taken} taken", data.len());
}

#[test]
fn ext4_takes_less_than_16_tib_and_the_refusal_says_how_much() {
    let directory = tempfile::tempdir().unwrap();
    let mut place = Place::new(directory.path(), "array-a", "a");
    let Some(disk) = Disk::new("ext4") else { return };
    disk.under(&mut place);
    let array = place.start();
    let said = array.cli_refused(&["createvv", "big", "64T"]);
    println!("{}", said.trim());
    let limit = said.split("the limit here is ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let limit: u64 = limit.unwrap_or_else(|| panic!("no limit is named: {said}"));
    assert!(limit < EXT4_MAX && limit > EXT4_MAX - MIB, "{limit}");
    assert!(array.cli_refused(&["createvv", "big", "16T"]).contains("the limit here is"));
    let fits = limit / MIB;
    assert!(array.cli_refused(&["createvv", "big", &format!("{}M", fits + 1)]).contains("the limit here is"));
    assert_eq!(array.get("/api/v1/volumes")["total"], 0, "a refusal leaves nothing behind");
    array.cli(&["createvv", "big", &format!("{fits}M")]);
    export(&array, "big");
    let mut lun = Portal::of(&place).open(1).unwrap();
    let last = fits * MIB / 512 - 8;
    assert_eq!(lun.write(last, &[7; 4096]).unwrap().status, 0);
    assert!(lun.read(last, 8).unwrap() == vec![7; 4096]);
}
