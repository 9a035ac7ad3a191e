//! The multipath driver: keeps a number of commands in flight over two or more paths, learns what
//! each path is good for from its own target port group and from sense data only, tries the other
//! path when one refuses or stays silent, and never writes a block again while an older write to
//! it may still be alive somewhere.

mod figures;
mod paths;
mod work;

use figures::{Check, Phase, millis};

use crate::initiator::{self, Identity, PathState, Pdu, Sent, Session, Status};
use crate::ledger::{Ledger, Wrong};
use crate::stamp::{self, Stream};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// Logical blocks of one stamped block.
const SECTORS: u64 = 8;
/// Wait before a refused command is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(10);
/// Wait between attempts to connect one path.
const CONNECT_DELAY: Duration = Duration::from_millis(100);
/// Between reports asked of a path that is not active/optimized.
const RTPG_EVERY: Duration = Duration::from_millis(100);
/// An abort unanswered for so long costs the path its session. Longer than an array needs to give
/// its peer up, because an abort is confirmed only when the write it names is dead.
const ABORT_TIMEOUT: Duration = Duration::from_secs(3);
/// Commands open on one path, live ones and those given up together.
const PATH_COMMANDS_MAX: usize = 256;
/// Looks at the clock at least so often.
const TICK: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub enum Event {
    Connected {
        path: usize,
        session: Box<Session>,
        identity: Identity,
        state: PathState,
    },
    ConnectFailed {
        path: usize,
        why: String,
    },
    Received {
        path: usize,
        number: u64,
        pdu: Pdu,
    },
    Closed {
        path: usize,
        number: u64,
        why: String,
    },
    Order(String),
    /// Nobody is there any more to give orders.
    Orphaned,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub portals: Vec<SocketAddr>,
    pub initiator: String,
    pub lun: u8,
    pub depth: usize,
    pub span_blocks: usize,
    pub timeout: Duration,
    pub read_percent: u64,
    /// Upper bound of commands per second, all together; 0 for none.
    pub rate: u64,
    pub stream: Stream,
    pub verbose: bool,
}

/// One thing the host wants done, through however many commands it takes.
#[derive(Clone, Copy, Debug)]
struct Task {
    write: bool,
    block: usize,
    seq: u64,
    floor: u64,
    /// Path of the latest attempt, and where the next goes if it failed.
    path: Option<usize>,
    running: bool,
    not_before: Instant,
    checking: bool,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Task(usize),
    /// Given up by its task; its block stays held until this is known to be dead.
    Ghost {
        block: Option<usize>,
    },
    Report,
}

#[derive(Debug)]
struct Command {
    purpose: Purpose,
    sent: Sent,
    deadline: Instant,
    data: Vec<u8>,
    abort: Option<u32>,
}

#[derive(Debug)]
struct Path {
    portal: SocketAddr,
    session: Option<Session>,
    /// Counts sessions: what a reader of an older one says is ignored.
    number: u64,
    connecting: bool,
    connect_after: Instant,
    identity: Option<Identity>,
    state: Option<PathState>,
    commands: HashMap<u32, Command>,
    aborts: HashMap<u32, u32>,
    /// Blocks of commands that were open when the last session broke: dead once the next is in.
    limbo: Vec<usize>,
    report_after: Instant,
    reporting: bool,
    last_error: String,
    served: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Paused,
    Running,
    /// Reading back every block ever written; the next one to look at.
    Checking {
        next: usize,
    },
}

#[derive(Debug)]
pub struct Driver {
    options: Options,
    paths: Vec<Path>,
    tasks: Vec<Option<Task>>,
    ledger: Ledger,
    phase: Phase,
    mode: Mode,
    check: Check,
    random: u64,
    naa: Option<String>,
    events: Sender<Event>,
    started: Instant,
    issued: u64,
    total_stale: u64,
    total_errors: u64,
    total_lost: u64,
    next_start: Instant,
}

