//! Pre-election, overrides, diverged histories, and the policies, as far as one group's control goes.

use super::*;

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

/// B, in sync before, is started again: it is about to be brought up to date, of cut 0.
#[cfg(feature = "testing")]
fn behind() -> Rig {
    let mut rig = in_sync();
    rig.kill(1);
    rig.run(5000);
    rig.restart(1);
    while rig.arrays[1].volume.image_to_keep().is_none() {
        rig.run(1);
        assert!(rig.chosen(0).in_sync == InSync::Primary, "joined before it knew that it is behind");
    }
    rig
}

#[cfg(feature = "testing")]
fn with<R>(broken: crate::mutation::Mutation, story: impl FnOnce() -> R) -> R {
    crate::mutation::set(Some(broken));
    let result = story();
    crate::mutation::set(None);
    result
}

/// F14: that what the secondary's copy held counts no more is durable before the copy is joined.
#[cfg(feature = "testing")]
fn joined_before_its_cut_has_ended() -> bool {
    let mut rig = behind();
    let cut = rig.arrays[1].disk.cut;
    assert_eq!(rig.arrays[1].volume.image_to_keep(), Some(cut));
    rig.arrays[1].data_dir_hangs = true;
    rig.run(20_000);
    assert_eq!(rig.arrays[1].disk.cut, cut);
    let early = rig.chosen(0).in_sync == InSync::Both;
    rig.data_dir_hangs(1, false);
    rig.run(20_000);
    rig.is_well(0);
    assert!(rig.arrays[1].disk.cut > cut && rig.arrays[1].volume.image_to_keep().is_none());
    early
}

#[cfg(feature = "testing")]
#[test]
fn f14_the_older_content_counts_no_more_before_the_join() {
    use crate::mutation::Mutation;
    assert!(!joined_before_its_cut_has_ended());
    assert!(with(Mutation::BeforeOutlivesJoin, joined_before_its_cut_has_ended), "nobody notices");
}

/// F14: while it is being noted down that the copy is whole, the lanes break, and the primary goes on alone and
/// asks for another session. True: it is accepted, and what comes in it would be kept of a cut that is about to
/// end.
#[cfg(feature = "testing")]
fn a_session_is_accepted_while_the_cut_ends() -> bool {
    let mut rig = behind();
    let cut = rig.arrays[1].disk.cut;
    rig.arrays[1].data_dir_hangs = true;
    rig.run(3000);
    assert!(rig.arrays[1].control.arbiter().record().cut > cut, "the primary asks for the join");
    let whole = rig.arrays[1].control.secondary.accepted;
    assert!(whole.is_some() && rig.arrays[1].volume.image_to_keep() == Some(cut));
    rig.break_lanes();
    rig.write(0, 3);
    rig.run(10_000);
    let another = rig.arrays[1].control.secondary.accepted != whole;
    rig.data_dir_hangs(1, false);
    rig.run(20_000);
    rig.is_well(0);
    another
}

#[cfg(feature = "testing")]
#[test]
fn f14_a_session_waits_for_the_end_of_the_cut() {
    use crate::mutation::Mutation;
    assert!(!a_session_is_accepted_while_the_cut_ends());
    assert!(with(Mutation::BeforeCutNotAwaited, a_session_is_accepted_while_the_cut_ends), "nobody notices");
}

/// F14: that a copy is a mixture is durable, survives a restart, and ends with the join. True: the copy is known as
/// a mixture meanwhile.
#[cfg(feature = "testing")]
fn a_mixture_stays_known_as_one() -> bool {
    let mut rig = behind();
    let cut = rig.arrays[1].disk.cut;
    rig.arrays[1].volume.cannot_keep(cut, &mut Vec::new());
    while !rig.arrays[1].disk.mixture {
        assert!(rig.arrays[1].volume.image_to_keep().is_some(), "written over before it is on record");
        rig.event(1, Event::Poke);
        rig.run(1);
    }
    rig.kill(1);
    rig.restart(1);
    let known = rig.arrays[1].volume.is_mixture() && rig.arrays[1].volume.image_to_keep().is_none();
    rig.run(20_000);
    rig.is_well(0);
    assert!(!rig.arrays[1].disk.mixture && !rig.arrays[1].volume.is_mixture());
    known
}

#[cfg(feature = "testing")]
#[test]
fn f14_a_mixture_is_told_as_one() {
    use crate::mutation::Mutation;
    assert!(a_mixture_stays_known_as_one());
    assert!(!with(Mutation::BeforeMixtureForgotten, a_mixture_stays_known_as_one), "nobody notices");
}
