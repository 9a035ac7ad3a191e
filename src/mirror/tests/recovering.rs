//! F38 in a region in doubt: what cannot be read here comes from the peer, and what neither array can
//! read keeps nothing else waiting.

use std::collections::BTreeSet;

use super::*;

/// First blocks of physical blocks, by what is wrong with them.
#[derive(Default)]
struct Disks {
    bad_here: BTreeSet<u64>,
    bad_there: BTreeSet<u64>,
    read_only_here: BTreeSet<u64>,
    /// What the peer was asked for, and the lane of everything.
    asked: Vec<Extent>,
    lanes: BTreeSet<LaneId>,
}

fn blocks(of: &[u64]) -> BTreeSet<u64> {
    of.iter().copied().collect()
}

fn meets(bad: &BTreeSet<u64>, extent: Extent) -> bool {
    bad.range(extent.lba..extent.end()).next().is_some()
}

impl Disks {
    /// Carries out copies and questions as far as they go; the other actions.
    fn carry_out(&mut self, rig: &mut Rig, actions: Vec<VolumeAction>) -> Vec<VolumeAction> {
        let (mut left, mut rest) = (actions, Vec::new());
        while !left.is_empty() {
            let mut next = Vec::new();
            for action in left {
                let cx = rig.cx();
                match action {
                    VolumeAction::Copy { copy, lane, header, .. } => {
                        self.lanes.insert(lane);
                        if meets(&self.bad_here, header.extent) {
                            rig.volume.copy_sent(copy, Err(CopyFailed::Store), cx, &mut rig.out);
                        } else {
                            rig.volume.copy_sent(copy, Ok(1), cx, &mut rig.out);
                            next.extend(rig.ack(header, StoreResult::Done));
                        }
                    }
                    VolumeAction::AskBlocks { lane, header } => {
                        self.lanes.insert(lane);
                        self.asked.push(header.extent);
                        if meets(&self.bad_there, header.extent) {
                            next.extend(rig.ack(header, StoreResult::Failed));
                        } else {
                            let check = rig.volume.blocks_given(header, cx).unwrap();
                            let written = !meets(&self.read_only_here, header.extent);
                            if written {
                                self.bad_here.remove(&header.extent.lba);
                            }
                            let mended = Weighing { differing: Vec::new(), mended: true };
                            let result = if written { Ok(mended) } else { Err(StoreResult::Failed) };
                            rig.volume.weighed(check, result, cx, &mut rig.out);
                        }
                    }
                    other => rest.push(other),
                }
                next.extend(rig.run());
            }
            left = next;
        }
        rest
    }
}

impl Rig {
    /// A primary of {A,B} that has restarted, with these regions in doubt.
    fn restarted(regions: &[u64]) -> (Self, Vec<VolumeAction>) {
        let mut rig = Self::primary(InSync::Both);
        for &region in regions {
            rig.volume.map.mark_active(region);
        }
        rig.volume.restart_recovery(true, at(0), &mut rig.out);
        rig.open(SESSION);
        let actions = rig.run();
        assert_eq!(copies(&actions).len(), regions.len());
        (rig, actions)
    }

    fn doubt(&self) -> (u64, u64, u64) {
        let status = self.volume.status();
        (status.recovering_regions, status.failed_regions, status.lost_blocks)
    }

    fn tick_at(&mut self, now: u64) -> Vec<VolumeAction> {
        self.now = now;
        let cx = self.cx();
        self.volume.tick(cx, &mut self.out);
        self.run()
    }
}

const fn physical(lba: u64) -> Extent {
    Extent::new(lba, 8)
}

