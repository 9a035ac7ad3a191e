//! Both copies compared on line: what was changed silently in B's file is found, to the block, and repaired;
//! hosts that write meanwhile give no false alarm.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::initiator::Status;
use super::lun::Portal;
use super::site::{Array, INITIATOR, LIMIT, Pair, Place, until};

fn volume(array: &Array) -> File {
    let path = array.place.data_dir.join("volumes/v0");
    File::options().read(true).write(true).open(path).unwrap()
}

fn block(array: &Array, lba: u64) -> [u8; 512] {
    let mut block = [0; 512];
    volume(array).read_exact_at(&mut block, lba * 512).unwrap();
    block
}

/// A host's write of a pattern, 256 KiB from 1 MiB on; all tests' hosts know it by [`read_back`].
fn write(array: &Array, pattern: u8) {
    let mut lun = Portal::of(&array.place).open(1).unwrap();
    for at in 0..4 {
        assert_eq!(lun.write(2048 + at * 128, &vec![pattern; 64 << 10]).unwrap(), Status::GOOD);
    }
}

fn read_back(array: &Array, pattern: u8) {
    let mut lun = Portal::of(&array.place).open(1).unwrap();
    assert_eq!(lun.read(2048, 512).unwrap(), vec![pattern; 256 << 10]);
}

/// Changes one byte of each of these blocks without the array's knowledge.
fn damage(array: &Array, lbas: &[u64]) {
    let file = volume(array);
    for lba in lbas {
        let mut byte = [0];
        file.read_exact_at(&mut byte, lba * 512 + 100).unwrap();
        file.write_all_at(&[byte[0] ^ 0x40], lba * 512 + 100).unwrap();
    }
    file.sync_all().unwrap();
}

/// A verify that is waited for: its exit, and what it found of `v0`.
fn check(array: &Array, options: &[&str]) -> (bool, Value) {
    let verb = [&["checkrcopygroup", "--json"], options, &["g"]].concat();
    let output = array.try_cli(&verb);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    assert_eq!(found["volumes"][0]["localVolume"], "v0", "{found}");
    (output.status.success(), found["volumes"][0]["verify"].clone())
}

fn differences(verify: &Value) -> Vec<(u64, u64)> {
    let extent = |one: &Value| (one["lba"].as_u64().unwrap(), one["blocks"].as_u64().unwrap());
    verify["differences"].as_array().unwrap().iter().map(extent).collect()
}

#[test]
fn damage_is_found_to_the_block_repaired_and_then_gone() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write(&a, 0x5a);
    let epoch = a.group()["epoch"].clone();
    // In data, two neighbours, and in what is a hole on A.
    damage(&b, &[2056, 2300, 2301, 100_000]);
    let damaged = [(2056, 1), (2300, 2), (100_000, 1)];
    let before = block(&b, 2056);

    let (clean, found) = check(&a, &[]);
    assert!(!clean, "{found}");
    assert_eq!(
        (&found["state"], &found["compared"], &found["regions"]),
        (&json!("complete"), &json!(64), &json!(64))
    );
    assert_eq!(differences(&found), damaged);
    assert_eq!((&found["differingBlocks"], &found["repairedBlocks"]), (&json!(4), &json!(0)));
    assert_eq!(block(&b, 2056), before, "only told");
    let refused = a.cli_refused(&["checkrcopygroup", "g"]);
    assert!(refused.contains("checkrcopygroup --repair g"), "{refused}");

    let (clean, found) = check(&a, &["--repair"]);
    assert!(clean, "{found}");
    assert_eq!(differences(&found), damaged, "exactly that");
    assert_eq!(found["repairedBlocks"], 4);
    for lba in [2056, 2300, 2301, 100_000] {
        assert_eq!(block(&b, lba), block(&a, lba), "LBA {lba}");
    }

    let (clean, found) = check(&a, &[]);
    assert!(clean && differences(&found).is_empty(), "{found}");
    let table = a.cli(&["checkrcopygroup", "--volume", "v0", "g"]);
    assert!(table.contains("Compared_MiB") && table.contains("complete"), "{table}");

    let shown = a.cli(&["showrcopy"]);
    assert!(shown.contains("v0: verify of ") && shown.contains("no block differs"), "{shown}");
    let events = a.cli(&["showeventlog"]);
    let told =
        "4 blocks are not alike, 4 of them were made so: LBA 2056 to 2056 differs, LBA 2300 to 2301 differs";
    assert!(events.contains(told), "{events}");
    let group = a.group();
    assert_eq!((&group["epoch"], &group["sync"]), (&epoch, &json!("Synced")), "no change of the group");
    read_back(&a, 0x5a);
}

