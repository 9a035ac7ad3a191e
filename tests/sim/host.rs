//! Hosts with two paths each: they choose a path by what the arrays answer, abort what takes too
//! long, wait for the abort's confirmation or give the path up (a new session reinstates it), and
//! try again on the other path. Every attempt writes a stamp of its own; what is known of an
//! attempt's fate goes to the checker.

use twinlun::block::{Extent, Op, Outcome, Request};

use crate::checker::Anomaly;
use crate::layout::{Payload, Stamp, span};
use crate::network::{ConnectionId, FIRST_HOST, Process, Use};
use crate::world::{Event, Message, World};

pub const MS: u64 = 1_000_000;

/// What a host says to an array.
#[derive(Clone, Copy, Debug)]
pub enum HostMessage {
    Command {
        tag: Stamp,
        volume: u8,
        request: Request,
        payload: Payload,
        expected: Payload,
    },
    Abort {
        tag: Stamp,
    },
    /// First on a new connection; ends whatever an older session of this host has running.
    Login,
    /// REPORT TARGET PORT GROUPS.
    Poll,
}

/// What an array says to a host.
#[derive(Clone, Copy, Debug)]
pub enum ArrayMessage {
    /// Status of a command. `payload`: what a read (or a failed compare) found.
    Done {
        tag: Stamp,
        outcome: Outcome,
        payload: Payload,
    },
    /// ABORT TASK: function complete.
    AbortComplete {
        tag: Stamp,
    },
    LoggedIn,
    /// For each group: this path is active/optimized.
    Active {
        groups: u8,
        /// Of each volume that is served here, in regions.
        sizes: [u8; 4],
    },
}

/// One way to an array.
#[derive(Clone, Debug, Default)]
pub struct Path {
    pub connection: Option<ConnectionId>,
    ready: bool,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    stamp: Stamp,
    side: usize,
    started: u64,
    /// Its fate is known (answered, or its abort confirmed).
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between operations.
    Thinking,
    /// No attempt is under way; the timer starts the next.
    Waiting,
    Sent,
    Aborting,
}

#[derive(Clone, Debug)]
struct Slot {
    /// Timers of an older state are ignored.
    serial: u32,
    state: State,
    volume: u8,
    request: Request,
    expected: Payload,
    attempts: Vec<Attempt>,
}

/// How a host behaves, drawn for each seed.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub slots: usize,
    pub think_max: u64,
    pub command_timeout: u64,
    pub abort_timeout: u64,
    pub poll: u64,
}

#[derive(Clone, Debug)]
pub struct Host {
    pub process: Process,
    habits: Habits,
    pub paths: [Path; 2],
    /// For each group the side tried first.
    preferred: Vec<usize>,
    slots: Vec<Slot>,
    /// What this host believes a block holds, for COMPARE AND WRITE.
    known: Vec<Vec<Stamp>>,
    /// Sizes of the volumes, in regions, as arrays that serve them told.
    sizes: Vec<u8>,
    /// Operations that ended well.
    pub completed: u64,
    /// When the last one did, for each group.
    pub last_completed: Vec<u64>,
}

impl Host {
    pub fn new(process: Process, habits: Habits, groups: usize, volumes: usize, blocks: usize) -> Self {
        let slot = Slot {
            serial: 0,
            state: State::Thinking,
            volume: 0,
            request: Request { op: Op::Read, extent: Extent::new(0, 1) },
            expected: Payload::default(),
            attempts: Vec::new(),
        };
        Self {
            process,
            habits,
            paths: [Path::default(), Path::default()],
            preferred: (0..groups).map(|g| g % 2).collect(),
            slots: vec![slot; habits.slots],
            known: vec![vec![0; blocks]; volumes],
            sizes: vec![0; volumes],
            completed: 0,
            last_completed: vec![0; groups],
        }
    }

    /// Start of the oldest attempt whose answer may still come.
    pub fn oldest_start(&self) -> u64 {
        let running = self.slots.iter().filter(|s| matches!(s.state, State::Sent | State::Aborting));
        running.filter_map(|s| s.attempts.last()).map(|a| a.started).min().unwrap_or(u64::MAX)
    }

    pub fn idle(&self) -> bool {
        self.slots.iter().all(|s| s.state == State::Thinking)
    }

    pub fn pending(&self) -> String {
        let mut text = String::new();
        for slot in self.slots.iter().filter(|s| s.state != State::Thinking) {
            text.push_str(&format!(
                "host {} volume {} {:?} {:?} attempts {:?}; ",
                self.process, slot.volume, slot.request, slot.state, slot.attempts
            ));
        }
        text
    }
}

