//! Directed starts: a plan with its chances fixed where it matters, and faults at given times.
//! What a script leaves open the seed decides, the exact times (`jitter`) included.

use crate::disk::Failure;
use crate::faults::Step::{
    self, Crash, Cut, Discard, DiskFails, DiskHang, GiveWord, Mend, MetadataHang, MustBeDiverged, MustLead,
    MustProgress, MustServe, OneWitness, Override, Reset, Resume, SecondWitness, StallControl, Start, Stop,
    Switchover, WantMember, WantSize, WitnessCrash, WitnessReplace, WitnessRestore, WitnessStart,
};
use crate::host::{Habits, MS};
use crate::network::{A, B, Delay, FIRST_HOST, Use, WITNESS};
use crate::plan::{Plan, VolumePlan, Weights};
use crate::second::Origin;
use crate::word::Moment;

pub struct Script {
    pub name: &'static str,
    /// Changes the drawn plan.
    pub plan: fn(&mut Plan),
    /// Milliseconds, and what happens then.
    pub steps: &'static [(u64, Step)],
    /// Each step is up to this many milliseconds late, by chance.
    pub jitter: u64,
    /// Random faults after the last step too.
    pub storm: bool,
    /// Arrays keep what their copies held before a resync.
    pub images: bool,
    /// An operator changes what is mirrored.
    pub members: bool,
}

/// One group, two volumes, a fast network and quiet disks: only the script's faults happen.
fn calm(plan: &mut Plan) {
    plan.groups = 1;
    plan.volumes = vec![VolumePlan { group: 0 }; 2];
    plan.regions = 2;
    plan.hosts = 2;
    plan.habits = Habits {
        slots: 2,
        think_max: 40 * MS,
        command_timeout: 1500 * MS,
        abort_timeout: 500 * MS,
        poll: 500 * MS,
    };
    plan.delay = Delay { min: MS / 20, max: MS, slow: 0 };
    plan.io_max = 2 * MS;
    plan.io_stalls = 0;
    plan.sync_max = MS;
    plan.weights = Weights::default();
    plan.only_witness = false;
    plan.timers = crate::plan::default_timers();
}

/// Many commands for few blocks.
pub fn crowded(plan: &mut Plan) {
    calm(plan);
    plan.regions = 1;
    plan.hosts = 3;
    plan.habits.slots = 3;
    plan.habits.think_max = MS;
    plan.io_max = 8 * MS;
}

/// Commands all over: the maps are written all the time.
fn roaming(plan: &mut Plan) {
    calm(plan);
    plan.regions = 5;
}

/// Hosts that wait for nothing.
fn impatient(plan: &mut Plan) {
    crowded(plan);
    plan.hosts = 2;
    plan.habits = Habits {
        slots: 3,
        think_max: 10 * MS,
        command_timeout: 150 * MS,
        abort_timeout: 50 * MS,
        poll: 100 * MS,
    };
}

/// As `crowded` over a slow network, with a slow disk under the votes.
fn crowded_far(plan: &mut Plan) {
    crowded(plan);
    plan.delay.max = 80 * MS;
    plan.sync_max = 60 * MS;
}

/// Few writes of many regions, over a slow network.
fn sparse(plan: &mut Plan) {
    calm(plan);
    plan.volumes.truncate(1);
    plan.regions = 40;
    plan.habits.slots = 3;
    plan.delay.max = 40 * MS;
}

/// One volume that may grow by a region, hosts that look at its size all the time, and arrays that are far apart.
fn grows_far(plan: &mut Plan) {
    calm(plan);
    plan.volumes.truncate(1);
    plan.habits.poll = 50 * MS;
    plan.delay.max = 100 * MS;
    plan.sync_max = 60 * MS;
    plan.room = 3;
}

const fn cut(from: usize, to: usize) -> Step {
    Cut { from, to, lane: None }
}

const fn mend(from: usize, to: usize) -> Step {
    Mend { from, to, lane: None }
}

/// As `calm`, and the witness counts as lost after two seconds.
fn soon_lost(plan: &mut Plan) {
    calm(plan);
    plan.timers.witness_lost_after = twinlun::time::Duration::from_millis(2000);
}

/// As `soon_lost` over a slow network, with a slow disk under the votes.
fn soon_lost_far(plan: &mut Plan) {
    soon_lost(plan);
    plan.delay.max = 80 * MS;
    plan.sync_max = 60 * MS;
}

