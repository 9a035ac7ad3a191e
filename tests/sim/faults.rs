//! What goes wrong: random faults by the plan's weights, each undone after a while, and scripted
//! starts. At the end everything is healed.

use twinlun::block::BLOCKS_PER_PHYSICAL;

use crate::absent::Loss;
use crate::disk::Failure;
use crate::host::MS;
use crate::layout;
use crate::network::{A, B, Cut, FIRST_HOST, Process, Use, WITNESS};
use crate::prng::Prng;
use crate::second::Origin;
use crate::witness::Return;
use crate::word::Moment;
use crate::world::{Event, Phase, World};

/// Begins the stream of chance for sectors that fail.
const SECTORS: u64 = 0x5ec7_0125;

/// A thing that is done at an instant: by chance, by its undoing, or by a script.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// The process dies; its machine's TCP says so at once (`power`: nothing says so).
    Crash {
        array: usize,
        power: bool,
    },
    Start {
        array: usize,
    },
    Pause {
        array: usize,
    },
    Resume {
        array: usize,
    },
    /// Only the control thread stands still; data threads go on.
    StallControl {
        array: usize,
    },
    /// SIGTERM: hand over first, then end.
    Stop {
        array: usize,
    },
    Cut {
        from: Process,
        to: Process,
        lane: Option<u16>,
    },
    Mend {
        from: Process,
        to: Process,
        lane: Option<u16>,
    },
    /// Every connection of this use between the two is reset.
    Reset {
        array: usize,
        of: Use,
    },
    WitnessCrash,
    /// With its state and proof of continuity.
    WitnessStart,
    /// With its state, without proof of continuity: a new incarnation.
    WitnessReboot,
    /// With nothing: a blank one.
    WitnessReplace,
    /// With an older copy of its state (and so without proof of continuity).
    WitnessRestore,
    WitnessPause,
    WitnessResume,
    Switchover {
        group: usize,
    },
    StopGroup {
        group: usize,
    },
    StartGroup {
        group: usize,
    },
    Failover {
        group: usize,
    },
    /// The operator's word that the other array is off, true or not.
    Override {
        group: usize,
        array: usize,
        stale: bool,
    },
    /// By now this array must keep what it wrote alone before an override.
    MustBeDiverged {
        group: usize,
        array: usize,
    },
    Discard {
        group: usize,
        array: usize,
    },
    /// Its votes and data are gone, or old (rule 18).
    Lose {
        array: usize,
        loss: Loss,
    },
    /// A second witness comes up; these arrays reach it from now on.
    SecondWitness {
        origin: Origin,
        led: [bool; 2],
    },
    /// The array reaches the second witness, or the first one.
    LeadTo {
        array: usize,
        second: bool,
    },
    /// One of two witnesses is turned off for good: the first, or the second.
    OneWitness {
        second: bool,
    },
    /// The other array is turned off, and this one put in office.
    GiveWord {
        array: usize,
        moment: Moment,
        until: u64,
        late: u64,
    },
    KeepWord {
        array: usize,
    },
    /// The operator wants a volume in its group, or out of it.
    WantMember {
        volume: usize,
        inside: bool,
    },
    WantSize {
        volume: usize,
        size: u64,
    },
    LookAtMembers,
    VerbsGoOn {
        array: usize,
    },
    /// The other array has not answered.
    RequestIsLate {
        array: usize,
        number: u64,
    },
    DiskHang {
        array: usize,
        span: u64,
    },
    MetadataHang {
        array: usize,
        span: u64,
    },
    DiskFails {
        array: usize,
        how: Failure,
    },
    DiskWorks {
        array: usize,
    },
    /// A physical block, the one of this block of interest, cannot be read until it is written whole.
    SectorFails {
        array: usize,
        volume: usize,
        index: usize,
    },
    /// By now some array must serve the group.
    MustServe {
        group: usize,
    },
    /// By now this array must be the primary of the group.
    MustLead {
        group: usize,
        array: usize,
    },
    /// Hosts must have finished something lately.
    MustProgress {
        group: usize,
    },
}