impl World {
    pub fn hosts_begin(&mut self) {
        for h in 0..self.hosts.len() {
            for side in 0..2 {
                self.queue.push(self.now + MS, Event::HostConnect { host: h as u8, side: side as u8 });
            }
            for slot in 0..self.hosts[h].slots.len() {
                self.host_think(h, slot);
            }
            let poll = self.hosts[h].habits.poll;
            self.queue.push(self.now + poll, Event::HostPoll { host: h as u8 });
        }
    }

    fn host_timer_in(&mut self, h: usize, slot: usize, after: u64) {
        let s = &mut self.hosts[h].slots[slot];
        s.serial += 1;
        let event = Event::HostTimer { host: h as u8, slot: slot as u8, serial: s.serial };
        self.queue.push(self.now + after, event);
    }

    fn host_think(&mut self, h: usize, slot: usize) {
        self.hosts[h].slots[slot].state = State::Thinking;
        self.hosts[h].slots[slot].attempts.clear();
        let think = self.rng.below(self.hosts[h].habits.think_max) + 1;
        self.host_timer_in(h, slot, think);
    }

    fn host_wait(&mut self, h: usize, slot: usize, after: u64) {
        self.hosts[h].slots[slot].state = State::Waiting;
        self.host_timer_in(h, slot, after);
    }

    pub fn host_timer(&mut self, h: usize, slot: usize, serial: u32) {
        if self.hosts[h].slots[slot].serial != serial {
            return;
        }
        match self.hosts[h].slots[slot].state {
            State::Thinking => {
                if self.hosts_may_begin() {
                    self.host_choose(h, slot);
                    self.host_attempt(h, slot);
                } else if !self.hosts_finish() {
                    self.host_think(h, slot);
                }
            }
            State::Waiting => self.host_attempt(h, slot),
            State::Sent => self.host_abort(h, slot),
            State::Aborting => {
                // The abort was not confirmed either: the path is given up.
                let Some(side) = self.hosts[h].slots[slot].attempts.last().map(|a| a.side) else { return };
                self.host_give_up(h, side);
            }
        }
    }

    fn host_choose(&mut self, h: usize, slot: usize) {
        let volume = self.rng.below(self.plan.volumes.len() as u64) as u8;
        let mut extent = self.rng.pick(&self.extents);
        let size = u64::from(self.hosts[h].sizes[usize::from(volume)]);
        if size > self.plan.regions && self.operator.chance.per_mille(300) {
            let grown = self.operator.chance.pick(&self.grown);
            if grown.end() <= size * twinlun::mirror::REGION_BLOCKS {
                extent = grown;
            }
        }
        let flush = self.host_flushes(usize::from(volume));
        let op = match self.rng.below(100) {
            _ if flush => Op::Flush,
            0..=34 => Op::Read,
            35..=79 => Op::Write,
            80..=89 if extent.blocks <= 2 => Op::CompareAndWrite,
            90..=93 => Op::WriteZeroes,
            94..=97 => Op::Unmap,
            _ => Op::WriteSame,
        };
        let mut expected = Payload { span: span(extent), ..Payload::default() };
        let host = &mut self.hosts[h];
        for (i, index) in expected.span.range().enumerate() {
            expected.stamps[i] = host.known[usize::from(volume)][index];
        }
        let s = &mut host.slots[slot];
        s.volume = volume;
        s.request = Request { op, extent };
        s.expected = expected;
        s.attempts.clear();
    }

    /// Sends the slot's operation on the best path, or waits for one.
    fn host_attempt(&mut self, h: usize, slot: usize) {
        let group = self.plan.volumes[usize::from(self.hosts[h].slots[slot].volume)].group;
        let host = &mut self.hosts[h];
        let first = host.preferred[group];
        let side = if host.paths[first].ready { first } else { 1 - first };
        let (Some(connection), true) = (host.paths[side].connection, host.paths[side].ready) else {
            self.host_wait(h, slot, 100 * MS);
            return;
        };
        let stamp = self.new_stamp();
        let now = self.now;
        self.watch.attempt_started(stamp, now);
        let process = self.hosts[h].process;
        let s = &mut self.hosts[h].slots[slot];
        let (volume, request, expected) = (s.volume, s.request, s.expected);
        s.attempts.push(Attempt { stamp, side, started: now, over: false });
        s.state = State::Sent;
        let payload = Payload::uniform(expected.span, stamp);
        if request.op.writes() {
            for index in expected.span.range() {
                self.registers[usize::from(volume)][index].write_begins(stamp, now);
            }
        }
        let timeout = self.hosts[h].habits.command_timeout;
        self.host_timer_in(h, slot, timeout);
        let message = HostMessage::Command { tag: stamp, volume, request, payload, expected };
        self.send(connection, process, Message::Host(message));
    }

