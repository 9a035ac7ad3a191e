//! Write promise *memory* (T13): what may be left in memory, what a flush covers, and which regions
//! stay marked meanwhile.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn allow(volume: &mut Volume, stable: bool, now: u64, out: &mut Vec<VolumeAction>) {
    volume.set_stable(stable, at(now), out);
}

/// A primary of {A,B} that may leave writes in memory.
fn cached(limits: Limits) -> Rig {
    let mut rig = Rig::bare();
    rig.volume = Volume::new(geometry(), limits);
    rig.volume.set_promise(WritePromise::Memory);
    rig.volume.enrol(Side::A, &config(1, 1, Side::A, InSync::Both), false, at(0), &mut rig.out);
    rig.gate(Mode::Both);
    rig.run();
    rig.open(SESSION);
    allow(&mut rig.volume, false, 0, &mut rig.out);
    rig.run();
    rig
}

fn synced(rig: &mut Rig, sync: SyncId, result: StoreResult) -> Vec<VolumeAction> {
    let cx = rig.cx();
    rig.volume.synced(sync, result, cx, &mut rig.out);
    rig.run()
}

fn tick(rig: &mut Rig, now: u64) -> Vec<VolumeAction> {
    rig.now = now;
    let cx = rig.cx();
    rig.volume.tick(cx, &mut rig.out);
    rig.run()
}

fn sync_of(actions: &[VolumeAction]) -> Option<SyncId> {
    actions.iter().find_map(|action| match action {
        VolumeAction::Sync { sync } => Some(*sync),
        _ => None,
    })
}

fn flush_of_peer(actions: &[VolumeAction]) -> Option<FrameHeader> {
    actions.iter().find_map(|action| match action {
        VolumeAction::MirrorSync { header, .. } => Some(*header),
        _ => None,
    })
}

/// How a write of 4 KiB goes: whether it must be stable here, whether the peer may keep it in memory.
fn goes(rig: &mut Rig, lba: u64) -> (CommandId, FrameHeader, [bool; 2]) {
    let write = rig.submit(Op::Write, lba, 8);
    let actions = rig.run();
    let stable = actions.contains(&local(write));
    let header = mirrored(&actions).first().copied().expect("mirrored");
    (write, header, [stable, header.memory])
}

fn done(rig: &mut Rig, write: CommandId, header: FrameHeader) -> Vec<VolumeAction> {
    let mut actions = rig.local(write, StoreResult::Done);
    actions.extend(rig.ack(header, StoreResult::Done));
    actions
}

#[test]
fn nothing_is_left_in_memory_before_control_allows_it_nor_outside_both_nor_with_the_other_promise() {
    let mut rig = cached(Limits::default());
    let (write, header, how) = goes(&mut rig, 0);
    assert_eq!(how, [false, true]);
    assert!(done(&mut rig, write, header).contains(&answer(write, Outcome::Good)), "held by both");
    allow(&mut rig.volume, true, 0, &mut rig.out);
    rig.run();
    assert_eq!(goes(&mut rig, 64).2, [true, false], "control's word");

    let mut rig = Rig::mirrored();
    allow(&mut rig.volume, false, 0, &mut rig.out);
    assert_eq!(goes(&mut rig, 0).2, [true, false], "promise stable");

    let mut rig = cached(Limits::default());
    rig.learn(config(2, 1, Side::A, InSync::Primary));
    rig.gate(Mode::Alone);
    rig.run();
    let write = rig.submit(Op::Write, 0, 8);
    assert!(rig.run().contains(&local(write)), "alone");

    let mut rig = Rig::bare();
    rig.volume.set_promise(WritePromise::Memory);
    allow(&mut rig.volume, false, 0, &mut rig.out);
    let write = rig.submit(Op::Write, 0, 8);
    assert_eq!(rig.run(), [local(write)], "one copy is no mirrored cache");
}

