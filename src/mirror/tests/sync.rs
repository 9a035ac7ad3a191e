//! Sessions, resync, recovery, and the secondary.

use super::*;

const NEXT: SessionId = SessionId { boot: 1, counter: 2 };

/// A primary of {me} that wrote to `regions` while alone.
fn alone_with_dirty(regions: &[u64]) -> Rig {
    let mut rig = Rig::primary(InSync::Primary);
    for region in regions {
        let write = rig.submit(Op::Write, region * REGION_BLOCKS, 8);
        rig.run();
        assert_eq!(rig.local(write, StoreResult::Done), [answer(write, Outcome::Good)]);
    }
    rig
}

fn sent(rig: &mut Rig, copy: CopyId, frames: u32) -> Vec<VolumeAction> {
    let cx = rig.cx();
    rig.volume.copy_sent(copy, Ok(frames), cx, &mut rig.out);
    rig.run()
}

#[test]
fn rule_14_what_is_unacknowledged_is_sent_again_once_in_a_new_session() {
    let mut rig = Rig::mirrored();
    let writes = [0, 8, 16].map(|lba| rig.submit(Op::Write, lba, 8));
    let headers = mirrored(&rig.run());
    rig.local(writes[1], StoreResult::Done);
    rig.ack(headers[2], StoreResult::Done);
    rig.open(NEXT);
    let again = mirrored(&rig.run());
    assert_eq!(again.iter().map(|header| header.extent.lba).collect::<Vec<_>>(), [0, 8], "in order");
    assert!(again.iter().all(|header| header.session == NEXT));
    assert_eq!(rig.ack(headers[1], StoreResult::Done), [], "an answer of the former session");
    assert_eq!(rig.ack(again[1], StoreResult::Done), [answer(writes[1], Outcome::Good)]);
    let cx = rig.cx();
    rig.volume.lane_up(LANE, cx, &mut rig.out);
    assert_eq!(rig.run(), [], "nothing twice within a session");
    assert!(rig.volume.lane_lost(LANE), "one frame is unanswered");
}

#[test]
fn a_lane_without_unanswered_frames_is_no_loss() {
    let mut rig = Rig::mirrored();
    let cx = rig.cx();
    rig.volume.lane_up(LaneId(4), cx, &mut rig.out);
    assert!(!rig.volume.lane_lost(LANE));
    let write = rig.submit(Op::Write, 0, 8);
    let actions = rig.run();
    assert!(actions.iter().any(|action| matches!(action, VolumeAction::Mirror { lane: LaneId(4), .. })));
    assert!(rig.volume.lane_lost(LaneId(4)));
    let other = rig.submit(Op::Write, 8, 8);
    assert_eq!(rig.run(), [local(other)], "no lane: not sent, and known as unsent");
    assert_eq!(rig.volume.status().unsent, 1);
    assert!(write != other);
}

#[test]
fn t4_from_the_allowed_join_on_both_copies_are_needed() {
    let mut rig = Rig::primary(InSync::Primary);
    rig.open(SESSION);
    let early = rig.submit(Op::Write, 0, 8);
    let header = mirrored(&rig.run())[0];
    assert!(rig.volume.try_join(), "sent in this session");
    rig.local(early, StoreResult::Done);
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    assert_eq!(rig.run(), [], "not answered alone");
    assert_eq!(rig.ack(header, StoreResult::Done), []);
    rig.open(NEXT);
    let header = mirrored(&rig.run())[0];
    assert_eq!(rig.ack(header, StoreResult::Done), [answer(early, Outcome::Good)]);
    rig.learn(config(2, 1, Side::A, InSync::Both));
    assert_eq!(rig.volume.status().dirty_regions, 0);
}

#[test]
fn t5_an_answer_decided_alone_makes_its_region_dirty() {
    let mut rig = Rig::primary(InSync::Primary);
    rig.open(SESSION);
    let write = rig.submit(Op::Write, 0, 8);
    rig.run();
    assert_eq!(rig.local(write, StoreResult::Done), [], "the session lives: the mirror is waited for");
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    assert_eq!(rig.run(), [answer(write, Outcome::Good)]);
    assert_eq!(rig.volume.status().dirty_regions, 1);
    rig.open(NEXT);
    assert!(!rig.volume.try_join());
}

