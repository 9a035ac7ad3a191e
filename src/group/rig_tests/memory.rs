//! The write promise *memory* (T13), as far as one group's control goes. In the rig an array's memory ends with
//! its process.

use super::*;
use crate::arbitration::MemoryId;
use crate::mirror::WritePromise;

/// In sync, with a write that both hold in memory.
fn cached() -> Rig {
    let mut rig = in_sync();
    for at in 0..2 {
        rig.arrays[at].volume.set_promise(WritePromise::Memory);
        rig.event(at, Event::Poke);
    }
    rig.run(200);
    for at in 0..2 {
        assert!(!stable(&rig, at), "\n{}", rig.tail());
    }
    rig.write(0, 3);
    rig.run(20);
    assert_eq!(rig.answered(), [(0, Outcome::Good)]);
    for at in 0..2 {
        assert!(unflushed(&rig, at));
        assert!(rig.arrays[at].disk.unflushed.is_some(), "marked before");
    }
    rig
}

fn stable(rig: &Rig, at: usize) -> bool {
    rig.arrays[at].control.memory.stable
}

fn unflushed(rig: &Rig, at: usize) -> bool {
    rig.arrays[at].volume.status().unflushed_here
}

fn tainted(rig: &Rig, at: usize) -> bool {
    rig.arrays[at].control.arbiter.is_tainted()
}

#[test]
fn a_primary_that_lost_its_memory_is_relieved_by_the_other_one_even_linked() {
    let mut rig = cached();
    rig.kill(0);
    rig.restart(0);
    rig.run(200);
    assert!(tainted(&rig, 0) && !rig.serves(0), "\n{}", rig.tail());
    assert_eq!(rig.view(0).reason, Some(Reason::Tainted));
    // A voter that restarted keeps the promise it may have given to the primary, itself.
    rig.until_serves(1, 12_000);
    assert!(!unflushed(&rig, 1), "promoted with everything on its disk");
    rig.run(10_000);
    rig.is_well(1);
    assert!(!tainted(&rig, 0) && !rig.view(0).promise_void && !rig.view(1).promise_void);
}

/// A stop waits for the drop, and the primary that would drop the other one loses its memory.
fn a_primary_that_lost_its_memory_while_being_stopped_is_relieved() {
    let mut rig = cached();
    let stopped = Policy { started: false, ..ALL_ON };
    rig.event(1, Event::Policy(stopped));
    rig.kill(0);
    rig.restart(0);
    rig.event(0, Event::Policy(stopped));
    rig.run(200);
    assert!(tainted(&rig, 0), "\n{}", rig.tail());
    rig.until_serves(1, 12_000);
    rig.run(20_000);
    assert_eq!(rig.chosen(1).in_sync, InSync::Primary, "and stopped it is");
    assert_eq!(rig.view(1).state, GroupState::Stopped);
    rig.command(1, 1, Command::Start);
    rig.run(10_000);
    rig.is_well(1);
    assert!(!rig.view(0).promise_void && !rig.view(1).promise_void);
}

#[test]
fn t13_a_primary_that_lost_its_memory_while_being_stopped_is_relieved() {
    a_primary_that_lost_its_memory_while_being_stopped_is_relieved();
}

#[cfg(feature = "testing")]
#[test]
fn t13_a_primary_that_waits_for_an_operator_is_found() {
    let found = crate::mutation::breaks(
        crate::mutation::Mutation::T13StoppedNotRelieved,
        a_primary_that_lost_its_memory_while_being_stopped_is_relieved,
    );
    assert!(found, "nobody serves, and nobody notices");
}

#[test]
fn a_secondary_that_lost_its_memory_is_dropped_and_caught_up() {
    let mut rig = cached();
    rig.kill(1);
    rig.restart(1);
    rig.run(3000);
    assert!(rig.serves(0), "\n{}", rig.tail());
    let dropped = rig.log.iter().any(|line| line.contains("Proposed { transition: Some(Drop)"));
    assert!(dropped && !unflushed(&rig, 0), "\n{}", rig.tail());
    rig.run(10_000);
    rig.is_well(0);
    assert!(!rig.view(0).promise_void);
}

#[test]
fn t13_a_tainted_secondary_is_not_promoted() {
    let mut rig = cached();
    rig.kill(1);
    rig.kill(0);
    rig.restart(1);
    rig.run(60_000);
    assert!(!rig.serves(1), "\n{}", rig.tail());
    assert_eq!(rig.view(1).reason, Some(Reason::Tainted));
    // Nor by an operator who thinks that nothing is lost; by one who accepts it.
    rig.command(1, 1, Command::Override { stale: false });
    rig.run(1000);
    assert_eq!(rig.outcomes.pop(), Some((1, Err(Refused::MayBeStale))));
    rig.command(1, 2, Command::Override { stale: true });
    rig.until_serves(1, 20_000);
}

#[test]
fn a_tainted_primary_alone_waits_and_both_tainted_void_the_promise() {
    let mut rig = cached();
    rig.kill(0);
    rig.kill(1);
    rig.restart(0);
    rig.run(60_000);
    assert!(!rig.serves(0), "\n{}", rig.tail());
    rig.restart(1);
    rig.until_serves(0, 5000);
    rig.run(10_000);
    rig.is_well(0);
    assert!(rig.view(0).promise_void);
    assert!(rig.log.iter().any(|line| line.contains("PromiseVoid")), "\n{}", rig.tail());
}

