//! The traces that concern *override*, as scripts.

use super::*;

/// The operator overrides on `at`; by his word the other array is off.
fn order_override(world: &mut World, at: usize, stale: bool) {
    let now = world.now(at);
    world.nodes[at].arbiter.begin_override(stale, now);
}

/// F35, T15: B overrides through W when W's promise to A is over, not before.
fn t15() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    order_override(&mut world, 1, false);
    world.pass(20_000); // the operator is wrong: A lives, and serves by W's leases
    assert_eq!(world.serving(), [Side::A]);
    world.sever(0, 2);
    world.pass(10_000);
    assert_eq!(world.serving(), [Side::B]);
    let chosen = world.nodes[1].arbiter.chosen();
    assert_eq!((chosen.lineage.counter, chosen.in_sync), (2, InSync::Primary));
    assert_eq!(world.witness.record(GROUP).and_then(|record| record.chosen), Some(chosen));
    // W tells A when that is back.
    world.heal(0, 2);
    world.pass(1000);
    assert_eq!(world.nodes[0].arbiter.chosen(), chosen);
    assert!(!world.nodes[0].arbiter.record().overridden, "A never wrote alone");
}

/// T15: a new incarnation refuses overrides, too, for as long as a promise may last.
fn t15_blank() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.pass(4000);
    world.sever(0, 2); // A serves by W's lease
    world.sever(1, 2);
    let now = world.now(WITNESS);
    let mut out = Vec::new();
    world.witness = WitnessCore::start(Timers::default(), None, false, Incarnation([9; 16]), now, &mut out);
    world.carry_out_witness(out);
    world.heal(1, 2);
    order_override(&mut world, 1, false);
    world.pass(2000);
    assert_eq!(world.serving(), [Side::A]);
    world.pass(12_000);
    assert_eq!(world.serving(), [Side::B]);
    assert_eq!(world.nodes[1].arbiter.chosen().witness, Some(Incarnation([9; 16])));
}

/// Without a witness the override waits as long as any promise may last, then stands alone.
#[test]
fn an_override_without_a_witness_waits_for_every_promise() {
    let mut world = World::in_sync();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.sever(a, b);
    }
    order_override(&mut world, 1, false);
    world.pass(10_000);
    assert_eq!(world.serving(), []);
    world.pass(1000);
    assert_eq!(world.serving(), [Side::B]);
    assert_eq!(world.nodes[1].arbiter.chosen().quorum, Quorum::PrimaryAlone);
    // The witness is enrolled by its return.
    world.heal(1, 2);
    world.wish(1, Some(Transition::ReEnrol));
    world.pass(1000);
    assert_eq!(world.nodes[1].arbiter.chosen().quorum, Quorum::Majority);
}

/// An override that was begun and given up is taken back: A and B go on in the old lineage.
#[test]
fn an_override_given_up_leaves_no_vote() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.sever(0, 2);
    order_override(&mut world, 1, false);
    world.until(|world| world.nodes[1].disk.vote.is_some());
    world.sever(1, 2); // what was sent to W is lost
    world.nodes[1].arbiter.end_override();
    world.heal(0, 1);
    world.pass(1000);
    assert!(world.vote(1).is_some(), "B does not know whether W took it");
    assert_eq!(world.serving(), [], "and grants nothing");
    world.heal(1, 2);
    world.pass(1000);
    assert_eq!(world.vote(1), None);
    assert_eq!(world.serving(), [Side::A]);
    assert_eq!(world.nodes[0].arbiter.chosen().lineage.counter, 1);
}

/// F13: what W voted for tells B that it may lack writes.
#[test]
fn an_override_that_would_lose_writes_needs_another_word() {
    let mut world = World::in_sync();
    world.sever(0, 1);
    world.wish(0, Some(Transition::Drop));
    world.until(|world| world.nodes[0].arbiter.chosen().in_sync == InSync::Primary);
    let told = world.pipe(0, 2).unwrap();
    world.pipes[told].to[1].clear(); // W voted, and never hears the outcome
    world.sever(0, 2);
    order_override(&mut world, 1, false);
    world.pass(10_000);
    assert!(world.nodes[1].arbiter.override_would_lose());
    assert_eq!(world.nodes[1].arbiter.chosen().lineage.counter, 1);
    world.nodes[1].arbiter.end_override();
    world.restart(0);
    order_override(&mut world, 1, true);
    world.pass(10_000);
    assert_eq!(world.serving(), [Side::B]);
    // A wrote alone: it is not overwritten unasked.
    world.heal(0, 1);
    world.pass(1000);
    assert!(world.nodes[0].arbiter.record().overridden);
    let mut out = Vec::new();
    world.nodes[0].arbiter.discard(&mut out);
    world.carry_out(0, out);
    world.quiet();
    assert!(!world.nodes[0].disk.overridden);
}

/// T22: A, alone in sync, restarts cut off; B overrides through W, W is replaced by a blank one, which
/// A must not enrol.
fn t22() {
    let mut world = World::in_sync();
    world.wish(0, Some(Transition::Drop));
    world.pass(500);
    world.wish(0, None);
    for (a, b) in [(0, 1), (0, 2)] {
        world.sever(a, b);
    }
    world.restart(0);
    order_override(&mut world, 1, true);
    world.pass(10_000);
    assert_eq!(world.serving(), [Side::B]);
    world.sever(1, 2);
    let now = world.now(WITNESS);
    let mut out = Vec::new();
    world.witness = WitnessCore::start(Timers::default(), None, false, Incarnation([9; 16]), now, &mut out);
    world.carry_out_witness(out);
    world.wish(0, Some(Transition::ReEnrol));
    world.heal(0, 2);
    world.pass(15_000);
    assert_eq!(world.serving(), [Side::B]);
    world.heal(0, 1);
    world.pass(1000);
    assert_eq!(world.nodes[0].arbiter.chosen().primary, Side::B);
}

/// Two overrides of one history are never merged; a third ends both.
#[test]
fn two_overrides_are_named_a_split_until_a_third() {
    let mut world = World::in_sync();
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        world.sever(a, b);
    }
    world.pass(4000);
    // The operator gives his word twice, and wrongly.
    for at in 0..2 {
        order_override(&mut world, at, true);
    }
    world.time += 11_000_000_000;
    for at in 0..2 {
        let now = world.now(at);
        let mut out = Vec::new();
        world.nodes[at].arbiter.tick(now, &mut out);
        world.carry_out(at, out);
        while !world.nodes[at].writing.is_empty() {
            world.write_over(at);
        }
    }
    world.heal(0, 1);
    for _ in 0..100 {
        world.time += 20_000_000;
        for at in 0..2 {
            world.tick(at);
        }
        while world.one() {}
    }
    assert!(world.nodes.iter().all(|node| node.arbiter.is_split()));
    assert_eq!(world.serving(), []);
    order_override(&mut world, 1, true);
    world.pass(12_000);
    assert_eq!(world.serving(), [Side::B]);
    assert!(!world.nodes[0].arbiter.is_split());
    assert!(world.nodes[0].arbiter.record().overridden, "what A wrote alone is kept");
}

traces! {
    t15, T15OverrideIgnoresPromises;
    t15_blank, T15OverrideIgnoresPromises;
    t22, T16NoContactNeeded;
}