#[test]
fn resync_copies_each_dirty_region_of_either_map_and_then_may_join() {
    let mut rig = alone_with_dirty(&[3, 9]);
    let cx = rig.cx();
    let peer = [RegionRun { first: 20, count: 2 }, RegionRun { first: 63, count: 9 }];
    rig.volume.open_session(SESSION, &[LANE], &peer, cx, &mut rig.out);
    let mut regions = Vec::new();
    let mut actions = rig.run();
    assert_eq!(copies(&actions).len(), 4, "a bounded number at a time");
    while let Some((copy, kind, header)) = copies(&actions).first().copied() {
        assert_eq!(kind, CopyKind::Resync);
        regions.push(header.extent.lba / REGION_BLOCKS);
        actions.retain(|action| !matches!(action, VolumeAction::Copy { copy: other, .. } if *other == copy));
        assert!(!rig.volume.try_join());
        // The second frame is answered before the shell has said how many there are.
        let second = header.copy_frame(1, Op::Unmap, Extent::new(header.extent.lba + 8, 8));
        actions.extend(rig.ack(second, StoreResult::Done));
        actions.extend(sent(&mut rig, copy, 2));
        actions.extend(rig.ack(header, StoreResult::Done));
    }
    regions.sort_unstable();
    assert_eq!(regions, [3, 9, 20, 21, 63]);
    assert!(rig.volume.try_join());
}

#[test]
fn a_copy_excludes_writers_not_readers_and_begins_again_in_a_new_session() {
    let mut rig = alone_with_dirty(&[3]);
    rig.open(SESSION);
    let (copy, _, header) = copies(&rig.run())[0];
    let write = rig.submit(Op::Write, 3 * REGION_BLOCKS + 80, 8);
    let read = rig.submit(Op::Read, 3 * REGION_BLOCKS, 8);
    assert_eq!(rig.run(), [local(read)]);
    rig.open(NEXT);
    let actions = rig.run();
    assert_eq!(actions[0], local(write), "the lock ends with the session");
    assert_eq!(copies(&actions), [], "the writer goes first now");
    rig.ack(header, StoreResult::Done);
    assert_eq!(rig.volume.status().dirty_regions, 1, "an answer of the former session clears nothing");
    let frame = mirrored(&actions)[0];
    rig.local(write, StoreResult::Done);
    let actions = rig.ack(frame, StoreResult::Done);
    let (again, _, header) = copies(&actions)[0];
    assert!(again != copy && header.session == NEXT);
    assert_eq!(sent(&mut rig, copy, 1), [], "the abandoned one ends without effect");
    sent(&mut rig, again, 1);
    assert_eq!(rig.ack(header, StoreResult::Done), [VolumeAction::Poke]);
    assert_eq!(rig.volume.status().dirty_regions, 0);
}

#[test]
fn a_failing_peer_ends_resync_and_a_failing_source_is_named() {
    let mut rig = alone_with_dirty(&[3, 4]);
    rig.open(SESSION);
    let first = copies(&rig.run());
    sent(&mut rig, first[0].0, 1);
    assert_eq!(rig.ack(first[0].2, StoreResult::NoSpace), [VolumeAction::Poke]);
    assert!(rig.volume.status().peer_failed);
    sent(&mut rig, first[1].0, 1);
    assert_eq!(rig.ack(first[1].2, StoreResult::Done), [], "no more copies in this session");
    rig.open(NEXT);
    let (copy, ..) = copies(&rig.run())[0];
    let cx = rig.cx();
    rig.volume.copy_sent(copy, Err(CopyFailed::Store), cx, &mut rig.out);
    assert_eq!(rig.run(), [VolumeAction::Poke]);
    let status = rig.volume.status();
    // The region that was copied is in recent use: its bits are on, and a new session copies it again.
    assert_eq!((status.store_failed, status.peer_failed, status.dirty_regions), (true, false, 2));
    assert!(rig.volume.next_timeout().is_some_and(|due| due <= Time::from_millis(5000)));
    rig.now = 6000;
    let cx = rig.cx();
    rig.volume.tick(cx, &mut rig.out);
    assert_eq!(copies(&rig.run()).len(), 1, "tried again after a pause");
    assert!(rig.volume.next_timeout().is_none_or(|due| due > cx.now.grantor), "no timer runs in circles");
}

