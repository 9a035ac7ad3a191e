//! What may happen in one exploration: the faults and wishes that are left, and the bounds.

use twinlun::arbitration::{Side, Timers, Transition};
use twinlun::time::Duration;

/// How often each fault, and each act of an operator, may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// A connection breaks, with all that it carries.
    pub cuts: u8,
    /// One message is lost, what follows it arrives.
    pub losses: u8,
    /// An array's process dies and begins again from its disk.
    pub crashes: u8,
    /// What control wants changes.
    pub wishes: u8,
    /// The witness begins again and proves its continuity.
    pub witness_restarts: u8,
    /// The witness begins again as of old, or blank: a new incarnation.
    pub witness_losses: u8,
    /// A second witness machine begins beside the first.
    pub twins: u8,
    /// An array is switched off; on again it is with a link to the other one alone.
    pub offs: u8,
    /// An operator overrides.
    pub overrides: u8,
    /// An array loses its `data_dir` and its copy.
    pub forgotten: u8,
    /// An array's CLOCK_MONOTONIC stands still while time passes (a paused guest).
    pub pauses: u8,
    /// Steps of time; 255: without end.
    pub passes: u8,
}

/// How the run begins. All connected, everything said and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// {A,B}, A primary, leases by B and the witness.
    InSync,
    /// {A}, A primary.
    Alone,
    /// {A,B}, primary alone: agreed beforehand when both had lost the witness.
    PreElected,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub groups: usize,
    pub timers: Timers,
    /// Time passes in steps of this.
    pub quantum: Duration,
    /// Rates of the clocks of A, B, W, W', in thousandths of true time.
    pub rates: [u64; 4],
    /// Writes to disk take time; otherwise each is over before anything else happens.
    pub slow_disks: bool,
    /// More questions than these from one process to another are not under way at a time: a further one is lost.
    pub questions_max: usize,
    /// Not further than this round within one epoch.
    pub rounds_max: u64,
    /// Not more changes of configuration than these.
    pub changes_max: u64,
    pub start: Start,
    pub left: Left,
    pub wishes: &'static [(Side, Option<Transition>)],
    /// An operator overrides only where the other array is off.
    pub true_word: bool,
    /// One of so many states is healed, and must be served again; zero: none.
    pub heal_one_in: u64,
    /// More states than these end the exploration undecided.
    pub states_max: usize,
    /// What is left never gets less.
    pub endless: bool,
    /// The secondary's reads, answers that come later than a lease, the primary's silence: they matter.
    pub full: bool,
    /// Answers that come later than a lease are taken, no more.
    pub late: bool,
    /// Of the processes' own chance.
    pub seed: u64,
}

impl Scenario {
    /// A step of time is half a lease; a promise lasts three of them. `lease_max` is the lease, so that
    /// the silence of a new witness lasts no longer than any promise.
    pub fn coarse(name: &'static str, left: Left, wishes: &'static [(Side, Option<Transition>)]) -> Self {
        let ms = Duration::from_millis;
        let timers = Timers {
            lease: ms(10_000),
            renewal: ms(1),
            heartbeat: ms(1),
            link_timeout: ms(10_000),
            witness_lost_after: ms(0),
            start_wait: ms(10_000),
            ..Timers::default()
        };
        Self {
            name,
            groups: 1,
            timers,
            quantum: ms(5000),
            rates: [1000; 4],
            slow_disks: false,
            questions_max: 1,
            rounds_max: 2,
            changes_max: 2,
            start: Start::InSync,
            left,
            wishes,
            true_word: true,
            heal_one_in: 0,
            states_max: 40_000_000,
            endless: false,
            full: false,
            late: false,
            seed: 0,
        }
    }

    /// The next pause of a proposer is over at the next step of time, whatever its chance.
    pub fn grain(&self) -> Duration {
        self.timers.heartbeat * 2
    }

    /// The pauses and lineages drawn are those of the process's own generator.
    pub fn keeps_chance(&self) -> bool {
        self.timers.heartbeat > Duration::from_millis(1)
    }
}