impl Driver {
    pub fn new(options: Options, events: Sender<Event>) -> Self {
        let now = Instant::now();
        let paths = options
            .portals
            .iter()
            .map(|&portal| Path {
                portal,
                session: None,
                number: 0,
                connecting: false,
                connect_after: now,
                identity: None,
                state: None,
                commands: HashMap::new(),
                aborts: HashMap::new(),
                limbo: Vec::new(),
                report_after: now,
                reporting: false,
                last_error: String::from("not connected yet"),
                served: 0,
            })
            .collect();
        Self {
            tasks: vec![None; options.depth],
            ledger: Ledger::new(options.span_blocks),
            random: options.stream.run | 1,
            options,
            paths,
            phase: Phase::new("start"),
            mode: Mode::Paused,
            check: Check::default(),
            naa: None,
            events,
            started: now,
            issued: 0,
            total_stale: 0,
            total_errors: 0,
            total_lost: 0,
            next_start: now,
        }
    }

    /// Runs until `quit` or the end of the orders; true if nothing was lost, stale or failed.
    pub fn run(&mut self, events: &Receiver<Event>) -> bool {
        loop {
            let now = Instant::now();
            self.expire(now);
            self.keep_paths(now);
            self.dispatch(now);
            match events.recv_timeout(TICK) {
                Ok(Event::Order(order)) => {
                    if !self.obey(&order) {
                        break;
                    }
                }
                Ok(Event::Orphaned) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // What else is there is taken before the clock is looked at again.
            for event in events.try_iter().take(64) {
                match event {
                    Event::Order(order) => {
                        if !self.obey(&order) {
                            return self.clean();
                        }
                    }
                    Event::Orphaned => return self.clean(),
                    event => self.take(event),
                }
            }
        }
        self.clean()
    }

    fn clean(&self) -> bool {
        for path in &self.paths {
            if let Some(session) = &path.session {
                session.shut();
            }
        }
        self.total_lost == 0 && self.total_stale == 0 && self.total_errors == 0
    }

    fn say(&self, mut value: Value) {
        value["at_ms"] = json!(millis(self.started.elapsed()));
        println!("{value}");
    }

    fn note(&self, text: impl FnOnce() -> String) {
        if self.options.verbose {
            eprintln!("{:>8} ms  {}", millis(self.started.elapsed()), text());
        }
    }

    fn obey(&mut self, order: &str) -> bool {
        let (verb, argument) = order.trim().split_once(' ').unwrap_or((order.trim(), ""));
        match verb {
            "" => {}
            "run" | "resume" => {
                self.mode = Mode::Running;
                self.phase.last_done = Instant::now();
            }
            "pause" => self.mode = Mode::Paused,
            "phase" => {
                self.say(self.phase.report(Instant::now(), self.mode == Mode::Paused));
                self.phase = Phase::new(argument);
            }
            "verify" => {
                self.check = Check { served_before: self.paths.iter().map(|p| p.served).collect(), ..Check::default() };
                self.mode = Mode::Checking { next: 0 };
                self.phase.last_done = Instant::now();
            }
            "status" => self.say(self.status()),
            "quit" => {
                self.say(self.phase.report(Instant::now(), self.mode == Mode::Paused));
                self.say(self.status());
                return false;
            }
            other => self.say(json!({ "event": "error", "error": format!("unknown order {other:?}; known: run, pause, phase NAME, verify, status, quit") })),
        }
        true
    }

    fn status(&self) -> Value {
        let paths: Vec<_> = self
            .paths
            .iter()
            .map(|path| {
                json!({
                    "portal": path.portal.to_string(), "up": path.session.is_some(), "state": path.state.map(|s| format!("{s:?}")),
                    "port_group": path.identity.as_ref().map(|i| i.port_group), "served": path.served, "last_error": path.last_error,
                })
            })
            .collect();
        json!({
            "event": "status", "naa": self.naa, "paths": paths, "acknowledged": self.ledger.acknowledged, "issued": self.issued,
            "lost": self.total_lost, "stale": self.total_stale, "io_errors": self.total_errors,
            "idle": self.tasks.iter().all(Option::is_none),
        })
    }

    // --- events ------------------------------------------------------------------------------

    fn take(&mut self, event: Event) {
        match event {
            Event::Connected { path, session, identity, state } => {
                self.connected(path, *session, identity, state)
            }
            Event::ConnectFailed { path, why } => {
                let entry = &mut self.paths[path];
                entry.connecting = false;
                entry.connect_after = Instant::now() + CONNECT_DELAY;
                if entry.last_error != why {
                    entry.last_error = why;
                    self.note(|| format!("path {path}: {}", self.paths[path].last_error));
                }
            }
            Event::Closed { path, number, why } if self.paths[path].number == number => {
                self.drop_session(path, &why)
            }
            Event::Received { path, number, pdu } if self.paths[path].number == number => {
                self.received(path, pdu)
            }
            _ => {}
        }
    }

    fn received(&mut self, index: usize, pdu: Pdu) {
        let Some(session) = self.paths[index].session.as_mut() else { return };
        session.note(&pdu);
        match pdu.opcode() {
            initiator::OP_DATA_IN => {
                let offset = usize::try_from(pdu.word(40)).unwrap_or(usize::MAX);
                if let Some(command) = self.paths[index].commands.get_mut(&pdu.task_tag()) {
                    let end = offset.saturating_add(pdu.data.len());
                    if end <= 1 << 20 {
                        command.data.resize(command.data.len().max(end), 0);
                        command.data[offset..end].copy_from_slice(&pdu.data);
                    }
                }
                if pdu.header[1] & 1 != 0 {
                    self.ended(index, pdu.task_tag(), Status::parse(pdu.header[3], &[]));
                }
            }
            initiator::OP_SCSI_RESPONSE => {
                self.ended(index, pdu.task_tag(), Status::parse(pdu.header[3], &pdu.data))
            }
            initiator::OP_TASK_RESPONSE => self.aborted(index, pdu.task_tag(), pdu.header[2]),
            initiator::OP_R2T => {
                let path = &mut self.paths[index];
                let (Some(session), Some(command)) =
                    (path.session.as_mut(), path.commands.get(&pdu.task_tag()))
                else {
                    return;
                };
                if let Err(error) = session.answer_r2t(&pdu, &command.data) {
                    self.drop_session(index, &error.to_string());
                }
            }
            initiator::OP_NOP_IN => {
                if let Err(error) = session.answer_ping(&pdu) {
                    self.drop_session(index, &error.to_string());
                }
            }
            initiator::OP_ASYNC => self.drop_session(index, "the target asked for a logout"),
            initiator::OP_REJECT => self.drop_session(index, "the target rejected a PDU"),
            _ => {}
        }
    }

    /// A command is answered: whatever else, it is dead.
    fn ended(&mut self, index: usize, tag: u32, status: Status) {
        let Some(command) = self.paths[index].commands.remove(&tag) else { return };
        if let Some(abort) = command.abort {
            self.paths[index].aborts.remove(&abort);
        }
        let now = Instant::now();
        match command.purpose {
            Purpose::Report => self.report_ended(index, status, &command.data, now),
            Purpose::Ghost { block } => {
                if let Some(block) = block {
                    self.ledger.release(block);
                }
                self.learn(index, status, now);
            }
            Purpose::Task(slot) => self.task_ended(index, slot, status, &command.data, now),
        }
    }

    fn report_ended(&mut self, index: usize, status: Status, data: &[u8], now: Instant) {
        self.paths[index].reporting = false;
        if status != Status::GOOD
            && self.paths[index].identity.as_ref().is_some_and(|i| i.port_group.is_some())
        {
            self.paths[index].report_after = now + RETRY_DELAY;
            return;
        }
        let group = self.paths[index].identity.as_ref().and_then(|identity| identity.port_group);
        match group.map(|group| initiator::parse_port_groups(data, group)) {
            Some(Some(state)) => self.set_state(index, state),
            Some(None) => {}
            None => self.set_state(index, PathState::Optimized),
        }
    }

    /// What a status says of the path itself; true if the command is to be tried again.
    fn learn(&mut self, index: usize, status: Status, now: Instant) -> bool {
        match (status.status, status.key, status.asc, status.ascq) {
            (0x08 | 0x28, ..) => true,
            (2, 6, 0x2a, 0x06) => {
                // Asymmetric access state changed: ask what it is now.
                self.ask_report(index, now);
                true
            }
            (2, 6 | 0xb, ..) => true,
            (2, 2, 4, 0x0a) => {
                self.set_state(index, PathState::Transitioning);
                true
            }
            (2, 2, 4, 0x0b) => {
                self.set_state(index, PathState::Standby);
                true
            }
            (2, 2, ..) => {
                self.set_state(index, PathState::Unavailable);
                true
            }
            _ => false,
        }
    }

    fn task_ended(&mut self, index: usize, slot: usize, status: Status, data: &[u8], now: Instant) {
        let Some(mut task) = self.tasks[slot].take() else { return };
        task.running = false;
        if status != Status::GOOD {
            if self.learn(index, status, now) {
                let attention = status.key == 6;
                task.not_before = if attention { now } else { now + RETRY_DELAY };
                if attention {
                    task.path = None;
                }
                self.phase.retries += 1;
                self.tasks[slot] = Some(task);
                return;
            }
            self.say(json!({ "event": "io_error", "portal": self.paths[index].portal.to_string(), "write": task.write, "block": task.block, "status": status.to_string() }));
            self.phase.io_errors += 1;
            self.total_errors += 1;
            self.ledger.release(task.block);
            return;
        }
        self.paths[index].served += 1;
        // A path that serves is active, whatever it said last.
        self.set_state(index, PathState::Optimized);
        self.phase.gap = self.phase.gap.max(now - self.phase.last_done);
        self.phase.last_done = now;
        self.ledger.release(task.block);
        if task.write {
            self.phase.writes += 1;
            self.ledger.acknowledge(task.block, task.seq);
            return;
        }
        self.phase.reads += 1;
        let found = stamp::read(data, self.options.stream, task.block as u64);
        let verdict = if data.len() == stamp::BLOCK {
            self.ledger.judge(task.block, task.floor, found)
        } else {
            Err(Wrong::Foreign)
        };
        let checking = task.checking;
        self.check.checked += u64::from(checking);
        if let Err(wrong) = verdict {
            let finding = json!({ "event": "wrong", "block": task.block, "portal": self.paths[index].portal.to_string(), "wrong": format!("{wrong:?}"),
                "found": format!("{found:?}"), "expected_at_least": task.floor, "while": if checking { "verify" } else { "running" } });
            self.say(finding.clone());
            if checking {
                match wrong {
                    Wrong::Older => self.check.lost += 1,
                    Wrong::Foreign => self.check.foreign += 1,
                }
                self.total_lost += 1;
                if self.check.first_wrong.len() < 8 {
                    self.check.first_wrong.push(finding);
                }
                self.ledger.forgive(task.block);
            } else {
                self.phase.stale += 1;
                self.total_stale += 1;
            }
        }
    }

    fn aborted(&mut self, index: usize, tag: u32, response: u8) {
        let Some(victim) = self.paths[index].aborts.remove(&tag) else { return };
        // 0: function complete; 1: no such task, which on one connection means that its answer
        // came first or that it never arrived. Anything else leaves its fate open.
        if response > 1 {
            self.drop_session(index, &format!("abort refused, response {response}"));
            return;
        }
        if let Some(Command { purpose: Purpose::Ghost { block: Some(block) }, .. }) =
            self.paths[index].commands.remove(&victim)
        {
            self.ledger.release(block);
        }
    }

    // --- time --------------------------------------------------------------------------------

    /// Gives up commands that are past their time: aborted on their path, tried on the next.
    fn expire(&mut self, now: Instant) {
        for index in 0..self.paths.len() {
            let late: Vec<u32> = self.paths[index]
                .commands
                .iter()
                .filter(|(_, c)| now >= c.deadline)
                .map(|(tag, _)| *tag)
                .collect();
            for tag in late {
                let Some(command) = self.paths[index].commands.get(&tag) else { continue };
                if command.abort.is_some() {
                    self.drop_session(index, "an abort is not answered");
                    break;
                }
                self.give_up(index, tag, now);
            }
        }
    }

    fn give_up(&mut self, index: usize, tag: u32, now: Instant) {
        let path = &mut self.paths[index];
        let Some(command) = path.commands.get_mut(&tag) else { return };
        match command.purpose {
            Purpose::Task(slot) => {
                let mut block = None;
                if let Some(task) = self.tasks[slot].as_mut() {
                    task.running = false;
                    task.not_before = now;
                    block = task.write.then_some(task.block);
                }
                if let Some(block) = block {
                    self.ledger.hold(block);
                }
                command.purpose = Purpose::Ghost { block };
                self.phase.retries += 1;
            }
            Purpose::Report => {
                path.reporting = false;
                command.purpose = Purpose::Ghost { block: None };
            }
            Purpose::Ghost { .. } => {}
        }
        // What it is good for is open until it answers the next report.
        path.state = None;
        command.deadline = now + ABORT_TIMEOUT;
        let Some(session) = path.session.as_mut() else { return };
        match session.abort(command.sent) {
            Ok(abort) => {
                command.abort = Some(abort);
                path.aborts.insert(abort, tag);
            }
            Err(error) => self.drop_session(index, &error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
