//! One array: its process (which dies, stops and starts again), its clocks, disks and
//! connections. What the group's control does is in `control.rs`, what volumes do in `volumes.rs`.

use twinlun::arbitration::MemoryId;
use twinlun::group::{BootNonce, Liveness, Policy};

use crate::clock::Clocks;
use crate::control::{GroupShell, Objects};
use crate::disk::{Failure, File, Store};
use crate::frontend::Session;
use crate::host::MS;
use crate::keeping::Keeping;
use crate::network::{A, B, ConnectionId, Item, Process, Use, is_witness};
use crate::plan::Plan;
use crate::prng::Prng;
use crate::verbs::{Copy, Verb};
use crate::volumes::{self, IoOwner, VolumeShell};
use crate::world::{Event, Message, Work, World};

/// What a lane owes: for giving up one that is silent while another moves (`lane_timeout`).
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneWatch {
    pub unacknowledged: u32,
    /// Since when nothing came back.
    pub since: u64,
    pub moved: u64,
    /// Which life of the peer it leads to.
    pub peer_life: u32,
}

pub struct Array {
    pub alive: bool,
    /// SIGSTOP.
    pub paused: bool,
    /// Only the control thread stands still.
    pub control_stalled: bool,
    /// A stop in order is under way, or done.
    pub stopping: bool,
    /// Which life of the process; events of an older one are dropped.
    pub boot: u32,
    pub clocks: Clocks,
    pub wake_at: u64,
    pub deferred: Vec<Work>,
    /// `None`: the array takes no part in the group.
    pub groups: Vec<Option<GroupShell>>,
    /// Groups whose votes and data were lost here, until they are enrolled; durable.
    pub absent: Vec<bool>,
    pub volumes: Vec<VolumeShell>,
    /// Data: survives the process.
    pub store: Store<IoOwner>,
    /// Map files.
    pub maps: Vec<File>,
    /// Vote files, one for each group.
    pub votes: Vec<File>,
    /// Raised durably at each start, before anything is said.
    pub boot_counter: u64,
    /// What the operator set, for each group; durable.
    pub objects: Vec<Objects>,
    pub nonce: BootNonce,
    /// Identity of its page cache.
    pub memory: MemoryId,
    pub liveness: Option<Liveness>,
    /// A write of `data_dir` hangs, and the groups were told.
    pub stalled: bool,
    pub lanes: Vec<Option<ConnectionId>>,
    pub lane_watch: Vec<LaneWatch>,
    pub control: Option<ConnectionId>,
    pub witness: Option<ConnectionId>,
    pub sessions: Vec<Session>,
    /// What the objects tell of each volume; durable.
    pub copies: Vec<Copy>,
    /// Verbs under way.
    pub verbs: Vec<Verb>,
    /// What each copy held before its resync (F14).
    pub kept: Vec<Keeping>,
    pub disk_failure: Option<Failure>,
    pub hang_until: u64,
    pub metadata_hang_until: u64,
    pub poked: bool,
}

impl Array {
    pub fn new(plan: &Plan, rng: &mut Prng) -> Self {
        let volumes = plan.volumes.len();
        Self {
            alive: false,
            paused: false,
            control_stalled: false,
            stopping: false,
            boot: 0,
            clocks: Clocks::new(rng),
            wake_at: u64::MAX,
            deferred: Vec::new(),
            groups: Vec::new(),
            absent: vec![false; plan.groups],
            volumes: Vec::new(),
            store: Store::new(volumes, plan.room as usize * crate::layout::PER_REGION),
            maps: (0..volumes).map(|v| volumes::new_map(v, plan.regions)).collect(),
            votes: vec![File::default(); plan.groups],
            boot_counter: 0,
            objects: vec![
                Objects {
                    policy: Policy {
                        started: true,
                        auto_failover: true,
                        auto_recover: true,
                        auto_synchronize: true
                    },
                    state: 1,
                    told: None
                };
                plan.groups
            ],
            nonce: BootNonce::default(),
            memory: MemoryId::default(),
            liveness: None,
            stalled: false,
            lanes: vec![None; usize::from(plan.lanes)],
            lane_watch: vec![LaneWatch::default(); usize::from(plan.lanes)],
            control: None,
            witness: None,
            sessions: Vec::new(),
            copies: vec![
                Copy { member: true, exported: true, size: plan.regions, data: plan.regions };
                volumes
            ],
            verbs: Vec::new(),
            kept: (0..volumes).map(|_| Keeping::default()).collect(),
            disk_failure: None,
            hang_until: 0,
            metadata_hang_until: 0,
            poked: false,
        }
    }

