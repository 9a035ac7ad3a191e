//! MODE SENSE and MODE SELECT.

use super::Rig;
use crate::scsi::Sense;

fn sense_6(control_and_page: u8, subpage: u8) -> [u8; 6] {
    [0x1a, 0x08, control_and_page, subpage, 255, 0]
}

/// Pages after a header without block descriptor: (code, subpage, body).
fn pages(data: &[u8]) -> Vec<(u8, u8, Vec<u8>)> {
    assert_eq!(usize::from(data[0]), data.len() - 1);
    assert_eq!(data[1..4], [0, 0x10, 0], "DPOFUA, not write protected, no block descriptor");
    let mut rest = &data[4..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let (header, subpage, len) = match rest[0] & 0x40 {
            0 => (2, 0, usize::from(rest[1])),
            _ => (4, rest[1], usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
        };
        found.push((rest[0] & 0x3f, subpage, rest[header..header + len].to_vec()));
        rest = &rest[header + len..];
    }
    found
}

fn names(found: &[(u8, u8, Vec<u8>)]) -> Vec<(u8, u8, usize)> {
    found.iter().map(|(code, subpage, body)| (*code, *subpage, body.len())).collect()
}

#[test]
fn all_pages() {
    let mut rig = Rig::new();
    let found = names(&pages(&rig.ask(&sense_6(0x3f, 0))));
    assert_eq!(found, [(1, 0, 10), (8, 0, 18), (0x0a, 0, 10), (0x1c, 0, 10)]);
    let found = names(&pages(&rig.ask(&sense_6(0x3f, 0xff))));
    assert_eq!(found, [(1, 0, 10), (8, 0, 18), (0x0a, 0, 10), (0x0a, 1, 28), (0x1c, 0, 10)]);
    let found = names(&pages(&rig.ask(&sense_6(0x0a, 0xff))));
    assert_eq!(found, [(0x0a, 0, 10), (0x0a, 1, 28)]);
    assert_eq!(rig.refused(&sense_6(0x3f, 1)), Sense::invalid_in_cdb(3, None));
}

#[test]
fn the_cache_is_as_the_volume_promises() {
    let mut rig = Rig::new();
    assert_eq!(pages(&rig.ask(&sense_6(0x08, 0)))[0].2[0], 0, "WCE = 0");
    rig.unit.write_cache = true;
    assert_eq!(pages(&rig.ask(&sense_6(0x08, 0)))[0].2[0], 4, "WCE = 1");
    assert_eq!(pages(&rig.ask(&sense_6(0x88, 0)))[0].2[0], 4, "default");
}

#[test]
fn control_pages() {
    let mut rig = Rig::new();
    assert_eq!(pages(&rig.ask(&sense_6(0x0a, 0)))[0].2, [2, 0x10, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(pages(&rig.ask(&sense_6(0x0a, 1)))[0].2[0], 1, "IALUAE");
    assert_eq!(pages(&rig.ask(&sense_6(0x1c, 0)))[0].2[0], 8, "DEXCPT");
}

#[test]
fn nothing_can_be_changed_or_saved() {
    let mut rig = Rig::new();
    for (_, _, body) in pages(&rig.ask(&sense_6(0x40 | 0x3f, 0xff))) {
        assert!(body.iter().all(|byte| *byte == 0));
    }
    assert_eq!(rig.refused(&sense_6(0xc0 | 0x0a, 0)), Sense::SAVING_NOT_SUPPORTED);
    assert_eq!(rig.refused(&sense_6(0x02, 0)), Sense::invalid_in_cdb(2, Some(5)));
    assert_eq!(rig.refused(&sense_6(0x1c, 2)), Sense::invalid_in_cdb(3, None), "as ESXi probes it");
}

#[test]
fn block_descriptors() {
    let mut rig = Rig::new();
    let data = rig.ask(&[0x1a, 0, 0x1c, 0, 255, 0]);
    assert_eq!(data[..12], [23, 0, 0x10, 8, 0, 0x20, 0, 0, 0, 0, 2, 0]);
    let data = rig.ask(&[0x5a, 0, 0x1c, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(data[..16], [0, 26, 0, 0x10, 0, 0, 0, 8, 0, 0x20, 0, 0, 0, 0, 2, 0]);
    let data = rig.ask(&[0x5a, 0x10, 0x1c, 0, 0, 0, 0, 0, 255, 0]);
    assert_eq!(data[..8], [0, 34, 0, 0x10, 1, 0, 0, 16]);
    assert_eq!(data[8..24], [0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
    assert_eq!(rig.ask(&[0x5a, 0x18, 0x1c, 0, 0, 0, 0, 0, 255, 0]).len(), 20);
    assert_eq!(rig.ask(&[0x1a, 0, 0x1c, 0, 3, 0]).len(), 3);
}

fn select_6(rig: &mut Rig, list: &[u8]) -> Option<Sense> {
    let len = u8::try_from(list.len()).unwrap();
    rig.reply(&[0x15, 0x10, 0, 0, len, 0], list).sense
}

#[test]
fn what_was_sensed_can_be_selected() {
    let mut rig = Rig::new();
    for flags in [0x00, 0x08] {
        let mut list = rig.ask(&[0x1a, flags, 0x3f, 0xff, 255, 0]);
        list[0] = 0;
        assert_eq!(select_6(&mut rig, &list), None);
        let data = rig.ask(&[0x5a, flags | 0x10, 0x3f, 0xff, 0, 0, 0, 1, 0, 0]);
        let len = u8::try_from(data.len()).unwrap();
        rig.good(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, len, 0], &data);
    }
    assert_eq!(select_6(&mut rig, &[]), None);
    assert_eq!(select_6(&mut rig, &[0, 0, 0, 0]), None);
}

#[test]
fn a_change_is_refused_where_it_stands() {
    let mut rig = Rig::new();
    let list = rig.ask(&sense_6(0x0a, 0));
    let mut changed = list.clone();
    changed[4 + 2] |= 0x04; // D_SENSE
    assert_eq!(select_6(&mut rig, &changed), Some(Sense::invalid_in_list(6, None)));
    let mut changed = list.clone();
    changed[4 + 4] |= 0x08; // SWP
    assert_eq!(select_6(&mut rig, &changed), Some(Sense::invalid_in_list(8, None)));
    let mut unknown = list.clone();
    unknown[4] = 0x02;
    assert_eq!(select_6(&mut rig, &unknown), Some(Sense::invalid_in_list(4, None)));
    for len in [1, 3, 5, 10, 15] {
        assert_eq!(select_6(&mut rig, &list[..len]), Some(Sense::PARAMETER_LIST_LENGTH), "{len}");
    }
    assert_eq!(select_6(&mut rig, &[0, 1, 0, 0]), Some(Sense::invalid_in_list(1, None)), "medium type");
    let resize = [0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 2, 0];
    assert_eq!(select_6(&mut rig, &resize), Some(Sense::invalid_in_list(4, None)));
    let reformat = [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0x10, 0];
    assert_eq!(select_6(&mut rig, &reformat), Some(Sense::invalid_in_list(9, None)));
    assert_eq!(select_6(&mut rig, &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 2]), Some(Sense::invalid_in_list(3, None)));
}

#[test]
fn lists_as_the_cdb_tells() {
    let mut rig = Rig::new();
    assert_eq!(rig.refused(&[0x15, 0x10, 0, 0, 24, 0]), Sense::PARAMETER_LIST_LENGTH, "no data came");
    assert_eq!(rig.refused(&[0x15, 0x11, 0, 0, 0, 0]), Sense::invalid_in_cdb(1, Some(0)), "SP");
    assert_eq!(rig.refused(&[0x15, 0x00, 0, 0, 4, 0]), Sense::invalid_in_cdb(1, Some(4)), "PF");
    assert_eq!(rig.reply(&[0x15, 0x10, 0, 0, 24, 0], &[]).wanted, 24);
}
