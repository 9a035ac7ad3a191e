//! What a path that does not serve answers (DESIGN 5).

use super::{Rig, cdb_10, cdb_16};
use crate::block::{Op, Outcome, Refusal};
use crate::scsi::table::{Kind, TABLE};
use crate::scsi::{AccessState, DataIn, End, Execution, Progress, Sense, Status};

/// A CDB of every command, valid and not empty, with its data.
fn commands() -> Vec<(Kind, Vec<u8>, Vec<u8>)> {
    let block = vec![0; 512];
    TABLE
        .iter()
        .map(|entry| {
            let mut cdb = vec![0; usize::from(entry.len)];
            cdb[0] = entry.opcode();
            cdb[1] = entry.action.unwrap_or(0);
            let data = match entry.kind {
                Kind::Unmap => {
                    cdb[8] = 24;
                    vec![0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 0]
                }
                Kind::CompareAndWrite => {
                    cdb[13] = 1;
                    block.repeat(2)
                }
                Kind::ModeSense => {
                    cdb[2] = 0x0a;
                    Vec::new()
                }
                Kind::StartStopUnit => {
                    cdb[4] = 1;
                    Vec::new()
                }
                Kind::ReportSupportedTaskManagement => {
                    cdb[9] = 16;
                    Vec::new()
                }
                Kind::Read
                | Kind::Write
                | Kind::WriteAndVerify
                | Kind::Verify
                | Kind::WriteSame
                | Kind::PreFetch => {
                    let at = match entry.len {
                        6 => 4,
                        10 => 8,
                        12 => 9,
                        _ => 13,
                    };
                    cdb[at] = 1;
                    block.clone()
                }
                _ => Vec::new(),
            };
            (entry.kind, cdb, data)
        })
        .collect()
}

#[test]
fn an_active_path_answers_everything() {
    for state in [AccessState::ActiveOptimized, AccessState::ActiveNonOptimized] {
        for (_, cdb, data) in commands() {
            if let Execution::Done(reply) = Rig::at(state).run(&cdb, &data) {
                assert_eq!((reply.status, reply.sense), (Status::Good, None), "{cdb:02x?}");
            }
        }
    }
}

#[test]
fn standby_answers_exactly_what_the_design_lists() {
    for state in [AccessState::Standby, AccessState::Transitioning, AccessState::Unavailable] {
        for (kind, cdb, data) in commands() {
            let listed = matches!(
                kind,
                Kind::Inquiry
                    | Kind::ReportLuns
                    | Kind::ReportTargetPortGroups
                    | Kind::RequestSense
                    | Kind::ReadCapacity10
                    | Kind::ReadCapacity16
                    | Kind::ModeSense
                    | Kind::LogSense
                    | Kind::ReportSupportedOpcodes
            );
            match Rig::at(state).run(&cdb, &data) {
                Execution::Done(reply) => {
                    assert_eq!(reply.sense, (!listed).then_some(Sense::STANDBY), "{cdb:02x?}");
                }
                // Held or refused by the volume.
                Execution::Medium(_) => assert!(!listed, "{cdb:02x?}"),
            }
        }
    }
}

#[test]
fn the_volume_refuses_media_commands() {
    let outcomes = [
        (Refusal::Standby, Status::CheckCondition, Some(Sense::STANDBY)),
        (Refusal::Transition, Status::CheckCondition, Some(Sense::STANDBY)),
        (Refusal::Busy, Status::TaskSetFull, None),
        (Refusal::Again, Status::Busy, None),
    ];
    for (refusal, status, sense) in outcomes {
        let mut medium = Rig::at(AccessState::Transitioning).medium(&cdb_10(0x28, 0, 0, 1), &[]);
        assert_eq!(medium.next(&[]).unwrap().request.op, Op::Read);
        let Progress::Finished(End::Reply(reply)) = medium.completed(Outcome::Refused(refusal), &[], &[])
        else {
            panic!()
        };
        assert_eq!((reply.status, reply.sense, reply.data_in), (status, sense, DataIn::None));
    }
}

#[test]
fn an_empty_media_command_does_not_pretend_to_be_served() {
    let mut rig = Rig::at(AccessState::Standby);
    assert_eq!(rig.refused(&cdb_10(0x28, 0, 0, 0)), Sense::STANDBY);
    assert_eq!(rig.refused(&cdb_16(0x8a, 0, 0, 0)), Sense::STANDBY);
    assert_eq!(rig.refused(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Sense::STANDBY);
}

#[test]
fn request_sense_tells_why_it_is_not_ready() {
    for (state, code) in [(AccessState::Standby, (0x04, 0x0b)), (AccessState::Transitioning, (0x04, 0x0a))] {
        let data = Rig::at(state).ask(&[0x03, 0, 0, 0, 18, 0]);
        assert_eq!((data[2], data[12], data[13]), (2, code.0, code.1));
    }
}

#[test]
fn unmap_is_no_command_of_a_thick_volume() {
    let mut rig = Rig::thick();
    assert_eq!(rig.refused(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Sense::INVALID_OPCODE);
    let same = cdb_10(0x41, 0x08, 0, 1);
    assert_eq!(rig.refused_with(&same, &[0; 512]), Sense::invalid_in_cdb(1, Some(3)));
    rig.medium(&cdb_10(0x41, 0, 0, 1), &[0; 512]);
}

#[test]
fn states_that_are_not_told_are_not_announced_either() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&[0x12, 0, 0, 0, 96, 0])[5], 0x10, "TPGS implicit");
    rig.access.told = false;
    assert_eq!(rig.ask(&[0x12, 0, 0, 0, 96, 0])[5], 0);
    assert_eq!(rig.refused(&[0; 6]).code, (0x3f, 0x03), "INQUIRY data have changed");
    rig.access.own.state = AccessState::Standby;
    rig.changes.access += 1;
    assert_eq!(rig.refused(&[0; 6]), Sense::STANDBY, "no 2A/06; a host finds out by trying");
    rig.access.told = true;
    rig.changes.access += 1;
    assert_eq!(rig.refused(&[0; 6]).code, (0x2a, 0x06));
    assert_eq!(rig.refused(&[0; 6]).code, (0x3f, 0x03));
    assert_eq!(rig.refused(&[0; 6]), Sense::STANDBY);
}