    /// How much longer volume I/O submitted now takes.
    pub fn disk_hang(&self, now: u64) -> u64 {
        self.hang_until.saturating_sub(now)
    }

    pub fn metadata_hang(&self, now: u64) -> u64 {
        self.metadata_hang_until.saturating_sub(now)
    }

    pub fn lane(&self, lane: u16) -> Option<ConnectionId> {
        self.lanes.get(usize::from(lane)).copied().flatten()
    }

    /// No I/O and no command anywhere in it.
    pub fn at_rest(&self) -> bool {
        self.store.under_way().next().is_none()
            && self.kept.iter().all(Keeping::is_quiet)
            && self.volumes.iter().all(|v| v.commands.iter().flatten().next().is_none())
            && self.volumes.iter().all(|v| v.core.status().recovering_regions == 0)
    }
}

impl World {
    pub fn array_work(&mut self, a: usize, work: Work) {
        match work {
            Work::Arrived { connection, item } => self.array_arrived(a, connection, item),
            Work::IoSubmit { io } => self.io_submit(a, io),
            Work::IoOver { io } => self.io_done(a, io),
            Work::SyncOver { token } => {
                if self.image_written(a, token) {
                    return;
                }
                self.data_dir_moves(a);
                if self.objects_written(a, token) {
                    return;
                }
                if !self.map_written(a, token) {
                    self.control_synced(a, token);
                }
            }
            Work::Wake => self.array_wake(a),
            Work::Poke => {
                self.arrays[a].poked = false;
                self.control_poke(a);
            }
            Work::Connect { of } => self.array_connect(a, of),
            Work::LinkIs { of, up } => self.link_is(a, of, up),
            Work::LaneCheck { lane } => self.lane_check(a, lane),
            Work::DataDirHangs => self.data_dir_stalls(a),
        }
    }

    /// A write of `data_dir` reached the disk (the process may not know yet).
    pub fn sync_done(&mut self, process: Process, token: u32) {
        if is_witness(process) {
            self.voter_mut(process).durable(token);
            return;
        }
        if self.image_durable(process, token) {
            return;
        }
        if self.objects_durable(process, token) {
            return;
        }
        // (one token, one file)
        if self.map_durable(process, token) {
            return;
        }
        for g in 0..self.plan.groups {
            self.arrays[process].votes[g].durable(token);
        }
    }

    fn array_wake(&mut self, a: usize) {
        for v in 0..self.arrays[a].volumes.len() {
            if self.arrays[a].volumes[v].wake_at <= self.now {
                let thread = self.rng.below(u64::from(self.plan.lanes)) as u16;
                self.with_volume(a, v, thread, |core, cx, out| core.tick(cx, out));
            }
        }
        self.control_tick(a);
        for v in 0..self.arrays[a].volumes.len() {
            self.volume_timer(a, v);
        }
    }

    fn array_arrived(&mut self, a: usize, connection: ConnectionId, item: Item<Message>) {
        let Some(of) = self.network.get(connection).map(|c| c.of) else { return };
        match item {
            Item::End => self.connection_ended(a, connection, of),
            Item::Message(Message::Frame { volume, header, payload }) => {
                let Use::Lane(lane) = of else { return };
                self.frame_arrived(a, lane, usize::from(volume), header, payload);
            }
            Item::Message(Message::Given { volume, header, payload }) => {
                let Use::Lane(lane) = of else { return };
                self.lane_answered(a, lane);
                self.given_arrived(a, lane, usize::from(volume), header, payload);
            }
            Item::Message(Message::Ack { volume, session, sequence, result }) => {
                let Use::Lane(lane) = of else { return };
                self.lane_answered(a, lane);
                self.ack_arrived(a, lane, usize::from(volume), session, sequence, result);
            }
            Item::Message(Message::Host(message)) => self.host_message(a, connection, message),
            Item::Message(other) => self.control_message(a, connection, other),
        }
    }

