//! A target with one unit in memory, whose commands can be held back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use twinlun::block::{Outcome, Refusal};
use twinlun::iscsi::pdu::{LoginStatus, TaskFunction};
use twinlun::iscsi::{Candidate, Command, Limits, TargetIdentity, TargetRecord, TaskId};
use twinlun::portal::{
    Accepted, End, Finished, Nexus, OwnedReply, PortalConfig, ScsiService, SenseData, Service, Sessions,
    accept, serve_connection,
};
use twinlun::sys::buffer::Buffer;
use twinlun::volume::{Completion, CompletionQueue};

use crate::disk::Disk;

pub const TARGET: &str = "iqn.2026-01.test:array-a";
const BLOCKS: usize = 32 * 1024;

/// What tests see and steer, whichever thread the connections run on.
#[derive(Debug, Default)]
pub struct Steering {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Commands are held back instead of carried out.
    hold: bool,
    held: Vec<Held>,
    /// Commands that took effect.
    effects: u64,
    resets: Vec<TaskFunction>,
    /// The unit is not exported any more, to sessions that ask from now on.
    hidden: bool,
}

#[derive(Debug)]
struct Held {
    queue: Arc<CompletionQueue>,
    task: TaskId,
    aborted: bool,
}

impl Steering {
    pub fn hide(&self, hidden: bool) {
        self.state.lock().unwrap().hidden = hidden;
    }

    pub fn hold(&self, hold: bool) {
        self.state.lock().unwrap().hold = hold;
    }

    /// Waits until `count` commands are held, of which `aborted` were asked to be aborted.
    pub fn wait_held(&self, count: usize, aborted: usize) {
        for _ in 0..5000 {
            let state = self.state.lock().unwrap();
            let asked = state.held.iter().filter(|held| held.aborted).count();
            if state.held.len() == count && asked == aborted {
                return;
            }
            drop(state);
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        panic!("{:?}", self.state.lock().unwrap());
    }

    /// Ends all held commands: aborted ones without effect, the others with theirs.
    pub fn release(&self) {
        let mut state = self.state.lock().unwrap();
        for Held { queue, task, aborted } in std::mem::take(&mut state.held) {
            let outcome = if aborted { Outcome::Aborted } else { Outcome::Good };
            queue.push(Completion { tag: u64::from(task.0), outcome, data: Buffer::empty() });
        }
    }

    pub fn effects(&self) -> u64 {
        self.state.lock().unwrap().effects
    }

    pub fn resets(&self) -> Vec<TaskFunction> {
        self.state.lock().unwrap().resets.clone()
    }
}

#[derive(Clone)]
struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    steering: Arc<Steering>,
    address: SocketAddr,
}

struct MemoryNexus {
    memory: Memory,
    queue: Option<Arc<CompletionQueue>>,
    held: BTreeMap<u16, Command>,
}

impl Service for Memory {
    type Nexus = MemoryNexus;

    fn admit(&self, candidate: &Candidate) -> Result<(), LoginStatus> {
        match candidate.initiator_name.as_str() {
            "iqn.2026-01.host:banned" => Err(LoginStatus::AUTHORIZATION_FAILURE),
            _ => Ok(()),
        }
    }

    fn nexus(&self, _: &Candidate, _: u16, _: bool) -> MemoryNexus {
        MemoryNexus { memory: self.clone(), queue: None, held: BTreeMap::new() }
    }

    fn targets(&self, _: &Candidate) -> Vec<TargetRecord> {
        let own = TargetRecord { name: TARGET.into(), portals: vec![(self.address.to_string(), 1)] };
        let peer = TargetRecord {
            name: "iqn.2026-01.test:array-b".into(),
            portals: vec![("192.0.2.2:3260".into(), 256)],
        };
        vec![own, peer]
    }
}

impl MemoryNexus {
    fn carry_out(&self, command: &Command) -> OwnedReply {
        self.memory.steering.state.lock().unwrap().effects += 1;
        let cdb = &command.cdb;
        let start = u32::from_be_bytes([cdb[2], cdb[3], cdb[4], cdb[5]]) as usize * 512;
        let len = usize::from(u16::from_be_bytes([cdb[7], cdb[8]])) * 512;
        let mut bytes = self.memory.bytes.lock().unwrap();
        let mut reply =
            OwnedReply { status: 0, sense: SenseData::EMPTY, data: Buffer::empty(), wanted: 0, gives: 0 };
        match cdb[0] {
            0x28 => {
                reply.data = Buffer::with_len(len);
                reply.data.as_mut_slice().unwrap().copy_from_slice(&bytes[start..start + len]);
            }
            0x2a => {
                let moved = len.min(command.data.len());
                bytes[start..start + moved].copy_from_slice(&command.data.as_slice()[..moved]);
                reply.wanted = len as u64;
            }
            _ => {
                reply.status = 2;
                reply.sense = SenseData::new(&[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]);
            }
        }
        reply
    }
}

