//! Pre-election, overrides, diverged histories, and the policies, as far as one group's control goes.

use super::*;
#[cfg(feature = "testing")]
use crate::mirror::ImageStep;

#[test]
fn f11_f36_f37_pre_elected_the_primary_goes_on_alone() {
    let mut rig = in_sync();
    rig.kill_witness();
    rig.run(32_000);
    rig.is_well(0);
    assert_eq!(rig.chosen(0).quorum, Quorum::PrimaryAlone, "\n{}", rig.tail());
    assert!(!rig.view(0).witness_heard);
    rig.cut[0] = true;
    rig.break_link();
    rig.run(3000);
    assert!(rig.serves(0), "F11\n{}", rig.tail());
    rig.start_witness(true);
    rig.cut[2] = true;
    rig.kill(0);
    rig.run(10_000);
    assert!(!rig.serves(1), "F36: B was dropped meanwhile, and would not be promoted either way");
    rig.cut = [false; 3];
    rig.restart(0);
    rig.run(30_000);
    rig.is_well(0);
    assert_eq!(rig.chosen(0).quorum, Quorum::Majority, "enrolled again\n{}", rig.tail());
}

#[test]
fn f36_a_pre_elected_primary_dies_and_the_operator_says_so() {
    let mut rig = in_sync();
    rig.kill_witness();
    rig.run(32_000);
    rig.kill(0);
    rig.start_witness(true);
    rig.run(20_000);
    assert!(!rig.serves(1), "\n{}", rig.tail());
    assert_eq!(rig.view(1).reason, Some(Reason::PrimaryAlone));
    rig.command(1, 9, Command::FailOver);
    assert_eq!(rig.outcomes.pop(), Some((9, Err(Refused::PrimaryAlone))));
    rig.command(1, 1, Command::Override { stale: false });
    rig.until_serves(1, 20_000);
    rig.run(100);
    assert_eq!(rig.outcomes.pop(), Some((1, Ok(()))));
    rig.restart(0);
    rig.run(20_000);
    rig.is_well(1);
    assert_eq!(rig.chosen(1).lineage.counter, 2);
}

#[test]
fn f3_the_witness_cut_from_one_array_elects_nobody_beforehand() {
    let mut rig = in_sync();
    rig.cut[1] = true;
    rig.break_witness(0);
    rig.run(40_000);
    assert_eq!(rig.chosen(0).quorum, Quorum::Majority, "T17");
    rig.kill(0);
    rig.until_serves(1, 5000);
}

#[test]
fn f35_an_operator_takes_a_copy_in_sync_into_office() {
    let mut rig = in_sync();
    rig.kill_witness();
    rig.kill(0);
    rig.run(1000);
    rig.command(1, 1, Command::Override { stale: false });
    let gap = rig.until_serves(1, 12_000);
    assert!(gap > 10_000, "without a witness every promise is waited for: {gap} ms");
    rig.run(100);
    assert_eq!(rig.outcomes.pop(), Some((1, Ok(()))));
    rig.start_witness(true);
    rig.restart(0);
    rig.run(30_000);
    rig.is_well(1);
    assert_eq!(rig.chosen(0).quorum, Quorum::Majority);
}

#[test]
fn overrides_are_refused_where_they_are_not_needed() {
    let mut rig = in_sync();
    rig.command(1, 1, Command::Override { stale: true });
    assert_eq!(rig.outcomes.pop(), Some((1, Err(Refused::PeerLinked))));
    rig.command(0, 2, Command::Discard);
    assert_eq!(rig.outcomes.pop(), Some((2, Err(Refused::NotDiverged))));
    rig.cut[0] = true;
    rig.break_link();
    rig.run(3000);
    rig.command(0, 3, Command::Override { stale: true });
    assert_eq!(rig.outcomes.pop(), Some((3, Err(Refused::Serves))));
    // The operator is wrong: A serves, and the witness hears it.
    rig.command(1, 4, Command::Override { stale: true });
    rig.run(10_000);
    assert_eq!(rig.view(1).reason, Some(Reason::Overriding));
    rig.run(25_000);
    assert_eq!(rig.outcomes.pop(), Some((4, Err(Refused::PromiseHolds))));
    assert!(rig.serves(0) && !rig.serves(1));
    rig.cut[0] = false;
    rig.run(15_000);
    rig.is_well(0);
}

/// F13 up to the override: A wrote alone and is gone, B serves its old data.
fn two_histories() -> Rig {
    let mut rig = in_sync();
    rig.cut[0] = true;
    rig.break_link();
    rig.run(3000);
    rig.write(0, 1);
    rig.run(1000);
    assert_eq!(rig.answered(), [(0, Outcome::Good)]);
    rig.kill(0);
    rig.run(1000);
    rig.command(1, 1, Command::Override { stale: false });
    rig.run(10);
    assert_eq!(rig.outcomes.pop(), Some((1, Err(Refused::MayBeStale))), "\n{}", rig.tail());
    rig.command(1, 2, Command::Override { stale: true });
    rig.until_serves(1, 10_000);
    rig.cut[0] = false;
    rig.restart(0);
    rig.run(10_000);
    assert!(rig.serves(1) && !rig.serves(0));
    assert_eq!(rig.view(0).state, GroupState::Diverged, "\n{}", rig.tail());
    assert_eq!(rig.view(0).reason, Some(Reason::Diverged));
    assert_eq!(rig.view(1).declined, Some(Decline::Diverged));
    rig
}