#[test]
fn what_is_old_is_flushed_here_and_the_region_goes_when_both_disks_hold_it() {
    let mut rig = cached(Limits::default());
    let (write, header, _) = goes(&mut rig, 0);
    done(&mut rig, write, header);
    let status = rig.volume.status();
    assert_eq!((status.unflushed_here, status.unflushed_there), (true, true));
    let due = rig.volume.next_timeout().unwrap();
    assert!(due <= Time::from_millis(1000), "{due:?}");
    let here = sync_of(&tick(&mut rig, 1000)).expect("flushed in the background");
    assert_eq!(rig.volume.status().store_io, 1, "a flush is I/O that may hang");
    synced(&mut rig, here, StoreResult::Done);
    assert!(!rig.volume.status().unflushed_here);
    // Idle for long: it need not stay marked but for the peer.
    assert_eq!(flush_of_peer(&tick(&mut rig, 5000)), None, "regions are gathered");
    let there = flush_of_peer(&tick(&mut rig, 6000)).expect("the peer is asked");
    assert_eq!((there.op, there.extent.blocks, there.memory), (Op::Flush, 0, false));
    assert_eq!(rig.volume.status().active_regions, 1);
    rig.ack(there, StoreResult::Done);
    assert_eq!(rig.volume.status().active_regions, 0);
    assert!(!rig.volume.status().unflushed_there);
    tick(&mut rig, 9000);
    assert_eq!(rig.volume.next_timeout(), None, "an idle volume needs no timer");
}

#[test]
fn a_hosts_flush_is_answered_when_both_disks_hold_what_was_answered_before() {
    for here_first in [true, false] {
        let mut rig = cached(Limits::default());
        let (write, header, _) = goes(&mut rig, 0);
        done(&mut rig, write, header);
        let flush = rig.submit(Op::Flush, 0, 0);
        let actions = rig.run();
        assert!(actions.contains(&local(flush)), "{actions:?}");
        let there = mirrored(&actions)[0];
        assert_eq!(there.op, Op::Flush);
        let (first, second) = if here_first {
            (rig.local(flush, StoreResult::Done), rig.ack(there, StoreResult::Done))
        } else {
            (rig.ack(there, StoreResult::Done), rig.local(flush, StoreResult::Done))
        };
        assert!(!first.contains(&answer(flush, Outcome::Good)));
        assert!(second.contains(&answer(flush, Outcome::Good)), "{second:?}");
        let status = rig.volume.status();
        assert_eq!((status.unflushed_here, status.unflushed_there), (false, false));
    }
}

#[cfg(feature = "testing")]
#[test]
fn t13_a_flush_that_reaches_one_disk_is_found() {
    let found = crate::mutation::breaks(
        crate::mutation::Mutation::T13FuaHereOnly,
        a_hosts_flush_is_answered_when_both_disks_hold_what_was_answered_before,
    );
    assert!(found, "a flush may be answered without the peer, and nobody notices");
}

#[test]
fn a_hosts_flush_is_sent_again_in_a_new_session_and_needs_one_disk_after_the_drop() {
    let mut rig = cached(Limits::default());
    let (write, header, _) = goes(&mut rig, 0);
    done(&mut rig, write, header);
    let flush = rig.submit(Op::Flush, 0, 0);
    let first = mirrored(&rig.run())[0];
    rig.local(flush, StoreResult::Done);
    let next = SessionId { boot: 1, counter: 2 };
    rig.open(next);
    let again = mirrored(&rig.run());
    assert_eq!((again[0].op, again[0].session), (Op::Flush, next));
    assert_eq!(rig.ack(first, StoreResult::Done), [], "an answer of the former session");
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    rig.learn(config(2, 1, Side::A, InSync::Primary));
    rig.gate(Mode::Alone);
    assert!(rig.run().contains(&answer(flush, Outcome::Good)), "dropped: this disk alone counts");
}

