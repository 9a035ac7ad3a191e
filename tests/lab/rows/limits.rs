//! What is measured rather than broken, and the judge's own trial.

use super::{SETTLE, check, rest, taken_over};
use crate::lab::{Error, Lab};
use crate::network::Node;
use std::time::Duration;

pub fn delta(lab: &mut Lab) -> Result<(), Error> {
    const VOLUME: u64 = 10 << 30;
    lab.only_raw()?;
    // Until what the others wrote is no longer marked as possibly in flight.
    rest(Duration::from_secs(15));
    lab.kill(Node::A)?;
    taken_over(lab)?;
    // The whole span of 64 MiB is written over while A is away.
    rest(Duration::from_secs(15));
    let before = lab.resync_bytes(Node::B)?;
    lab.start(Node::A)?;
    lab.wait_in_sync()?;
    let copied = lab.resync_bytes(Node::B)? - before;
    lab.note("resync_bytes", copied);
    check(copied > 0, || String::from("nothing was copied"))?;
    check(copied < VOLUME / 100, || format!("{copied} bytes were copied"))
}

pub fn stall(lab: &mut Lab) -> Result<(), Error> {
    // Every 4 s from here on, all data threads of A together.
    lab.restart_with_fault(Node::A, "stall:4000")?;
    let before = lab.status(Node::A)?.epoch;
    rest(Duration::from_secs(14));
    let after = lab.status(Node::A)?.epoch;
    check(before == after, || {
        format!("a stall of the data threads changed the epoch from {before} to {after}")
    })
}

pub fn idle(lab: &mut Lab) -> Result<(), Error> {
    const SECONDS: u64 = 20;
    rest(SETTLE);
    lab.all_rest()?;
    // What the load left behind is cleared up first.
    rest(Duration::from_secs(15));
    for (node, cpu, memory) in
        [(Node::A, "cpu_permille_a", "resident_kib_a"), (Node::B, "cpu_permille_b", "resident_kib_b")]
    {
        let (_, before) = lab.usage(node)?;
        rest(Duration::from_secs(SECONDS));
        let (resident_kib, after) = lab.usage(node)?;
        // Ticks of 10 ms.
        let permille = (after - before) * 10 / SECONDS;
        lab.note(cpu, permille);
        lab.note(memory, resident_kib);
        check(permille <= 20, || {
            format!("array {} takes {permille} per mille of a core when idle", node.name())
        })?;
        check(resident_kib < 64 << 10, || format!("array {} takes {resident_kib} KiB", node.name()))?;
    }
    Ok(())
}

pub fn saturate(lab: &mut Lab) -> Result<(), Error> {
    let before = lab.status(Node::A)?.epoch;
    rest(Duration::from_secs(300));
    let (halfway, _) = lab.usage(Node::A)?;
    rest(Duration::from_secs(300));
    let (end, _) = lab.usage(Node::A)?;
    lab.note("resident_kib_halfway", halfway);
    lab.note("resident_kib_end", end);
    check(end < halfway + halfway / 4 + (16 << 10), || {
        format!("memory grows under load: {halfway} KiB, then {end} KiB")
    })?;
    let after = lab.status(Node::A)?.epoch;
    check(before == after, || format!("load alone changed the epoch from {before} to {after}"))
}

pub fn drop_one_write(lab: &mut Lab) -> Result<(), Error> {
    lab.restart_with_fault(Node::A, "drop_write:100")?;
    // Not long: the block would be written again, and the loss healed before it is looked for.
    rest(Duration::from_secs(2));
    Ok(())
}

pub fn serve_one_stale_read(lab: &mut Lab) -> Result<(), Error> {
    lab.restart_with_fault(Node::A, "stale_read:200")?;
    rest(Duration::from_secs(10));
    Ok(())
}
