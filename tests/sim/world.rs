//! The world of one seed: every process, disk and connection, the one event queue, and the loop.

use twinlun::arbitration::Gate;
use twinlun::block::{Extent, StoreResult};
use twinlun::mirror::{FrameHeader, SessionId, VolumeAction};

use crate::array::Array;
use crate::checker::Register;
use crate::control::PeerText;
use crate::disk::IoId;
use crate::faults::Away;
use crate::host::{ArrayMessage, Host, HostMessage, MS};
use crate::invariants::Watch;
use crate::keeping::Images;
use crate::layout::{self, Payload, Stamp};
use crate::members::Operator;
use crate::memory::MemoryWatch;
use crate::network::{ConnectionId, Due, FIRST_HOST, Item, Network, Process, Use, is_host, is_witness};
use crate::plan::Plan;
use crate::prng::Prng;
use crate::queue::Queue;
use crate::rest::Order;
use crate::scripts::Script;
use crate::second::Second;
use crate::witness::{FromWitness, ToWitness, Witness};
use crate::word::Word;

/// What travels on connections.
#[derive(Debug)]
pub enum Message {
    Peer(PeerText),
    Frame { volume: u8, header: FrameHeader, payload: Payload },
    Given { volume: u8, header: FrameHeader, payload: Payload },
    Ack { volume: u8, session: SessionId, sequence: u64, result: Option<StoreResult> },
    ToWitness(ToWitness),
    FromWitness(FromWitness),
    Host(HostMessage),
    Array(ArrayMessage),
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Deliver {
        connection: ConnectionId,
        direction: u8,
    },
    UserTimeout {
        connection: ConnectionId,
        direction: u8,
    },
    Wake {
        process: u8,
        at: u64,
    },
    Poke {
        array: u8,
        boot: u32,
    },
    IoSubmit {
        array: u8,
        boot: u32,
        io: IoId,
    },
    IoEffect {
        array: u8,
        boot: u32,
        io: IoId,
    },
    IoDone {
        array: u8,
        boot: u32,
        io: IoId,
    },
    SyncDone {
        process: u8,
        boot: u32,
        token: u32,
    },
    /// An array's connector tries again.
    Connect {
        array: u8,
        boot: u32,
        of: Use,
    },
    /// `disk_timeout` after a write of `data_dir` began to hang.
    DataDirHangs {
        array: u8,
        boot: u32,
    },
    LaneCheck {
        array: u8,
        boot: u32,
        lane: u16,
    },
    /// A control connection must have brought a hello by now.
    HelloCheck {
        array: u8,
        boot: u32,
        connection: ConnectionId,
    },
    HostTimer {
        host: u8,
        slot: u8,
        serial: u32,
    },
    HostConnect {
        host: u8,
        side: u8,
    },
    HostLoginTimeout {
        host: u8,
        side: u8,
        connection: ConnectionId,
    },
    HostPoll {
        host: u8,
    },
    /// The next random fault.
    Fault,
    /// A scripted or scheduled step (end of a fault): index into `World::steps`.
    Step {
        step: u32,
    },
    /// Faults end, everything is healed.
    Heal,
    /// Looks whether the healed world is at rest.
    Rest,
}

/// Something for a process to do; waits while the process is stopped.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once, kept only while a process is stopped")]
pub enum Work {
    Arrived {
        connection: ConnectionId,
        item: Item<Message>,
    },
    IoSubmit {
        io: IoId,
    },
    IoOver {
        io: IoId,
    },
    SyncOver {
        token: u32,
    },
    Wake,
    Poke,
    Connect {
        of: Use,
    },
    DataDirHangs,
    LaneCheck {
        lane: u16,
    },
    /// The groups are told of a connection.
    LinkIs {
        of: Use,
        up: bool,
    },
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    pub events: u64,
    pub completed: u64,
    pub digest: u64,
    /// Simulated time at the end.
    pub ended: u64,
    pub violation: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Faults happen, hosts work.
    Storm,
    /// All is healed, hosts work on.
    Healed,
    /// An order that must be carried out now that nothing is wrong.
    Exercise,
    /// Hosts finish what they have and stop.
    Quiet,
}

