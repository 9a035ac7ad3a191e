//! The rows of FAILURES: what is broken, what must serve then, how it is healed. Each leaves the
//! pair healthy again; what was lost, and the gaps, are judged around it by the lab.

use crate::lab::{Error, Lab};
use crate::network::{Node, Plane};
use crate::site::Role;
use std::time::{Duration, Instant};

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub id: &'static str,
    pub what: &'static str,
    /// Longest time without a completed command, outside and in the guest; none: nobody serves
    /// for a while, by right.
    pub array_gap_ms: Option<u64>,
    pub host_gap_ms: Option<u64>,
    /// What a pass needs: everything as before, or that the judge caught the fault put in.
    pub expects: Expects,
    pub run: fn(&mut Lab) -> Result<(), Error>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expects {
    NothingLost,
    LossCaught,
    StaleCaught,
}

/// A gap of 0 in the table: no longer than this machine's own hiccups.
const NO_GAP_ARRAY_MS: u64 = 400;
const NO_GAP_HOST_MS: u64 = 1_000;

const fn row(
    id: &'static str,
    what: &'static str,
    gaps: Option<(u64, u64)>,
    run: fn(&mut Lab) -> Result<(), Error>,
) -> Row {
    let (array_gap_ms, host_gap_ms) = match gaps {
        Some((array, host)) => (Some(array), Some(host)),
        None => (None, None),
    };
    Row { id, what, array_gap_ms, host_gap_ms, expects: Expects::NothingLost, run }
}

pub const ROWS: [Row; 22] = [
    row("F2", "all links between the arrays cut; both see the witness", Some((3_000, 3_000)), links_cut),
    row("F3", "A loses the witness", Some((NO_GAP_ARRAY_MS, NO_GAP_HOST_MS)), primary_without_witness),
    row("F4", "B loses the witness", Some((NO_GAP_ARRAY_MS, NO_GAP_HOST_MS)), secondary_without_witness),
    row("F5", "the witness dies", Some((NO_GAP_ARRAY_MS, NO_GAP_HOST_MS)), witness_dead),
    row("F6", "the primary's process is killed", Some((5_000, 8_000)), primary_killed),
    row("F8", "the secondary's process is killed", Some((3_000, 3_000)), secondary_killed),
    row(
        "F9",
        "the primary is isolated, alive, and hosts still reach it",
        Some((5_000, 8_000)),
        primary_isolated,
    ),
    row("F10", "the secondary is isolated", Some((3_000, 3_000)), secondary_isolated),
    row("F13", "links cut, the primary writes alone, then dies", None, stale_secondary),
    row("F15", "the primary is frozen past its lease, then wakes", Some((5_000, 8_000)), primary_frozen),
    row("F16", "both arrays die and return", None, both_killed),
    row(
        "F20",
        "the witness is replaced by an empty one",
        Some((NO_GAP_ARRAY_MS, NO_GAP_HOST_MS)),
        witness_replaced,
    ),
    row("F27", "the primary is stopped in order", Some((1_000, 3_000)), primary_stopped),
    row(
        "F28",
        "20 switchovers under load, 5 s apart, then 100 back to back",
        Some((500, 1_000)),
        switchovers,
    ),
    row("F31", "the primary restarts within its lease", Some((5_000, 8_000)), primary_restarts),
    row("F32", "the secondary restarts within the timeouts", Some((3_000, 3_000)), secondary_restarts),
    row("DELTA", "after F6 the returning array copies less than 1 % of 10 GiB", None, delta),
    row("STALL", "all data threads stand still for 1 s, again and again: no change of epoch", None, stall),
    row("IDLE", "an idle array takes no CPU and under 64 MiB", None, idle),
    row(
        "SATURATE",
        "10 minutes at full load change no epoch",
        Some((NO_GAP_ARRAY_MS * 5, NO_GAP_HOST_MS * 3)),
        saturate,
    ),
    Row {
        expects: Expects::LossCaught,
        ..row(
            "JUDGE-DROP",
            "the judge itself: an array that drops one acknowledged write is caught",
            None,
            drop_one_write,
        )
    },
    Row {
        expects: Expects::StaleCaught,
        ..row(
            "JUDGE-STALE",
            "the judge itself: an array that serves one stale read is caught",
            None,
            serve_one_stale_read,
        )
    },
];

/// Load before a fault, and after it before it is healed.
const SETTLE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(3);
/// Within which the other array must have taken over, gaps being judged apart.
const TAKEOVER: Duration = Duration::from_secs(20);

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Wrong(otherwise())) }
}

fn rest(span: Duration) {
    std::thread::sleep(span);
}

fn links_cut(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::A, Plane::Replication)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    let b = lab.status(Node::B)?;
    check(!b.serves, || format!("B serves while A lives: {b:?}"))?;
    lab.heal_all()
}

fn witness_dead(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::Witness)?;
    rest(Duration::from_secs(8));
    let a = lab.status(Node::A)?;
    check(a.serves && a.in_sync, || format!("without the witness A does not go on in sync: {a:?}"))?;
    lab.start(Node::Witness)
}

/// The witness's leg of one array is cut: nothing may come of it.
fn without_witness(lab: &mut Lab, node: Node) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(node, Plane::Witness)?;
    rest(Duration::from_secs(8));
    let a = lab.status(Node::A)?;
    check(a.serves && a.in_sync, || format!("A does not go on in sync: {a:?}"))?;
    lab.heal_all()
}

fn primary_without_witness(lab: &mut Lab) -> Result<(), Error> {
    without_witness(lab, Node::A)
}

fn secondary_without_witness(lab: &mut Lab) -> Result<(), Error> {
    without_witness(lab, Node::B)
}

fn secondary_killed(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::B)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    lab.start(Node::B)
}

