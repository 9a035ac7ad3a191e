//! The front end of an array, as far as its duties to hosts go: sessions, commands, aborts, and
//! reinstatement that completes only when the older session's commands have ended (rule 9).

use twinlun::block::{Outcome, Refusal, Request};

use twinlun::mirror::{CommandId, REGION_BLOCKS};

use crate::host::{ArrayMessage, HostMessage};
use crate::layout::{Payload, Stamp, span};
use crate::network::{ConnectionId, Process};
use crate::volumes::Command;
use crate::world::{Message, World};

/// A host's session at an array.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub host: Process,
    pub connection: ConnectionId,
    pub ready: bool,
}

impl World {
    pub fn host_message(&mut self, a: usize, connection: ConnectionId, message: HostMessage) {
        match message {
            HostMessage::Login => self.login(a, connection),
            HostMessage::Poll => {
                let groups = self.active_groups(a);
                let mut sizes = [0; 4];
                let now = self.arrays[a].clocks.now(self.now);
                for (v, size) in sizes.iter_mut().enumerate().take(self.arrays[a].volumes.len()) {
                    let volume = &self.arrays[a].volumes[v];
                    if !self.arrays[a].copies[v].exported || !volume.core.gate().may_start(now) {
                        continue;
                    }
                    *size = (volume.core.geometry().blocks / REGION_BLOCKS) as u8;
                }
                self.send(connection, a, Message::Array(ArrayMessage::Active { groups, sizes }));
            }
            HostMessage::Command { tag, volume, request, payload, expected } => {
                let v = usize::from(volume);
                let thread = connection as u16 % self.arrays[a].lanes.len() as u16;
                let gate = self.arrays[a].volumes[v].core.gate();
                let arrived = gate.may_start(self.arrays[a].clocks.now(self.now)).then_some(gate.tenure);
                // Without its group a volume is nobody's.
                if self.arrays[a].absent[self.plan.volumes[v].group] || !self.arrays[a].copies[v].exported {
                    return self.refuse(a, connection, v, request, tag, Refusal::Standby);
                }
                if request.extent.end() > self.arrays[a].volumes[v].core.geometry().blocks {
                    if arrived.is_some() {
                        let text = format!("array {a} serves volume {v}, smaller than it was told to hosts");
                        return self.violate(text);
                    }
                    return self.refuse(a, connection, v, request, tag, Refusal::Standby);
                }
                let mut refused = None;
                let Some(host) = self.host_of(a, connection) else { return };
                self.with_volume_after(
                    a,
                    v,
                    thread,
                    |core, cx, out| core.submit(request, cx, out),
                    |world, result| match result {
                        Ok(id) => {
                            let commands = &mut world.arrays[a].volumes[v].commands;
                            let slot = id.slot() as usize;
                            if commands.len() <= slot {
                                commands.resize(slot + 1, None);
                            }
                            commands[slot] = Some(Command {
                                id,
                                connection,
                                host,
                                tag,
                                request,
                                payload,
                                expected,
                                fetched: None,
                                answered: false,
                                aborting: false,
                                arrived,
                                thread,
                            });
                        }
                        Err(refusal) => refused = Some(refusal),
                    },
                );
                if let Some(refusal) = refused {
                    self.refuse(a, connection, v, request, tag, refusal);
                }
            }
            HostMessage::Abort { tag } => {
                let mut found = None;
                for (v, shell) in self.arrays[a].volumes.iter_mut().enumerate() {
                    let hit = shell.commands.iter_mut().flatten().find(|c| c.tag == tag && !c.answered);
                    if let Some(c) = hit {
                        c.aborting = true;
                        found = Some((v, c.id, c.thread));
                    }
                }
                if let Some((v, id, thread)) = found {
                    self.with_volume(a, v, thread, |core, cx, out| core.abort(id, cx, out));
                } else {
                    self.send(connection, a, Message::Array(ArrayMessage::AbortComplete { tag }));
                }
            }
        }
    }

    fn refuse(
        &mut self,
        a: usize,
        connection: ConnectionId,
        v: usize,
        request: Request,
        tag: Stamp,
        refusal: Refusal,
    ) {
        if request.op.writes() {
            for index in span(request.extent).range() {
                self.registers[v][index].write_dead(tag);
            }
        }
        let done =
            ArrayMessage::Done { tag, outcome: Outcome::Refused(refusal), payload: Payload::default() };
        self.send(connection, a, Message::Array(done));
    }

    pub fn answer(&mut self, a: usize, v: usize, id: CommandId, outcome: Outcome) {
        let slot = id.slot() as usize;
        let Some(Some(c)) = self.arrays[a].volumes[v].commands.get_mut(slot) else { return };
        if c.id != id {
            return;
        }
        if c.answered {
            self.violate(format!("array {a} volume {v}: command answered twice"));
            return;
        }
        c.answered = true;
        let c = c.clone();
        self.note_answer(a, v, &c, outcome);
        if outcome == Outcome::Aborted && c.request.op.writes() {
            for index in span(c.request.extent).range() {
                self.registers[v][index].write_dead(c.tag);
            }
        }
        if outcome != Outcome::Aborted {
            let payload = Payload { span: span(c.request.extent), ..c.expected };
            let done = ArrayMessage::Done { tag: c.tag, outcome, payload };
            self.send(c.connection, a, Message::Array(done));
        }
        if c.aborting {
            self.send(c.connection, a, Message::Array(ArrayMessage::AbortComplete { tag: c.tag }));
        }
        self.reinstate(a);
    }

    /// A new session of a host: commands of its older ones end first (rule 9).
    fn login(&mut self, a: usize, connection: ConnectionId) {
        let Some(host) = self.network.get(connection).map(|c| c.ends[0]) else { return };
        let old: Vec<ConnectionId> = self.arrays[a]
            .sessions
            .iter()
            .filter(|s| s.host == host && s.connection != connection)
            .map(|s| s.connection)
            .collect();
        self.arrays[a].sessions.push(Session { host, connection, ready: false });
        for connection in old {
            self.end_session(a, connection);
        }
        self.reinstate(a);
    }

    /// A host's connection is gone: its commands are aborted.
    pub fn end_session(&mut self, a: usize, connection: ConnectionId) {
        self.arrays[a].sessions.retain(|s| s.connection != connection);
        let now = self.now;
        self.network.close(connection, a, 0, now, &mut self.rng);
        for v in 0..self.arrays[a].volumes.len() {
            for slot in 0..self.arrays[a].volumes[v].commands.len() {
                let Some(c) = &self.arrays[a].volumes[v].commands[slot] else { continue };
                if c.connection == connection && !c.answered {
                    let (id, thread) = (c.id, c.thread);
                    self.with_volume(a, v, thread, |core, cx, out| core.abort(id, cx, out));
                }
            }
        }
    }

    /// Logins whose host has nothing left running of older sessions complete.
    fn reinstate(&mut self, a: usize) {
        for i in 0..self.arrays[a].sessions.len() {
            let session = self.arrays[a].sessions[i];
            if session.ready {
                continue;
            }
            let array = &self.arrays[a];
            let busy = array
                .volumes
                .iter()
                .flat_map(|s| s.commands.iter().flatten())
                .any(|c| !c.answered && c.connection != session.connection && c.host == session.host);
            if !busy {
                self.arrays[a].sessions[i].ready = true;
                self.send(session.connection, a, Message::Array(ArrayMessage::LoggedIn));
            }
        }
    }
}