#[test]
fn a_lane_lost_under_a_copy_is_no_failure_of_the_store() {
    let mut rig = alone_with_dirty(&[3]);
    rig.open(SESSION);
    let (copy, ..) = copies(&rig.run())[0];
    let cx = rig.cx();
    rig.volume.copy_sent(copy, Err(CopyFailed::Lane), cx, &mut rig.out);
    assert_eq!(rig.run(), []);
    assert!(!rig.volume.status().store_failed && rig.volume.status().oldest_unacked.is_some());
    assert!(rig.volume.lane_lost(LANE), "ends the session");
    rig.open(NEXT);
    assert_eq!(copies(&rig.run()).len(), 1);
}

#[test]
fn rule_15_a_restarted_primary_serves_nothing_in_doubt_before_it_is_equal() {
    let mut rig = Rig::mirrored();
    let write = rig.submit(Op::Write, 5 * REGION_BLOCKS, 8);
    rig.run();
    rig.local(write, StoreResult::Done);
    let map = rig.volume.map.clone();
    let mut rig = Rig::bare();
    rig.volume = Volume::restore(geometry(), Limits::default(), map);
    rig.volume.enrol(Side::A, &config(1, 1, Side::A, InSync::Both), false, at(0), &mut rig.out);
    rig.volume.restart_recovery(true, at(0), &mut rig.out);
    rig.gate(Mode::Both);
    let doubtful = rig.submit(Op::Read, 5 * REGION_BLOCKS + 100, 8);
    let other = rig.submit(Op::Read, 0, 8);
    assert_eq!(rig.run(), [local(other)]);
    rig.open(NEXT);
    let (copy, kind, header) = copies(&rig.run())[0];
    assert_eq!((kind, rig.volume.status().recovering_regions), (CopyKind::Recover, 1));
    sent(&mut rig, copy, 1);
    assert_eq!(rig.ack(header, StoreResult::Done), [VolumeAction::Poke, local(doubtful)]);
    assert_eq!(rig.volume.status().active_regions, 0);
}

#[test]
fn rule_15_a_drop_ends_the_doubt() {
    let mut rig = Rig::primary(InSync::Both);
    rig.volume.map.mark_active(5);
    rig.volume.restart_recovery(true, at(0), &mut rig.out);
    let read = rig.submit(Op::Read, 5 * REGION_BLOCKS, 8);
    rig.run();
    rig.slow_map = true;
    rig.learn(config(2, 1, Side::A, InSync::Primary));
    rig.gate(Mode::Alone);
    assert_eq!(rig.run(), [VolumeAction::PersistMap, local(read)]);
    assert_eq!(rig.local(read, StoreResult::Done), [], "out of sync is durable before any answer");
    rig.write_map();
    assert_eq!(rig.run(), [answer(read, Outcome::Good)]);
    assert_eq!(rig.volume.status().dirty_regions, 1);
}

#[test]
fn rule_17_a_write_that_found_no_space_here_is_made_equal_before_its_error() {
    let mut rig = Rig::mirrored();
    let write = rig.submit(Op::Write, 0, 8);
    let frame = mirrored(&rig.run())[0];
    let read = rig.submit(Op::Read, 8, 8);
    assert_eq!(rig.run(), [local(read)], "beside it");
    assert_eq!(rig.local(write, StoreResult::NoSpace), [], "the peer may still apply it");
    let actions = rig.ack(frame, StoreResult::Done);
    let behind = rig.submit(Op::Read, 0, 8);
    assert_eq!((actions, rig.run()), (vec![VolumeAction::Poke], vec![]), "readers wait");
    let actions = rig.local(read, StoreResult::Done);
    let (copy, kind, header) = copies(&actions)[0];
    assert_eq!(kind, CopyKind::Recover);
    sent(&mut rig, copy, 1);
    let actions = rig.ack(header, StoreResult::Done);
    assert!(actions.contains(&answer(write, Outcome::NoSpace)) && actions.contains(&local(behind)));
}

