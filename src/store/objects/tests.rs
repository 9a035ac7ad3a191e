use uuid::Uuid;

use super::*;
use crate::arbitration::Side;

pub(super) fn volume(name: &str, n: u128) -> VirtualVolume {
    VirtualVolume {
        id: 0,
        name: name.into(),
        uuid: Uuid::from_u128(n),
        naa: n.to_be_bytes(),
        size_bytes: 1 << 30,
        copy: 0,
        path: format!("/volumes/{name}").into(),
        provisioning: Provisioning::Thin,
        comment: String::new(),
        created: 0,
        promise: crate::mirror::WritePromise::Stable,
    }
}

pub(super) fn host(name: &str, n: u128, iqn: &str) -> Host {
    Host {
        id: 0,
        name: name.into(),
        uuid: Uuid::from_u128(n),
        iqns: vec![iqn.into()],
        persona: 2,
        comment: String::new(),
        created: 0,
    }
}

fn group(name: &str, n: u128, members: &[u128]) -> Group {
    let members = members.iter().map(|&m| Member { volume: Uuid::from_u128(m), remote_name: "r".into() });
    Group {
        absent: None,
        id: 0,
        uuid: Uuid::from_u128(n),
        name: name.into(),
        target: "array-b".into(),
        natural: Side::A,
        members: members.collect(),
        policies: Policies::default(),
        started: false,
        sequence: 1,
        told: None,
        created: 0,
    }
}

fn some() -> Objects {
    let mut o = Objects::default();
    o.add_volume(volume("v1", 1)).unwrap();
    o.add_volume(volume("v2", 2)).unwrap();
    o.add_host(host("h1", 11, "iqn.2000-01.com.example:h1")).unwrap();
    o.add_host(host("h2", 12, "iqn.2000-01.com.example:h2")).unwrap();
    o
}

#[test]
fn names_are_unique_and_well_formed() {
    let mut o = some();
    assert!(matches!(o.add_volume(volume("v1", 3)), Err(ObjectError::Exists { .. })));
    assert!(matches!(o.add_volume(volume("v9", 1)), Err(ObjectError::Exists { .. })));
    for bad in ["", "-x", "a b", "ä", &"x".repeat(32)] {
        assert!(matches!(o.add_volume(volume(bad, 9)), Err(ObjectError::BadName { .. })), "{bad}");
    }
    let same_path = VirtualVolume { path: "/volumes/v1".into(), ..volume("v3", 3) };
    assert!(matches!(o.add_volume(same_path), Err(ObjectError::InUse { .. })));
    let other = o.add_host(host("h3", 13, "iqn.2000-01.com.example:h1"));
    assert!(matches!(other, Err(ObjectError::InitiatorTaken { .. })));
    assert!(matches!(o.add_host(host("h3", 13, "h3")), Err(ObjectError::BadName { .. })));
}

#[test]
fn ids_grow() {
    let mut o = some();
    assert_eq!(o.volume_named("v2").unwrap().id, 2);
    o.remove_volume("v1").unwrap();
    assert_eq!(o.add_volume(volume("v3", 3)).unwrap().id, 3);
}

#[test]
fn what_is_in_use_stays() {
    let mut o = some();
    assert_eq!(o.add_vlun("v1", "h1", None).unwrap().lun, 1);
    assert_eq!(o.add_vlun("v2", "h1", None).unwrap().lun, 2);
    assert!(matches!(o.add_vlun("v1", "h1", Some(7)), Err(ObjectError::Exists { .. })));
    assert!(matches!(o.add_vlun("v1", "h2", Some(LUN_MAX + 1)), Err(ObjectError::BadLun(_))));
    assert!(matches!(o.remove_volume("v1"), Err(ObjectError::InUse { .. })));
    assert!(matches!(o.remove_host("h1"), Err(ObjectError::InUse { .. })));
    o.remove_vlun("v1", "h1").unwrap();
    assert!(matches!(o.add_vlun("v1", "h1", Some(2)), Err(ObjectError::LunTaken { .. })));
    assert!(matches!(o.remove_vlun("v1", "h1"), Err(ObjectError::Missing { .. })));
    o.add_group(group("g", 21, &[1])).unwrap();
    assert!(matches!(o.remove_volume("v1"), Err(ObjectError::InUse { .. })));
    assert!(matches!(o.add_group(group("g2", 22, &[1])), Err(ObjectError::InUse { .. })));
    o.dismiss("g", "v1").unwrap();
    o.remove_volume("v1").unwrap();
}