#[test]
fn what_cannot_be_read_is_asked_for_by_itself_and_the_region_is_equal() {
    let (mut rig, actions) = Rig::restarted(&[0, 5]);
    let mut disks = Disks { bad_here: blocks(&[0, 1000, 1008, 2040]), ..Disks::default() };
    // Elsewhere in the region the peer is no better off.
    disks.bad_there = blocks(&[16, 992]);
    let read = rig.submit(Op::Read, 0, 8);
    let rest = disks.carry_out(&mut rig, actions);
    assert_eq!(disks.asked, [0, 1000, 1008, 2040].map(physical));
    assert_eq!(rig.doubt(), (0, 0, 0));
    assert!(rest.contains(&local(read)), "{rest:?}");
    assert!(!rig.volume.status().store_failed, "no reason to hand over");
}

#[test]
fn what_neither_array_can_read_is_an_error_and_nothing_else_waits() {
    let (mut rig, actions) = Rig::restarted(&[0, 5]);
    let mut disks = Disks { bad_here: blocks(&[8, 800]), bad_there: blocks(&[8]), ..Disks::default() };
    let waiting = rig.submit(Op::Read, 8, 1);
    let rest = disks.carry_out(&mut rig, actions);
    assert_eq!(rig.doubt(), (1, 1, 1));
    assert!(rest.contains(&answer(waiting, Outcome::ReadError)), "{rest:?}");
    assert!(!rig.volume.status().store_failed);
    assert!(!rig.volume.clear_activity(at(0), &mut rig.out), "not equal: no switchover");
    let read = rig.submit(Op::Read, 16, 100);
    assert_eq!(rig.run(), [local(read)]);
    rig.local(read, StoreResult::Done);
    for (op, blocks, error) in [
        (Op::CompareAndWrite, 1, Outcome::ReadError),
        (Op::Write, 4, Outcome::WriteError),
        (Op::Read, 2, Outcome::ReadError),
    ] {
        let command = rig.submit(op, 9, blocks);
        assert_eq!(rig.run(), [answer(command, error)], "{op:?}");
    }
    // A read of it, though this disk might read it again by now: the other may hold something else (T8).
    let write = rig.submit(Op::Write, 0, 16);
    let frame = mirrored(&rig.run())[0];
    rig.local(write, StoreResult::Done);
    assert_eq!(rig.doubt(), (1, 1, 1), "only here so far");
    rig.ack(frame, StoreResult::Done);
    assert_eq!(rig.doubt(), (0, 0, 0), "written anew on both");
    let read = rig.submit(Op::Read, 8, 1);
    assert_eq!(rig.run(), [local(read)]);
}

#[test]
fn lost_blocks_are_tried_again_after_a_while_and_in_a_new_session() {
    let lost = || {
        let (mut rig, actions) = Rig::restarted(&[0]);
        let mut disks = Disks { bad_here: blocks(&[8]), bad_there: blocks(&[8]), ..Disks::default() };
        disks.carry_out(&mut rig, actions);
        assert_eq!(rig.doubt(), (1, 1, 1));
        (rig, disks)
    };
    let (mut rig, mut disks) = lost();
    assert_eq!(copies(&rig.tick_at(9000)).len(), 0);
    assert_eq!(rig.volume.next_timeout(), Some(Time::from_millis(10_000)));
    let again = rig.tick_at(10_000);
    assert_eq!(copies(&again).len(), 1);
    let read = rig.submit(Op::Read, 8, 8);
    assert_eq!(rig.run(), [], "it waits for the outcome");
    let rest = disks.carry_out(&mut rig, again);
    assert!(rest.contains(&answer(read, Outcome::ReadError)), "{rest:?}");
    disks.bad_there.clear();
    let again = rig.tick_at(20_000);
    disks.carry_out(&mut rig, again);
    assert_eq!(rig.doubt(), (0, 0, 0));

    let (mut rig, mut disks) = lost();
    disks.bad_here.clear();
    rig.open(SessionId { boot: 1, counter: 2 });
    let again = rig.run();
    disks.carry_out(&mut rig, again);
    assert_eq!(rig.doubt(), (0, 0, 0));
}

