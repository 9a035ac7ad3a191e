//! Arrays that lost what they knew, or a disk: they count for nothing until the primary has enrolled them
//! (rule 18, FAILURES F39 and F43), and then they are copies again, without an operator.

use std::fs;
use std::time::Duration;

use super::site::{Array, LIMIT, Pair, read_back, until, write_and_read};

fn serves(array: &Array, what: &str) {
    until(what, LIMIT, || (array.group()["serves"] == true).then_some(()));
}

/// Roles change, and the copy that was made anew is read.
fn holds(array: &Array, other: &Array, pattern: u8) {
    array.until_in_sync();
    until("the roles change", LIMIT, || {
        other.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    serves(array, "the new copy serves");
    read_back(&array.place, pattern);
}

#[test]
fn an_array_that_lost_its_data_dir_is_enrolled_and_copied() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    a.daemon.kill();
    serves(&b, "B is promoted");
    write_and_read(&b.place, &b.place, 0x22);
    fs::remove_dir_all(&pair.a.data_dir).unwrap();
    let a = pair.a.start();
    holds(&a, &b, 0x22);
    assert_eq!(a.group()["name"], "g", "its own name, as before");
    // And back: the copy that was there all the time is no worse for it.
    write_and_read(&a.place, &a.place, 0x33);
    holds(&b, &a, 0x33);
}

/// The secondary forgets everything while the primary lives: it is dropped, and comes back as a new array.
#[test]
fn a_secondary_that_lost_its_data_dir_is_enrolled_and_copied() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    b.daemon.kill();
    fs::remove_dir_all(&pair.b.data_dir).unwrap();
    let b = pair.b.start();
    assert_eq!(a.group()["serves"], true);
    holds(&b, &a, 0x11);
}

#[test]
fn a_disk_that_was_replaced_is_copied_and_the_old_one_is_not_taken_back() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    b.daemon.terminate();
    let (data, old) = (pair.b.data_dir.join("volumes/v0"), pair.directory.path().join("old disk"));
    fs::rename(&data, &old).unwrap();
    let mut b = pair.b.start();
    b.daemon.says("this volume is lost here");
    let log = b.cli(&["showeventlog"]);
    assert!(log.contains("takes no part until the primary has enrolled it"), "{log}");
    b.until_in_sync();
    write_and_read(&a.place, &a.place, 0x22);
    // The old disk turns up in its place: its content is from before.
    b.daemon.terminate();
    fs::rename(&old, &data).unwrap();
    let mut b = pair.b.start();
    b.daemon.says("holds an older copy of this volume");
    holds(&b, &a, 0x22);
}

/// The only other copy is on an array that is off: the one that lost its disk must not be promoted, whatever
/// its votes say.
#[test]
fn a_copy_whose_disk_was_replaced_is_not_promoted() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    a.daemon.kill();
    b.daemon.kill();
    fs::remove_file(pair.b.data_dir.join("volumes/v0")).unwrap();
    let b = pair.b.start();
    std::thread::sleep(Duration::from_secs(8));
    let group = b.group();
    assert_eq!((&group["serves"], &group["role"]), (&false.into(), &"Absent".into()), "{group}");
    let shown = b.cli(&["showrcopy"]);
    assert!(shown.contains("takes no part in the group until the primary has enrolled it"), "{shown}");
    let said = b.cli_refused(&["setrcopygroup", "failover", "-f", "g"]);
    assert!(said.contains("takes no part"), "{said}");
    let a = pair.a.start();
    serves(&a, "A serves");
    holds(&b, &a, 0x11);
}

/// After an override the lost copy may have held what the other one never had: only the operator gives it up.
#[test]
fn a_lost_copy_of_another_history_is_enrolled_only_when_it_is_discarded() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    b.daemon.terminate();
    // A witness that has just begun agrees to nothing for a while.
    until("A goes on alone", LIMIT, || {
        let group = a.group();
        (group["serves"] == true && group["inSync"] == false).then_some(())
    });
    write_and_read(&a.place, &a.place, 0x22);
    a.daemon.kill();
    let b = pair.b.start();
    until("the override", LIMIT, || {
        b.try_cli(&["setrcopygroup", "override", "-f", "g"]).status.success().then_some(())
    });
    serves(&b, "B serves old data");
    let data = pair.a.data_dir.join("volumes/v0");
    let aside = pair.directory.path().join("aside");
    fs::rename(&data, &aside).unwrap();
    let a = pair.a.start();
    until("B says why A is not enrolled", LIMIT, || {
        b.daemon.log().contains("may hold what the other array never had").then_some(())
    });
    assert!(!data.exists(), "nothing is begun before the operator's word");
    a.cli(&["setrcopygroup", "discard", "-f", "g"]);
    holds(&a, &b, 0x11);
}