impl Nexus for MemoryNexus {
    fn start(&mut self, command: Command, queue: &Arc<CompletionQueue>, finished: &mut Vec<Finished>) {
        self.queue = Some(Arc::clone(queue));
        let mut state = self.memory.steering.state.lock().unwrap();
        if state.hold {
            state.held.push(Held { queue: Arc::clone(queue), task: command.task, aborted: false });
            drop(state);
            self.held.insert(command.task.0, command);
            return;
        }
        drop(state);
        let reply = self.carry_out(&command);
        finished.push(Finished { task: command.task, end: End::Reply(reply) });
    }

    fn completed(&mut self, completion: Completion, _: &Arc<CompletionQueue>, finished: &mut Vec<Finished>) {
        let command = self.held.remove(&u16::try_from(completion.tag).unwrap()).unwrap();
        let end = match completion.outcome {
            Outcome::Good => End::Reply(self.carry_out(&command)),
            Outcome::Aborted | Outcome::Refused(Refusal::Busy) => End::Aborted,
            other => panic!("{other:?}"),
        };
        finished.push(Finished { task: command.task, end });
    }

    fn abort(&mut self, task: TaskId) {
        let mut state = self.memory.steering.state.lock().unwrap();
        let Some(queue) = &self.queue else { return };
        for held in &mut state.held {
            held.aborted |= held.task == task && Arc::ptr_eq(&held.queue, queue);
        }
    }

    fn unit(&self, lun: u64) -> Option<u64> {
        (lun == 0).then_some(77)
    }

    fn lun_of(&self, unit: u64) -> Option<u64> {
        (unit == 77 && !self.memory.steering.state.lock().unwrap().hidden).then_some(0)
    }

    fn unit_of(&self, task: TaskId) -> Option<u64> {
        self.held.contains_key(&task.0).then_some(77)
    }

    fn managed(&mut self, function: TaskFunction, _: u64) {
        self.memory.steering.state.lock().unwrap().resets.push(function);
    }

    fn commands_cleared(&mut self, _: u64) {
        self.memory.steering.state.lock().unwrap().resets.push(TaskFunction::ClearTaskSet);
    }
}

/// A portal on loopback with its data thread.
pub struct Target {
    pub address: SocketAddr,
    pub sessions: Sessions,
    pub steering: Arc<Steering>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Target {
    pub fn start() -> Self {
        Self::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> Self {
        Self::with_sessions(limits, Sessions::default())
    }

    pub fn with_sessions(limits: Limits, sessions: Sessions) -> Self {
        let bytes = Arc::new(Mutex::new(vec![0; BLOCKS * 512]));
        Self::serving(limits, sessions, 2, move |steering, address| Memory {
            bytes: Arc::clone(&bytes),
            steering,
            address,
        })
    }

    /// The real command set over a disk in memory.
    pub fn disk() -> Self {
        Self::serving(Limits::default(), Sessions::default(), 1, |_, address| ScsiService(Disk::new(address)))
    }

    /// Connections take turns on `threads` data threads.
    fn serving<S: Service>(
        limits: Limits,
        sessions: Sessions,
        threads: usize,
        service: impl Fn(Arc<Steering>, SocketAddr) -> S + Clone + Send + 'static,
    ) -> Self {
        let steering = Arc::new(Steering::default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let mut handles = Vec::new();
        let mut senders = Vec::new();
        for _ in 0..threads {
            let (sender, mut connections) = tokio::sync::mpsc::unbounded_channel::<Accepted>();
            let (sessions, steering) = (sessions.clone(), Arc::clone(&steering));
            let service = service.clone();
            senders.push(sender);
            handles.push(std::thread::spawn(move || {
                tokio_uring::start(async move {
                    let target =
                        TargetIdentity { name: TARGET.into(), alias: String::new(), portal_group_tag: 1 };
                    let config = Rc::new(PortalConfig { target, limits, sessions });
                    let service = service(steering, address);
                    while let Some(accepted) = connections.recv().await {
                        tokio_uring::spawn(serve_connection(accepted, service.clone(), Rc::clone(&config)));
                    }
                });
            }));
        }
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let shared = sessions.clone();
        handles.push(std::thread::spawn(move || {
            tokio_uring::start(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let mut turn = (0..senders.len()).cycle();
                let hand_over = |accepted| {
                    let _ = senders[turn.next().unwrap()].send(accepted);
                };
                tokio::select! {
                    () = accept(listener, shared, hand_over) => {}
                    _ = stopped => {}
                }
            });
        }));
        Self { address, sessions, steering, stop: Some(stop), threads: handles }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}
