//! Each flush in the code, left out by one daemon (`TWINLUN_MUTATION`) on a volatile disk, must be
//! found out by a kill. Each story is told without a mutation first, and must end well then.

use std::fs;
use std::time::Duration;

use crate::judge::Judge;
use crate::kills::verify;
use crate::rig::{ALL, Member, Rig};
use crate::site::until;

/// A story ends well, or tells what was lost.
type Story = fn(&mut Rig) -> Result<(), String>;

/// Acknowledgements that make a story worth telling.
const WRITES: u64 = 300;
/// A witness that has just started grants nothing for 10 s; then the failover.
const FAILOVER: Duration = Duration::from_secs(60);

/// Regions written to are marked active no more after this; A's map then names none.
const QUIET: Duration = Duration::from_secs(8);
/// Within this the arrays notice a witness that is another one, and enrol it.
const ENROLMENT: Duration = Duration::from_secs(2);

/// What would stop the daemon at its second start already, or leave it with a map that names all of a volume as it
/// was admitted: broken when all is in sync, so that it shows what comes of it.
const LATER: [(&str, Member); 2] = [("VoteFlushSkipped", Member::B), ("MapFlushSkipped", Member::A)];

/// A life whose disk lets most sectors through at once may lose nothing that matters: the story is told again.
const LIVES: usize = 4;

