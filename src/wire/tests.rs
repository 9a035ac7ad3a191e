use super::*;
use crate::arbitration::{Body, Epoch, Tenure};
use crate::group::{Refused, Request};
use crate::mirror::{RegionRun, SessionId, VolumeId};
use proptest::prelude::*;

fn samples() -> Vec<Frame> {
    let group = GroupId([7; 16]);
    let session = SessionId { boot: 3, counter: 9 };
    let message = Message { group, chosen: None, incarnation: Some(Incarnation([1; 16])), body: Body::Learn };
    let hello = |role, peer: &str| {
        Frame::Hello(Hello {
            role,
            identity: [1; 16],
            nonce: BootNonce([2; 16]),
            life: 3,
            name: "array-a".into(),
            system: 7,
            lanes: 2,
            peer: peer.into(),
        })
    };
    let inside = |message| Frame::Session { group, message };
    vec![
        hello(Role::Array(Side::B), "array-b"),
        hello(Role::Array(Side::B), ""),
        hello(Role::Witness(Incarnation([9; 16])), ""),
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
fn what_is_no_site_s_name_is_no_hello() {
    for name in ["", "array\n2026-01-01 all is well", "Array", "array-\u{e4}", "a".repeat(25).as_str()] {
        let mut payload = Vec::new();
        let mut w = Writer::new(&mut payload);
        w.u8(1);
        w.side(Side::A);
        w.bytes(&[0; 16 + 16 + 8 + 4 + 2]);
        w.u8(u8::try_from(name.len()).unwrap());
        w.bytes(name.as_bytes());
        assert_eq!(Frame::decode_payload(HELLO, &payload), Err(WireError::Shape(HELLO)), "{name:?}");
    }
}

#[test]
fn a_reason_is_cut_and_holds_no_line_of_its_own() {
    let Ok(Frame::Refused(why)) =
        Frame::decode_payload(REFUSED, &[b"x\n"[..].to_vec(), vec![b'y'; 9000]].concat())
    else {
        panic!("no refusal")
    };
    assert_eq!(why, format!("x {}", "y".repeat(WHY_MAX - 2)));
}

#[test]
fn nothing_long_is_waited_for_from_an_end_that_said_no_hello() {
    let mut bytes = Vec::new();
    Frame::Reply { number: 1, body: vec![0; PAYLOAD_MAX - 8] }.encode(&mut bytes);
    assert_eq!(decode_first(&bytes[..HEADER_LEN]), Err(WireError::Kind(REPLY)));
    assert_eq!(decode(&bytes[..HEADER_LEN]), Ok(None));
    bytes[6] = HELLO;
    assert!(matches!(decode_first(&bytes[..HEADER_LEN]), Err(WireError::TooLong(_))));
    for frame in samples().into_iter().take(3) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        assert_eq!(decode_first(&bytes), Ok(Some((frame, bytes.len()))));
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(kind in 0u8..12, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&payload);
        let _ = Frame::decode_payload(kind, &payload);
    }
}
