//! The state of an exploration: two arrays with the daemon's own cores, what is on its way between them
//! and to their disks, what hosts have asked for and seen. Everything that can happen next is a [`Step`].

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::judge::Block;
use super::scenario::{Budget, HOT, Scenario};
use twinlun::arbitration::{Config, Epoch, Gate, InSync, Lineage, Mode, Quorum, Side, Tenure};
use twinlun::block::{Extent, Op, Outcome, StoreResult};
use twinlun::mirror::*;
use twinlun::mutation::{self, Mutation};
use twinlun::time::{Duration, Now, Time};

/// Values by hot block.
pub type Blocks = [u8; HOT.len()];

pub const LANES: usize = 2;
/// What a copy out of sync holds at first; no operation writes it.
const STALE: u8 = 7;
/// By it the clock moves on at a tick: more than everything that waits for time.
const EPOCH_OF_TIME: Duration = Duration::from_secs(3600);

/// How a piece of I/O on a store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    Done,
    Failed { landed: bool },
}

/// One step of the model; everything it leads to at once belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Submit { op: u8, side: u8 },
    Abort { op: u8 },
    Leave { op: u8 },
    Io { side: u8, at: u8, end: End },
    Map { side: u8, volume: u8 },
    Deliver { lane: u8, from: u8 },
    Late { at: u8 },
    Tick { side: u8 },
    EndSession { side: u8 },
    CutLane { lane: u8 },
    LaneUp { lane: u8 },
    Crash { side: u8, landed: u8, map: bool },
    Restart { side: u8 },
    Isolate,
    Lapse,
    Shut,
    Return,
    Learn { side: u8 },
    Sweep { side: u8 },
    OpenGate { side: u8 },
    StopMirror { side: u8 },
    Drop { side: u8 },
    Hello { side: u8 },
    Answer { side: u8 },
    JoinVote { side: u8 },
    JoinChosen,
    Switch { side: u8 },
    SwitchGo { side: u8 },
    SwitchEnd { side: u8 },
    HandOver { side: u8 },
    Promote { side: u8 },
}

/// What a shell keeps for a command.
#[derive(Clone, Debug)]
pub struct Payload {
    /// In which it arrived; `None`: parked first.
    pub tenure: Option<Tenure>,
    pub op: u8,
    pub attempt: u8,
    pub read: Blocks,
    pub fetched: Option<(Extent, Blocks)>,
    pub answered: bool,
    pub freed: bool,
    /// Answered with its true outcome, or killed.
    pub known: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    Command(CommandId),
    Compare(CommandId),
    Mend(CommandId),
    Apply(ApplyId),
    Copy(CopyId),
}

/// One piece of I/O on a store. A write of part of a physical block reads the rest first.
#[derive(Clone, Debug)]
pub struct Io {
    pub volume: usize,
    pub purpose: Purpose,
    pub op: Op,
    pub extent: Extent,
    pub data: Blocks,
    pub edges: Option<Blocks>,
    /// Of an apply or a copy.
    pub frame: Option<(LaneId, FrameHeader)>,
    /// Operation and attempt of a command.
    pub name: u64,
}

#[derive(Clone, Debug)]
pub enum Message {
    Data { volume: usize, lane: LaneId, header: FrameHeader, data: Blocks },
    Given { volume: usize, header: FrameHeader, data: Blocks },
    Ack { volume: usize, session: SessionId, sequence: u64, result: Option<StoreResult> },
}

/// A change that control makes on one volume after the other; hosts and lanes may come in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sweep {
    Mute,
    Close,
    Learn(Config),
    Gate,
}

#[derive(Clone, Debug)]
pub struct Array {
    pub side: Side,
    /// Empty: down.
    pub volumes: Vec<Rc<Volume>>,
    pub disks: Vec<Blocks>,
    pub map_files: Vec<Rc<Vec<u8>>>,
    /// Bits of the map file: activity, out of sync.
    pub durable: Vec<(u64, u64)>,
    pub map_writes: Vec<Option<(MapGeneration, Rc<Vec<MapPage>>)>>,
    pub ios: Vec<Io>,
    pub payloads: BTreeMap<(usize, CommandId), Payload>,
    pub applies: BTreeMap<(usize, ApplyId), (FrameHeader, Blocks)>,
    pub lent: BTreeMap<(usize, ApplyId), Blocks>,
    /// Durable: configuration known, own undecided vote, boot counter.
    pub known: Config,
    pub vote: Option<Config>,
    pub boot: u64,
    pub counter: u64,
    pub session: Option<SessionId>,
    pub hello: Option<SessionId>,
    pub clock: u64,
    pub lapsed: bool,
    /// *drop* is wanted; the session is closed.
    pub dropping: bool,
    pub switching: bool,
    /// Nothing is served any more before the next epoch.
    pub voted_away: bool,
    pub sweep: Option<(Sweep, u8)>,
    /// Being brought up to date: a mixture.
    pub mixed: bool,
    /// The gate is to be opened still.
    pub gate_waits: bool,
}

