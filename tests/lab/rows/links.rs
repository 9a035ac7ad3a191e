//! Networks that break, between the arrays and to the witness.

use super::{AFTER, SETTLE, TAKEOVER, check, rest, taken_over};
use crate::lab::{Error, Lab};
use crate::network::{Node, Plane};
use crate::site::Role;
use crate::wire::Distance;
use std::time::Duration;

pub fn links_cut(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::A, Plane::Replication)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    let b = lab.status(Node::B)?;
    check(!b.serves, || format!("B serves while A lives: {b:?}"))?;
    lab.heal_all()
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

pub fn primary_without_witness(lab: &mut Lab) -> Result<(), Error> {
    without_witness(lab, Node::A)
}

pub fn secondary_without_witness(lab: &mut Lab) -> Result<(), Error> {
    without_witness(lab, Node::B)
}

pub fn secondary_isolated(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::B, Plane::Replication)?;
    lab.cut(Node::B, Plane::Witness)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    let b = lab.status(Node::B)?;
    check(!b.serves, || format!("B serves though isolated: {b:?}"))?;
    lab.heal_all()
}

pub fn primary_isolated(lab: &mut Lab) -> Result<(), Error> {
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

pub fn stale_secondary(lab: &mut Lab) -> Result<(), Error> {
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

/// One lane of several breaks: its connection is reset. The group goes on as it is.
pub fn lane_broken(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    let before = lab.status(Node::A)?;
    lab.break_busiest_lane()?;
    rest(AFTER);
    let after = lab.status(Node::A)?;
    check(after.serves && after.in_sync && after.epoch == before.epoch, || {
        format!("a broken lane changed more than itself: {before:?}, then {after:?}")
    })
}

pub fn primary_lost_with_its_network(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    for plane in [Plane::Host, Plane::Replication, Plane::Witness] {
        lab.cut(Node::A, plane)?;
    }
    lab.kill(Node::A)?;
    taken_over(lab)?;
    // Hosts find out by silence alone.
    rest(Duration::from_secs(15));
    lab.heal_all()?;
    lab.start(Node::A)
}

/// The witness and the links fail at one moment: nobody may serve.
fn witness_and_links(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::Witness, Plane::Witness)?;
    lab.cut(Node::A, Plane::Replication)?;
    lab.wait("nobody serves", TAKEOVER, |lab| {
        Ok(!lab.status(Node::A)?.serves && !lab.status(Node::B)?.serves)
    })?;
    rest(Duration::from_secs(8));
    let states = [lab.status(Node::A)?, lab.status(Node::B)?];
    check(states.iter().all(|state| !state.serves && !state.reason.is_empty()), || {
        format!("somebody serves, or does not say why not: {states:?}")
    })
}

/// The link is back first, then the same witness first, which did not reboot.
pub fn witness_and_links_cut(lab: &mut Lab) -> Result<(), Error> {
    witness_and_links(lab)?;
    lab.heal(Node::A, Plane::Replication)?;
    lab.wait("A serves again over the link alone", TAKEOVER, |lab| {
        let a = lab.status(Node::A)?;
        Ok(a.serves && a.role == Role::Primary)
    })?;
    lab.heal_all()?;
    lab.wait_in_sync()?;
    witness_and_links(lab)?;
    lab.heal(Node::Witness, Plane::Witness)?;
    lab.wait("an array serves by the witness's vote", TAKEOVER, |lab| {
        Ok(lab.status(Node::A)?.serves || lab.status(Node::B)?.serves)
    })?;
    lab.heal_all()
}

/// Links come and go every second: A serves all the time, the epochs do not run away.
pub fn links_flap(lab: &mut Lab) -> Result<(), Error> {
    const FLAPS: u64 = 15;
    rest(SETTLE);
    let before = lab.status(Node::A)?.epoch;
    for _ in 0..FLAPS {
        lab.cut(Node::A, Plane::Replication)?;
        rest(Duration::from_secs(1));
        lab.heal(Node::A, Plane::Replication)?;
        rest(Duration::from_secs(1));
    }
    let a = lab.status(Node::A)?;
    lab.note("epochs", a.epoch - before);
    check(a.serves && a.role == Role::Primary, || format!("A lost its place: {a:?}"))?;
    // A drop and a join for each `rejoin_delay` (5 s here) at most.
    check(a.epoch - before <= 2 + 2 * (2 * FLAPS) / 5, || format!("{} epochs in 30 s", a.epoch - before))
}

/// First what B sends is lost, then what A sends.
pub fn links_cut_one_way(lab: &mut Lab) -> Result<(), Error> {
    for (from, to) in [(Node::B, Node::A), (Node::A, Node::B)] {
        rest(SETTLE);
        lab.cut_one_way(from, to, Plane::Replication)?;
        lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
        rest(AFTER);
        let b = lab.status(Node::B)?;
        check(!b.serves, || format!("B serves while A lives: {b:?}"))?;
        lab.heal_all()?;
        lab.wait_in_sync()?;
    }
    Ok(())
}

/// Metro distances: nothing comes of them but time, and a failover takes little longer.
pub fn far_apart(lab: &mut Lab) -> Result<(), Error> {
    let long = |round_trip: u64| Distance {
        one_way: Duration::from_micros(round_trip * 500),
        lost: 1_000,
        reordered: 10_000,
    };
    let before = lab.status(Node::A)?;
    lab.lengthen(Node::Witness, Plane::Witness, long(150))?;
    lab.lengthen(Node::B, Plane::Replication, long(5))?;
    rest(Duration::from_secs(20));
    let after = lab.status(Node::A)?;
    check(after.serves && after.in_sync && after.epoch == before.epoch, || {
        format!("distance alone changed something: {before:?}, then {after:?}")
    })?;
    lab.switch_over()?;
    rest(SETTLE);
    lab.switch_over()?;
    rest(SETTLE);
    lab.kill(Node::A)?;
    taken_over(lab)?;
    rest(AFTER);
    lab.start(Node::A)?;
    lab.wait_in_sync()?;
    lab.heal_all()
}

pub fn witness_lost_then_links(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::A, Plane::Witness)?;
    rest(Duration::from_secs(8));
    let a = lab.status(Node::A)?;
    check(a.serves && a.in_sync, || format!("A does not go on in sync: {a:?}"))?;
    lab.cut(Node::A, Plane::Replication)?;
    taken_over(lab)?;
    rest(AFTER);
    lab.heal_all()
}