#[test]
fn nothing_is_lost_with_a_memory_that_outlives_the_process() {
    let mut rig = cached();
    rig.kill(0);
    rig.kill(1);
    for at in 0..2 {
        // As if the kernel had lived on, and its cache had been flushed at the start.
        rig.arrays[at].disk.unflushed = Some(MemoryId(nonce(at, 2).0));
        rig.restart(at);
    }
    rig.until_serves(0, 5000);
    rig.run(10_000);
    rig.is_well(0);
    assert!(!rig.view(0).promise_void, "\n{}", rig.tail());
}

#[test]
fn a_switchover_leaves_nothing_unflushed_behind() {
    let mut rig = cached();
    rig.command(0, 5, Command::SwitchOver);
    rig.until_serves(1, 500);
    assert!(!unflushed(&rig, 0) && !unflushed(&rig, 1), "\n{}", rig.tail());
    rig.run(500);
    assert_eq!(rig.outcomes.pop(), Some((5, Ok(()))));
    rig.is_well(1);
    assert!(!stable(&rig, 0) && !stable(&rig, 1), "a mirrored cache again");
}

#[test]
fn a_stop_in_order_leaves_no_mark() {
    // The secondary's: it tells when its record says so.
    let mut rig = cached();
    rig.command(1, 5, Command::HandOver);
    rig.run(500);
    assert_eq!(rig.outcomes.pop(), Some((5, Ok(()))), "\n{}", rig.tail());
    assert_eq!(rig.arrays[1].disk.unflushed, None);
    rig.kill(1);
    rig.restart(1);
    assert!(!tainted(&rig, 1));
    // The primary's: handed over.
    let mut rig = cached();
    rig.command(0, 6, Command::HandOver);
    rig.until_serves(1, 2000);
    rig.run(500);
    assert!(!unflushed(&rig, 1));
    assert_eq!(rig.arrays[0].disk.unflushed, None, "\n{}", rig.tail());
}

#[test]
fn an_array_whose_flush_failed_hands_over_and_is_made_anew() {
    let mut rig = cached();
    rig.arrays[0].failing = true;
    rig.until_serves(1, 8000);
    rig.arrays[0].failing = false;
    rig.run(20_000);
    rig.is_well(1);
    assert!(!rig.arrays[0].volume.status().flush_failed, "\n{}", rig.tail());
    assert!(!rig.view(1).promise_void);
}

/// Without the policy for it nothing is handed over by itself; an operator's switchover does.
fn a_switchover_from_an_array_whose_flush_failed_is_a_hand_over() {
    let mut rig = cached();
    for at in 0..2 {
        rig.event(at, Event::Policy(Policy { auto_failover: false, ..ALL_ON }));
    }
    rig.arrays[0].failing = true;
    rig.run(3000);
    rig.arrays[0].failing = false;
    rig.run(1000);
    assert!(rig.serves(0) && rig.arrays[0].volume.status().flush_failed, "\n{}", rig.tail());
    rig.command(0, 5, Command::SwitchOver);
    rig.until_serves(1, 2000);
    rig.run(20_000);
    assert_eq!(rig.outcomes.pop(), Some((5, Ok(()))));
    rig.is_well(1);
    assert!(!rig.arrays[0].volume.status().flush_failed && !rig.view(1).promise_void);
}

#[test]
fn t13_a_switchover_from_an_array_whose_flush_failed_is_a_hand_over() {
    a_switchover_from_an_array_whose_flush_failed_is_a_hand_over();
}

#[cfg(feature = "testing")]
#[test]
fn t13_a_switchover_that_waits_for_a_lost_copy_is_found() {
    let found = crate::mutation::breaks(
        crate::mutation::Mutation::T13SwitchKeepsCopy,
        a_switchover_from_an_array_whose_flush_failed_is_a_hand_over,
    );
    assert!(found, "a switchover comes to nothing for ever, and nobody notices");
}

fn a_hand_over_opens_a_session_for_what_the_peer_holds_in_memory() {
    let mut rig = cached();
    rig.event(0, Event::LaneLost(LaneId(0)));
    rig.event(0, Event::LaneUp(LaneId(0)));
    rig.command(0, 5, Command::HandOver);
    rig.until_serves(1, 2000);
    rig.run(500);
    assert_eq!(rig.outcomes.pop(), Some((5, Ok(()))), "\n{}", rig.tail());
    assert!(!unflushed(&rig, 1));
}

#[test]
fn t13_a_hand_over_opens_a_session_for_what_the_peer_holds_in_memory() {
    a_hand_over_opens_a_session_for_what_the_peer_holds_in_memory();
}

#[cfg(feature = "testing")]
#[test]
fn t13_a_hand_over_that_opens_no_session_is_found() {
    let found = crate::mutation::breaks(
        crate::mutation::Mutation::T13HandOverKeepsNoSession,
        a_hand_over_opens_a_session_for_what_the_peer_holds_in_memory,
    );
    assert!(found, "a hand over comes to nothing for ever, and nobody notices");
}