    fn connection_ended(&mut self, a: usize, connection: ConnectionId, of: Use) {
        if of == Use::Host {
            return self.end_session(a, connection);
        }
        self.network.close(connection, a, self.plan.late_max, self.now, &mut self.rng);
        let array = &mut self.arrays[a];
        match of {
            Use::Control if array.control == Some(connection) => {
                array.control = None;
                self.work(a, Work::LinkIs { of, up: false });
            }
            Use::Witness if array.witness == Some(connection) => {
                array.witness = None;
                self.work(a, Work::LinkIs { of, up: false });
            }
            Use::Lane(lane) if array.lane(lane) == Some(connection) => {
                array.lanes[usize::from(lane)] = None;
                self.work(a, Work::LinkIs { of, up: false });
            }
            _ => return,
        }
        // A makes the connections between the arrays, each array its own to the witness.
        let maker = if of == Use::Witness { a } else { A };
        self.connect_later(maker, of);
    }

    fn lane_answered(&mut self, a: usize, lane: u16) {
        let watch = &mut self.arrays[a].lane_watch[usize::from(lane)];
        watch.unacknowledged = watch.unacknowledged.saturating_sub(1);
        (watch.since, watch.moved) = (self.now, self.now);
    }

    /// A frame goes out on a lane.
    pub fn lane_sends(&mut self, a: usize, lane: u16) {
        let timeout = self.plan.lane_timeout;
        let boot = self.arrays[a].boot;
        let watch = &mut self.arrays[a].lane_watch[usize::from(lane)];
        watch.unacknowledged += 1;
        if watch.unacknowledged == 1 {
            watch.since = self.now;
            if timeout != 0 {
                self.queue.push(self.now + timeout, Event::LaneCheck { array: a as u8, boot, lane });
            }
        }
    }

    /// A lane that is silent while another moves is given up.
    fn lane_check(&mut self, a: usize, lane: u16) {
        let timeout = self.plan.lane_timeout;
        let watch = self.arrays[a].lane_watch[usize::from(lane)];
        let Some(connection) = self.arrays[a].lane(lane) else { return };
        if watch.unacknowledged == 0 {
            return;
        }
        let another = self.arrays[a].lane_watch.iter().any(|other| other.moved > watch.since);
        if another && watch.since + timeout <= self.now {
            return self.work(a, Work::Arrived { connection, item: Item::End });
        }
        let boot = self.arrays[a].boot;
        let again = Event::LaneCheck { array: a as u8, boot, lane };
        self.queue.push((watch.since + timeout).max(self.now + timeout / 3), again);
    }

    pub fn connect_later(&mut self, a: usize, of: Use) {
        let after = self.rng.between(5, 150) * MS;
        let boot = self.arrays[a].boot;
        self.queue.push(self.now + after, Event::Connect { array: a as u8, boot, of });
    }

