//! The shell around each group's control on an array: events in, actions out, votes on disk, the
//! conversation with the peer and the witness, and the operator's orders.

use twinlun::arbitration::{
    Config, Connection, Gate, GroupId, Message as Vote, RECORD_FORMAT, Side, Voter, VoterRecord,
};
use twinlun::format::slots::{SLOT_UNIT, Slots};
use twinlun::group::{
    Action, BootNonce, Command, Control, Event as Happened, Life, LogEntry, Members, PathState, Policy,
    SessionMessage, Settings,
};
use twinlun::mirror::{DirtyMap, Volume, VolumeAction, VolumeId};
use twinlun::time::Now;

use crate::array::Array;
use crate::faults::Step;
use crate::host::MS;
use crate::invariants::brief;
use crate::network::{A, ConnectionId, Item, Process, Use};
use crate::shared::{Term, Told};
use crate::verbs::{Change, Shared};
use crate::volumes::{VolumeShell, geometry, limits, volume_id};
use crate::witness::ToWitness;
use crate::world::{Message, Work, World};

/// What the arrays say to each other on the control connection.
#[derive(Clone, Debug)]
pub enum PeerText {
    Hello {
        nonce: BootNonce,
    },
    Ping(u64),
    Pong(u64),
    Vote(Vote),
    Session {
        group: usize,
        message: SessionMessage,
    },
    GroupState {
        group: usize,
        told: Told,
        volumes: Vec<Shared>,
    },
    /// The group is started, or not, in this term of office.
    Policies {
        group: usize,
        started: bool,
        tenure: Term,
    },
    /// A step of a verb (`verbs.rs`).
    Ask {
        number: u64,
        change: Change,
    },
    Reply {
        number: u64,
        done: bool,
    },
    /// See `twinlun::group::Control::offer`.
    Offer {
        group: usize,
        chosen: Config,
    },
}

/// Votes stand in two slots.
const VOTES: Slots = Slots { format: RECORD_FORMAT, slot_len: SLOT_UNIT };

/// One group on one array: volatile, but for what `Array` keeps in files.
#[derive(Debug)]
pub struct GroupShell {
    pub control: Control,
    /// A record being written: its token and the core's sequence.
    writing: Option<(u32, u64)>,
    /// The newest record asked for meanwhile.
    next: Option<(u64, VoterRecord)>,
    /// Sequence number in the slots, and the slot to write next.
    slot_sequence: u64,
    slot: usize,
    wake_at: u64,
}

/// What the operator set for the group at one array: durable at once.
#[derive(Clone, Copy, Debug)]
pub struct Objects {
    pub policy: Policy,
    /// Number of the group's state, and the term of office in which it was told.
    pub state: u64,
    pub told: Option<Term>,
}

pub fn group_id(g: usize) -> GroupId {
    GroupId([g as u8 + 1; 16])
}

pub fn group_index(id: GroupId) -> usize {
    usize::from(id.0[0]) - 1
}

pub const fn side(a: Process) -> Side {
    if a == A { Side::A } else { Side::B }
}

/// The group's volumes, as its control reaches them.
struct Reach<'a> {
    volumes: &'a mut Vec<VolumeShell>,
    group: usize,
    /// With the gate under which the volume said it (a call may be followed by one that shuts it).
    actions: Vec<(usize, VolumeAction, Gate)>,
    now: Now,
    spare: Vec<VolumeAction>,
}

impl Members for Reach<'_> {
    fn each(&mut self, f: &mut dyn FnMut(VolumeId, &mut Volume, &mut Vec<VolumeAction>)) {
        for (v, shell) in self.volumes.iter_mut().enumerate() {
            if shell.group == self.group && shell.member {
                let before = shell.core.gate();
                f(volume_id(v), &mut shell.core, &mut self.spare);
                let after = shell.core.gate();
                let gate = if after.may_answer(self.now) { after } else { before };
                self.actions.extend(self.spare.drain(..).map(|action| (v, action, gate)));
            }
        }
    }
}

impl Array {
    pub fn group(&self, g: usize) -> Option<&GroupShell> {
        self.groups.get(g)?.as_ref()
    }

    pub fn group_mut(&mut self, g: usize) -> Option<&mut GroupShell> {
        self.groups.get_mut(g)?.as_mut()
    }

    pub fn chosen(&self, g: usize) -> Option<Config> {
        self.group(g).map(|group| group.control.chosen())
    }