#[test]
fn a_session_that_ends_half_way_leaves_the_whole_region_in_doubt() {
    let (mut rig, actions) = Rig::restarted(&[0]);
    let mut disks = Disks { bad_here: blocks(&[8, 64]), bad_there: blocks(&[8]), ..Disks::default() };
    // Up to the question for the second block: the first is lost already.
    let mut actions = actions;
    let asked = loop {
        let ask = actions.iter().find_map(|action| match action {
            VolumeAction::AskBlocks { header, .. } if header.extent == physical(64) => Some(*header),
            _ => None,
        });
        if let Some(header) = ask {
            break header;
        }
        actions = step(&mut disks, &mut rig, actions);
    };
    assert_eq!(rig.doubt(), (1, 0, 0), "nothing is lost before all of it was examined");
    let check = rig.volume.blocks_given(asked, rig.cx()).unwrap();
    assert_eq!(rig.volume.blocks_given(asked, rig.cx()), None, "once");
    assert!(rig.volume.lane_lost(LANE), "frames of it were on that lane");
    let cx = rig.cx();
    rig.volume.close_session(cx, &mut rig.out);
    rig.open(SessionId { boot: 1, counter: 2 });
    let read = rig.submit(Op::Read, 256, 8);
    assert_eq!(rig.run(), [], "the writing of the peer's block has not ended");
    assert_eq!((rig.doubt(), rig.volume.status().store_io), ((1, 0, 0), 1));
    rig.volume.weighed(check, Ok(Weighing::default()), cx, &mut rig.out);
    let again = rig.run();
    assert!(copies(&again).len() == 1 && !again.contains(&local(read)), "{again:?}");
    disks.bad_there.clear();
    assert!(disks.carry_out(&mut rig, again).contains(&local(read)));
    assert_eq!(rig.doubt(), (0, 0, 0));
}

#[test]
fn a_region_whose_copy_has_lost_something_and_goes_on_is_not_verified() {
    let (mut rig, mut actions) = Rig::restarted(&[0]);
    let mut disks = Disks { bad_here: blocks(&[8, 64]), bad_there: blocks(&[8]), ..Disks::default() };
    let asks = |action: &VolumeAction| matches!(action, VolumeAction::AskBlocks { header, .. } if header.extent == physical(64));
    while !actions.iter().any(asks) {
        actions = step(&mut disks, &mut rig, actions);
    }
    let cx = rig.cx();
    rig.volume.begin_verify(false, cx, &mut rig.out).unwrap();
    let checked = |action: &VolumeAction| match action {
        VolumeAction::Sum { header, .. } => Some(header.extent.lba / REGION_BLOCKS),
        _ => None,
    };
    let regions: Vec<u64> = rig.run().iter().filter_map(checked).collect();
    assert_eq!(regions, [1, 2]);
}

#[test]
fn a_verify_names_what_is_lost() {
    let (mut rig, actions) = Rig::restarted(&[3]);
    let lost = 3 * REGION_BLOCKS + 8;
    let mut disks = Disks { bad_here: blocks(&[lost]), bad_there: blocks(&[lost]), ..Disks::default() };
    disks.carry_out(&mut rig, actions);
    let cx = rig.cx();
    rig.volume.begin_verify(true, cx, &mut rig.out).unwrap();
    let mut actions = rig.run();
    while !actions.is_empty() {
        let mut next = Vec::new();
        for action in actions {
            if let VolumeAction::Sum { check, header, .. } = action {
                let sums = vec![[1; 32]; usize::try_from(pieces(header.extent)).unwrap()];
                rig.volume.summed(check, Some(sums.clone()), false, cx, &mut rig.out);
                rig.volume.sums_given(header, sums, cx, &mut rig.out);
                next.extend(rig.run());
            }
        }
        actions = next;
    }
    let report = rig.volume.verified().unwrap();
    assert_eq!((report.compared, report.end), (64, Some(VerifyEnd::Complete)));
    let difference = Difference { extent: physical(lost), finding: Finding::Lost, repaired: false };
    assert_eq!(report.differences, [difference]);
    assert_eq!(rig.doubt(), (1, 1, 1));
}