#[test]
fn a_removed_group_leaves_a_tombstone() {
    let mut o = some();
    o.add_group(group("g", 21, &[1])).unwrap();
    o.set_group("g", |g| g.started = true).unwrap();
    assert!(matches!(o.remove_group("g", 5), Err(ObjectError::GroupStarted { .. })));
    assert!(matches!(o.dismiss("g", "v1"), Err(ObjectError::GroupStarted { .. })));
    o.set_group("g", |g| g.started = false).unwrap();
    o.remove_group("g", 5).unwrap();
    assert_eq!(o.tombstones().count(), 1);
    assert!(matches!(o.add_group(group("g", 21, &[])), Err(ObjectError::Exists { .. })));
    o.add_group(group("g", 23, &[])).unwrap();
}

#[test]
fn exports_of_a_grouped_volume_move_its_number() {
    let mut o = some();
    o.add_group(group("g", 21, &[1])).unwrap();
    let at = |o: &Objects| o.group_named("g").unwrap().sequence;
    assert_eq!(at(&o), 1);
    o.add_vlun("v1", "h1", None).unwrap();
    assert_eq!(at(&o), 2);
    o.add_vlun("v2", "h1", None).unwrap();
    assert_eq!(at(&o), 2, "v2 is in no group");
    o.set_host("h1", vec!["iqn.2000-01.com.example:new".into()], 2).unwrap();
    assert_eq!(at(&o), 3);
    o.admit("g", Member { volume: Uuid::from_u128(2), remote_name: "r".into() }).unwrap();
    assert_eq!(at(&o), 4);
}

#[test]
fn the_other_array_takes_the_state_over() {
    let mut a = some();
    a.add_group(group("g", 21, &[1])).unwrap();
    a.add_vlun("v1", "h1", Some(5)).unwrap();
    a.add_vlun("v1", "h2", Some(6)).unwrap();
    let state = a.group_state(Uuid::from_u128(21), None).unwrap();

    // h1 is known on B by its initiator alone, h2 not at all; an old export goes.
    let mut b = Objects::default();
    b.add_volume(volume("w1", 1)).unwrap();
    b.add_host(host("other", 77, "iqn.2000-01.com.example:h1")).unwrap();
    b.add_group(group("g", 21, &[1])).unwrap();
    assert_eq!(b.adopt_group_state(&state), Ok(Adopted::Changed));
    let luns: Vec<_> = b.vluns().map(|v| (b.host(v.host).unwrap().name.clone(), v.lun)).collect();
    assert_eq!(luns.len(), 2);
    assert!(luns.contains(&("other".into(), 5)) && luns.contains(&("h2".into(), 6)));
    assert_eq!(b.group_named("g").unwrap().sequence, state.sequence);
    assert_eq!(b.adopt_group_state(&state), Ok(Adopted::Same), "the same state again");

    a.remove_vlun("v1", "h1").unwrap();
    let state = a.group_state(Uuid::from_u128(21), None).unwrap();
    assert_eq!(b.adopt_group_state(&state), Ok(Adopted::Changed));
    assert_eq!(b.vluns().count(), 1);
}

