//! The control thread: every event of links, witness, volumes, disks and operators goes through
//! one queue to the groups' controls, and what they wish is carried out here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use crate::arbitration::{
    Connection, GroupId, InSync, Incarnation, MemoryId, Message, Side, Timers, Voter, VoterRecord,
};
use crate::group::{Command, Event, PathView, Policy, Refused};
use crate::link::channel::{self, Sender};
use crate::link::lane::{LaneConnection, LaneEvent};
use crate::link::lives;
use crate::mirror::{LaneId, VolumeId};
use crate::store::lives::Lives;
use crate::store::objects::Group;
use crate::store::records::RecordTable;
use crate::sys::clock;
use crate::time::Time;
use crate::volume::{self, DataThread, Mailboxes};
use crate::wire::{self, Frame, Hello, Role};

mod members;
mod pace;
mod verify;

use pace::Pace;
pub use verify::finding;

use super::age::Age;
use super::events::EventLog;
use super::groups::{GroupEntry, Views, Wish};
use super::metadata::Metadata;
use super::probes::Probes;

/// How long the other array may take to answer a request about objects.
pub const PEER_REQUEST: Duration = Duration::from_secs(10);
/// Requests to the other array that may wait at once.
const PEER_REQUESTS_MAX: usize = 256;
/// The loop looks at timers at least so often while there is a group: a stalled disk is noticed
/// by this.
const LOOK: Duration = Duration::from_millis(250);

type Call = Box<dyn FnOnce(&mut Controller) + Send>;

/// What can reach the control thread.
pub enum Input {
    Peer(channel::Event),
    Witness(channel::Event),
    Lane(LaneEvent),
    Poke(VolumeId),
    Persisted {
        group: GroupId,
        sequence: u64,
    },
    /// A probe of a disk has ended.
    Probed,
    /// Runs on the control thread.
    Call(Call),
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(event) => f.debug_tuple("Peer").field(event).finish(),
            Self::Witness(event) => f.debug_tuple("Witness").field(event).finish(),
            Self::Lane(event) => f.debug_tuple("Lane").field(event).finish(),
            Self::Poke(volume) => f.debug_tuple("Poke").field(volume).finish(),
            Self::Persisted { sequence, .. } => f.debug_tuple("Persisted").field(sequence).finish(),
            Self::Probed => f.write_str("Probed"),
            Self::Call(_) => f.write_str("Call"),
        }
    }
}

/// A link that is up.
#[derive(Clone, Debug)]
pub struct Up {
    pub connection: Connection,
    pub hello: Hello,
    pub sender: Sender,
}

/// What the rest of the array does when a group's state changes; called on the control thread.
pub trait Surroundings: fmt::Debug {
    /// The host-visible state of a group changed; `views` hold it already.
    fn path_changed(&self, group: GroupId, view: &PathView);
    /// The other array asks for something about objects; the answer goes to `reply`.
    fn peer_request(&self, body: Vec<u8>, reply: PeerReply);
    /// The secondary lacks the group's objects: send them.
    fn send_group_state(&self, group: GroupId);
    /// The group was started or stopped: to be kept with the objects.
    fn policy(&self, group: GroupId, policy: Policy);
    /// The control connection to the other array came up.
    fn peer_up(&self);
}

/// Where the answer to a request of the other array goes.
#[derive(Debug)]
pub struct PeerReply {
    sender: Sender,
    number: u64,
}

impl PeerReply {
    pub fn send(self, body: Vec<u8>) {
        self.sender.send(Frame::Reply { number: self.number, body });
    }
}

/// Everything a controller is made of.
#[derive(Debug)]
pub struct Parts {
    pub me: Side,
    pub timers: Timers,
    pub boot: u64,
    pub age: Age,
    /// Which lives of the other array were heard.
    pub lives: Arc<Mutex<Lives>>,
    pub nonce: crate::group::BootNonce,
    /// What holds unflushed writes in this life.
    pub memory: MemoryId,
    pub metadata: Metadata,
    pub votes: Arc<Mutex<RecordTable>>,
    pub mailboxes: Mailboxes,
    pub views: Views,
    pub log: EventLog,
    pub surroundings: Box<dyn Surroundings>,
    pub inputs: mpsc::UnboundedSender<Input>,
    /// What probes of `data_dir` write.
    pub probe: std::path::PathBuf,
}

