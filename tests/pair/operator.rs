//! The operator's part where nobody else can decide (F13, F35): overrides, and histories that differ.

use std::time::{Duration, Instant};

use super::site::{LIMIT, Pair, read_back, until, write_and_read};

/// A witness this old has no promises of a former life to fear.
const WITNESS_AGE: Duration = Duration::from_secs(11);
/// What an override waits for at most: a witness of a new life, and a promise of its.
const OVERRIDE: Duration = Duration::from_secs(40);

#[test]
fn the_operator_puts_a_copy_in_sync_into_office_when_all_others_are_dead() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    let refused = b.cli_refused(&["setrcopygroup", "failover", "-f", "g"]);
    assert!(refused.contains("the other array is linked"), "{refused}");
    pair.witness.kill();
    a.daemon.kill();
    until("A is lost", LIMIT, || b.cli(&["showrcopy"]).contains("failed").then_some(()));
    // The log says in words why nobody serves, and in which epoch.
    until("the log says why", LIMIT, || {
        let log = b.get("/api/twinlun/eventlog");
        let entries = log["members"].as_array()?.clone();
        let why = "does not serve: the other array is lost, and so is the witness";
        let found =
            entries.iter().find(|entry| entry["text"].as_str().is_some_and(|text| text.contains(why)))?;
        (found["group"] == "g.r1" && found["epoch"].as_u64() == b.group()["epoch"].as_u64()).then_some(())
    });
    let said = b.try_cli(&["setrcopygroup", "failover", "-f", "g"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("unless the other array went on alone"), "no witness was reached: {said}");
    until("B serves", OVERRIDE, || (b.group()["serves"] == true).then_some(()));
    assert!(b.cli(&["showrcopy"]).contains("Primary-Rev"));
    read_back(&b.place, 0x11);
    write_and_read(&b.place, &b.place, 0x22);
    let a = pair.a.start();
    b.until_in_sync();
    assert!(a.cli(&["showrcopy"]).contains("Secondary-Rev"));
    // As on the real array: back to the natural roles, given on the array that took over.
    assert!(a.cli_refused(&["setrcopygroup", "restore", "g"]).contains("not the group's primary"));
    until("restored", LIMIT, || b.try_cli(&["setrcopygroup", "restore", "g"]).status.success().then_some(()));
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    assert!(a.cli_refused(&["setrcopygroup", "recover", "g"]).contains("natural roles"));
    read_back(&a.place, 0x22);
}

#[test]
fn what_was_written_alone_is_kept_until_the_operator_discards_it() {
    let pair = Pair::new();
    let born = Instant::now();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    b.daemon.kill();
    until("A goes on alone", LIMIT, || (a.group()["inSync"] == false).then_some(()));
    write_and_read(&a.place, &a.place, 0x22);
    a.daemon.kill();
    let b = pair.b.start();
    until("B knows that it is stale", LIMIT, || (b.group()["inSync"] == false).then_some(()));
    let refused = b.cli_refused(&["setrcopygroup", "failover", "-f", "g"]);
    assert!(refused.contains("not in sync"), "{refused}");
    let warned = b.cli_refused(&["setrcopygroup", "override", "g"]);
    assert!(warned.contains("give your word"), "{warned}");
    b.cli(&["setrcopygroup", "override", "-f", "g"]);
    until("B serves", OVERRIDE, || (b.group()["serves"] == true).then_some(()));
    read_back(&b.place, 0x11);
    write_and_read(&b.place, &b.place, 0x33);

    let a = pair.a.start();
    until("A has diverged", LIMIT, || (a.group()["status"] == "Diverged").then_some(()));
    let shown = a.cli(&["showrcopy"]);
    assert!(shown.contains("setrcopygroup discard"), "{shown}");
    until("B says why it does not mirror", LIMIT, || {
        b.cli(&["showrcopy"]).contains("The other array is not mirrored to").then_some(())
    });
    let warned = a.cli_refused(&["setrcopygroup", "discard", "g"]);
    assert!(warned.contains("for good"), "{warned}");
    assert_eq!(a.group()["status"], "Diverged");
    a.cli(&["setrcopygroup", "discard", "-f", "g"]);
    b.until_in_sync();
    a.until_in_sync();
    let log = b.cli(&["showeventlog", "--json"]);
    assert_eq!(log.matches("array array-b starts").count(), 2, "the log of the former life is kept: {log}");
    until("reversed back", LIMIT, || {
        b.try_cli(&["setrcopygroup", "reverse", "g"]).status.success().then_some(())
    });
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    read_back(&a.place, 0x33);
}