#[test]
fn told_to_be_stable_it_flushes_at_once_on_both_and_says_when_that_is_done() {
    let mut rig = cached(Limits::default());
    let (write, header, _) = goes(&mut rig, 0);
    rig.ack(header, StoreResult::Done);
    allow(&mut rig.volume, true, 0, &mut rig.out);
    let actions = rig.run();
    assert_eq!(sync_of(&actions), None, "nothing that is over");
    let there = flush_of_peer(&actions).expect("the peer is asked at once");
    assert!(rig.volume.status().unflushed_here, "a write to memory is on its way");
    let actions = rig.local(write, StoreResult::Done);
    let here = sync_of(&actions).expect("flushed as soon as it is over");
    assert!(!rig.ack(there, StoreResult::Done).is_empty(), "control is poked");
    assert!(synced(&mut rig, here, StoreResult::Done).contains(&VolumeAction::Poke));
    let status = rig.volume.status();
    assert_eq!((status.unflushed_here, status.unflushed_there), (false, false));
}

#[test]
fn t13_activity_is_not_cleared_for_a_switchover_before_both_are_flushed() {
    let mut rig = cached(Limits::default());
    let (write, header, _) = goes(&mut rig, 0);
    done(&mut rig, write, header);
    rig.gate(Mode::Draining);
    allow(&mut rig.volume, true, 0, &mut rig.out);
    let actions = rig.run();
    let (here, there) = (sync_of(&actions).unwrap(), flush_of_peer(&actions).unwrap());
    let cx = rig.cx();
    assert!(!rig.volume.clear_activity(cx, &mut rig.out));
    synced(&mut rig, here, StoreResult::Done);
    assert!(!rig.volume.clear_activity(cx, &mut rig.out), "not at the peer");
    rig.ack(there, StoreResult::Done);
    rig.volume.clear_activity(cx, &mut rig.out);
    rig.run();
    assert!(rig.volume.clear_activity(cx, &mut rig.out));
    assert_eq!(rig.volume.status().active_regions, 0);
}

#[test]
fn past_the_bound_writes_are_stable_until_a_flush_has_made_room() {
    let mut rig = cached(Limits { unflushed_bytes: 16 << 10, ..Limits::default() });
    let mut writes = Vec::new();
    for n in 0..4 {
        let (write, header, how) = goes(&mut rig, n * 64);
        assert!(!how[0], "write {n}");
        writes.push((write, header));
    }
    assert_eq!(goes(&mut rig, 512).2, [true, true], "16 KiB are in memory, or on the way there");
    let mut actions = Vec::new();
    for (write, header) in writes {
        actions.extend(done(&mut rig, write, header));
    }
    let mut syncs = 0;
    while let Some(sync) = sync_of(&actions) {
        syncs += 1;
        actions = synced(&mut rig, sync, StoreResult::Done);
    }
    assert!(syncs > 0, "half of the bound is reason to flush");
    assert!(!goes(&mut rig, 640).2[0], "room again");
}

#[test]
fn a_flush_that_failed_leaves_nothing_more_in_memory_and_never_counts_as_done() {
    let mut rig = cached(Limits::default());
    let (write, header, _) = goes(&mut rig, 0);
    done(&mut rig, write, header);
    let sync = sync_of(&tick(&mut rig, 1000)).unwrap();
    synced(&mut rig, sync, StoreResult::Failed);
    let status = rig.volume.status();
    assert_eq!((status.flush_failed, status.store_failed, status.unflushed_here), (true, true, true));
    assert!(goes(&mut rig, 64).2[0]);
    // The kernel reports a lost page once: a later flush that ends well proves nothing.
    let flush = rig.submit(Op::Flush, 0, 0);
    let there = mirrored(&rig.run())[0];
    rig.ack(there, StoreResult::Done);
    assert!(!rig.local(flush, StoreResult::Done).contains(&answer(flush, Outcome::Good)));
    assert!(rig.volume.status().flush_failed);
}

