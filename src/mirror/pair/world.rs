//! Two arrays, lanes between them, a scheduler, and an arbiter that decides by fiat what three
//! voters would (ARBITRATION's guards are kept, its messages are not: that is the group's part).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::*;
use super::array::{Array, Payload, hot};
use super::history::{Effect, History, Record};
use crate::arbitration::{Config, Epoch, Gate, InSync, Lineage, Mode, Quorum, Side};
use crate::block::{BLOCKS_PER_PHYSICAL, Extent, Op, Outcome, Request, StoreResult};
use crate::time::{Duration, Now, Time};

/// Stamp by block; absent: never written.
pub type Image = BTreeMap<u64, u64>;

/// Blocks that carry stamps: both ends of physical blocks, two region borders, a far region.
pub const HOT: [u64; 24] = [
    0, 1, 7, 8, 9, 15, 16, 2039, 2040, 2046, 2047, 2048, 2049, 2056, 4095, 4096, 4100, 4103, 4104, 10_240,
    10_241, 10_248, 10_255, 10_256,
];
const REGIONS: u64 = 8;
pub(super) const LEASE: Duration = Duration::from_millis(150);
/// Frames unanswered for so long end the session.
pub(super) const MIRROR_TIMEOUT: Duration = Duration::from_millis(300);
pub(super) const LANES: usize = 2;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    /// True once in `n` times.
    pub fn chance(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

#[derive(Clone, Debug)]
pub struct Frame {
    pub header: FrameHeader,
    pub data: Image,
}

#[derive(Clone, Debug)]
pub(super) enum Message {
    Data(LaneId, Frame),
    Given(FrameHeader, Image),
    AskSums(LaneId, FrameHeader),
    Sums(FrameHeader, Vec<Sum>),
    Ack(SessionId, u64, Option<StoreResult>),
}

pub struct World {
    pub(super) random: Random,
    pub(super) now: u64,
    pub(super) arrays: [Array; 2],
    /// The newest configuration chosen, whoever knows it.
    pub(super) chosen: Config,
    /// Boot counters with which the copies were in sync.
    pub(super) in_sync_boots: [u64; 2],
    /// By lane and sender.
    pub(super) lanes: [[VecDeque<Message>; 2]; LANES],
    /// What connections that were given up still hold, with the sender.
    pub(super) stale: Vec<(usize, VecDeque<Message>)>,
    pub(super) history: History,
    pub(super) stamps: u64,
    pub(super) healing: bool,
    pub(super) violation: Option<String>,
    /// A rule is broken on purpose: its traces are looked for in what hosts see.
    pub mutated: bool,
    pub(super) trace: bool,
    /// No faults but those of [`World::corrupt`].
    pub(super) calm: bool,
    /// What is being written when an array dies cannot be read by either afterwards.
    pub(super) rotten: bool,
    /// Blocks that were changed silently on one copy.
    pub(super) corrupted: BTreeSet<u64>,
}

pub(super) const fn index(side: Side) -> usize {
    match side {
        Side::A => 0,
        Side::B => 1,
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let geometry = Self::geometry();
        let chosen = Config {
            lineage: Lineage { counter: 1, id: 1 },
            epoch: Epoch(1),
            tenure_epoch: Epoch(1),
            primary: Side::A,
            in_sync: InSync::Primary,
            quorum: Quorum::Majority,
            witness: None,
            natural: Side::A,
        };
        let array = |side| {
            let mut map_file = vec![0; usize::try_from(DirtyMap::file_len(geometry)).unwrap()];
            map_file[..4096].copy_from_slice(&*DirtyMap::file_header(geometry));
            Array {
                side,
                volume: None,
                disk: Image::new(),
                bad: BTreeSet::new(),
                map_file,
                map_write: None,
                threads: Default::default(),
                ios: Vec::new(),
                payloads: BTreeMap::new(),
                applies: BTreeMap::new(),
                lent: BTreeMap::new(),
                summing: BTreeSet::new(),
                known: chosen,
                vote: None,
                boot: 0,
                counter: 0,
                session: None,
                hello: None,
                lease_end: Time::ZERO,
                isolated: false,
                frozen: false,
                switching: false,
                out: Vec::new(),
            }
        };
        Self {
            random: Random::new(seed),
            now: 1,
            arrays: [array(Side::A), array(Side::B)],
            chosen,
            in_sync_boots: [0; 2],
            lanes: Default::default(),
            stale: Vec::new(),
            history: History::default(),
            stamps: 0,
            healing: false,
            violation: None,
            mutated: false,
            trace: std::env::var_os("PAIR_TRACE").is_some(),
            calm: false,
            rotten: seed.is_multiple_of(4),
            corrupted: BTreeSet::new(),
        }
    }

    pub(super) fn geometry() -> Geometry {
        Geometry { id: VolumeId([3; 16]), blocks: REGIONS * REGION_BLOCKS - 4 }
    }

    pub(super) fn limits() -> Limits {
        let activity_linger = Duration::from_millis(40);
        Limits { commands: 12, copies: 2, active_regions: 1, activity_linger, ..Limits::default() }
    }

    pub(super) fn cx(&mut self) -> Context {
        let time = Time::from_millis(self.now);
        let lane = LaneId(u16::try_from(self.random.below(LANES + 1)).unwrap());
        Context { now: Now { grantor: time, holder: time }, lane: Some(lane).filter(|lane| lane.0 < 2) }
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:6} {}", self.now, what());
        }
    }

    /// Runs a seed: faults first, then healing; the verdict.
    pub fn run(mut self, steps: u64) -> Result<(), String> {
        for _ in 0..steps {
            self.step()?;
        }
        self.healing = true;
        for side in [0, 1] {
            self.arrays[side].isolated = false;
            self.arrays[side].bad.clear();
            self.call(side, |volume, cx, out| volume.set_copies(2, cx, out));
        }
        for _ in 0..40_000 {
            self.step()?;
            if self.quiet() {
                self.finish();
                let [a, b] = &self.arrays;
                if let Some(lba) =
                    HOT.iter().find(|lba| a.disk.get(lba).unwrap_or(&0) != b.disk.get(lba).unwrap_or(&0))
                {
                    return Err(format!(
                        "in sync, and block {lba} is {:?} at A, {:?} at B",
                        a.disk.get(lba),
                        b.disk.get(lba)
                    ));
                }
                return self.history.check(&HOT);
            }
        }
        let status = self.arrays.iter().map(|array| array.volume.as_ref().map(Volume::status));
        Err(format!("stuck: {:?} {:?} {:?}", self.chosen, status.collect::<Vec<_>>(), self.arrays[0].vote))
    }

    /// Everything answered, equal and written.
    pub(super) fn quiet(&self) -> bool {
        self.chosen.in_sync == InSync::Both
            && self.stale.is_empty()
            && self.lanes.iter().flatten().all(VecDeque::is_empty)
            && self.arrays.iter().all(|array| {
                let status = array.volume.as_ref().map(Volume::status).unwrap_or_default();
                array.volume.is_some()
                    && array.known == self.chosen
                    && array.vote.is_none()
                    && array.payloads.is_empty()
                    && array.ios.is_empty()
                    && array.threads.iter().all(VecDeque::is_empty)
                    && status.recovering_regions == 0
                    && !array.volume.as_ref().is_some_and(Volume::verifies)
                    && !status.map_pending
                    && (array.side != self.chosen.primary || array.session.is_some())
            })
    }

    /// Reads every block at the end, from the primary's copy.
    fn finish(&mut self) {
        let found = self.arrays[index(self.chosen.primary)].disk.clone();
        self.now += 10;
        let record = Record {
            effect: Effect::Read,
            stamp: 0,
            blocks: HOT.to_vec(),
            invoked: self.now,
            done: Some(self.now + 1),
            killed: false,
            found: Some(found),
        };
        self.history.records.push(record);
    }

    pub(super) fn step(&mut self) -> Result<(), String> {
        self.now += self.random.next() % 3;
        let side = self.random.below(2);
        if self.arrays[side].frozen {
            // A stopped process: nothing of it moves, its sockets and its disk included.
            let wakes = self.healing || self.random.chance(400);
            self.arrays[side].frozen &= !wakes;
            return Ok(());
        }
        match self.random.below(100) {
            0..=11 if !self.healing => self.submit(side),
            0..=34 => self.run_thread(side)?,
            35..=57 => self.run_io(side),
            58..=79 => self.deliver(side),
            80..=85 => self.write_map(side),
            86..=93 => self.control(side),
            94 | 95 => self.call(side, |volume, cx, out| volume.tick(cx, out)),
            96 if !self.healing => self.abort(side),
            97 | 98 if !self.healing && !self.calm => self.fault(side),
            99 if !self.healing && !self.calm => self.verify(side),
            _ => {}
        }
        self.violation.take().map_or(Ok(()), Err)
    }

    pub(super) fn call<T>(
        &mut self,
        side: usize,
        f: impl FnOnce(&mut Volume, Context, &mut Vec<VolumeAction>) -> T,
    ) -> T
    where
        T: Default,
    {
        let cx = self.cx();
        let array = &mut self.arrays[side];
        let Some(volume) = &mut array.volume else { return T::default() };
        let result = f(volume, cx, &mut array.out);
        self.inspect(side, cx);
        self.arrays[side].dispatch(&mut self.random);
        result
    }

    /// Rule 6, at the moment of the core's decision: nothing starts and nothing is answered but by a
    /// refusal without the gate, or in another tenure than the command's.
    fn inspect(&mut self, side: usize, cx: Context) {
        let array = &self.arrays[side];
        let Some(volume) = &array.volume else { return };
        if self.now.is_multiple_of(7) && !self.mutated {
            super::super::tests::invariants::check(volume);
        }
        let gate = volume.gate();
        for action in &array.out {
            let command = match action {
                VolumeAction::Answer { outcome: Outcome::Refused(_) | Outcome::Aborted, .. } => continue,
                VolumeAction::Answer { command, .. }
                | VolumeAction::Local { command, .. }
                | VolumeAction::Compare { command } => command,
                _ => continue,
            };
            let arrived = array.payloads.get(command).and_then(|payload| payload.tenure);
            if !gate.may_answer(cx.now) || arrived.is_some_and(|tenure| tenure != gate.tenure) {
                self.violation = Some(format!("{side} {action:?} of {arrived:?} through {gate:?}"));
            }
        }
    }

    fn submit(&mut self, side: usize) {
        // Mostly where hosts are served.
        let side = if self.random.chance(8) { side } else { index(self.chosen.primary) };
        if self.arrays[side].volume.is_none() {
            return;
        }
        let lba = HOT[self.random.below(HOT.len())];
        let op = [
            Op::Read,
            Op::Read,
            Op::Write,
            Op::Write,
            Op::Write,
            Op::WriteSame,
            Op::CompareAndWrite,
            Op::Flush,
        ][self.random.below(8)];
        let mut extent = Extent::new(lba, 1 + self.random.next() % 9);
        let mut op = op;
        if self.random.chance(20) {
            (op, extent) = (Op::Unmap, Extent::new(lba, 4200)); // spans three regions
        }
        extent.blocks = extent.blocks.min(Self::geometry().blocks - extent.lba);
        self.stamps += 1;
        let blocks: Vec<u64> = if op == Op::Flush { Vec::new() } else { hot(extent).collect() };
        let record = self.history.records.len();
        let expected = match self.arrays[side].disk.get(&lba) {
            Some(value) if !self.random.chance(3) => *value,
            _ => 0,
        };
        self.history.records.push(Record {
            effect: if op.writes() { Effect::Write } else { Effect::Read },
            stamp: self.stamps,
            blocks,
            invoked: self.now,
            done: None,
            killed: false,
            found: None,
        });
        let cx = self.cx();
        let array = &mut self.arrays[side];
        let Some(volume) = &mut array.volume else { return };
        match volume.submit(Request { op, extent }, cx, &mut array.out) {
            Ok(id) => {
                let gate = volume.gate();
                let tenure = Some(gate.tenure).filter(|_| volume.may_start(cx.now));
                let payload = Payload {
                    tenure,
                    record,
                    op,
                    extent,
                    stamp: self.stamps,
                    expected,
                    read: None,
                    fetched: None,
                    answered: false,
                    freed: false,
                };
                let before = array.payloads.insert(id, payload);
                assert!(before.is_none());
                if self.trace {
                    eprintln!(
                        "{:6} {side} {op:?} {} +{} = {} {id:?}",
                        self.now, extent.lba, extent.blocks, self.stamps
                    );
                }
            }
            Err(_) => self.history.records[record].killed = true,
        }
        self.inspect(side, cx);
        self.arrays[side].dispatch(&mut self.random);
    }

    fn abort(&mut self, side: usize) {
        let ids: Vec<CommandId> = self.arrays[side].payloads.keys().copied().collect();
        if !ids.is_empty() {
            let id = ids[self.random.below(ids.len())];
            self.call(side, |volume, cx, out| volume.abort(id, cx, out));
        }
    }

    fn fault(&mut self, side: usize) {
        let primary = index(self.chosen.primary);
        match self.random.below(44) {
            36..=41 => {
                let block = HOT[self.random.below(HOT.len())] / 8 * 8;
                self.say(|| format!("{side} cannot read {block}"));
                self.arrays[side].bad.insert(block);
                if self.random.chance(4) {
                    self.arrays[1 - side].bad.insert(block);
                }
            }
            42 | 43 => {
                // A disk reads again what it could not.
                if let Some(block) = self.arrays[side].bad.pop_first() {
                    self.say(|| format!("{side} can read {block}"));
                }
            }
            0..=3 => {
                self.say(|| "lane lost".into());
                let lane = self.random.below(LANES);
                self.cut_lane(lane);
                let lost = LaneId(u16::try_from(lane).unwrap());
                for side in [0, 1] {
                    let ends = self.call(side, |volume, _, _| volume.lane_lost(lost));
                    if ends || self.random.chance(3) {
                        self.close_session(side);
                    } else {
                        self.call(side, |volume, cx, out| volume.lane_up(lost, cx, out));
                    }
                }
            }
            4..=6 => self.close_session(side),
            7 | 8 => {
                self.arrays[side].isolated ^= true;
                self.arrays[side].frozen = self.arrays[side].isolated && self.random.chance(2);
                let isolated = self.arrays[side].isolated;
                self.say(|| format!("{side} isolated: {isolated}"));
                for lane in 0..LANES {
                    self.cut_lane(lane);
                }
            }
            9 | 10 => {
                self.say(|| format!("crash {side}"));
                for lane in 0..LANES {
                    self.cut_lane(lane);
                }
                self.stale.retain(|(from, _)| *from == side);
                if self.rotten {
                    self.rot(side);
                }
                self.arrays[side].crash(&mut self.random);
                if self.random.chance(3) {
                    self.restart(side);
                }
            }
            11..=15 => {
                let array = &mut self.arrays[primary];
                if array.known == self.chosen && self.chosen.in_sync == InSync::Both && !array.switching {
                    array.switching = array.volume.is_some();
                    let hold_until = Time::from_millis(self.now + 300);
                    let lease_end = array.lease_end;
                    let tenure = self.chosen.tenure();
                    self.say(|| "switching".into());
                    let gate = Gate { tenure, mode: Mode::Draining, lease_end, hold_until };
                    self.call(primary, |volume, cx, out| volume.set_gate(gate, cx, out));
                }
            }
            16 => {
                let copies = u32::try_from(self.random.below(3)).unwrap();
                self.call(side, |volume, cx, out| volume.set_copies(copies, cx, out));
            }
            17 => {
                // The gate is held for a while, then opens again by itself.
                let hold_until = Time::from_millis(self.now + 30);
                if let Some(volume) = &self.arrays[primary].volume
                    && !self.arrays[primary].switching
                {
                    let gate = Gate { mode: Mode::Held, hold_until, ..volume.gate() };
                    self.call(primary, |volume, cx, out| volume.set_gate(gate, cx, out));
                }
            }
            18 => {
                if let Some(volume) = &self.arrays[primary].volume
                    && !self.arrays[primary].switching
                {
                    let gate = Gate { mode: Mode::Closed, ..volume.gate() };
                    self.call(primary, |volume, cx, out| volume.set_gate(gate, cx, out));
                }
            }
            _ => {}
        }
    }

    fn rot(&mut self, side: usize) {
        let payloads = self.arrays[side].payloads.values();
        let writes = payloads.filter(|payload| payload.op.writes() && !payload.freed);
        let written: Vec<u64> = writes.flat_map(|payload| hot(payload.extent)).collect();
        for lba in written {
            let block = lba / BLOCKS_PER_PHYSICAL * BLOCKS_PER_PHYSICAL;
            self.say(|| format!("nobody can read {block}"));
            self.arrays.iter_mut().for_each(|array| _ = array.bad.insert(block));
        }
    }

    /// The connection is made anew; what it held may still arrive, late.
    pub(super) fn cut_lane(&mut self, lane: usize) {
        for from in [0, 1] {
            let queue = core::mem::take(&mut self.lanes[lane][from]);
            if !queue.is_empty() {
                self.stale.push((from, queue));
            }
        }
    }

    pub(super) fn close_session(&mut self, side: usize) {
        self.arrays[side].session = None;
        self.arrays[side].hello = None;
        self.call(side, |volume, cx, out| volume.close_session(cx, out));
    }
}
