//! Two controls, the witness and one volume on each array, on a simulated network: what the group
//! does as a whole, without hosts' data.

use std::collections::BTreeMap;

use super::*;
use crate::arbitration::{
    Body, Caller, Config, Connection, GroupId, InSync, Incarnation, Message, Mode, Quorum, Side, Timers,
    Voter, VoterRecord, WitnessAction, WitnessCore,
};
use crate::block::{Extent, Op, Outcome, Request as BlockRequest, StoreResult};
use crate::mirror::{Context, DirtyMap, Geometry, LaneId, Limits, Volume, VolumeAction, VolumeId};
use crate::time::{Now, Time};

/// Started, with every policy on.
const ALL_ON: Policy =
    Policy { started: true, auto_failover: true, auto_recover: true, auto_synchronize: true };
const GROUP: GroupId = GroupId([9; 16]);
const VOLUME: VolumeId = VolumeId([4; 16]);
const MS: u64 = 1_000_000;
const LATENCY: u64 = MS / 2;
const FSYNC: u64 = 2 * MS;

#[derive(Debug)]
enum Happens {
    Message { to: usize, from: Voter, connection: Connection, message: Message },
    Session { to: usize, connection: Connection, message: SessionMessage },
    Witness { from: usize, connection: Connection, message: Message },
    Persisted { at: usize, boot: u64, sequence: u64, record: VoterRecord },
    WitnessPersisted { sequence: u64 },
    Volume { at: usize, boot: u64, action: VolumeAction },
    Frame { to: usize, boot: u64, action: VolumeAction },
    Connect,
}

struct One {
    alive: bool,
    boot: u64,
    control: Control,
    volume: Volume,
    disk: VoterRecord,
    /// The file of the dirty map.
    map: Vec<u8>,
    wake: Option<Time>,
    link: Option<Connection>,
    witness: Option<Connection>,
    /// The disk of the volume fails every write.
    failing: bool,
    /// It finishes nothing; what was asked of it.
    hangs: bool,
    hung: Vec<VolumeAction>,
    /// `data_dir` makes nothing durable; what was asked of it.
    data_dir_hangs: bool,
    unwritten: Vec<Happens>,
}

struct Only<'a>(&'a mut Volume, Vec<VolumeAction>);

impl Members for Only<'_> {
    fn each(&mut self, f: &mut dyn FnMut(VolumeId, &mut Volume, &mut Vec<VolumeAction>)) {
        f(VOLUME, self.0, &mut self.1);
    }
}

pub(super) struct Rig {
    now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Happens>,
    arrays: Vec<One>,
    witness: WitnessCore,
    witness_up: bool,
    incarnation: u8,
    connections: u64,
    /// A-B, A-W, B-W.
    pub cut: [bool; 3],
    /// What a secondary applies takes ten seconds.
    pub slow_applies: bool,
    /// What a primary tells of the group's objects does not get over.
    pub state_lost: bool,
    /// How often it was told.
    pub state_told: u32,
    pub log: Vec<String>,
    pub outcomes: Vec<(u64, Result<(), Refused>)>,
    answers: Vec<(usize, Outcome)>,
}

fn geometry() -> Geometry {
    Geometry { id: VOLUME, blocks: 2048 * 64 }
}

fn map_file() -> Vec<u8> {
    let mut file = vec![0; usize::try_from(DirtyMap::file_len(geometry())).unwrap()];
    file[..4096].copy_from_slice(&DirtyMap::file_header(geometry())[..]);
    file
}

fn nonce(at: usize, boot: u64) -> BootNonce {
    let mut bytes = [u8::try_from(at).unwrap(); 16];
    bytes[8..].copy_from_slice(&boot.to_le_bytes());
    BootNonce(bytes)
}

impl Rig {
    pub fn new() -> Self {
        Self::of(Some(Incarnation([1; 16])))
    }

