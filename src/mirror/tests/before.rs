//! The image of a copy that is being brought up to date (F14).

use super::*;

const NEXT: SessionId = SessionId { boot: 1, counter: 2 };

fn behind() -> (Volume, Vec<VolumeAction>) {
    let mut volume = Volume::new(geometry(), Limits::default());
    let mut out = Vec::new();
    volume.enrol(Side::B, &config(1, 1, Side::A, InSync::Primary), false, at(0), &mut out);
    (volume, out)
}

fn accept(volume: &mut Volume, session: SessionId) -> bool {
    let tenure = volume.tenure().unwrap();
    volume.accept_session(tenure, session, at(0), &mut Vec::new())
}

#[test]
fn what_is_overwritten_is_kept_until_the_copy_is_whole() {
    let (mut volume, mut out) = behind();
    volume.set_cut(7, false, false);
    assert!(volume.take_image_spent() && !volume.take_image_spent(), "the shell is told once");
    assert!(accept(&mut volume, SESSION));
    assert_eq!(volume.image_to_keep(), Some(7), "behind: what a frame overwrites is kept");
    assert!(accept(&mut volume, NEXT));
    assert_eq!(volume.image_to_keep(), Some(7), "still a mixture: the same image goes on");
    assert!(volume.image_counts(7) && !volume.image_counts(6));
    // All equal.
    volume.set_cut(8, false, true);
    assert_eq!(volume.image_to_keep(), None, "whole: nothing is overwritten that counts");
    assert!(volume.take_image_spent() && !volume.image_counts(7));
    // Not joined after all, and found behind again: another image.
    assert!(accept(&mut volume, SessionId { boot: 1, counter: 3 }));
    assert_eq!(volume.image_to_keep(), Some(8));
    volume.learned(&config(2, 1, Side::A, InSync::Both), at(0), &mut out);
    assert_eq!(volume.image_to_keep(), None);
    volume.withdraw(at(0), &mut out);
    assert!(volume.take_image_spent() && !volume.image_counts(8) && !volume.image_counts(0));
}

#[test]
fn what_cannot_be_kept_is_written_over_only_when_that_is_on_record() {
    let (mut volume, mut out) = behind();
    volume.set_cut(7, false, false);
    assert!(accept(&mut volume, SESSION));
    volume.cannot_keep(6, &mut out);
    assert!(out.is_empty() && !volume.status().unkept, "of a cut that has ended");
    volume.cannot_keep(7, &mut out);
    assert_eq!(out, [VolumeAction::Poke]);
    assert!(volume.status().unkept && volume.image_to_keep() == Some(7), "not on record yet");
    volume.set_cut(7, true, false);
    assert!(!volume.status().unkept && volume.image_to_keep().is_none());
    assert!(volume.is_mixture() && !volume.image_counts(7) && volume.take_image_spent());
    assert!(accept(&mut volume, NEXT));
    assert!(volume.is_mixture() && volume.image_to_keep().is_none(), "nothing whole to be kept");
    volume.set_cut(8, false, true);
    assert!(!volume.is_mixture());
}

#[test]
fn nothing_comes_in_while_the_image_is_written_back() {
    let (mut volume, mut out) = behind();
    assert!(accept(&mut volume, SESSION));
    let tenure = volume.tenure().unwrap();
    let frame = FrameHeader {
        tenure,
        session: SESSION,
        sequence: 1,
        op: Op::Write,
        extent: Extent::new(0, 8),
        memory: false,
    };
    let running = volume.receive(LANE, frame, at(0), &mut out).unwrap();
    assert!(!volume.begin_roll_back(&[0, 7], &mut out), "a frame is on its way to the disk");
    volume.applied(running, StoreResult::Done, at(0), &mut out);
    assert!(volume.begin_roll_back(&[0, 7], &mut out));
    assert!(!volume.roll_back_is_marked(&[0, 7]), "the map is not written");
    assert!(out.contains(&VolumeAction::PersistMap));
    let mut pages = Vec::new();
    let generation = volume.map_pages(&mut pages).unwrap();
    volume.map_durable(generation, at(0), &mut out);
    assert!(volume.roll_back_is_marked(&[0, 7]));
    assert!(!accept(&mut volume, NEXT), "no session");
    assert_eq!(volume.receive(LANE, frame, at(0), &mut out), None, "no frame");
    assert!(volume.status().store_io_old > 0, "and not drained");
    out.clear();
    volume.end_roll_back(&mut out);
    assert_eq!(out, [VolumeAction::Poke]);
    assert!(accept(&mut volume, NEXT));
    let mut runs = Vec::new();
    volume.dirty_runs(&mut runs);
    assert_eq!(runs.len(), 2, "what was put back is copied again");
}

#[test]
fn a_primary_has_nothing_to_put_back() {
    let (mut volume, mut out) = behind();
    volume.learned(&config(2, 2, Side::B, InSync::Primary), at(0), &mut out);
    assert!(!volume.begin_roll_back(&[0], &mut out));
    assert!(volume.image_to_keep().is_none());
}