/// Writes here and there, all over the volume but for the region from 40 MiB on; how often.
fn keep_writing(place: &Place, host: u8, stop: &AtomicBool) -> u64 {
    let mut lun = Portal::of(place).open(host).unwrap();
    let mut random = 0x9E37_79B9_7F4A_7C15 ^ u64::from(host);
    let mut writes = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let lba = random % (131_072 - 128);
        if (81_920 - 128..83_968).contains(&lba) {
            continue;
        }
        let status = if random.is_multiple_of(11) {
            lun.unmap(lba, 128)
        } else {
            let blocks = usize::try_from(random >> 32).unwrap() % 64 + 1;
            lun.write(lba, &vec![host.wrapping_mul(50).wrapping_add(writes.to_le_bytes()[0]); blocks * 512])
        };
        assert_eq!(status.unwrap(), Status::GOOD, "{lba}");
        writes += 1;
    }
    writes
}

#[test]
fn hosts_that_write_all_the_while_give_no_false_alarm() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    let (stop, a_place) = (&AtomicBool::new(false), &a.place);
    std::thread::scope(|scope| {
        let writers: Vec<_> =
            (1..4).map(|host| scope.spawn(move || keep_writing(a_place, host, stop))).collect();
        let end = Instant::now() + Duration::from_secs(10);
        let mut checks = 0;
        while Instant::now() < end {
            let (clean, found) = check(&a, &["--repair"]);
            assert!(clean && differences(&found).is_empty(), "{found}");
            assert_eq!(found["compared"], 64);
            checks += 1;
        }
        // Damaged beside the writes: exactly that is found.
        damage(&b, &[81_920]);
        let (clean, found) = check(&a, &["--repair"]);
        assert!(clean, "{found}");
        assert_eq!((differences(&found), &found["repairedBlocks"]), (vec![(81_920, 1)], &json!(1)));
        stop.store(true, Ordering::Relaxed);
        let writes: u64 = writers.into_iter().map(|writer| writer.join().unwrap()).sum();
        println!("{checks} verifies, {writes} writes");
        assert!(checks > 0 && writes > 100);
    });
    assert_eq!(a.group()["inSync"], true);
    let (clean, found) = check(&a, &[]);
    assert!(clean, "{found}");
}

#[test]
fn it_is_refused_by_name_cancelled_and_cut_short_with_the_point_reached() {
    let pair = Pair::new();
    let (a, b) = (pair.a.start(), pair.b.start());
    let path = pair.directory.path().join("large.toml");
    let text = format!(
        "[[volume]]\nname = \"v0\"\nsize = \"16G\"\n[[host]]\nname = \"h\"\niqns = [\"{INITIATOR}\"]\n\
         [[group]]\nname = \"g\"\ntarget = \"array-b\"\nvolumes = [\"v0\"]\n"
    );
    std::fs::write(&path, text).unwrap();
    a.cli(&["apply", path.to_str().unwrap(), "--wait"]);
    b.until_in_sync();
    let refused = b.cli_refused(&["checkrcopygroup", "g"]);
    assert!(refused.contains("not the group's primary"), "{refused}");
    let refused = a.cli_refused(&["checkrcopygroup", "--volume", "v1", "g"]);
    assert!(refused.contains("v1"), "{refused}");

    a.cli(&["checkrcopygroup", "--background", "g"]);
    let refused = a.cli_refused(&["checkrcopygroup", "g"]);
    assert!(refused.contains("under way"), "{refused}");
    a.cli(&["checkrcopygroup", "--cancel", "g"]);
    let verify = || a.group()["volumes"][0]["verify"].clone();
    assert_eq!(verify()["state"], "cancelled", "{}", verify());
    assert!(verify()["compared"].as_u64() < verify()["regions"].as_u64(), "{}", verify());

    a.cli(&["checkrcopygroup", "--background", "g"]);
    b.daemon.kill();
    until("cut short", LIMIT, || (verify()["state"] == "cut short").then_some(()));
    assert!(verify()["said"].as_str().unwrap().contains("no longer in sync"), "{}", verify());
    let reached = verify()["reachedLBA"].as_u64().unwrap();
    assert!(reached / 2048 <= verify()["compared"].as_u64().unwrap(), "{}", verify());
    let log = a.cli(&["showeventlog"]);
    assert!(log.contains(&format!("everything before LBA {reached} among them")), "{log}");
    let refused = a.cli_refused(&["checkrcopygroup", "g"]);
    assert!(refused.contains("not in sync"), "{refused}");
    let b = pair.b.start();
    b.until_in_sync();
    let (clean, found) = check(&a, &[]);
    assert!(clean, "{found}");
}