#[test]
fn rule_17_a_failed_write_is_held_until_the_peer_is_dropped_or_takes_over() {
    for drops in [true, false] {
        let mut rig = Rig::mirrored();
        let write = rig.submit(Op::Write, 0, 8);
        let frame = mirrored(&rig.run())[0];
        rig.ack(frame, StoreResult::Done);
        assert_eq!(rig.local(write, StoreResult::Failed), [VolumeAction::Poke, VolumeAction::Poke]);
        assert!(rig.volume.status().store_failed);
        if drops {
            rig.learn(config(2, 1, Side::A, InSync::Primary));
            rig.gate(Mode::Alone);
            assert_eq!(rig.run(), [answer(write, Outcome::WriteError)]);
            assert_eq!(rig.volume.status().dirty_regions, 1);
        } else {
            rig.learn(config(2, 2, Side::B, InSync::Primary));
            assert_eq!(rig.run(), [answer(write, Outcome::Refused(Refusal::Standby))]);
            assert_eq!(rig.volume.status().active_regions, 1, "never cleared at a hand over");
        }
    }
}

/// A secondary B in the given session.
struct Copyist {
    volume: Volume,
    out: Vec<VolumeAction>,
}

impl Copyist {
    fn new(in_sync: InSync) -> Self {
        let mut volume = Volume::new(geometry(), Limits::default());
        let mut out = Vec::new();
        volume.enrol(Side::B, &config(1, 1, Side::A, in_sync), false, at(0), &mut out);
        let tenure = config(1, 1, Side::A, in_sync).tenure();
        assert!(volume.accept_session(tenure, SESSION, at(0), &mut out));
        Self { volume, out }
    }

    fn frame(sequence: u64, lba: u64) -> FrameHeader {
        let tenure = config(1, 1, Side::A, InSync::Both).tenure();
        FrameHeader {
            tenure,
            session: SESSION,
            sequence,
            op: Op::Write,
            extent: Extent::new(lba, 8),
            memory: false,
        }
    }

    fn receive(&mut self, header: FrameHeader) -> Option<ApplyId> {
        self.volume.receive(LANE, header, at(0), &mut self.out)
    }

    fn applied(&mut self, apply: ApplyId) -> Vec<VolumeAction> {
        self.volume.applied(apply, StoreResult::Done, at(0), &mut self.out);
        core::mem::take(&mut self.out)
    }
}

fn acknowledge(header: FrameHeader, result: Option<StoreResult>) -> VolumeAction {
    VolumeAction::Acknowledge { lane: LANE, session: header.session, sequence: header.sequence, result }
}

#[test]
fn rule_8_overlapping_frames_are_applied_in_order() {
    let mut b = Copyist::new(InSync::Both);
    let headers = [Copyist::frame(1, 0), Copyist::frame(2, 4), Copyist::frame(3, 64)];
    let ids = headers.map(|header| b.receive(header).unwrap());
    let apply =
        |at: usize| VolumeAction::Apply { apply: ids[at], lane: LANE, header: headers[at], stable: true };
    assert_eq!(core::mem::take(&mut b.out), [apply(0), apply(2)]);
    let done = Some(StoreResult::Done);
    assert_eq!(b.applied(ids[0]), [acknowledge(headers[0], done), apply(1)]);
    assert_eq!(b.applied(ids[0]), [], "once");
    assert_eq!(b.applied(ids[1]), [acknowledge(headers[1], done)]);
}

#[cfg(feature = "testing")]
#[test]
fn rule_8_is_found_without_its_rule() {
    let found = crate::mutation::breaks(
        crate::mutation::Mutation::R8AppliesOverlap,
        rule_8_overlapping_frames_are_applied_in_order,
    );
    assert!(found, "overlapping frames may be applied at once, and nobody notices");
}