fn forget_of(actions: &[VolumeAction]) -> Option<SyncId> {
    actions.iter().find_map(|action| match action {
        VolumeAction::Forget { sync } => Some(*sync),
        _ => None,
    })
}

/// A primary whose flush of one write failed.
fn failed() -> Rig {
    let mut rig = cached(Limits::default());
    let (write, header, _) = goes(&mut rig, 0);
    done(&mut rig, write, header);
    let sync = sync_of(&tick(&mut rig, 1000)).unwrap();
    synced(&mut rig, sync, StoreResult::Failed);
    rig
}

fn forgotten(rig: &mut Rig, sync: SyncId) {
    let cx = rig.cx();
    rig.volume.forgotten(sync, cx, &mut rig.out);
    rig.run();
}

/// A kernel shows pages that it could not write, until it needs their memory: a read would go back.
fn what_could_not_be_written_is_forgotten_before_it_is_read() {
    // The promise is void, in {A,B}.
    let mut rig = failed();
    let cx = rig.cx();
    rig.volume.accept_loss(cx, &mut rig.out);
    let sync = forget_of(&rig.run()).expect("forgotten");
    let status = rig.volume.status();
    assert_eq!((status.flush_failed, status.forgetting, status.unflushed_here), (false, true, true));
    forgotten(&mut rig, sync);
    assert!(!rig.volume.status().forgetting);
    // Out of sync and back in office by an override.
    let mut rig = failed();
    rig.learn(config(2, 2, Side::B, InSync::Primary));
    rig.run();
    assert!(!rig.volume.status().flush_failed, "it is to be made anew");
    rig.learn(config(3, 3, Side::A, InSync::Primary));
    let sync = forget_of(&rig.run()).expect("forgotten");
    assert!(rig.volume.status().unflushed_here, "control opens no gate");
    forgotten(&mut rig, sync);
    assert!(!rig.volume.status().forgetting);
    // Made anew by a resync: nothing is left of it.
    let mut rig = failed();
    rig.learn(config(2, 2, Side::B, InSync::Primary));
    rig.learn(config(3, 2, Side::B, InSync::Both));
    rig.learn(config(4, 4, Side::A, InSync::Primary));
    assert_eq!(forget_of(&rig.run()), None);
}

#[test]
fn t13_what_could_not_be_written_is_forgotten_before_it_is_read() {
    what_could_not_be_written_is_forgotten_before_it_is_read();
}

#[cfg(feature = "testing")]
#[test]
fn t13_what_could_not_be_written_and_is_shown_all_the_same_is_found() {
    let found = crate::mutation::breaks(
        crate::mutation::Mutation::T13PhantomsShown,
        what_could_not_be_written_is_forgotten_before_it_is_read,
    );
    assert!(found, "phantoms are shown, and nobody notices");
}

/// The promise is void, in {A,B}: the peer may hold what is lost here. What is flushed from then on proves nothing,
/// and nobody reads either value before the peer is dropped.
fn where_the_promise_is_void_the_copies_may_differ() {
    let mut rig = failed();
    let cx = rig.cx();
    rig.volume.accept_loss(cx, &mut rig.out);
    let sync = forget_of(&rig.run()).expect("forgotten");
    forgotten(&mut rig, sync);
    let read = rig.submit(Op::Read, 0, 8);
    assert!(!rig.run().contains(&local(read)), "in doubt");
    allow(&mut rig.volume, true, 1000, &mut rig.out);
    let mut actions = rig.run();
    for now in [2000, 5000, 9000] {
        while let Some(sync) = sync_of(&actions) {
            actions = synced(&mut rig, sync, StoreResult::Done);
        }
        if let Some(there) = flush_of_peer(&actions) {
            rig.ack(there, StoreResult::Done);
        }
        actions = tick(&mut rig, now);
    }
    assert_eq!(rig.volume.status().active_regions, 1, "marked until it is dropped");
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    rig.learn(config(2, 1, Side::A, InSync::Primary));
    rig.gate(Mode::Alone);
    assert!(rig.run().contains(&local(read)));
    assert_eq!(rig.volume.status().out_of_sync_regions, 1);
}

