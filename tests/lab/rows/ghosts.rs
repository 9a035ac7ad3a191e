//! Writes that a host has given up, and that lie in a disk or a connection until much later: none
//! may take effect once the host has written on elsewhere.

use super::{SETTLE, TAKEOVER, check, rest, taken_over};
use crate::lab::{Error, Lab};
use crate::network::{Node, Plane};
use crate::site::Role;
use std::time::{Duration, Instant};

/// How long the old writes lie.
const LIE: Duration = Duration::from_secs(20);
/// Hosts write and read on for so long after the old writes are let go.
const LOOK: Duration = Duration::from_secs(60);

/// A's disk hangs with writes in it while A is cut off; B takes over; the disk goes on; the roles
/// return to A. `meanwhile` is what happens to the hosts' sessions at A.
fn lie_in_the_disk(lab: &mut Lab, meanwhile: fn(&mut Lab) -> Result<(), Error>) -> Result<(), Error> {
    rest(SETTLE);
    lab.disk(Node::A)?.freeze()?;
    let frozen = Instant::now();
    lab.cut(Node::A, Plane::Replication)?;
    lab.cut(Node::A, Plane::Witness)?;
    taken_over(lab)?;
    meanwhile(lab)?;
    rest((LIE / 2).saturating_sub(frozen.elapsed()));
    let a = lab.status(Node::A)?;
    check(!a.serves, || format!("A serves though isolated: {a:?}"))?;
    // B would catch A up, on a disk that still holds the old writes (trace T9).
    lab.heal_all()?;
    rest(LIE.saturating_sub(frozen.elapsed()));
    lab.disk(Node::A)?.thaw()?;
    return_to_a(lab)
}

fn return_to_a(lab: &mut Lab) -> Result<(), Error> {
    lab.wait_in_sync()?;
    if lab.primary()? != Node::A {
        lab.switch_over()?;
    }
    let a = lab.status(Node::A)?;
    check(a.role == Role::Primary, || format!("A has not its role back: {a:?}"))?;
    rest(LOOK);
    Ok(())
}

/// Hosts keep their sessions at A: they abort there what they try again on B.
pub fn disk_and_aborts(lab: &mut Lab) -> Result<(), Error> {
    lie_in_the_disk(lab, |_| Ok(()))
}

/// Hosts lose their sessions at A and log in again while the writes lie: reinstatement.
pub fn disk_and_reinstatement(lab: &mut Lab) -> Result<(), Error> {
    lie_in_the_disk(lab, |lab| {
        lab.cut(Node::A, Plane::Host)?;
        rest(Duration::from_secs(8));
        lab.heal(Node::A, Plane::Host)
    })
}

/// A is not cut off: it hands over, and refuses what its disk still holds.
pub fn disk_and_hand_over(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.disk(Node::A)?.freeze()?;
    let frozen = Instant::now();
    taken_over(lab)?;
    rest(LIE.saturating_sub(frozen.elapsed()));
    lab.disk(Node::A)?.thaw()?;
    return_to_a(lab)
}

/// One connection between the arrays stands still with writes in it, and moves again when these
/// were sent another way (rule 14).
pub fn stuck_lane(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    let before = lab.status(Node::A)?;
    lab.stall_busiest_lane()?;
    rest(LIE);
    lab.heal_all()?;
    rest(LOOK);
    let after = lab.status(Node::A)?;
    check(after.serves && after.in_sync && after.epoch == before.epoch, || {
        format!("a stuck lane changed more than itself: {before:?}, then {after:?}")
    })?;
    // Both copies are read back after every row; B's is the one an old frame would have spoiled.
    lab.wait("both arrays in sync", TAKEOVER, |lab| Ok(lab.status(Node::B)?.in_sync))
}