/// One round of [`Disks::carry_out`].
fn step(disks: &mut Disks, rig: &mut Rig, actions: Vec<VolumeAction>) -> Vec<VolumeAction> {
    let mut next = Vec::new();
    for action in actions {
        let cx = rig.cx();
        match action {
            VolumeAction::Copy { copy, header, .. } if !meets(&disks.bad_here, header.extent) => {
                rig.volume.copy_sent(copy, Ok(1), cx, &mut rig.out);
                next.extend(rig.run());
                next.extend(rig.ack(header, StoreResult::Done));
            }
            VolumeAction::Copy { copy, .. } => {
                rig.volume.copy_sent(copy, Err(CopyFailed::Store), cx, &mut rig.out);
            }
            VolumeAction::AskBlocks { header, .. } => next.extend(rig.ack(header, StoreResult::Failed)),
            _ => {}
        }
        next.extend(rig.run());
    }
    next
}

#[test]
fn a_writing_of_an_older_tenure_is_waited_for() {
    let (mut rig, mut actions) = Rig::restarted(&[0]);
    let mut disks = Disks { bad_here: blocks(&[0]), ..Disks::default() };
    let asked = loop {
        if let Some(VolumeAction::AskBlocks { header, .. }) = actions.first() {
            break *header;
        }
        actions = step(&mut disks, &mut rig, actions);
    };
    let check = rig.volume.blocks_given(asked, rig.cx()).unwrap();
    rig.learn(config(2, 2, Side::B, InSync::Primary));
    rig.run();
    assert_eq!(rig.volume.status().store_io_old, 1);
    let (cx, tenure) = (rig.cx(), rig.volume.tenure().unwrap());
    assert!(!rig.volume.accept_session(tenure, SESSION, cx, &mut rig.out), "before it is on the disk");
    rig.volume.weighed(check, Ok(Weighing::default()), cx, &mut rig.out);
    assert!(rig.run().contains(&VolumeAction::Poke));
    assert!(rig.volume.accept_session(tenure, SESSION, cx, &mut rig.out));
}

#[test]
fn a_disk_that_does_not_take_the_peers_block_is_a_reason_to_hand_over() {
    let (mut rig, actions) = Rig::restarted(&[0, 5]);
    let mut disks = Disks { bad_here: blocks(&[8]), read_only_here: blocks(&[8]), ..Disks::default() };
    let read = rig.submit(Op::Read, 512, 8);
    let rest = disks.carry_out(&mut rig, actions);
    assert!(rest.contains(&VolumeAction::Poke) && !rest.contains(&local(read)), "{rest:?}");
    assert!(rig.volume.status().store_failed);
    assert_eq!(rig.doubt(), (1, 1, 0), "a hand over may follow, and hosts wait for it");
    assert_eq!(rig.tick_at(9000), []);
    // Nobody takes over: what this array has is answered.
    let again = rig.tick_at(10_000);
    let rest = disks.carry_out(&mut rig, again);
    assert!(rest.contains(&local(read)), "{rest:?}");
    assert_eq!(rig.doubt(), (1, 1, 1));
}

#[test]
fn what_a_verify_found_to_differ_is_not_taken_from_there() {
    let (mut rig, actions) = Rig::restarted(&[]);
    assert_eq!(actions, []);
    let cx = rig.cx();
    rig.volume.begin_verify(true, cx, &mut rig.out).unwrap();
    let check = rig.run().into_iter().find_map(|action| match action {
        VolumeAction::Sum { check, header, .. } => Some((check, header)),
        _ => None,
    });
    let (check, header) = check.unwrap();
    let sums = |first: u8| {
        let mut sums = vec![[1; 32]; usize::try_from(REGION_BLOCKS / PIECE_BLOCKS).unwrap()];
        sums[0] = [first; 32];
        sums
    };
    rig.volume.summed(check, Some(sums(1)), false, cx, &mut rig.out);
    rig.volume.sums_given(header, sums(2), cx, &mut rig.out);
    let asked = rig.run().into_iter().find_map(|action| match action {
        VolumeAction::AskBlocks { header, .. } => Some(header),
        _ => None,
    });
    rig.volume.blocks_given(asked.unwrap(), cx).unwrap();
    let differing = Weighing { differing: vec![physical(8)], mended: false };
    rig.volume.weighed(check, Ok(differing), cx, &mut rig.out);
    let actions = rig.run();
    let mut disks = Disks { bad_here: blocks(&[8]), ..Disks::default() };
    disks.carry_out(&mut rig, actions);
    assert_eq!((&disks.asked, rig.doubt()), (&vec![], (1, 1, 1)));
    // Nor after that verify was given up for another one.
    let cx = rig.cx();
    rig.volume.cancel_verify(cx, &mut rig.out);
    rig.volume.begin_verify(true, cx, &mut rig.out).unwrap();
    let actions = rig.tick_at(10_000);
    assert_eq!(copies(&actions).len(), 1, "tried again");
    disks.carry_out(&mut rig, actions);
    assert_eq!((disks.asked, rig.doubt()), (vec![], (1, 1, 1)));
}

