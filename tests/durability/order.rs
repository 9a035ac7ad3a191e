//! The order of things, through two whole arrays: before the SCSI Response of a change begins to
//! leave array A, the change is on stable storage on A and on B.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::calls::{self, Observed};
use crate::initiator::{Status, transfer};
use crate::lun::{Lun, Portal, compare_and_write, unmap, write_same};
use crate::rig::{Member, Rig};

/// Each change has a part of the volume to itself, so that it is known by its place.
const PLACE: u64 = 128 << 10;
/// Changes of one run.
const CHANGES: u64 = 120;
/// Commands in flight.
const DEPTH: usize = 8;

const FILE_CALLS: &str = "pwrite64,pwritev,pwritev2,fdatasync,fsync,fallocate";
const SOCKET_CALLS: &str = "write,writev,sendto,sendmsg";

/// What the host asked for, by task tag.
#[derive(Clone, Debug)]
struct Asked {
    what: &'static str,
    bytes: Range<u64>,
    /// How the data begins, if there are data.
    payload: Option<[u8; 16]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Plain,
    Ring,
}

/// Sends the `n`th change.
fn ask(lun: &mut Lun, n: u64) -> (crate::lun::Sent, Asked) {
    let lba = n * PLACE / 512;
    let mut payload = [0xa5; 16];
    payload[..8].copy_from_slice(&n.to_be_bytes());
    let data = |blocks: usize| {
        let mut data = vec![0x5a; blocks * 512];
        data[..16].copy_from_slice(&payload);
        data
    };
    let (what, lba, blocks, cdb, data) = match n % 6 {
        0 => ("WRITE of 4 KiB", lba, 8, transfer(true, lba, 8).to_vec(), data(8)),
        1 => ("WRITE of 512 bytes", lba + 3, 1, transfer(true, lba + 3, 1).to_vec(), data(1)),
        2 => ("WRITE of 96 KiB", lba, 192, transfer(true, lba, 192).to_vec(), data(192)),
        3 => ("WRITE SAME", lba, 64, write_same(lba, 64).to_vec(), data(1)),
        4 => {
            let (cdb, list) = unmap(lba, 64);
            ("UNMAP", lba, 64, cdb.to_vec(), list.to_vec())
        }
        // Compares with the zeroes that are there.
        _ => {
            let both = [vec![0; 512], data(1)].concat();
            ("COMPARE AND WRITE", lba, 1, compare_and_write(lba, 1).to_vec(), both)
        }
    };
    let bytes = lba * 512..(lba + blocks) * 512;
    let payload = (what != "UNMAP").then_some(payload);
    (lun.send(&cdb, &data).unwrap(), Asked { what, bytes, payload })
}

/// Carries out all changes on array A; what was asked, by task tag. All are answered GOOD.
fn work(rig: &Rig) -> BTreeMap<u32, Asked> {
    let mut lun = Portal::of(&rig.places[0]).open(1).unwrap();
    let (mut asked, mut open) = (BTreeMap::new(), Vec::new());
    for n in 0..CHANGES {
        let (sent, what) = ask(&mut lun, n);
        asked.insert(sent.tag, what);
        open.push(sent);
        while open.len() >= DEPTH || (n + 1 == CHANGES && !open.is_empty()) {
            let (tag, status) = lun.answer(&open).unwrap();
            assert_eq!(status, Status::GOOD, "{:?}", asked[&tag]);
            open.retain(|sent| sent.tag != tag);
        }
    }
    asked
}

/// Runs a pair through all changes with one array breaking a rule, or none; every answer that came
/// too early. `None`: there is no strace here.
fn early_answers(engine: Engine, broken: Option<(&str, Member)>) -> Option<Vec<String>> {
    let mut rig = Rig::new(if engine == Engine::Plain { "plain" } else { "ring" });
    let file_calls = if engine == Engine::Plain { FILE_CALLS } else { "none" };
    for (place, socket_calls) in rig.places.iter_mut().zip([SOCKET_CALLS, "none"]) {
        // The usual timers: nothing may be dropped because it is slow under strace.
        place.extra.clear();
        let calls: Vec<_> = [file_calls, socket_calls].into_iter().filter(|calls| *calls != "none").collect();
        if !calls.is_empty() && !calls::watch(place, &calls.join(",")) {
            return None;
        }
        if engine == Engine::Ring {
            calls::trace(place);
        }
    }
    if let Some((mutation, member)) = broken {
        rig.break_rule(member, mutation);
    }
    rig.make().unwrap();
    let epoch = |rig: &Rig| rig.array(Member::A).unwrap().group()["epoch"].clone();
    let before = epoch(&rig);
    if engine == Engine::Ring {
        stable_descriptors(&rig);
    }
    let asked = work(&rig);
    assert_eq!(epoch(&rig), before, "in sync all the time");
    rig.kill(&[Member::A, Member::B]);
    let seen = [Member::A, Member::B].map(|member| {
        let (place, data) = (&rig.places[usize::from(member == Member::B)], rig.data_file(member));
        match engine {
            Engine::Plain => calls::seen(place, &data),
            Engine::Ring => calls::submitted(place, &data),
        }
    });
    let answers = match engine {
        Engine::Plain => seen[0].answers.clone(),
        Engine::Ring => calls::seen(&rig.places[0], &rig.data_file(Member::A)).answers,
    };
    let mut early = Vec::new();
    for (tag, asked) in &asked {
        let answered = answers.get(tag).unwrap_or_else(|| panic!("no answer to {asked:?} was seen"));
        for (array, seen) in ["A", "B"].into_iter().zip(&seen) {
            if let Err(why) = stable_before(seen, asked, *answered) {
                early.push(format!("{} at {}: {why} on {array}", asked.what, asked.bytes.start));
            }
        }
    }
    Some(early)
}

