//! The write promise *memory* (T13) with whole daemons: what hosts see of it, what a kill of one array loses
//! (nothing), and what a loss of both memories at once may lose, and says.
//!
//! The volatile engine of test builds stands for a power failure: what was not flushed dies with the process.
//! With the real engines the page cache outlives it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::initiator::{Session, Status, transfer};
use super::lun::{Lun, Portal};
use super::site::{Array, INITIATOR, LIMIT, Pair, Place, until};

/// In 512-byte blocks: two physical blocks in regions of their own.
const X: u64 = 2048;
const Y: u64 = 8192;
const LEN: usize = 4096;
/// The flush in the background comes after a second: something of what is tried is sooner on any machine.
const TRIES: u8 = 20;

/// `m0` in memory, LUN 1, and `s0` stable, LUN 2, in one group.
fn objects(pair: &Pair) -> String {
    let path = pair.directory.path().join("objects.toml");
    let text = format!(
        "[[volume]]\nname = \"m0\"\nsize = \"64M\"\npromise = \"memory\"\n[[volume]]\nname = \"s0\"\nsize = \"64M\"\n\
         [[host]]\nname = \"h\"\niqns = [\"{INITIATOR}\"]\n\
         [[group]]\nname = \"g\"\ntarget = \"array-b\"\nvolumes = [\"m0\", \"s0\"]\n\
         [[vlun]]\nvolume = \"m0\"\nhost = \"h\"\nlun = 1\n[[vlun]]\nvolume = \"s0\"\nhost = \"h\"\nlun = 2\n"
    );
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// In sync. `volatile`: a kill is a power failure, and nothing is written back by chance.
fn in_sync(volatile: bool, mutation: Option<&str>) -> (Pair, Array, Array) {
    let mut pair = Pair::new();
    for place in [&mut pair.a, &mut pair.b] {
        if volatile {
            place.engine = Some("volatile");
            place.environment.push(("TWINLUN_WRITE_BACK".into(), "0".into()));
        }
        if let Some(mutation) = mutation {
            place.environment.push(("TWINLUN_MUTATION".into(), mutation.into()));
        }
    }
    let (a, b) = (pair.a.start(), pair.b.start());
    a.cli(&["apply", &objects(&pair), "--wait"]);
    b.until_in_sync();
    (pair, a, b)
}

fn lun(place: &Place, isid: u8) -> Lun {
    Portal::of(place).open(isid).unwrap()
}

/// A session of its own with another LUN.
fn on(place: &Place, number: u8) -> Lun {
    let address = format!("127.0.0.1:{}", place.portal).parse().unwrap();
    let (session, _, state) = Session::open(address, INITIATOR, &place.iqn(), 8, number).unwrap();
    Lun::over(session, state).unwrap()
}

/// What of a volume is in an array's file: with the volatile engine, what was flushed.
fn on_disk(place: &Place, volume: &str, lba: u64) -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    let file = File::open(place.data_dir.join("volumes").join(volume)).unwrap();
    file.read_exact_at(&mut bytes, lba * 512).unwrap();
    bytes
}

fn of(pattern: u8) -> Vec<u8> {
    vec![pattern; LEN]
}

#[track_caller]
fn write(lun: &mut Lun, lba: u64, pattern: u8) {
    assert_eq!(lun.write(lba, &of(pattern)).unwrap(), Status::GOOD);
}

#[track_caller]
fn write_fua(lun: &mut Lun, lba: u64, pattern: u8) {
    let mut cdb = transfer(true, lba, 8);
    cdb[1] = 0x08;
    assert_eq!(lun.command(&cdb, &of(pattern)).unwrap().1, Status::GOOD);
}

/// SYNCHRONIZE CACHE(10) of everything.
#[track_caller]
fn synchronize(lun: &mut Lun) {
    assert_eq!(lun.command(&[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]).unwrap().1, Status::GOOD);
}

/// WCE of the caching mode page (SBC-4 6.5.6).
fn write_cache(array: &Array, number: u8) -> bool {
    let page = on(&array.place, number).data_in(&[0x1a, 0x08, 0x08, 0, 64, 0], 64).unwrap();
    assert_eq!(page[4] & 0x3f, 0x08, "{page:?}");
    page[6] & 0x04 != 0
}

fn serves(array: &Array) -> Option<()> {
    (array.group()["serves"] == true).then_some(())
}

#[track_caller]
fn read_back(place: &Place, lba: u64, pattern: u8) {
    assert_eq!(lun(place, 3).read(lba, 8).unwrap(), of(pattern), "LBA {lba} of {}", place.name);
}

