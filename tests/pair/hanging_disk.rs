//! A disk that neither finishes nor fails: a file system of its own, frozen (`fsfreeze`) under the
//! array, so that the kernel itself holds every write until it is thawed.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::site::{Array, BINARY, Daemon, LIMIT, Pair, Place, qemu_io, read_back, until, write_and_read};

/// A witness this old has no promises of a former life to fear.
const WITNESS_AGE: Duration = Duration::from_secs(11);
/// Promised are 5 s for a hand over and 7 s for a promotion; the machine may be busy.
const RELIEF: Duration = Duration::from_secs(20);

/// Starts an array in a mount namespace of its own, with a file system of its own at `at`. `None`,
/// with a note: not allowed here.
fn on_own_disk(place: &Place, at: &Path) -> Option<Array> {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a file system that can be frozen needs root");
        return None;
    }
    let image = place.directory.join(format!("{}.img", place.name));
    File::create(&image).unwrap().set_len(192 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0"]).arg(&image).status();
    // Its data_dir must be there before a part of it is mounted.
    place.start().daemon.terminate();
    let tried = r#"mount -o loop "$1" "$2" && fsfreeze -f "$2" && fsfreeze -u "$2""#;
    let mut probe = Command::new("unshare");
    probe.args(["-m", "sh", "-c", tried, "sh"]).arg(&image).arg(at);
    if !made.is_ok_and(|made| made.success()) || !probe.status().is_ok_and(|tried| tried.success()) {
        println!("skipped: no loop devices, or no mount namespaces, or no fsfreeze here");
        return None;
    }
    fs::write(place.config_path(), place.config()).unwrap();
    // What the array is waited to say was said by its first start, too.
    fs::remove_file(place.log_path()).unwrap();
    let mut command = Command::new("unshare");
    let script = r#"mount -o loop "$1" "$2" && rm -rf "$2/lost+found" && exec "$3" array --config "$4""#;
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&image).arg(at).arg(BINARY).arg(place.config_path());
    let mut daemon = Daemon::spawn(command, &place.log_path());
    daemon.says("array ready");
    Some(Array { daemon, place: place.clone() })
}

/// A file system that holds every write; thawed with this.
struct Frozen(File);

impl Frozen {
    #[track_caller]
    fn new(array: &Array, at: &Path) -> Self {
        // The array's own view of it: nobody else sees the mount.
        let seen: PathBuf = format!("/proc/{}/root", array.daemon.pid()).into();
        let frozen = Self(File::open(seen.join(at.strip_prefix("/").unwrap())).unwrap());
        assert!(frozen.call("-f"), "fsfreeze -f");
        frozen
    }

    fn call(&self, what: &str) -> bool {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd());
        Command::new("fsfreeze").args([what, &path]).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.call("-u") {
            eprintln!("a file system stays frozen");
        }
    }
}