fn secondary_isolated(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::B, Plane::Replication)?;
    lab.cut(Node::B, Plane::Witness)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    let b = lab.status(Node::B)?;
    check(!b.serves, || format!("B serves though isolated: {b:?}"))?;
    lab.heal_all()
}

fn taken_over(lab: &mut Lab) -> Result<(), Error> {
    lab.wait("B takes over", TAKEOVER, |lab| {
        let b = lab.status(Node::B)?;
        Ok(b.serves && b.role == Role::PrimaryRev)
    })
}

fn primary_killed(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::A)?;
    taken_over(lab)?;
    rest(AFTER);
    lab.start(Node::A)?;
    lab.wait("A returns as secondary, in sync", Duration::from_secs(90), |lab| {
        let a = lab.status(Node::A)?;
        Ok(a.role == Role::SecondaryRev && lab.status(Node::B)?.in_sync)
    })
}

fn primary_isolated(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::A, Plane::Replication)?;
    lab.cut(Node::A, Plane::Witness)?;
    taken_over(lab)?;
    let served = lab.served_by(Node::A)?;
    rest(AFTER);
    let a = lab.status(Node::A)?;
    check(!a.serves, || format!("A serves though isolated: {a:?}"))?;
    let later = lab.served_by(Node::A)?;
    check(served == later, || format!("A completed {} commands while B served", later - served))?;
    lab.heal_all()
}

fn stale_secondary(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::A, Plane::Replication)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    lab.kill(Node::A)?;
    let served = lab.served_by(Node::B)?;
    rest(Duration::from_secs(12));
    let b = lab.status(Node::B)?;
    check(!b.serves, || format!("B serves a stale copy: {b:?}"))?;
    check(!b.reason.is_empty(), || String::from("B does not say why it does not serve"))?;
    let later = lab.served_by(Node::B)?;
    check(served == later, || format!("B completed {} commands from a stale copy", later - served))?;
    lab.heal_all()?;
    lab.start(Node::A)
}

fn primary_frozen(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.freeze(Node::A)?;
    taken_over(lab)?;
    rest(AFTER);
    let served = lab.served_by(Node::A)?;
    lab.thaw(Node::A)?;
    rest(AFTER);
    let later = lab.served_by(Node::A)?;
    check(served == later, || {
        format!("A, awake again, completed {} commands that B should have", later - served)
    })
}

fn both_killed(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::A)?;
    lab.kill(Node::B)?;
    rest(Duration::from_secs(2));
    lab.start(Node::B)?;
    lab.start(Node::A)?;
    lab.wait("the former primary serves again", Duration::from_secs(45), |lab| {
        let a = lab.status(Node::A)?;
        Ok(a.serves && a.role == Role::Primary)
    })
}

fn witness_replaced(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::Witness)?;
    lab.wipe(Node::Witness)?;
    let before = lab.status(Node::A)?.epoch;
    lab.start(Node::Witness)?;
    lab.wait("the new witness is enrolled", Duration::from_secs(60), |lab| {
        let a = lab.status(Node::A)?;
        Ok(a.epoch > before && a.witness_counts)
    })?;
    let a = lab.status(Node::A)?;
    check(a.serves && a.in_sync, || format!("the change of witness cost A its place: {a:?}"))
}

fn primary_stopped(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.terminate(Node::A)?;
    taken_over(lab)?;
    rest(AFTER);
    lab.start(Node::A)
}

fn switchovers(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    for _ in 0..20 {
        let begin = Instant::now();
        lab.switch_over()?;
        rest(Duration::from_secs(5).saturating_sub(begin.elapsed()));
    }
    // The guest's own gaps are those of the first part; the outside client goes on.
    lab.guest_rests()?;
    for _ in 0..100 {
        lab.switch_over()?;
    }
    Ok(())
}

fn primary_restarts(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::A)?;
    rest(Duration::from_millis(500));
    lab.start(Node::A)?;
    lab.wait("one of the arrays serves", TAKEOVER, |lab| {
        Ok(lab.status(Node::A)?.serves || lab.status(Node::B)?.serves)
    })
}

fn secondary_restarts(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    let before = lab.status(Node::A)?.epoch;
    lab.kill(Node::B)?;
    lab.start(Node::B)?;
    // Rule 16: dropped, caught up, joined.
    lab.wait("B is dropped and joined again", Duration::from_secs(60), |lab| {
        let a = lab.status(Node::A)?;
        Ok(a.epoch >= before + 2 && a.in_sync)
    })?;
    let a = lab.status(Node::A)?;
    check(a.serves && a.role == Role::Primary, || format!("A lost its role over a restart of B: {a:?}"))
}

fn delta(lab: &mut Lab) -> Result<(), Error> {
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

fn stall(lab: &mut Lab) -> Result<(), Error> {
    // Every 4 s from here on, all data threads of A together.
    lab.restart_with_fault(Node::A, "stall:4000")?;
    let before = lab.status(Node::A)?.epoch;
    rest(Duration::from_secs(14));
    let after = lab.status(Node::A)?.epoch;
    check(before == after, || {
        format!("a stall of the data threads changed the epoch from {before} to {after}")
    })
}

fn idle(lab: &mut Lab) -> Result<(), Error> {
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

fn saturate(lab: &mut Lab) -> Result<(), Error> {
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

fn drop_one_write(lab: &mut Lab) -> Result<(), Error> {
    lab.restart_with_fault(Node::A, "drop_write:100")?;
    // Not long: the block would be written again, and the loss healed before it is looked for.
    rest(Duration::from_secs(2));
    Ok(())
}

fn serve_one_stale_read(lab: &mut Lab) -> Result<(), Error> {
    lab.restart_with_fault(Node::A, "stale_read:200")?;
    rest(Duration::from_secs(10));
    Ok(())
}