#[test]
fn rules_5_and_14_frames_are_fenced_and_older_ones_drained() {
    let mut b = Copyist::new(InSync::Both);
    let (running, waiting) = (Copyist::frame(1, 0), Copyist::frame(2, 0));
    let ids = [running, waiting].map(|header| b.receive(header).unwrap());
    b.out.clear();
    let tenure = running.tenure;
    assert!(!b.volume.accept_session(tenure, NEXT, at(0), &mut b.out), "not drained");
    assert_eq!(core::mem::take(&mut b.out), [VolumeAction::Discard { apply: ids[1] }]);
    assert_eq!(b.volume.status().store_io_old, 1);
    assert!(!b.volume.accept_session(tenure, SESSION, at(0), &mut b.out), "older");
    assert_eq!(b.receive(Copyist::frame(3, 80)), None);
    assert_eq!(core::mem::take(&mut b.out), [acknowledge(Copyist::frame(3, 80), None)]);
    assert_eq!(b.applied(ids[0]), [VolumeAction::Poke], "no answer in a session that is over");
    assert!(b.volume.accept_session(tenure, NEXT, at(0), &mut b.out));
    // Promoted: frames of the former tenure are refused, and nothing starts before they have ended.
    let late = FrameHeader { session: NEXT, ..Copyist::frame(1, 0) };
    let id = b.receive(late).unwrap();
    b.volume.learned(&config(2, 2, Side::B, InSync::Primary), at(0), &mut b.out);
    b.volume.set_gate(gate(b.volume.tenure().unwrap(), Mode::Alone), at(0), &mut b.out);
    assert_eq!(b.receive(FrameHeader { sequence: 9, ..late }), None);
    b.out.clear();
    let read = b.volume.submit(request(Op::Read, 0, 8), at(0), &mut b.out).unwrap();
    assert_eq!(b.out, []);
    assert_eq!(b.applied(id), [local(read), VolumeAction::Poke]);
}

#[test]
fn the_secondary_refuses_what_no_primary_sends() {
    let mut b = Copyist::new(InSync::Both);
    let good = Copyist::frame(1, 0);
    let end = geometry().blocks;
    let bad = [
        FrameHeader { op: Op::Flush, ..good }, // of an extent
        FrameHeader { op: Op::Read, extent: Extent::new(0, Limits::FETCH_BLOCKS_MAX + 1), ..good },
        FrameHeader { op: Op::CompareAndWrite, ..good },
        FrameHeader { extent: Extent::new(end - 7, 8), ..good },
        FrameHeader { extent: Extent::new(u64::MAX, 8), ..good },
        FrameHeader { extent: Extent::new(0, 0), ..good },
        FrameHeader { tenure: Tenure { epoch: Epoch(9), ..good.tenure }, ..good },
        FrameHeader { session: SessionId { boot: 9, counter: 0 }, ..good },
    ];
    for header in bad {
        assert_eq!(b.receive(header), None, "{header:?}");
        assert_eq!(core::mem::take(&mut b.out), [acknowledge(header, None)]);
    }
    assert!(b.receive(good).is_some());
}

#[test]
fn t12_the_target_keeps_its_maps_until_the_join() {
    let mut b = Copyist::new(InSync::Primary);
    for region in [1, 2, 7] {
        b.volume.map.mark_active(region);
    }
    b.volume.map.mark_out_of_sync(3);
    let mut runs = Vec::new();
    b.volume.dirty_runs(&mut runs);
    assert_eq!(runs, [RegionRun { first: 1, count: 3 }, RegionRun { first: 7, count: 1 }]);
    let id = b.receive(Copyist::frame(1, 0)).unwrap();
    b.applied(id);
    b.volume.learned(&config(2, 1, Side::A, InSync::Both), at(0), &mut b.out);
    runs.clear();
    b.volume.dirty_runs(&mut runs);
    assert_eq!(runs, []);
}