/// With two lanes up, and a thread whose own lane is the other one.
fn lanes_used() -> BTreeSet<LaneId> {
    let (mut rig, actions) = Rig::restarted(&[0]);
    rig.volume.lane_up(LaneId(1), Context { lane: Some(LaneId(1)), ..at(0) }, &mut rig.out);
    let mut disks = Disks { bad_here: blocks(&[8, 1024]), ..Disks::default() };
    let mut actions = actions;
    while !actions.is_empty() {
        let mut next = Vec::new();
        for action in actions {
            let cx = Context { lane: Some(LaneId(1)), ..rig.cx() };
            match action {
                VolumeAction::Copy { copy, lane, header, .. } => {
                    disks.lanes.insert(lane);
                    let bad = meets(&disks.bad_here, header.extent);
                    let frames = if bad { Err(CopyFailed::Store) } else { Ok(1) };
                    rig.volume.copy_sent(copy, frames, cx, &mut rig.out);
                    if !bad {
                        let (session, sequence) = (header.session, header.sequence);
                        let done = Some(StoreResult::Done);
                        rig.volume.mirror_acked(session, sequence, done, cx, &mut rig.out);
                    }
                }
                VolumeAction::AskBlocks { lane, header } => {
                    disks.lanes.insert(lane);
                    let check = rig.volume.blocks_given(header, cx).unwrap();
                    disks.bad_here.remove(&header.extent.lba);
                    rig.volume.weighed(check, Ok(Weighing::default()), cx, &mut rig.out);
                }
                _ => {}
            }
            next.extend(rig.run());
        }
        actions = next;
    }
    assert_eq!(rig.doubt(), (0, 0, 0));
    disks.lanes
}

#[test]
fn all_pieces_of_a_region_go_over_one_lane() {
    assert_eq!(lanes_used(), BTreeSet::from([LANE]));
}

#[cfg(feature = "testing")]
#[test]
fn pieces_on_any_lane_are_seen() {
    use crate::mutation::{Mutation, set};
    set(Some(Mutation::PiecesOnAnyLane));
    let used = lanes_used();
    set(None);
    assert_ne!(used, BTreeSet::from([LANE]));
}

/// Both arrays have lost a block, and the disk here reads it again by chance: is it asked?
#[cfg(feature = "testing")]
fn what_is_lost_is_read() -> bool {
    let (mut rig, actions) = Rig::restarted(&[0]);
    let mut disks = Disks { bad_here: blocks(&[8]), bad_there: blocks(&[8]), ..Disks::default() };
    disks.carry_out(&mut rig, actions);
    let read = rig.submit(Op::Read, 8, 1);
    rig.run().contains(&local(read))
}

#[cfg(feature = "testing")]
#[test]
fn a_look_at_what_is_lost_is_seen() {
    use crate::mutation::{Mutation, set};
    assert!(!what_is_lost_is_read());
    set(Some(Mutation::LostIsRead));
    let read = what_is_lost_is_read();
    set(None);
    assert!(read);
}
