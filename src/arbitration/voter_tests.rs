//! Each reason to refuse, alone.

use super::super::{Epoch, Transition};
use super::*;

const W: Incarnation = Incarnation([1; 16]);
const TIMERS: fn() -> Timers = Timers::default;

fn at(ms: u64) -> Now {
    Now { grantor: Time::from_millis(ms), holder: Time::from_millis(ms) }
}

/// {A,B} under A, with witness W.
fn both() -> Config {
    Transition::Join.value(&Config::genesis(Side::A, 7, Some(W)), Side::A, None)
}

fn register() -> Register {
    Register::new(VoterRecord::new(both()))
}

fn ballot(round: u64, side: Side) -> Ballot {
    (1..round).fold(Ballot::NONE, |ballot, _| ballot.next(side)).next(side)
}

fn promote() -> Config {
    Transition::Promote.value(&both(), Side::B, None)
}

const WITNESS: Identity = Identity::Witness(W);

#[test]
fn a_promise_is_kept_to_higher_ballots_only() {
    let mut register = register();
    assert!(register.prepare(ballot(2, Side::A)));
    assert!(!register.prepare(ballot(2, Side::A)), "the same again");
    assert!(register.prepare(ballot(2, Side::B)), "equal rounds are ordered by proposer");
    assert!(!register.may_accept(WITNESS, Side::A, ballot(2, Side::A), &promote(), at(0)));
    assert!(register.may_accept(WITNESS, Side::B, ballot(2, Side::B), &promote(), at(0)));
}

#[test]
fn a_running_promise_refuses_another_primary_unless_its_holder_asks() {
    let mut register = register();
    let b = ballot(1, Side::B);
    assert_eq!(register.grant(WITNESS, Side::A, Duration::from_secs(3), &TIMERS(), at(0)), Some(true));
    assert!(!register.may_accept(WITNESS, Side::B, b, &promote(), at(3159)));
    assert!(register.may_accept(WITNESS, Side::A, b, &promote(), at(3159)), "hand over by the holder");
    let drop = Transition::Drop.value(&both(), Side::A, None);
    assert!(register.may_accept(WITNESS, Side::A, b, &drop, at(0)), "no new primary");
    assert!(register.may_accept(WITNESS, Side::B, b, &promote(), at(3160)));
}

#[test]
fn a_shorter_lease_takes_nothing_back() {
    let mut register = register();
    assert_eq!(register.grant(WITNESS, Side::A, Duration::from_secs(8), &TIMERS(), at(0)), Some(true));
    assert_eq!(register.grant(WITNESS, Side::A, Duration::from_secs(1), &TIMERS(), at(0)), Some(false));
    assert!(register.bound_to_other(Side::B, at(8000)).is_some());
    assert_eq!(register.record.longest_lease, Duration::from_secs(8));
}

#[test]
fn grants_go_to_the_chosen_primary_and_exclude_votes_for_another() {
    let lease = Duration::from_secs(3);
    let mut register = register();
    let grant = |register: &mut Register, from, lease| register.grant(WITNESS, from, lease, &TIMERS(), at(0));
    assert_eq!(grant(&mut register, Side::B, lease), None, "not the primary");
    assert_eq!(grant(&mut register, Side::A, Duration::from_millis(10_001)), None, "over lease_max");
    assert_eq!(grant(&mut register, Side::A, Duration::ZERO), None);
    register.accept(ballot(1, Side::B), &promote());
    assert_eq!(grant(&mut register, Side::A, lease), None, "T2");
    register.accept(ballot(2, Side::A), &Transition::Drop.value(&both(), Side::A, None));
    assert!(grant(&mut register, Side::A, lease).is_some(), "the vote names the same primary");
    let foreign = Identity::Witness(Incarnation([2; 16]));
    assert_eq!(register.grant(foreign, Side::A, lease, &TIMERS(), at(0)), None, "rule 12");
}