/// One operation of the script, as its host sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asked {
    pub attempts: u8,
    /// The attempt that is waited for is at this array.
    pub at: Option<u8>,
    pub aborting: bool,
    pub over: bool,
    /// An earlier attempt may have taken effect.
    pub doubtful: bool,
}

#[derive(Clone, Debug)]
pub struct World {
    pub scenario: &'static Scenario,
    pub arrays: [Array; 2],
    pub chosen: Config,
    pub in_sync_boots: [u64; 2],
    pub lanes: [[VecDeque<Message>; 2]; LANES],
    pub lanes_up: [bool; LANES],
    pub stale: Vec<(usize, VecDeque<Message>)>,
    pub isolated: bool,
    pub asked: Vec<Asked>,
    /// By volume and hot block.
    pub judges: Vec<[Block; HOT.len()]>,
    pub left: Budget,
    pub violation: Option<String>,
}

pub fn hot(extent: Extent) -> impl Iterator<Item = usize> {
    (0..HOT.len()).filter(move |at| (extent.lba..extent.end()).contains(&HOT[*at]))
}

pub const fn index(side: Side) -> usize {
    match side {
        Side::A => 0,
        Side::B => 1,
    }
}

fn geometry(volume: usize) -> Geometry {
    Geometry { id: VolumeId([volume as u8 + 1; 16]), blocks: 2 * REGION_BLOCKS }
}

impl World {
    pub fn new(scenario: &'static Scenario) -> Self {
        let chosen = Config {
            lineage: Lineage { counter: 1, id: 1 },
            epoch: Epoch(1),
            tenure_epoch: Epoch(1),
            primary: Side::A,
            in_sync: scenario.begins,
            quorum: Quorum::Majority,
            witness: None,
            natural: Side::A,
        };
        let array = |side| Array {
            side,
            volumes: Vec::new(),
            disks: vec![[0; HOT.len()]; scenario.volumes],
            map_files: (0..scenario.volumes).map(|volume| Rc::new(Self::blank_map(volume))).collect(),
            durable: vec![(0, 0); scenario.volumes],
            map_writes: vec![None; scenario.volumes],
            ios: Vec::new(),
            payloads: BTreeMap::new(),
            applies: BTreeMap::new(),
            lent: BTreeMap::new(),
            known: chosen,
            vote: None,
            boot: 0,
            counter: 0,
            session: None,
            hello: None,
            clock: 1,
            lapsed: false,
            dropping: false,
            switching: false,
            voted_away: false,
            sweep: None,
            mixed: false,
            gate_waits: false,
        };
        let mut world = Self {
            scenario,
            arrays: [array(Side::A), array(Side::B)],
            chosen,
            in_sync_boots: [1; 2],
            lanes: Default::default(),
            lanes_up: [true; LANES],
            stale: Vec::new(),
            isolated: false,
            asked: vec![Asked::default(); scenario.script.len()],
            judges: vec![core::array::from_fn(|_| Block::new()); scenario.volumes],
            left: scenario.budget,
            violation: None,
        };
        for side in [0, 1] {
            world.restart(side);
        }
        world.finish_sweeps();
        if scenario.begins == InSync::Both {
            world.hello(0);
        } else {
            for volume in 0..scenario.volumes {
                world.map_written(0, volume);
                world.arrays[1].disks[volume] = [STALE; HOT.len()];
            }
        }
        world
    }

    fn blank_map(volume: usize) -> Vec<u8> {
        let geometry = geometry(volume);
        let mut file = vec![0; usize::try_from(DirtyMap::file_len(geometry)).unwrap()];
        file[..4096].copy_from_slice(&*DirtyMap::file_header(geometry));
        file
    }