/// Who does not come back when everything else is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Away {
    Nobody,
    Array(usize),
    /// To the end: the arrays see each other and must not need it (rule 13).
    Witness,
}

impl World {
    pub fn faults_begin(&mut self) {
        if let Some(script) = self.script {
            for (ms, step) in script.steps {
                let late = if script.jitter == 0 { 0 } else { self.rng.below(script.jitter * MS) };
                self.at(ms * MS + late, *step);
            }
            let last = script.steps.last().map_or(0, |(ms, _)| ms * MS);
            if !script.storm {
                self.queue.push(last + self.plan.promise(), Event::Heal);
                return;
            }
            self.plan.calm = last;
            self.plan.faults_until += last;
        }
        self.queue.push(self.plan.faults_until, Event::Heal);
        self.next_fault();
    }

    /// Read errors of single sectors, in one of eight seeds. Drawn from a source of their own: the
    /// other seeds stay what they are.
    pub fn plan_bad_sectors(&mut self, seed: u64) {
        let mut rng = Prng::new(seed ^ SECTORS);
        if rng.below(8) != 0 || self.script.is_some() || self.plan.only_witness {
            return;
        }
        let every = rng.pick(&[50 * MS, 300 * MS, 2000 * MS]);
        let mut at = self.plan.calm / 2;
        while at < self.plan.faults_until {
            let array = rng.below(2) as usize;
            let volume = rng.below(self.plan.volumes.len() as u64) as usize;
            let index = rng.below(self.plan.regions * layout::PER_REGION as u64) as usize;
            self.at(at, Step::SectorFails { array, volume, index });
            at += rng.between(1, every * 2);
        }
    }

    fn next_fault(&mut self) {
        let after = self.rng.between(1, self.plan.fault_every * 2);
        // The group is let come in sync first, most of the time.
        let at = (self.now + after).max(self.plan.calm);
        if at < self.plan.faults_until {
            self.queue.push(at, Event::Fault);
        }
    }

    pub fn at(&mut self, after: u64, step: Step) {
        let index = self.steps.len() as u32;
        self.steps.push(step);
        self.queue.push(self.now + after, Event::Step { step: index });
    }

    pub fn carry_out_step(&mut self, index: u32) {
        let step = self.steps[index as usize];
        self.apply(step);
    }

    /// How long a fault lasts: within the lease, about it, or well past it.
    fn duration(&mut self) -> u64 {
        let promise = self.plan.promise();
        match self.rng.below(4) {
            0 => self.rng.between(MS, promise / 3),
            1 => self.rng.between(promise / 3, promise),
            2 => self.rng.between(promise * 9 / 10, promise * 13 / 10),
            _ => self.rng.between(promise, promise * 3),
        }
    }

