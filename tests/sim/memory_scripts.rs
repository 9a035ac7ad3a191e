//! Directed starts for the memory promise (T13): both volumes of the group hold their writes in memory, disks
//! are slow, and an array that crashes loses its page cache.

use crate::disk::Failure;
use crate::faults::Step::{
    Crash, DiskFails, DiskHang, DiskWorks, MustServe, Start, Stop, StopGroup, Switchover,
};
use crate::host::MS;
use crate::network::{A, B};
use crate::plan::Plan;
use crate::scripts::{Script, crowded};

fn memory(plan: &mut Plan) {
    crowded(plan);
    plan.regions = 2;
    plan.memory = 3;
    plan.io_max = 120 * MS;
}

/// A disk may fail what it was to flush (the judge takes the word of its array).
fn failing(plan: &mut Plan) {
    memory(plan);
    plan.weights.failing_disk = 1;
}

/// B's process dies, then A's machine in the moment of the drop; A comes back first.
pub const DROPPED: Script = Script {
    name: "memory-dropped",
    plan: memory,
    steps: &[
        (5000, Crash { array: B, power: false }),
        (5150, Crash { array: A, power: true }),
        (5600, Start { array: A }),
        (9000, Start { array: B }),
    ],
    jitter: 250,
    storm: false,
    images: false,
    members: false,
};

/// A dies, B's disk hangs over its promotion, then B loses its power.
pub const PROMOTED: Script = Script {
    name: "memory-promoted",
    plan: memory,
    steps: &[
        (4900, DiskHang { array: B, span: 8000 * MS }),
        (5000, Crash { array: A, power: false }),
        (10_500, Crash { array: B, power: true }),
        (11_000, Start { array: B }),
        (13_000, Start { array: A }),
    ],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};

/// A switchover, and A loses its power.
pub const SWITCHED: Script = Script {
    name: "memory-switched",
    plan: memory,
    steps: &[
        (5000, Switchover { group: 0 }),
        (5150, Crash { array: A, power: true }),
        (8000, Start { array: A }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// B loses its power unnoticed, A is stopped in order at that moment.
pub const HANDED_OVER: Script = Script {
    name: "memory-handed-over",
    plan: memory,
    steps: &[
        (5000, Crash { array: B, power: true }),
        (5000, Stop { array: A }),
        (6000, Start { array: B }),
        (14_000, Start { array: A }),
    ],
    jitter: 40,
    storm: false,
    images: false,
    members: false,
};

/// B restarts with its memory lost, A dies before it could copy anything to it.
pub const TAINTED: Script = Script {
    name: "memory-tainted",
    plan: memory,
    steps: &[
        (5000, Crash { array: B, power: true }),
        (5100, Crash { array: A, power: true }),
        (5400, Start { array: B }),
        (16_000, Start { array: A }),
    ],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};

/// B loses its power, and A's disk fails before what it holds in memory is there: nobody has it any more, and yet
/// each disk has what the other one may lack.
pub const VOID: Script = Script {
    name: "memory-void",
    plan: failing,
    steps: &[
        (5000, Crash { array: B, power: true }),
        (5000, DiskFails { array: A, how: Failure::Writes }),
        (8000, DiskWorks { array: A }),
        (14_000, Start { array: B }),
        (40_000, MustServe { group: 0 }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// A loses its power while the group is being stopped.
pub const STOPPED: Script = Script {
    name: "memory-stopped",
    plan: memory,
    steps: &[
        (5000, StopGroup { group: 0 }),
        (5000, Crash { array: A, power: true }),
        (7000, Start { array: A }),
        (30_000, MustServe { group: 0 }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: true,
};

pub const ALL: &[&Script] = &[&DROPPED, &PROMOTED, &SWITCHED, &HANDED_OVER, &TAINTED, &VOID, &STOPPED];