    fn finish_sweeps(&mut self) {
        for side in [0, 1] {
            while self.arrays[side].sweep.is_some() {
                self.sweep(side);
            }
        }
    }

    pub fn limits(&self) -> Limits {
        let active_regions = self.scenario.active_regions;
        Limits { commands: 8, copies: 1, active_regions, ..Limits::default() }
    }

    pub fn cx(&self, side: usize, lane: Option<u16>) -> Context {
        let time = Time(self.arrays[side].clock);
        Context { now: Now { grantor: time, holder: time }, lane: lane.map(LaneId) }
    }

    pub fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(what());
        }
    }

    pub fn is_up(&self, side: usize) -> bool {
        !self.arrays[side].volumes.is_empty()
    }

    pub fn status(&self, side: usize) -> Vec<Status> {
        self.arrays[side].volumes.iter().map(|volume| volume.status()).collect()
    }

    /// Calls a core; what it wants done is done at once.
    pub fn call<T>(
        &mut self,
        side: usize,
        volume: usize,
        lane: Option<u16>,
        f: impl FnOnce(&mut Volume, Context, &mut Vec<VolumeAction>) -> T,
    ) -> Option<T> {
        let cx = self.cx(side, lane);
        let mut out = Vec::new();
        let core = Rc::make_mut(self.arrays[side].volumes.get_mut(volume)?);
        let result = f(core, cx, &mut out);
        self.carry_out(side, volume, cx, out);
        Some(result)
    }

    pub fn carry_out(&mut self, side: usize, volume: usize, cx: Context, out: Vec<VolumeAction>) {
        self.inspect(side, volume, cx, &out);
        for action in out {
            self.act(side, volume, action);
        }
    }

    /// Rule 6: nothing starts and nothing is answered but by a refusal without the gate, or in another
    /// tenure than the command's.
    fn inspect(&mut self, side: usize, volume: usize, cx: Context, out: &[VolumeAction]) {
        let array = &self.arrays[side];
        let Some(core) = array.volumes.get(volume) else { return };
        let gate = core.gate();
        for action in out {
            let command = match action {
                VolumeAction::Answer { outcome: Outcome::Refused(_) | Outcome::Aborted, .. } => continue,
                VolumeAction::Answer { command, .. }
                | VolumeAction::Local { command, .. }
                | VolumeAction::Compare { command } => command,
                _ => continue,
            };
            let arrived = array.payloads.get(&(volume, *command)).and_then(|payload| payload.tenure);
            if !gate.may_answer(cx.now) || arrived.is_some_and(|tenure| tenure != gate.tenure) {
                let what = format!("{side} {action:?} of {arrived:?} through {gate:?}");
                return self.fail(|| what);
            }
        }
    }

    // Steps.

    pub fn steps(&self, out: &mut Vec<Step>) {
        for (op, asked) in (0_u8..).zip(&self.asked) {
            for side in [0, 1] {
                if self.may_submit(usize::from(op), usize::from(side)) {
                    out.push(Step::Submit { op, side });
                }
            }
            let deed = &self.scenario.script[usize::from(op)];
            if asked.at.is_some() && deed.aborts && !asked.aborting {
                out.push(Step::Abort { op });
            }
            if asked.at.is_some() && deed.leaves && asked.attempts <= deed.retries && !asked.aborting {
                out.push(Step::Leave { op });
            }
        }
        for side in [0, 1] {
            let array = &self.arrays[usize::from(side)];
            for (at, io) in (0..).zip(&array.ios) {
                out.push(Step::Io { side, at, end: End::Done });
                let edges = io.edges.is_none() && self.has_edges(io);
                let may_fail = matches!(io.purpose, Purpose::Command(_) | Purpose::Apply(_));
                if self.left.failures > 0 && may_fail && !edges {
                    out.push(Step::Io { side, at, end: End::Failed { landed: false } });
                    if io.op.writes() {
                        out.push(Step::Io { side, at, end: End::Failed { landed: true } });
                    }
                }
            }
            for (volume, write) in (0..).zip(&array.map_writes) {
                if write.is_some() {
                    out.push(Step::Map { side, volume });
                }
            }
            if self.left.ticks > 0 && array.volumes.iter().any(|volume| volume.next_timeout().is_some()) {
                out.push(Step::Tick { side });
            }
        }
        for lane in 0..LANES {
            for from in [0, 1] {
                if !self.lanes[lane][from].is_empty() {
                    out.push(Step::Deliver { lane: lane as u8, from: from as u8 });
                }
            }
        }
        if self.left.late > 0 {
            for (at, (from, _)) in (0..).zip(&self.stale) {
                if self.is_up(1 - from) {
                    out.push(Step::Late { at });
                }
            }
        }
        self.fault_steps(out);
        self.control_steps(out);
    }

    fn fault_steps(&self, out: &mut Vec<Step>) {
        for side in [0_u8, 1] {
            let array = &self.arrays[usize::from(side)];
            if self.left.sessions > 0 && array.session.is_some() && array.sweep.is_none() {
                out.push(Step::EndSession { side });
            }
            if self.left.crashes[usize::from(side)] > 0 && self.is_up(usize::from(side)) {
                let writes = array.ios.iter().filter(|io| io.op.writes() && io.is_write());
                let landed = 1_u8 << writes.count().min(3);
                let maps = if array.map_writes.iter().any(Option::is_some) { 2 } else { 1 };
                for landed in 0..landed {
                    for map in 0..maps {
                        out.push(Step::Crash { side, landed, map: map == 1 });
                    }
                }
            }
        }
        if self.left.lanes > 0 {
            for lane in 0..LANES {
                if self.lanes_up[lane] && !self.isolated && self.is_up(0) && self.is_up(1) {
                    out.push(Step::CutLane { lane: lane as u8 });
                }
            }
        }
        if self.left.isolations > 0 && !self.isolated && self.is_up(0) && self.chosen.primary == Side::A {
            out.push(Step::Isolate);
        }
    }

    /// Takes a step; false: it comes to nothing.
    pub fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Submit { op, side } => return self.submit(usize::from(op), usize::from(side)),
            Step::Abort { op } => return self.abort(usize::from(op)),
            Step::Leave { op } => return self.leave(usize::from(op)),
            Step::Io { side, at, end } => {
                self.left.failures -= u8::from(end != End::Done);
                self.run_io(usize::from(side), usize::from(at), end);
            }
            Step::Map { side, volume } => self.map_written(usize::from(side), usize::from(volume)),
            Step::Deliver { lane, from } => {
                let from = usize::from(from);
                if let Some(message) = self.lanes[usize::from(lane)][from].pop_front() {
                    self.deliver(from, message);
                }
            }
            Step::Late { at } => {
                self.left.late -= 1;
                let at = usize::from(at);
                let (from, queue) = &mut self.stale[at];
                let (from, message) = (*from, queue.pop_front());
                if queue.is_empty() {
                    self.stale.remove(at);
                }
                if self.left.late == 0 {
                    self.stale.clear();
                }
                if let Some(message) = message {
                    self.deliver(from, message);
                }
            }
            Step::Tick { side } => {
                let side = usize::from(side);
                self.left.ticks = self.left.ticks.saturating_sub(1);
                self.arrays[side].clock += u64::try_from(EPOCH_OF_TIME.as_nanos()).unwrap();
                for volume in 0..self.scenario.volumes {
                    self.call(side, volume, None, |core, cx, out| core.tick(cx, out));
                }
            }
            Step::EndSession { side } => {
                self.left.sessions -= 1;
                self.begin_close(usize::from(side));
            }
            Step::CutLane { lane } => {
                self.left.lanes -= 1;
                self.cut_lane(usize::from(lane));
            }
            Step::Crash { side, landed, map } => {
                self.left.crashes[usize::from(side)] -= 1;
                self.crash(usize::from(side), landed, map);
            }
            other => return self.decide(other),
        }
        true
    }
}

impl Io {
    pub const fn is_write(&self) -> bool {
        !matches!(self.purpose, Purpose::Compare(_) | Purpose::Copy(_))
    }
}

pub fn breaks(mutation: Mutation) -> bool {
    mutation::on(mutation)
}

/// A gate in its tenure; a lease that lapsed ends at zero.
pub const fn gate(tenure: Tenure, mode: Mode, hold_until: Time) -> Gate {
    Gate { tenure, mode, lease_end: Time::FOREVER, hold_until }
}

pub fn map_geometry(volume: usize) -> Geometry {
    geometry(volume)
}
