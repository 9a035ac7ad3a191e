//! Capacity, LUNs, target port groups, supported commands, logs.

use super::{BLOCKS, Rig, cdb_16, lun};
use crate::scsi::{AccessState, PortGroup, Sense, Space, Status};

#[test]
fn capacity() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]), [0, 0x1f, 0xff, 0xff, 0, 0, 2, 0]);
    let long = cdb_16(0x9e, 0x10, 0, 32);
    let data = rig.ask(&long);
    assert_eq!(data[..16], [0, 0, 0, 0, 0, 0x1f, 0xff, 0xff, 0, 0, 2, 0, 0, 3, 0xc0, 0]);
    assert_eq!(data.len(), 32);
    assert_eq!(rig.ask(&cdb_16(0x9e, 0x10, 0, 12)).len(), 12);
    // 64 TiB: only READ CAPACITY(16) can tell.
    rig.unit.blocks = 1 << 37;
    assert_eq!(rig.refused(&[0; 6]).code, (0x2a, 0x09));
    assert_eq!(rig.ask(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0])[..4], [0xff; 4]);
    assert_eq!(rig.ask(&long)[..8], ((1_u64 << 37) - 1).to_be_bytes());
    assert_eq!(Rig::thick().ask(&long)[14], 0, "LBPME and LBPRZ are for thin volumes");
}

#[test]
fn lba_status() {
    let mut rig = Rig::new();
    let data = rig.ask(&cdb_16(0x9e, 0x12, 16, 100));
    assert_eq!(data[..8], [0, 0, 0, 20, 0, 0, 0, 0]);
    assert_eq!(data[8..16], 16_u64.to_be_bytes());
    assert_eq!(data[16..24], [0, 0x1f, 0xff, 0xf0, 0, 0, 0, 0]);
    assert_eq!(rig.refused(&cdb_16(0x9e, 0x12, BLOCKS, 24)), Sense::LBA_OUT_OF_RANGE);
    assert_eq!(rig.refused(&cdb_16(0x9e, 0x11, 0, 24)), Sense::invalid_in_cdb(1, Some(4)));
}

#[test]
fn luns() {
    let mut rig = Rig::new();
    rig.luns = vec![lun(0), lun(7), lun(300)];
    let mut report =
        |select, allocation: u8| rig.reply(&[0xa0, 0, select, 0, 0, 0, 0, 0, 0, allocation, 0, 0], &[]);
    assert_eq!(report(0, 255).status, Status::Good);
    assert_eq!(report(0x03, 255).sense, Some(Sense::invalid_in_cdb(2, None)));
    let mut ask = |select, allocation| rig.ask(&[0xa0, 0, select, 0, 0, 0, 0, 0, 0, allocation, 0, 0]);
    let all = ask(0, 255);
    assert_eq!(all[..8], [0, 0, 0, 24, 0, 0, 0, 0]);
    assert_eq!(all[8..16], [0; 8]);
    assert_eq!(all[16..24], [0, 7, 0, 0, 0, 0, 0, 0]);
    assert_eq!(all[24..], [0x41, 0x2c, 0, 0, 0, 0, 0, 0]);
    assert_eq!(ask(2, 255), all);
    assert_eq!(ask(0x11, 255), all);
    for select in [0x01, 0x10, 0x12] {
        assert_eq!(ask(select, 255), [0; 8], "none of those");
    }
    assert_eq!(ask(0, 20), all[..20]);
}

