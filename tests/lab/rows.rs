//! The rows of FAILURES: what is broken, what must serve then, how it is healed. Each leaves the
//! pair healthy again; what was lost, and the gaps, are judged around it by the lab.

mod disks;
mod ghosts;
mod limits;
mod links;
mod processes;

use crate::lab::{Error, Lab};
use crate::network::Node;
use crate::site::Role;
use std::time::Duration;

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

impl Row {
    /// The array whose volumes lie on a disk of their own for this row.
    pub fn own_disk(&self) -> Option<Node> {
        match self.id {
            "F22" | "F29A" | "GHOST-ABORT" | "GHOST-LOGIN" | "GHOST-HANDOVER" => Some(Node::A),
            "F23" | "F29B" => Some(Node::B),
            _ => None,
        }
    }
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

pub const ROWS: [Row; 52] = [
    row("F1", "one of the connections that carry writes breaks", Some((500, 500)), links::lane_broken),
    row(
        "F2",
        "all links between the arrays cut; both see the witness",
        Some((3_000, 3_000)),
        links::links_cut,
    ),
    row("F3", "A loses the witness", Some((NO_GAP_ARRAY_MS, NO_GAP_HOST_MS)), links::primary_without_witness),
    row(
        "F4",
        "B loses the witness",
        Some((NO_GAP_ARRAY_MS, NO_GAP_HOST_MS)),
        links::secondary_without_witness,
    ),
    row("F5", "the witness dies", Some((NO_GAP_ARRAY_MS, NO_GAP_HOST_MS)), processes::witness_dead),
    row("F6", "the primary's process is killed", Some((5_000, 8_000)), processes::primary_killed),
    row(
        "F7",
        "the primary loses power and network at once",
        Some((5_000, 15_000)),
        links::primary_lost_with_its_network,
    ),
    row("F8", "the secondary's process is killed", Some((3_000, 3_000)), processes::secondary_killed),
    row(
        "F9",
        "the primary is isolated, alive, and hosts still reach it",
        Some((5_000, 8_000)),
        links::primary_isolated,
    ),
    row("F10", "the secondary is isolated", Some((3_000, 3_000)), links::secondary_isolated),
    row(
        "F11",
        "the witness dies, A is pre-elected, then the links are cut",
        Some((3_000, 3_000)),
        processes::pre_elected_links_cut,
    ),
    row(
        "F12",
        "witness and links cut at once; link back first, then witness first",
        None,
        links::witness_and_links_cut,
    ),
    row("F13", "links cut, the primary writes alone, then dies", None, links::stale_secondary),
    row(
        "F14",
        "the primary dies while it brings the secondary up to date",
        None,
        processes::killed_in_resync,
    ),
    row(
        "F15",
        "the primary is frozen past its lease, then wakes",
        Some((5_000, 8_000)),
        processes::primary_frozen,
    ),
    row("F16", "both arrays die and return", None, processes::both_killed),
    row("F17", "both arrays die, only the primary returns", None, processes::only_primary_returns),
    row("F18", "both arrays die, only the secondary returns", None, processes::only_secondary_returns),
    row("F19", "arrays and witness die and return in another order", None, processes::all_restart),
    row(
        "F20",
        "the witness is replaced by an empty one",
        Some((NO_GAP_ARRAY_MS, NO_GAP_HOST_MS)),
        processes::witness_replaced,
    ),
    row("F21", "the witness comes back from a backup", Some((500, 1_000)), disks::witness_restored),
    row("F22", "the primary's disk hangs", Some((5_000, 8_000)), disks::primary_disk_hangs),
    row("F23", "the secondary's disk hangs", Some((3_000, 3_000)), disks::secondary_disk_hangs),
    row("F24", "the links come and go every second", Some((3_000, 3_000)), links::links_flap),
    row("F25", "the links carry one direction only, either", Some((3_000, 3_000)), links::links_cut_one_way),
    row(
        "F26",
        "witness 150 ms away, the arrays 5 ms, frames lost and reordered; then A is killed",
        Some((6_000, 9_000)),
        links::far_apart,
    ),
    row("F27", "the primary is stopped in order", Some((1_000, 3_000)), processes::primary_stopped),
    row(
        "F28",
        "20 switchovers under load, 5 s apart, then 100 back to back",
        Some((500, 1_000)),
        processes::switchovers,
    ),
    row("F29A", "the primary's disk is full", Some((3_000, 3_000)), disks::primary_disk_full),
    row("F29B", "the secondary's disk is full", Some((3_000, 3_000)), disks::secondary_disk_full),
    row("F31", "the primary restarts within its lease", Some((5_000, 8_000)), processes::primary_restarts),
    row(
        "F32",
        "the secondary restarts within the timeouts",
        Some((3_000, 3_000)),
        processes::secondary_restarts,
    ),
    row("F33", "the primary returns from an old backup", Some((5_000, 8_000)), disks::primary_restored),
    row("F34", "A loses the witness, later the links", Some((5_000, 8_000)), links::witness_lost_then_links),
    row("F35", "the witness dies, and at once the primary", None, processes::witness_then_primary),
    row("F36", "the witness dies, A is pre-elected, then A dies", None, processes::pre_elected_primary_dies),
    row(
        "F37",
        "the witness dies, A is pre-elected, then B dies",
        Some((3_000, 3_000)),
        processes::pre_elected_secondary_dies,
    ),
    row(
        "F39",
        "the secondary's disk is exchanged for a blank one",
        Some((3_000, 3_000)),
        disks::secondary_disk_exchanged,
    ),
    row(
        "F41",
        "both are restarted one after the other, as for an upgrade, with a switchover between",
        Some((1_000, 3_000)),
        processes::upgraded,
    ),
    row(
        "F38",
        "every 16th block of A's disk cannot be read until it is written",
        Some((5_000, 8_000)),
        disks::primary_cannot_read,
    ),
    row(
        "F42",
        "the secondary dies, later the witness",
        Some((3_000, 3_000)),
        processes::secondary_then_witness,
    ),
    row("F43", "the primary's data_dir is lost", Some((5_000, 8_000)), disks::primary_forgets),
    row(
        "GHOST-ABORT",
        "writes lie in A's disk for 20 s, are tried again on B, written over, and let go; A -> B -> A",
        None,
        ghosts::disk_and_aborts,
    ),
    row("GHOST-LOGIN", "the same, while hosts log in to A again", None, ghosts::disk_and_reinstatement),
    row("GHOST-HANDOVER", "the same, while A is reached and hands over", None, ghosts::disk_and_hand_over),
    row("GHOST-LANE", "a lane between the arrays stands still for 20 s", None, ghosts::stuck_lane),
    row("DELTA", "after F6 the returning array copies less than 1 % of 10 GiB", None, limits::delta),
    row(
        "STALL",
        "all data threads stand still for 1 s, again and again: no change of epoch",
        None,
        limits::stall,
    ),
    row("IDLE", "an idle array takes no CPU and under 64 MiB", None, limits::idle),
    row(
        "SATURATE",
        "10 minutes at full load change no epoch",
        Some((NO_GAP_ARRAY_MS * 5, NO_GAP_HOST_MS * 3)),
        limits::saturate,
    ),
    Row {
        expects: Expects::LossCaught,
        ..row(
            "JUDGE-DROP",
            "the judge itself: an array that drops one acknowledged write is caught",
            None,
            limits::drop_one_write,
        )
    },
    Row {
        expects: Expects::StaleCaught,
        ..row(
            "JUDGE-STALE",
            "the judge itself: an array that serves one stale read is caught",
            None,
            limits::serve_one_stale_read,
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

fn taken_over(lab: &mut Lab) -> Result<(), Error> {
    lab.wait("B takes over", TAKEOVER, |lab| {
        let b = lab.status(Node::B)?;
        Ok(b.serves && b.role == Role::PrimaryRev)
    })
}
