use super::*;
use crate::arbitration::{Body, Epoch, Tenure};
use crate::group::{Refused, Request};
use crate::mirror::{RegionRun, SessionId, VolumeId};
use proptest::prelude::*;

fn samples() -> Vec<Frame> {
    let group = GroupId([7; 16]);
    let session = SessionId { boot: 3, counter: 9 };
    let message = Message { group, chosen: None, incarnation: Some(Incarnation([1; 16])), body: Body::Learn };
    let hello = |role| {
        let name = "array-\u{e4}".into();
        Frame::Hello(Hello {
            role,
            identity: [1; 16],
            nonce: BootNonce([2; 16]),
            life: 3,
            name,
            system: 7,
            lanes: 2,
        })
    };
    let inside = |message| Frame::Session { group, message };
    vec![
        hello(Role::Array(Side::B)),
        hello(Role::Witness(Incarnation([9; 16]))),
        Frame::Ping(1),
        Frame::Pong(u64::MAX),
        Frame::Batch(vec![message, message]),
        inside(SessionMessage::Hello {
            tenure: Tenure::default(),
            epoch: Epoch(4),
            session,
            members: vec![(VolumeId([5; 16]), 2048)],
        }),
        inside(SessionMessage::Answer {
            session,
            volume: Some(VolumeId([5; 16])),
            runs: vec![RegionRun { first: 1, count: 2 }],
            last: true,
        }),
        inside(SessionMessage::JoinQuery { session, group_state: 8 }),
        inside(SessionMessage::JoinReady { session, group_state: 8 }),
        inside(SessionMessage::WitnessLost(true)),
        inside(SessionMessage::Serving { tenure: Tenure::default() }),
        inside(SessionMessage::Request { number: 1, request: Request::SetStarted(true) }),
        inside(SessionMessage::Reply { number: 1, result: Err(Refused::Stale) }),
        Frame::Request { number: 1, body: b"{}".to_vec() },
        Frame::Reply { number: 1, body: Vec::new() },
        Frame::Refused("no".into()),
        Frame::Restored("old".into()),
    ]
}

#[test]
fn every_frame_comes_back() {
    for frame in samples() {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(b"more");
        assert_eq!(decode(&bytes), Ok(Some((frame.clone(), length))), "{frame:?}");
        for cut in 0..length {
            assert_eq!(decode(&bytes[..cut]), Ok(None), "{frame:?} cut at {cut}");
        }
        for at in 0..length {
            let mut bad = bytes[..length].to_vec();
            bad[at] ^= 0x10;
            assert!(!matches!(decode(&bad), Ok(Some(_))), "{frame:?} with byte {at} flipped");
        }
    }
}

#[test]
fn a_foreign_protocol_is_known_by_its_first_bytes() {
    assert_eq!(decode(b"G"), Err(WireError::Magic));
    assert_eq!(decode(b"GET / HTTP/1.1\r\n"), Err(WireError::Magic));
}

#[test]
fn a_name_is_cut_at_a_character() {
    let mut bytes = Vec::new();
    let hello = Hello {
        role: Role::Array(Side::A),
        identity: [0; 16],
        nonce: BootNonce::default(),
        life: 0,
        name: "\u{e4}".repeat(40),
        system: 0,
        lanes: 0,
    };
    Frame::Hello(hello).encode(&mut bytes);
    let Ok(Some((Frame::Hello(read), _))) = decode(&bytes) else { panic!("no hello") };
    assert_eq!(read.name, "\u{e4}".repeat(32));
}

proptest! {
    #[test]
    fn garbage_never_panics(kind in 0u8..12, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&payload);
        let _ = Frame::decode_payload(kind, &payload);
    }
}
