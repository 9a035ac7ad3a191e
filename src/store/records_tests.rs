use super::*;

const SLOTS: Slots =
    Slots { format: Format { magic: *b"TWLNTEST", version: 1, readable_from: 1 }, slot_len: SLOT_UNIT };

fn key(n: u8) -> Key {
    [n; 16]
}

#[test]
fn a_record_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("record");
    let (mut record, body) = RecordFile::open(&path, SLOTS, Engine::Plain).unwrap();
    assert_eq!(body, None);
    for n in 0..5_u8 {
        record.write(&[n; 100]).unwrap();
        let (_, body) = RecordFile::open(&path, SLOTS, Engine::Plain).unwrap();
        assert_eq!(body, Some(vec![n; 100]));
    }
    assert!(matches!(record.write(&[0; 5000]), Err(RecordError::TooLong { .. })));
    assert_eq!(RecordFile::open(&path, SLOTS, Engine::Plain).unwrap().1, Some(vec![4; 100]));
}

#[test]
fn a_table_keeps_many_and_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("votes");
    let (mut table, records) = RecordTable::open(&path, SLOTS.format, Engine::Plain).unwrap();
    assert!(records.is_empty());
    let all: Vec<(Key, Vec<u8>)> = (0..40).map(|n| (key(n), vec![n; 10])).collect();
    table.write(all.iter().map(|(k, v)| (*k, &v[..]))).unwrap();
    table.write([(key(3), &b"again"[..]), (key(99), &b"new"[..])]).unwrap();
    drop(table);
    let (_, records) = RecordTable::open(&path, SLOTS.format, Engine::Plain).unwrap();
    let records: BTreeMap<_, _> = records.into_iter().collect();
    assert_eq!(records.len(), 41);
    assert_eq!(records[&key(3)], b"again");
    assert_eq!(records[&key(99)], b"new");
    assert_eq!(records[&key(39)], vec![39; 10]);
}

#[test]
fn a_damaged_entry_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("votes");
    let (mut table, _) = RecordTable::open(&path, SLOTS.format, Engine::Plain).unwrap();
    for n in 0..2 {
        table.write([(key(1), &[n; 10][..]), (key(2), &[n; 10][..])]).unwrap();
    }
    let good = std::fs::read(&path).unwrap();
    // One slot of entry 1: a cut-off write, the record before it holds.
    let mut torn = good.clone();
    torn[8192 + 4096 + 40] ^= 1;
    std::fs::write(&path, &torn).unwrap();
    let (_, records) = RecordTable::open(&path, SLOTS.format, Engine::Plain).unwrap();
    assert_eq!(records, [(key(1), vec![1; 10]), (key(2), vec![0; 10])]);
    torn[8192 + 40] ^= 1;
    std::fs::write(&path, &torn).unwrap();
    let error = RecordTable::open(&path, SLOTS.format, Engine::Plain).unwrap_err();
    assert!(matches!(error, RecordError::Entry { entry: 1, .. }), "{error}");
}

#[cfg(feature = "testing")]
mod power {
    use super::*;
    use crate::sys::{file::RawFile, volatile};

    /// One life after the other on volatile files, each ended by a power failure: what was reported
    /// durable is there afterwards. True: some record was lost.
    fn loses(mutate: bool) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("votes");
        let mut durable = BTreeMap::new();
        crate::mutation::set(mutate.then_some(Mutation::VoteFlushSkipped));
        let mut lost = false;
        for life in 0..60_u8 {
            let opened = RecordTable::open(&path, SLOTS.format, Engine::Volatile);
            let Ok((mut table, records)) = opened else {
                lost = true;
                break;
            };
            let records: BTreeMap<_, _> = records.into_iter().collect();
            lost |= records != durable;
            for n in 0..4 {
                let body = vec![life ^ n; 700];
                table.write([(key(n), &body[..]), (key(9), &body[..])]).unwrap();
                durable.insert(key(n), body.clone());
                durable.insert(key(9), body);
            }
            // This file alone: other tests' volatile files live on.
            let access = Access { volatile: true, ..Access::default() };
            RawFile::open(&path, access).unwrap().cut_power();
        }
        crate::mutation::set(None);
        lost
    }

    #[test]
    fn what_was_reported_durable_survives_a_power_failure() {
        volatile::seed(11);
        assert!(!loses(false));
    }

    #[test]
    fn without_the_flush_it_does_not() {
        assert!(loses(true));
    }
}