    fn host_abort(&mut self, h: usize, slot: usize) {
        let Some(attempt) = self.hosts[h].slots[slot].attempts.last().copied() else { return };
        self.hosts[h].slots[slot].state = State::Aborting;
        let timeout = self.hosts[h].habits.abort_timeout;
        self.host_timer_in(h, slot, timeout);
        if let Some(connection) = self.hosts[h].paths[attempt.side].connection {
            let process = self.hosts[h].process;
            self.send(connection, process, Message::Host(HostMessage::Abort { tag: attempt.stamp }));
        }
    }

    /// The path's session is over for this host; it does not know what became of its commands.
    pub fn host_give_up(&mut self, h: usize, side: usize) {
        let process = self.hosts[h].process;
        let path = &mut self.hosts[h].paths[side];
        path.ready = false;
        if let Some(connection) = path.connection.take() {
            self.network.abandon(connection, process, self.now, &mut self.rng);
        }
        self.queue.push(self.now + 50 * MS, Event::HostConnect { host: h as u8, side: side as u8 });
        for slot in 0..self.hosts[h].slots.len() {
            let s = &self.hosts[h].slots[slot];
            let on_path = s.attempts.last().is_some_and(|a| a.side == side);
            if on_path && matches!(s.state, State::Sent | State::Aborting) {
                self.host_wait(h, slot, MS);
            }
        }
    }

    pub fn host_connect(&mut self, h: usize, side: usize) {
        if self.hosts[h].paths[side].connection.is_some() {
            return;
        }
        let process = self.hosts[h].process;
        if !self.can_connect(process, side, Use::Host) {
            self.queue.push(self.now + 200 * MS, Event::HostConnect { host: h as u8, side: side as u8 });
            return;
        }
        let connection = self.network.open(process, side, Use::Host, self.now);
        self.hosts[h].paths[side] = Path { connection: Some(connection), ready: false };
        self.send(connection, process, Message::Host(HostMessage::Login));
        self.queue.push(
            self.now + self.hosts[h].habits.abort_timeout * 3,
            Event::HostLoginTimeout { host: h as u8, side: side as u8, connection },
        );
    }

    pub fn host_login_timeout(&mut self, h: usize, side: usize, connection: ConnectionId) {
        let path = &self.hosts[h].paths[side];
        if path.connection == Some(connection) && !path.ready {
            self.host_give_up(h, side);
        }
    }

    pub fn host_poll(&mut self, h: usize) {
        let process = self.hosts[h].process;
        for side in 0..2 {
            let path = &self.hosts[h].paths[side];
            if let (Some(connection), true) = (path.connection, path.ready) {
                self.send(connection, process, Message::Host(HostMessage::Poll));
            }
        }
        let poll = self.hosts[h].habits.poll;
        self.queue.push(self.now + poll, Event::HostPoll { host: h as u8 });
    }

    pub fn host_connection_ended(&mut self, process: Process, connection: ConnectionId) {
        let h = process - FIRST_HOST;
        for side in 0..2 {
            if self.hosts[h].paths[side].connection == Some(connection) {
                self.host_give_up(h, side);
            }
        }
    }

    pub fn host_receive(&mut self, process: Process, connection: ConnectionId, message: ArrayMessage) {
        let h = process - FIRST_HOST;
        let Some(side) = (0..2).find(|&side| self.hosts[h].paths[side].connection == Some(connection)) else {
            return;
        };
        match message {
            ArrayMessage::LoggedIn => {
                self.hosts[h].paths[side].ready = true;
                // Reinstatement is complete: nothing of the older session takes effect any more.
                for slot in 0..self.hosts[h].slots.len() {
                    self.host_settle(h, slot, |a| a.side == side);
                }
            }
            ArrayMessage::Active { groups, sizes } => {
                for (v, size) in sizes.into_iter().enumerate().take(self.plan.volumes.len()) {
                    let known = &mut self.hosts[h].sizes[v];
                    *known = (*known).max(size);
                }
                for group in 0..self.hosts[h].preferred.len() {
                    if groups & (1 << group) != 0 {
                        self.hosts[h].preferred[group] = side;
                    }
                }
            }
            ArrayMessage::AbortComplete { tag } => {
                for slot in 0..self.hosts[h].slots.len() {
                    let s = &self.hosts[h].slots[slot];
                    if s.state == State::Aborting && s.attempts.last().is_some_and(|a| a.stamp == tag) {
                        self.host_settle(h, slot, |a| a.stamp == tag);
                        let group = self.plan.volumes[usize::from(self.hosts[h].slots[slot].volume)].group;
                        self.hosts[h].preferred[group] = 1 - side;
                        self.host_wait(h, slot, MS);
                    }
                }
            }
            ArrayMessage::Done { tag, outcome, payload } => self.host_done(h, tag, outcome, payload),
        }
    }

