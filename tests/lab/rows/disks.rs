//! Disks that hang or fill up, data that comes from a backup or is gone.

use super::{AFTER, SETTLE, TAKEOVER, check, rest, taken_over};
use crate::lab::{Error, Lab};
use crate::network::Node;
use std::time::Duration;

/// A's disk hangs: it hands over.
pub fn primary_disk_hangs(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.disk(Node::A)?.freeze()?;
    taken_over(lab)?;
    rest(AFTER);
    let a = lab.status(Node::A)?;
    check(!a.serves, || format!("A serves from a disk that hangs: {a:?}"))?;
    Ok(lab.disk(Node::A)?.thaw()?)
}

/// B's disk hangs: A drops it.
pub fn secondary_disk_hangs(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.disk(Node::B)?.freeze()?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    Ok(lab.disk(Node::B)?.thaw()?)
}

/// B's disk is full: A drops it, and catches it up once there is room.
pub fn secondary_disk_full(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.disk(Node::B)?.fill()?;
    let said = lab.write_new_blocks()?;
    check(!said.contains("rror"), || format!("a write that A has room for got: {said}"))?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    rest(AFTER);
    Ok(lab.disk(Node::B)?.relieve()?)
}

/// A's disk is full: what cannot be stored is refused, what can be goes on, nothing changes hands.
pub fn primary_disk_full(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    let before = lab.status(Node::A)?.epoch;
    lab.disk(Node::A)?.fill()?;
    let said = lab.write_new_blocks()?;
    check(said.contains("No space left"), || format!("a write that has no room got: {said}"))?;
    rest(AFTER);
    let a = lab.status(Node::A)?;
    check(a.serves && a.epoch == before, || format!("a full disk cost A its place: {a:?}"))?;
    lab.disk(Node::A)?.relieve()?;
    let said = lab.write_new_blocks()?;
    check(!said.contains("rror"), || format!("with room again a write still got: {said}"))
}

/// The witness's state from before two switchovers comes back.
pub fn witness_restored(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::Witness)?;
    lab.back_up(Node::Witness)?;
    lab.start(Node::Witness)?;
    lab.wait("the witness counts", Duration::from_secs(60), |lab| Ok(lab.status(Node::A)?.witness_counts))?;
    for _ in 0..2 {
        rest(Duration::from_secs(5));
        lab.switch_over()?;
    }
    lab.kill(Node::Witness)?;
    lab.restore(Node::Witness)?;
    let before = lab.status(Node::A)?.epoch;
    lab.start(Node::Witness)?;
    lab.wait("the restored witness is enrolled anew", Duration::from_secs(60), |lab| {
        let a = lab.status(Node::A)?;
        Ok(a.epoch > before && a.witness_counts)
    })?;
    let a = lab.status(Node::A)?;
    check(a.serves && a.in_sync, || format!("the restored witness cost A its place: {a:?}"))
}

/// The copy that was made anew is whole: it serves, and everything is judged through it at the end.
fn enrolled(lab: &mut Lab, node: Node) -> Result<(), Error> {
    lab.wait("the array is enrolled and in sync", Duration::from_secs(240), |lab| {
        Ok(lab.status(node)?.in_sync)
    })
}

/// A's `data_dir` comes back as it was before the last writes.
pub fn primary_restored(lab: &mut Lab) -> Result<(), Error> {
    lab.kill(Node::A)?;
    lab.back_up(Node::A)?;
    lab.start(Node::A)?;
    lab.wait("A is back in sync", Duration::from_secs(90), |lab| Ok(lab.status(Node::A)?.in_sync))?;
    // Where A was back within its lease, what was in doubt is still being made equal.
    rest(SETTLE);
    lab.switch_over()?;
    rest(SETTLE);
    lab.kill(Node::A)?;
    taken_over(lab)?;
    rest(AFTER);
    lab.restore(Node::A)?;
    lab.start(Node::A)?;
    enrolled(lab, Node::A)
}

/// Nothing is left of A's `data_dir`, its volumes included.
pub fn primary_forgets(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::A)?;
    taken_over(lab)?;
    lab.wipe(Node::A)?;
    rest(AFTER);
    lab.start(Node::A)?;
    enrolled(lab, Node::A)
}

/// B's volumes are gone, its `data_dir` is not.
pub fn secondary_disk_exchanged(lab: &mut Lab) -> Result<(), Error> {
    rest(SETTLE);
    lab.kill(Node::B)?;
    lab.wait("A serves alone", TAKEOVER, |lab| Ok(lab.status(Node::A)?.serves_alone()))?;
    lab.wipe_volumes(Node::B)?;
    lab.start(Node::B)?;
    enrolled(lab, Node::B)
}

/// A has bad blocks all over: it answers with B's data and mends its own, and nothing changes hands.
pub fn primary_cannot_read(lab: &mut Lab) -> Result<(), Error> {
    lab.restart_with_fault(Node::A, "bad_blocks:16")?;
    let before = lab.status(Node::A)?.epoch;
    rest(Duration::from_secs(15));
    let a = lab.status(Node::A)?;
    check(a.serves && a.in_sync && a.epoch == before, || format!("bad blocks cost A its place: {a:?}"))?;
    let mended = lab.mended_blocks(Node::A)?;
    lab.note("mended_blocks", mended);
    check(mended > 0, || String::from("nothing was mended"))
}
