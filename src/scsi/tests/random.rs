//! Whatever a host sends: no panic, no more data than it has room for, no block outside the volume.

use proptest::prelude::*;

use super::{BLOCKS, Rig};
use crate::block::{Op, Outcome, Refusal};
use crate::scsi::table::TABLE;
use crate::scsi::{AccessState, DataIn, Execution, Progress, Status};

/// A CDB that is often a command of the table with few bits set.
fn cdb() -> impl Strategy<Value = [u8; 16]> {
    let wild = any::<[u8; 16]>();
    let byte = prop_oneof![4 => Just(0_u8), 1 => 0..10_u8, 1 => any::<u8>()];
    let tame =
        (0..TABLE.len(), proptest::array::uniform16(byte), any::<bool>()).prop_map(|(at, mut cdb, keep)| {
            let entry = &TABLE[at];
            for (given, usage) in cdb.iter_mut().zip(entry.usage) {
                *given &= if keep { 0xff } else { usage };
            }
            cdb[0] = entry.opcode();
            if let Some(action) = entry.action {
                cdb[1] = cdb[1] & 0xe0 | action;
            }
            cdb
        });
    prop_oneof![1 => wild, 4 => tame]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    let blocks = (0..6_usize, any::<u8>()).prop_map(|(blocks, fill)| vec![fill; blocks * 512]);
    let lists = proptest::collection::vec(prop_oneof![3 => Just(0_u8), 1 => any::<u8>()], 0..200);
    prop_oneof![blocks, lists]
}

fn state() -> impl Strategy<Value = AccessState> {
    prop_oneof![
        Just(AccessState::ActiveOptimized),
        Just(AccessState::Standby),
        Just(AccessState::Transitioning)
    ]
}

/// The allocation length as the standards place it, by operation code.
fn room(cdb: &[u8; 16]) -> usize {
    let long = |at: usize| u32::from_be_bytes(cdb[at..at + 4].try_into().unwrap()) as usize;
    match cdb[0] {
        0x03 | 0x1a => usize::from(cdb[4]),
        0x12 => usize::from(u16::from_be_bytes([cdb[3], cdb[4]])),
        0x37 | 0x4d | 0x5a => usize::from(u16::from_be_bytes([cdb[7], cdb[8]])),
        0x9e => long(10),
        0xa0 | 0xa3 | 0xb7 => long(6),
        0x25 => 8,
        _ => 0,
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        20 => Just(Outcome::Good),
        1 => Just(Outcome::Aborted),
        1 => Just(Outcome::NoSpace),
        1 => Just(Outcome::Miscompare { offset: 3 }),
        1 => Just(Outcome::Refused(Refusal::Busy)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn any_command_is_answered_within_its_room(
        cdb in cdb(),
        data in data(),
        state in state(),
        thin in any::<bool>(),
        write_cache in any::<bool>(),
        outcomes in proptest::collection::vec(outcome(), 1..40),
    ) {
        let mut rig = Rig::at(state);
        rig.unit.thin = thin;
        rig.unit.write_cache = write_cache;
        match rig.run(&cdb, &data) {
            Execution::Done(reply) => {
                prop_assert!(rig.out.len() <= room(&cdb), "{} bytes", rig.out.len());
                prop_assert_eq!(reply.data_in == DataIn::Parameter, !rig.out.is_empty());
                prop_assert_eq!(reply.status == Status::CheckCondition, reply.sense.is_some());
            }
            Execution::Medium(mut medium) => {
                prop_assert!(rig.out.is_empty());
                let (mut running, mut ends) = (0, 0_u64);
                for outcome in outcomes.iter().cycle() {
                    while let Some(submission) = medium.next(&data) {
                        let extent = submission.request.extent;
                        prop_assert!(extent.end() <= BLOCKS);
                        let bytes = match submission.request.op {
                            Op::Write => extent.bytes(),
                            Op::WriteSame => 512,
                            Op::CompareAndWrite => 2 * extent.bytes(),
                            _ => 0,
                        };
                        prop_assert_eq!(data.get(submission.data).unwrap().len() as u64, bytes);
                        running += 1;
                    }
                    prop_assert!(running > 0, "nothing runs, and it is not over");
                    running -= 1;
                    ends += 1;
                    // VERIFY takes the medium in pieces of 64 KiB.
                    prop_assert!(ends < 100 + BLOCKS / 128);
                    if let Progress::Finished(_) = medium.completed(*outcome, &[], &data) {
                        prop_assert_eq!(running, 0);
                        prop_assert_eq!(medium.next(&[]), None);
                        break;
                    }
                }
            }
        }
    }
}
