//! The explorations, and which broken rule each must find.

use twinlun::arbitration::Side::{A, B};
use twinlun::arbitration::{Side, Transition};
use twinlun::mutation::Mutation;

use crate::scenario::{Left, Scenario, Start};

type Wishes = &'static [(Side, Option<Transition>)];

const PROMOTE: Wishes = &[(B, Some(Transition::Promote))];
const BOTH: Wishes = &[(A, Some(Transition::Drop)), (B, Some(Transition::Promote))];
const SWITCH: Wishes = &[(A, Some(Transition::SwitchOver)), (B, Some(Transition::Promote)), (A, None)];
const PRE_ELECT: Wishes = &[(A, Some(Transition::PreElect)), (B, Some(Transition::Promote))];
const RE_ENROL: Wishes = &[(A, Some(Transition::ReEnrol)), (B, Some(Transition::Promote))];
const JOIN: Wishes = &[(A, Some(Transition::Join)), (B, Some(Transition::Promote))];

/// No fault, and three steps of time: no promise outlasts them.
const NOTHING: Left = Left {
    cuts: 0,
    losses: 0,
    crashes: 0,
    wishes: 0,
    witness_restarts: 0,
    witness_losses: 0,
    twins: 0,
    offs: 0,
    overrides: 0,
    forgotten: 0,
    pauses: 0,
    passes: 3,
};

/// All, each within bounds that take seconds.
pub fn all() -> Vec<Scenario> {
    let one = |name, left, wishes| Scenario {
        rounds_max: 1,
        changes_max: 1,
        ..Scenario::coarse(name, left, wishes)
    };
    let two = |name, left, wishes| Scenario {
        rounds_max: 1,
        changes_max: 2,
        ..Scenario::coarse(name, left, wishes)
    };
    let drift = |name, rates| {
        let left = Left { wishes: 1, ..NOTHING };
        Scenario { rates, ..one(name, left, PROMOTE) }
    };
    vec![
        Scenario {
            late: true,
            rounds_max: 3,
            ..one("promote", Left { wishes: 1, passes: 4, ..NOTHING }, PROMOTE)
        },
        two("promote against drop", Left { wishes: 2, ..NOTHING }, BOTH),
        Scenario {
            rounds_max: 3,
            ..one("a lost message", Left { wishes: 1, losses: 1, passes: 4, ..NOTHING }, PROMOTE)
        },
        one("a cut", Left { wishes: 1, cuts: 1, ..NOTHING }, BOTH),
        one("a crash", Left { wishes: 1, crashes: 1, ..NOTHING }, PROMOTE),
        one("a pause", Left { wishes: 1, pauses: 1, ..NOTHING }, PROMOTE),
        drift("drift, A slow", [992, 1008, 1008, 1008]),
        drift("drift, A fast", [1008, 992, 992, 992]),
        drift("drift, B slow", [1008, 992, 1008, 1008]),
        drift("drift, W slow", [1008, 1008, 992, 992]),
        Scenario { heal_one_in: 997, ..two("switch over", Left { wishes: 2, passes: 2, ..NOTHING }, SWITCH) },
        one("the witness restarts", Left { wishes: 1, witness_restarts: 1, passes: 4, ..NOTHING }, PROMOTE),
        one("the witness is replaced", Left { wishes: 2, witness_losses: 1, ..NOTHING }, BOTH),
        one("two witnesses", Left { wishes: 2, twins: 1, cuts: 1, ..NOTHING }, RE_ENROL),
        Scenario { rounds_max: 2, ..one("pre-elect", Left { wishes: 2, ..NOTHING }, PRE_ELECT) },
        Scenario {
            start: Start::Alone,
            ..two("alone", Left { wishes: 2, cuts: 1, passes: 1, ..NOTHING }, JOIN)
        },
        Scenario {
            start: Start::Alone,
            ..two("a stale copy", Left { wishes: 1, passes: 4, ..NOTHING }, JOIN)
        },
        Scenario {
            start: Start::PreElected,
            ..one("pre-elected", Left { wishes: 2, cuts: 1, passes: 1, ..NOTHING }, RE_ENROL)
        },
        two("override, the word is true", Left { offs: 1, overrides: 1, passes: 4, ..NOTHING }, &[]),
        Scenario {
            start: Start::Alone,
            ..two("override of one alone", Left { offs: 1, overrides: 1, passes: 4, ..NOTHING }, &[])
        },
        two("override without witness", Left { offs: 1, overrides: 1, cuts: 1, passes: 3, ..NOTHING }, &[]),
        Scenario {
            true_word: false,
            ..one("override, the operator errs", Left { cuts: 1, overrides: 1, ..NOTHING }, &[])
        },
        two("an array without a past", Left { forgotten: 1, wishes: 2, ..NOTHING }, BOTH),
        Scenario { groups: 2, ..one("two groups", Left { wishes: 1, passes: 1, ..NOTHING }, SWITCH) },
        Scenario {
            slow_disks: true,
            ..one("slow disks", Left { wishes: 1, crashes: 1, passes: 1, ..NOTHING }, SWITCH)
        },
    ]
}

pub fn by_name(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

/// Each broken rule, the exploration that finds it, and with how many steps of time.
pub const FINDS: &[(Mutation, &str, u8)] = &[
    (Mutation::T1PreElectDecidesItself, "pre-elect", 4),
    (Mutation::T2GrantAfterVote, "promote", 4),
    (Mutation::T2OwnVoteIgnoresPromise, "promote", 4),
    (Mutation::T3ServesAfterVote, "a lost message", 4),
    (Mutation::T6RestoredKeepsIncarnation, "the witness is replaced", 4),
    (Mutation::T15OverrideIgnoresPromises, "override, the operator errs", 3),
    (Mutation::T16NoContactNeeded, "override of one alone", 4),
    (Mutation::T19PromiseForgotten, "the witness restarts", 4),
    (Mutation::R1PromiseNoLonger, "drift, A slow", 3),
    (Mutation::R4StaleCopyPromoted, "a stale copy", 4),
];

/// Looked for as well, and not known to be found within these bounds: `--sought` tells.
pub const SOUGHT: &[(Mutation, &str, u8)] = &[
    (Mutation::R1LeaseFromReceipt, "promote", 4),
    (Mutation::T18OwnVoteRefused, "switch over", 2),
    (Mutation::T1ValueDecidesQuorum, "promote against drop", 3),
    (Mutation::R12BlankWitnessVotes, "the witness is replaced", 3),
    (Mutation::R12ReEnrolByOneArray, "two witnesses", 3),
    (Mutation::R18LostVotesCount, "an array without a past", 3),
    (Mutation::R18EnrolsBoth, "an array without a past", 3),
];
