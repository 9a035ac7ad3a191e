use super::layout::data_len;
use super::*;
use proptest::prelude::*;

fn header(op: Op, lba: u64, blocks: u64, sequence: u64) -> FrameHeader {
    let lineage = Lineage { counter: 2, id: 0x1122_3344_5566_7788 };
    FrameHeader {
        tenure: Tenure { lineage, epoch: Epoch(9) },
        session: SessionId { boot: 3, counter: 4 },
        sequence,
        op,
        extent: Extent::new(lba, blocks),
        memory: sequence % 2 == 1,
    }
}

fn data(op: Op, lba: u64, blocks: u64, sequence: u64) -> (FrameHeader, Vec<u8>) {
    let header = header(op, lba, blocks, sequence);
    let len = usize::try_from(data_len(op, header.extent).unwrap()).unwrap();
    let payload: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut bytes = encode_data(GroupId([5; 16]), VolumeId([6; 16]), &header, &payload).unwrap().to_vec();
    bytes.extend_from_slice(&payload);
    (header, bytes)
}

fn op() -> impl Strategy<Value = Op> {
    prop::sample::select(vec![Op::Write, Op::WriteSame, Op::WriteZeroes, Op::Unmap, Op::Read, Op::Flush])
}

fn ack() -> impl Strategy<Value = Ack> {
    let result = prop::sample::select(vec![
        None,
        Some(StoreResult::Done),
        Some(StoreResult::NoSpace),
        Some(StoreResult::Failed),
    ]);
    (any::<[u8; 16]>(), any::<(u64, u64, u64)>(), result).prop_map(|(volume, words, result)| Ack {
        volume: VolumeId(volume),
        session: SessionId { boot: words.0, counter: words.1 },
        sequence: words.2,
        result,
    })
}

proptest! {
    #[test]
    fn data_comes_back_and_says_what_it_needs(
        op in op(), lba in any::<u64>(), blocks in 0_u64..9, sequence in any::<u64>(), cut in 0_usize..5000,
    ) {
        let (header, bytes) = data(op, lba, blocks, sequence);
        let whole = decode(&bytes).unwrap();
        let (group, volume) = (GroupId([5; 16]), VolumeId([6; 16]));
        let what = Announced::Data { group, volume, header };
        prop_assert_eq!(whole, Decoded::Frame { what, payload: &bytes[HEADER_LEN..], consumed: bytes.len() });
        let cut = cut.min(bytes.len() - 1);
        match decode(&bytes[..cut]).unwrap() {
            Decoded::NeedHeader(more) => prop_assert_eq!(cut + more, HEADER_LEN),
            Decoded::NeedPayload { missing, .. } => prop_assert_eq!(cut + missing, bytes.len()),
            Decoded::Frame { .. } => prop_assert!(false, "a frame out of its beginning"),
        }
    }

    #[test]
    fn a_flipped_bit_is_found(op in op(), blocks in 0_u64..9, at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let (_, mut bytes) = data(op, 1, blocks, 7);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), magic in any::<bool>()) {
        let mut bytes = bytes;
        if magic {
            for (byte, wanted) in bytes.iter_mut().zip(MAGIC) { *byte = wanted; }
        }
        let whole = matches!(decode(&bytes), Ok(Decoded::Frame { .. }));
        prop_assert!(!whole);
        let _ = acks(&bytes).count();
        let _ = hello(&bytes);
    }

    /// Whatever a header with a right checksum says.
    #[test]
    fn sealed_garbage_never_panics_and_is_bounded(garbage in prop::collection::vec(any::<u8>(), HEADER_LEN)) {
        let mut bytes = [0; HEADER_LEN];
        bytes.copy_from_slice(&garbage);
        bytes[..6].copy_from_slice(&[b't', b'L', b'a', b'n', 1, 1]);
        bytes[6] %= 10;
        bytes[12] %= 7;
        if let Ok(announced) = decode_header(&seal(bytes)) {
            prop_assert!(announced.payload_len <= PAYLOAD_MAX);
        }
    }

    #[test]
    fn acks_travel_in_batches(list in prop::collection::vec(ack(), 0..20)) {
        let mut bytes = vec![1, 2, 3];
        prop_assert_eq!(encode_acks(&list, &mut bytes), list.len());
        let Decoded::Frame { what: Announced::Acks, payload, consumed } = decode(&bytes[3..]).unwrap() else {
            panic!("not an ack frame");
        };
        prop_assert_eq!(consumed, bytes.len() - 3);
        let read: Vec<Ack> = acks(payload).map(Result::unwrap).collect();
        prop_assert_eq!(read, list);
    }
}

