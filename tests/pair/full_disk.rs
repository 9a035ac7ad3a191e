//! A full file system: clear errors, nothing lost, and on it goes when there is space again.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use super::site::{Array, BINARY, Daemon, INITIATOR, LIMIT, Place, qemu_io, until};

/// An array on a tmpfs of 48 MiB in a mount namespace of its own. `None`, with a note: not allowed.
fn on_small_disk(directory: &std::path::Path) -> Option<Array> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a small file system needs root");
        return None;
    }
    let probe = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        println!("skipped: no mount namespaces here");
        return None;
    }
    let mut place = Place::new(directory, "array-a", "a");
    let disk = directory.join("disk");
    fs::create_dir(&disk).unwrap();
    place.data_dir = disk.join("data");
    fs::write(place.config_path(), place.config()).unwrap();
    let mut command = Command::new("unshare");
    let script = "mount -t tmpfs -o size=48M none \"$1\" && exec \"$2\" array --config \"$3\"";
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&disk).arg(BINARY).arg(place.config_path());
    let mut daemon = Daemon::spawn(command, &place.log_path());
    daemon.says("array ready");
    Some(Array { daemon, place })
}

#[test]
fn a_full_disk_is_told_survived_and_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut array) = on_small_disk(directory.path()) else { return };
    array.cli(&["createvv", "v0", "64M"]);
    array.cli(&["createhost", "h", INITIATOR]);
    array.cli(&["createvlun", "v0", "1", "h"]);
    let io = |command: &str| qemu_io(&array.place, command);
    if let Some(written) = io("write -P 0x21 0 1M") {
        written.unwrap();
    }
    // Everything but a little is taken by somebody else.
    let seen: PathBuf = format!("/proc/{}/root", array.daemon.pid()).into();
    let filler = seen.join(directory.path().strip_prefix("/").unwrap()).join("disk/filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    if let Some(refused) = io("write -P 0x22 1M 32M") {
        let said = refused.expect_err("no space, but GOOD");
        println!("a write without space: {}", said.trim());
        io("read -P 0x21 0 1M").unwrap().expect("what was acknowledged is still there");
        io("write -P 0x23 0 1M").unwrap().expect("space that is there already can be written");
    }
    let said = array.cli_refused(&["createvv", "v1", "16M"]);
    assert!(said.contains("space"), "{said}");
    let shown = array.cli(&["showvv"]);
    assert!(shown.contains("v0") && !shown.contains("v1"), "{shown}");
    let path = filler.with_file_name("data").join("volumes/v1");
    assert!(!path.exists(), "half a volume is left behind");
    assert!(array.daemon.is_alive());

    fs::remove_file(&filler).unwrap();
    drop(file);
    // The kernel may still be freeing it.
    until("space again", LIMIT, || array.try_cli(&["createvv", "v1", "16M"]).status.success().then_some(()));
    if let Some(written) = qemu_io(&array.place, "write -P 0x24 1M 8M") {
        written.unwrap();
        qemu_io(&array.place, "read -P 0x23 0 1M").unwrap().unwrap();
        qemu_io(&array.place, "read -P 0x24 1M 8M").unwrap().unwrap();
    }
    assert!(!array.daemon.log().contains("panicked"));
}

#[test]
fn a_size_that_the_file_system_cannot_hold_is_refused_with_its_limit() {
    let directory = tempfile::tempdir().unwrap();
    let array = Place::new(directory.path(), "array-a", "a").start();
    let said = array.cli_refused(&["createvv", "v0", "65T"]);
    assert!(said.contains("64 TiB"), "{said}");
    assert_eq!(array.get("/api/v1/volumes")["total"], 0);
    assert_eq!(fs::read_dir(array.place.data_dir.join("volumes")).unwrap().count(), 0);
}

#[test]
fn a_fully_provisioned_volume_has_its_space_and_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some(array) = on_small_disk(directory.path()) else { return };
    let full = |name: &str, mib: u64| {
        array.api("POST", "/api/v1/volumes", &json!({ "name": name, "sizeMiB": mib, "tpvv": false }))
    };
    let refused = full("v0", 64);
    assert!(refused.status >= 400 && refused.body.to_string().contains("no space left"), "{refused:?}");
    assert_eq!(full("v0", 24).status, 201);
    let seen: PathBuf = format!("/proc/{}/root", array.daemon.pid()).into();
    let disk = seen.join(directory.path().strip_prefix("/").unwrap()).join("disk");
    let taken = || fs::metadata(disk.join("data/volumes/v0")).unwrap().blocks() * 512;
    assert!(taken() >= 24 << 20, "{}", taken());
    array.cli(&["createhost", "h", INITIATOR]);
    array.cli(&["createvlun", "v0", "1", "h"]);
    let mut file = fs::File::create(disk.join("filler")).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    for command in ["write -P 0x31 0 24M", "write -z 4M 8M", "write -P 0x32 4M 8M", "read -P 0x32 4M 8M"] {
        if let Some(done) = qemu_io(&array.place, command) {
            done.unwrap_or_else(|said| panic!("{command}: {said}"));
        }
    }
    assert!(taken() >= 24 << 20, "zeroes gave space back: {}", taken());
}

/// A creation that was cut off before its object was there.
#[test]
fn what_a_creation_left_behind_is_cleared_away_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "array-a", "a");
    place.start().daemon.terminate();
    let volumes = place.data_dir.join("volumes");
    fs::File::create(volumes.join("empty")).unwrap();
    fs::File::create(volumes.join("sized")).unwrap().set_len((8 << 20) + 8192).unwrap();
    let foreign = fs::File::create(volumes.join("foreign")).unwrap();
    foreign.set_len((8 << 20) + 8192).unwrap();
    foreign.write_all_at(b"somebody's data", 4 << 20).unwrap();
    let mut array = place.start();
    for name in ["empty", "sized"] {
        assert!(!volumes.join(name).exists(), "{name}");
        array.cli(&["createvv", name, "8M"]);
    }
    array.daemon.says("this file belongs to no volume");
    let said = array.cli_refused(&["createvv", "foreign", "8M"]);
    assert!(said.contains("exists already"), "{said}");
    array.daemon.terminate();
    let array = place.start();
    assert!(array.cli(&["showvv"]).contains("sized"), "volumes are no litter");
}