/// The state of the control thread.
#[derive(Debug)]
pub struct Controller {
    parts: Parts,
    groups: BTreeMap<GroupId, GroupEntry>,
    names: BTreeMap<GroupId, String>,
    group_of: BTreeMap<VolumeId, GroupId>,
    peer: Option<Up>,
    witness: Option<Up>,
    lanes: BTreeMap<LaneId, LaneConnection>,
    /// Outcomes of commands that operators wait for.
    commands: BTreeMap<u64, oneshot::Sender<Result<(), Refused>>>,
    requests: BTreeMap<u64, oneshot::Sender<Option<Vec<u8>>>>,
    next_ticket: u64,
    stalled: bool,
    pace: Pace,
    probes: Probes,
    data_dir_is_bad: bool,
    wishes: Vec<Wish>,
}

impl Controller {
    pub fn new(parts: Parts) -> Self {
        let probes = Probes::new(parts.timers, parts.inputs.clone(), &parts.probe);
        Self {
            parts,
            probes,
            data_dir_is_bad: false,
            groups: BTreeMap::new(),
            names: BTreeMap::new(),
            group_of: BTreeMap::new(),
            peer: None,
            witness: None,
            lanes: BTreeMap::new(),
            commands: BTreeMap::new(),
            requests: BTreeMap::new(),
            next_ticket: 1,
            stalled: false,
            pace: Pace::default(),
            wishes: Vec::new(),
        }
    }

    /// Runs until every sender of `inputs` is gone.
    pub async fn run(mut self, mut inputs: mpsc::UnboundedReceiver<Input>) {
        loop {
            let due = self.next_timeout();
            tokio::select! {
                biased;
                input = inputs.recv() => match input {
                    Some(input) => {
                        self.take(input);
                        // What came meanwhile goes first: its answers travel in one batch.
                        while let Ok(input) = inputs.try_recv() {
                            self.take(input);
                        }
                    }
                    None => return,
                },
                () = sleep_until(due) => {}
            }
            self.tick();
            self.carry_out();
        }
    }

    fn next_timeout(&self) -> tokio::time::Instant {
        let due = self.groups.values().filter_map(GroupEntry::next_timeout).min();
        match due {
            Some(due) => channel::instant(due).min(tokio::time::Instant::now() + self.look()),
            None => tokio::time::Instant::now() + Duration::from_secs(3600),
        }
    }

    fn tick(&mut self) {
        let now = clock::now().grantor;
        let bad = self.look_at_probes(now);
        let stalled = bad || self.parts.metadata.stalled_for() > self.parts.timers.disk_timeout;
        if stalled != self.stalled {
            self.stalled = stalled;
            self.all(|| Event::DataDir { stalled });
        }
        for (group, entry) in &mut self.groups {
            entry.tick(*group, now, &mut self.wishes);
        }
        self.pace_resyncs(now);
    }

    /// Hands on what the probes say of the groups' disks. True: `data_dir` is on a bad one.
    fn look_at_probes(&mut self, now: Time) -> bool {
        if !self.probes.is_due(now) {
            return self.data_dir_is_bad;
        }
        for (group, entry) in &mut self.groups {
            self.probes.watch(&entry.members, entry.control().disk_is_bad());
            if let Some(probed) = self.probes.news_of(*group, &entry.members, now) {
                entry.handle(*group, Event::Disk(probed), &mut self.wishes);
            }
        }
        self.data_dir_is_bad = self.probes.data_dir_is_bad(now);
        self.data_dir_is_bad
    }

    fn all(&mut self, event: impl Fn() -> Event) {
        for (group, entry) in &mut self.groups {
            entry.handle(*group, event(), &mut self.wishes);
        }
    }

