//! The scenarios of docs/MODEL.md, and the broken rules each is known to find.

use super::scenario::{Budget, Scenario, compare, read, write};
use twinlun::arbitration::InSync;
use twinlun::mutation::Mutation;

const PLAIN: Scenario = Scenario::PLAIN;
const NONE: Budget = PLAIN.budget;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "overlapping writes", script: &[write(0), write(0).on(0, 1), read(0)], ..PLAIN },
    Scenario { name: "parts of a block", script: &[write(0), write(1).on(0, 1), read(1)], ..PLAIN },
    Scenario {
        name: "compare and write",
        script: &[compare(0), compare(0).on(0, 1), read(0)],
        budget: Budget { sessions: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "abort and reinstatement",
        script: &[write(0).aborted(), write(0).on(0, 1).after(0), read(0).after(1)],
        budget: Budget { sessions: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "a lane lost",
        script: &[write(0), write(0).on(0, 1), read(0)],
        budget: Budget { lanes: 1, late: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "A crashes",
        script: &[write(0), read(0).after(0).retried()],
        budget: Budget { crashes: [1, 0], ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "B crashes",
        script: &[write(0), write(0).on(0, 1)],
        budget: Budget { crashes: [0, 1], ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "resync",
        begins: InSync::Primary,
        script: &[write(0), read(0)],
        budget: Budget { sessions: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "cut off",
        script: &[write(0).retried(), write(0).after(0), read(0).after(1)],
        budget: Budget { isolations: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "roles switched",
        script: &[write(0), read(0).retried(), write(0).on(0, 1).after(0).retried()],
        budget: Budget { switches: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "hand over",
        script: &[write(0), write(0).on(0, 1)],
        budget: Budget { hand_overs: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "failed I/O",
        script: &[write(0), read(0), write(0).on(0, 1)],
        budget: Budget { failures: 1, ticks: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "A crashes, late frames",
        script: &[write(0), write(0).on(0, 1).after(0)],
        budget: Budget { crashes: [1, 0], late: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "cut off, two writers",
        script: &[write(0).retried(), write(0).on(0, 1)],
        budget: Budget { isolations: 1, late: 1, ..NONE },
        large: true,
        ..PLAIN
    },
    Scenario {
        name: "held for a promotion",
        script: &[write(0).left(), write(0).after(0)],
        budget: Budget { isolations: 1, ..NONE },
        holds: true,
        large: true,
        ..PLAIN
    },
    Scenario {
        name: "there and back",
        script: &[write(0).retried(), write(0).on(0, 1).after(0).retried()],
        budget: Budget { hand_overs: 1, switches: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "resync, A crashes",
        begins: InSync::Primary,
        script: &[write(0), read(0).after(0)],
        budget: Budget { crashes: [1, 0], ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "idle regions",
        active_regions: 0,
        script: &[write(0), write(2048).on(0, 1)],
        budget: Budget { drops: 1, ticks: 1, ..NONE },
        ..PLAIN
    },
    Scenario {
        name: "two volumes",
        volumes: 2,
        script: &[write(0), write(0).on(1, 1).after(0)],
        budget: Budget { sessions: 1, ..NONE },
        ..PLAIN
    },
];

/// Broken rules, and where each is found.
pub const FINDS: &[(Mutation, &str)] = &[
    (Mutation::R2AnswerWithoutMirror, "compare and write"),
    (Mutation::R3AnswerAloneBeforeDrop, "compare and write"),
    (Mutation::T4JoinNotNeeded, "resync"),
    (Mutation::T5AnsweredAloneUnmarked, "idle regions"),
    (Mutation::R5TenureNotFenced, "A crashes, late frames"),
    (Mutation::T9NotDrained, "A crashes"),
    (Mutation::R6NoCheckAtStart, "roles switched"),
    (Mutation::R6NoCheckAtAnswer, "hand over"),
    (Mutation::R6ParkedOutlivesTenure, "held for a promotion"),
    (Mutation::R7ReadsDoNotWait, "failed I/O"),
    (Mutation::R8WritesOverlap, "compare and write"),
    (Mutation::R8LogicalOverlap, "parts of a block"),
    (Mutation::R9AbortConfirmedEarly, "abort and reinstatement"),
    (Mutation::R10ActivityNotDurable, "overlapping writes"),
    (Mutation::T12DropForgetsActivity, "compare and write"),
    (Mutation::T12HelloWithoutActivity, "A crashes"),
    (Mutation::T12PeerDirtyIgnored, "A crashes"),
    (Mutation::T12TargetClearsEarly, "A crashes"),
    (Mutation::T12ActivityClearedEarly, "abort and reinstatement"),
    (Mutation::R10SourceClearsEarly, "resync"),
    (Mutation::T11OldSessionTaken, "a lane lost"),
    (Mutation::R14NotSentAgain, "compare and write"),
    (Mutation::R14BootCounterStays, "A crashes, late frames"),
    (Mutation::T8NoRecovery, "A crashes"),
    (Mutation::R17ErrorAtOnce, "failed I/O"),
    (Mutation::CopyDoesNotExclude, "compare and write"),
    (Mutation::MendWithoutHold, "failed I/O"),
    (Mutation::JoinWhileDirty, "resync"),
];

/// Those that are not known to be found.
pub const SOUGHT: &[(Mutation, &str)] = &[
    (Mutation::T10CommandOutlivesTenure, "there and back"),
    (Mutation::R8AppliesOverlap, "a lane lost"),
    (Mutation::R11VolumesStopApart, "two volumes"),
    (Mutation::R11SessionEndsByVolume, "two volumes"),
    (Mutation::R15ReadsInDoubt, "A crashes"),
    (Mutation::MendFromStaleCopy, "failed I/O"),
];