/// Whether in each try both disks held a write with FUA, and one that a SYNCHRONIZE CACHE followed, when
/// that was answered; and whether a bare write was ever answered from memory alone.
fn flushes_reach_both(pair: &Pair, a: &Array) -> (bool, bool) {
    let mut host = lun(&a.place, 1);
    let held = |volume: &str, lba: u64, pattern: u8| {
        [&pair.a, &pair.b].map(|place| on_disk(place, volume, lba) == of(pattern))
    };
    let (mut reached, mut from_memory) = (true, false);
    for pattern in 1..=TRIES {
        write(&mut host, X, pattern);
        from_memory |= held("m0", X, pattern) == [false, false];
        synchronize(&mut host);
        reached &= held("m0", X, pattern) == [true, true];
        write_fua(&mut host, Y, pattern);
        reached &= held("m0", Y, pattern) == [true, true];
    }
    (reached, from_memory)
}

#[test]
fn hosts_see_a_write_cache_and_what_they_flush_is_on_both_disks() {
    let (pair, a, b) = in_sync(true, None);
    for array in [&a, &b] {
        assert_eq!((write_cache(array, 1), write_cache(array, 2)), (true, false), "{}", array.place.name);
        let shown = array.cli(&["showvv"]);
        let line = |name: &str| shown.lines().find(|line| line.contains(name)).unwrap().to_owned();
        assert!(line("m0").contains(" memory ") && line("s0").contains(" stable "), "{shown}");
    }
    assert_eq!(flushes_reach_both(&pair, &a), (true, true));
    // The default promise needs no flush.
    let mut stable = on(&a.place, 2);
    for pattern in 1..=TRIES {
        write(&mut stable, X, pattern);
        for place in [&pair.a, &pair.b] {
            assert_eq!(on_disk(place, "s0", X), of(pattern), "{}", place.name);
        }
    }
}

#[test]
fn a_flush_that_reaches_one_disk_alone_is_found() {
    let (pair, a, _b) = in_sync(true, Some("T13FuaHereOnly"));
    assert!(!flushes_reach_both(&pair, &a).0, "B's disk was never looked at");
}

#[test]
fn the_power_of_one_array_loses_nothing() {
    let (pair, a, b) = in_sync(true, None);
    // A in office, then B.
    write(&mut lun(&a.place, 1), X, 1);
    a.daemon.kill();
    until("B serves", LIMIT, || serves(&b));
    read_back(&pair.b, X, 1);
    let a = pair.a.start();
    until("A is caught up", LIMIT, || (b.group()["inSync"] == true).then_some(()));
    a.until_in_sync();
    write(&mut lun(&b.place, 1), X, 2);
    b.daemon.kill();
    until("A serves", LIMIT, || serves(&a));
    read_back(&pair.a, X, 2);
    // Alone it keeps nothing in memory.
    write(&mut lun(&a.place, 1), Y, 3);
    a.daemon.kill();
    let a = pair.a.start();
    until("A serves again", LIMIT, || serves(&a));
    read_back(&pair.a, X, 2);
    read_back(&pair.a, Y, 3);
    assert_ne!(a.group()["promiseVoid"], true);
}

#[test]
fn the_power_of_the_secondary_loses_nothing_either() {
    let (pair, a, b) = in_sync(true, None);
    write(&mut lun(&a.place, 1), X, 1);
    b.daemon.kill();
    // What B held in memory alone is on A's disk before A is alone, whatever befalls A then.
    until("A is alone", LIMIT, || (a.group()["inSync"] == false).then_some(()));
    a.daemon.kill();
    let (a, b) = (pair.a.start(), pair.b.start());
    until("A serves", LIMIT, || serves(&a));
    read_back(&pair.a, X, 1);
    b.until_in_sync();
    assert_ne!(a.group()["promiseVoid"], true);
    a.cli(&["setrcopygroup", "switchover", "g"]);
    until("B serves", LIMIT, || serves(&b));
    read_back(&pair.b, X, 1);
}

