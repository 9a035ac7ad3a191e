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
fn one_image_for_each_time_that_the_copy_was_whole() {
    let (mut volume, mut out) = behind();
    assert!(accept(&mut volume, SESSION));
    let first = volume.image_to_keep().expect("behind: what a frame overwrites is kept");
    volume.image_made(first);
    assert!(accept(&mut volume, NEXT));
    assert_eq!(volume.image_to_keep(), Some(first), "still a mixture: the same image goes on");
    // All equal: the image goes before the secondary says that it is ready.
    assert!(!volume.release_image() && !volume.release_image());
    assert!(volume.take_image_release() && !volume.take_image_release(), "the shell is told once");
    assert_eq!(volume.image_to_keep(), Some(first), "kept on until the image is gone");
    volume.image_released(&mut out);
    assert_eq!(volume.image_to_keep(), None, "whole: nothing is overwritten that counts");
    assert!(volume.release_image());
    // Not joined after all, and found behind again: another image.
    assert!(accept(&mut volume, SessionId { boot: 1, counter: 3 }));
    let second = volume.image_to_keep().unwrap();
    assert_ne!(first, second);
    volume.image_made(first);
    assert!(volume.release_image(), "one of a former content is not this one's");
    volume.learned(&config(2, 1, Side::A, InSync::Both), at(0), &mut out);
    assert_eq!(volume.image_to_keep(), None);
    volume.learned(&config(3, 1, Side::A, InSync::Primary), at(0), &mut out);
    assert!(![Some(first), Some(second), None].contains(&volume.image_to_keep()));
}

#[test]
fn an_image_that_could_not_be_removed_is_asked_for_again() {
    let (mut volume, _) = behind();
    volume.image_made(volume.image_to_keep().unwrap());
    assert!(!volume.release_image() && volume.take_image_release());
    volume.image_release_failed();
    assert!(!volume.take_image_release());
    assert!(!volume.release_image() && volume.take_image_release());
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
    volume.image_made(volume.image_to_keep().unwrap());
    volume.learned(&config(2, 2, Side::B, InSync::Primary), at(0), &mut out);
    assert!(!volume.begin_roll_back(&[0], &mut out));
    assert!(volume.take_image_release(), "in office its image is of no use");
}
