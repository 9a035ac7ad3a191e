//! What a seed is made of: how many groups, volumes and hosts, how fast the network and disks,
//! and which faults how often. Drawn first, so that each seed stresses a few things hard instead
//! of everything a little.

use twinlun::arbitration::Timers;
use twinlun::time::Duration;

use crate::host::{Habits, MS};
use crate::network::Delay;
use crate::prng::Prng;

#[derive(Clone, Copy, Debug)]
pub struct VolumePlan {
    pub group: usize,
}

/// Relative frequency of each kind of fault.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weights {
    pub kill_array: u64,
    pub power_array: u64,
    pub pause_array: u64,
    pub stop_array: u64,
    pub witness_restart: u64,
    pub witness_replace: u64,
    pub witness_pause: u64,
    pub cut_arrays: u64,
    pub cut_witness: u64,
    pub cut_host: u64,
    pub cut_lane: u64,
    pub reset: u64,
    pub switchover: u64,
    pub stop_start: u64,
    pub slow_disk: u64,
    pub failing_disk: u64,
    pub stall_control: u64,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub groups: usize,
    pub volumes: Vec<VolumePlan>,
    pub regions: u64,
    /// Volumes with the write promise *memory*, one bit each.
    pub memory: u32,
    /// What volumes may have grown to in the end.
    pub room: u64,
    pub hosts: usize,
    /// The group starts with a full copy.
    pub full_sync: bool,
    pub timers: Timers,
    pub habits: Habits,
    pub lanes: u16,
    pub delay: Delay,
    /// Volume I/O, in nanoseconds.
    pub io_min: u64,
    pub io_max: u64,
    /// Per mille of I/O that waits inside the process before it is submitted.
    pub io_stalls: u64,
    /// Durable write of a file in `data_dir`.
    pub sync_max: u64,
    pub weights: Weights,
    /// Nothing but the witness fails: the gate must never close (rule 13).
    pub only_witness: bool,
    /// Mean time between faults.
    pub fault_every: u64,
    /// No fault before this.
    pub calm: u64,
    pub user_timeout: u64,
    /// Silence after which a lane is given up while another moves; zero: never.
    pub lane_timeout: u64,
    /// How late bytes of a closed connection may still be read.
    pub late_max: u64,
    /// Within this the healed world is in sync again.
    pub heal_bound: u64,
    /// When faults end.
    pub faults_until: u64,
}

impl Plan {
    /// Length of a grantor's promise: what faults are measured by.
    pub fn promise(&self) -> u64 {
        self.timers.promise().as_nanos() as u64
    }

    pub fn draw(rng: &mut Prng) -> Self {
        let groups = if rng.per_mille(700) { 1 } else { 2 };
        let mut volumes = Vec::new();
        for group in 0..groups {
            for _ in 0..rng.between(1, 2) {
                volumes.push(VolumePlan { group });
            }
        }
        let io_max = rng.pick(&[MS / 5, 2 * MS, 20 * MS, 200 * MS]);
        let delay_max = rng.pick(&[MS / 2, 3 * MS, 30 * MS, 100 * MS]);
        let mut plan = Self {
            groups,
            volumes,
            regions: rng.between(1, 3),
            memory: 0,
            room: 0,
            full_sync: rng.coin(),
            timers: Self::timers(rng),
            hosts: rng.between(1, 3) as usize,
            habits: Habits {
                slots: rng.between(1, 3) as usize,
                think_max: rng.pick(&[5 * MS, 40 * MS, 200 * MS, 600 * MS]),
                command_timeout: rng.pick(&[400 * MS, 1500 * MS, 5000 * MS]),
                abort_timeout: rng.pick(&[300 * MS, 1500 * MS]),
                poll: rng.pick(&[500 * MS, 1500 * MS]),
            },
            lanes: rng.between(1, 3) as u16,
            delay: Delay { min: MS / 20, max: delay_max, slow: rng.pick(&[0, 0, 5, 30]) },
            io_min: MS / 50,
            io_max,
            io_stalls: rng.pick(&[0, 20, 150]),
            sync_max: rng.pick(&[MS / 2, 5 * MS, 60 * MS]),
            weights: Self::weights(rng),
            only_witness: rng.per_mille(30),
            fault_every: rng.pick(&[500 * MS, 1500 * MS, 4000 * MS]),
            calm: if rng.per_mille(800) { 2500 * MS } else { 0 },
            user_timeout: 2000 * MS,
            lane_timeout: rng.pick(&[0, 300 * MS]),
            late_max: rng.pick(&[0, 50 * MS, 600 * MS]),
            heal_bound: 60_000 * MS,
            faults_until: rng.between(15_000, 45_000) * MS,
        };
        if plan.only_witness {
            plan.weights = Weights {
                witness_restart: 2,
                witness_replace: 2,
                witness_pause: 1,
                cut_witness: 4,
                ..Weights::default()
            };
            plan.delay = Delay { min: MS / 20, max: 2 * MS, slow: 0 };
            plan.io_max = plan.io_max.min(20 * MS);
            plan.calm = 4000 * MS;
        }
        plan
    }

    /// The defaults, or a quicker set; the long waits shortened for the sake of speed.
    fn timers(rng: &mut Prng) -> Timers {
        let ms = Duration::from_millis;
        let base = Timers {
            start_wait: ms(rng.pick(&[2_000, 5_000])),
            rejoin_delay: ms(rng.pick(&[50, 500])),
            witness_lost_after: ms(rng.pick(&[1_500, 4_000, 10_000])),
            ..default_timers()
        };
        if rng.coin() {
            return base;
        }
        Timers {
            lease: ms(1_600),
            renewal: ms(rng.pick(&[200, 400])),
            heartbeat: ms(100),
            voter_margin: ms(60),
            link_timeout: ms(500),
            mirror_timeout: ms(rng.pick(&[600, 1_200])),
            disk_timeout: ms(1_000),
            switchover_hold: ms(1_000),
            promote_hold: ms(4_000),
            ..base
        }
    }

    fn weights(rng: &mut Prng) -> Weights {
        let w = |rng: &mut Prng, usual: u64| match rng.below(5) {
            0 | 1 => 0,
            2 => usual * 4,
            _ => usual,
        };
        Weights {
            kill_array: w(rng, 6),
            power_array: w(rng, 3),
            pause_array: w(rng, 6),
            stop_array: w(rng, 2),
            witness_restart: w(rng, 4),
            witness_replace: w(rng, 2),
            witness_pause: w(rng, 2),
            cut_arrays: w(rng, 8),
            cut_witness: w(rng, 6),
            cut_host: w(rng, 3),
            cut_lane: w(rng, 4),
            reset: w(rng, 4),
            switchover: w(rng, 6),
            stop_start: w(rng, 1),
            slow_disk: w(rng, 3),
            failing_disk: if rng.per_mille(250) { w(rng, 3) } else { 0 },
            stall_control: w(rng, 2),
        }
    }
}

/// The defaults, with the long waits shortened for the sake of speed.
pub fn default_timers() -> Timers {
    let ms = Duration::from_millis;
    Timers {
        witness_lost_after: ms(10_000),
        start_wait: ms(2_000),
        rejoin_delay: ms(500),
        rejoin_delay_max: ms(2_000),
        ..Timers::default()
    }
}
