//! Volumes enter and leave groups: a crash in between must make nothing count as equal, and what leaves is exported
//! by one array alone.

use super::site::{Array, INITIATOR, LIMIT, Pair, qemu_io, until};

fn io(array: &Array, command: &str) -> Option<bool> {
    qemu_io(&array.place, command).map(|done| done.is_ok())
}

fn mutated(mutation: &str) -> Vec<(String, String)> {
    vec![("TWINLUN_MUTATION".into(), mutation.into())]
}

/// The primary dies when its objects hold the member and its control has not heard of it. True: the copy that is made
/// afterwards is the volume.
fn copy_after_a_death_in_admit(mutation: Option<&str>) -> Option<bool> {
    let mut pair = Pair::new();
    pair.b.environment = mutation.map(mutated).unwrap_or_default();
    pair.a.environment = pair.b.environment.clone();
    pair.a.environment.push(("TWINLUN_DIES_AT".into(), "admitted".into()));
    let (a, b) = (pair.a.start(), pair.b.start());
    a.cli(&["createvv", "--tpvv", "v0", "16M"]);
    a.cli(&["createhost", "h", INITIATOR]);
    a.cli(&["createvlun", "v0", "1", "h"]);
    let written = io(&a, "write -P 0x11 0 16M")?;
    assert!(written);
    until("linked", LIMIT, || {
        a.try_cli(&["creatercopygroup", "g", "array-b:sync"]).status.success().then_some(())
    });
    let mut a = a;
    assert!(!a.try_cli(&["admitrcopyvv", "v0", "g", "array-b:v0"]).status.success());
    until("A dies", LIMIT, || (!a.daemon.is_alive()).then_some(()));
    drop(a);
    pair.a.environment.pop();
    let a = pair.a.start();
    assert_eq!(a.group()["volumes"][0]["localVolume"], "v0");
    a.cli(&["startrcopygroup", "g"]);
    a.until_in_sync();
    until("switched over", LIMIT, || {
        a.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    io(&b, "read -P 0x11 0 16M")
}

#[test]
fn a_volume_admitted_in_a_crash_is_copied_as_a_whole() {
    assert_ne!(copy_after_a_death_in_admit(None), Some(false), "the copy is the volume");
}

#[test]
fn without_the_marks_a_blank_copy_would_count_as_in_sync() {
    assert_ne!(copy_after_a_death_in_admit(Some("R10AdmittedUnmarked")), Some(true), "found");
}

/// Is the LUN there, and does it take writes?
fn offers(array: &Array) -> Option<bool> {
    Some(io(array, "read 0 4k")? || io(array, "write 0 4k")?)
}

fn vluns(array: &Array) -> u64 {
    array.get("/api/v1/vluns")["members"]
        .as_array()
        .map_or(0, |rows| rows.iter().filter(|row| row["active"] == false).count() as u64)
}

fn stop(a: &Array) {
    until("stopped", LIMIT, || a.try_cli(&["stoprcopygroup", "g"]).status.success().then_some(()));
}

#[test]
fn a_dismissed_volume_is_exported_by_the_primary_alone() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    assert_eq!((vluns(&a), vluns(&b)), (1, 1));
    stop(&a);
    a.cli(&["dismissrcopyvv", "v0", "g"]);
    assert_eq!((vluns(&a), vluns(&b)), (1, 0));
    assert_ne!(offers(&a), Some(false), "A serves it as before");
    assert_ne!(offers(&b), Some(true), "B's copy bears the same identity");
    assert!(b.cli(&["showeventlog"]).contains("taken back"));
    // Admitted again, it is exported again.
    a.cli(&["admitrcopyvv", "v0", "g", "array-b:v0"]);
    a.cli(&["startrcopygroup", "g"]);
    a.until_in_sync();
    assert_eq!((vluns(&a), vluns(&b)), (1, 1));
}

#[test]
fn removed_on_either_array_a_group_leaves_one_that_exports_its_volumes() {
    for on_secondary in [false, true] {
        let pair = Pair::new();
        let (a, b) = pair.in_sync();
        let name = b.group()["name"].as_str().unwrap().to_owned();
        stop(&a);
        if on_secondary {
            b.cli(&["removercopygroup", &name]);
        } else {
            a.cli(&["removercopygroup", "g"]);
        }
        until("removed on both", LIMIT, || (a.group().is_null() && b.group().is_null()).then_some(()));
        assert_eq!((vluns(&a), vluns(&b)), (1, 0), "given on the secondary: {on_secondary}");
        assert_ne!(offers(&a), Some(false));
        assert_ne!(offers(&b), Some(true));
    }
}

/// (An array with one rule broken, for comparison: it exports its old copy.)
#[test]
fn a_group_removed_on_a_lone_secondary_is_exported_there_no_more() {
    for mutation in [None, Some("LeftCopyExported")] {
        let mut pair = Pair::new();
        pair.b.environment = mutation.map(mutated).unwrap_or_default();
        let (a, b) = pair.in_sync();
        let name = b.group()["name"].as_str().unwrap().to_owned();
        stop(&a);
        drop(pair.witness);
        a.daemon.kill();
        until("A is gone", LIMIT, || (b.get("/api/twinlun/rcopy")["targetUp"] == false).then_some(()));
        b.cli(&["removercopygroup", &name]);
        assert_eq!(vluns(&b), u64::from(mutation.is_some()), "{mutation:?}");
        if let Some(offers) = offers(&b) {
            assert_eq!(offers, mutation.is_some(), "{mutation:?}");
        }
    }
}

#[test]
fn an_absent_copy_whose_group_is_removed_is_exported_to_nobody() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    let name = b.group()["name"].as_str().unwrap().to_owned();
    a.daemon.kill();
    b.daemon.kill();
    std::fs::remove_file(pair.b.data_dir.join("votes")).unwrap();
    let b = pair.b.start();
    assert_eq!(b.group()["role"], "Absent");
    assert_ne!(offers(&b), Some(true));
    b.cli(&["removercopygroup", &name]);
    assert_eq!(vluns(&b), 0);
    assert_ne!(offers(&b), Some(true), "its content is older than the primary's");
}
