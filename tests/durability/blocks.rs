//! Logical blocks of 512 bytes on a disk that writes 4 KiB at a time: eight hosts, each with a block
//! of its own in every physical block, never lose a write to each other.

use std::sync::{Barrier, Mutex};
use std::time::Duration;

use crate::disk::Disk;
use crate::initiator::{Status, transfer};
use crate::lun::{Lun, Portal};
use crate::rig::{Member, Rig};
use crate::site::until;

/// Logical blocks in a physical one, and as many hosts.
const HOSTS: usize = 8;
/// Physical blocks that are written.
const PHYSICAL: u64 = 96;
const ROUNDS: u64 = 4;
/// Times that all is written and read back; with a rule broken until a write is lost.
const PASSES: u64 = 3;
const PASSES_BROKEN: u64 = 40;
/// Commands that one host has in flight.
const DEPTH: usize = 4;

fn data(host: usize, physical: u64, round: u64) -> Vec<u8> {
    let host = u64::try_from(host).unwrap();
    [host, physical, round].map(u64::to_le_bytes).concat().repeat(22)[..512].to_vec()
}

/// Writes all rounds of one host; the other hosts' neighbouring writes are in flight meanwhile.
fn write_all(portal: &Portal, host: usize, pass: u64, start: &Barrier) -> Result<(), String> {
    let lun = portal.open(u8::try_from(host + 1).unwrap());
    start.wait();
    let mut lun: Lun = lun.map_err(|error| error.to_string())?;
    let mut open = Vec::new();
    let (first, end) = (pass * ROUNDS, (pass + 1) * ROUNDS);
    for round in first..end {
        for physical in 0..PHYSICAL {
            let lba = physical * 8 + host as u64;
            open.push(lun.send(&transfer(true, lba, 1), &data(host, physical, round)).unwrap());
            let last = (round, physical) == (end - 1, PHYSICAL - 1);
            while open.len() >= DEPTH || (last && !open.is_empty()) {
                let (tag, status) = lun.answer(&open).map_err(|error| error.to_string())?;
                if status != Status::GOOD {
                    return Err(status.to_string());
                }
                open.retain(|sent| sent.tag != tag);
            }
        }
    }
    Ok(())
}

fn read_all(portal: &Portal, pass: u64, through: &str) -> Result<(), String> {
    let mut lun = portal.open(100).map_err(|error| error.to_string())?;
    let bytes = lun.read(0, u32::try_from(PHYSICAL * 8).unwrap()).map_err(|error| error.to_string())?;
    let mut lost = Vec::new();
    for (lba, block) in bytes.chunks_exact(512).enumerate() {
        let (host, physical) = (lba % HOSTS, (lba / HOSTS) as u64);
        if block != data(host, physical, (pass + 1) * ROUNDS - 1) {
            lost.push(lba);
        }
    }
    if lost.is_empty() { Ok(()) } else { Err(format!("lost writes of blocks {lost:?} through {through}")) }
}

/// All hosts write through array A; then everything is read through A and through B.
fn neighbours(disks: &[Disk; 2], broken: Option<(&str, Member)>) -> Result<(), String> {
    let mut rig = Rig::new("ring");
    for (disk, place) in disks.iter().zip(&mut rig.places) {
        disk.under(place);
        place.extra.clear();
    }
    if let Some((mutation, member)) = broken {
        rig.break_rule(member, mutation);
    }
    rig.make()?;
    let portals = [Portal::of(&rig.places[0]), Portal::of(&rig.places[1])];
    let passes = if broken.is_some() { PASSES_BROKEN } else { PASSES };
    for pass in 0..passes {
        let (start, failures) = (Barrier::new(HOSTS), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for host in 0..HOSTS {
                let (portal, start, failures) = (&portals[0], &start, &failures);
                scope.spawn(move || {
                    if let Err(why) = write_all(portal, host, pass, start) {
                        failures.lock().unwrap().push(why);
                    }
                });
            }
        });
        let failures = failures.into_inner().unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        read_all(&portals[0], pass, "A")?;
    }
    rig.array(Member::A).unwrap().cli(&["setrcopygroup", "switchover", "g"]);
    until("B serves", Duration::from_secs(30), || (rig.serving() == Some(Member::B)).then_some(()));
    read_all(&portals[1], passes - 1, "B")
}

#[test]
fn neighbours_in_one_physical_block_lose_nothing() {
    let (Some(a), Some(b)) = (Disk::new("ext4"), Disk::new("ext4")) else { return };
    let disks = [a, b];
    neighbours(&disks, None).unwrap();
    let (Some(a), Some(b)) = (Disk::new("ext4"), Disk::new("ext4")) else { return };
    let disks = [a, b];
    let why = neighbours(&disks, Some(("R8LogicalOverlap", Member::A))).expect_err("nobody noticed");
    println!("{why}");
}
