//! Rows of FAILURES.md and the operator's commands, as far as one group's control goes.

use super::*;

#[test]
fn a_new_group_synchronises_joins_and_stays_so() {
    let mut rig = in_sync();
    let epoch = rig.chosen(0).epoch;
    rig.run(20_000);
    rig.is_well(0);
    assert_eq!(rig.chosen(0).epoch, epoch, "nothing happened, nothing was decided");
}

#[test]
fn a_switchover_answers_the_last_commands_and_moves_the_office() {
    let mut rig = in_sync();
    for turn in 0..6 {
        let (from, to) = (turn % 2, 1 - turn % 2);
        rig.write(from, 3);
        rig.command(from, 100 + turn as u64, Command::SwitchOver);
        let gap = rig.until_serves(to, 500);
        assert!(gap < 100, "gap of {gap} ms\n{}", rig.tail());
        rig.run(50);
        assert_eq!(rig.answered(), [(from, Outcome::Good)], "\n{}", rig.tail());
        assert_eq!(rig.outcomes.pop(), Some((100 + turn as u64, Ok(()))));
        rig.is_well(to);
    }
}

#[test]
fn the_secondary_passes_a_switchover_on() {
    let mut rig = in_sync();
    rig.command(1, 7, Command::SwitchOver);
    rig.until_serves(1, 500);
    rig.run(50);
    assert_eq!(rig.outcomes.pop(), Some((7, Ok(()))));
    rig.is_well(1);
}

#[test]
fn f2_links_lost_the_primary_drops_and_comes_back_in_sync() {
    let mut rig = in_sync();
    rig.cut[0] = true;
    rig.break_link();
    rig.write(0, 1);
    rig.run(1500);
    assert_eq!(rig.answered(), [(0, Outcome::Good)], "\n{}", rig.tail());
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary);
    rig.run(10_000);
    assert!(rig.serves(0) && !rig.serves(1), "\n{}", rig.tail());
    assert_eq!(rig.view(1).reason, Some(Reason::StaleSecondary), "\n{}", rig.tail());
    rig.cut[0] = false;
    rig.run(8_000);
    rig.is_well(0);
}

#[test]
fn f3_f4_f5_losing_the_witness_stops_nothing() {
    let mut rig = in_sync();
    for leg in 1..3 {
        rig.cut[leg] = true;
        rig.break_witness(leg - 1);
        rig.run(10_000);
        assert!(rig.serves(0), "\n{}", rig.tail());
    }
    rig.kill_witness();
    rig.run(20_000);
    rig.is_well(0);
}

#[test]
fn f6_the_primary_dies_and_returns_as_secondary() {
    let mut rig = in_sync();
    rig.write(0, 1);
    rig.run(100);
    rig.kill(0);
    rig.run(1000);
    assert_eq!(rig.view(1).own, PathState::NonOptimized, "promotion pending\n{}", rig.tail());
    assert_eq!(rig.mode(1), Mode::Held);
    assert_eq!(rig.view(1).peer, None);
    rig.write(1, 2);
    let gap = rig.until_serves(1, 5000);
    assert!(gap < 3500, "{gap}");
    rig.run(100);
    // Held while the array took office: A served until then, the host sends it again.
    let again = Outcome::Refused(crate::block::Refusal::Again);
    assert_eq!(rig.answered(), [(0, Outcome::Good), (1, again)], "\n{}", rig.tail());
    rig.write(1, 2);
    rig.run(100);
    assert_eq!(rig.answered(), [(1, Outcome::Good)]);
    rig.restart(0);
    rig.run(20_000);
    rig.is_well(1);
    assert_eq!(rig.view(0).role, Role::Secondary);
    assert!(rig.view(0).reversed);
}

#[test]
fn f8_the_secondary_dies() {
    let mut rig = in_sync();
    rig.kill(1);
    rig.run(1000);
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary, "\n{}", rig.tail());
    rig.run(10_000);
    rig.restart(1);
    rig.run(8000);
    rig.is_well(0);
}

