//! The main job through the command line: pair, switchover and back, loss of the primary, return.

use std::time::{Duration, Instant};

use super::site::{LIMIT, Pair, read_back, until, write_and_read};

/// A witness this old has no promises of a former life to fear.
const WITNESS_AGE: Duration = Duration::from_secs(11);
/// Promised is 6 s; the machine may be busy with other tests.
const PROMOTION: Duration = Duration::from_secs(12);

#[test]
fn a_pair_switches_over_loses_its_primary_and_is_whole_again() {
    let pair = Pair::new();
    let born = Instant::now();
    let (a, b) = pair.in_sync();
    let objects = pair.objects();
    assert!(a.cli(&["apply", &objects, "--wait"]).contains("everything is there already"));
    let both_show = |what: &str| {
        for array in [&a, &b] {
            let shown = array.cli(&["showvlun"]);
            assert!(shown.contains("v0") && shown.contains('h'), "{what}: {shown}");
            assert!(array.cli(&["showhost"]).contains(super::site::INITIATOR));
        }
    };
    both_show("made on the primary");
    let wwn = |array: &super::site::Array| array.get("/api/v1/volumes/v0")["wwn"].clone();
    assert_eq!(wwn(&a), wwn(&b), "one LUN, one identity");
    write_and_read(&a.place, &a.place, 0x11);

    a.cli(&["setrcopygroup", "switchover", "g"]);
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    assert_eq!(a.group()["serves"], false);
    let shown = a.cli(&["showrcopy"]);
    assert!(shown.contains("does not serve: the other array is primary"), "{shown}");
    assert!(b.cli(&["showrcopy"]).contains("Primary-Rev"));
    read_back(&b.place, 0x11);
    write_and_read(&b.place, &b.place, 0x22);
    // Given at the secondary, it is passed on to the primary.
    until("the way back", LIMIT, || {
        a.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    read_back(&a.place, 0x22);
    a.until_in_sync();

    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    write_and_read(&a.place, &a.place, 0x33);
    a.daemon.kill();
    let lost = Instant::now();
    until("B serves alone", PROMOTION, || (b.group()["serves"] == true).then_some(()));
    println!("promoted after {:?}", lost.elapsed());
    read_back(&b.place, 0x33);
    write_and_read(&b.place, &b.place, 0x44);
    let before = b.metric("twinlun_resync_bytes_total");

    let a = pair.a.start();
    b.until_in_sync();
    a.until_in_sync();
    let copied = b.metric("twinlun_resync_bytes_total") - before;
    println!("copied {copied} bytes");
    assert!(copied <= 8 << 20, "{copied} bytes for 256 KiB written meanwhile");
    assert_eq!(a.group()["serves"], false, "the survivor keeps its role");
    until("the way back", LIMIT, || {
        b.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    read_back(&a.place, 0x44);
    assert!(
        b.cli(&["apply", &objects]).contains("everything is there already"),
        "on the other array as well"
    );
}

#[test]
fn sigterm_hands_over_first() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x55);
    // No witness is old enough here: what moves the role is A's own hand over.
    a.daemon.terminate();
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    read_back(&b.place, 0x55);
}

#[test]
fn a_group_is_stopped_and_removed_on_both_arrays() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    let started = a.cli_refused(&["removercopygroup", "g"]);
    assert!(started.contains("stop it first"), "{started}");
    let used = a.cli_refused(&["removevv", "v0"]);
    assert!(used.contains("in use by"), "{used}");
    a.cli(&["stoprcopygroup", "g"]);
    until("stopped on both", LIMIT, || (b.group()["started"] == false).then_some(()));
    a.cli(&["removercopygroup", "g"]);
    for array in [&a, &b] {
        until("no group", LIMIT, || (array.get("/api/v1/remotecopygroups")["total"] == 0).then_some(()));
        assert_eq!(array.get("/api/v1/volumes")["total"], 1, "the data stays");
    }
}

#[test]
fn a_secondary_that_is_cut_off_leaves_the_exports_alone() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    b.cli(&["createhost", "other", "iqn.2026-11.test.twinlun:other"]);
    b.cli(&["createvlun", "v0", "2", "other"]);
    until("exported by A as well", LIMIT, || a.cli(&["showvlun"]).contains("other").then_some(()));
    let witness = i32::try_from(pair.witness.pid()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(witness), nix::sys::signal::Signal::SIGKILL).unwrap();
    a.daemon.kill();
    let refused = || {
        let output = b.try_cli(&["removevlun", "v0", "2", "other"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() || b.cli(&["createvlun", "v0", "2", "other"]).is_empty(), "{said}");
        said.contains("does not reach the primary").then_some(())
    };
    until("the loss of the link is noticed", LIMIT, refused);
    let said = b.cli_refused(&["removevlun", "v0", "1", "h"]);
    assert!(said.contains("group g") && said.contains("does not reach the primary"), "{said}");
    assert!(b.cli(&["showvlun"]).contains("other"));
}