/// B as secondary of a primary A with one VLUN, told in the term of office `epoch` with the number `sequence`; before
/// that B held no VLUN, and what `held` says.
fn told(held: (Option<u64>, u64), epoch: u64, sequence: u64) -> (Result<Adopted, ObjectError>, usize) {
    let term = |epoch| KnownTenure { lineage: 1, epoch };
    let mut b = some();
    b.add_group(group("g", 21, &[1])).unwrap();
    let mut a = b.clone();
    a.add_vlun("v1", "h1", Some(5)).unwrap();
    let mut state = a.group_state(Uuid::from_u128(21), Some(term(epoch))).unwrap();
    state.sequence = sequence;
    let entry = b.groups.get_mut(&Uuid::from_u128(21)).unwrap();
    (entry.told, entry.sequence) = (held.0.map(term), held.1);
    let adopted = b.adopt_group_state(&state);
    (adopted, b.vluns().count())
}

#[test]
fn what_the_primary_tells_counts_whatever_this_array_had_counted() {
    let taken = (Ok(Adopted::Changed), 1);
    // In office once, B counted to 9, and to nobody's knowledge; or its own exports went with the number it has.
    assert_eq!(told((None, 9), 4, 3), taken);
    assert_eq!(told((Some(2), 9), 4, 3), taken);
    assert_eq!(told((Some(4), 3), 4, 3), taken);
    assert_eq!(told((Some(4), 3), 4, 4), taken);
    // What came later has overtaken it.
    let late = (Ok(Adopted::Older), 0);
    assert_eq!(told((Some(4), 3), 4, 2), late);
    assert_eq!(told((Some(5), 1), 4, 3), late);
    crate::mutation::set(Some(crate::mutation::Mutation::StateByNumberAlone));
    let by_number = told((Some(2), 9), 4, 3);
    crate::mutation::set(None);
    assert_eq!(by_number, late, "broken: the exports differ for good");
}

#[test]
fn the_primary_takes_the_next_change_from_the_secondary_and_no_other() {
    let mut a = some();
    a.add_group(group("g", 21, &[1])).unwrap();
    let mut b = a.clone();
    b.add_vlun("v1", "h1", Some(5)).unwrap();
    let wanted = b.group_state(Uuid::from_u128(21), None).unwrap();
    assert_eq!(a.clone().take_change(&wanted), Ok(Adopted::Changed));
    a.add_vlun("v1", "h2", Some(6)).unwrap();
    let before = a.clone();
    assert_eq!(a.take_change(&wanted), Ok(Adopted::Older), "of the state before");
    assert_eq!(a, before);
}

#[test]
fn a_change_that_the_primary_has_overtaken_is_not_counted_again() {
    let numbers = || {
        let uuid = Uuid::from_u128(21);
        let number = |o: &Objects| o.group(uuid).unwrap().sequence;
        let mut a = some();
        a.add_group(group("g", 21, &[1])).unwrap();
        a.add_vlun("v1", "h1", Some(5)).unwrap();
        let mut b = a.clone();
        let change =
            |o: &mut Objects| o.set_host("h1", vec!["iqn.2000-01.com.example:new".into()], 2).map(drop);
        let mut after = b.clone();
        change(&mut after).unwrap();
        assert_eq!(a.take_change(&after.group_state(uuid, None).unwrap()), Ok(Adopted::Changed));
        // Before B has carried its change out, A tells it of a later one.
        a.add_vlun("v1", "h2", Some(6)).unwrap();
        assert_eq!(b.adopt_group_state(&a.group_state(uuid, None).unwrap()), Ok(Adopted::Changed));
        b.change_as_taken(&[(uuid, number(&after))], change).unwrap();
        (number(&a), number(&b))
    };
    let (a, b) = numbers();
    assert_eq!(a, b);
    crate::mutation::set(Some(crate::mutation::Mutation::TakenChangeCountsAgain));
    let (a, b) = numbers();
    crate::mutation::set(None);
    assert_eq!(a + 1, b, "broken: what A tells is older than what B has, for good");
}