#[test]
fn f9_the_isolated_primary_is_silent_before_the_other_serves() {
    let mut rig = in_sync();
    rig.cut = [true, true, false];
    rig.break_link();
    rig.break_witness(0);
    let gap = rig.until_serves(1, 5000);
    assert!(gap > 2400, "{gap}");
    rig.run(5000);
    assert_eq!(rig.mode(0), Mode::Closed, "\n{}", rig.tail());
    assert_eq!(rig.view(0).state, GroupState::Failsafe);
    assert_eq!(rig.view(0).reason, Some(Reason::NoLease));
    assert_eq!(rig.view(0).peer, None);
    rig.cut = [false; 3];
    rig.run(10_000);
    rig.is_well(1);
}

#[test]
fn f12_witness_and_links_lost_at_once_nobody_serves_and_it_resumes_by_itself() {
    let mut rig = in_sync();
    rig.cut[0] = true;
    rig.kill_witness();
    rig.break_link();
    rig.run(20_000);
    assert!(!rig.serves(0) && !rig.serves(1), "\n{}", rig.tail());
    assert_eq!(rig.view(1).reason, Some(Reason::NoMajority));
    rig.cut[0] = false;
    rig.run(10_000);
    rig.is_well(0);
    rig.start_witness(true);
    rig.run(10_000);
    rig.is_well(0);
}

#[test]
fn f13_the_stale_copy_is_never_promoted() {
    let mut rig = in_sync();
    rig.cut[0] = true;
    rig.break_link();
    rig.run(5000);
    rig.kill(0);
    rig.run(60_000);
    assert!(!rig.serves(1), "\n{}", rig.tail());
    rig.command(1, 1, Command::FailOver);
    assert_eq!(rig.outcomes.pop(), Some((1, Err(Refused::Stale))));
}

#[test]
fn f16_both_lose_power_and_the_former_primary_returns() {
    let mut rig = in_sync();
    rig.write(0, 1);
    rig.run(100);
    rig.kill(0);
    rig.kill(1);
    rig.run(5000);
    rig.restart(1);
    rig.run(2000);
    rig.restart(0);
    rig.run(20_000);
    rig.is_well(0);
}

#[test]
fn f18_only_the_secondary_returns_and_is_promoted_after_start_wait() {
    let mut rig = in_sync();
    rig.kill(0);
    rig.kill(1);
    rig.run(5000);
    rig.restart(1);
    rig.run(25_000);
    assert!(!rig.serves(1));
    assert_eq!(rig.view(1).reason, Some(Reason::StartWait), "\n{}", rig.tail());
    rig.until_serves(1, 15_000);
}

#[test]
fn f6_soon_after_the_secondary_restarted_it_is_promoted_without_start_wait() {
    let mut rig = in_sync();
    rig.kill(1);
    rig.run(2000);
    rig.restart(1);
    rig.run(10_000);
    rig.is_well(0);
    rig.kill(0);
    let gap = rig.until_serves(1, 10_000);
    assert!(gap < 4500, "{gap}");
}

#[test]
fn f20_a_blank_witness_is_enrolled() {
    let mut rig = in_sync();
    rig.kill_witness();
    rig.run(1000);
    rig.start_witness(false);
    rig.run(2000);
    assert_eq!(rig.chosen(0).witness, Some(Incarnation([1; 16])), "not within the blanket");
    rig.run(15_000);
    assert_eq!(rig.chosen(0).witness, Some(Incarnation([2; 16])), "\n{}", rig.tail());
    rig.is_well(0);
    rig.kill(0);
    rig.until_serves(1, 5000);
}

#[test]
fn t7_re_enrol_while_alone_needs_no_dead_peer() {
    let mut rig = in_sync();
    rig.kill(1);
    rig.run(3000);
    rig.kill_witness();
    rig.start_witness(false);
    rig.run(15_000);
    assert_eq!(rig.chosen(0).witness, Some(Incarnation([2; 16])), "\n{}", rig.tail());
    assert!(rig.serves(0));
    rig.restart(1);
    rig.run(10_000);
    rig.is_well(0);
}

#[test]
fn f22_a_failing_disk_is_handed_over() {
    let mut rig = in_sync();
    rig.arrays[0].failing = true;
    rig.write(0, 1);
    rig.until_serves(1, 3000);
    rig.run(100);
    let answers = rig.answered();
    assert!(answers.iter().all(|(at, outcome)| *at == 0 && *outcome != Outcome::Good), "{answers:?}");
    assert_eq!(rig.chosen(1).in_sync, InSync::Primary);
    rig.arrays[0].failing = false;
    rig.run(10_000);
    rig.is_well(1);
}

