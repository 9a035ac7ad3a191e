//! INQUIRY.

use super::{Rig, lun};
use crate::scsi::{Execution, Identity, Sense, Status};

fn page(rig: &mut Rig, page: u8) -> Vec<u8> {
    let data = rig.ask(&[0x12, 1, page, 0xff, 0xff, 0]);
    assert_eq!(data[1], page);
    assert_eq!(usize::from(u16::from_be_bytes([data[2], data[3]])), data.len() - 4);
    data
}

#[test]
fn standard_data() {
    let data = Rig::new().ask(&[0x12, 0, 0, 1, 0, 0]);
    assert_eq!(data.len(), 96);
    // A disk, not removable, SPC-4, hierarchical, format 2, TPGS implicit, multi-port, queueing.
    assert_eq!(data[..8], [0x00, 0x00, 0x06, 0x12, 91, 0x10, 0x10, 0x02]);
    assert_eq!(&data[8..36], b"TWINLUN VV              0.1 ");
    assert_eq!(data[58..66], [0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
}

#[test]
fn allocation_length_cuts_and_leaves_the_length_inside() {
    let mut rig = Rig::new();
    for allocation in [0, 5, 36, 95, 96, 255] {
        let data = rig.ask(&[0x12, 0, 0, 0, allocation, 0]);
        assert_eq!(data.len(), usize::from(allocation).min(96));
        assert!(data.len() < 5 || data[4] == 91);
    }
}

#[test]
fn fields_that_make_no_sense_are_pointed_at() {
    let mut rig = Rig::new();
    assert_eq!(rig.refused(&[0x12, 0, 0x80, 0, 255, 0]), Sense::invalid_in_cdb(2, None));
    assert_eq!(rig.refused(&[0x12, 1, 0xb5, 0, 255, 0]), Sense::invalid_in_cdb(2, None));
    assert_eq!(rig.refused(&[0x12, 2, 0, 0, 255, 0]), Sense::invalid_in_cdb(1, Some(1)), "CMDDT");
    assert_eq!(rig.refused(&[0x12, 0, 0, 0, 255, 4]), Sense::invalid_in_cdb(5, Some(2)), "NACA");
}

#[test]
fn every_page_listed_is_there() {
    let mut rig = Rig::new();
    let list = page(&mut rig, 0x00);
    assert_eq!(list, [0, 0, 0, 7, 0x00, 0x80, 0x83, 0x86, 0xb0, 0xb1, 0xb2]);
    for code in &list[4..] {
        assert_eq!(page(&mut rig, *code)[0], 0);
    }
    for code in 0..=0xff {
        let there = list[4..].contains(&code);
        assert_eq!(rig.reply(&[0x12, 1, code, 1, 0, 0], &[]).status == Status::Good, there, "{code:02x}");
    }
}

#[test]
fn serial_number() {
    assert_eq!(page(&mut Rig::new(), 0x80)[4..], *b"TWL0000001");
}

/// Reads designators back: (protocol and code set, association and type, bytes).
fn designators(data: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    let mut rest = &data[4..];
    let mut found = Vec::new();
    while let [code, kind, 0, len, ..] = *rest {
        found.push((code, kind, rest[4..4 + usize::from(len)].to_vec()));
        rest = &rest[4 + usize::from(len)..];
    }
    assert!(rest.is_empty());
    found
}

#[test]
fn device_identification() {
    let mut rig = Rig::new();
    rig.access.own.id = 0x100;
    let found = designators(&page(&mut rig, 0x83));
    let naa = found.iter().filter(|(code, kind, _)| (*code, *kind) == (0x01, 0x03)).collect::<Vec<_>>();
    assert_eq!(naa.len(), 1, "ESXi wants one");
    assert_eq!(naa[0].2, rig.unit.identity.naa);
    assert_eq!(found[1], (0x02, 0x01, b"TWINLUN VV              TWL0000001".to_vec()));
    assert_eq!(found[2], (0x51, 0x94, vec![0, 0, 0, 2]), "relative target port");
    assert_eq!(found[3], (0x51, 0x95, vec![0, 0, 1, 0]), "target port group");
    // Names end with a zero and fill four bytes.
    assert_eq!(found[4], (0x53, 0x98, b"iqn.2026-01.test:a,t,0x0001\0".to_vec()));
    assert_eq!(found[5], (0x53, 0xa8, b"iqn.2026-01.test:a\0\0".to_vec()));
    assert_eq!(found.len(), 6);
}

#[test]
fn longest_names_still_fit() {
    let mut rig = Rig::new();
    rig.unit.identity.serial = "s".repeat(500);
    rig.port.name = "n".repeat(500);
    rig.port.device = "d".repeat(223);
    assert_eq!(page(&mut rig, 0x80).len(), 4 + Identity::SERIAL_MAX);
    let found = designators(&page(&mut rig, 0x83));
    assert_eq!(found[5].2.len(), 224);
    assert!(found.iter().all(|(_, _, bytes)| bytes.len() < 256));
}

#[test]
fn extended_inquiry() {
    let mut rig = Rig::new();
    let data = page(&mut rig, 0x86);
    assert_eq!(data.len(), 64);
    assert_eq!(data[4..8], [0, 1, 0, 0], "simple tasks, no volatile cache");
    rig.unit.write_cache = true;
    assert_eq!(page(&mut rig, 0x86)[6], 1, "V_SUP");
}

#[test]
fn block_limits() {
    let data = page(&mut Rig::new(), 0xb0);
    assert_eq!(data.len(), 64);
    assert_eq!(data[4..8], [0x01, 255, 0, 8]);
    let words: Vec<_> =
        data[8..36].chunks(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
    assert_eq!(words, [16384, 2048, 0, 1 << 20, 256, 8, 0x8000_0000]);
    assert_eq!(data[36..44], (16 * 1024_u64).to_be_bytes());
    assert!(page(&mut Rig::thick(), 0xb0)[20..36].iter().all(|byte| *byte == 0), "no UNMAP");
}

#[test]
fn characteristics_and_provisioning() {
    let mut rig = Rig::new();
    let data = page(&mut rig, 0xb1);
    assert_eq!((data.len(), &data[4..6]), (64, &[0, 1][..]));
    // LBPU, LBPWS, LBPWS10, LBPRZ; thin.
    assert_eq!(page(&mut rig, 0xb2)[4..], [11, 0xe4, 2, 0]);
    assert_eq!(page(&mut Rig::thick(), 0xb2)[4..], [0, 0, 0, 0]);
}

#[test]
fn a_lun_without_a_unit() {
    let mut rig = Rig::new();
    let mut run = |cdb: &[u8]| match rig.run_at(3, cdb, &[]) {
        Execution::Done(reply) => (reply.sense, rig.out.clone()),
        Execution::Medium(_) => panic!(),
    };
    let (sense, data) = run(&[0x12, 0, 0, 0, 255, 0]);
    assert_eq!((sense, data[0], data.len()), (None, 0x7f, 36));
    assert_eq!(data[4], 31);
    assert_eq!(run(&[0x12, 1, 0, 0, 255, 0]).1, [0x7f, 0, 0, 1, 0]);
    assert_eq!(run(&[0x12, 1, 0x83, 0, 255, 0]).0, Some(Sense::invalid_in_cdb(2, None)));
    // REPORT LUNS works, REQUEST SENSE says why nothing else does.
    assert_eq!(run(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0]).1.len(), 16);
    let (sense, data) = run(&[0x03, 0, 0, 0, 18, 0]);
    assert_eq!((sense, data[2], data[12]), (None, 5, 0x25));
    for cdb in [&[0; 6][..], &[0x28; 10], &[0x16, 0, 0, 0, 0, 0], &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0]]
    {
        assert_eq!(run(cdb).0, Some(Sense::UNIT_NOT_SUPPORTED), "{cdb:02x?}");
    }
    assert!(rig.luns.contains(&lun(0)));
}