    /// Attempts that `which` names are certainly over: their writes take effect by now or never.
    fn host_settle(&mut self, h: usize, slot: usize, which: impl Fn(&Attempt) -> bool) {
        let now = self.now;
        let s = &mut self.hosts[h].slots[slot];
        let current = matches!(s.state, State::Sent).then(|| s.attempts.len() - 1);
        for (i, attempt) in s.attempts.iter_mut().enumerate() {
            if !attempt.over && which(attempt) && current != Some(i) {
                attempt.over = true;
                if s.request.op.writes() {
                    for index in s.expected.span.range() {
                        self.registers[usize::from(s.volume)][index].write_deadline(attempt.stamp, now);
                    }
                }
            }
        }
    }

    fn host_done(&mut self, h: usize, tag: Stamp, outcome: Outcome, payload: Payload) {
        let found = self.hosts[h].slots.iter().position(|s| {
            matches!(s.state, State::Sent | State::Aborting)
                && s.attempts.last().is_some_and(|a| a.stamp == tag)
        });
        let Some(slot) = found else { return };
        let s = &self.hosts[h].slots[slot];
        let Some(&attempt) = s.attempts.last() else { return };
        let (volume, request, expected) = (usize::from(s.volume), s.request, s.expected);
        let now = self.now;
        let mut verdict: Result<(), Anomaly> = Ok(());
        match (outcome, request.op) {
            _ if !self.is_judged(volume, attempt.started) => {}
            (Outcome::Good, Op::Flush) => self.note_flushed(volume, attempt.started),
            (Outcome::Good, Op::Read) => {
                for (index, stamp) in payload.iter() {
                    verdict =
                        verdict.and(self.registers[volume][index].read_ends(stamp, attempt.started, now));
                    self.hosts[h].known[volume][index] = stamp;
                }
            }
            (Outcome::Good, Op::CompareAndWrite) => {
                for (index, seen) in expected.iter() {
                    let register = &mut self.registers[volume][index];
                    verdict = verdict.and(register.swap_ends(tag, seen, attempt.started, now));
                    self.hosts[h].known[volume][index] = tag;
                }
            }
            (Outcome::Good, _) => {
                for index in expected.span.range() {
                    verdict = verdict.and(self.registers[volume][index].write_ends(tag, now));
                    self.hosts[h].known[volume][index] = tag;
                }
            }
            (Outcome::Miscompare { .. }, _) => {
                for (index, stamp) in payload.iter() {
                    verdict =
                        verdict.and(self.registers[volume][index].read_ends(stamp, attempt.started, now));
                    self.hosts[h].known[volume][index] = stamp;
                    self.registers[volume][index].write_dead(tag);
                }
            }
            _ => {
                // Refused, busy or failed: again, elsewhere if it was a refusal. An error is final: the
                // write was made or not, on both copies (rule 17).
                if matches!(outcome, Outcome::WriteError | Outcome::NoSpace | Outcome::ReadError) {
                    self.hosts[h].slots[slot].state = State::Waiting;
                    self.host_settle(h, slot, |attempt| attempt.stamp == tag);
                }
                let group = self.plan.volumes[volume].group;
                if matches!(outcome, Outcome::Refused(_)) {
                    let other = 1 - attempt.side;
                    if self.hosts[h].paths[other].ready {
                        self.hosts[h].preferred[group] = other;
                    }
                }
                let after = self.rng.between(10, 150) * MS;
                self.host_wait(h, slot, after);
                return;
            }
        }
        if let Err(Anomaly(text)) = verdict
            && !self.lossy
        {
            self.violate(format!(
                "volume {volume} {:?}: {text} (host {h}, tag {tag}, array {})",
                request.extent, attempt.side
            ));
        }
        if let Some(last) = self.hosts[h].slots[slot].attempts.last_mut() {
            last.over = true;
        }
        self.hosts[h].slots[slot].state = State::Thinking;
        // Answered: whatever was tried before is dead (rules 6, 9, 10).
        self.host_settle(h, slot, |_| true);
        let group = self.plan.volumes[volume].group;
        self.hosts[h].completed += 1;
        self.hosts[h].last_completed[group] = now;
        for index in expected.span.range() {
            if self.registers[volume][index].crowded() {
                let oldest = self.keep_from(volume, self.oldest_start());
                self.registers[volume][index].prune(oldest);
            }
        }
        self.host_think(h, slot);
    }
}
