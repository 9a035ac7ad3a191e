//! Media commands.

use super::{BLOCKS, Rig, cdb_10, cdb_16};
use crate::block::{Extent, Op, Outcome, Request};
use crate::scsi::{AccessState, DataIn, End, Medium, Progress, Reply, Sense, Status};

/// A request's operation, its blocks and its bytes of data-out.
type Started = (Op, Extent, usize);

/// The only request that may run now.
fn next(medium: &mut Medium, data: &[u8]) -> Started {
    let submission = medium.next(data).unwrap();
    assert_eq!(medium.next(data), None);
    assert_eq!(submission.data.start, 0);
    let Request { op, extent } = submission.request;
    (op, extent, submission.data.end)
}

fn finished(progress: Progress) -> Reply {
    match progress {
        Progress::Finished(End::Reply(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

fn ends_well(medium: &mut Medium, read: &[u8], data: &[u8]) -> Reply {
    let reply = finished(medium.completed(Outcome::Good, read, data));
    assert_eq!((reply.status, reply.sense), (Status::Good, None));
    reply
}

#[test]
fn reads() {
    let mut rig = Rig::new();
    let cdbs: [(&[u8], Extent); 5] = [
        (&[0x08, 0x01, 0x02, 0x03, 4, 0], Extent::new(0x1_0203, 4)),
        (&[0x08, 0, 0, 9, 0, 0], Extent::new(9, 256)),
        (&cdb_10(0x28, 0x18, 0x1234, 8), Extent::new(0x1234, 8)),
        (&[0xa8, 0, 0, 0, 0x12, 0x34, 0, 0, 1, 0, 0x1f, 0], Extent::new(0x1234, 256)),
        (&cdb_16(0x88, 0x10, 7, 1), Extent::new(7, 1)),
    ];
    for (cdb, extent) in cdbs {
        let mut medium = rig.medium(cdb, &[]);
        assert_eq!(next(&mut medium, &[]), (Op::Read, extent, 0));
        let reply = ends_well(&mut medium, &[0; 512], &[]);
        assert_eq!((reply.data_in, reply.wanted), (DataIn::Medium, 0));
    }
}

#[test]
fn writes() {
    let mut rig = Rig::new();
    let data = vec![1; 4 * 512];
    let [six, twelve] = [&[0x0a, 0, 0, 9, 4, 0][..], &[0xaa, 0, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0]];
    for cdb in [six, twelve, &cdb_10(0x2a, 0x08, 9, 4), &cdb_16(0x8a, 0x18, 9, 4)] {
        let mut medium = rig.medium(cdb, &data);
        assert_eq!(next(&mut medium, &data), (Op::Write, Extent::new(9, 4), 2048));
        let reply = ends_well(&mut medium, &[], &data);
        assert_eq!((reply.data_in, reply.wanted), (DataIn::None, 2048));
    }
}

#[test]
fn fua_reaches_the_disks_when_the_promise_is_memory() {
    let mut rig = Rig::new();
    rig.unit.write_cache = true;
    let data = [1; 1024];
    for (cdb, op) in [
        (&cdb_10(0x2a, 0x08, 9, 2)[..], Op::Write),
        (
            &{
                let mut cdb = cdb_16(0x89, 0x08, 9, 0);
                cdb[13] = 1;
                cdb
            },
            Op::CompareAndWrite,
        ),
    ] {
        let mut medium = rig.medium(cdb, &data);
        assert_eq!(next(&mut medium, &data).0, op);
        assert_eq!(medium.completed(Outcome::Good, &[], &data), Progress::Pending);
        assert_eq!(next(&mut medium, &data).0, Op::Flush);
        ends_well(&mut medium, &[], &data);
    }
    let mut medium = rig.medium(&cdb_10(0x2a, 0, 9, 2), &data);
    next(&mut medium, &data);
    ends_well(&mut medium, &[], &data);
}

#[test]
fn addresses_beyond_the_end() {
    let mut rig = Rig::new();
    let end = u32::try_from(BLOCKS).unwrap();
    for opcode in [0x28, 0x2a, 0x2e, 0x2f, 0x34, 0x35, 0x41] {
        assert_eq!(rig.refused(&cdb_10(opcode, 0, end - 1, 2)), Sense::LBA_OUT_OF_RANGE, "{opcode:02x}");
        assert_eq!(rig.refused(&cdb_10(opcode, 0, end + 1, 0)), Sense::LBA_OUT_OF_RANGE, "{opcode:02x}");
    }
    for opcode in [0x88, 0x8a, 0x8e, 0x8f, 0x90, 0x91, 0x93] {
        for lba in [BLOCKS, u64::MAX, 1 << 63] {
            assert_eq!(rig.refused(&cdb_16(opcode, 0, lba, 1)), Sense::LBA_OUT_OF_RANGE, "{opcode:02x}");
        }
    }
    let mut cdb = cdb_16(0x89, 0, BLOCKS, 0);
    cdb[13] = 1;
    assert_eq!(rig.refused_with(&cdb, &[0; 1024]), Sense::LBA_OUT_OF_RANGE);
    rig.good(&cdb_10(0x28, 0, end, 0), &[]);
}

#[test]
fn too_much_at_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.refused(&cdb_16(0x88, 0, 0, 16385)), Sense::invalid_in_cdb(10, None));
    assert_eq!(rig.refused(&cdb_10(0x2a, 0, 0, 16385)), Sense::invalid_in_cdb(7, None));
    assert_eq!(rig.refused(&[0xa8, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0]), Sense::invalid_in_cdb(6, None));
    rig.medium(&cdb_16(0x88, 0, 0, 16384), &[]);
    assert_eq!(rig.refused_with(&cdb_16(0x93, 0, 0, 16385), &[0; 512]), Sense::invalid_in_cdb(10, None));
}

#[test]
fn protection_is_refused() {
    let mut rig = Rig::new();
    for opcode in [0x28, 0x2a, 0x2e, 0x2f, 0x41] {
        assert_eq!(
            rig.refused(&cdb_10(opcode, 0x20, 0, 1)),
            Sense::invalid_in_cdb(1, Some(7)),
            "{opcode:02x}"
        );
    }
}

#[test]
fn data_shorter_than_the_cdb_says() {
    let mut rig = Rig::new();
    let cdb = cdb_10(0x2a, 0, 9, 2);
    let mut medium = rig.medium(&cdb, &[0; 512]);
    assert_eq!(next(&mut medium, &[0; 512]), (Op::Write, Extent::new(9, 1), 512), "whole blocks are written");
    assert_eq!(ends_well(&mut medium, &[], &[0; 512]).wanted, 1024, "the residual tells");
    rig.good(&cdb, &[]);
    assert_eq!(rig.refused_with(&cdb, &[0; 700]), Sense::WRONG_DATA_LENGTH);
    let mut medium = rig.medium(&cdb, &[0; 4096]);
    assert_eq!(next(&mut medium, &[0; 4096]).2, 1024, "what is beyond is not written");
}

#[test]
fn verify_compares_when_asked() {
    let mut rig = Rig::new();
    for cdb in [
        &cdb_10(0x2f, 0x02, 9, 1)[..],
        &cdb_16(0x8f, 0x02, 9, 1),
        &[0xaf, 0x12, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0],
    ] {
        let data = [7; 512];
        let mut medium = rig.medium(cdb, &data);
        assert_eq!(next(&mut medium, &data), (Op::Read, Extent::new(9, 1), 0));
        let reply = ends_well(&mut medium, &data, &data);
        assert_eq!((reply.data_in, reply.wanted), (DataIn::None, 512));
        let mut medium = rig.medium(cdb, &data);
        next(&mut medium, &data);
        let mut other = data;
        other[511] = 8;
        let reply = finished(medium.completed(Outcome::Good, &other, &data));
        assert_eq!(reply.sense, Some(Sense::MISCOMPARE));
        assert_eq!(rig.refused_with(cdb, &data[1..]), Sense::WRONG_DATA_LENGTH);
    }
    let mut medium = rig.medium(&cdb_10(0x2f, 0, 9, 1), &[]);
    next(&mut medium, &[]);
    assert_eq!(ends_well(&mut medium, &[9; 512], &[]).data_in, DataIn::None);
    assert_eq!(rig.refused(&cdb_10(0x2f, 0x04, 9, 1)), Sense::invalid_in_cdb(1, Some(2)), "BYTCHK 10b");
}

#[test]
fn write_and_verify() {
    let mut rig = Rig::new();
    let data = [7; 512];
    for cache in [false, true] {
        rig.unit.write_cache = cache;
        let mut medium = rig.medium(&cdb_10(0x2e, 0x02, 9, 1), &data);
        assert_eq!(next(&mut medium, &data), (Op::Write, Extent::new(9, 1), 512));
        assert_eq!(medium.completed(Outcome::Good, &[], &data), Progress::Pending);
        if cache {
            assert_eq!(next(&mut medium, &data).0, Op::Flush);
            assert_eq!(medium.completed(Outcome::Good, &[], &data), Progress::Pending);
        }
        assert_eq!(next(&mut medium, &data).0, Op::Read);
        let mut other = medium;
        let reply = ends_well(&mut medium, &data, &data);
        assert_eq!((reply.data_in, reply.wanted), (DataIn::None, 512));
        let reply = finished(other.completed(Outcome::Good, &[6; 512], &data));
        assert_eq!(reply.sense, Some(Sense::MISCOMPARE));
    }
    let mut medium = rig.medium(&cdb_16(0x8e, 0, 9, 1), &data);
    next(&mut medium, &data);
    let reply = finished(medium.completed(Outcome::WriteError, &[], &data));
    assert_eq!(reply.sense, Some(Sense::WRITE_ERROR.with_information(9)), "nothing is verified then");
}

#[test]
fn synchronize_cache() {
    let mut rig = Rig::new();
    for cdb in [&cdb_10(0x35, 0, 0, 0)[..], &cdb_10(0x35, 0x02, 5, 9), &cdb_16(0x91, 0x02, 0, 0)] {
        let mut medium = rig.medium(cdb, &[]);
        assert_eq!(next(&mut medium, &[]).0, Op::Flush);
        ends_well(&mut medium, &[], &[]);
    }
}

#[test]
fn prefetch_fetches_nothing() {
    let mut rig = Rig::new();
    rig.good(&cdb_10(0x34, 0x02, 0, 9), &[]);
    rig.good(&cdb_16(0x90, 0, 0, 0), &[]);
}

#[test]
fn write_same() {
    let mut rig = Rig::new();
    let (zero, one) = ([0; 512], [1; 512]);
    let extent = Extent::new(9, 100);
    let cases: [(u8, &[u8], Started); 6] = [
        (0x00, &one, (Op::WriteSame, extent, 512)),
        (0x00, &zero, (Op::WriteZeroes, extent, 0)),
        (0x08, &zero, (Op::Unmap, extent, 0)),
        // Unmapped blocks read as zeroes: others cannot become holes.
        (0x08, &one, (Op::WriteSame, extent, 512)),
        (0x01, &[], (Op::WriteZeroes, extent, 0)),
        (0x09, &[], (Op::Unmap, extent, 0)),
    ];
    for (flags, data, expected) in cases {
        let mut medium = rig.medium(&cdb_16(0x93, flags, 9, 100), data);
        assert_eq!(next(&mut medium, data), expected, "{flags:02x}");
        assert_eq!(ends_well(&mut medium, &[], data).wanted, data.len() as u64);
    }
    let mut medium = rig.medium(&cdb_10(0x41, 0x08, 9, 100), &zero);
    assert_eq!(next(&mut medium, &zero).0, Op::Unmap);
}

#[test]
fn write_same_refusals() {
    let mut rig = Rig::new();
    let zero = [0; 1024];
    let block = &zero[..512];
    assert_eq!(rig.refused_with(&cdb_16(0x93, 0, 0, 0), block), Sense::invalid_in_cdb(10, None), "WSNZ");
    assert_eq!(rig.refused_with(&cdb_10(0x41, 0, 0, 0), block), Sense::invalid_in_cdb(7, None), "WSNZ");
    assert_eq!(
        rig.refused_with(&cdb_16(0x93, 0x10, 0, 1), block),
        Sense::invalid_in_cdb(1, Some(4)),
        "ANCHOR"
    );
    assert_eq!(
        rig.refused_with(&cdb_10(0x41, 0x04, 0, 1), block),
        Sense::invalid_in_cdb(1, Some(2)),
        "PBDATA"
    );
    for data in [&zero[..256], &zero[..], &[]] {
        assert_eq!(rig.refused_with(&cdb_16(0x93, 0x08, 0, 1), data), Sense::WRONG_DATA_LENGTH);
    }
    assert_eq!(rig.refused_with(&cdb_16(0x93, 0x01, 0, 1), block), Sense::WRONG_DATA_LENGTH, "NDOB");
}

#[test]
fn compare_and_write() {
    let mut rig = Rig::new();
    let cdb = |blocks| {
        let mut cdb = cdb_16(0x89, 0x18, 9, 0);
        cdb[13] = blocks;
        cdb
    };
    let data = [3; 4 * 512];
    let mut medium = rig.medium(&cdb(2), &data);
    assert_eq!(next(&mut medium, &data), (Op::CompareAndWrite, Extent::new(9, 2), 2048));
    let reply = finished(medium.completed(Outcome::Miscompare { offset: 600 }, &[], &data));
    assert_eq!((reply.status, reply.wanted), (Status::CheckCondition, 2048));
    let sense = reply.sense.unwrap().fixed();
    assert_eq!(sense, [0xf0, 0, 0x0e, 0, 0, 2, 0x58, 10, 0, 0, 0, 0, 0x1d, 0, 0, 0, 0, 0]);
    for blocks in [0, 1, 3] {
        assert_eq!(rig.refused_with(&cdb(blocks), &data), Sense::invalid_in_cdb(13, None));
    }
    rig.good(&cdb(0), &[]);
    rig.unit.limits.compare_and_write_blocks = 1;
    assert_eq!(rig.refused_with(&cdb(2), &data), Sense::invalid_in_cdb(13, None));
}

fn unmap(descriptors: &[(u64, u32)]) -> (Vec<u8>, Vec<u8>) {
    let described = u16::try_from(descriptors.len() * 16).unwrap();
    let mut list = (described + 6).to_be_bytes().to_vec();
    list.extend_from_slice(&described.to_be_bytes());
    list.extend_from_slice(&[0; 4]);
    for (lba, blocks) in descriptors {
        list.extend_from_slice(&lba.to_be_bytes());
        list.extend_from_slice(&blocks.to_be_bytes());
        list.extend_from_slice(&[0; 4]);
    }
    let [high, low] = u16::try_from(list.len()).unwrap().to_be_bytes();
    (vec![0x42, 0, 0, 0, 0, 0, 0, high, low, 0], list)
}

#[test]
fn unmap_runs_its_descriptors_side_by_side() {
    let mut rig = Rig::new();
    let descriptors: Vec<_> =
        (0..100).map(|index| (index * 16, if index % 3 == 0 { 0 } else { 8 })).collect();
    let (cdb, list) = unmap(&descriptors);
    let mut medium = rig.medium(&cdb, &list);
    let mut seen = Vec::new();
    let mut running = 0;
    loop {
        while let Some(submission) = medium.next(&list) {
            assert_eq!((submission.request.op, submission.data), (Op::Unmap, 0..0));
            seen.push((submission.request.extent.lba, 8));
            running += 1;
            assert!(running <= 32);
        }
        running -= 1;
        match medium.completed(Outcome::Good, &[], &list) {
            Progress::Pending => assert!(running > 0 || seen.len() < 66),
            Progress::Finished(end) => {
                let End::Reply(reply) = end else { panic!() };
                assert_eq!((reply.status, reply.wanted, running), (Status::Good, 1608, 0));
                break;
            }
        }
    }
    descriptors
        .into_iter()
        .filter(|(_, blocks)| *blocks > 0)
        .zip(seen)
        .for_each(|(want, got)| assert_eq!(want, got));
}

#[test]
fn a_failed_unmap_waits_for_what_runs_and_starts_nothing_more() {
    let mut rig = Rig::new();
    let (cdb, list) = unmap(&[(0, 8); 40]);
    let mut medium = rig.medium(&cdb, &list);
    for _ in 0..32 {
        medium.next(&list).unwrap();
    }
    assert_eq!(medium.next(&list), None);
    assert_eq!(medium.completed(Outcome::NoSpace, &[], &list), Progress::Pending);
    assert_eq!(medium.next(&list), None);
    assert_eq!(medium.completed(Outcome::Aborted, &[], &list), Progress::Pending);
    for _ in 0..29 {
        assert_eq!(medium.completed(Outcome::WriteError, &[], &list), Progress::Pending);
    }
    assert_eq!(medium.completed(Outcome::Good, &[], &list), Progress::Finished(End::Aborted));
}

#[test]
fn unmap_lists_that_are_refused() {
    let mut rig = Rig::new();
    rig.good(&[0x42, 0, 0, 0, 0, 0, 0x1f, 0, 0, 0], &[]);
    let (cdb, list) = unmap(&[]);
    rig.good(&cdb, &list);
    let (cdb, list) = unmap(&[(0, 0), (BLOCKS, 0)]);
    rig.good(&cdb, &list);
    let (cdb, list) = unmap(&[(0, 8), (BLOCKS - 1, 2)]);
    assert_eq!(rig.refused_with(&cdb, &list), Sense::LBA_OUT_OF_RANGE);
    let (cdb, list) = unmap(&[(0, 8), (8, 1 << 20)]);
    assert_eq!(rig.refused_with(&cdb, &list), Sense::invalid_in_list(32, None), "too many blocks");
    let (cdb, list) = unmap(&[(0, 1); 257]);
    assert_eq!(rig.refused_with(&cdb, &list), Sense::invalid_in_list(2, None), "too many descriptors");
    let (cdb, list) = unmap(&[(0, 8)]);
    assert_eq!(rig.refused_with(&cdb, &list[..20]), Sense::PARAMETER_LIST_LENGTH);
    assert_eq!(rig.refused_with(&[0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0], &list), Sense::PARAMETER_LIST_LENGTH);
    assert_eq!(rig.refused_with(&[0x42, 0, 0, 0, 0, 0, 0, 0, 20, 0], &list), Sense::PARAMETER_LIST_LENGTH);
    assert_eq!(rig.refused(&[0x42, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Sense::invalid_in_cdb(1, Some(0)), "ANCHOR");
}

#[test]
fn outcomes_become_sense() {
    let cases = [
        (Outcome::NoSpace, [0x70, 0, 7, 0, 0, 0, 0], (0x27, 0x07)),
        (Outcome::ReadError, [0xf0, 0, 3, 0, 0, 0, 9], (0x11, 0x00)),
        (Outcome::WriteError, [0xf0, 0, 3, 0, 0, 0, 9], (0x0c, 0x00)),
    ];
    for (outcome, head, code) in cases {
        let mut medium = Rig::new().medium(&cdb_10(0x28, 0, 9, 1), &[]);
        next(&mut medium, &[]);
        let reply = finished(medium.completed(outcome, &[], &[]));
        assert_eq!((reply.status, reply.data_in), (Status::CheckCondition, DataIn::None));
        let sense = reply.sense.unwrap();
        assert_eq!((&sense.fixed()[..7], sense.code), (&head[..], code));
    }
    let mut medium = Rig::new().medium(&cdb_10(0x28, 0, 9, 1), &[]);
    next(&mut medium, &[]);
    assert_eq!(medium.completed(Outcome::Aborted, &[], &[]), Progress::Finished(End::Aborted));
}

/// What is read from the medium is what the command was let in for, whatever its CDB asks for.
#[test]
fn reads_take_no_more_than_the_initiator_has_room_for() {
    let mut rig = Rig::new();
    let cdb = cdb_10(0x28, 0, 64, 16 * 1024);
    for (room, blocks) in [(512, 1), (513, 2), (1 << 20, 2048), (u32::MAX, 16 * 1024)] {
        rig.room = room;
        let mut medium = rig.medium(&cdb, &[]);
        assert_eq!(next(&mut medium, &[]), (Op::Read, Extent::new(64, blocks), 0), "{room}");
        let reply = ends_well(&mut medium, &[0; 512], &[]);
        assert_eq!((reply.data_in, reply.gives), (DataIn::Medium, 8 << 20));
    }
    rig.room = 0;
    let reply = rig.reply(&cdb, &[]);
    assert_eq!((reply.status, reply.data_in, reply.gives), (Status::Good, DataIn::None, 8 << 20));
    rig.access.own.state = AccessState::Standby;
    assert_eq!(rig.refused(&cdb), Sense::STANDBY);
    rig.access.own.state = AccessState::ActiveOptimized;
    let beyond = cdb_10(0x28, 0, u32::try_from(BLOCKS).unwrap(), 1);
    assert_eq!(rig.refused(&beyond), Sense::LBA_OUT_OF_RANGE);
}

#[test]
fn verify_reads_piece_by_piece() {
    let mut rig = Rig::new();
    let data: Vec<u8> = (0..300 * 512_u32).map(|at| (at / 512).to_le_bytes()[0]).collect();
    let pieces = [(9, 128), (137, 128), (265, 44)].map(|(lba, blocks)| Extent::new(lba, blocks));
    for different in [None, Some(0), Some(1), Some(2)] {
        let mut medium = rig.medium(&cdb_10(0x2f, 0x02, 9, 300), &data);
        let mut at = 0;
        for (number, piece) in pieces.into_iter().enumerate() {
            assert_eq!(next(&mut medium, &data), (Op::Read, piece, 0));
            let end = at + usize::try_from(piece.bytes()).unwrap();
            let mut read = data[at..end].to_vec();
            if different == Some(number) {
                read[5] ^= 1;
                let reply = finished(medium.completed(Outcome::Good, &read, &data));
                assert_eq!(reply.sense, Some(Sense::MISCOMPARE));
                break;
            }
            at = end;
            match medium.completed(Outcome::Good, &read, &data) {
                Progress::Pending => assert!(number < 2),
                end => {
                    assert_eq!((number, finished(end).status), (2, Status::Good));
                }
            }
        }
    }
    let mut medium = rig.medium(&cdb_10(0x2f, 0, 9, 300), &[]);
    assert_eq!(next(&mut medium, &[]), (Op::Read, pieces[0], 0));
    let reply = finished(medium.completed(Outcome::ReadError, &[], &[]));
    assert_eq!(reply.sense, Some(Sense::READ_ERROR.with_information(9)));
}