/// Runs the story as it should be, then with each flush left out.
fn tell(story: Story, mutations: &[(&str, Member)]) {
    story(&mut Rig::volatile()).unwrap_or_else(|why| panic!("with every flush in place: {why}"));
    let mut unnoticed = Vec::new();
    for &(mutation, member) in mutations {
        let broken = || {
            let mut rig = Rig::volatile();
            if LATER.contains(&(mutation, member)) {
                rig.broken_later = Some((member, mutation.to_owned()));
            } else {
                rig.break_rule(member, mutation);
            }
            story(&mut rig).err()
        };
        match (0..LIVES).find_map(|_| broken()) {
            Some(why) => println!("{mutation} on {member:?}: {}", why.lines().last().unwrap_or_default()),
            None => unnoticed.push((mutation, member)),
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed that a flush was left out: {unnoticed:?}");
}

/// Writes and unmaps, then everything loses its power.
fn power_failure(rig: &mut Rig) -> Result<(), String> {
    rig.make()?;
    let judge = Judge::new(rig, 1);
    judge.run();
    assert!(judge.write_on(WRITES, FAILOVER), "nobody serves");
    judge.unmap_no_more();
    assert!(judge.write_on(WRITES, FAILOVER), "nobody serves");
    rig.kill(&ALL);
    assert!(judge.unmaps() > 0);
    verify(rig, &judge)
}

#[test]
fn data_is_flushed_before_its_answer() {
    tell(power_failure, &[("StoreWriteNotStable", Member::A), ("StoreFlushSkipped", Member::A)]);
}

/// As above, but A is gone for a while: the hosts go on with B's copy.
fn power_failure_and_only_b_returns(rig: &mut Rig) -> Result<(), String> {
    rig.make()?;
    let judge = Judge::new(rig, 4);
    judge.run();
    assert!(judge.write_on(WRITES, FAILOVER), "nobody serves");
    judge.unmap_no_more();
    assert!(judge.write_on(WRITES, FAILOVER), "nobody serves");
    rig.kill(&ALL);
    judge.pause();
    rig.start(Member::Witness)?;
    rig.start(Member::B)?;
    until("B serves", FAILOVER, || (rig.serving() == Some(Member::B)).then_some(()));
    judge.read_back(Member::B)?;
    verify(rig, &judge)
}

#[test]
fn data_is_flushed_on_the_other_array_before_its_answer() {
    tell(
        power_failure_and_only_b_returns,
        &[("StoreWriteNotStable", Member::B), ("StoreFlushSkipped", Member::B)],
    );
}

/// B is lost, A writes alone and is lost as well: its dirty map alone knows what B lacks.
fn writes_alone(rig: &mut Rig) -> Result<(), String> {
    rig.make()?;
    if rig.serving() == Some(Member::B) {
        // A was started anew, and B, in office meanwhile, would have marked what it is to lack.
        let b = rig.array(Member::B).unwrap();
        let group = b.group()["name"].as_str().unwrap_or_default().to_owned();
        until("the way back", FAILOVER, || {
            b.try_cli(&["setrcopygroup", "switchover", &group]).status.success().then_some(())
        });
        until("A serves", FAILOVER, || (rig.serving() == Some(Member::A)).then_some(()));
    }
    let judge = Judge::new(rig, 2);
    rig.kill(&[Member::B]);
    judge.run();
    assert!(judge.write_on(WRITES, FAILOVER), "A does not serve alone");
    judge.pause();
    rig.kill(&[Member::A]);
    verify(rig, &judge)
}

#[test]
fn dirty_maps_are_flushed_before_the_writes_they_cover() {
    tell(writes_alone, &[("MapFlushSkipped", Member::A)]);
}

/// A is lost, B is promoted and writes; then B and the witness are lost. A and B alone must know
/// that B has the newer copy.
fn promoted(rig: &mut Rig) -> Result<(), String> {
    rig.make()?;
    let judge = Judge::new(rig, 3);
    judge.run();
    assert!(judge.write_on(WRITES, FAILOVER), "nobody serves");
    rig.kill(&[Member::A]);
    until("B serves", FAILOVER, || (rig.serving() == Some(Member::B)).then_some(()));
    assert!(judge.write_on(WRITES, FAILOVER), "B does not serve alone");
    judge.pause();
    rig.kill(&[Member::B, Member::Witness]);
    rig.start(Member::B)?;
    rig.start(Member::A)?;
    until("one of them serves", FAILOVER, || rig.serving());
    verify(rig, &judge)
}

#[test]
fn votes_are_flushed_before_they_count() {
    tell(promoted, &[("VoteFlushSkipped", Member::B)]);
}

/// A volume is made; then the array loses its power. It must be there, and the array must know
/// that it was started before.
fn made_and_lost(rig: &mut Rig) -> Result<(), String> {
    rig.start(Member::A)?;
    rig.array(Member::A).unwrap().cli(&["createvv", "v0", "32M"]);
    rig.kill(&[Member::A]);
    rig.start(Member::A)?;
    let array = rig.array(Member::A).unwrap();
    if !array.cli(&["showvv"]).contains("v0") {
        return Err("the volume is forgotten".into());
    }
    if !array.daemon.log().contains("(start 2 of its data_dir)") {
        return Err(format!("the boot counter was not kept: {}", array.daemon.log()));
    }
    Ok(())
}

#[test]
fn new_files_and_objects_are_flushed_before_they_are_reported() {
    tell(
        made_and_lost,
        &[
            ("ObjectFlushSkipped", Member::A),
            ("VolumeRecordNotStable", Member::A),
            ("VolumeNameNotSynced", Member::A),
            ("MapHeaderFlushSkipped", Member::A),
            ("MapNameNotSynced", Member::A),
            ("DataDirNamesNotSynced", Member::A),
            ("RecordNotStable", Member::A),
        ],
    );
}

/// A volume is removed; then the array loses its power. Its name must be free.
fn removed_and_lost(rig: &mut Rig) -> Result<(), String> {
    rig.start(Member::A)?;
    let array = rig.array(Member::A).unwrap();
    array.cli(&["createvv", "v0", "32M"]);
    array.cli(&["removevv", "v0"]);
    rig.kill(&[Member::A]);
    if rig.data_file(Member::A).exists() {
        return Err("the removed data file is back".into());
    }
    rig.start(Member::A)?;
    rig.array(Member::A).unwrap().cli(&["createvv", "v0", "32M"]);
    Ok(())
}

#[test]
fn a_removal_is_flushed_before_it_is_reported() {
    tell(removed_and_lost, &[("VolumeRemovalNotSynced", Member::A)]);
}

/// B's `data_dir` is lost while nobody writes. B is enrolled, and loses its power before anything was copied: that its
/// blank copy counts for nothing is known to its own dirty map alone.
fn enrolled_and_lost(rig: &mut Rig) -> Result<(), String> {
    rig.make()?;
    let judge = Judge::new(rig, 5);
    judge.run();
    assert!(judge.write_on(WRITES, FAILOVER), "nobody serves");
    judge.pause();
    std::thread::sleep(QUIET);
    rig.kill(&[Member::B]);
    fs::remove_dir_all(&rig.places[1].data_dir).unwrap();
    let dies = ("TWINLUN_FAULT".to_owned(), "dies_enrolled:1".to_owned());
    rig.places[1].environment.push(dies.clone());
    rig.start(Member::B)?;
    until("B has been enrolled", FAILOVER, || (!rig.lives(Member::B)).then_some(()));
    rig.kill(&[Member::B]);
    rig.places[1].environment.retain(|set| *set != dies);
    verify(rig, &judge)
}

#[test]
fn what_an_enrolment_does_is_flushed_in_its_order() {
    tell(enrolled_and_lost, &[("MapFlushSkipped", Member::B), ("ObjectFlushSkipped", Member::B)]);
}

/// The witness loses its power, but not its machine's memory: it is the one it was, with its votes.
fn witness_lost(rig: &mut Rig) -> Result<(), String> {
    rig.make()?;
    rig.kill(&[Member::Witness]);
    if !rig.directory.path().join("w/state").exists() {
        return Err("the witness has no state".into());
    }
    rig.start(Member::Witness)?;
    let log = rig.witness_log();
    if log.contains("no proof of continuity") {
        return Err(log);
    }
    rig.settle()?;
    std::thread::sleep(ENROLMENT);
    for array in [Member::A, Member::B].into_iter().filter_map(|member| rig.array(member)) {
        if array.daemon.log().contains("re-enrol") {
            return Err("the witness had to be enrolled anew".into());
        }
    }
    Ok(())
}

#[test]
fn the_witness_flushes_its_state_before_it_answers() {
    tell(witness_lost, &[("RecordNotStable", Member::Witness), ("DataDirNamesNotSynced", Member::Witness)]);
}