    pub fn random_fault(&mut self) {
        if self.phase != Phase::Storm {
            return;
        }
        self.next_fault();
        let w = self.plan.weights;
        let table = [
            w.kill_array,
            w.power_array,
            w.pause_array,
            w.stop_array,
            w.witness_restart,
            w.witness_replace,
            w.witness_pause,
            w.cut_arrays,
            w.cut_witness,
            w.cut_host,
            w.cut_lane,
            w.reset,
            w.switchover,
            w.stop_start,
            w.slow_disk,
            w.failing_disk,
            w.stall_control,
        ];
        let total: u64 = table.iter().sum();
        if total == 0 {
            return;
        }
        let mut left = self.rng.below(total);
        let kind = table.iter().position(|&weight| {
            if left < weight {
                true
            } else {
                left -= weight;
                false
            }
        });
        let array = self.rng.below(2) as usize;
        let span = self.duration();
        match kind.unwrap_or(0) {
            0 | 1 => {
                self.apply(Step::Crash { array, power: kind == Some(1) });
                self.at(span, Step::Start { array });
            }
            2 => {
                self.apply(Step::Pause { array });
                self.at(span, Step::Resume { array });
            }
            3 => {
                self.apply(Step::Stop { array });
            }
            4 => {
                self.apply(Step::WitnessCrash);
                let start = if self.rng.coin() { Step::WitnessStart } else { Step::WitnessReboot };
                self.at(span, start);
            }
            5 => {
                self.apply(Step::WitnessCrash);
                let start = if self.rng.coin() { Step::WitnessReplace } else { Step::WitnessRestore };
                self.at(span, start);
            }
            6 => {
                self.apply(Step::WitnessPause);
                self.at(span, Step::WitnessResume);
            }
            7 => self.cut_for(A, B, span),
            8 => self.cut_for(array, WITNESS, span),
            9 => {
                let host = FIRST_HOST + self.rng.below(self.hosts.len() as u64) as usize;
                self.cut_for(host, array, span);
            }
            10 => {
                let lane = Some(self.rng.below(u64::from(self.plan.lanes)) as u16);
                for (from, to) in [(A, B), (B, A)] {
                    self.apply(Step::Cut { from, to, lane });
                    self.at(span, Step::Mend { from, to, lane });
                }
            }
            11 => {
                let of = match self.rng.below(4) {
                    0 => Use::Control,
                    1 => Use::Witness,
                    _ => Use::Lane(self.rng.below(u64::from(self.plan.lanes)) as u16),
                };
                self.apply(Step::Reset { array, of });
            }
            12 => {
                let group = self.rng.below(self.plan.groups as u64) as usize;
                self.apply(Step::Switchover { group });
            }
            13 => {
                let group = self.rng.below(self.plan.groups as u64) as usize;
                self.apply(Step::StopGroup { group });
                if self.rng.coin() {
                    self.at(span / 2, Step::Failover { group });
                }
                self.at(span, Step::StartGroup { group });
            }
            14 => {
                if self.rng.coin() {
                    self.apply(Step::DiskHang { array, span });
                } else {
                    self.apply(Step::MetadataHang { array, span });
                }
            }
            15 => {
                let how = self.rng.pick(&[
                    Failure::Writes,
                    Failure::TornWrites,
                    Failure::Full,
                    Failure::Everything,
                ]);
                self.apply(Step::DiskFails { array, how });
                self.at(span, Step::DiskWorks { array });
            }
            _ => {
                self.apply(Step::StallControl { array });
                self.at(span, Step::Resume { array });
            }
        }
    }

    /// Cuts both ways, or one.
    fn cut_for(&mut self, x: Process, y: Process, span: u64) {
        let which = self.rng.below(4);
        if which != 0 {
            self.apply(Step::Cut { from: x, to: y, lane: None });
            self.at(span, Step::Mend { from: x, to: y, lane: None });
        }
        if which != 1 {
            self.apply(Step::Cut { from: y, to: x, lane: None });
            self.at(span, Step::Mend { from: y, to: x, lane: None });
        }
    }

