//! The witness beyond its registers: batches, the disk, incarnations, tombstones, bounds.

use super::super::{Config, Epoch, Transition};
use super::*;
use crate::time::{Duration, Time};
use proptest::prelude::*;

const FIRST: Incarnation = Incarnation([1; 16]);
const SECOND: Incarnation = Incarnation([2; 16]);

fn at(seconds: u64) -> Now {
    let time = Time::from_millis(seconds * 1000);
    Now { grantor: time, holder: time }
}

fn group(n: u16) -> GroupId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&n.to_le_bytes());
    GroupId(id)
}

fn config() -> Config {
    Transition::Join.value(&Config::genesis(Side::A, 7, Some(FIRST)), Side::A, None)
}

fn ask(n: u16) -> Message {
    let body = Body::Ask { number: u64::from(n), lease: Duration::from_secs(3) };
    Message { group: group(n), chosen: Some(config()), incarnation: None, body }
}

fn started() -> WitnessCore {
    let mut out = Vec::new();
    let mut core = WitnessCore::start(Timers::default(), None, false, FIRST, at(0), &mut out);
    assert!(
        matches!(out[..], [WitnessAction::Persist { sequence: 1, .. }]),
        "the incarnation is durable first"
    );
    core.persisted(1, &mut out);
    core
}

fn replies(core: &mut WitnessCore, batch: &[Message], now: Now) -> (Vec<WitnessAction>, Vec<Body>) {
    let mut out = Vec::new();
    core.receive(Side::A, Connection(1), batch, now, &mut out);
    let persists = out.clone();
    if let Some(WitnessAction::Persist { sequence, .. }) = persists.first() {
        core.persisted(*sequence, &mut out);
    }
    let bodies = out
        .iter()
        .filter_map(|action| match action {
            WitnessAction::Reply { messages, .. } => Some(messages.iter().map(|message| message.body)),
            WitnessAction::Persist { .. } => None,
        })
        .flatten()
        .collect();
    (persists, bodies)
}

#[test]
fn one_batch_of_many_groups_makes_one_write_and_one_answer() {
    let mut core = started();
    let batch = [ask(1), ask(2), ask(3)];
    let (first, bodies) = replies(&mut core, &batch, at(20));
    let [WitnessAction::Persist { groups, .. }] = &first[..] else { panic!("{first:?}") };
    assert_eq!(groups.len(), 3);
    assert!(bodies.iter().all(|body| matches!(body, Body::Granted { .. })), "{bodies:?}");
    // Renewals need no disk.
    let (second, bodies) = replies(&mut core, &batch, at(21));
    assert!(matches!(second[..], [WitnessAction::Reply { .. }]), "{second:?}");
    assert_eq!(bodies.len(), 3);
}

#[test]
fn nothing_is_answered_before_what_it_says_is_durable() {
    let mut core = started();
    let mut out = Vec::new();
    core.receive(Side::A, Connection(1), &[ask(1)], at(20), &mut out);
    core.receive(Side::B, Connection(2), &[ask(1)], at(20), &mut out);
    assert!(matches!(out[..], [WitnessAction::Persist { sequence: 2, .. }]));
    core.persisted(1, &mut out);
    assert_eq!(out.len(), 1);
    core.persisted(2, &mut out);
    assert_eq!(out.len(), 3);
}

#[test]
fn a_new_incarnation_refuses_everything_for_the_longest_promise() {
    let mut core = started();
    let (_, bodies) = replies(&mut core, &[ask(1)], at(10));
    assert!(matches!(bodies[..], [Body::NotGranted { .. }]));
    let (_, bodies) = replies(&mut core, &[ask(1)], at(11));
    assert!(matches!(bodies[..], [Body::Granted { .. }]));
}

#[test]
fn continuity_keeps_incarnation_and_promise_nothing_else_does() {
    let mut core = started();
    let _ = replies(&mut core, &[ask(1)], at(20));
    let image = core.image();
    let mut bytes = Vec::new();
    image.encode(&mut bytes);
    assert_eq!(WitnessImage::decode(&bytes), Ok(image.clone()));
    let mut out = Vec::new();
    let start = |continued, out: &mut Vec<WitnessAction>| {
        WitnessCore::start(Timers::default(), Some(image.clone()), continued, SECOND, at(0), out)
    };
    let same = start(true, &mut out);
    assert_eq!((same.incarnation(), out.len()), (FIRST, 0));
    assert_eq!(same.groups[&group(1)].bound_to_other(Side::B, at(3)).map(|left| left.as_millis()), Some(160));
    let other = start(false, &mut out);
    assert_eq!(other.incarnation(), SECOND);
    assert_eq!(other.record(group(1)), None);
    assert!(other.image().sequence > image.sequence);
}

#[test]
fn a_tombstone_outlives_everything() {
    let mut core = started();
    let _ = replies(&mut core, &[ask(1)], at(20));
    let remove = Message { body: Body::Remove, ..ask(1) };
    let (_, bodies) = replies(&mut core, &[remove, ask(1)], at(20));
    assert_eq!(bodies, [Body::Removed, Body::Removed]);
    let mut out = Vec::new();
    let fresh = WitnessCore::start(Timers::default(), Some(core.image()), false, SECOND, at(0), &mut out);
    assert!(fresh.record(group(1)).is_some_and(|record| record.removed));
}

#[test]
fn older_senders_are_told_and_newer_ones_learned_from() {
    let mut core = started();
    let newer = Config { epoch: Epoch(9), ..config() };
    let _ = replies(&mut core, &[Message { chosen: Some(newer), ..ask(1) }], at(20));
    assert_eq!(core.record(group(1)).and_then(|record| record.chosen), Some(newer));
    let (_, bodies) = replies(&mut core, &[ask(1)], at(20));
    assert_eq!(bodies, [Body::Learn]);
}

#[test]
fn groups_are_bounded() {
    let mut core = started();
    for n in 0..=u16::try_from(WitnessCore::GROUPS_MAX).unwrap() {
        let _ = replies(&mut core, &[ask(n)], at(20));
    }
    assert_eq!(core.groups.len(), WitnessCore::GROUPS_MAX);
}

proptest! {
    #[test]
    fn images_of_garbage_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = WitnessImage::decode(&bytes);
        let mut whole = Vec::new();
        IMAGE_FORMAT.encode(&bytes, &mut whole);
        let _ = WitnessImage::decode(&whole);
        let _ = VoterRecord::decode_body(&bytes);
        let _ = Message::decode(&mut Reader::new(&bytes));
    }
}