    /// A new group; without a witness there is none to connect to.
    pub fn of(enrolled: Option<Incarnation>) -> Self {
        let first = Incarnation([1; 16]);
        let record = VoterRecord::new(Config::genesis(Side::A, 5, enrolled));
        let mut none = Vec::new();
        let zero = Now::default();
        let mut witness = WitnessCore::start(Timers::default(), None, false, first, zero, &mut none);
        witness.persisted(1, &mut none);
        let arrays = (0..2).map(|at| Self::array(at, record, Life::Created, 1)).collect();
        let mut rig = Self {
            now: 20_000 * MS,
            sequence: 0,
            queue: BTreeMap::new(),
            arrays,
            witness,
            witness_up: enrolled.is_some(),
            incarnation: 1,
            connections: 0,
            cut: [false; 3],
            slow_applies: false,
            state_lost: false,
            state_told: 0,
            log: Vec::new(),
            outcomes: Vec::new(),
            answers: Vec::new(),
        };
        for at in 0..2 {
            rig.enrol(at, true);
        }
        rig.push(0, Happens::Connect);
        rig
    }

    fn array(at: usize, record: VoterRecord, life: Life, boot: u64) -> One {
        let settings = Settings {
            me: [Side::A, Side::B][at],
            group: GROUP,
            record,
            life,
            policy: ALL_ON,
            timers: Timers::default(),
            boot,
            nonce: nonce(at, boot),
            memory: crate::arbitration::MemoryId(nonce(at, boot).0),
            seed: 77 + boot,
        };
        One {
            alive: true,
            boot,
            control: Control::new(settings),
            volume: Volume::new(geometry(), Limits::default()),
            disk: record,
            map: map_file(),
            wake: None,
            link: None,
            witness: None,
            failing: false,
            hangs: false,
            hung: Vec::new(),
            data_dir_hangs: false,
            unwritten: Vec::new(),
        }
    }

    fn enrol(&mut self, at: usize, full: bool) {
        let config = self.arrays[at].control.chosen();
        let me = [Side::A, Side::B][at];
        let cx = Context { now: self.clock(), lane: None };
        let mut out = Vec::new();
        self.arrays[at].volume.enrol(me, &config, full, cx, &mut out);
        self.volume_actions(at, out);
        let now = self.clock();
        let mut actions = Vec::new();
        let one = &mut self.arrays[at];
        let mut members = Only(&mut one.volume, Vec::new());
        one.control.begin(now, &mut members, &mut actions);
        let volume = members.1;
        self.volume_actions(at, volume);
        self.actions(at, actions);
    }

    fn clock(&self) -> Now {
        Now { grantor: Time(self.now), holder: Time(self.now) }
    }

    fn push(&mut self, after: u64, what: Happens) {
        self.sequence += 1;
        self.queue.insert((self.now + after, self.sequence), what);
    }

    pub fn event(&mut self, at: usize, event: Event) {
        if !self.arrays[at].alive {
            return;
        }
        let now = self.clock();
        let mut actions = Vec::new();
        let one = &mut self.arrays[at];
        let mut members = Only(&mut one.volume, Vec::new());
        one.control.handle(event, now, &mut members, &mut actions);
        let volume = members.1;
        self.volume_actions(at, volume);
        self.actions(at, actions);
        self.check();
    }