/// T14, rule 5: the hung write is handed over with the group, in doubt, and its late end harms
/// nothing: the new primary's session begins after it.
fn f22_hanging_disk() {
    let mut rig = in_sync();
    rig.disk_hangs(0, true);
    rig.write(0, 1);
    let gap = rig.until_serves(1, 5000);
    assert!(gap < 3500, "{gap}");
    rig.run(100);
    let answers = rig.answered();
    assert!(matches!(answers[..], [(0, Outcome::Refused(_))]), "{answers:?}");
    assert_eq!(rig.view(0).reason, Some(Reason::DiskHangs));
    rig.write(1, 1);
    rig.run(30_000);
    assert_eq!(rig.answered(), [(1, Outcome::Good)], "\n{}", rig.tail());
    assert_eq!(rig.chosen(1).in_sync, InSync::Primary);
    assert!(!rig.view(1).session_up, "nothing is copied under a write that may still land");
    rig.disk_hangs(0, false);
    rig.run(8000);
    rig.is_well(1);
}

#[test]
fn f22_a_short_stall_of_the_disk_or_of_the_whole_process_hands_nothing_over() {
    let mut rig = in_sync();
    let epoch = rig.chosen(0).epoch;
    rig.disk_hangs(0, true);
    rig.write(0, 1);
    rig.run(2400);
    rig.disk_hangs(0, false);
    rig.run(100);
    assert_eq!(rig.answered(), [(0, Outcome::Good)], "\n{}", rig.tail());
    // Late, but over a moment after it was found to be late.
    rig.disk_hangs(0, true);
    rig.write(0, 2);
    rig.run(2700);
    rig.disk_hangs(0, false);
    rig.run(5000);
    rig.is_well(0);
    assert_eq!(rig.chosen(0).epoch, epoch);
}

#[test]
fn f22_a_hanging_disk_of_a_primary_alone_is_waited_for() {
    let mut rig = in_sync();
    rig.kill(1);
    rig.run(3000);
    let epoch = rig.chosen(0).epoch;
    rig.disk_hangs(0, true);
    rig.write(0, 1);
    rig.run(10_000);
    assert!(rig.serves(0));
    rig.disk_hangs(0, false);
    rig.run(1000);
    assert_eq!(rig.answered(), [(0, Outcome::Good)], "\n{}", rig.tail());
    assert_eq!(rig.chosen(0).epoch, epoch);
}

/// DESIGN §6: the lease runs out and the peer is promoted, although the link lives.
fn f22_hanging_data_dir() {
    let mut rig = in_sync();
    rig.data_dir_hangs(0, true);
    rig.write(0, 1);
    let gap = rig.until_serves(1, 5000);
    assert!((2400..3600).contains(&gap), "{gap}");
    assert!(rig.view(1).link_up);
    assert_eq!(rig.view(0).reason, Some(Reason::DataDirHangs));
    rig.write(1, 1);
    rig.run(20_000);
    assert_eq!(rig.answered().last(), Some(&(1, Outcome::Good)), "\n{}", rig.tail());
    assert_eq!(rig.chosen(1).in_sync, InSync::Primary);
    rig.data_dir_hangs(0, false);
    rig.run(8000);
    rig.is_well(1);
}

#[test]
fn a_data_dir_that_hangs_for_less_than_a_promise_changes_nothing() {
    let mut rig = in_sync();
    let epoch = rig.chosen(0).epoch;
    for _ in 0..3 {
        rig.data_dir_hangs(0, true);
        rig.run(2300);
        assert!(rig.serves(0), "\n{}", rig.tail());
        rig.data_dir_hangs(0, false);
        rig.run(1000);
    }
    rig.is_well(0);
    assert_eq!(rig.chosen(0).epoch, epoch);
}

#[test]
fn f23_a_hanging_secondary_is_dropped_and_caught_up_after_its_last_write() {
    let mut rig = in_sync();
    rig.disk_hangs(1, true);
    rig.write(0, 1);
    rig.run(2500);
    assert_eq!(rig.answered(), [(0, Outcome::Good)], "\n{}", rig.tail());
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary);
    rig.run(20_000);
    assert!(!rig.view(0).session_up, "\n{}", rig.tail());
    assert_eq!(rig.view(1).reason, Some(Reason::DiskHangs));
    rig.disk_hangs(1, false);
    rig.run(10_000);
    rig.is_well(0);
}