pub struct World {
    pub script: Option<&'static Script>,
    pub now: u64,
    pub rng: Prng,
    pub queue: Queue<Event>,
    pub network: Network<Message>,
    pub plan: Plan,
    pub extents: Vec<Extent>,
    /// In what volumes grow by.
    pub grown: Vec<Extent>,
    pub operator: Operator,
    pub arrays: Vec<Array>,
    pub witness: Witness,
    pub second: Second,
    pub hosts: Vec<Host>,
    /// One register for each volume and block of interest.
    pub registers: Vec<Vec<Register>>,
    /// Acknowledged writes were given up by an operator.
    pub lossy: bool,
    pub images: Images,
    pub word: Word,
    /// The array that the operator has turned off after the healing.
    pub switched_off: Option<usize>,
    pub watch: Watch,
    pub memory: MemoryWatch,
    pub steps: Vec<crate::faults::Step>,
    pub phase: Phase,
    pub healed_at: u64,
    pub orders: Vec<Order>,
    pub away: Away,
    pub spare_actions: Vec<Vec<VolumeAction>>,
    pub spare_reach: Vec<(usize, VolumeAction, Gate)>,
    pub trace: bool,
    pub events: u64,
    pub digest: u64,
    pub violation: Option<String>,
    pub finished: bool,
    stamp: Stamp,
    token: u32,
}

/// More events than any seed needs: a run past it is a storm of messages.
const EVENTS_MAX: u64 = 3_000_000;

pub fn run(seed: u64, script: Option<&'static Script>, trace: bool) -> Report {
    let mut world = World::new(seed, script, trace);
    world.begin();
    while world.violation.is_none() && !world.finished {
        if !world.step() {
            world.violate("nothing left to happen".into());
        }
        if world.events > EVENTS_MAX {
            world.violate("no end of events".into());
        }
    }
    Report {
        seed,
        events: world.events,
        completed: world.hosts.iter().map(|h| h.completed).sum(),
        digest: world.digest,
        ended: world.now,
        violation: world.violation,
    }
}

impl World {
    fn new(seed: u64, script: Option<&'static Script>, trace: bool) -> Self {
        let mut rng = Prng::new(seed);
        let mut plan = Plan::draw(&mut rng);
        if let Some(script) = script {
            (script.plan)(&mut plan);
        }
        let operator = Operator::draw(seed, script, &mut plan);
        let blocks = plan.room as usize * layout::PER_REGION;
        let volumes = plan.volumes.len();
        let arrays = vec![Array::new(&plan, &mut rng), Array::new(&plan, &mut rng)];
        let witness = Witness::new(&mut rng);
        let hosts = (0..plan.hosts)
            .map(|h| Host::new(FIRST_HOST + h, plan.habits, plan.groups, volumes, blocks))
            .collect();
        Self {
            script,
            now: 0,
            queue: Queue::new(),
            network: Network::new(plan.delay, plan.user_timeout),
            extents: layout::extents(plan.regions),
            grown: layout::extents_beyond(plan.regions, plan.room),
            operator,
            arrays,
            witness,
            second: Second::new(seed),
            hosts,
            registers: vec![vec![Register::new(); blocks]; volumes],
            lossy: false,
            images: Images::new(plan.groups),
            word: Word::default(),
            switched_off: None,
            watch: Watch::new(&plan, blocks),
            memory: MemoryWatch::default(),
            steps: Vec::new(),
            phase: Phase::Storm,
            healed_at: u64::MAX,
            orders: Vec::new(),
            away: Away::Nobody,
            spare_actions: Vec::new(),
            spare_reach: Vec::new(),
            trace,
            events: 0,
            digest: seed,
            violation: None,
            finished: false,
            stamp: 0,
            token: 0,
            rng,
            plan,
        }
    }

    fn begin(&mut self) {
        self.plan_memory(self.digest);
        self.witness_start();
        self.genesis();
        self.hosts_begin();
        self.faults_begin();
        self.plan_losses(self.digest);
        self.plan_bad_sectors(self.digest);
        self.plan_images(self.digest);
        self.plan_second_witness(self.digest);
        self.plan_members();
        self.drain_due();
    }