#[test]
fn a_change_of_members_is_counted_by_the_array_that_asks() {
    let asked = || {
        let mut o = some();
        o.add_group(group("g", 21, &[1])).unwrap();
        o.dismiss_by_peer("g", "v1").unwrap();
        o.admit_by_peer("g", Member { volume: Uuid::from_u128(2), remote_name: "r".into() }).unwrap();
        o.group_named("g").unwrap().sequence
    };
    assert_eq!(asked(), 1);
    crate::mutation::set(Some(crate::mutation::Mutation::AskedArrayCounts));
    let broken = asked();
    crate::mutation::set(None);
    assert_eq!(broken, 3);
}

#[test]
fn a_state_that_does_not_fit_changes_nothing() {
    let mut a = some();
    a.add_group(group("g", 21, &[1])).unwrap();
    a.add_vlun("v1", "h1", Some(5)).unwrap();
    let state = a.group_state(Uuid::from_u128(21), None).unwrap();
    let mut b = Objects::default();
    let shrunk = state.volumes[0].size_bytes / 2;
    b.add_volume(VirtualVolume { size_bytes: shrunk, ..volume("w1", 1) }).unwrap();
    b.add_group(group("g", 21, &[1])).unwrap();
    let before = b.clone();
    assert!(matches!(b.adopt_group_state(&state), Err(ObjectError::Exists { .. })));
    assert_eq!(b, before);

    let mut b = Objects::default();
    b.add_volume(volume("w1", 1)).unwrap();
    b.add_volume(volume("w2", 2)).unwrap();
    b.add_host(host("h1", 11, "iqn.2000-01.com.example:h1")).unwrap();
    b.add_vlun("w2", "h1", Some(5)).unwrap();
    b.add_group(group("g", 21, &[1])).unwrap();
    let before = b.clone();
    assert!(matches!(b.adopt_group_state(&state), Err(ObjectError::LunTaken { .. })));
    assert_eq!(b, before);
}

#[test]
fn exports_taken_back_come_again_when_the_group_stays_or_is_told_anew() {
    let mut o = some();
    o.add_group(group("g", 21, &[1])).unwrap();
    o.add_vlun("v1", "h1", Some(5)).unwrap();
    o.add_vlun("v2", "h1", Some(6)).unwrap();
    let (before, state) = (o.clone(), o.group_state(Uuid::from_u128(21), None).unwrap());
    let taken = o.unexport(Uuid::from_u128(21)).unwrap();
    let left: Vec<_> = o.vluns().map(|vlun| vlun.lun).collect();
    assert_eq!((taken.vluns.len(), left), (1, vec![6]), "of the members alone");
    let mut told = o.clone();
    assert_eq!(told.adopt_group_state(&state), Ok(Adopted::Changed), "with the number that it has");
    assert_eq!(told, before);
    o.export_again(taken.clone());
    assert_eq!(o, before);
    o.unexport(Uuid::from_u128(21)).unwrap();
    o.add_vlun("v2", "h2", Some(5)).unwrap();
    o.remove_vlun("v2", "h1").unwrap();
    o.add_volume(volume("v3", 3)).unwrap();
    o.add_vlun("v3", "h1", Some(5)).unwrap();
    o.export_again(taken);
    assert_eq!(o.vluns().filter(|vlun| vlun.lun == 5).count(), 2, "that LUN has another volume now");
}

#[test]
fn a_copy_that_hosts_write_to_enters_a_group_by_no_other_arrays_word() {
    let mut o = some();
    o.add_group(group("g", 20, &[])).unwrap();
    let volume = o.volume_named("v1").unwrap().uuid;
    o.add_vlun("v1", "h1", None).unwrap();
    let member = Member { volume, remote_name: "r".into() };
    let refused = o.clone().admit_by_peer("g", member.clone());
    assert!(matches!(refused, Err(ObjectError::InUse { .. })), "{refused:?}");
    o.clone().admit("g", member.clone()).unwrap();
    crate::mutation::set(Some(crate::mutation::Mutation::ExportedCopyOverwritten));
    o.clone().admit_by_peer("g", member.clone()).unwrap();
    crate::mutation::set(None);
    o.unexport_volume(volume);
    o.admit_by_peer("g", member).unwrap();
}
