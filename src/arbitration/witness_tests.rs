//! The witness beyond its registers: batches, the disk, incarnations, tombstones, bounds.

use super::super::{Config, Epoch, Side, SiteName, Transition};
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
    core.receive(&Caller::of(Side::A), Connection(1), batch, now, &mut out);
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
    core.receive(&Caller::of(Side::A), Connection(1), &[ask(1)], at(20), &mut out);
    core.receive(&Caller::of(Side::B), Connection(2), &[ask(1)], at(20), &mut out);
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

/// An array of another pair.
fn other(name: &str, side: Side) -> Caller {
    Caller { side, name: SiteName::new(name).unwrap(), peer: SiteName::new("its-peer") }
}

fn heard(core: &mut WitnessCore, from: &Caller, message: Message) -> Vec<WitnessAction> {
    let mut out = Vec::new();
    core.receive(from, Connection(5), &[message], at(20), &mut out);
    let sequence = core.sequence;
    core.persisted(sequence, &mut out);
    out
}

#[test]
fn another_pair_s_array_says_nothing_in_a_group() {
    let mut core = started();
    let _ = replies(&mut core, &[ask(1)], at(20));
    let before = core.image();
    let later = Config { epoch: Epoch(99), primary: Side::B, ..config() };
    let lineage = super::super::Lineage { counter: 9, id: 9 };
    let bodies = [
        Body::Remove,
        Body::Learn,
        Body::Read { number: 1 },
        ask(1).body,
        Body::Prepare { ballot: super::super::Ballot::NONE.next(Side::B) },
        Body::Override {
            ballot: super::super::Ballot::NONE.next(Side::B),
            value: Config { lineage, ..later },
        },
    ];
    let strangers = [
        other("x", Side::A),
        other("x", Side::B),
        // The pair's own array, on the other side.
        Caller { side: Side::B, ..Caller::of(Side::A) },
        // A true name, with another idea of who its peer is.
        Caller { peer: SiteName::new("x"), ..Caller::of(Side::B) },
    ];
    for from in &strangers {
        for body in bodies {
            for chosen in [Some(config()), Some(later), Some(Config { lineage, ..later })] {
                let out = heard(&mut core, from, Message { body, chosen, ..ask(1) });
                assert_eq!((out, core.take_foreign()), (Vec::new(), Some(group(1))), "{from:?} {body:?}");
            }
        }
    }
    assert_eq!(core.image(), before);
    assert!(!heard(&mut core, &Caller::of(Side::B), ask(1)).is_empty());
    // A witness that began anew knows whose the groups are, whatever else it has forgotten.
    let mut out = Vec::new();
    let mut core = WitnessCore::start(Timers::default(), Some(before), false, SECOND, at(0), &mut out);
    core.persisted(core.sequence, &mut out);
    assert_eq!(heard(&mut core, &other("x", Side::A), ask(1)), []);
    assert!(!heard(&mut core, &Caller::of(Side::A), ask(1)).is_empty());
}

#[cfg(feature = "testing")]
#[test]
fn without_owners_anybody_says_something() {
    let run = std::thread::spawn(|| {
        mutation::set(Some(Mutation::WitnessOwnersIgnored));
        another_pair_s_array_says_nothing_in_a_group();
    });
    assert!(run.join().is_err(), "the mutation changes nothing");
}

/// What a witness of version 1 wrote names no owners: each side is the first one's that speaks for it.
#[test]
fn an_image_of_version_1_is_read_and_its_groups_find_their_owners() {
    let mut core = started();
    let _ = replies(&mut core, &[ask(1)], at(20));
    let mut image = core.image();
    image.owners.clear();
    let mut bytes = Vec::new();
    image.encode(&mut bytes);
    let payload = &bytes[crate::format::envelope::HEADER_LEN..];
    let mut old = Vec::new();
    let first = Format { version: 1, readable_from: 1, ..IMAGE_FORMAT };
    first.encode(&payload[..payload.len() - 4], &mut old); // without the number of owners
    assert_eq!(WitnessImage::decode(&old), Ok(image.clone()));
    let mut out = Vec::new();
    let mut core = WitnessCore::start(Timers::default(), Some(image), true, FIRST, at(0), &mut out);
    let b = Caller { peer: None, ..Caller::of(Side::B) };
    assert!(!heard(&mut core, &b, ask(1)).is_empty());
    assert_eq!(heard(&mut core, &other("x", Side::B), ask(1)), []);
    assert_eq!(heard(&mut core, &Caller { peer: None, side: Side::A, ..b }, ask(1)), []);
    assert!(!heard(&mut core, &Caller::of(Side::A), ask(1)).is_empty());
    assert_eq!(core.image().owners[&group(1)].name(Side::A), SiteName::new("array-a"));
}

#[test]
fn groups_are_bounded_and_nobody_takes_the_room_of_all() {
    let mut core = started();
    for n in 0..5000 {
        let _ = heard(&mut core, &other("x", Side::A), Message { body: Body::Remove, ..ask(n) });
    }
    assert_eq!((core.groups.len(), core.owners.len()), (0, 0), "what was never there leaves no tombstone");
    for n in 0..600 {
        let _ = heard(&mut core, &other("x", Side::A), ask(n));
    }
    assert_eq!(core.groups.len(), WitnessCore::GROUPS_OF_ONE_MAX);
    let (_, bodies) = replies(&mut core, &[ask(5000)], at(20));
    assert_eq!(bodies.len(), 1);
    for name in 0..10 {
        for n in 0..500 {
            let _ = heard(&mut core, &other(&format!("y{name}"), Side::A), ask(6000 + name * 500 + n));
        }
    }
    assert_eq!(core.groups.len(), WitnessCore::GROUPS_MAX);
    let mut bytes = Vec::new();
    core.image().encode(&mut bytes);
    assert!(bytes.len() < 1 << 20, "{}: no room in the state file", bytes.len());
    // A tombstone that both sides have asked for makes way, one that a side may yet need does not.
    let remove = Message { body: Body::Remove, ..ask(5000) };
    let _ = heard(&mut core, &Caller::of(Side::A), remove);
    assert_eq!(heard(&mut core, &Caller::of(Side::A), ask(5001)), []);
    let _ = heard(&mut core, &Caller::of(Side::B), remove);
    assert!(!heard(&mut core, &Caller::of(Side::A), ask(5001)).is_empty());
    assert_eq!((core.record(group(5000)), core.groups.len()), (None, WitnessCore::GROUPS_MAX));
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
