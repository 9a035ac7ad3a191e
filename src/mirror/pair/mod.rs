//! Property test: two volumes, primary and secondary, under a random scheduler with crashes,
//! broken lanes, failing stores and changing roles; every block must be a linearizable register,
//! and once healed both copies must be equal.

mod arbiter;
mod array;
mod history;
mod shell;
mod verify;
mod world;

use world::World;

const STEPS: u64 = 3000;

#[test]
fn copies_agree_and_every_block_is_a_register() {
    let seeds = std::env::var("PAIR_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(1000);
    let first = std::env::var("PAIR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    for seed in first..first + seeds {
        if let Err(what) = World::new(seed).run(STEPS) {
            panic!("seed {seed}: {what}");
        }
    }
}

/// Breaks one rule at a time: the test above must see each.
#[cfg(feature = "testing")]
mod mutations {
    use super::*;
    use crate::mutation::{Mutation, set};

    /// Seeds tried at most; most need a few, the slowest some thousands.
    const SEEDS: u64 = 20_000;

    const BROKEN: [Mutation; 30] = [
        Mutation::R2AnswerWithoutMirror,
        Mutation::R3AnswerAloneBeforeDrop,
        Mutation::T4JoinNotNeeded,
        Mutation::T5AnsweredAloneUnmarked,
        Mutation::R5TenureNotFenced,
        Mutation::T9NotDrained,
        Mutation::R6NoCheckAtStart,
        Mutation::R6NoCheckAtAnswer,
        Mutation::T10CommandOutlivesTenure,
        Mutation::R7ReadsDoNotWait,
        Mutation::R8WritesOverlap,
        Mutation::R8LogicalOverlap,
        Mutation::R9AbortConfirmedEarly,
        Mutation::R10ActivityNotDurable,
        Mutation::T12DropForgetsActivity,
        Mutation::T12HelloWithoutActivity,
        Mutation::T12PeerDirtyIgnored,
        Mutation::T12TargetClearsEarly,
        Mutation::T12ActivityClearedEarly,
        Mutation::R10SourceClearsEarly,
        Mutation::T11OldSessionTaken,
        Mutation::R14NotSentAgain,
        Mutation::T8NoRecovery,
        Mutation::R15ReadsInDoubt,
        Mutation::R17ErrorAtOnce,
        Mutation::CopyDoesNotExclude,
        Mutation::MendFromStaleCopy,
        Mutation::MendWithoutHold,
        Mutation::LostCountsAsEqual,
        Mutation::VerifyWithoutHold,
    ];

    #[test]
    fn each_broken_rule_is_seen() {
        let only = std::env::var("PAIR_MUTATION").ok();
        let mut unseen = Vec::new();
        for mutation in BROKEN {
            if only.as_ref().is_some_and(|only| *only != format!("{mutation:?}")) {
                continue;
            }
            set(Some(mutation));
            let found = (1..=SEEDS).find_map(|seed| {
                let mut world = World::new(seed);
                world.mutated = true;
                world.run(STEPS).err().map(|what| (seed, what))
            });
            set(None);
            match found {
                Some((seed, what)) => println!("{mutation:?}: seed {seed}: {what:.100}"),
                None => unseen.push(mutation),
            }
        }
        assert!(unseen.is_empty(), "not seen: {unseen:?}");
    }
}
