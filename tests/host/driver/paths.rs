//! The paths of the driver: connecting, learning what each is good for, losing one.

use super::{
    CONNECT_DELAY, Command, Driver, Event, Options, PATH_COMMANDS_MAX, Purpose, RTPG_EVERY, SECTORS,
};
use crate::initiator::{self, Identity, PathState, RTPG, RTPG_ALLOCATION, Session};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

impl Driver {
    pub(super) fn keep_paths(&mut self, now: Instant) {
        for index in 0..self.paths.len() {
            let path = &mut self.paths[index];
            if path.session.is_none() && !path.connecting && now >= path.connect_after {
                path.connecting = true;
                connect(index, path.portal, &self.options, self.events.clone());
            }
            let path = &self.paths[index];
            let wants_report = path.session.is_some() && path.state != Some(PathState::Optimized);
            if wants_report && !path.reporting && now >= path.report_after {
                self.ask_report(index, now);
            }
        }
    }

    pub(super) fn ask_report(&mut self, index: usize, now: Instant) {
        let deadline = now + self.options.timeout;
        let path = &mut self.paths[index];
        if path.reporting || path.commands.len() >= PATH_COMMANDS_MAX {
            return;
        }
        let Some(session) = path.session.as_mut().filter(|s| s.window_open()) else { return };
        match session.read(&RTPG, RTPG_ALLOCATION) {
            Ok(sent) => {
                path.reporting = true;
                path.report_after = now + RTPG_EVERY;
                path.commands.insert(
                    sent.tag,
                    Command { purpose: Purpose::Report, sent, deadline, data: Vec::new(), abort: None },
                );
            }
            Err(error) => self.drop_session(index, &error.to_string()),
        }
    }

    pub(super) fn set_state(&mut self, index: usize, state: PathState) {
        if self.paths[index].state != Some(state) {
            self.paths[index].state = Some(state);
            self.note(|| format!("path {index} is {state:?}"));
        }
    }

    pub(super) fn drop_session(&mut self, index: usize, why: &str) {
        let now = Instant::now();
        let path = &mut self.paths[index];
        let Some(session) = path.session.take() else { return };
        session.shut();
        path.number += 1;
        path.state = None;
        path.reporting = false;
        path.connect_after = now + CONNECT_DELAY;
        path.last_error = why.to_owned();
        path.aborts.clear();
        let mut again = Vec::new();
        for (_, command) in path.commands.drain() {
            match command.purpose {
                Purpose::Task(slot) => again.push(slot),
                Purpose::Ghost { block } => path.limbo.extend(block),
                Purpose::Report => {}
            }
        }
        for slot in again {
            if let Some(task) = self.tasks[slot].as_mut() {
                // Its fate is open until this path is logged in again.
                if task.write {
                    self.ledger.hold(task.block);
                    self.paths[index].limbo.push(task.block);
                }
                task.running = false;
                task.not_before = now;
                self.phase.retries += 1;
            }
        }
        self.note(|| format!("path {index} is down: {why}"));
    }

    pub(super) fn connected(&mut self, index: usize, session: Session, identity: Identity, state: PathState) {
        if let Some(naa) = self.naa.as_ref().filter(|naa| **naa != identity.naa) {
            self.say(json!({ "event": "error", "error": format!("{} shows LUN {}, another path shows {naa}: not one LUN", self.paths[index].portal, identity.naa) }));
            self.paths[index].connecting = false;
            self.paths[index].connect_after = Instant::now() + Duration::from_secs(1);
            return;
        }
        self.naa = Some(identity.naa.clone());
        let path = &mut self.paths[index];
        path.connecting = false;
        path.number += 1;
        path.report_after = Instant::now() + RTPG_EVERY;
        // Rule 9: nothing of the session that this one replaced is alive.
        for block in path.limbo.drain(..) {
            self.ledger.release(block);
        }
        let number = path.number;
        let events = self.events.clone();
        match session.reader() {
            Ok(mut reader) => {
                std::thread::spawn(move || {
                    loop {
                        let event = match initiator::read_pdu(&mut reader) {
                            Ok(pdu) => Event::Received { path: index, number, pdu },
                            Err(error) => Event::Closed { path: index, number, why: error.to_string() },
                        };
                        let last = matches!(event, Event::Closed { .. });
                        if events.send(event).is_err() || last {
                            return;
                        }
                    }
                });
            }
            Err(error) => {
                path.last_error = error.to_string();
                return;
            }
        }
        path.session = Some(session);
        path.last_error.clear();
        let group = identity.port_group;
        let capacity = identity.blocks;
        path.identity = Some(identity);
        self.note(|| format!("path {index} is up, port group {group:?}"));
        if capacity < self.options.span_blocks as u64 * SECTORS {
            self.say(json!({ "event": "error", "error": format!("the LUN has {capacity} blocks, fewer than the span asked for") }));
        }
        self.set_state(index, state);
    }
}

/// Connects one path in a thread of its own; the outcome comes as an event.
fn connect(index: usize, portal: SocketAddr, options: &Options, events: Sender<Event>) {
    let initiator = options.initiator.clone();
    let lun = options.lun;
    std::thread::spawn(move || {
        // One ISID per path, the same at every attempt.
        let isid = u8::try_from(index + 1).unwrap_or(u8::MAX);
        let outcome = initiator::discover(portal, &initiator)
            .and_then(|target| Session::open(portal, &initiator, &target, isid, lun));
        let event = match outcome {
            Ok((session, identity, state)) => {
                Event::Connected { path: index, session: Box::new(session), identity, state }
            }
            Err(error) => Event::ConnectFailed { path: index, why: error.to_string() },
        };
        // The driver may be gone by now.
        let _ = events.send(event);
    });
}
