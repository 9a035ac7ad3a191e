//! Who may be whose peer, and one daemon for each directory.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::site::{BINARY, Daemon, LIMIT, Pair, Place, port, read_back, refused, until, write_and_read};

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Starts both; neither may take the other, and one of them says why.
#[track_caller]
fn never_linked(a: &Place, b: &Place, why: &str) {
    let (mut first, second) = (a.start(), b.start());
    first.daemon.says(why);
    for array in [&first, &second] {
        let picture = array.get("/api/twinlun/rcopy");
        assert_eq!(picture["targetUp"], false, "{picture}");
        assert_eq!(picture["lanes"].as_array().map(Vec::len), Some(0));
        let targets = array.get("/api/v1/remotecopytargets");
        assert_ne!(targets["members"][0]["status"], 3, "{targets}");
        assert!(array.cli(&["showrcopy"]).contains("failed"));
    }
    let said = first.cli_refused(&["creatercopygroup", "g", &format!("{}:sync", second.place.name)]);
    assert!(said.contains("not reached"), "{said}");
    assert_eq!(second.get("/api/v1/remotecopygroups")["total"], 0);
}

#[test]
fn two_arrays_with_one_identity_are_told_so() {
    let pair = Pair::new();
    pair.a.start().daemon.terminate();
    let mut twin = pair.b.clone();
    twin.side = "a";
    copy(&pair.a.data_dir, &twin.data_dir);
    never_linked(&pair.a, &twin, "both arrays have the same identity: a data_dir was copied");
}

#[test]
fn a_copied_data_dir_does_not_become_the_other_side() {
    let pair = Pair::new();
    pair.a.start().daemon.terminate();
    copy(&pair.a.data_dir, &pair.b.data_dir);
    let said = pair.b.start_refused();
    assert!(said.contains("belongs to array A, but the configuration says array B"), "{said}");
}

/// The worst case: a whole copy of a running array, in a mount namespace where it takes the
/// original's place.
#[test]
fn a_copy_of_a_living_array_does_not_take_its_place() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a mount namespace needs root");
        return;
    }
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    b.cli(&["setrcopygroup", "switchover", "g"]);
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    a.daemon.terminate();
    let copied = pair.directory.path().join("copied");
    copy(&pair.a.data_dir, &copied);
    let a = pair.a.start();
    a.until_in_sync();
    let epoch = b.group()["epoch"].clone();
    let twin = Place { portal: port(), replication: port(), management: port(), ..pair.a.clone() };
    fs::write(twin.config_path(), twin.config()).unwrap();
    let mut command = Command::new("unshare");
    let script = "mount --bind \"$1\" \"$2\" && exec \"$3\" array --config \"$4\"";
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&copied).arg(&pair.a.data_dir);
    command.arg(BINARY).arg(twin.config_path());
    let mut twin = Daemon::spawn(command, &twin.log_path());
    twin.says("array-a is linked already by another process");
    for array in [&a, &b] {
        let group = array.group();
        assert_eq!((&group["inSync"], &group["epoch"]), (&true.into(), &epoch), "{group}");
    }
}