#[test]
fn t13_where_the_promise_is_void_the_copies_may_differ() {
    where_the_promise_is_void_the_copies_may_differ();
}

#[cfg(feature = "testing")]
#[test]
fn t13_a_loss_that_counts_as_equal_is_found() {
    let found = crate::mutation::breaks(
        crate::mutation::Mutation::T13LossCountsAsEqual,
        where_the_promise_is_void_the_copies_may_differ,
    );
    assert!(found, "copies differ, no map says so, and nobody notices");
}

/// F14: what a copy holds when its resync begins is what an override would serve.
fn a_dropped_copy_is_flushed_before_it_is_overwritten() {
    let (mut volume, mut out) = secondary(false);
    let (write, _) = receive(&mut volume, frame(1, Op::Write, 8, true), &mut out);
    volume.applied(write, StoreResult::Done, at(0), &mut out);
    let dropped = config(2, 1, Side::A, InSync::Primary);
    volume.learned(&dropped, at(0), &mut out);
    out.clear();
    allow(&mut volume, true, 0, &mut out);
    let sync = sync_of(&out).expect("flushed at once");
    let next = SessionId { boot: 1, counter: 2 };
    assert!(!volume.accept_session(dropped.tenure(), next, at(0), &mut out), "not on its disk");
    out.clear();
    volume.synced(sync, StoreResult::Done, at(0), &mut out);
    assert!(out.contains(&VolumeAction::Poke), "control answers the hello now");
    assert!(volume.accept_session(dropped.tenure(), next, at(0), &mut out));
}

#[test]
fn t13_a_dropped_copy_is_flushed_before_it_is_overwritten() {
    a_dropped_copy_is_flushed_before_it_is_overwritten();
}

#[cfg(feature = "testing")]
#[test]
fn t13_a_dropped_copy_that_is_not_flushed_is_found() {
    let found = crate::mutation::breaks(
        crate::mutation::Mutation::T13CopyUnflushed,
        a_dropped_copy_is_flushed_before_it_is_overwritten,
    );
    assert!(found, "a copy may become one of no moment, and nobody notices");
}

#[test]
fn a_primary_that_restarted_takes_nothing_of_the_peer_for_flushed() {
    let mut rig = cached(Limits::default());
    let cx = rig.cx();
    assert!(!rig.volume.status().unflushed_there);
    rig.volume.restart_recovery(true, cx, &mut rig.out);
    assert!(rig.volume.status().unflushed_there, "what the former life left in the peer's memory");
}

/// A secondary that holds what it is sent in memory, as far as it may.
fn secondary(stable: bool) -> (Volume, Vec<VolumeAction>) {
    let mut volume = Volume::new(geometry(), Limits::default());
    let mut out = Vec::new();
    volume.set_promise(WritePromise::Memory);
    let config = config(1, 1, Side::A, InSync::Both);
    volume.enrol(Side::B, &config, false, at(0), &mut out);
    allow(&mut volume, stable, 0, &mut out);
    assert!(volume.accept_session(config.tenure(), SESSION, at(0), &mut out));
    out.clear();
    (volume, out)
}

fn frame(sequence: u64, op: Op, blocks: u64, memory: bool) -> FrameHeader {
    let tenure = config(1, 1, Side::A, InSync::Both).tenure();
    FrameHeader { tenure, session: SESSION, sequence, op, extent: Extent::new(0, blocks), memory }
}

fn receive(volume: &mut Volume, header: FrameHeader, out: &mut Vec<VolumeAction>) -> (ApplyId, bool) {
    let apply = volume.receive(LANE, header, at(0), out).expect("taken");
    let stable = out.iter().find_map(|action| match action {
        VolumeAction::Apply { apply: of, stable, .. } if *of == apply => Some(*stable),
        _ => None,
    });
    out.clear();
    (apply, stable.expect("applied at once"))
}