#[test]
fn f23_a_failing_secondary_is_dropped() {
    let mut rig = in_sync();
    rig.arrays[1].failing = true;
    rig.write(0, 1);
    rig.run(1000);
    assert_eq!(rig.answered(), [(0, Outcome::Good)], "\n{}", rig.tail());
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary);
    rig.run(20_000);
    rig.arrays[1].failing = false;
    rig.run(70_000);
    rig.is_well(0);
}

#[test]
fn f24_flapping_links_cause_no_storm_of_resyncs() {
    let mut rig = in_sync();
    let before = rig.chosen(0).epoch.0;
    for _ in 0..60 {
        rig.cut[0] = true;
        rig.break_link();
        rig.run(1000);
        rig.cut[0] = false;
        rig.run(1000);
    }
    assert!(rig.serves(0));
    let changes = rig.chosen(0).epoch.0 - before;
    assert!(changes <= 12, "{changes} changes in two minutes\n{}", rig.tail());
    rig.run(70_000);
    rig.is_well(0);
}

#[test]
fn f27_a_stop_in_order_hands_over_at_once() {
    let mut rig = in_sync();
    rig.command(0, 5, Command::HandOver);
    let gap = rig.until_serves(1, 1000);
    assert!(gap < 200, "{gap}");
    assert_eq!(rig.outcomes.pop(), Some((5, Ok(()))));
    rig.kill(0);
    rig.run(5000);
    assert!(rig.serves(1));
}

#[test]
fn f31_the_primary_restarts_within_its_lease() {
    let mut rig = in_sync();
    rig.write(0, 1);
    rig.run(100);
    rig.kill(0);
    rig.run(500);
    rig.restart(0);
    rig.run(15_000);
    rig.is_well(0);
}

#[test]
fn f32_a_secondary_that_restarted_is_dropped_caught_up_and_joined() {
    let mut rig = in_sync();
    let before = rig.chosen(0).epoch.0;
    rig.kill(1);
    rig.restart(1);
    rig.run(400);
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary, "\n{}", rig.tail());
    rig.run(10_000);
    rig.is_well(0);
    assert_eq!(rig.chosen(0).epoch.0, before + 2);
}

#[test]
fn f42_alone_the_primary_needs_nobody() {
    let mut rig = in_sync();
    rig.kill(1);
    rig.run(3000);
    rig.kill_witness();
    rig.run(60_000);
    assert!(rig.serves(0), "\n{}", rig.tail());
    // T16: a restart of its own needs one contact.
    rig.kill(0);
    rig.restart(0);
    rig.run(20_000);
    assert!(!rig.serves(0), "\n{}", rig.tail());
    assert_eq!(rig.view(0).reason, Some(Reason::NoContact));
    rig.start_witness(true);
    rig.until_serves(0, 2000);
}

#[test]
fn stop_start_and_failover_of_a_stopped_group() {
    let mut rig = in_sync();
    rig.command(1, 1, Command::FailOver);
    assert_eq!(rig.outcomes.pop(), Some((1, Err(Refused::PeerServes))));
    rig.command(0, 2, Command::Stop);
    rig.run(200);
    assert_eq!(rig.outcomes.pop(), Some((2, Ok(()))));
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary);
    rig.event(1, Event::Policy(Policy { started: false, ..ALL_ON }));
    rig.write(0, 5);
    rig.run(20_000);
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary);
    rig.command(1, 3, Command::FailOver);
    rig.until_serves(1, 2000);
    rig.run(50);
    assert_eq!(rig.outcomes.pop(), Some((3, Ok(()))), "\n{}", rig.tail());
    rig.run(20_000);
    assert_eq!(rig.chosen(1).in_sync, InSync::Primary, "stays stopped");
    rig.event(0, Event::Policy(ALL_ON));
    rig.command(0, 4, Command::Start);
    rig.run(3000);
    assert_eq!(rig.outcomes.pop(), Some((4, Ok(()))));
    rig.is_well(1);
}