/// Freezes `at` under a writing host, and expects array B to relieve A, and A to come back.
fn relieved(at: impl Fn(&Place) -> PathBuf, said: &str) {
    let pair = Pair::new();
    let born = Instant::now();
    let at = at(&pair.a);
    let Some(mut a) = on_own_disk(&pair.a, &at) else { return };
    let b = pair.b.start();
    a.cli(&["apply", &pair.objects(), "--wait"]);
    b.until_in_sync();
    write_and_read(&a.place, &a.place, 0x11);
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));

    let frozen = Frozen::new(&a, &at);
    let since = Instant::now();
    let place = a.place.clone();
    // A region that was never written: its mark, too, is a write.
    let host = std::thread::spawn(move || qemu_io(&place, "write -P 0x99 9M 64k"));
    until("B serves", RELIEF, || (b.group()["serves"] == true).then_some(()));
    println!("relieved after {:?}", since.elapsed());
    assert_eq!(a.group()["serves"], false);
    a.daemon.says(said);
    read_back(&b.place, 0x11);
    write_and_read(&b.place, &b.place, 0x22);
    assert_eq!(b.group()["inSync"], false, "nothing is caught up under writes that may still land");

    drop(frozen);
    b.until_in_sync();
    a.until_in_sync();
    assert!(a.daemon.is_alive());
    if let Some(written) = host.join().unwrap() {
        written.expect_err("A must not have acknowledged it");
    }
    until("the way back", LIMIT, || {
        b.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    read_back(&a.place, 0x22);
}

#[test]
fn the_hanging_disk_of_a_volume_is_handed_over_and_comes_back() {
    relieved(|place| place.data_dir.join("volumes"), "a volume's disk does not finish its I/O");
}

#[test]
fn an_array_whose_data_dir_hangs_is_relieved_and_comes_back() {
    relieved(|place| place.data_dir.clone(), "data_dir does not finish a write");
}

/// Nothing is written by anybody: the array finds out by itself.
fn relieved_while_idle(at: impl Fn(&Place) -> PathBuf, said: &str) {
    let pair = Pair::new();
    let born = Instant::now();
    let at = at(&pair.a);
    let Some(mut a) = on_own_disk(&pair.a, &at) else { return };
    let b = pair.b.start();
    a.cli(&["apply", &pair.objects(), "--wait"]);
    b.until_in_sync();
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    let frozen = Frozen::new(&a, &at);
    let since = Instant::now();
    until("B serves", RELIEF, || (b.group()["serves"] == true).then_some(()));
    println!("relieved after {:?}", since.elapsed());
    a.daemon.says(said);
    assert_eq!((&a.group()["serves"], &b.group()["inSync"]), (&false.into(), &false.into()));
    let shown = b.cli(&["showrcopy"]);
    assert!(shown.contains("The other array's disk failed, hung or was full"), "{shown}");
    drop(frozen);
    b.until_in_sync();
    a.until_in_sync();
    assert!(a.daemon.is_alive());
}

#[test]
fn an_idle_array_whose_disk_hangs_hands_over_and_comes_back() {
    relieved_while_idle(|place| place.data_dir.join("volumes"), "a volume's disk does not finish its I/O");
}

#[test]
fn an_idle_array_whose_data_dir_hangs_is_relieved_and_comes_back() {
    relieved_while_idle(|place| place.data_dir.clone(), "data_dir does not finish a write");
}

/// The same on the secondary: it is dropped, and when the primary dies then, it does not serve.
#[test]
fn an_idle_secondary_whose_disk_hangs_is_dropped_and_not_promoted() {
    let pair = Pair::new();
    let born = Instant::now();
    let at = pair.b.data_dir.join("volumes");
    let Some(b) = on_own_disk(&pair.b, &at) else { return };
    let a = pair.a.start();
    a.cli(&["apply", &pair.objects(), "--wait"]);
    b.until_in_sync();
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    let frozen = Frozen::new(&b, &at);
    until("B is dropped", RELIEF, || (a.group()["inSync"] == false).then_some(()));
    assert_eq!(a.group()["serves"], true);
    a.daemon.kill();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(b.group()["serves"], false);
    drop(frozen);
    let a = pair.a.start();
    a.until_in_sync();
    b.until_in_sync();
}

/// Test builds have a switch for a disk that fails.
#[cfg(feature = "testing")]
#[test]
fn a_disk_that_fails_again_and_again_is_caught_up_ever_later() {
    let mut pair = Pair::new();
    let switch = pair.directory.path().join("bad");
    pair.a.environment = vec![("TWINLUN_BAD_DISK".into(), switch.display().to_string())];
    let (a, b) = pair.in_sync();
    for seconds in [5, 10] {
        File::create(&switch).unwrap();
        until("B serves", RELIEF, || (b.group()["serves"] == true).then_some(()));
        fs::remove_file(&switch).unwrap();
        let words = format!("once that disk has worked for {seconds} s");
        until("B says how long A is kept out", RELIEF, || {
            b.cli(&["showrcopy"]).contains(&words).then_some(())
        });
        b.until_in_sync();
        let log = b.cli(&["showeventlog"]);
        assert!(log.contains(&format!("it is mirrored to once that has lasted for {seconds}.0 s")), "{log}");
        until("the way back", LIMIT, || {
            b.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
        });
        until("A serves", LIMIT, || (a.group()["serves"] == true).then_some(()));
    }
}

#[test]
fn a_secondary_whose_disk_hangs_is_dropped_and_caught_up() {
    let pair = Pair::new();
    let at = pair.b.data_dir.join("volumes");
    let Some(mut b) = on_own_disk(&pair.b, &at) else { return };
    let a = pair.a.start();
    a.cli(&["apply", &pair.objects(), "--wait"]);
    b.until_in_sync();
    let frozen = Frozen::new(&b, &at);
    write_and_read(&a.place, &a.place, 0x33);
    assert_eq!(a.group()["inSync"], false);
    assert_eq!(a.group()["serves"], true);
    drop(frozen);
    a.until_in_sync();
    b.until_in_sync();
    assert!(b.daemon.is_alive());
    until("the switchover", LIMIT, || {
        a.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    read_back(&b.place, 0x33);
}