#[test]
fn target_port_groups() {
    let mut rig = Rig::new();
    let short = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let own = [0x00, 0x87, 0, 1, 0, 2, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
    let data = rig.ask(&short);
    assert_eq!(data[..4], [0, 0, 0, 16]);
    assert_eq!(data[4..], own);
    rig.access.other = Some(PortGroup { id: 256, state: AccessState::Standby, ports: vec![256] });
    let data = rig.ask(&[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(data[..8], [0, 0, 0, 32, 0x10, 5, 0, 0], "extended header with the transition time");
    assert_eq!(data[8..24], own);
    assert_eq!(data[24..], [0x02, 0x87, 1, 0, 0, 2, 0, 1, 0, 0, 1, 0]);
    assert_eq!(rig.refused(&[0xa3, 0x4a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), Sense::invalid_in_cdb(1, Some(7)));
    for (state, code) in [
        (AccessState::ActiveOptimized, 0x00),
        (AccessState::ActiveNonOptimized, 0x01),
        (AccessState::Standby, 0x02),
        (AccessState::Unavailable, 0x03),
        (AccessState::Transitioning, 0x0f),
    ] {
        rig.access.own.state = state;
        assert_eq!(rig.ask(&short)[4], code);
    }
}

fn rsoc(options: u8, opcode: u8, action: u8) -> [u8; 12] {
    [0xa3, 0x0c, options, opcode, 0, action, 0, 0, 0xff, 0xff, 0, 0]
}

/// (operation code, service action if it has one, CDB length)
fn all_commands(data: &[u8], step: usize) -> Vec<(u8, Option<u8>, u8)> {
    assert_eq!(u32::from_be_bytes(data[..4].try_into().unwrap()) as usize, data.len() - 4);
    let command = |bytes: &[u8]| (bytes[0], (bytes[5] & 1 != 0).then_some(bytes[3]), bytes[7]);
    data[4..].chunks(step).map(command).collect()
}

#[test]
fn supported_opcodes_agree_with_what_is_carried_out() {
    for mut rig in [Rig::new(), Rig::thick()] {
        let commands = all_commands(&rig.ask(&rsoc(0, 0, 0)), 8);
        for opcode in 0..=0xff {
            let actions = if matches!(opcode, 0x9e | 0xa3) { 0..=0x1f } else { 0..=0 };
            for action in actions {
                let listed =
                    commands.iter().any(|(listed, of, _)| *listed == opcode && of.unwrap_or(0) == action);
                let mut cdb = [0; 16];
                (cdb[0], cdb[1]) = (opcode, action);
                let sense = match rig.run(&cdb, &[]) {
                    crate::scsi::Execution::Done(reply) => reply.sense,
                    crate::scsi::Execution::Medium(_) => None,
                };
                let unknown = sense == Some(Sense::INVALID_OPCODE)
                    || actions_only(opcode) && sense == Some(Sense::invalid_in_cdb(1, Some(4)));
                assert_eq!(listed, !unknown, "{opcode:02x}/{action:02x}: {sense:?}");
                let option = if actions_only(opcode) { 2 } else { 1 };
                let one = rig.ask(&rsoc(option, opcode, action));
                assert_eq!(one[1], if listed { 3 } else { 1 }, "{opcode:02x}/{action:02x}");
                assert_eq!(rig.ask(&rsoc(3, opcode, action)), one);
            }
        }
    }
}

fn actions_only(opcode: u8) -> bool {
    matches!(opcode, 0x9e | 0xa3)
}

#[test]
fn supported_opcodes_with_timeouts() {
    let mut rig = Rig::new();
    let plain = rig.ask(&rsoc(0, 0, 0));
    let timed = rig.ask(&rsoc(0x80, 0, 0));
    assert_eq!(all_commands(&plain, 8), all_commands(&timed, 20));
    assert!(timed[4..].chunks(20).all(|command| command[5] & 2 != 0 && command[9] == 10));
    let one = rig.ask(&rsoc(0x81, 0x28, 0));
    assert_eq!(one[..4], [0, 0x83, 0, 10]);
    assert_eq!(one[4..14], [0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0]);
    assert_eq!(one[14..], [0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rig.ask(&rsoc(2, 0x9e, 0x10))[4..6], [0x9e, 0x10], "usage tells the service action");
}

#[test]
fn supported_opcodes_refuses_the_wrong_option() {
    let mut rig = Rig::new();
    let wrong = Sense::invalid_in_cdb(2, Some(2));
    assert_eq!(rig.refused(&rsoc(1, 0x9e, 0x10)), wrong);
    assert_eq!(rig.refused(&rsoc(2, 0x28, 0)), wrong);
    assert_eq!(rig.refused(&rsoc(4, 0x28, 0)), wrong);
    assert_eq!(rig.ask(&rsoc(3, 0x28, 1)), [0, 1, 0, 0]);
    let beyond = [0xa3, 0x0c, 2, 0x9e, 1, 0x10, 0, 0, 0xff, 0xff, 0, 0];
    assert_eq!(rig.ask(&beyond), [0, 1, 0, 0], "no service action 0110h");
}

#[test]
fn supported_task_management() {
    let mut rig = Rig::new();
    let cdb = |flags, allocation| [0xa3, 0x0d, flags, 0, 0, 0, 0, 0, 0, allocation, 0, 0];
    assert_eq!(rig.ask(&cdb(0, 16)), [0xda, 0, 0, 0]);
    assert_eq!(rig.ask(&cdb(0x80, 255)), [0xda, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rig.refused(&cdb(0, 3)), Sense::invalid_in_cdb(6, None));
}

#[test]
fn logs() {
    let mut rig = Rig::new();
    let cdb = |page, subpage, pointer| [0x4d, 0, page, subpage, 0, 0, pointer, 0, 255, 0];
    assert_eq!(rig.ask(&cdb(0, 0, 0)), [0, 0, 0, 1, 0]);
    assert_eq!(rig.refused(&cdb(0x0c, 0, 0)), Sense::invalid_in_cdb(2, Some(5)), "space not known");
    rig.space = Some(Space { available_blocks: 10 << 11, used_blocks: (3 << 11) + 1 });
    assert_eq!(rig.ask(&cdb(0, 0, 0)), [0, 0, 0, 2, 0, 0x0c]);
    assert_eq!(rig.ask(&cdb(0, 0xff, 0)), [0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 0x0c, 0]);
    let whole = rig.ask(&cdb(0x0c, 0, 0));
    assert_eq!(whole[..4], [0x0c, 0, 0, 24]);
    assert_eq!(whole[4..16], [0, 1, 3, 8, 0, 0, 0, 10, 2, 0, 0, 0]);
    assert_eq!(whole[16..], [0, 2, 3, 8, 0, 0, 0, 3, 1, 0, 0, 0]);
    let second = rig.ask(&cdb(0x0c, 0, 2));
    assert_eq!((&second[..4], &second[4..]), (&[0x0c, 0, 0, 12][..], &whole[16..]));
    assert_eq!(rig.refused(&cdb(0x0c, 0, 3)), Sense::invalid_in_cdb(5, None));
    assert_eq!(rig.refused(&cdb(0x0c, 1, 0)), Sense::invalid_in_cdb(3, None));
    assert_eq!(rig.refused(&cdb(0x2f, 0, 0)), Sense::invalid_in_cdb(2, Some(5)));
    assert_eq!(rig.refused(&[0x4d, 1, 0, 0, 0, 0, 0, 0, 255, 0]), Sense::invalid_in_cdb(1, Some(0)), "SP");
}

#[test]
fn request_sense() {
    let mut rig = Rig::new();
    let fixed = rig.ask(&[0x03, 0, 0, 0, 252, 0]);
    assert_eq!(fixed, [0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rig.ask(&[0x03, 1, 0, 0, 252, 0]), [0x72, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rig.ask(&[0x03, 0, 0, 0, 4, 0]), fixed[..4]);
}

#[test]
fn units_are_started_and_never_stopped() {
    let mut rig = Rig::new();
    rig.good(&[0x1b, 0, 0, 0, 1, 0], &[]);
    rig.good(&[0x1b, 1, 0, 0, 1, 0], &[]);
    assert_eq!(rig.refused(&[0x1b, 0, 0, 0, 0, 0]), Sense::invalid_in_cdb(4, Some(0)));
    assert_eq!(rig.refused(&[0x1b, 0, 0, 0, 2, 0]), Sense::invalid_in_cdb(4, Some(1)), "LOEJ");
    assert_eq!(rig.refused(&[0x1b, 0, 0, 0, 0x11, 0]), Sense::invalid_in_cdb(4, Some(7)));
    rig.good(&[0x1e, 0, 0, 0, 1, 0], &[]);
    rig.good(&[0x1e, 0, 0, 0, 0, 0], &[]);
}

#[test]
fn what_is_not_there_yet_is_an_invalid_opcode() {
    // RESERVE and RELEASE, PERSISTENT RESERVE, EXTENDED COPY and its results, SANITIZE, SET TARGET
    // PORT GROUPS, ORWRITE, WRITE ATOMIC, FORMAT UNIT.
    for opcode in [0x16, 0x17, 0x56, 0x57, 0x5e, 0x5f, 0x83, 0x84, 0x48, 0xa4, 0x8b, 0x9c, 0x04] {
        assert_eq!(Rig::new().refused(&[opcode, 0, 0, 0, 0, 0]), Sense::INVALID_OPCODE, "{opcode:02x}");
    }
}

#[test]
fn there_are_no_defects() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask(&[0x37, 0, 0x1d, 0, 0, 0, 0, 0, 255, 0]), [0, 0x1d, 0, 0]);
    assert_eq!(rig.ask(&[0xb7, 0x0c, 0, 0, 0, 9, 0, 0, 0, 255, 0, 0]), [0, 0x0c, 0, 0, 0, 0, 0, 0]);
    assert_eq!(rig.ask(&[0xb7, 0x0c, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]), [0, 0x0c]);
}