    pub fn violate(&mut self, text: String) {
        if self.trace {
            println!("{:>12} VIOLATION {text}", self.now / 1000);
            for group in self.arrays.iter().flat_map(|a| a.groups.iter().flatten()) {
                println!("{:?}", group.control);
            }
        }
        if self.violation.is_none() {
            self.violation = Some(text);
        }
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12} {}", self.now / 1000, text());
        }
    }

    pub fn new_stamp(&mut self) -> Stamp {
        self.stamp += 1;
        self.stamp
    }

    pub fn new_token(&mut self) -> u32 {
        self.token += 1;
        self.token
    }

    pub fn hosts_may_begin(&self) -> bool {
        self.phase != Phase::Quiet
    }

    /// In the quiet phase a host that has nothing to do stops asking.
    pub fn hosts_finish(&self) -> bool {
        self.phase == Phase::Quiet
    }

    pub fn oldest_start(&self) -> u64 {
        self.hosts.iter().map(Host::oldest_start).min().unwrap_or(u64::MAX).min(self.now)
    }

    pub fn send(&mut self, connection: ConnectionId, from: Process, message: Message) {
        self.network.send(connection, from, message, self.now, &mut self.rng);
        self.drain_due();
    }

    pub fn drain_due(&mut self) {
        for due in self.network.due.drain(..) {
            match due {
                Due::Deliver { at, connection, direction } => {
                    self.queue.push(at, Event::Deliver { connection, direction });
                }
                Due::UserTimeout { at, connection, direction } => {
                    self.queue.push(at, Event::UserTimeout { connection, direction });
                }
            }
        }
    }

    /// Asks for `Work::Wake` at a process, not later than `at`.
    pub fn wake(&mut self, process: Process, at: u64) {
        let now = self.now;
        let due = if is_witness(process) {
            &mut self.voter_mut(process).wake_at
        } else {
            &mut self.arrays[process].wake_at
        };
        if at < *due {
            let at = at.max(now);
            *due = at;
            self.queue.push(at, Event::Wake { process: process as u8, at });
        }
    }

    /// Whether a TCP handshake between the two succeeds now.
    pub fn can_connect(&self, from: Process, to: Process, of: Use) -> bool {
        let alive = |p: Process| match p {
            p if is_witness(p) => self.voter(p).alive,
            p if is_host(p) => true,
            p => self.arrays[p].alive,
        };
        alive(from) && alive(to) && !self.network.blocked(from, to, of) && !self.network.blocked(to, from, of)
    }

    fn step(&mut self) -> bool {
        let Some((at, event)) = self.queue.pop() else { return false };
        debug_assert!(at >= self.now);
        self.now = at;
        self.events += 1;
        self.digest = (self.digest ^ at ^ ((self.queue.len() as u64) << 48)).wrapping_mul(0x100_0000_01b3);
        if self.trace {
            self.print_event(event);
        }
        self.happen(event);
        self.drain_due();
        true
    }

    fn print_event(&self, event: Event) {
        if !matches!(event, Event::Deliver { .. }) {
            println!("{:>12} {event:?}", self.now / 1000);
        }
    }

    fn current(&self, array: u8, boot: u32) -> bool {
        let array = &self.arrays[usize::from(array)];
        array.boot == boot && array.alive
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { connection, direction } => {
                if let Some((to, item)) = self.network.deliver(connection, direction, self.now) {
                    self.digest = self.digest.wrapping_add(to as u64 + 1).wrapping_mul(0x100_0000_01b3);
                    if self.trace {
                        println!("{:>12} to {to} on {connection}: {item:?}", self.now / 1000);
                    }
                    self.arrive(to, connection, item);
                }
            }
            Event::UserTimeout { connection, direction } => {
                if let Some(process) = self.network.user_timeout(connection, direction, self.now) {
                    // As if the other end had closed: the process sees an error and closes its own.
                    self.arrive(process, connection, Item::End);
                }
            }
            Event::Wake { process, at } => {
                let process = usize::from(process);
                let due = if is_witness(process) {
                    &mut self.voter_mut(process).wake_at
                } else {
                    &mut self.arrays[process].wake_at
                };
                if *due == at {
                    *due = u64::MAX;
                    self.work(process, Work::Wake);
                }
            }
            Event::Poke { array, boot } => {
                if self.current(array, boot) {
                    self.work(usize::from(array), Work::Poke);
                }
            }
            Event::IoSubmit { array, boot, io } => {
                if self.current(array, boot) {
                    self.work(usize::from(array), Work::IoSubmit { io });
                }
            }
            Event::IoEffect { array, boot, io } => {
                if self.current(array, boot) {
                    self.io_effect(usize::from(array), io);
                }
            }
            Event::IoDone { array, boot, io } => {
                if self.current(array, boot) {
                    self.io_effect(usize::from(array), io);
                    self.work(usize::from(array), Work::IoOver { io });
                }
            }
            Event::SyncDone { process, boot, token } => {
                let process = usize::from(process);
                let current = if is_witness(process) {
                    self.voter(process).alive && self.voter(process).boot == boot
                } else {
                    self.current(process as u8, boot)
                };
                if current {
                    self.sync_done(process, token);
                    self.work(process, Work::SyncOver { token });
                }
            }
            Event::Connect { array, boot, of } => {
                if self.current(array, boot) {
                    self.work(usize::from(array), Work::Connect { of });
                }
            }
            Event::DataDirHangs { array, boot } => {
                if self.current(array, boot) {
                    self.work(usize::from(array), Work::DataDirHangs);
                }
            }
            Event::LaneCheck { array, boot, lane } => {
                if self.current(array, boot) {
                    self.work(usize::from(array), Work::LaneCheck { lane });
                }
            }
            Event::HelloCheck { array, boot, connection } => {
                let a = usize::from(array);
                let silent = self.arrays[a].liveness.is_none();
                if self.current(array, boot) && self.arrays[a].control == Some(connection) && silent {
                    self.work(a, Work::Arrived { connection, item: Item::End });
                }
            }
            Event::HostTimer { host, slot, serial } => self.host_timer(host.into(), slot.into(), serial),
            Event::HostConnect { host, side } => self.host_connect(host.into(), side.into()),
            Event::HostLoginTimeout { host, side, connection } => {
                self.host_login_timeout(host.into(), side.into(), connection);
            }
            Event::HostPoll { host } => self.host_poll(host.into()),
            Event::Fault => self.random_fault(),
            Event::Step { step } => self.carry_out_step(step),
            Event::Heal => self.heal(),
            Event::Rest => self.look_at_rest(),
        }
    }

    fn arrive(&mut self, to: Process, connection: ConnectionId, item: Item<Message>) {
        if is_host(to) {
            match item {
                Item::End => self.host_connection_ended(to, connection),
                Item::Message(Message::Array(message)) => self.host_receive(to, connection, message),
                Item::Message(_) => {}
            }
        } else {
            self.work(to, Work::Arrived { connection, item });
        }
    }

    /// Does it now, or keeps it until the process runs again.
    pub fn work(&mut self, process: Process, work: Work) {
        if is_witness(process) {
            let witness = self.voter_mut(process);
            if !witness.alive {
                return;
            }
            if witness.paused {
                witness.deferred.push(work);
            } else {
                self.witness_work(process, work);
            }
            return;
        }
        let control = self.is_control_work(process, &work);
        let array = &mut self.arrays[process];
        if !array.alive {
            return;
        }
        if array.paused || (control && array.control_stalled) {
            array.deferred.push(work);
        } else {
            self.array_work(process, work);
        }
    }

    /// Whether the control or metadata thread does it, not a data thread.
    fn is_control_work(&self, process: Process, work: &Work) -> bool {
        match work {
            Work::Arrived { connection, .. } => {
                let array = &self.arrays[process];
                array.control == Some(*connection) || array.witness == Some(*connection)
            }
            Work::IoSubmit { .. } | Work::IoOver { .. } | Work::LaneCheck { .. } => false,
            Work::SyncOver { .. }
            | Work::Wake
            | Work::Poke
            | Work::Connect { .. }
            | Work::DataDirHangs
            | Work::LinkIs { .. } => true,
        }
    }

    /// A durable write of `data_dir` (or the witness's state) begins.
    pub fn begin_sync(&mut self, process: Process, token: u32) {
        let mut after = self.rng.below(self.plan.sync_max) + MS / 100;
        let boot = if is_witness(process) {
            self.voter(process).boot
        } else {
            let hang = self.arrays[process].metadata_hang(self.now);
            let timeout = self.plan.timers.disk_timeout.as_nanos() as u64;
            if hang > timeout {
                let boot = self.arrays[process].boot;
                self.queue.push(self.now + timeout, Event::DataDirHangs { array: process as u8, boot });
            }
            after += hang;
            self.arrays[process].boot
        };
        self.queue.push(self.now + after, Event::SyncDone { process: process as u8, boot, token });
    }
}