    fn actions(&mut self, at: usize, actions: Vec<Action>) {
        let me = Voter::Array([Side::A, Side::B][at]);
        let boot = self.arrays[at].boot;
        for action in actions {
            match action {
                Action::Persist { sequence, record } => {
                    self.push(FSYNC, Happens::Persisted { at, boot, sequence, record });
                }
                Action::Send { to: Voter::Witness, connection, message } => {
                    if self.arrays[at].witness == Some(connection) && !self.cut[at + 1] && self.witness_up {
                        self.push(LATENCY, Happens::Witness { from: at, connection, message });
                    }
                }
                Action::Send { connection, message, .. } => {
                    if self.arrays[at].link == Some(connection) && !self.cut[0] {
                        let to = 1 - at;
                        self.push(LATENCY, Happens::Message { to, from: me, connection, message });
                    }
                }
                Action::SendSession { connection, message } => {
                    if self.arrays[at].link == Some(connection) && !self.cut[0] {
                        self.push(LATENCY, Happens::Session { to: 1 - at, connection, message });
                    }
                }
                Action::Path(view) => self.note(at, format!("{view:?}")),
                Action::Log { epoch, entry } => self.note(at, format!("epoch {} {entry:?}", epoch.0)),
                Action::Outcome { ticket, result } => {
                    self.note(at, format!("outcome {ticket} {result:?}"));
                    self.outcomes.push((ticket, result));
                }
                Action::SendGroupState => {
                    let sequence = 1000;
                    let tenure = self.arrays[at].control.chosen().tenure();
                    let (lineage, epoch) = (tenure.lineage.counter, tenure.epoch);
                    self.event(at, Event::GroupState { sequence });
                    if !self.state_lost {
                        self.state_told += 1;
                        self.event(1 - at, Event::StateTold { lineage, epoch, sequence });
                    }
                }
                Action::Policy(_) | Action::Removed => {}
            }
        }
        self.arrays[at].wake = self.arrays[at].control.next_timeout();
    }

    fn note(&mut self, at: usize, what: String) {
        self.log.push(format!("{:>9.3} {} {what}", self.now as f64 / 1e6 - 20_000.0, ["A", "B", "W"][at]));
    }

    fn volume_actions(&mut self, at: usize, actions: Vec<VolumeAction>) {
        let boot = self.arrays[at].boot;
        for action in actions {
            let after = match action {
                VolumeAction::Answer { outcome, .. } => {
                    self.answers.push((at, outcome));
                    continue;
                }
                VolumeAction::Mirror { .. }
                | VolumeAction::MirrorSync { .. }
                | VolumeAction::Copy { .. }
                | VolumeAction::Acknowledge { .. } => {
                    if !self.cut[0] && self.arrays[at].link.is_some() {
                        self.push(LATENCY, Happens::Frame { to: 1 - at, boot, action });
                    }
                    if let VolumeAction::Copy { .. } = action {
                        MS / 4
                    } else {
                        continue;
                    }
                }
                VolumeAction::Poke => 0,
                VolumeAction::Apply { .. } if self.slow_applies => 10_000 * MS,
                _ => MS,
            };
            self.push(after, Happens::Volume { at, boot, action });
        }
    }

    /// The disk of the volume hangs from now on, or works again and finishes what it held.
    pub fn disk_hangs(&mut self, at: usize, hangs: bool) {
        self.arrays[at].hangs = hangs;
        let held = if hangs { Vec::new() } else { core::mem::take(&mut self.arrays[at].hung) };
        self.volume_actions(at, held);
    }

    /// `data_dir` hangs from now on (something is to be written there), or works again.
    pub fn data_dir_hangs(&mut self, at: usize, hangs: bool) {
        self.arrays[at].data_dir_hangs = hangs;
        self.event(at, Event::DataDir { stalled: hangs });
        let held = if hangs { Vec::new() } else { core::mem::take(&mut self.arrays[at].unwritten) };
        for what in held {
            self.push(FSYNC, what);
        }
    }

