//! Rule 17: writes that fail on this copy while both are needed.

use super::*;

/// A write of `lba` that failed here and is on the peer.
fn failed_here(rig: &mut Rig, lba: u64, result: StoreResult) -> CommandId {
    let write = rig.submit(Op::Write, lba, 8);
    let frame = mirrored(&rig.run())[0];
    rig.ack(frame, StoreResult::Done);
    rig.local(write, result);
    write
}

fn made_equal(rig: &mut Rig, (copy, _, header): (CopyId, CopyKind, FrameHeader)) -> Vec<VolumeAction> {
    let cx = rig.cx();
    rig.volume.copy_sent(copy, Ok(1), cx, &mut rig.out);
    rig.run();
    rig.ack(header, StoreResult::Done)
}

fn place(actions: &[VolumeAction], wanted: VolumeAction) -> Option<usize> {
    actions.iter().position(|action| *action == wanted)
}

#[test]
fn the_error_is_answered_before_what_waited_for_it_starts() {
    let mut rig = Rig::mirrored();
    let write = rig.submit(Op::CompareAndWrite, 0, 8);
    rig.run();
    let frame = mirrored(&rig.local(write, StoreResult::Done))[0];
    rig.ack(frame, StoreResult::Done);
    let begun = copies(&rig.local(write, StoreResult::NoSpace))[0];
    let behind = rig.submit(Op::Write, 0, 8);
    assert_eq!(rig.run(), []);
    let actions = made_equal(&mut rig, begun);
    let error = place(&actions, answer(write, Outcome::NoSpace));
    assert!(error.is_some() && error < place(&actions, local(behind)), "{actions:?}");
}

#[test]
fn where_nobody_takes_over_the_copies_are_made_equal_and_the_error_is_answered() {
    let mut rig = Rig::mirrored();
    let write = failed_here(&mut rig, 0, StoreResult::Failed);
    let cx = at(4000); // the region's activity is old
    rig.volume.tick(cx, &mut rig.out);
    assert_eq!((copies(&rig.run()), rig.volume.next_timeout()), (vec![], Some(Time::from_millis(10_000))));
    rig.now = 10_000;
    let cx = rig.cx();
    rig.volume.tick(cx, &mut rig.out);
    let actions = rig.run();
    let begun = copies(&actions)[0];
    assert!(made_equal(&mut rig, begun).contains(&answer(write, Outcome::WriteError)));
    assert!(rig.volume.next_timeout().is_none_or(|due| due > cx.now.grantor), "no timer runs in circles");
    let next = failed_here(&mut rig, 8, StoreResult::Failed);
    assert_eq!(rig.volume.status().failed_regions, 1);
    assert!(rig.volume.commands.find(next).is_some(), "held until it is equal, not for long");
}

#[test]
fn a_failing_store_holds_back_only_the_copy_of_what_failed_there() {
    let mut rig = Rig::primary(InSync::Both);
    rig.volume.map.mark_active(5);
    rig.volume.restart_recovery(true, at(0), &mut rig.out);
    rig.open(SESSION);
    let restart = copies(&rig.run())[0];
    let read = rig.submit(Op::Read, 0, 8);
    rig.run();
    rig.local(read, StoreResult::Failed);
    failed_here(&mut rig, 8, StoreResult::Failed);
    let status = rig.volume.status();
    assert_eq!((status.recovering_regions, status.failed_regions), (2, 1));
    assert_eq!(rig.volume.region_extent(5), restart.2.extent);
    // A new session begins the restart's copy again, and not that of what failed here.
    rig.open(SessionId { boot: 1, counter: 2 });
    let again = copies(&rig.run());
    assert_eq!(again.iter().map(|copy| copy.2.extent).collect::<Vec<_>>(), [restart.2.extent]);
    made_equal(&mut rig, again[0]);
    let status = rig.volume.status();
    assert_eq!((status.recovering_regions, status.failed_regions), (1, 1), "a hand over may follow");
}