#[test]
fn without_automatic_failover_the_operator_promotes() {
    let mut rig = in_sync();
    for at in 0..2 {
        rig.event(at, Event::Policy(Policy { auto_failover: false, ..ALL_ON }));
    }
    rig.kill(0);
    rig.run(20_000);
    assert!(!rig.serves(1));
    assert_eq!(rig.view(1).reason, Some(Reason::ManualFailover));
    rig.command(1, 1, Command::FailOver);
    rig.until_serves(1, 2000);
    assert_eq!(rig.outcomes.pop(), Some((1, Ok(()))));
}

#[test]
fn a_failover_without_majority_is_given_up_and_says_so() {
    let mut rig = in_sync();
    for at in 0..2 {
        rig.event(at, Event::Policy(Policy { auto_failover: false, ..ALL_ON }));
    }
    rig.kill_witness();
    rig.kill(0);
    rig.command(1, 1, Command::FailOver);
    rig.run(20_000);
    assert_eq!(rig.outcomes.pop(), Some((1, Err(Refused::Undecided))));
    rig.start_witness(true);
    rig.run(20_000);
    assert!(!rig.serves(1), "given up is given up\n{}", rig.tail());
    assert_eq!(rig.view(1).reason, Some(Reason::ManualFailover));
}

#[test]
fn a_pair_without_a_witness_lives_by_its_primary() {
    let mut rig = Rig::of(None);
    rig.run(3000);
    rig.is_well(0);
    rig.kill(1);
    rig.write(0, 1);
    rig.run(3000);
    assert_eq!(rig.answered(), [(0, Outcome::Good)], "\n{}", rig.tail());
    assert_eq!(rig.chosen(0).quorum, Quorum::PrimaryAlone);
    rig.restart(1);
    rig.run(10_000);
    rig.is_well(0);
    rig.command(0, 1, Command::SwitchOver);
    rig.until_serves(1, 500);
    rig.run(100);
    rig.is_well(1);
    rig.disk_hangs(1, true);
    rig.write(1, 1);
    rig.until_serves(0, 5000);
    rig.disk_hangs(1, false);
    rig.run(70_000);
    rig.is_well(0);
    rig.command(0, 2, Command::HandOver);
    rig.until_serves(1, 500);
    rig.run(70_000);
    rig.is_well(1);
    // A witness that is set later is enrolled, and majority rules.
    rig.start_witness(false);
    rig.run(15_000);
    assert_eq!(rig.chosen(1).quorum, Quorum::Majority, "\n{}", rig.tail());
    rig.kill(1);
    rig.until_serves(0, 5000);
}

#[test]
fn a_removed_group_leaves_tombstones() {
    let mut rig = in_sync();
    rig.command(0, 1, Command::Remove);
    assert_eq!(rig.outcomes.pop(), Some((1, Err(Refused::Started))));
    rig.command(0, 2, Command::Stop);
    rig.run(500);
    rig.command(0, 3, Command::Remove);
    rig.run(500);
    assert!(rig.witness.record(GROUP).unwrap().removed);
    // The other array's operator has the last word there.
    assert!(rig.arrays[0].control.arbiter().is_removed());
    assert!(!rig.arrays[1].control.arbiter().is_removed());
    assert_eq!(rig.view(1).reason, Some(Reason::RemovedElsewhere));
    rig.run(60_000);
    rig.command(1, 4, Command::Remove);
    rig.run(500);
    for at in 0..2 {
        assert!(rig.arrays[at].control.arbiter().is_removed());
        assert_eq!(rig.mode(at), Mode::Closed);
    }
}

/// A witness that says, or was brought to believe, that a group is over.
fn told_removed() {
    let mut rig = in_sync();
    let mut out = Vec::new();
    let chosen = Some(rig.chosen(0));
    let remove = Message { group: GROUP, chosen, incarnation: None, body: Body::Remove };
    rig.witness.receive(&Caller::of(Side::A), Connection(9), &[remove], rig.clock(), &mut out);
    rig.witness_actions(out);
    rig.run(20_000);
    assert!(rig.witness.record(GROUP).unwrap().removed);
    assert!(rig.serves(0), "\n{}", rig.tail());
    assert_eq!(rig.mode(0), Mode::Both);
    assert_eq!(rig.mode(1), Mode::Closed);
    assert!((0..2).all(|at| !rig.arrays[at].control.arbiter().is_removed()));
    // Nobody is promoted with such a witness, and nobody serves without a lease.
    rig.cut[0] = true;
    rig.run(20_000);
    assert_eq!((rig.mode(0), rig.mode(1)), (Mode::Closed, Mode::Closed), "\n{}", rig.tail());
    rig.cut[0] = false;
    rig.run(20_000);
    assert!(rig.serves(0), "\n{}", rig.tail());
}

