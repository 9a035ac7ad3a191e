//! What an array takes of its host while nothing happens.

use std::fs;
use std::thread;
use std::time::Duration;

use super::site::{INITIATOR, Place, qemu_io};

/// DESIGN: resident memory of an idle array.
const RESIDENT_MAX_KIB: u64 = 64 << 10;
/// Of each second; timers and the session's pings take well below a millisecond.
const CPU_MAX: Duration = Duration::from_millis(5);
const SECONDS: u32 = 5;

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// On the processor so far, all threads together.
fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let nanoseconds = threads.map(|thread| {
        let times = fs::read_to_string(thread.path().join("schedstat")).unwrap();
        times.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanoseconds.sum())
}

#[test]
fn an_idle_array_takes_little_memory_and_no_processor() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "array-a", "a");
    let array = place.start();
    array.cli(&["createvv", "v0", "64M"]);
    array.cli(&["createhost", "h", INITIATOR]);
    array.cli(&["createvlun", "v0", "1", "h"]);
    let pid = array.daemon.pid();
    let session = thread::spawn(move || qemu_io(&place, "sleep 9000"));
    thread::sleep(Duration::from_secs(2));
    let before = cpu(pid);
    thread::sleep(Duration::from_secs(SECONDS.into()));
    let (taken, resident) = ((cpu(pid) - before) / SECONDS, resident_kib(pid));
    println!("{taken:?} of each second, {resident} KiB");
    if let Some(done) = session.join().unwrap() {
        done.unwrap();
    }
    assert!(taken <= CPU_MAX, "{taken:?} of each second");
    assert!(resident < RESIDENT_MAX_KIB, "{resident} KiB");
}