#[test]
fn a_secondary_leaves_in_memory_only_what_both_allow() {
    for (may, memory, stable) in [(true, true, false), (false, true, true), (true, false, true)] {
        let (mut volume, mut out) = secondary(!may);
        let (apply, how) = receive(&mut volume, frame(1, Op::Write, 8, memory), &mut out);
        assert_eq!(how, stable, "may {may}, frame {memory}");
        volume.applied(apply, StoreResult::Done, at(0), &mut out);
        assert_eq!(volume.status().unflushed_here, !stable);
    }
}

#[test]
fn a_secondary_answers_a_flush_when_its_disk_holds_what_it_acknowledged() {
    let (mut volume, mut out) = secondary(false);
    let (write, _) = receive(&mut volume, frame(1, Op::Write, 8, true), &mut out);
    volume.applied(write, StoreResult::Done, at(0), &mut out);
    let header = frame(2, Op::Flush, 0, false);
    let (flush, _) = receive(&mut volume, header, &mut out);
    let (late, _) = receive(&mut volume, frame(3, Op::Write, 8, true), &mut out);
    volume.applied(late, StoreResult::Done, at(0), &mut out);
    out.clear();
    volume.applied(flush, StoreResult::Done, at(0), &mut out);
    let result = Some(StoreResult::Done);
    let ack = VolumeAction::Acknowledge { lane: LANE, session: SESSION, sequence: 2, result };
    assert!(out.contains(&ack), "{out:?}");
    assert!(volume.status().unflushed_here, "what came after the flush began is not covered");
}

#[test]
fn after_a_flush_that_failed_a_secondary_acknowledges_nothing() {
    let (mut volume, mut out) = secondary(false);
    let (write, _) = receive(&mut volume, frame(1, Op::Write, 8, true), &mut out);
    volume.applied(write, StoreResult::Done, at(0), &mut out);
    let (flush, _) = receive(&mut volume, frame(2, Op::Flush, 0, false), &mut out);
    volume.applied(flush, StoreResult::Failed, at(0), &mut out);
    let (write, stable) = receive(&mut volume, frame(3, Op::Write, 8, true), &mut out);
    assert!(stable);
    volume.applied(write, StoreResult::Done, at(0), &mut out);
    let result = Some(StoreResult::Failed);
    let refusal = VolumeAction::Acknowledge { lane: LANE, session: SESSION, sequence: 3, result };
    assert!(out.contains(&refusal), "{out:?}");
    assert!(volume.status().flush_failed);
}

/// What a random walk does next; what is out of range falls on something by remainder.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u64),
    Flush,
    LocalDone(usize),
    PeerAcks(usize),
    Synced,
    PeerFlushed,
    Stable(bool),
    NewSession,
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u64..6).prop_map(Step::Write),
        1 => Just(Step::Flush),
        5 => any::<usize>().prop_map(Step::LocalDone),
        5 => any::<usize>().prop_map(Step::PeerAcks),
        3 => Just(Step::Synced),
        3 => Just(Step::PeerFlushed),
        1 => any::<bool>().prop_map(Step::Stable),
        1 => Just(Step::NewSession),
        4 => (1_u64..3000).prop_map(Step::Tick),
    ]
}

/// Two disks as they are, beside what the volume thinks of them. A write is known by its number.
#[derive(Default)]
struct Disks {
    regions: BTreeMap<u64, u64>,
    /// Written into memory, by array; and what is on the disk.
    memory: [BTreeSet<u64>; 2],
    disk: [BTreeSet<u64>; 2],
    answered: BTreeSet<u64>,
}

impl Disks {
    fn take(&mut self, array: usize, write: u64, stable: bool) {
        if stable {
            self.disk[array].insert(write)
        } else {
            self.memory[array].insert(write)
        };
    }