/// Was all that was asked on stable storage at this moment?
fn stable_before(seen: &Observed, asked: &Asked, moment: f64) -> Result<(), String> {
    let place = asked.bytes.start / PLACE * PLACE;
    let place = place..place + PLACE;
    let mut covered = asked.bytes.start;
    let mut changes: Vec<_> =
        seen.changes.iter().filter(|change| place.contains(&change.bytes.start)).collect();
    changes.sort_by_key(|change| change.bytes.start);
    for change in changes {
        if change.over > moment {
            return Err(format!("answered {:.6} s before a write was over", change.over - moment));
        }
        let flushed = seen.flushes.iter().any(|flush| flush.begun >= change.over && flush.over <= moment);
        if !change.stable && !flushed {
            return Err("answered without a flush".into());
        }
        if let (Some(data), Some(payload)) = (&change.data, &asked.payload) {
            // A write that was widened to whole physical blocks has the host's data further in.
            let skip = usize::try_from(asked.bytes.start.saturating_sub(change.bytes.start)).unwrap();
            let first = change.bytes.start <= asked.bytes.start;
            if first && data.get(skip..skip + payload.len()) != Some(payload) {
                return Err("other data were written".into());
            }
        }
        if change.bytes.start <= covered {
            covered = covered.max(change.bytes.end);
        }
    }
    if covered >= asked.bytes.end { Ok(()) } else { Err(format!("nothing was written from {covered} on")) }
}

/// The ring's stable writes go through descriptors with O_DSYNC: the kernel says so.
fn stable_descriptors(rig: &Rig) {
    for member in [Member::A, Member::B] {
        let pid = rig.pid(member);
        let data = rig.data_file(member);
        let mut found = false;
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
            if std::fs::read_link(entry.path()).is_ok_and(|link| link == data) {
                let info = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
                let info = std::fs::read_to_string(info).unwrap();
                let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
                found |= i32::from_str_radix(flags, 8).unwrap() & O_DSYNC != 0;
            }
        }
        assert!(found, "no descriptor of {} has O_DSYNC", data.display());
    }
}

const O_DSYNC: i32 = nix::libc::O_DSYNC;

/// The order as it should be, and each way to get it wrong noticed.
fn show(engine: Engine) {
    let Some(early) = early_answers(engine, None) else { return };
    assert!(early.is_empty(), "{early:#?}");
    // On the ring B is not slowed down by strace, and may be faster than A.
    let mirror = (engine == Engine::Plain).then_some(("R2AnswerWithoutMirror", Member::A));
    for broken in [
        ("StoreWriteNotStable", Member::A),
        ("StoreWriteNotStable", Member::B),
        ("StoreFlushSkipped", Member::A),
        ("StoreFlushSkipped", Member::B),
    ]
    .into_iter()
    .chain(mirror)
    {
        let early = early_answers(engine, Some(broken)).unwrap_or_default();
        println!("{broken:?}: {} early answers, {:?}", early.len(), early.first());
        assert!(!early.is_empty(), "{broken:?} was not noticed");
    }
}

#[test]
fn on_the_plain_engine_each_good_follows_the_flushes_on_both_arrays() {
    show(Engine::Plain);
}

#[test]
fn on_the_ring_each_good_follows_the_flushes_on_both_arrays() {
    if let (twinlun::sys::engine::Engine::Plain, why) = twinlun::sys::engine::Engine::best() {
        println!("skipped: no io_uring here: {why:?}");
        return;
    }
    show(Engine::Ring);
}