#[test]
fn a_witness_votes_for_values_with_its_own_incarnation() {
    let register = register();
    let b = ballot(1, Side::A);
    let other = Incarnation([2; 16]);
    let value = Transition::ReEnrol.value(&both(), Side::A, Some(other));
    assert!(!register.may_accept(WITNESS, Side::A, b, &value, at(0)));
    assert!(register.may_accept(Identity::Witness(other), Side::A, b, &value, at(0)));
    assert!(!register.may_accept(Identity::Witness(other), Side::A, b, &promote(), at(0)));
}

#[test]
fn a_serving_primary_is_voted_away_by_itself_alone() {
    let register = register();
    let b = ballot(1, Side::B);
    let leased = Identity::Array { me: Side::A, leased: true };
    assert!(!register.may_accept(leased, Side::B, b, &promote(), at(0)));
    assert!(register.may_accept(leased, Side::A, b, &promote(), at(0)), "T18");
    let lapsed = Identity::Array { me: Side::A, leased: false };
    assert!(register.may_accept(lapsed, Side::B, b, &promote(), at(0)));
}

#[test]
fn learning_closes_the_instance() {
    let mut register = register();
    register.accept(ballot(3, Side::B), &promote());
    assert_eq!(register.learn(&both(), None, at(0)), Learned::Same);
    assert!(register.record.vote.is_some());
    assert_eq!(register.learn(&promote(), None, at(0)), Learned::Newer);
    assert_eq!(register.record.vote, None);
    assert_eq!(register.record.promised, Ballot::NONE);
    assert_eq!(register.learn(&both(), None, at(0)), Learned::Older);
}

#[test]
fn lineages_are_ordered_by_counter_and_never_merged() {
    let lineage = |counter, id| crate::arbitration::Lineage { counter, id };
    let overridden = Config { lineage: lineage(2, 1), primary: Side::B, ..promote() };
    let twin = Config { lineage: lineage(2, 2), epoch: Epoch(90), ..overridden };
    let mut register = register();
    // Lineage rule: the promise to A outlives the override.
    assert!(register.grant(WITNESS, Side::A, Duration::from_secs(3), &TIMERS(), at(0)).is_some());
    assert_eq!(register.learn(&overridden, None, at(1)), Learned::Newer);
    assert_eq!(register.grant(WITNESS, Side::B, Duration::from_secs(3), &TIMERS(), at(3159)), None);
    assert!(register.grant(WITNESS, Side::B, Duration::from_secs(3), &TIMERS(), at(3160)).is_some());
    assert_eq!(register.learn(&both(), None, at(1)), Learned::Older);
    assert_eq!(register.learn(&twin, None, at(1)), Learned::Split);
}

#[test]
fn a_restart_begins_with_a_promise_of_the_longest_lease() {
    let mut register = register();
    register.restarted(&TIMERS(), at(0));
    assert!(register.bound_to_other(Side::B, at(10_299)).is_some(), "none on record: lease_max");
    assert!(register.bound_to_other(Side::B, at(10_300)).is_none());
    assert!(register.bound_to_other(Side::A, at(0)).is_none(), "the primary itself is not bound");
    register.record.longest_lease = Duration::from_secs(3);
    register.restarted(&TIMERS(), at(0));
    assert!(register.bound_to_other(Side::B, at(3160)).is_none());
}

#[test]
fn records_round_trip_and_damage_is_found() {
    let mut record = VoterRecord::new(both());
    record.vote = Some(Vote { ballot: ballot(9, Side::B), value: promote() });
    record.longest_lease = Duration::from_millis(3000);
    let behind = VoterRecord { cut: 7, mixture: true, ..record };
    for record in [record, behind, VoterRecord::blank(), VoterRecord::tombstone()] {
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(VoterRecord::decode(&bytes), Ok(record));
        for at in 0..bytes.len() {
            bytes[at] ^= 4;
            assert!(VoterRecord::decode(&bytes).is_err(), "byte {at}");
            bytes[at] ^= 4;
            assert!(VoterRecord::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