    pub fn explain(&self, g: usize) -> String {
        let group = self.group(g);
        let view = group.and_then(|group| group.control.view()).map(|v| (v.own, v.state, v.reason, v.sync));
        let vote = group.and_then(|group| group.control.arbiter().vote()).map(|vote| brief(&vote));
        let status: Vec<_> = self.volumes.iter().filter(|v| v.group == g).map(|v| v.core.status()).collect();
        format!("view {view:?} vote {vote:?} lanes {:?} volumes {status:?}", self.lanes)
    }
}

impl World {
    /// Both arrays get their groups, group 0 made on A, group 1 on B.
    pub fn genesis(&mut self) {
        let witness = self.witness.incarnation();
        for g in 0..self.plan.groups {
            let me = side(g % 2);
            let config = Config::genesis(me, 77 + g as u64, Some(witness));
            for a in 0..2 {
                self.write_first_vote(a, g, config);
            }
        }
        for a in 0..2 {
            self.boot_array(a, Life::Created);
        }
        if self.plan.full_sync {
            for a in 0..2 {
                for v in 0..self.plan.volumes.len() {
                    if self.arrays[a].volumes[v].group % 2 == a {
                        let Some(config) = self.arrays[a].chosen(self.plan.volumes[v].group) else {
                            continue;
                        };
                        self.with_volume(a, v, 0, |core, cx, out| {
                            core.enrol(side(a), &config, true, cx, out)
                        });
                    }
                }
                for g in 0..self.plan.groups {
                    self.tell(a, g, Happened::MembersChanged);
                }
            }
        }
    }

    pub fn start_array(&mut self, a: usize) {
        if self.arrays[a].alive {
            return;
        }
        self.boot_array(a, Life::Restarted);
    }