/// FAILURES F33: what was written after the backup is not there any more, and no dirty map says so.
#[test]
fn an_array_that_was_restored_from_a_backup_is_mirrored_anew() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    a.daemon.terminate();
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    let backup = pair.directory.path().join("backup");
    copy(&pair.a.data_dir, &backup);
    let a = pair.a.start();
    a.until_in_sync();
    until("the way back", LIMIT, || {
        b.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    write_and_read(&a.place, &a.place, 0x22);
    a.daemon.kill();
    until("B is promoted", LIMIT, || (b.group()["serves"] == true).then_some(()));
    fs::remove_dir_all(&pair.a.data_dir).unwrap();
    copy(&backup, &pair.a.data_dir);
    let mut a = pair.a.start();
    a.daemon.says("the data_dir of array-a is older than one heard here before");
    a.daemon.says("takes no part until the primary has enrolled it");
    assert_eq!(b.group()["serves"], true);
    read_back(&b.place, 0x22);
    a.until_in_sync();
    b.cli(&["setrcopygroup", "switchover", "g"]);
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    read_back(&a.place, 0x22);
    assert_eq!(a.group()["name"], "g", "{}", a.group());
}

/// The same with a snapshot of a machine whose array runs, and has not been started since.
#[test]
fn an_array_that_was_reverted_to_a_snapshot_is_mirrored_anew() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    // Regions of before are not marked as active any more, as on any array that has run for a while.
    std::thread::sleep(Duration::from_secs(7));
    let snapshot = pair.directory.path().join("snapshot");
    let signal = |signal| kill(Pid::from_raw(a.daemon.pid().cast_signed()), signal).unwrap();
    signal(Signal::SIGSTOP);
    copy(&pair.a.data_dir, &snapshot);
    signal(Signal::SIGCONT);
    a.until_in_sync();
    write_and_read(&a.place, &a.place, 0x22);
    std::thread::sleep(Duration::from_secs(12));
    a.daemon.kill();
    until("B is promoted", LIMIT, || (b.group()["serves"] == true).then_some(()));
    fs::remove_dir_all(&pair.a.data_dir).unwrap();
    copy(&snapshot, &pair.a.data_dir);
    let mut a = pair.a.start();
    a.daemon.says("the data_dir of array-a is older than one heard here before");
    a.daemon.says("takes no part until the primary has enrolled it");
    a.until_in_sync();
    b.cli(&["setrcopygroup", "switchover", "g"]);
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    read_back(&a.place, 0x22);
}

/// While the other array is away the witness's word counts, or restarts would make the old copy look new.
#[test]
fn an_old_backup_beside_a_dead_array_is_told_so_by_the_witness() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    b.cli(&["setrcopygroup", "switchover", "g"]);
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    a.daemon.terminate();
    let backup = pair.directory.path().join("backup");
    copy(&pair.a.data_dir, &backup);
    for _ in 0..2 {
        let a = pair.a.start();
        a.until_in_sync();
        a.daemon.kill();
    }
    b.daemon.kill();
    fs::remove_dir_all(&pair.a.data_dir).unwrap();
    copy(&backup, &pair.a.data_dir);
    let mut a = pair.a.start();
    a.daemon.says("the data_dir of array-a is older than one heard here before");
    a.daemon.says("takes no part until the primary has enrolled it");
    let _b = pair.b.start();
    a.until_in_sync();
}

#[test]
fn two_arrays_of_one_side_are_told_so() {
    let pair = Pair::new();
    let mut other = pair.b.clone();
    other.side = "a";
    never_linked(&pair.a, &other, "both arrays are configured as side A; make one of them side B");
}

#[test]
fn a_peer_of_another_name_is_told_so() {
    let pair = Pair::new();
    let mut a = pair.a.clone();
    a.peer = Some(("array-x".into(), pair.b.replication));
    let (mut first, second) = (a.start(), pair.b.start());
    first.daemon.says("the array calls itself array-b, expected is array-x ([peer] name)");
    assert_eq!(first.get("/api/twinlun/rcopy")["targetUp"], false);
    let said = second.cli_refused(&["creatercopygroup", "g", "array-a:sync"]);
    assert!(said.contains("not reached"), "{said}");
}

#[test]
fn an_array_at_the_witness_s_address_is_no_witness() {
    let pair = Pair::new();
    let mut a = pair.a.clone();
    a.witness = Some(pair.b.replication);
    let _b = pair.b.start();
    let mut a = a.start();
    a.daemon.says("the witness is not reached");
    assert_eq!(a.get("/api/twinlun/rcopy")["witnessUp"], false);
}

