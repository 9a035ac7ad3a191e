//! One witness process serves many pairs, whose arrays and groups may bear the same names.

use std::time::{Duration, Instant};

use super::site::{Array, LIMIT, Pair, read_back, until, write_and_read};

/// A witness this old has no promises of a former life to fear.
const WITNESS_AGE: Duration = Duration::from_secs(11);

fn epoch(array: &Array) -> u64 {
    array.group()["epoch"].as_u64().unwrap()
}

#[test]
fn pairs_on_one_witness_fail_over_by_themselves() {
    let first = Pair::new();
    let born = Instant::now();
    let (one_a, one_b) = first.in_sync();
    let mut others = Vec::new();
    for name in ["two", "three"] {
        let (a, b) = first.beside(name);
        let (a, b) = (a.start(), b.start());
        a.cli(&["apply", &first.objects(), "--wait"]);
        b.until_in_sync();
        others.push((a, b));
    }
    let (three_a, three_b) = others.pop().unwrap();
    let (two_a, two_b) = others.pop().unwrap();
    for (array, pattern) in [(&one_a, 0x11), (&two_a, 0x22), (&three_a, 0x33)] {
        write_and_read(&array.place, &array.place, pattern);
    }
    std::thread::sleep(WITNESS_AGE.saturating_sub(born.elapsed()));
    let before = epoch(&two_a);

    // The primary of one pair and the secondary of another die; the third pair notices nothing.
    one_a.daemon.kill();
    three_b.daemon.kill();
    until("B of the first pair serves", LIMIT, || (one_b.group()["serves"] == true).then_some(()));
    until("A of the third pair goes on alone", LIMIT, || {
        (three_a.group()["serves"] == true && three_a.group()["inSync"] == false).then_some(())
    });
    read_back(&one_b.place, 0x11);
    read_back(&three_a.place, 0x33);
    read_back(&two_a.place, 0x22);
    assert_eq!((epoch(&two_a), two_b.group()["inSync"].clone()), (before, true.into()));
    assert_eq!(two_a.group()["serves"], true);

    // The witness restarts, keeps what it knows of every pair, and still decides for each.
    first.witness.kill();
    let log = first.directory.path().join("witness-again.log");
    let mut witness = super::site::Daemon::start("witness", &first.witness_config, &log);
    witness.says("witness ready");
    until("the witness counts for the second pair", LIMIT, || {
        (two_a.group()["witness"] == true && two_b.group()["witness"] == true).then_some(())
    });
    std::thread::sleep(WITNESS_AGE);
    two_a.daemon.kill();
    until("B of the second pair serves", LIMIT, || (two_b.group()["serves"] == true).then_some(()));
    read_back(&two_b.place, 0x22);
    assert_eq!(one_b.group()["serves"], true);
}