    /// Hands an event to one group, if it is there.
    pub fn event(&mut self, group: GroupId, event: Event) {
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.handle(group, event, &mut self.wishes);
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Peer(event) => self.peer_event(event),
            Input::Witness(event) => self.witness_event(event),
            Input::Lane(event) => self.lane_event(event),
            Input::Poke(volume) => {
                if let Some(group) = self.group_of.get(&volume).copied() {
                    self.event(group, Event::Poke);
                }
            }
            Input::Persisted { group, sequence } => self.event(group, Event::Persisted { sequence }),
            Input::Probed => self.probes.has_ended(), // the tick that follows looks
            Input::Call(call) => call(self),
        }
        self.carry_out();
    }

    fn peer_event(&mut self, event: channel::Event) {
        match event {
            channel::Event::Up { connection, hello, sender } => {
                let peer = hello.nonce;
                // It may have risen since the hello was written.
                sender.send(Frame::Age(self.parts.age.now()));
                self.peer = Some(Up { connection, hello, sender });
                self.all(|| Event::LinkUp { connection, peer });
                self.parts.surroundings.peer_up();
            }
            channel::Event::Down { connection } => {
                if self.peer.as_ref().is_some_and(|up| up.connection == connection) {
                    self.peer = None;
                    self.requests.clear();
                    // The lanes belong to the link that is gone.
                    self.parts.mailboxes.everywhere(|| {
                        if let Some(thread) = DataThread::current() {
                            thread.close_lanes();
                        }
                    });
                    self.all(|| Event::LinkDown);
                }
            }
            channel::Event::Frame { connection, frame } => {
                let Some(up) = self.peer.clone().filter(|up| up.connection == connection) else { return };
                match frame {
                    Frame::Batch(messages) => {
                        self.messages(Voter::Array(self.parts.me.other()), connection, messages);
                    }
                    Frame::Session { group, message } => {
                        self.event(group, Event::Session { connection, message });
                    }
                    Frame::Request { number, body } => {
                        self.parts.surroundings.peer_request(body, PeerReply { sender: up.sender, number });
                    }
                    Frame::Reply { number, body } => {
                        if let Some(waiting) = self.requests.remove(&number) {
                            let _ = waiting.send(Some(body));
                        }
                    }
                    Frame::Age(age) => lives::note(&self.parts.lives, &up.hello, age),
                    Frame::Hello(_)
                    | Frame::Ping(_)
                    | Frame::Pong(_)
                    | Frame::Refused(_)
                    | Frame::Restored(_) => {}
                }
            }
        }
    }

    fn witness_event(&mut self, event: channel::Event) {
        match event {
            channel::Event::Up { connection, hello, sender } => {
                sender.send(Frame::Age(self.parts.age.now()));
                self.witness = Some(Up { connection, hello, sender });
                self.all(|| Event::WitnessUp { connection });
            }
            channel::Event::Down { connection } => {
                if self.witness.as_ref().is_some_and(|up| up.connection == connection) {
                    self.witness = None;
                    self.all(|| Event::WitnessDown);
                }
            }
            channel::Event::Frame { connection, frame } => {
                let known = self.witness.as_ref().is_some_and(|up| up.connection == connection);
                if let (true, Frame::Batch(messages)) = (known, frame) {
                    self.messages(Voter::Witness, connection, messages);
                }
            }
        }
    }

    fn messages(&mut self, from: Voter, connection: Connection, messages: Vec<Message>) {
        for message in messages {
            self.event(message.group, Event::Message { from, connection, message });
        }
    }

    fn lane_event(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::Up(connection) => {
                if self.lanes.insert(connection.lane, connection).is_some() {
                    self.all(|| Event::LaneLost(connection.lane));
                }
                self.all(|| Event::LaneUp(connection.lane));
            }
            LaneEvent::Down(connection) => {
                if self.lanes.get(&connection.lane) == Some(&connection) {
                    self.lanes.remove(&connection.lane);
                    self.all(|| Event::LaneLost(connection.lane));
                }
            }
        }
    }

    /// Carries out what the groups wish; messages to one voter travel together.
    fn carry_out(&mut self) {
        let (mut to_peer, mut to_witness) = (Vec::new(), Vec::new());
        let mut records: BTreeMap<GroupId, (u64, VoterRecord)> = BTreeMap::new();
        let mut removed = BTreeSet::new();
        // A wish may bring further ones about, through events.
        while !self.wishes.is_empty() {
            for wish in std::mem::take(&mut self.wishes) {
                match wish {
                    Wish::Persist { group, sequence, record } => {
                        records.insert(group, (sequence, record));
                    }
                    Wish::Send { to: Voter::Witness, connection, message } => {
                        if self.witness.as_ref().is_some_and(|up| up.connection == connection) {
                            to_witness.push(message);
                        }
                    }
                    Wish::Send { to: Voter::Array(_), connection, message } => {
                        if self.peer.as_ref().is_some_and(|up| up.connection == connection) {
                            to_peer.push(message);
                        }
                    }
                    Wish::SendSession { group, connection, message } => {
                        if let Some(up) = self.peer.as_ref().filter(|up| up.connection == connection) {
                            // Votes sent before it must not be overtaken.
                            send_batches(&up.sender, &mut to_peer);
                            up.sender.send(Frame::Session { group, message });
                        }
                    }
                    Wish::Path { group, view } => self.path_changed(group, view),
                    Wish::Log { group, epoch, text } => {
                        self.parts.log.add(self.names.get(&group).cloned(), Some(epoch), text);
                    }
                    Wish::Outcome { group: _, ticket, result } => {
                        if let Some(waiting) = self.commands.remove(&ticket) {
                            let _ = waiting.send(result);
                        }
                    }
                    Wish::SendGroupState { group } => self.parts.surroundings.send_group_state(group),
                    Wish::Policy { group, policy } => self.parts.surroundings.policy(group, policy),
                    Wish::Removed { group } => {
                        removed.insert(group);
                    }
                }
            }
        }
        if let Some(up) = &self.peer {
            send_batches(&up.sender, &mut to_peer);
        }
        if let Some(up) = &self.witness {
            send_batches(&up.sender, &mut to_witness);
        }
        if !records.is_empty() {
            self.persist(records);
        }
        for group in removed {
            self.forget_group(group);
        }
    }

    fn path_changed(&mut self, group: GroupId, view: PathView) {
        // The last moment at which a secondary knew that it held everything.
        let before = self.parts.views.load().get(&group).copied();
        let held = |view: PathView| {
            view.in_sync == InSync::Both && view.link_up && view.role == crate::group::Role::Secondary
        };
        if before.is_some_and(held) && !held(view) {
            let now = super::handle::now_seconds();
            for volume in self.groups.get(&group).into_iter().flat_map(|entry| &entry.members) {
                volume.was_in_sync_until(now);
            }
        }
        self.parts.views.rcu(|views| {
            let mut views = BTreeMap::clone(views);
            views.insert(group, view);
            views
        });
        self.parts.surroundings.path_changed(group, &view);
    }

    /// Writes the votes of all these groups with one flush.
    fn persist(&self, records: BTreeMap<GroupId, (u64, VoterRecord)>) {
        volume::note_written();
        let (votes, inputs) = (Arc::clone(&self.parts.votes), self.parts.inputs.clone());
        self.parts.metadata.run(move || {
            let bodies: Vec<_> = records
                .iter()
                .map(|(group, (_, record))| {
                    let mut body = Vec::new();
                    record.encode_body(&mut body);
                    (group.0, body)
                })
                .collect();
            loop {
                let mut table = votes.lock().unwrap_or_else(PoisonError::into_inner);
                match table.write(bodies.iter().map(|(key, body)| (*key, &body[..]))) {
                    Ok(()) => break,
                    // Nothing is answered meanwhile; `stalled_for` stops the leases.
                    Err(error) => tracing::error!(%error, "votes cannot be written; trying again"),
                }
                drop(table);
                std::thread::sleep(LOOK);
            }
            for (group, (sequence, _)) in records {
                let _ = inputs.send(Input::Persisted { group, sequence });
            }
        });
    }

    /// Writes a group's first vote; the end comes when it is durable.
    pub fn write_vote(&self, group: GroupId, record: VoterRecord) -> oneshot::Receiver<()> {
        let votes = Arc::clone(&self.parts.votes);
        let (done, wait) = oneshot::channel();
        self.parts.metadata.run(move || {
            let mut body = Vec::new();
            record.encode_body(&mut body);
            let written = votes.lock().unwrap_or_else(PoisonError::into_inner).write([(group.0, &body[..])]);
            match written {
                Ok(()) => {
                    let _ = done.send(());
                }
                // The sender is dropped, and the caller gives up.
                Err(error) => tracing::error!(%error, "a group's first vote cannot be written"),
            }
        });
        wait
    }

    /// Ends when everything that was to be written before is durable.
    pub fn written(&self) -> oneshot::Receiver<()> {
        let (done, wait) = oneshot::channel();
        self.parts.metadata.run(move || {
            let _ = done.send(());
        });
        wait
    }

    /// Gives a command to a group's control; the outcome may come much later. `None`: no such group.
    pub fn command(
        &mut self,
        group: GroupId,
        command: Command,
    ) -> Option<oneshot::Receiver<Result<(), Refused>>> {
        if !self.groups.contains_key(&group) {
            return None;
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let (outcome, wait) = oneshot::channel();
        self.commands.insert(ticket, outcome);
        self.event(group, Event::Command { ticket, command });
        Some(wait)
    }

    /// Every group leaves office (SIGTERM); the outcomes are to be waited for.
    pub fn hand_over_all(&mut self) -> Vec<oneshot::Receiver<Result<(), Refused>>> {
        let groups: Vec<_> = self.groups.keys().copied().collect();
        groups.into_iter().filter_map(|group| self.command(group, Command::HandOver)).collect()
    }

    /// Sends a request to the other array. `None` comes when the link is down or breaks.
    pub fn request(&mut self, body: Vec<u8>) -> oneshot::Receiver<Option<Vec<u8>>> {
        let (reply, wait) = oneshot::channel();
        match &self.peer {
            Some(up) if self.requests.len() < PEER_REQUESTS_MAX => {
                let number = self.next_ticket;
                self.next_ticket += 1;
                up.sender.send(Frame::Request { number, body });
                self.requests.insert(number, reply);
            }
            _ => {
                let _ = reply.send(None);
            }
        }
        wait
    }

    pub fn policy_changed(&mut self, group: &Group) {
        self.event(group.group_id(), Event::Policy(policy(group)));
    }

    /// The other array's hello, while the link is up.
    pub fn peer(&self) -> Option<&Hello> {
        self.peer.as_ref().map(|up| &up.hello)
    }

    /// The witness's incarnation, while it is connected.
    pub fn witness(&self) -> Option<Incarnation> {
        match self.witness.as_ref()?.hello.role {
            Role::Witness(incarnation) => Some(incarnation),
            Role::Array(_) => None,
        }
    }

    /// The other array or the witness is connected.
    pub const fn is_heard(&self) -> bool {
        self.peer.is_some() || self.witness.is_some()
    }

    /// The age of this array's `data_dir` has risen.
    pub fn tell_age(&self) {
        for up in self.peer.iter().chain(&self.witness) {
            up.sender.send(Frame::Age(self.parts.age.now()));
        }
    }

    /// Lanes that are up.
    pub fn lanes(&self) -> Vec<LaneId> {
        self.lanes.keys().copied().collect()
    }
}

fn policy(group: &Group) -> Policy {
    let policies = group.policies;
    Policy {
        started: group.started,
        auto_failover: policies.auto_failover,
        auto_recover: policies.auto_recover,
        auto_synchronize: policies.auto_synchronize,
    }
}

fn send_batches(sender: &Sender, messages: &mut Vec<Message>) {
    for batch in messages.chunks(wire::BATCH_MAX) {
        sender.send(Frame::Batch(batch.to_vec()));
    }
    messages.clear();
}