    fn boot_array(&mut self, a: usize, life: Life) {
        let nonce = BootNonce({
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&self.rng.next_u64().to_le_bytes());
            bytes
        });
        let array = &mut self.arrays[a];
        array.alive = true;
        array.stopping = false;
        array.boot += u32::from(life == Life::Restarted);
        array.boot_counter += 1;
        array.nonce = nonce;
        array.wake_at = u64::MAX;
        array.sessions.clear();
        for v in 0..self.plan.volumes.len() {
            let geometry = geometry(v, self.arrays[a].copies[v].size);
            let map = match DirtyMap::decode(geometry, &self.arrays[a].maps[v].bytes) {
                Ok(map) => map,
                Err(error) => {
                    return self.violate(format!("array {a} cannot read the map of volume {v}: {error}"));
                }
            };
            let mut core = Volume::restore(geometry, limits(), map);
            core.set_promise(self.promise(v));
            self.arrays[a].kept[v].found();
            let member = self.arrays[a].copies[v].member;
            self.arrays[a].volumes.push(VolumeShell {
                core,
                group: self.plan.volumes[v].group,
                member,
                commands: Vec::new(),
                applying: Vec::new(),
                wake_at: u64::MAX,
                writing: None,
            });
        }
        for g in 0..self.plan.groups {
            let shell = if self.arrays[a].absent[g] { None } else { self.read_group(a, g, life) };
            self.arrays[a].groups.push(shell);
            self.enrol_members(a, g, false);
        }
        for g in 0..self.plan.groups {
            self.begin_group(a, g);
        }
        self.connect_later(a, Use::Witness);
        if a == A || life == Life::Restarted {
            self.connect_later(A, Use::Control);
            for lane in 0..self.plan.lanes {
                self.connect_later(A, Use::Lane(lane));
            }
        }
    }

    /// The group as its vote file has it.
    pub fn read_group(&mut self, a: usize, g: usize, life: Life) -> Option<GroupShell> {
        let newest = match VOTES.decode(&self.arrays[a].votes[g].bytes) {
            Ok(newest) => newest,
            Err(error) => {
                self.violate(format!("array {a} cannot read the vote of group {g}: {error}"));
                return None;
            }
        };
        let record = match VoterRecord::decode_body(&newest.body) {
            Ok(record) => record,
            Err(error) => {
                self.violate(format!("array {a}, vote of group {g}: {error}"));
                return None;
            }
        };
        let (slot_sequence, slot) = Slots::next(Some(&newest));
        let seed = self.rng.next_u64();
        let array = &mut self.arrays[a];
        let settings = Settings {
            me: side(a),
            group: group_id(g),
            record,
            life,
            policy: array.objects[g].policy,
            timers: self.plan.timers,
            boot: array.boot_counter,
            nonce: array.nonce,
            memory: array.memory,
            seed,
        };
        let control = Control::new(settings);
        Some(GroupShell { control, writing: None, next: None, slot_sequence, slot, wake_at: u64::MAX })
    }

    /// The volumes of a group that is there are its members.
    pub fn enrol_members(&mut self, a: usize, g: usize, full: bool) {
        let Some(config) = self.arrays[a].chosen(g) else { return };
        for v in 0..self.plan.volumes.len() {
            if self.plan.volumes[v].group == g && self.arrays[a].copies[v].member {
                self.with_volume(a, v, 0, |core, cx, out| core.enrol(side(a), &config, full, cx, out));
            }
        }
    }

    /// The control of a group that was just read begins.
    pub fn begin_group(&mut self, a: usize, g: usize) {
        let now = self.arrays[a].clocks.now(self.now);
        self.reach(a, g, |control, members, out| control.begin(now, members, out));
        let sequence = self.arrays[a].objects[g].state;
        self.tell(a, g, Happened::GroupState { sequence });
    }

    /// What a vote file holds.
    pub fn write_first_vote(&mut self, a: usize, g: usize, config: Config) {
        let mut body = Vec::new();
        VoterRecord::new(config).encode_body(&mut body);
        // A record always fits a slot.
        let bytes = VOTES.encode(1, &body).expect("a vote fits its slot");
        self.arrays[a].votes[g] = crate::disk::File::default();
        self.arrays[a].votes[g].bytes.resize(VOTES.file_len(), 0);
        self.arrays[a].votes[g].bytes[..bytes.len()].copy_from_slice(&bytes);
    }

    /// Nothing is being written of the group's votes.
    pub fn votes_written(&self, a: usize, g: usize) -> bool {
        self.arrays[a].group(g).is_some_and(|group| group.writing.is_none() && group.next.is_none())
    }

    /// The last configuration of the vote file.
    pub fn config_on_disk(&self, a: usize, g: usize) -> Option<Config> {
        let newest = VOTES.decode(&self.arrays[a].votes[g].bytes).ok()?;
        VoterRecord::decode_body(&newest.body).ok()?.chosen
    }

    /// The cut of a group's copy as the register on disk has it.
    pub fn cut_on_disk(&self, a: usize, g: usize) -> Option<u64> {
        let newest = VOTES.decode(&self.arrays[a].votes[g].bytes).ok()?;
        Some(VoterRecord::decode_body(&newest.body).ok()?.cut)
    }

    /// One event for a group's control.
    pub fn tell(&mut self, a: usize, g: usize, event: Happened) {
        let now = self.arrays[a].clocks.now(self.now);
        self.reach(a, g, |control, members, out| control.handle(event, now, members, out));
    }

    pub fn tell_all(&mut self, a: usize, event: &Happened) {
        for g in 0..self.arrays[a].groups.len() {
            self.tell(a, g, event.clone());
        }
    }

    fn reach(
        &mut self,
        a: usize,
        g: usize,
        call: impl FnOnce(&mut Control, &mut dyn Members, &mut Vec<Action>),
    ) {
        let mut out = Vec::new();
        let array = &mut self.arrays[a];
        let now = array.clocks.now(self.now);
        let Some(Some(group)) = array.groups.get_mut(g) else { return };
        let mut reach = Reach {
            volumes: &mut array.volumes,
            group: g,
            now,
            actions: core::mem::take(&mut self.spare_reach),
            spare: self.spare_actions.pop().unwrap_or_default(),
        };
        call(&mut group.control, &mut reach, &mut out);
        let Reach { mut actions, spare, .. } = reach;
        self.spare_actions.push(spare);
        self.observe(a, g);
        for (v, action, gate) in actions.drain(..) {
            let thread = self.rng.below(u64::from(self.plan.lanes)) as u16;
            self.watch.said_under = Some(gate);
            self.carry_out_one(a, v, thread, action);
        }
        self.watch.said_under = None;
        self.spare_reach = actions;
        for v in 0..self.arrays[a].volumes.len() {
            if self.arrays[a].volumes[v].group == g {
                self.volume_timer(a, v);
            }
        }
        let mut batch = Vec::new();
        for action in out {
            self.control_action(a, g, action, &mut batch);
        }
        if let (Some(connection), false) = (self.arrays[a].witness, batch.is_empty()) {
            self.send(connection, a, Message::ToWitness(ToWitness { batch }));
        }
        self.control_timer(a, g);
    }

    /// What an observer sees after a call of the control.
    fn observe(&mut self, a: usize, g: usize) {
        let Some(chosen) = self.arrays[a].chosen(g) else { return };
        self.note_chosen(a, g, &chosen);
        let Some(group) = self.arrays[a].group(g) else { return };
        let vote = group.control.arbiter().record().vote;
        let empty = group.control.gate();
        self.note_vote(a, g, vote);
        let now = self.arrays[a].clocks.now(self.now);
        let gates = self.arrays[a].volumes.iter().filter(|v| v.group == g && v.member).map(|v| v.core.gate());
        let mut seen = None;
        for gate in gates {
            if seen.is_none() || gate.may_answer(now) || gate.may_start(now) {
                seen = Some(gate);
            }
        }
        self.note_gate(a, g, seen.unwrap_or(empty));
    }

    fn control_timer(&mut self, a: usize, g: usize) {
        let array = &mut self.arrays[a];
        let Some(Some(group)) = array.groups.get_mut(g) else { return };
        let at = group.control.next_timeout().map_or(u64::MAX, |t| array.clocks.when_grantor(t));
        group.wake_at = at;
        self.wake(a, at);
    }

    fn control_action(&mut self, a: usize, g: usize, action: Action, batch: &mut Vec<Vote>) {
        if self.trace && !matches!(action, Action::Send { .. }) {
            self.say(|| format!("  {} group {g}: {action:?}", ["A", "B"][a]));
        }
        match action {
            Action::Persist { sequence, record } => {
                let Some(group) = self.arrays[a].group_mut(g) else { return };
                group.next = Some((sequence, record));
                self.write_vote(a, g);
            }
            Action::Send { to: Voter::Witness, connection, message } => {
                if self.arrays[a].witness == Some(connection.0 as ConnectionId) {
                    batch.push(message);
                }
            }
            Action::Send { connection, message, .. } => {
                self.say_to_peer(a, connection, PeerText::Vote(message))
            }
            Action::SendSession { connection, message } => {
                self.say_to_peer(a, connection, PeerText::Session { group: g, message });
            }
            Action::SendGroupState => self.send_group_state(a, g),
            Action::Policy(policy) => {
                self.arrays[a].objects[g].policy = policy;
                self.share_policies(a, g);
            }
            Action::Path(_) | Action::Log { entry: LogEntry::Chosen { .. }, .. } => {}
            Action::Outcome { ticket, result } => self.command_ended(a, ticket, result),
            Action::Log { entry, .. } => self.note_memory_log(a, g, &entry),
            Action::Removed => self.violate("a group was removed".into()),
        }
    }

    pub fn say_to_peer(&mut self, a: usize, connection: Connection, text: PeerText) {
        let connection = connection.0 as ConnectionId;
        if self.arrays[a].control == Some(connection) {
            self.send(connection, a, Message::Peer(text));
        }
    }

    // Votes on disk.

    fn write_vote(&mut self, a: usize, g: usize) {
        let Some(group) = self.arrays[a].group(g) else { return };
        if group.writing.is_some() || group.next.is_none() {
            return;
        }
        let token = self.new_token();
        let Some(group) = self.arrays[a].group_mut(g) else { return };
        let Some((sequence, record)) = group.next.take() else { return };
        let mut body = Vec::with_capacity(256);
        record.encode_body(&mut body);
        let Some(bytes) = VOTES.encode(group.slot_sequence, &body) else {
            return self.violate("a vote does not fit its slot".into());
        };
        let offset = (group.slot * SLOT_UNIT) as u64;
        group.slot_sequence += 1;
        group.slot = 1 - group.slot;
        group.writing = Some((token, sequence));
        self.arrays[a].votes[g].write(token, offset, bytes);
        self.begin_sync(a, token);
    }

    pub fn control_synced(&mut self, a: usize, token: u32) {
        let writes =
            |g: &Option<GroupShell>| g.as_ref().and_then(|g| g.writing).is_some_and(|(t, _)| t == token);
        let Some(g) = self.arrays[a].groups.iter().position(writes) else { return };
        let Some((_, sequence)) = self.arrays[a].group_mut(g).and_then(|group| group.writing.take()) else {
            return;
        };
        self.write_vote(a, g);
        self.tell(a, g, Happened::Persisted { sequence });
    }

    /// A write of `data_dir` that hangs keeps the array from asking for leases.
    pub fn data_dir_stalls(&mut self, a: usize) {
        if !self.arrays[a].stalled && self.arrays[a].metadata_hang_until > self.now {
            self.arrays[a].stalled = true;
            self.tell_all(a, &Happened::DataDir { stalled: true });
        }
    }

    pub fn data_dir_moves(&mut self, a: usize) {
        if self.arrays[a].stalled {
            self.arrays[a].stalled = false;
            self.tell_all(a, &Happened::DataDir { stalled: false });
        }
    }

    // Time.

    pub fn control_poke(&mut self, a: usize) {
        self.tell_all(a, &Happened::Poke);
    }

    pub fn control_tick(&mut self, a: usize) {
        for g in 0..self.arrays[a].groups.len() {
            let Some(at) = self.arrays[a].group(g).map(|group| group.wake_at) else { continue };
            if at <= self.now {
                self.tell(a, g, Happened::Tick);
            } else {
                self.wake(a, at);
            }
        }
        self.heartbeat(a);
    }

    pub fn heartbeat(&mut self, a: usize) {
        let now = self.arrays[a].clocks.now(self.now).grantor;
        let Some(connection) = self.arrays[a].control else { return };
        let Some(liveness) = &mut self.arrays[a].liveness else { return };
        if !liveness.is_alive(now) {
            return self.work(a, Work::Arrived { connection, item: Item::End });
        }
        let ping = liveness.beat(now);
        let next = liveness.next_timeout();
        if let Some(number) = ping {
            self.send(connection, a, Message::Peer(PeerText::Ping(number)));
            if number.is_multiple_of(crate::absent::OFFER_EVERY) {
                self.make_offers(a, connection);
            }
        }
        let at = self.arrays[a].clocks.when_grantor(next);
        self.wake(a, at);
    }

    // Hosts' view, and the operator.

    pub fn active_groups(&self, a: usize) -> u8 {
        let optimized = |g: &usize| {
            let view = self.arrays[a].group(*g).and_then(|group| group.control.view());
            view.is_some_and(|view| view.own == PathState::Optimized)
        };
        (0..self.arrays[a].groups.len()).filter(optimized).fold(0, |mask, g| mask | 1 << g)
    }

    /// The operator's command, there.
    pub fn order_at(&mut self, a: usize, g: usize, command: Command) {
        self.order(a, g, command);
    }

    fn order(&mut self, a: usize, g: usize, command: Command) {
        if self.arrays[a].alive && !self.arrays[a].paused {
            let ticket = u64::from(self.new_token());
            self.tell(a, g, Happened::Command { ticket, command });
        }
    }

    pub fn order_switchover(&mut self, g: usize) {
        let a = self.rng.below(2) as usize;
        self.order(a, g, Command::SwitchOver);
    }

    pub fn order_stop(&mut self, g: usize) {
        let a = self.rng.below(2) as usize;
        self.order(a, g, Command::Stop);
    }

    /// Given where it is not started (as far as that array knows).
    pub fn order_start(&mut self, g: usize) {
        for a in 0..2 {
            if !self.arrays[a].objects[g].policy.started {
                self.order(a, g, Command::Start);
            }
        }
    }

    pub fn order_failover(&mut self, g: usize) {
        for a in 0..2 {
            let secondary = self.arrays[a].chosen(g).is_some_and(|c| c.primary != side(a));
            if secondary {
                self.order(a, g, Command::FailOver);
            }
        }
    }

    /// With a stale copy the operator gives up what was acknowledged: hosts' histories are not judged
    /// from then on.
    pub fn order_override(&mut self, a: usize, g: usize, stale: bool) {
        self.lossy |= stale;
        self.order(a, g, Command::Override { stale });
    }

    pub fn order_discard(&mut self, a: usize, g: usize) {
        self.order(a, g, Command::Discard);
    }

    /// SIGTERM: every group is handed over, then the process ends.
    pub fn stop_array(&mut self, a: usize) {
        if !self.arrays[a].alive || self.arrays[a].paused || self.arrays[a].stopping {
            return;
        }
        self.arrays[a].stopping = true;
        for g in 0..self.plan.groups {
            self.order(a, g, Command::HandOver);
        }
        let patience = self.rng.between(50, 5000) * MS;
        self.at(patience, Step::Crash { array: a, power: false });
        let away = self.rng.between(10, 3000) * MS;
        self.at(patience + away, Step::Start { array: a });
    }
}