    fn array_connect(&mut self, a: usize, of: Use) {
        let array = &self.arrays[a];
        let (to, open) = match of {
            Use::Control => (B, array.control),
            Use::Lane(lane) => (B, array.lane(lane)),
            Use::Witness => (self.second.leads[a], array.witness),
            Use::Host => return,
        };
        if open.is_some() {
            return;
        }
        // The peer's process must be able to accept: one that is stopped answers the handshake (its
        // kernel does), but says nothing.
        if !self.can_connect(a, to, of) {
            return self.connect_later(a, of);
        }
        // The peer may still hold an older one: it goes on reading what that has buffered (T11).
        match of {
            Use::Control if self.arrays[to].control.is_some() && self.rng.coin() => {
                self.work(to, Work::LinkIs { of, up: false })
            }
            Use::Lane(lane) if self.arrays[to].lane(lane).is_some() => {
                self.work(to, Work::LinkIs { of, up: false })
            }
            _ => {}
        }
        let connection = self.network.open(a, to, of, self.now);
        match of {
            Use::Control => {
                self.arrays[a].control = Some(connection);
                self.arrays[to].control = Some(connection);
                for array in [a, to] {
                    let boot = self.arrays[array].boot;
                    let check = Event::HelloCheck { array: array as u8, boot, connection };
                    self.queue.push(self.now + self.plan.user_timeout, check);
                }
                self.work(a, Work::LinkIs { of, up: true });
                self.work(to, Work::LinkIs { of, up: true });
            }
            Use::Lane(lane) => {
                self.arrays[a].lanes[usize::from(lane)] = Some(connection);
                self.arrays[to].lanes[usize::from(lane)] = Some(connection);
                for (array, peer) in [(a, to), (to, a)] {
                    let peer_life = self.arrays[peer].boot;
                    self.arrays[array].lane_watch[usize::from(lane)] =
                        LaneWatch { peer_life, ..LaneWatch::default() };
                }
                self.work(a, Work::LinkIs { of, up: true });
                self.work(to, Work::LinkIs { of, up: true });
            }
            Use::Witness => {
                self.arrays[a].witness = Some(connection);
                self.work(a, Work::LinkIs { of, up: true });
            }
            Use::Host => {}
        }
    }

    pub fn reset_connections(&mut self, a: usize, of: Use) {
        let array = &self.arrays[a];
        let connection = match of {
            Use::Control => array.control,
            Use::Lane(lane) => array.lane(lane),
            Use::Witness => array.witness,
            Use::Host => None,
        };
        if let Some(connection) = connection {
            self.work(a, Work::Arrived { connection, item: Item::End });
        }
    }

    /// The process is gone, with all that was only in memory.
    pub fn crash_array(&mut self, a: usize, power: bool) {
        if !self.arrays[a].alive {
            return;
        }
        let mut changed = Vec::new();
        let array = &mut self.arrays[a];
        array.alive = false;
        array.paused = false;
        array.control_stalled = false;
        array.stopping = false;
        array.deferred.clear();
        array.wake_at = u64::MAX;
        array.store.crash(&mut self.rng, &mut changed);
        for file in array.maps.iter_mut().chain(&mut array.votes) {
            file.crash(&mut self.rng);
        }
        for kept in &mut array.kept {
            kept.crash(&mut self.rng);
        }
        array.groups.clear();
        array.volumes.clear();
        array.sessions.clear();
        array.control = None;
        array.witness = None;
        array.lanes.fill(None);
        array.poked = false;
        array.liveness = None;
        array.stalled = false;
        // With its power gone a machine says nothing: the other ends find out by themselves.
        for connection in self.network.of_process(a) {
            if power {
                self.network.vanish(connection, a);
            } else {
                self.network.close(connection, a, self.plan.late_max, self.now, &mut self.rng);
            }
        }
        self.crash_cache(a, power, &mut changed);
        self.forget_verbs(a);
        self.forget_process(a);
        for (volume, index) in changed {
            self.note_medium_changed(a, usize::from(volume), index);
        }
    }

    pub fn resume_array(&mut self, a: usize) {
        let array = &mut self.arrays[a];
        array.paused = false;
        array.control_stalled = false;
        if !array.alive {
            return;
        }
        let mut waiting = core::mem::take(&mut array.deferred);
        // Threads wake in any order: timers may come before what the sockets and disks hold, or after.
        if self.rng.coin() {
            let timers: Vec<usize> =
                (0..waiting.len()).filter(|&i| matches!(waiting[i], Work::Wake | Work::Poke)).collect();
            for (to, from) in timers.into_iter().enumerate() {
                let work = waiting.remove(from);
                waiting.insert(to, work);
            }
        }
        for work in waiting {
            self.work(a, work);
        }
    }

    pub fn host_of(&self, a: usize, connection: ConnectionId) -> Option<Process> {
        self.arrays[a].sessions.iter().find(|s| s.connection == connection).map(|s| s.host)
    }
}