    /// A flush that began when memory held `covers` is over.
    fn flushed(&mut self, array: usize, covers: &BTreeSet<u64>) {
        for write in covers {
            self.memory[array].remove(write);
            self.disk[array].insert(*write);
        }
    }
}

struct Walk {
    rig: Rig,
    disks: Disks,
    writes: Vec<(CommandId, u64, bool)>,
    /// Frames under way: which write, or for a flush what it covers there at least.
    frames: Vec<(FrameHeader, Result<u64, BTreeSet<u64>>)>,
    flushes: Vec<(CommandId, BTreeSet<u64>, BTreeSet<u64>)>,
    sync: Option<(SyncId, BTreeSet<u64>)>,
    asked: Vec<(FrameHeader, BTreeSet<u64>)>,
    names: BTreeMap<CommandId, u64>,
    counter: u64,
    sessions: u64,
}

impl Walk {
    fn new() -> Self {
        Self {
            rig: cached(Limits { active_regions: 2, unflushed_bytes: 24 << 10, ..Limits::default() }),
            disks: Disks::default(),
            writes: Vec::new(),
            frames: Vec::new(),
            flushes: Vec::new(),
            sync: None,
            asked: Vec::new(),
            names: BTreeMap::new(),
            counter: 0,
            sessions: 1,
        }
    }