#[test]
fn a_volume_of_another_size_is_refused_with_both_sizes() {
    let pair = Pair::new();
    let (a, b) = (pair.a.start(), pair.b.start());
    a.cli(&["createvv", "v0", "64M"]);
    b.cli(&["createvv", "v0", "32M"]);
    until("linked", LIMIT, || {
        a.try_cli(&["creatercopygroup", "g", "array-b:sync"]).status.success().then_some(())
    });
    let said = a.cli_refused(&["admitrcopyvv", "v0", "g", "array-b:v0"]);
    assert!(said.contains("67108864") && said.contains("33554432") && said.contains("v0"), "{said}");
    // The same name and size, but another volume: not overwritten either.
    b.cli(&["createvv", "v1", "64M"]);
    let said = a.cli_refused(&["admitrcopyvv", "v0", "g", "array-b:v1"]);
    assert!(said.contains("v1") && said.contains("exists already"), "{said}");
    for (array, size) in [(&a, 64), (&b, 32)] {
        assert_eq!(array.get("/api/v1/volumes/v0")["sizeMiB"], size);
        assert_eq!(array.group()["volumes"].as_array().map(Vec::len), Some(0));
    }
    a.cli(&["admitrcopyvv", "v0", "g", "array-b:v0-copy"]);
    a.cli(&["startrcopygroup", "g"]);
    a.until_in_sync();
    assert_eq!(b.get("/api/v1/volumes/v0-copy")["sizeMiB"], 64);
}

#[test]
fn a_second_daemon_on_a_data_dir_is_refused_by_the_first_one_s_pid() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "array-a", "a");
    let first = place.start();
    first.cli(&["createvv", "v0", "8M"]);
    let second = Place { portal: port(), management: port(), ..place.clone() };
    let said = second.start_refused();
    assert!(said.contains(&format!("in use by process {}", first.daemon.pid())), "{said}");
    assert!(said.contains("array-a.data"), "{said}");
    assert_eq!(first.get("/api/v1/volumes")["total"], 1, "the first one lives on");
    first.daemon.kill();
    // A killed daemon's lock goes with it.
    assert_eq!(second.start().get("/api/v1/volumes")["total"], 1);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let first = Place::new(directory.path(), "array-a", "a").start();
    let mut second = Place::new(directory.path(), "array-b", "b");
    second.portal = first.place.portal;
    let said = second.start_refused();
    assert!(said.contains(&format!("127.0.0.1:{}", second.portal)) && said.contains("iSCSI"), "{said}");
}

#[test]
fn a_second_witness_on_a_data_dir_is_refused() {
    let pair = Pair::new();
    let other = pair.directory.path().join("other.toml");
    let text = fs::read_to_string(&pair.witness_config).unwrap();
    let text = text.replace(&pair.witness_port.to_string(), &port().to_string());
    fs::write(&other, text).unwrap();
    let said = refused(Command::new(BINARY).arg("witness").arg("--config").arg(&other));
    assert!(said.contains(&format!("in use by process {}", pair.witness.pid())), "{said}");
}

#[test]
fn an_array_s_data_dir_is_none_of_a_witness() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "array-a", "a");
    place.start().daemon.terminate();
    let config = directory.path().join("witness.toml");
    let text = format!(
        "[witness]\nname = \"w\"\nlisten = \"127.0.0.1:{}\"\ndata_dir = \"array-a.data\"\nrun_dir = \"run\"\n",
        port()
    );
    fs::write(&config, text).unwrap();
    let said = refused(Command::new(BINARY).arg("witness").arg("--config").arg(&config));
    assert!(said.contains("belongs to array A"), "{said}");
    // And a witness whose state is torn does not start as a new one.
    fs::write(&config, fs::read_to_string(&config).unwrap().replace("array-a.data", "w")).unwrap();
    let log = directory.path().join("witness.log");
    let mut witness = Daemon::start("witness", &config, &log);
    witness.says("witness ready");
    witness.terminate();
    let state = directory.path().join("w/state");
    let length = usize::try_from(fs::metadata(&state).unwrap().len()).unwrap();
    fs::write(&state, vec![0xa5; length]).unwrap();
    let said = refused(Command::new(BINARY).arg("witness").arg("--config").arg(&config));
    assert!(said.contains("w/state"), "{said}");
}