#[test]
fn the_power_of_both_at_once_keeps_what_was_flushed_and_says_that_the_promise_is_void() {
    let (pair, a, b) = in_sync(true, None);
    let mut host = lun(&a.place, 1);
    write(&mut host, X, 1);
    write_fua(&mut host, Y, 1);
    synchronize(&mut host);
    for pattern in 2..9 {
        write(&mut host, X, pattern);
        write(&mut host, Y, pattern);
    }
    let pids = [a.daemon.pid(), b.daemon.pid()];
    for pid in pids {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    a.daemon.kill();
    b.daemon.kill();

    // One alone does not know what the other one has: it waits, and says why.
    let a = pair.a.start();
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(a.group()["serves"], false);
    let shown = a.cli(&["showrcopy"]);
    assert!(shown.contains("memory"), "{shown}");
    assert!(a.cli(&["showeventlog"]).contains("was stopped without order: what its memory held"));
    let b = pair.b.start();
    until("A serves", LIMIT, || serves(&a));
    b.until_in_sync();
    assert_eq!(a.group()["promiseVoid"], true);
    let shown = a.cli(&["showrcopy"]);
    assert!(shown.contains("Both arrays had lost their memory"), "{shown}");
    let events = a.cli(&["showeventlog"]);
    assert!(events.contains("both arrays lost what their memories held"), "{events}");

    // Some state between the last flush and the last answer, whole, and the same for good and on both.
    let first = [X, Y].map(|lba| lun(&pair.a, 3).read(lba, 8).unwrap());
    for block in &first {
        let pattern = block[0];
        assert!((1..9).contains(&pattern) && *block == of(pattern), "torn, or behind the flush: {pattern}");
    }
    a.cli(&["checkrcopygroup", "g"]);
    a.cli(&["setrcopygroup", "switchover", "g"]);
    until("B serves", LIMIT, || serves(&b));
    assert_eq!([X, Y].map(|lba| lun(&pair.b, 3).read(lba, 8).unwrap()), first, "a read went back");
}

#[test]
fn roles_change_with_everything_on_both_disks() {
    // Switched over, then the power of both is gone: the new primary has it all.
    let (pair, a, b) = in_sync(true, None);
    write(&mut lun(&a.place, 1), X, 1);
    a.cli(&["setrcopygroup", "switchover", "g"]);
    for place in [&pair.a, &pair.b] {
        assert_eq!(on_disk(place, "m0", X), of(1), "{}", place.name);
    }
    until("B serves", LIMIT, || serves(&b));
    // Stopped in order: handed over, and B's disk has it.
    write(&mut lun(&b.place, 1), Y, 2);
    b.daemon.terminate();
    until("A serves", LIMIT, || serves(&a));
    assert_eq!(on_disk(&pair.a, "m0", Y), of(2));
    a.daemon.kill();
    let a = pair.a.start();
    until("A serves again", LIMIT, || serves(&a));
    read_back(&pair.a, X, 1);
    read_back(&pair.a, Y, 2);
    assert_ne!(a.group()["promiseVoid"], true);
}

#[test]
fn a_killed_process_leaves_its_page_cache_and_nothing_is_void() {
    let (pair, a, b) = in_sync(false, None);
    write(&mut lun(&a.place, 1), X, 1);
    a.daemon.kill();
    b.daemon.kill();
    let (a, b) = (pair.a.start(), pair.b.start());
    until("A serves", LIMIT, || serves(&a));
    b.until_in_sync();
    read_back(&pair.a, X, 1);
    assert_ne!(a.group()["promiseVoid"], true);
    assert!(!a.cli(&["showeventlog"]).contains("memories"));
}

#[test]
fn the_promise_is_chosen_once_and_is_the_same_on_both_arrays() {
    let pair = Pair::new();
    let (a, b) = (pair.a.start(), pair.b.start());
    a.cli(&["createvv", "--promise", "memory", "m1", "16M"]);
    let refused = a.try_cli(&["createvv", "--promise", "fast", "m2", "16M"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("stable") && said.contains("memory"), "{said}");
    let answer = a.api(
        "POST",
        "/api/v1/volumes",
        &serde_json::json!({"name": "m3", "sizeMiB": 16, "writePromise": "fast"}),
    );
    assert_eq!(answer.code(), (400, 12), "{answer:?}");
    let path = pair.directory.path().join("other.toml");
    fs::write(&path, "[[volume]]\nname = \"m1\"\nsize = \"16M\"\n").unwrap();
    let said = a.cli_refused(&["apply", path.to_str().unwrap()]);
    assert!(said.contains("write promise"), "{said}");
    until("linked", LIMIT, || {
        a.try_cli(&["creatercopygroup", "g", "array-b:sync"]).status.success().then_some(())
    });
    a.cli(&["admitrcopyvv", "m1", "g", "array-b:m1"]);
    let shown = b.cli(&["showvv"]);
    assert!(shown.lines().any(|line| line.contains("m1") && line.contains(" memory ")), "{shown}");
}