    fn note(&mut self, actions: Vec<VolumeAction>) {
        for action in actions {
            match action {
                VolumeAction::Local { command, stable } => match self.names.get(&command) {
                    Some(write) => self.writes.push((command, *write, stable)),
                    None => {
                        let covers = self.disks.memory[0].clone();
                        self.flushes.push((command, covers, self.disks.answered.clone()));
                    }
                },
                VolumeAction::Mirror { command, header, .. } => {
                    let write = self.names.get(&command).copied();
                    self.frames.push((header, write.ok_or_else(|| self.disks.memory[1].clone())));
                }
                VolumeAction::Sync { sync } => self.sync = Some((sync, self.disks.memory[0].clone())),
                VolumeAction::MirrorSync { header, .. } => {
                    self.asked.push((header, self.disks.memory[1].clone()));
                }
                VolumeAction::Answer { command, outcome: Outcome::Good } => {
                    if let Some(write) = self.names.remove(&command) {
                        for array in 0..2 {
                            let held = self.disks.memory[array].contains(&write)
                                || self.disks.disk[array].contains(&write);
                            assert!(held, "write {write} is answered and array {array} lacks it");
                        }
                        self.disks.answered.insert(write);
                    } else {
                        let at = self.flushes.iter().position(|flush| flush.0 == command);
                        let Some(at) = at else { continue };
                        for write in self.flushes.remove(at).2 {
                            let both = self.disks.disk.iter().all(|disk| disk.contains(&write));
                            assert!(both, "a flush is answered and a disk lacks write {write}");
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn step(&mut self, step: Step) {
        let actions = match step {
            Step::Write(region) => {
                if self.names.len() > 8 {
                    return;
                }
                // Each has blocks of its own: nothing here waits for another.
                let lba = region * REGION_BLOCKS + self.counter % 64 * 8;
                let cx = self.rig.cx();
                let write = Request { op: Op::Write, extent: Extent::new(lba, 8) };
                let command = self.rig.volume.submit(write, cx, &mut self.rig.out).unwrap();
                self.counter += 1;
                self.names.insert(command, self.counter);
                self.disks.regions.insert(self.counter, region);
                self.rig.run()
            }
            Step::Flush => {
                if self.flushes.len() > 2 {
                    return;
                }
                self.rig.submit(Op::Flush, 0, 0);
                self.rig.run()
            }
            Step::LocalDone(which) => {
                let all = self.writes.len() + self.flushes.len();
                if all == 0 {
                    return;
                }
                let which = which % all;
                if which < self.writes.len() {
                    let (command, write, stable) = self.writes.remove(which);
                    self.disks.take(0, write, stable);
                    self.rig.local(command, StoreResult::Done)
                } else {
                    let (command, covers, _) = self.flushes[which - self.writes.len()].clone();
                    self.disks.flushed(0, &covers);
                    self.rig.local(command, StoreResult::Done)
                }
            }
            Step::PeerAcks(which) => {
                if self.frames.is_empty() {
                    return;
                }
                let (header, write) = self.frames.remove(which % self.frames.len());
                match write {
                    Ok(write) => self.disks.take(1, write, !header.memory),
                    Err(covers) => self.disks.flushed(1, &covers),
                }
                self.rig.ack(header, StoreResult::Done)
            }
            Step::Synced => {
                let Some((sync, covers)) = self.sync.take() else { return };
                self.disks.flushed(0, &covers);
                synced(&mut self.rig, sync, StoreResult::Done)
            }
            Step::PeerFlushed => {
                if self.asked.is_empty() {
                    return;
                }
                let (header, covers) = self.asked.remove(0);
                self.disks.flushed(1, &covers);
                self.rig.ack(header, StoreResult::Done)
            }
            Step::Stable(stable) => {
                let now = self.rig.now;
                allow(&mut self.rig.volume, stable, now, &mut self.rig.out);
                self.rig.run()
            }
            Step::NewSession => {
                self.sessions += 1;
                self.frames.clear();
                self.asked.clear();
                self.rig.open(SessionId { boot: 1, counter: self.sessions });
                self.rig.run()
            }
            Step::Tick(ms) => {
                let now = self.rig.now + ms;
                tick(&mut self.rig, now)
            }
        };
        self.note(actions);
        self.check();
    }

    /// What a disk may lack is named by the map, and by the status that control asks for.
    fn check(&self) {
        let status = self.rig.volume.status();
        assert!(status.unflushed_here || self.disks.memory[0].is_empty(), "{:?}", self.disks.memory[0]);
        assert!(status.unflushed_there || self.disks.memory[1].is_empty(), "{:?}", self.disks.memory[1]);
        for write in self.disks.memory.iter().flatten() {
            let region = self.disks.regions[write];
            let marked = self.rig.volume.map.activity().contains(region);
            assert!(marked, "region {region} is not marked, and write {write} is in memory alone");
        }
        let bytes = 4096 * (self.disks.memory[0].len() as u64);
        assert!(bytes <= 24 << 10, "the bound: {bytes}");
    }
}

fn walk(steps: &[Step]) {
    let mut walk = Walk::new();
    for step in steps {
        walk.step(*step);
    }
    // Told to be stable, and served, it ends with everything on both disks.
    walk.step(Step::Stable(true));
    for _ in 0..200 {
        for step in [Step::LocalDone(0), Step::PeerAcks(0), Step::Synced, Step::PeerFlushed, Step::Tick(700)]
        {
            walk.step(step);
        }
    }
    let status = walk.rig.volume.status();
    assert_eq!((status.unflushed_here, status.unflushed_there), (false, false));
    assert_eq!(status.active_regions, 0, "and nothing stays marked");
    assert!(walk.names.is_empty() && walk.flushes.is_empty(), "all answered");
    assert_eq!(walk.rig.volume.next_timeout(), None);
}

proptest! {
    #[test]
    fn whatever_a_disk_lacks_is_marked_and_said(steps in prop::collection::vec(step(), 1..120)) {
        walk(&steps);
    }
}

#[cfg(feature = "testing")]
#[test]
fn t13_activity_cleared_too_early_is_found() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let found = crate::mutation::breaks(crate::mutation::Mutation::T13ActivityClearedUnflushed, || {
        let mut runner = TestRunner::deterministic();
        for _ in 0..200 {
            let steps = prop::collection::vec(step(), 1..120).new_tree(&mut runner).unwrap().current();
            walk(&steps);
        }
    });
    assert!(found, "regions are unmarked while a disk lacks them, and nobody notices");
}