    pub fn apply(&mut self, step: Step) {
        if self.would_be_second(step) {
            return;
        }
        self.say(|| format!("FAULT {step:?}"));
        match step {
            Step::Crash { array, power } => self.crash_array(array, power),
            Step::Start { array } if self.away == Away::Array(array) || self.word.off == Some(array) => {}
            Step::Start { array } => self.start_array(array),
            Step::Lose { array, loss } => self.lose(array, loss),
            Step::Pause { array } => self.arrays[array].paused = true,
            Step::StallControl { array } => self.arrays[array].control_stalled = true,
            Step::Resume { array } => self.resume_array(array),
            Step::Stop { array } => self.stop_array(array),
            Step::Cut { from, to, lane } => self.network.cut(Cut { from, to, lane }),
            Step::Mend { from, to, lane } => {
                let gone = Cut { from, to, lane };
                self.network.heal(|cut| *cut == gone, self.now, &mut self.rng);
            }
            Step::Reset { array, of } => self.reset_connections(array, of),
            Step::WitnessCrash => self.witness_crash(WITNESS),
            Step::WitnessStart | Step::WitnessReboot | Step::WitnessReplace | Step::WitnessRestore
                if self.away == Away::Witness => {}
            Step::WitnessStart => self.witness_restart(WITNESS, Return::Continuous),
            Step::WitnessReboot => self.witness_restart(WITNESS, Return::Rebooted),
            Step::WitnessReplace => self.witness_restart(WITNESS, Return::Blank),
            Step::WitnessRestore => self.witness_restart(WITNESS, Return::Restored),
            Step::WitnessPause => self.witness.paused = true,
            Step::WitnessResume => self.witness_resume(WITNESS),
            Step::SecondWitness { origin, led } => self.second_witness(origin, led),
            Step::LeadTo { array, second } => self.lead_to(array, second),
            Step::OneWitness { second } => self.one_witness(second),
            Step::GiveWord { array, moment, until, late } => self.give_word(array, moment, until, late),
            Step::KeepWord { array } => self.keep_word(array),
            Step::Switchover { group } => self.order_switchover(group),
            Step::StopGroup { group } => self.order_stop(group),
            Step::StartGroup { group } => self.order_start(group),
            Step::Failover { group } => self.order_failover(group),
            Step::Override { group, array, stale } => self.order_override(array, group, stale),
            Step::Discard { group, array } => self.order_discard(array, group),
            Step::MustBeDiverged { group, array } => self.must_be_diverged(array, group),
            Step::WantMember { volume, inside } => self.want_member(volume, inside),
            Step::WantSize { volume, size } => self.want_size(volume, size),
            Step::VerbsGoOn { array } => self.verbs_go_on(array),
            Step::LookAtMembers => self.look_at_members(),
            Step::RequestIsLate { array, number } => self.request_is_late(array, number),
            Step::DiskHang { array, span } => self.arrays[array].hang_until = self.now + span,
            Step::MetadataHang { array, span } => self.arrays[array].metadata_hang_until = self.now + span,
            Step::MustServe { group } => self.must_serve(group),
            Step::MustLead { group, array } => self.must_lead(group, array),
            Step::MustProgress { group } => self.must_progress(group),
            Step::DiskFails { array, how } => self.arrays[array].disk_failure = Some(how),
            Step::DiskWorks { array } => self.arrays[array].disk_failure = None,
            Step::SectorFails { array, volume, index } => {
                let lba = layout::lba(index) / BLOCKS_PER_PHYSICAL * BLOCKS_PER_PHYSICAL;
                let bad = &mut self.arrays[array].store.bad[volume];
                if !bad.contains(&lba) {
                    bad.push(lba);
                }
            }
        }
        self.drain_due();
    }

    /// Every process runs, every leg carries, every disk works.
    pub fn heal(&mut self) {
        self.say(|| "HEAL".into());
        self.phase = Phase::Healed;
        self.healed_at = self.now;
        self.network.heal(|_| true, self.now, &mut self.rng);
        self.network.delay.slow = 0;
        self.network.delay.max = self.network.delay.max.min(5 * MS);
        self.network.delay.min = self.network.delay.min.min(MS);
        // Mostly everything comes back; sometimes one of the three stays away for a while.
        self.away = if self.script.is_some_and(|s| !s.storm) {
            Away::Nobody
        } else {
            match self.rng.below(10) {
                0 | 1 => Away::Array(0),
                2 | 3 => Away::Array(1),
                4 => Away::Witness,
                _ => Away::Nobody,
            }
        };
        if self.word.off.is_some() {
            self.away = Away::Nobody;
        }
        let survivor = self.second.witness.alive && self.rng.coin();
        self.one_witness(survivor);
        for array in 0..2 {
            self.arrays[array].disk_failure = None;
            self.arrays[array].store.bad.iter_mut().for_each(Vec::clear);
            self.resume_array(array);
            if self.away == Away::Array(array) {
                self.crash_array(array, false);
            } else if !self.arrays[array].alive && self.word.off != Some(array) {
                self.start_array(array);
            }
        }
        self.witness_resume(WITNESS);
        if self.away == Away::Witness {
            self.witness_crash(WITNESS);
        } else if !self.witness.alive {
            self.witness_restart(WITNESS, Return::Continuous);
        }
        for group in 0..self.plan.groups {
            self.order_start(group);
        }
        self.queue.push(self.now + 500 * MS, Event::Rest);
        self.drain_due();
    }
}
