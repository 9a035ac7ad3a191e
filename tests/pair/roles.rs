//! Roles, states and policies as an operator of the real array knows them, in words and in WSAPI's numbers.

use std::time::Duration;

use serde_json::{Value, json};

use super::initiator::Status;
use super::lun::Portal;
use super::site::{Array, LIMIT, Pair, until};

/// What `showrcopy` and WSAPI say of the group: role, status, sync status; role, state, reversed.
fn shown(array: &Array) -> String {
    let group = array.group();
    let api = array.get("/api/v1/remotecopygroups/g");
    let target = &api["targets"][0];
    let word = |name: &str| group[name].as_str().unwrap_or("-").to_owned();
    let (role, status, sync) = (word("role"), word("status"), word("sync"));
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let (number, state) = (number(&api["role"]), number(&target["state"]));
    format!("{role} {status} {sync} {number} {state} {}", target["roleReversed"])
}

#[track_caller]
fn until_shown(array: &Array, wanted: &str) {
    let mut last = String::new();
    let end = std::time::Instant::now() + LIMIT;
    while last != wanted {
        assert!(std::time::Instant::now() < end, "{}: wanted {wanted}, found {last}", array.place.name);
        last = shown(array);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[track_caller]
fn until_done(array: &Array, verb: &[&str]) {
    until(&verb.join(" "), LIMIT, || array.try_cli(verb).status.success().then_some(()));
}

fn write(array: &Array, pattern: u8) {
    let mut lun = Portal::of(&array.place).open(1).unwrap();
    assert_eq!(lun.write(2048, &vec![pattern; 64 << 10]).unwrap(), Status::GOOD);
}

fn read_back(array: &Array, pattern: u8) {
    let mut lun = Portal::of(&array.place).open(1).unwrap();
    assert_eq!(lun.read(2048, 128).unwrap(), vec![pattern; 64 << 10]);
}

/// WSAPI's paths to the one target of a group, and its policies.
fn targets_and_policies_as_resources(a: &Array) {
    let path = "/api/v1/remotecopygroups/g/targets";
    assert_eq!(a.get(path)["members"][0], a.get("/api/v1/remotecopygroups/g")["targets"][0]);
    let one = format!("{path}/array-b");
    assert_eq!(a.api("PUT", &one, &json!({"policies": {"overPeriodAlert": true}})).status, 200);
    assert_eq!(a.get(&one)["policies"]["overPeriodAlert"], true);
    assert_eq!(a.get(&one)["policies"]["autoFailover"], true, "what is not named stays");
    assert_eq!(a.api("GET", &format!("{path}/array-c"), &Value::Null).code(), (404, 12));
    assert_eq!(a.api("PUT", &one, &json!({"syncPeriod": 300})).code(), (400, 40));
    assert_eq!(a.api("PUT", "/api/v1/remotecopygroups/g", &json!({"action": 5})).status, 200);
}

#[test]
fn stop_failover_recover_restore_show_what_the_real_array_shows() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    until_shown(&a, "Primary Started Synced 1 3 false");
    until_shown(&b, "Secondary Started Synced 2 3 false");
    write(&a, 0x11);
    targets_and_policies_as_resources(&a);
    a.cli(&["stoprcopygroup", "g"]);
    until_shown(&a, "Primary Stopped Stopped 1 5 false");
    until_shown(&b, "Secondary Stopped Stopped 2 5 false");
    let synchronize = a.api("PUT", "/api/v1/remotecopygroups/g", &json!({"action": 5}));
    assert_eq!(synchronize.code(), (403, 13), "{synchronize:?}");
    let refused = a.cli_refused(&["setrcopygroup", "switchover", "g"]);
    assert!(refused.contains("not in sync"), "{refused}");
    let refused = a.cli_refused(&["checkrcopygroup", "g"]);
    assert!(refused.contains("not in sync"), "{refused}");

    b.cli(&["setrcopygroup", "failover", "g"]);
    until_shown(&b, "Primary-Rev Stopped Stopped 1 5 true");
    until_shown(&a, "Secondary-Rev Stopped Stopped 2 5 true");
    read_back(&b, 0x11);
    until_done(&b, &["setrcopygroup", "recover", "g"]);
    until_shown(&b, "Primary-Rev Started Synced 1 3 true");
    until_shown(&a, "Secondary-Rev Started Synced 2 3 true");
    until_done(&b, &["setrcopygroup", "restore", "g"]);
    until_shown(&a, "Primary Started Synced 1 3 false");
    until_shown(&b, "Secondary Started Synced 2 3 false");
    read_back(&a, 0x11);
}

#[test]
fn without_its_policy_nothing_is_mirrored_again_by_itself() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    a.cli(&["setrcopygroup", "pol", "no_auto_recover,no_auto_synchronize", "g"]);
    until("the policies are alike", LIMIT, || {
        let policies = b.group()["policies"].clone();
        (policies["auto_recover"] == false && policies["auto_synchronize"] == false).then_some(())
    });
    // auto_recover: the roles are as before.
    b.daemon.kill();
    until_shown(&a, "Primary Stopped Stopped 1 5 false");
    let b = pair.b.start();
    std::thread::sleep(Duration::from_secs(7));
    until_shown(&b, "Secondary Stopped Stopped 2 5 false");
    until_done(&a, &["startrcopygroup", "g"]);
    until_shown(&a, "Primary Started Synced 1 3 false");
    // auto_synchronize: after a failover.
    b.until_in_sync();
    a.daemon.kill();
    until_shown(&b, "Primary-Rev Stopped Stopped 1 5 true");
    let a = pair.a.start();
    std::thread::sleep(Duration::from_secs(7));
    until_shown(&a, "Secondary-Rev Stopped Stopped 2 5 true");
    until_done(&b, &["setrcopygroup", "recover", "g"]);
    until_shown(&b, "Primary-Rev Started Synced 1 3 true");
    until_shown(&a, "Secondary-Rev Started Synced 2 3 true");
}

#[test]
fn without_auto_failover_the_operator_decides_and_a_stale_copy_is_refused() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write(&a, 0x22);
    a.cli(&["setrcopygroup", "pol", "no_auto_failover", "g"]);
    until("the policy is alike", LIMIT, || (b.group()["policies"]["auto_failover"] == false).then_some(()));
    a.daemon.kill();
    until("B says why it waits", LIMIT, || {
        b.cli(&["showrcopy"]).contains("automatic failover is off").then_some(())
    });
    std::thread::sleep(Duration::from_secs(6));
    assert_ne!(b.group()["serves"], true, "{}", b.group());
    until_done(&b, &["setrcopygroup", "failover", "g"]);
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    read_back(&b, 0x22);
    // B goes on alone and is gone too: A, back, is stale.
    b.daemon.kill();
    let a = pair.a.start();
    until("A knows that it is stale", LIMIT, || {
        a.cli(&["showrcopy"]).contains("this copy is not in sync with it").then_some(())
    });
    let refused = a.cli_refused(&["setrcopygroup", "failover", "g"]);
    assert!(refused.contains("this copy is stale; only override can serve its old data"), "{refused}");
}
