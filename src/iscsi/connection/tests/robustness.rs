//! Whatever an initiator sends.

use proptest::prelude::*;

use super::*;

/// A stream of plausible PDUs in any order, for the robustness tests.
fn any_header() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let opcode = prop_oneof![0_u8..7, Just(0x10_u8), any::<u8>()];
    let small = prop_oneof![0_u32..6, Just(NO_TAG), any::<u32>()];
    (
        opcode,
        any::<u8>(),
        proptest::collection::vec(small, 10),
        proptest::collection::vec(any::<u8>(), 0..64),
        any::<bool>(),
    )
        .prop_map(|(opcode, flags, words, data, immediate)| {
            let mut header = Header([0; 48]);
            header.0[0] = opcode | if immediate { 0x40 } else { 0 };
            header.0[1] = flags;
            for (at, word) in words.iter().enumerate() {
                header.0[8 + at * 4..12 + at * 4].copy_from_slice(&word.to_be_bytes());
            }
            (header, data)
        })
}

proptest! {
    /// Whatever comes, cut however: no panic, every executed command completes, and at the end
    /// nothing is left behind.
    #[test]
    fn nothing_an_initiator_sends_breaks_it(
        pdus in proptest::collection::vec(any_header(), 0..60),
        cut in 1_usize..200,
        outcomes in proptest::collection::vec(0_u8..4, 1..20),
    ) {
        let mut rig = Rig::logged_in(b"InitialR2T=No\0");
        let mut bytes = Vec::new();
        for (header, data) in pdus {
            frame::append(&mut bytes, header, &data, Digests::NONE);
        }
        let mut outcomes = outcomes.into_iter().cycle();
        let mut running = Vec::new();
        for piece in bytes.chunks(cut) {
            rig.send_raw(piece);
            prop_assert!(rig.rest.len() <= rig.connection.wanted().max(48 + 1020));
            for action in core::mem::take(&mut rig.actions) {
                match action {
                    Action::Execute(command) => running.push(command.task),
                    Action::Manage { id, .. } => rig.connection.managed(id, TaskResult::Complete, &mut rig.actions),
                    _ => {}
                }
            }
            match outcomes.next() {
                Some(0) if !running.is_empty() => {
                    let task = running.remove(0);
                    rig.good(task, &[0; 700], 512);
                }
                Some(1) => while let Some(task) = running.pop() {
                    rig.connection.aborted(task, &mut rig.actions);
                },
                Some(2) => rig.connection.handle_timeout(rig.now + Duration::from_secs(1)),
                _ => {}
            }
            let len = rig.connection.output().len();
            rig.connection.output().sent(len);
        }
        rig.connection.terminate(&mut rig.actions);
        for task in running {
            rig.connection.aborted(task, &mut rig.actions);
        }
        prop_assert!(rig.connection.is_quiet());
        prop_assert_eq!(rig.connection.tasks.charged(), 0);
        prop_assert!(rig.connection.management.is_empty());
    }

    /// Garbage before and during login.
    #[test]
    fn garbage_never_logs_in(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 1_usize..100) {
        let mut rig = Rig::new();
        for piece in bytes.chunks(cut) {
            rig.send_raw(piece);
        }
        prop_assert!(!rig.connection.is_full_feature());
    }

    /// A good login with one bit flipped is refused, or still is a login; never a panic.
    #[test]
    fn a_flipped_bit_in_a_login(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut rig = Rig::new();
        let request = LoginRequest {
            transit: true,
            current: Stage::LoginOperationalNegotiation,
            next: Stage::FullFeaturePhase,
            ..LoginRequest::default()
        };
        let mut bytes = Vec::new();
        let text = b"InitiatorName=iqn.h\0TargetName=iqn.2026-01.t:a\0MaxBurstLength=65536\0";
        frame::append(&mut bytes, request.encode(), text, Digests::NONE);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        rig.send_raw(&bytes);
        rig.connection.established(1, Vec::new());
        rig.receive();
    }

    /// The same write in any cut of the stream gives the same payload.
    #[test]
    fn a_write_however_it_is_cut(len in 1_usize..9000, cut in 1_usize..3000, header in any::<bool>(), data in any::<bool>()) {
        let keys = match (header, data) {
            (false, false) => &b""[..],
            (true, false) => b"HeaderDigest=CRC32C\0",
            (false, true) => b"DataDigest=CRC32C\0",
            (true, true) => b"HeaderDigest=CRC32C\0DataDigest=CRC32C\0",
        };
        let mut rig = Rig::logged_in(keys);
        let command = rig.command(5, WRITE_10, u32::try_from(len).unwrap());
        let mut bytes = Vec::new();
        frame::append(&mut bytes, command.encode(), &pattern(len), rig.digests);
        for piece in bytes.chunks(cut) {
            rig.send_raw(piece);
        }
        let executed = rig.executed();
        prop_assert_eq!(executed.len(), 1);
        prop_assert_eq!(executed[0].data.as_slice(), &pattern(len)[..]);
        prop_assert!(rig.rest.is_empty());
    }
}