#[test]
fn a_hot_span_leaves_little_to_copy_back() {
    // F6: 64 MiB written in a span of 64 MiB of 10 GiB; the span starts inside a region.
    let geometry = Geometry { id: VolumeId([1; 16]), blocks: 10 * 1024 * REGION_BLOCKS };
    let mut rig = Rig::bare();
    rig.volume = Volume::new(geometry, Limits::default());
    rig.volume.enrol(Side::A, &config(1, 1, Side::A, InSync::Primary), false, at(0), &mut rig.out);
    rig.gate(Mode::Alone);
    for chunk in 0..64 * 16 {
        let write = rig.submit(Op::Write, 1000 + chunk * 128, 128);
        rig.run();
        rig.local(write, StoreResult::Done);
    }
    assert!(rig.map_writes <= 66, "{} map writes", rig.map_writes);
    rig.open(SESSION);
    assert!(rig.volume.status().dirty_regions <= 65, "less than 1 % of 10240");
}

#[test]
fn a_volume_enters_and_leaves_a_group_under_load() {
    let mut rig = Rig::bare();
    let before = rig.submit(Op::Write, 0, 8);
    rig.run();
    rig.slow_map = true;
    rig.volume.enrol(Side::A, &config(1, 1, Side::A, InSync::Primary), true, at(0), &mut rig.out);
    let parked = rig.submit(Op::Read, 8, 8);
    assert_eq!(rig.run(), [VolumeAction::PersistMap]);
    rig.gate(Mode::Alone);
    assert_eq!(rig.run(), [local(parked)]);
    assert_eq!(rig.local(before, StoreResult::Done), [], "its region is not yet marked on disk");
    rig.write_map();
    assert_eq!(rig.run(), [answer(before, Outcome::Good)]);
    assert_eq!(rig.volume.status().dirty_regions, 64);
    rig.slow_map = false;
    let inside = rig.submit(Op::Write, 0, 8);
    rig.run();
    rig.volume.withdraw(at(0), &mut rig.out);
    rig.run();
    assert_eq!(rig.local(inside, StoreResult::Done), [answer(inside, Outcome::Good)]);
    assert_eq!((rig.volume.status().dirty_regions, rig.volume.status().map_pending), (0, false));
}

/// Its copy is nobody's to serve: a host found its way here while roles changed, and was to be sent on.
#[test]
fn what_waits_at_a_secondary_is_refused_when_the_volume_leaves_its_group() {
    let left = |broken: bool| {
        let mut rig = Rig::bare();
        rig.volume.enrol(Side::A, &config(1, 1, Side::B, InSync::Primary), false, at(0), &mut rig.out);
        rig.gate(Mode::Held);
        let (read, write) = (rig.submit(Op::Read, 0, 8), rig.submit(Op::Write, 64, 8));
        rig.run();
        #[cfg(feature = "testing")]
        crate::mutation::set(broken.then_some(crate::mutation::Mutation::LeftCopyServesParked));
        rig.volume.withdraw(at(0), &mut rig.out);
        #[cfg(feature = "testing")]
        crate::mutation::set(None);
        (rig.run(), read, write)
    };
    let (actions, read, write) = left(false);
    for command in [read, write] {
        assert!(actions.contains(&answer(command, Outcome::Refused(Refusal::Standby))), "{actions:?}");
    }
    assert!(!actions.contains(&local(read)) && !actions.contains(&local(write)), "{actions:?}");
    let (actions, read, _) = left(true);
    assert!(actions.contains(&local(read)) || !cfg!(feature = "testing"), "{actions:?}");
}

/// Rule 11: between the end on the first volume of a group and that on its last nothing is sent, and nothing that was
/// not mirrored is answered.
#[test]
fn a_muted_session_sends_nothing_and_answers_nothing_alone() {
    let mut rig = Rig::primary(InSync::Primary);
    rig.open(SESSION);
    rig.run();
    let under_way = rig.submit(Op::Write, 0, 8);
    assert_eq!(mirrored(&rig.run()).len(), 1);
    rig.volume.mute_session();
    let late = rig.submit(Op::Write, 64, 8);
    assert_eq!(mirrored(&rig.run()), []);
    for command in [under_way, late] {
        assert_eq!(rig.local(command, StoreResult::Done), []);
    }
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    let actions = rig.run();
    for command in [under_way, late] {
        assert!(actions.contains(&answer(command, Outcome::Good)), "{actions:?}");
    }
}