    fn volume_action(&mut self, at: usize, action: VolumeAction) {
        let io = matches!(
            action,
            VolumeAction::Local { .. }
                | VolumeAction::Compare { .. }
                | VolumeAction::Sync { .. }
                | VolumeAction::Apply { .. }
                | VolumeAction::Copy { .. }
        );
        if io && self.arrays[at].hangs {
            return self.arrays[at].hung.push(action);
        }
        if matches!(action, VolumeAction::PersistMap) && self.arrays[at].data_dir_hangs {
            let boot = self.arrays[at].boot;
            return self.arrays[at].unwritten.push(Happens::Volume { at, boot, action });
        }
        let cx = Context { now: self.clock(), lane: Some(LaneId(0)) };
        let failing = self.arrays[at].failing;
        let result = if failing { StoreResult::Failed } else { StoreResult::Done };
        let volume = &mut self.arrays[at].volume;
        let mut out = Vec::new();
        match action {
            VolumeAction::Local { command, .. } => volume.local_done(command, result, cx, &mut out),
            VolumeAction::Free { command } => volume.release(command),
            VolumeAction::PersistMap => {
                let mut pages = Vec::new();
                if let Some(generation) = volume.map_pages(&mut pages) {
                    for page in pages {
                        let offset = usize::try_from(page.offset).unwrap();
                        self.arrays[at].map[offset..][..page.bytes.len()].copy_from_slice(&page.bytes[..]);
                    }
                    let volume = &mut self.arrays[at].volume;
                    volume.map_durable(generation, cx, &mut out);
                }
            }
            VolumeAction::Sync { sync } => volume.synced(sync, result, cx, &mut out),
            VolumeAction::Forget { sync } => volume.forgotten(sync, cx, &mut out),
            VolumeAction::Copy { copy, .. } => volume.copy_sent(copy, Ok(1), cx, &mut out),
            VolumeAction::Apply { apply, .. } => volume.applied(apply, result, cx, &mut out),
            VolumeAction::Poke => return self.event(at, Event::Poke),
            _ => {}
        }
        self.volume_actions(at, out);
    }

    fn frame(&mut self, to: usize, action: VolumeAction) {
        let cx = Context { now: self.clock(), lane: Some(LaneId(0)) };
        if !self.arrays[to].alive || self.cut[0] || self.arrays[to].link.is_none() {
            return;
        }
        let volume = &mut self.arrays[to].volume;
        let mut out = Vec::new();
        match action {
            VolumeAction::Mirror { lane, header, .. }
            | VolumeAction::MirrorSync { lane, header }
            | VolumeAction::Copy { lane, header, .. } => {
                let _ = volume.receive(lane, header, cx, &mut out);
            }
            VolumeAction::Acknowledge { session, sequence, result, .. } => {
                volume.mirror_acked(session, sequence, result, cx, &mut out);
            }
            _ => {}
        }
        self.volume_actions(to, out);
    }

    /// Connects what can be connected.
    fn connect(&mut self) {
        let both = self.arrays.iter().all(|one| one.alive);
        if both && !self.cut[0] && self.arrays[0].link.is_none() && self.arrays[1].link.is_none() {
            self.connections += 1;
            let connection = Connection(self.connections);
            for at in 0..2 {
                self.arrays[at].link = Some(connection);
                let peer = nonce(1 - at, self.arrays[1 - at].boot);
                self.event(at, Event::LinkUp { connection, peer });
                self.event(at, Event::LaneUp(LaneId(0)));
            }
        }
        for at in 0..2 {
            if self.arrays[at].alive
                && self.witness_up
                && !self.cut[at + 1]
                && self.arrays[at].witness.is_none()
            {
                self.connections += 1;
                let connection = Connection(self.connections);
                self.arrays[at].witness = Some(connection);
                self.event(at, Event::WitnessUp { connection });
            }
        }
        self.push(50 * MS, Happens::Connect);
    }

    /// The link is found dead (as `Liveness` would) or closed.
    pub fn break_link(&mut self) {
        for at in 0..2 {
            if self.arrays[at].link.take().is_some() && self.arrays[at].alive {
                self.event(at, Event::LaneLost(LaneId(0)));
                self.event(at, Event::LinkDown);
            }
        }
    }

    /// The lanes are lost, and made anew; the control connection stays.
    #[cfg(feature = "testing")]
    pub fn break_lanes(&mut self) {
        for event in [Event::LaneLost(LaneId(0)), Event::LaneUp(LaneId(0))] {
            for at in 0..2 {
                self.event(at, event.clone());
            }
        }
    }

    pub fn break_witness(&mut self, at: usize) {
        if self.arrays[at].witness.take().is_some() {
            self.event(at, Event::WitnessDown);
        }
    }