#[test]
fn given_blocks_come_back_under_the_header_that_asked() {
    let header = header(Op::Read, 8, 2, 5);
    let (group, volume) = (GroupId([5; 16]), VolumeId([6; 16]));
    let blocks = [7; 1024];
    let mut bytes = encode_given(group, volume, &header, &blocks).unwrap().to_vec();
    bytes.extend_from_slice(&blocks);
    let what = Announced::Given { group, volume, header };
    assert_eq!(decode(&bytes), Ok(Decoded::Frame { what, payload: &blocks, consumed: bytes.len() }));
    assert_eq!(
        encode_given(group, volume, &header, &blocks[1..]),
        Err(FrameError::Length { found: 1023, wanted: 1024 })
    );
    let write = FrameHeader { op: Op::Write, ..header };
    assert_eq!(encode_given(group, volume, &write, &blocks), Err(FrameError::Op(1)));
}

#[test]
fn digests_come_back_under_the_header_that_asked() {
    let header = header(Op::Read, 2048, 129, 5);
    let (group, volume) = (GroupId([5; 16]), VolumeId([6; 16]));
    let asked = encode_ask_sums(group, volume, &header).unwrap();
    let what = Announced::AskSums { group, volume, header };
    assert_eq!(decode(&asked), Ok(Decoded::Frame { what, payload: &[], consumed: HEADER_LEN }));
    assert_eq!(asked[5], KNOWS_SUMS, "an older reader names the version it lacks");
    let digests = [[7; 32], [8; 32]];
    let mut bytes = encode_sums(group, volume, &header, digests.as_flattened()).unwrap().to_vec();
    bytes.extend_from_slice(digests.as_flattened());
    let Ok(Decoded::Frame { what, payload, .. }) = decode(&bytes) else { panic!("not whole") };
    assert_eq!(what, Announced::Sums { group, volume, header });
    assert_eq!(sums(payload), digests);
    assert_eq!(
        encode_sums(group, volume, &header, &digests[0]),
        Err(FrameError::Length { found: 32, wanted: 64 })
    );
    let write = FrameHeader { op: Op::Write, ..header };
    assert_eq!(encode_ask_sums(group, volume, &write), Err(FrameError::Op(1)));
}

#[test]
fn all_but_flushes_and_questions_for_digests_is_readable_by_the_first_version() {
    let (_, bytes) = data(Op::Read, 0, 8, 1);
    assert_eq!(bytes[4..6], [VERSION, 1]);
    let (_, flush) = data(Op::Flush, 0, 0, 1);
    assert_eq!(flush[4..6], [VERSION, 2], "and flushes");
    assert_eq!(encode_sign(true)[5], 1);
}

#[test]
fn one_frame_carries_a_bounded_number_of_acks() {
    let session = SessionId { boot: 1, counter: 1 };
    let ack = Ack { volume: VolumeId([0; 16]), session, sequence: 1, result: None };
    let mut bytes = Vec::new();
    assert_eq!(encode_acks(&vec![ack; ACKS_MAX + 5], &mut bytes), ACKS_MAX);
    assert!(matches!(decode(&bytes), Ok(Decoded::Frame { what: Announced::Acks, .. })));
}

#[test]
fn a_hello_comes_back() {
    let sent = LaneHello {
        array: [1; 16],
        boot_nonce: [2; 16],
        lane: LaneId(3),
        side: Side::B,
        newest: VERSION,
        oldest: OLDEST,
    };
    let mut bytes = Vec::new();
    encode_hello(&sent, &mut bytes);
    let Ok(Decoded::Frame { what: Announced::Hello, payload, .. }) = decode(&bytes) else {
        panic!("not a hello");
    };
    assert_eq!(hello(payload), Ok(sent));
}

#[test]
fn a_newer_format_is_named() {
    let (_, bytes) = data(Op::Unmap, 0, 8, 1);
    let mut newer: [u8; HEADER_LEN] = bytes.try_into().unwrap();
    newer[4] = 7;
    newer[5] = 6;
    assert_eq!(decode_header(&seal(newer)), Err(FrameError::Version { version: 7 }));
}
