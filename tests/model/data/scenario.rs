//! What may happen in an exploration: a script of hosts, and how often each fault.

use twinlun::arbitration::InSync;
use twinlun::block::{Extent, Op};

/// One operation of the script; its value is its number and one.
#[derive(Clone, Copy, Debug)]
pub struct Deed {
    pub op: Op,
    pub volume: usize,
    pub extent: Extent,
    /// Lane of the thread that takes it.
    pub lane: u16,
    /// Not before that one is over for its host.
    pub after: Option<usize>,
    /// COMPARE AND WRITE: what every block must hold.
    pub expected: u8,
    /// How often the host may try it again after a refusal.
    pub retries: u8,
    /// The host may abort it.
    pub aborts: bool,
    /// The host may give its path up without a word.
    pub leaves: bool,
}

/// Blocks with values: the first two share their physical block, the third is in the next region.
pub const HOT: [u64; 3] = [0, 1, 2048];

pub const fn write(lba: u64) -> Deed {
    let extent = Extent::new(lba, 1);
    Deed {
        op: Op::Write,
        volume: 0,
        extent,
        lane: 0,
        after: None,
        expected: 0,
        retries: 0,
        aborts: false,
        leaves: false,
    }
}

pub const fn read(lba: u64) -> Deed {
    Deed { op: Op::Read, ..write(lba) }
}

pub const fn compare(expected: u8) -> Deed {
    Deed { op: Op::CompareAndWrite, expected, ..write(0) }
}

impl Deed {
    pub const fn on(self, volume: usize, lane: u16) -> Self {
        Self { volume, lane, ..self }
    }

    pub const fn after(self, number: usize) -> Self {
        Self { after: Some(number), ..self }
    }

    pub const fn retried(self) -> Self {
        Self { retries: 1, ..self }
    }

    pub const fn aborted(self) -> Self {
        Self { aborts: true, ..self }
    }

    pub const fn left(self) -> Self {
        Self { leaves: true, retries: 1, ..self }
    }
}

/// What is left of each fault, and of what an operator may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// A lane breaks.
    pub lanes: u8,
    /// The session ends for no reason that the model knows (a time-out).
    pub sessions: u8,
    /// Frames of a closed connection that arrive all the same.
    pub late: u8,
    /// By array.
    pub crashes: [u8; 2],
    /// A is cut off from B and the witness, alive.
    pub isolations: u8,
    /// A piece of store I/O fails.
    pub failures: u8,
    pub drops: u8,
    pub switches: u8,
    pub hand_overs: u8,
    /// Instants at which everything that waits for time is due.
    pub ticks: u8,
}

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub volumes: usize,
    pub script: &'static [Deed],
    /// What the pair is when it begins; with the primary alone in sync the copies differ and are marked.
    pub begins: InSync,
    pub budget: Budget,
    /// Idle regions that stay marked active.
    pub active_regions: u32,
    /// Frames of one copy.
    pub copy_frames: u32,
    /// The secondary holds commands for a promotion to come, and opens its gate later.
    pub holds: bool,
    /// Only when asked for.
    pub large: bool,
}

impl Scenario {
    pub const PLAIN: Self = Self {
        name: "",
        volumes: 1,
        script: &[],
        begins: InSync::Both,
        budget: Budget {
            lanes: 0,
            sessions: 0,
            late: 0,
            crashes: [0; 2],
            isolations: 0,
            failures: 0,
            drops: 0,
            switches: 0,
            hand_overs: 0,
            ticks: 0,
        },
        active_regions: 1,
        copy_frames: 1,
        holds: false,
        large: false,
    };
}