    pub fn kill(&mut self, at: usize) {
        self.note(at, "killed".into());
        self.arrays[at].alive = false;
        self.arrays[at].witness = None;
        self.break_link();
        self.arrays[at].link = None;
    }

    pub fn restart(&mut self, at: usize) {
        self.note(at, "restarts".into());
        let old = &self.arrays[at];
        let boot = old.boot + 1;
        let mut one = Self::array(at, old.disk, Life::Restarted, boot);
        one.failing = old.failing;
        one.map.clone_from(&old.map);
        let map = DirtyMap::decode(geometry(), &one.map).unwrap();
        one.volume = Volume::restore(geometry(), Limits::default(), map);
        one.volume.set_promise(old.volume.promise());
        self.arrays[at] = one;
        self.enrol(at, false);
    }

    pub fn kill_witness(&mut self) {
        self.witness_up = false;
        self.break_witness(0);
        self.break_witness(1);
    }

    /// A blank witness, or the same one with proof of continuity.
    pub fn start_witness(&mut self, continued: bool) {
        self.incarnation += 1;
        let image = self.witness.image();
        let mut out = Vec::new();
        let fresh = Incarnation([self.incarnation; 16]);
        self.witness =
            WitnessCore::start(Timers::default(), Some(image), continued, fresh, self.clock(), &mut out);
        self.witness_actions(out);
        self.witness_up = true;
    }

    fn witness_actions(&mut self, out: Vec<WitnessAction>) {
        for action in out {
            match action {
                WitnessAction::Persist { sequence, .. } => {
                    self.push(FSYNC, Happens::WitnessPersisted { sequence });
                }
                WitnessAction::Reply { connection, messages } => {
                    for to in 0..2 {
                        if self.arrays[to].witness != Some(connection) || self.cut[to + 1] {
                            continue;
                        }
                        for &message in &messages {
                            let from = Voter::Witness;
                            self.push(LATENCY, Happens::Message { to, from, connection, message });
                        }
                    }
                }
            }
        }
    }