#[test]
fn what_was_written_alone_is_kept_until_it_is_discarded() {
    let mut rig = two_histories();
    rig.kill(0);
    rig.restart(0);
    rig.run(10_000);
    assert_eq!(rig.view(0).state, GroupState::Diverged, "after a restart too");
    rig.command(0, 3, Command::Discard);
    assert_eq!(rig.outcomes.pop(), Some((3, Ok(()))));
    rig.run(10_000);
    rig.is_well(1);
    assert_eq!(rig.view(1).declined, None);
}

#[test]
fn the_operator_may_keep_the_other_history() {
    let mut rig = two_histories();
    rig.write(1, 3);
    rig.run(100);
    rig.kill(1);
    rig.command(0, 3, Command::Override { stale: true });
    rig.until_serves(0, 10_000);
    rig.restart(1);
    rig.run(10_000);
    assert_eq!(rig.view(1).state, GroupState::Diverged, "\n{}", rig.tail());
    rig.command(1, 4, Command::Discard);
    rig.run(10_000);
    rig.is_well(0);
}

#[test]
fn without_auto_recover_a_lost_mirror_stays_lost_until_it_is_started() {
    let mut rig = in_sync();
    for at in 0..2 {
        rig.event(at, Event::Policy(Policy { auto_recover: false, ..ALL_ON }));
    }
    rig.cut[0] = true;
    rig.break_link();
    rig.run(3000);
    rig.cut[0] = false;
    rig.run(30_000);
    assert!(rig.serves(0));
    assert_eq!((rig.chosen(0).in_sync, rig.view(0).state), (InSync::Primary, GroupState::Stopped));
    rig.command(0, 1, Command::Start);
    rig.run(10_000);
    rig.is_well(0);
}

#[test]
fn without_auto_synchronize_a_failover_waits_for_recover() {
    let mut rig = in_sync();
    for at in 0..2 {
        rig.event(at, Event::Policy(Policy { auto_synchronize: false, ..ALL_ON }));
    }
    rig.kill(0);
    rig.until_serves(1, 5000);
    rig.restart(0);
    rig.run(30_000);
    assert_eq!((rig.chosen(1).in_sync, rig.view(1).state), (InSync::Primary, GroupState::Stopped));
    rig.command(1, 1, Command::Start);
    rig.run(10_000);
    rig.is_well(1);
}

/// Seed 45390 of the simulator: a stop given at the secondary, and a start at the primary right
/// behind it. The secondary heard of its own stop last, and stopped the group when it came to office.
#[test]
fn a_session_tells_the_secondary_that_the_group_was_started() {
    let mut rig = in_sync();
    rig.command(1, 1, Command::Stop);
    rig.run(4);
    rig.command(0, 2, Command::Start);
    rig.run(30_000);
    rig.is_well(0);
    rig.command(0, 3, Command::SwitchOver);
    rig.run(30_000);
    rig.is_well(1);
}

/// F14: the image of the secondary's copy goes, durably, before the copy is joined.
#[cfg(feature = "testing")]
fn joined_before_its_image_has_gone() -> bool {
    let mut rig = in_sync();
    rig.kill(1);
    rig.run(5000);
    rig.restart(1);
    while rig.arrays[1].volume.image_to_keep().is_none() {
        rig.run(1);
        assert!(rig.chosen(0).in_sync == InSync::Primary, "joined before it knew that it is behind");
    }
    let volume = &mut rig.arrays[1].volume;
    volume.image_made(volume.image_to_keep().unwrap());
    rig.run(20_000);
    let early = rig.chosen(0).in_sync == InSync::Both;
    let volume = &mut rig.arrays[1].volume;
    assert!(volume.take_image_step() == Some(ImageStep::Supersede) || early);
    volume.image_superseded(&mut Vec::new());
    rig.run(2000);
    assert!(early || rig.chosen(0).in_sync == InSync::Primary);
    let volume = &mut rig.arrays[1].volume;
    assert!(volume.take_image_step() == Some(ImageStep::Remove) || early);
    volume.image_released(&mut Vec::new());
    rig.run(20_000);
    rig.is_well(0);
    early
}

#[cfg(feature = "testing")]
#[test]
fn f14_the_image_goes_before_the_join() {
    assert!(!joined_before_its_image_has_gone());
    crate::mutation::set(Some(crate::mutation::Mutation::BeforeOutlivesJoin));
    let early = joined_before_its_image_has_gone();
    crate::mutation::set(None);
    assert!(early, "nobody notices");
}