/// T1: the witness is lost, the link is cut when A has voted for *pre-elect*, B has the witness back.
pub const LOST_ACCEPT: Script = Script {
    name: "lost-accept",
    plan: soon_lost_far,
    steps: &[
        (5000, cut(A, WITNESS)),
        (5000, cut(WITNESS, A)),
        (5000, cut(B, WITNESS)),
        (5000, cut(WITNESS, B)),
        (6400, cut(A, B)),
        (6400, cut(B, A)),
        (7400, mend(B, WITNESS)),
        (7400, mend(WITNESS, B)),
        (16_000, mend(A, B)),
    ],
    jitter: 1000,
    storm: false,
    images: false,
    members: false,
};

/// T17, F3: the witness is cut from A alone, for long; then A dies.
pub const ONE_VIEW: Script = Script {
    name: "one-view",
    plan: soon_lost,
    steps: &[
        (5000, cut(A, WITNESS)),
        (5000, cut(WITNESS, A)),
        (9000, Crash { array: A, power: false }),
        (16_000, MustLead { group: 0, array: B }),
    ],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};

/// F5, F11, F37: the witness dies, later the link, later B.
pub const PRE_ELECTED: Script = Script {
    name: "pre-elected",
    plan: soon_lost,
    steps: &[
        (5000, WitnessCrash),
        (10_000, cut(A, B)),
        (10_000, cut(B, A)),
        (14_500, MustServe { group: 0 }),
        (14_500, MustProgress { group: 0 }),
        (15_000, Crash { array: B, power: true }),
        (18_000, WitnessReplace),
        (30_000, MustServe { group: 0 }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// F35: the witness is dead, then A dies; the operator puts B in office.
pub const FORCED: Script = Script {
    name: "forced",
    plan: calm,
    steps: &[
        (5000, WitnessCrash),
        (6000, Crash { array: A, power: true }),
        (8000, Override { group: 0, array: B, stale: false }),
        (20_500, MustServe { group: 0 }),
        (20_500, MustLead { group: 0, array: B }),
        (21_000, WitnessStart),
        (23_000, Start { array: A }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// F36: pre-elected, A dies; the operator puts B in office through the witness, which is back. Then
/// whatever comes.
pub const FORCED_LATER: Script = Script {
    name: "forced-later",
    plan: soon_lost,
    steps: &[
        (5000, WitnessCrash),
        (10_000, Crash { array: A, power: true }),
        (10_500, WitnessStart),
        (12_000, Override { group: 0, array: B, stale: false }),
        (27_000, MustLead { group: 0, array: B }),
        (27_000, MustServe { group: 0 }),
        (28_000, Start { array: A }),
    ],
    jitter: 300,
    storm: true,
    images: false,
    members: false,
};

/// T16: A, alone in sync, dies; B is put in office; A comes back where it reaches nobody but hosts.
pub const NO_CONTACT: Script = Script {
    name: "no-contact",
    plan: calm,
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (10_000, Crash { array: A, power: true }),
        (10_500, cut(A, WITNESS)),
        (10_500, cut(WITNESS, A)),
        (11_000, Override { group: 0, array: B, stale: true }),
        (18_000, MustLead { group: 0, array: B }),
        (19_000, Start { array: A }),
        (25_000, MustServe { group: 0 }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// As `two-histories`, in the world that the seed drew, and then whatever comes.
pub const TWO_HISTORIES_STORM: Script = Script {
    name: "two-histories-storm",
    plan: |plan| plan.only_witness = false,
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (10_000, Crash { array: A, power: true }),
        (11_000, Override { group: 0, array: B, stale: true }),
        (30_000, mend(A, B)),
        (30_000, mend(B, A)),
        (31_000, Start { array: A }),
        (36_000, Discard { group: 0, array: A }),
        (37_000, Discard { group: 0, array: B }),
    ],
    jitter: 300,
    storm: true,
    images: false,
    members: false,
};

/// T15: the operator is wrong: A lives, and serves by the witness's leases.
pub const WRONG_WORD: Script = Script {
    name: "wrong-word",
    plan: calm,
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (8000, Override { group: 0, array: B, stale: true }),
        (45_000, mend(A, B)),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// F13, T12: A writes alone and dies, the operator takes B's old data into office, A comes back; it is
/// brought in line only when the operator has said so.
pub const TWO_HISTORIES: Script = Script {
    name: "two-histories",
    plan: calm,
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (10_000, Crash { array: A, power: true }),
        (11_000, Override { group: 0, array: B, stale: true }),
        (18_000, MustLead { group: 0, array: B }),
        (18_000, MustServe { group: 0 }),
        (19_000, mend(A, B)),
        (19_000, mend(B, A)),
        (20_000, Start { array: A }),
        (24_000, MustBeDiverged { group: 0, array: A }),
        (25_000, Crash { array: A, power: true }),
        (25_500, Start { array: A }),
        (29_000, MustBeDiverged { group: 0, array: A }),
        (30_000, Discard { group: 0, array: A }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// T2: A serves by B's lease alone, the witness's promise is over, then the link is cut.
pub const OWN_PROMISE: Script = Script {
    name: "own-promise",
    plan: calm,
    steps: &[
        (5000, cut(A, WITNESS)),
        (5000, cut(WITNESS, A)),
        (9500, cut(A, B)),
        (9500, cut(B, A)),
        (14_000, mend(A, B)),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// T6: A drops B through the witness while B hears nothing; the witness is restored to the state
/// before, A is cut off, B comes back to it.
pub const RESTORED_WITNESS: Script = Script {
    name: "restored-witness",
    plan: calm,
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (5000, cut(B, WITNESS)),
        (5000, cut(WITNESS, B)),
        (8000, cut(A, WITNESS)),
        (8000, cut(WITNESS, A)),
        (8100, WitnessCrash),
        (8200, WitnessRestore),
        (8400, mend(B, WITNESS)),
        (8400, mend(WITNESS, B)),
        (30_000, mend(A, B)),
    ],
    jitter: 50,
    storm: false,
    images: false,
    members: false,
};

/// T12: A loses its power with writes that B never got, of a host that cannot try them again at B;
/// B serves, A comes back.
pub const DIVERGED: Script = Script {
    name: "diverged",
    plan: sparse,
    steps: &[
        (4600, cut(FIRST_HOST, B)),
        (4600, cut(B, FIRST_HOST)),
        (5000, Crash { array: A, power: true }),
        (8000, Start { array: A }),
        (15_000, mend(FIRST_HOST, B)),
        (15_000, mend(B, FIRST_HOST)),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// T10: commands are queued at A while roles go to B and, before B serves, come back: B is stopped.
pub const THERE_AND_BACK: Script = Script {
    name: "there-and-back",
    plan: crowded_far,
    steps: &[(5000, Switchover { group: 0 }), (5250, Stop { array: B })],
    jitter: 200,
    storm: false,
    images: false,
    members: false,
};

/// Rule 6: A's control stands still, B holds what comes for its promotion. A host leaves a write there,
/// gives the path up without B's knowing, tries it again at A, which serves until its lease ends, and
/// writes on. Then B takes over.
pub const LEFT_BEHIND: Script = Script {
    name: "left-behind",
    plan: impatient,
    steps: &[
        (5000, StallControl { array: A }),
        (5900, cut(FIRST_HOST, A)),
        (5900, cut(A, FIRST_HOST)),
        (6600, cut(FIRST_HOST, B)),
        (6600, cut(B, FIRST_HOST)),
        (6600, mend(FIRST_HOST, A)),
        (6600, mend(A, FIRST_HOST)),
        (14_000, Resume { array: A }),
    ],
    jitter: 50,
    storm: false,
    images: false,
    members: false,
};

/// T7: B is dead, the witness is replaced, then A restarts: A must serve by the new witness.
pub const LONE_PRIMARY: Script = Script {
    name: "lone-primary",
    plan: calm,
    steps: &[
        (4000, Crash { array: B, power: false }),
        (8000, WitnessCrash),
        (8500, WitnessReplace),
        (22_000, Crash { array: A, power: false }),
        (22_500, Start { array: A }),
        (32_000, MustServe { group: 0 }),
    ],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};

/// T14: A's disk fails, or hangs; B's, too.
pub const FAILING_DISK_A: Script = Script {
    name: "failing-disk-a",
    plan: calm,
    steps: &[(5000, DiskFails { array: A, how: Failure::Writes }), (8000, MustLead { group: 0, array: B })],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};
pub const HANGING_DISK_A: Script = Script {
    name: "hanging-disk-a",
    plan: calm,
    steps: &[(5000, DiskHang { array: A, span: 12_000 * MS }), (13_000, MustProgress { group: 0 })],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};
pub const FAILING_DISK_B: Script = Script {
    name: "failing-disk-b",
    plan: calm,
    steps: &[(5000, DiskFails { array: B, how: Failure::Writes }), (11_000, MustProgress { group: 0 })],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};
pub const HANGING_DISK_B: Script = Script {
    name: "hanging-disk-b",
    plan: calm,
    steps: &[(5000, DiskHang { array: B, span: 12_000 * MS }), (11_000, MustProgress { group: 0 })],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};

/// DESIGN §6: A's `data_dir` hangs; its leases run out while the links live. Both disks of A at once.
pub const HANGING_DATA_DIR_A: Script = Script {
    name: "hanging-data-dir-a",
    plan: roaming,
    steps: &[(5000, MetadataHang { array: A, span: 14_000 * MS }), (15_000, MustProgress { group: 0 })],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};
pub const HANGING_ARRAY_A: Script = Script {
    name: "hanging-array-a",
    plan: calm,
    steps: &[
        (5000, MetadataHang { array: A, span: 14_000 * MS }),
        (5000, DiskHang { array: A, span: 14_000 * MS }),
        (15_000, MustProgress { group: 0 }),
    ],
    jitter: 100,
    storm: false,
    images: false,
    members: false,
};

/// Whatever the seed drew, and disks of both arrays that hang all the time.
pub const HANGING_DISKS: Script = Script {
    name: "hanging-disks",
    plan: |plan| {
        plan.only_witness = false;
        plan.weights.slow_disk = 20;
    },
    steps: &[],
    jitter: 0,
    storm: true,
    images: false,
    members: false,
};

/// T19: A serves by the witness's lease alone, B's promise is over, the witness restarts.
pub const FORGETFUL_WITNESS: Script = Script {
    name: "forgetful-witness",
    plan: calm,
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (6300, cut(A, WITNESS)),
        (6300, cut(WITNESS, A)),
        (7000, WitnessCrash),
        (7300, WitnessStart),
        (12_000, mend(A, B)),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// T20: B finds its promise over while the witness's still runs; the links come back, the witness
/// dies.
pub const UNWANTED_VOTE: Script = Script {
    name: "unwanted-vote",
    plan: calm,
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (6200, cut(A, WITNESS)),
        (8300, mend(A, B)),
        (8300, mend(B, A)),
        (8400, WitnessCrash),
        (20_000, MustServe { group: 0 }),
    ],
    jitter: 400,
    storm: false,
    images: false,
    members: false,
};

/// T21: the witness is replaced, the link is cut while the new one is being enrolled, and that one
/// is replaced again.
pub const TWICE_REPLACED: Script = Script {
    name: "twice-replaced",
    plan: calm,
    steps: &[
        (4000, WitnessCrash),
        (4500, WitnessReplace),
        (14_700, cut(A, B)),
        (16_000, WitnessCrash),
        (16_100, WitnessReplace),
        (16_200, mend(A, B)),
        (30_000, Switchover { group: 0 }),
    ],
    jitter: 200,
    storm: false,
    images: false,
    members: false,
};

/// T12: A loses its power with writes that B never got, and comes back over a slow network: its answer to
/// B's hello comes in parts, and B says the hello again between two of them.
pub const ANSWER_IN_PARTS: Script = Script {
    name: "answer-in-parts",
    plan: |plan| {
        sparse(plan);
        plan.delay = Delay { min: 120 * MS, max: 380 * MS, slow: 0 };
        plan.habits.command_timeout = 5000 * MS;
    },
    steps: &[
        (9000, cut(FIRST_HOST, B)),
        (9000, cut(B, FIRST_HOST)),
        (9500, Crash { array: A, power: true }),
        (13_500, Start { array: A }),
        (22_000, mend(FIRST_HOST, B)),
        (22_000, mend(B, FIRST_HOST)),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// T22: A, alone in sync, dies; B is put in office through the witness, which is replaced by a blank one
/// before A comes back: A reaches nobody that it knows, and may neither serve nor enrol the new witness.
pub const SECOND_REPLACEMENT: Script = Script {
    name: "second-replacement",
    plan: calm,
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (10_000, Crash { array: A, power: true }),
        (11_000, Override { group: 0, array: B, stale: true }),
        (18_000, MustLead { group: 0, array: B }),
        (18_500, WitnessCrash),
        (18_700, WitnessReplace),
        (19_500, cut(B, WITNESS)),
        (19_500, cut(WITNESS, B)),
        (20_000, Start { array: A }),
        (34_000, MustServe { group: 0 }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: false,
};

/// Rule 12: a blank second witness appears, and A is led to it; the link is cut about when that one begins
/// to speak. A alone with it must not enrol it: B has the first one still.
pub const TWO_WITNESSES: Script = Script {
    name: "two-witnesses",
    plan: |plan| {
        calm(plan);
        plan.delay.max = 120 * MS;
        plan.sync_max = 60 * MS;
    },
    steps: &[
        (4000, SecondWitness { origin: Origin::Blank, led: [true, false] }),
        (14_400, cut(A, B)),
        (14_400, cut(B, A)),
        (26_000, mend(A, B)),
        (26_000, mend(B, A)),
        (28_000, OneWitness { second: false }),
    ],
    jitter: 1500,
    storm: false,
    images: false,
    members: false,
};

/// F14: B is brought up to date, slowly, and restarts in the middle of it; then A is lost for good, and B
/// put in office with what it held before.
pub const LOST_IN_RESYNC: Script = Script {
    name: "lost-in-resync",
    plan: |plan| {
        calm(plan);
        plan.regions = 3;
        plan.io_max = 150 * MS;
        plan.lane_timeout = 0;
    },
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (10_000, mend(A, B)),
        (10_000, mend(B, A)),
        (10_900, Crash { array: B, power: true }),
        (12_000, Start { array: B }),
        (13_200, GiveWord { array: B, moment: Moment::Resync, until: 16_000 * MS, late: 0 }),
        (40_000, MustLead { group: 0, array: B }),
        (40_000, MustServe { group: 0 }),
    ],
    jitter: 900,
    storm: false,
    images: true,
    members: false,
};

/// F14: as before, but the lanes are lost all the time, and B's disk is slow: new sessions begin while the
/// cut of the one before ends.
pub const LOST_AGAIN_AND_AGAIN: Script = Script {
    name: "lost-again-and-again",
    plan: |plan| {
        calm(plan);
        plan.regions = 1;
        plan.io_max = 150 * MS;
        plan.lanes = 1;
        plan.lane_timeout = 0;
        plan.full_sync = true;
    },
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (9500, mend(A, B)),
        (9500, mend(B, A)),
        (10_600, Reset { array: A, of: Use::Lane(0) }),
        (11_100, Reset { array: A, of: Use::Lane(0) }),
        (11_600, Reset { array: A, of: Use::Lane(0) }),
        (11_800, GiveWord { array: B, moment: Moment::Resync, until: 16_000 * MS, late: 0 }),
        (40_000, MustLead { group: 0, array: B }),
    ],
    jitter: 700,
    storm: false,
    images: true,
    members: false,
};

/// F14: the image of a copy is of no use once that has come in sync; B restarts just then. Later A is lost
/// for good in the middle of another resync.
pub const IMAGE_OUTLIVES: Script = Script {
    name: "image-outlives",
    plan: |plan| {
        calm(plan);
        plan.regions = 3;
        plan.io_max = 150 * MS;
        plan.lane_timeout = 0;
    },
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (9500, mend(A, B)),
        (9500, mend(B, A)),
        (11_000, DiskHang { array: B, span: 1500 * MS }),
        (12_000, Crash { array: B, power: true }),
        (14_000, Start { array: B }),
        (15_600, GiveWord { array: B, moment: Moment::Resync, until: 19_000 * MS, late: 0 }),
        (40_000, MustLead { group: 0, array: B }),
    ],
    jitter: 1500,
    storm: false,
    images: true,
    members: false,
};

/// Growth: A, which hosts know to have grown, is lost about when B is asked to grow.
pub const LOST_IN_GROWTH: Script = Script {
    name: "lost-in-growth",
    plan: grows_far,
    steps: &[
        (5000, WantSize { volume: 0, size: 3 }),
        (5050, Crash { array: A, power: true }),
        (12_000, Start { array: A }),
    ],
    jitter: 600,
    storm: false,
    images: false,
    members: true,
};

/// Growth: `data_dir` of A hangs before the objects tell of the growth, and A dies; it is back within its lease.
pub const RESTARTS_IN_GROWTH: Script = Script {
    name: "restarts-in-growth",
    plan: grows_far,
    steps: &[
        (5000, WantSize { volume: 0, size: 3 }),
        (5100, MetadataHang { array: A, span: 1400 * MS }),
        (6500, Crash { array: A, power: false }),
        (6700, Start { array: A }),
    ],
    jitter: 500,
    storm: false,
    images: false,
    members: true,
};

/// Members: A is lost about when B has let a volume in at its word, and the operator then wants it out, and in again.
/// B took a step more of these than A did.
pub const ENTERED_BY_HALF: Script = Script {
    name: "entered-by-half",
    plan: calm,
    steps: &[
        (5000, WantMember { volume: 0, inside: false }),
        (8000, WantMember { volume: 0, inside: true }),
        (8000, Crash { array: A, power: false }),
        (9000, Start { array: A }),
        (9000, WantMember { volume: 0, inside: false }),
        (14_000, WantMember { volume: 0, inside: true }),
        (16_000, MustServe { group: 0 }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: true,
};

/// Members: one volume left the group at B, which exports it since; then A is in office and is lost about when B has
/// let the other volume go at its word. Both are to be members again: the arrays come in sync, and the group goes to B,
/// only when the operator has given the second verb again.
pub const LEFT_BY_HALF: Script = Script {
    name: "left-by-half",
    plan: calm,
    steps: &[
        (3000, Switchover { group: 0 }),
        (5000, WantMember { volume: 0, inside: false }),
        (8000, Switchover { group: 0 }),
        (10_000, WantMember { volume: 1, inside: false }),
        (10_000, Crash { array: A, power: false }),
        (10_600, WantMember { volume: 0, inside: true }),
        (10_600, WantMember { volume: 1, inside: true }),
        (11_000, Start { array: A }),
    ],
    jitter: 300,
    storm: false,
    images: false,
    members: true,
};

/// The other array is lost while the copy's cut ends: that is on its way to a slow disk when the operator
/// has what the copy held before put back.
pub const CUT_ENDS_LATE: Script = Script {
    name: "cut-ends-late",
    plan: |plan| {
        calm(plan);
        plan.regions = 3;
        plan.io_max = 60 * MS;
        plan.sync_max = 400 * MS;
    },
    steps: &[
        (5000, cut(A, B)),
        (5000, cut(B, A)),
        (9500, mend(A, B)),
        (9500, mend(B, A)),
        (10_300, MetadataHang { array: B, span: 4500 * MS }),
        (10_600, GiveWord { array: B, moment: Moment::Now, until: 19_000 * MS, late: 0 }),
        (40_000, MustLead { group: 0, array: B }),
    ],
    jitter: 1500,
    storm: false,
    images: true,
    members: false,
};

pub const ALL: &[&Script] = &[
    &ENTERED_BY_HALF,
    &LEFT_BY_HALF,
    &CUT_ENDS_LATE,
    &LOST_IN_GROWTH,
    &RESTARTS_IN_GROWTH,
    &ANSWER_IN_PARTS,
    &SECOND_REPLACEMENT,
    &TWO_WITNESSES,
    &LOST_IN_RESYNC,
    &IMAGE_OUTLIVES,
    &LOST_AGAIN_AND_AGAIN,
    &FORCED,
    &NO_CONTACT,
    &FORCED_LATER,
    &TWO_HISTORIES_STORM,
    &WRONG_WORD,
    &TWO_HISTORIES,
    &LOST_ACCEPT,
    &ONE_VIEW,
    &PRE_ELECTED,
    &OWN_PROMISE,
    &RESTORED_WITNESS,
    &THERE_AND_BACK,
    &DIVERGED,
    &LEFT_BEHIND,
    &LONE_PRIMARY,
    &FAILING_DISK_A,
    &HANGING_DISK_A,
    &FAILING_DISK_B,
    &HANGING_DISK_B,
    &HANGING_DATA_DIR_A,
    &HANGING_ARRAY_A,
    &HANGING_DISKS,
    &FORGETFUL_WITNESS,
    &UNWANTED_VOTE,
    &TWICE_REPLACED,
];