    /// Runs for a while.
    pub fn run(&mut self, millis: u64) {
        let end = self.now + millis * MS;
        loop {
            let wake = (0..2)
                .filter(|&at| self.arrays[at].alive)
                .filter_map(|at| self.arrays[at].wake.map(|time| (time.0.max(self.now), at)))
                .min();
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let time = [wake.map(|(time, _)| time), next].into_iter().flatten().min().unwrap_or(end);
            if time >= end {
                break;
            }
            self.now = self.now.max(time);
            if let Some((due, at)) = wake
                && due <= time
                && next.is_none_or(|next| due < next)
            {
                self.arrays[at].wake = None;
                self.event(at, Event::Tick);
                let cx = Context { now: self.clock(), lane: None };
                let mut out = Vec::new();
                self.arrays[at].volume.tick(cx, &mut out);
                self.volume_actions(at, out);
                assert!(
                    self.arrays[at].wake.is_none_or(|wake| wake.0 > self.now),
                    "a timeout that is not in the future\n{}",
                    self.tail()
                );
                continue;
            }
            let Some((_, what)) = self.queue.pop_first() else { continue };
            self.happen(what);
        }
        self.now = end;
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Message { to, from, connection, message } => {
                let leg = if from == Voter::Witness { to + 1 } else { 0 };
                if !self.cut[leg] {
                    self.event(to, Event::Message { from, connection, message });
                }
            }
            Happens::Session { to, connection, message } => {
                if !self.cut[0] {
                    self.event(to, Event::Session { connection, message });
                }
            }
            Happens::Witness { from, connection, message } => {
                if self.witness_up && !self.cut[from + 1] {
                    let side = [Side::A, Side::B][from];
                    let mut out = Vec::new();
                    self.witness.receive(&Caller::of(side), connection, &[message], self.clock(), &mut out);
                    self.witness_actions(out);
                }
            }
            Happens::Persisted { at, boot, sequence, record } => {
                if self.arrays[at].boot == boot && self.arrays[at].alive {
                    if self.arrays[at].data_dir_hangs {
                        let what = Happens::Persisted { at, boot, sequence, record };
                        return self.arrays[at].unwritten.push(what);
                    }
                    self.arrays[at].disk = record;
                    self.event(at, Event::Persisted { sequence });
                }
            }
            Happens::WitnessPersisted { sequence } => {
                let mut out = Vec::new();
                self.witness.persisted(sequence, &mut out);
                self.witness_actions(out);
            }
            Happens::Volume { at, boot, action } => {
                if self.arrays[at].boot == boot && self.arrays[at].alive {
                    self.volume_action(at, action);
                }
            }
            Happens::Frame { to, boot, action } => {
                if self.arrays[1 - to].boot == boot {
                    self.frame(to, action);
                }
            }
            Happens::Connect => self.connect(),
        }
    }

    fn check(&self) {
        let serving: Vec<usize> = (0..2).filter(|&at| self.serves(at)).collect();
        assert!(serving.len() < 2, "two arrays serve\n{}", self.tail());
    }

    pub fn tail(&self) -> String {
        self.log[self.log.len().saturating_sub(60)..].join("\n")
    }

    pub fn serves(&self, at: usize) -> bool {
        self.arrays[at].alive && self.arrays[at].volume.gate().may_start(self.clock())
    }

    pub fn mode(&self, at: usize) -> Mode {
        self.arrays[at].volume.gate().mode
    }

    pub fn view(&self, at: usize) -> PathView {
        self.arrays[at].control.view().unwrap()
    }

    pub fn chosen(&self, at: usize) -> Config {
        self.arrays[at].control.chosen()
    }

    pub fn write(&mut self, at: usize, region: u64) {
        let cx = Context { now: self.clock(), lane: Some(LaneId(0)) };
        let request = BlockRequest { op: Op::Write, extent: Extent::new(region * 2048, 8) };
        let mut out = Vec::new();
        let result = self.arrays[at].volume.submit(request, cx, &mut out);
        if let Err(refusal) = result {
            self.answers.push((at, Outcome::Refused(refusal)));
        }
        self.volume_actions(at, out);
    }

    pub fn answered(&mut self) -> Vec<(usize, Outcome)> {
        core::mem::take(&mut self.answers)
    }

    /// In sync, one serves, the other is standby.
    #[track_caller]
    pub fn is_well(&self, primary: usize) {
        assert!(self.serves(primary), "{} does not serve\n{}", ["A", "B"][primary], self.tail());
        for at in 0..2 {
            let chosen = self.chosen(at);
            assert_eq!(chosen.in_sync, InSync::Both, "\n{}", self.tail());
            assert_eq!(chosen.primary, [Side::A, Side::B][primary], "\n{}", self.tail());
        }
        assert_eq!(self.view(primary).own, PathState::Optimized, "\n{}", self.tail());
        assert_eq!(self.view(primary).peer, Some(PathState::Standby), "\n{}", self.tail());
        assert_eq!(self.view(1 - primary).own, PathState::Standby, "\n{}", self.tail());
        assert_eq!(self.view(1 - primary).peer, Some(PathState::Optimized), "\n{}", self.tail());
    }

    /// Milliseconds until `at` serves, at most `limit`.
    #[track_caller]
    pub fn until_serves(&mut self, at: usize, limit: u64) -> u64 {
        let start = self.now;
        while !self.serves(at) {
            self.run(10);
            assert!(self.now - start < limit * MS, "{} does not serve\n{}", ["A", "B"][at], self.tail());
        }
        (self.now - start) / MS
    }

    pub fn command(&mut self, at: usize, ticket: u64, command: Command) {
        self.event(at, Event::Command { ticket, command });
    }
}

fn in_sync() -> Rig {
    let mut rig = Rig::new();
    rig.run(3000);
    rig.is_well(0);
    rig
}

mod disks;
mod membership;
mod memory;
mod operators;
mod scenarios;
