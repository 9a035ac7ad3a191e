//! Processes that die, freeze, stop and restart; roles that change under load.

use super::{AFTER, SETTLE, TAKEOVER, check, rest, taken_over};
use crate::lab::{Error, Lab};
use crate::network::{Node, Plane};
use crate::site::Role;
use std::time::{Duration, Instant};

pub fn primary_killed(lab: &mut Lab) -> Result<(), Error> {
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

pub fn secondary_killed(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::B)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    lab.start(Node::B)
}

pub fn primary_frozen(lab: &mut Lab) -> Result<(), Error> {
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

/// A dies while it brings B up to date: B is a mixture and serves nothing; A, back, goes on.
pub fn killed_in_resync(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.cut(Node::A, Plane::Replication)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(Duration::from_secs(8));
    lab.heal_all()?;
    lab.wait("A copies to B", Duration::from_secs(30), |lab| Ok(lab.kept_regions(Node::B)? > 3))?;
    lab.kill(Node::A)?;
    let served = lab.served_by(Node::B)?;
    rest(Duration::from_secs(12));
    let b = lab.status(Node::B)?;
    check(!b.serves && !b.reason.is_empty(), || format!("B serves a mixture, or says nothing: {b:?}"))?;
    let later = lab.served_by(Node::B)?;
    check(served == later, || format!("B completed {} commands from a mixture", later - served))?;
    lab.start(Node::A)
}

pub fn both_killed(lab: &mut Lab) -> Result<(), Error> {
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

pub fn primary_stopped(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.terminate(Node::A)?;
    taken_over(lab)?;
    rest(AFTER);
    lab.start(Node::A)
}

/// The secondary is stopped in order, started, dropped, caught up and joined (rule 16).
fn restarted(lab: &mut Lab, secondary: Node, primary: Node) -> Result<(), Error> {
    let before = lab.status(primary)?.epoch;
    lab.terminate(secondary)?;
    lab.start(secondary)?;
    lab.wait("it is dropped and joined again", Duration::from_secs(60), |lab| {
        let state = lab.status(primary)?;
        Ok(state.epoch >= before + 2 && state.in_sync && lab.status(secondary)?.in_sync)
    })
}

/// An upgrade of both: the secondary first, then the roles change, then the other one.
pub fn upgraded(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    restarted(lab, Node::B, Node::A)?;
    lab.switch_over()?;
    rest(AFTER);
    restarted(lab, Node::A, Node::B)?;
    let b = lab.status(Node::B)?;
    check(b.serves, || format!("the restart of A cost B its place: {b:?}"))
}

pub fn switchovers(lab: &mut Lab) -> Result<(), Error> {
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

pub fn primary_restarts(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::A)?;
    rest(Duration::from_millis(500));
    lab.start(Node::A)?;
    lab.wait("one of the arrays serves", TAKEOVER, |lab| {
        Ok(lab.status(Node::A)?.serves || lab.status(Node::B)?.serves)
    })
}

pub fn secondary_restarts(lab: &mut Lab) -> Result<(), Error> {
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

pub fn witness_dead(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::Witness)?;
    rest(Duration::from_secs(8));
    let a = lab.status(Node::A)?;
    check(a.serves && a.in_sync, || format!("without the witness A does not go on in sync: {a:?}"))?;
    lab.start(Node::Witness)
}

pub fn witness_replaced(lab: &mut Lab) -> Result<(), Error> {
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

/// Both lose power; `first` returns, and the other only once it serves.
fn one_returns(lab: &mut Lab, first: Node, limit: Duration) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::A)?;
    lab.kill(Node::B)?;
    rest(Duration::from_secs(2));
    lab.start(first)?;
    lab.wait("the array that is back serves", limit, |lab| Ok(lab.status(first)?.serves))?;
    rest(AFTER);
    lab.start(if first == Node::A { Node::B } else { Node::A })
}

pub fn only_primary_returns(lab: &mut Lab) -> Result<(), Error> {
    one_returns(lab, Node::A, Duration::from_secs(20))
}

pub fn only_secondary_returns(lab: &mut Lab) -> Result<(), Error> {
    // `start_wait` of 30 s, and the witness's own round.
    one_returns(lab, Node::B, Duration::from_secs(50))
}

pub fn all_restart(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    for node in [Node::Witness, Node::A, Node::B] {
        lab.kill(node)?;
    }
    for node in [Node::B, Node::Witness, Node::A] {
        rest(Duration::from_secs(1));
        lab.start(node)?;
    }
    lab.wait("the former primary serves again", Duration::from_secs(60), |lab| {
        let a = lab.status(Node::A)?;
        Ok(a.serves && a.role == Role::Primary)
    })
}

/// The primary dies where nobody may be promoted: B says why, and A goes on when it is back.
fn primary_dies_for_nobody(lab: &mut Lab) -> Result<(), Error> {
    lab.kill(Node::A)?;
    rest(Duration::from_secs(15));
    let b = lab.status(Node::B)?;
    check(!b.serves && !b.reason.is_empty(), || format!("B serves, or does not say why not: {b:?}"))?;
    lab.start(Node::A)?;
    lab.wait("A serves again", Duration::from_secs(45), |lab| Ok(lab.status(Node::A)?.serves))?;
    lab.start(Node::Witness)
}

/// The witness, then the primary before anything was done about it: nobody may serve.
pub fn witness_then_primary(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::Witness)?;
    rest(AFTER);
    primary_dies_for_nobody(lab)
}

pub fn secondary_then_witness(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::B)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    lab.kill(Node::Witness)?;
    rest(Duration::from_secs(10));
    let a = lab.status(Node::A)?;
    check(a.serves, || format!("A gave up though nobody else can be promoted: {a:?}"))?;
    lab.start(Node::Witness)?;
    lab.start(Node::B)
}

/// The witness dies, and both arrays agree that A goes on alone (`witness_lost_after` is 30 s).
fn pre_elected(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::Witness)?;
    lab.wait("A is pre-elected", Duration::from_secs(60), |lab| {
        let a = lab.status(Node::A)?;
        Ok(a.serves && a.in_sync && a.pre_elected)
    })?;
    rest(SETTLE);
    Ok(())
}

pub fn pre_elected_links_cut(lab: &mut Lab) -> Result<(), Error> {
    pre_elected(lab)?;
    lab.cut(Node::A, Plane::Replication)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    let b = lab.status(Node::B)?;
    check(!b.serves, || format!("B serves while A lives: {b:?}"))?;
    lab.heal_all()?;
    lab.start(Node::Witness)
}

pub fn pre_elected_primary_dies(lab: &mut Lab) -> Result<(), Error> {
    pre_elected(lab)?;
    primary_dies_for_nobody(lab)
}

pub fn pre_elected_secondary_dies(lab: &mut Lab) -> Result<(), Error> {
    pre_elected(lab)?;
    lab.kill(Node::B)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    lab.start(Node::B)?;
    lab.start(Node::Witness)
}
