//! `growvv`: both copies of a mirrored volume grow, and whatever is cut off in between is settled.

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