/// T9, rule 5: a promoted array serves only when what it took as secondary is on its disk.
fn t9_undrained() {
    let mut rig = in_sync();
    rig.slow_applies = true;
    rig.write(0, 1);
    rig.run(100);
    rig.kill(0);
    rig.run(5000);
    assert_eq!(rig.chosen(1).primary, Side::B, "\n{}", rig.tail());
    assert!(!rig.serves(1), "\n{}", rig.tail());
    assert_eq!(rig.view(1).reason, Some(Reason::Draining));
    rig.run(10_000);
    assert!(rig.serves(1), "\n{}", rig.tail());
}

fn r16_restarted_secondary() {
    f32_a_secondary_that_restarted_is_dropped_caught_up_and_joined();
}

fn t14_failing_disk() {
    f22_a_failing_disk_is_handed_over();
}

fn t7_alone() {
    t7_re_enrol_while_alone_needs_no_dead_peer();
}

fn t16_alone() {
    f42_alone_the_primary_needs_nobody();
}

fn t18_switch_over() {
    a_switchover_answers_the_last_commands_and_moves_the_office();
}

/// T4: from the vote for a join on every answer needs both, whatever becomes of the join.
fn t4_join_in_flight() {
    let mut rig = Rig::new();
    while rig.arrays[0].control.arbiter().vote().is_none() {
        rig.run(1);
    }
    // The vote is cast; nobody else hears of it.
    rig.cut = [true; 3];
    rig.break_link();
    rig.break_witness(0);
    rig.write(0, 1);
    rig.run(5000);
    assert_eq!(rig.chosen(0).in_sync, InSync::Primary);
    assert!(!rig.answered().contains(&(0, Outcome::Good)), "\n{}", rig.tail());
    rig.cut = [false; 3];
    rig.run(20_000);
    rig.is_well(0);
}

/// T3: a switchover whose outcome is unknown is finished, never forgotten.
fn t3_undecided() {
    let mut rig = in_sync();
    rig.command(0, 1, Command::SwitchOver);
    while rig.arrays[0].disk.vote.is_none() {
        rig.run(1);
    }
    rig.cut = [true, true, false];
    rig.break_link();
    rig.break_witness(0);
    rig.run(2500);
    assert_eq!(rig.mode(0), Mode::Closed, "\n{}", rig.tail());
    assert_eq!(rig.outcomes.pop(), Some((1, Err(Refused::Undecided))));
    assert_eq!(rig.view(0).reason, Some(Reason::VotedAway));
    rig.cut[1] = false;
    rig.run(5000);
    assert_eq!(rig.chosen(0).primary, Side::B, "finished with the witness\n{}", rig.tail());
    rig.cut = [false; 3];
    rig.run(20_000);
    rig.is_well(1);
}

macro_rules! rules {
    ($($name:ident, $mutation:ident;)*) => {
        $(
            mod $name {
                #[test]
                fn holds() {
                    super::$name();
                }
                #[cfg(feature = "testing")]
                #[test]
                fn is_found_without_its_rule() {
                    super::is_red(crate::mutation::Mutation::$mutation, super::$name);
                }
            }
        )*
    };
}

rules! {
    t3_undecided, T3ServesAfterVote;
    t4_join_in_flight, T4JoinNotNeeded;
    t7_alone, T7ReEnrolNeedsBoth;
    t9_undrained, T9GateBeforeDrain;
    t14_failing_disk, T14NoHandOver;
    f22_hanging_disk, T14NoHandOver;
    f22_hanging_data_dir, T14SilenceIsNoLoss;
    t16_alone, T16NoContactNeeded;
    t18_switch_over, T18OwnVoteRefused;
    r16_restarted_secondary, R16BootNonceIgnored;
    told_removed, ToldRemovedRemoves;
}

#[cfg(feature = "testing")]
fn is_red(broken: crate::mutation::Mutation, script: fn()) {
    let run = std::thread::spawn(move || {
        crate::mutation::set(Some(broken));
        script();
    });
    assert!(run.join().is_err(), "{broken:?} changes nothing");
}
