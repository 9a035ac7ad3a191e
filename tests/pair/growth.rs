//! `growvv`: both copies of a mirrored volume grow, and whatever is cut off in between is settled.

use std::time::Duration;

use super::site::{Array, LIMIT, Pair, qemu_io, until};

fn size_mib(array: &Array) -> u64 {
    array.get("/api/v1/volumes/v0")["sizeMiB"].as_u64().unwrap()
}

#[test]
fn both_copies_of_a_mirrored_volume_grow() {
    let pair = Pair::new();
    let (a, b) = pair.in_sync();
    let io = |array: &Array, command: &str| qemu_io(&array.place, command).is_none_or(|done| done.is_ok());
    assert!(io(&a, "write -P 0x11 63M 1M"));
    assert!(!io(&a, "write -P 0x22 64M 1M") || qemu_io(&a.place, "read 0 512").is_none(), "beyond the end");
    let refused = b.cli_refused(&["growvv", "v0", "64M"]);
    assert!(refused.contains("on the primary"), "{refused}");
    for bad in ["0M", "100T"] {
        a.cli_refused(&["growvv", "v0", bad]);
    }
    a.cli_refused(&["growvv", "nothing", "1G"]);
    assert_eq!((size_mib(&a), size_mib(&b)), (64, 64));
    a.cli(&["growvv", "v0", "192M"]);
    assert_eq!((size_mib(&a), size_mib(&b)), (256, 256));
    assert!(io(&a, "read -P 0 64M 192M"), "what is new reads as zeroes");
    assert!(io(&a, "write -P 0x33 200M 56M"));
    a.until_in_sync();

    // Grown over a loss of the other array, too: marked, copied, joined.
    b.daemon.kill();
    until("A goes on alone", LIMIT, || (a.group()["inSync"] == false).then_some(()));
    let refused = a.cli_refused(&["growvv", "v0", "64M"]);
    assert!(refused.contains("in sync"), "{refused}");
    assert!(io(&a, "write -P 0x44 130M 20M"));
    let b = pair.b.start();
    a.until_in_sync();
    b.until_in_sync();
    until("the switchover", LIMIT, || {
        a.try_cli(&["setrcopygroup", "switchover", "g"]).status.success().then_some(())
    });
    until("B serves", LIMIT, || (b.group()["serves"] == true).then_some(()));
    for (at, pattern) in [("63M 1M", 0x11), ("64M 66M", 0), ("130M 20M", 0x44), ("200M 56M", 0x33)] {
        assert!(io(&b, &format!("read -P {pattern:#x} {at}")), "{at}");
    }
    // Restarted, both know the new size.
    a.daemon.terminate();
    let a = pair.a.start();
    b.until_in_sync();
    assert_eq!((size_mib(&a), size_mib(&b)), (256, 256));
}

/// The copy that was to grow second did not, and its array comes back as the secondary of a larger one.
fn grows_after_a_death_in_between(mutation: Option<&str>) -> bool {
    let mut pair = Pair::new();
    pair.a.environment = vec![("TWINLUN_DIES_AT".into(), "grown_there".into())];
    if let Some(mutation) = mutation {
        pair.b.environment = vec![("TWINLUN_MUTATION".into(), mutation.into())];
    }
    let (mut a, b) = pair.in_sync();
    assert!(!a.try_cli(&["growvv", "v0", "64M"]).status.success());
    until("A dies", LIMIT, || (!a.daemon.is_alive()).then_some(()));
    drop(a);
    until("B is promoted", LIMIT, || (b.group()["serves"] == true).then_some(()));
    pair.a.environment.clear();
    let a = pair.a.start();
    assert_eq!(size_mib(&b), 128);
    let end = std::time::Instant::now() + Duration::from_secs(25);
    while std::time::Instant::now() < end {
        if size_mib(&a) == 128 {
            a.until_in_sync();
            b.until_in_sync();
            return true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    false
}

#[test]
fn a_copy_left_behind_by_a_growth_follows_the_new_primary() {
    assert!(grows_after_a_death_in_between(None));
}

#[test]
fn untold_a_copy_left_behind_by_a_growth_would_stay_so() {
    assert!(!grows_after_a_death_in_between(Some("SmallerCopyStays")));
}
