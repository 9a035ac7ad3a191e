//! Unit attentions.

use super::{Rig, lun};
use crate::scsi::{Execution, Nexus, Sense, SenseKey, Status, UnitAttention};

const READY: [u8; 6] = [0; 6];
const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0];

/// The attentions of a LUN in the order they are reported, until there is none.
fn drain_at(rig: &mut Rig, number: u16) -> Vec<(u8, u8)> {
    let mut codes = Vec::new();
    loop {
        match rig.run_at(number, &READY, &[]) {
            Execution::Done(reply) => match reply.sense {
                Some(Sense { key: SenseKey::UnitAttention, code, .. }) => codes.push(code),
                other => {
                    assert_eq!(other, None);
                    return codes;
                }
            },
            Execution::Medium(_) => panic!(),
        }
    }
}

fn drain(rig: &mut Rig) -> Vec<(u8, u8)> {
    drain_at(rig, 0)
}

#[test]
fn the_first_command_hears_why() {
    assert_eq!(drain(&mut Rig::fresh()), [(0x29, 0x00)]);
    let mut rig = Rig::fresh();
    rig.nexus = Nexus::new(UnitAttention::NexusLoss);
    assert_eq!(drain(&mut rig), [(0x29, 0x07)]);
}

#[test]
fn an_attention_comes_before_errors_of_the_cdb_and_before_media_access() {
    for cdb in [
        &[0x16, 0, 0, 0, 0, 0][..],
        &[0x28, 0xff, 0, 0, 0, 0, 0, 0, 1, 0],
        &[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0],
    ] {
        let mut rig = Rig::fresh();
        assert_eq!(rig.refused(cdb).code, (0x29, 0), "{cdb:02x?}");
        assert_eq!(drain(&mut rig), []);
    }
}

#[test]
fn inquiry_and_report_luns_leave_it_pending() {
    let mut rig = Rig::fresh();
    rig.ask(&[0x12, 0, 0, 0, 96, 0]);
    rig.ask(&REPORT_LUNS);
    assert_eq!(rig.refused(&[0x12, 0, 9, 0, 96, 0]), Sense::invalid_in_cdb(2, None));
    assert_eq!(drain(&mut rig), [(0x29, 0x00)]);
}

#[test]
fn request_sense_returns_and_clears_it() {
    let mut rig = Rig::fresh();
    let data = rig.ask(&[0x03, 0, 0, 0, 18, 0]);
    assert_eq!((data[2], data[12], data[13]), (6, 0x29, 0));
    assert_eq!(drain(&mut rig), []);
}

#[test]
fn resets_come_first_and_each_kind_once() {
    let mut rig = Rig::new();
    for attention in [
        UnitAttention::ThinThreshold,
        UnitAttention::ReportedLunsChanged,
        UnitAttention::InquiryDataChanged,
        UnitAttention::ModeParametersChanged,
        UnitAttention::CapacityChanged,
        UnitAttention::AccessStateChanged,
        UnitAttention::CommandsCleared,
        UnitAttention::NexusLoss,
        UnitAttention::BusDeviceReset,
        UnitAttention::PowerOn,
    ] {
        rig.nexus.establish(lun(0), attention);
        rig.nexus.establish(lun(0), attention);
    }
    let order = [
        (0x29, 0x00),
        (0x29, 0x03),
        (0x29, 0x07),
        (0x2f, 0x00),
        (0x2a, 0x06),
        (0x2a, 0x09),
        (0x2a, 0x01),
        (0x3f, 0x03),
        (0x3f, 0x0e),
        (0x38, 0x07),
    ];
    assert_eq!(drain(&mut rig), order);
}

#[test]
fn each_nexus_hears_of_a_change_once() {
    let mut rig = Rig::new();
    let mut other = Rig::new();
    rig.changes.access += 3;
    other.changes = rig.changes;
    for rig in [&mut rig, &mut other] {
        assert_eq!(drain(rig), [(0x2a, 0x06)]);
        assert_eq!(drain(rig), []);
    }
    rig.changes.resets += 1;
    rig.unit.blocks += 8;
    assert_eq!(drain(&mut rig), [(0x29, 0x03), (0x2a, 0x09)]);
    // What changed before the nexus first saw the unit is nothing new to it.
    let mut late = Rig::fresh();
    late.changes = rig.changes;
    assert_eq!(drain(&mut late), [(0x29, 0x00)]);
}

#[test]
fn reported_luns_changed_until_they_were_reported() {
    let mut rig = Rig::new();
    rig.luns.push(lun(1));
    rig.inventory += 1;
    assert_eq!(drain_at(&mut rig, 1), [(0x29, 0x00)], "the new unit");
    assert_eq!(drain(&mut rig), [(0x3f, 0x0e)]);
    rig.luns.push(lun(2));
    rig.inventory += 1;
    rig.ask(&REPORT_LUNS);
    assert_eq!(drain_at(&mut rig, 1), []);
    assert_eq!(drain(&mut rig), []);
    assert_eq!(drain_at(&mut rig, 2), [(0x29, 0x00)]);
}

#[test]
fn a_unit_that_went_and_came_back_starts_anew() {
    let mut rig = Rig::new();
    rig.luns = vec![lun(4)];
    rig.inventory += 1;
    assert_eq!(drain_at(&mut rig, 4), [(0x29, 0x00)]);
    rig.luns = vec![lun(0), lun(4)];
    rig.inventory += 1;
    assert_eq!(drain(&mut rig), [(0x29, 0x00)]);
    assert_eq!(drain_at(&mut rig, 4), [(0x3f, 0x0e)]);
}

#[test]
fn units_have_their_own_attentions() {
    let mut rig = Rig::fresh();
    rig.luns = vec![lun(0), lun(1)];
    assert_eq!(drain_at(&mut rig, 1), [(0x29, 0x00)]);
    assert_eq!(rig.reply(&READY, &[]).status, Status::CheckCondition);
    rig.nexus.establish(lun(1), UnitAttention::BusDeviceReset);
    assert_eq!(drain(&mut rig), []);
    assert_eq!(drain_at(&mut rig, 1), [(0x29, 0x03)]);
}

/// A volume that took another one's LUN between two commands of a host is not what the host knows there.
#[test]
fn another_unit_at_the_same_lun_is_a_new_one() {
    let mut rig = Rig::new();
    assert_eq!(drain(&mut rig), []);
    rig.changes.resets += 1;
    rig.unit.identity.naa[15] ^= 1;
    assert_eq!(drain(&mut rig), [(0x29, 0x00), (0x3f, 0x03)]);
    rig.unit.identity.naa[15] ^= 1;
    rig.inventory += 1;
    assert_eq!(drain(&mut rig), [(0x29, 0x00), (0x3f, 0x03), (0x3f, 0x0e)]);
    assert_eq!(drain(&mut rig), []);
}
