//! One connection on its data thread: read what is there, start all of it, collect what is over,
//! answer with one writev, and only then wait.

use std::cell::OnceCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;

use crate::iscsi::pdu::{TaskFunction, TaskResult};
use crate::iscsi::{
    Action, Candidate, Connection, Data, Limits, ManagementId, Reply, SessionType, TargetIdentity,
    TargetRecord,
};
use crate::sys::turn::Turn;
use crate::time::{Duration, Time};
use crate::volume::{Completion, CompletionQueue};

use super::acceptor::Accepted;
use super::mailbox::{Barrier, Letter, Mailbox};
use super::service::{End, Finished, Nexus, Service};
use super::sessions::{LoginPlace, MemoryShare, Registration, Sessions};
use super::spin::Spin;

/// Receive buffer of a quiet connection, and the step it grows by.
const RECEIVE_MIN: usize = 64 * 1024;
/// Receive buffer of a busy one: a whole batch of 4 KiB writes at depth 32, and any single PDU.
const RECEIVE_MAX: usize = 320 * 1024;
/// Pieces of one writev; the kernel takes 1,024, and more than some dozens save nothing.
const WRITE_PIECES: usize = 128;
/// No more is read while this much waits to be sent: an initiator that does not read its answers
/// gets no new ones.
const OUTPUT_MAX: usize = 16 << 20;
/// This much may wait even when the memory of all connections together is used up, so that one that gives its
/// answers away slowly is not stopped by those that do not at all.
const OUTPUT_LEAST: usize = 64 * 1024;
/// Rounds of work before other tasks of the thread get a turn.
const ROUNDS: u32 = 16;
/// How long the last answers may take to go out once the connection is closing.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// What connections of one portal share.
#[derive(Clone, Debug)]
pub struct PortalConfig {
    pub target: TargetIdentity,
    pub limits: Limits,
    pub sessions: Sessions,
}

/// Serves an accepted connection to its end, on the data thread (`tokio_uring` runtime) that calls.
/// When it returns, every command of the connection is over.
pub async fn serve_connection<S: Service>(accepted: Accepted, service: S, config: Rc<PortalConfig>) {
    let Accepted { stream, peer, place } = accepted;
    let stream = match stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%peer, %error, "cannot serve an iSCSI connection");
            return;
        }
    };
    let started = Instant::now();
    let memory = config.sessions.memory_share();
    let mut served = Served {
        stream,
        peer,
        core: Connection::new(config.target.clone(), config.limits, Time::ZERO),
        service,
        config,
        started,
        session: None,
        discovery: None,
        place: Some(place),
        memory,
        queue: Arc::default(),
        mailbox: Arc::default(),
        received: vec![0; RECEIVE_MIN],
        filled: 0,
        readable: true,
        writable: true,
        actions: Vec::new(),
        completions: Vec::new(),
        finished: Vec::new(),
        letters: Vec::new(),
        barriers: Vec::new(),
        management: Vec::new(),
        next_token: 0,
        spin: Spin::default(),
    };
    let end = served.run().await;
    let name = served.session.as_ref().map(|session| session.name.as_str()).unwrap_or_default();
    match end {
        Ok(()) => tracing::debug!(%peer, name, "iSCSI connection closed"),
        Err(error) => tracing::info!(%peer, name, %error, "iSCSI connection lost"),
    }
    served.wind_up().await;
}

/// A session that was made.
struct Session<N> {
    nexus: N,
    name: String,
    /// Given up last of all: a login that replaces this session waits for it.
    _registration: Registration,
}

struct Served<S: Service> {
    stream: TcpStream,
    peer: SocketAddr,
    core: Connection,
    service: S,
    config: Rc<PortalConfig>,
    started: Instant,
    session: Option<Session<S::Nexus>>,
    /// Of a discovery session.
    discovery: Option<Registration>,
    place: Option<LoginPlace>,
    memory: MemoryShare,
    queue: Arc<CompletionQueue>,
    mailbox: Arc<Mailbox>,
    received: Vec<u8>,
    /// Bytes at the front of `received` that the core has not taken.
    filled: usize,
    /// The socket may have something; cleared by an attempt that found nothing.
    readable: bool,
    writable: bool,
    // Reused from round to round; empty between them.
    actions: Vec<Action>,
    completions: Vec<Completion>,
    finished: Vec<Finished>,
    letters: Vec<Letter>,
    /// Barriers of resets by others, by the token of the core's `abort_outside`.
    barriers: Vec<(u64, Arc<Barrier>)>,
    /// Own functions that wait for other sessions.
    management: Vec<(ManagementId, TaskFunction, u64)>,
    next_token: u64,
    spin: Spin,
}

thread_local! {
    /// The data thread's own: every connection on it may spin.
    static TURN: OnceCell<Option<Rc<Turn>>> = const { OnceCell::new() };
}

fn thread_turn() -> Option<Rc<Turn>> {
    TURN.with(|turn| turn.get_or_init(|| Turn::new().ok().map(Rc::new)).clone())
}

/// SendTargets tells addresses that hosts can reach: of the own portals that listen on every
/// address, the one this initiator came by; nothing of others'.
fn name_addresses(targets: &mut [TargetRecord], own: &str, here: IpAddr) {
    for target in targets {
        let is_own = target.name == own;
        target.portals.retain_mut(|(address, _)| match address.parse::<SocketAddr>() {
            Ok(portal) if portal.ip().is_unspecified() => {
                *address = SocketAddr::new(here.to_canonical(), portal.port()).to_string();
                is_own
            }
            _ => true,
        });
    }
}

impl<S: Service> Served<S> {
    fn now(&self) -> Time {
        Time(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    async fn run(&mut self) -> io::Result<()> {
        let turn = thread_turn();
        let mut rounds = 0;
        loop {
            let mut worked = self.read()?;
            worked |= self.take_letters();
            worked |= self.take_completions();
            self.carry_out().await;
            worked |= self.write()?;
            if self.core.is_closing() {
                return self.linger().await;
            }
            if worked {
                self.spin.work();
                rounds += 1;
                if rounds < ROUNDS {
                    continue;
                }
            }
            rounds = 0;
            let now = self.now();
            if self.core.next_timeout() <= now {
                self.core.handle_timeout(now);
                continue;
            }
            match &turn {
                Some(turn) if worked || self.may_spin() => {
                    turn.turn().await;
                    // The turn has polled the sockets; a try that finds nothing is cheap.
                    (self.readable, self.writable) = (true, true);
                }
                _ => self.sleep().await?,
            }
        }
    }

    fn may_spin(&mut self) -> bool {
        self.session.is_some() && self.spin.again(Instant::now())
    }

    /// No more is read while too much waits to be sent, here or on all connections together; what waits makes
    /// the connection go on when it is sent.
    fn may_read(&mut self) -> bool {
        let (used, waits) = (self.core.memory(), self.core.output().len());
        let limit = self.memory.set(used);
        self.core.set_memory_limit(limit);
        waits <= OUTPUT_MAX && (waits <= OUTPUT_LEAST || used < limit)
    }

    /// Reads once, as much as there is room for, and hands it to the core. False when there was
    /// nothing to read, or nothing may be read now.
    fn read(&mut self) -> io::Result<bool> {
        if !self.readable || !self.may_read() {
            return Ok(false);
        }
        if self.received.len() < self.core.wanted() || self.filled == self.received.len() {
            let room = self.core.wanted().max(self.received.len() + RECEIVE_MIN).min(RECEIVE_MAX);
            self.received.resize(room, 0);
        }
        let now = self.now();
        // What is in the buffer precedes what is in the socket, so bytes may go directly to their
        // payload only while the buffer is empty.
        let direct = if self.filled == 0 { self.core.direct() } else { None };
        let (read, straight) = match direct {
            Some(place) => {
                let len = place.len();
                let mut places = [IoSliceMut::new(place), IoSliceMut::new(&mut self.received)];
                (self.stream.try_read_vectored(&mut places), len)
            }
            None => (self.stream.try_read(self.received.get_mut(self.filled..).unwrap_or_default()), 0),
        };
        let read = match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let straight = read.min(straight);
        if straight > 0 {
            self.core.received_directly(straight, now, &mut self.actions);
        }
        self.filled += read - straight;
        self.feed(now);
        // A batch that filled the buffer is followed by more: take it in larger steps.
        if self.filled == 0 && read == self.received.len() && read < RECEIVE_MAX {
            self.received.resize((read * 2).min(RECEIVE_MAX), 0);
        }
        Ok(true)
    }

    /// Hands what was received to the core.
    fn feed(&mut self, now: Time) {
        let bytes = self.received.get(..self.filled).unwrap_or_default();
        let taken = self.core.receive(bytes, now, &mut self.actions);
        self.received.copy_within(taken..self.filled, 0);
        self.filled -= taken;
    }

    fn take_letters(&mut self) -> bool {
        self.mailbox.collect(&mut self.letters);
        if self.letters.is_empty() {
            return false;
        }
        let mut letters = std::mem::take(&mut self.letters);
        for letter in letters.drain(..) {
            match letter {
                Letter::Terminate => self.core.terminate(&mut self.actions),
                Letter::Abort { unit, barrier } => self.abort_for(unit, barrier),
                Letter::Managed { id } => self.managed(id),
                Letter::RequestLogout { grace } => {
                    let now = self.now();
                    self.core.request_logout(grace, now);
                }
            }
        }
        self.letters = letters;
        true
    }

    fn abort_for(&mut self, unit: Option<u64>, barrier: Arc<Barrier>) {
        let Some(session) = &mut self.session else { return };
        let token = self.next_token;
        self.next_token += 1;
        let function = barrier.function;
        self.barriers.push((token, barrier));
        let Some(unit) = unit else { return self.core.abort_all_outside(token, &mut self.actions) };
        // A unit that is not exported here any more may still have commands.
        let lun = session.nexus.lun_of(unit);
        let runs = |task| session.nexus.unit_of(task).map(|of| of == unit);
        let concerned = self.core.abort_outside(lun, runs, token, &mut self.actions);
        // Resets tell every nexus by the unit's own counter.
        if let (TaskFunction::ClearTaskSet, Some(lun), true) = (function, lun, concerned) {
            session.nexus.commands_cleared(lun);
        }
    }

    fn managed(&mut self, id: ManagementId) {
        let Some(at) = self.management.iter().position(|(known, ..)| *known == id) else { return };
        let (_, function, lun) = self.management.swap_remove(at);
        if let Some(session) = &mut self.session {
            session.nexus.managed(function, lun);
        }
        self.core.managed(id, TaskResult::Complete, &mut self.actions);
    }

    fn take_completions(&mut self) -> bool {
        self.queue.drain(&mut self.completions);
        if self.completions.is_empty() {
            return false;
        }
        if let Some(session) = &mut self.session {
            for completion in self.completions.drain(..) {
                session.nexus.completed(completion, &self.queue, &mut self.finished);
            }
        }
        self.completions.clear();
        true
    }

    /// Does what the core asks for, until it asks for no more.
    async fn carry_out(&mut self) {
        loop {
            self.answer_finished();
            if self.actions.is_empty() {
                return;
            }
            let mut actions = std::mem::take(&mut self.actions);
            for action in actions.drain(..) {
                match action {
                    Action::Execute(command) => match &mut self.session {
                        Some(session) => session.nexus.start(command, &self.queue, &mut self.finished),
                        // A discovery session executes nothing; the core has seen to it.
                        None => self.finished.push(Finished { task: command.task, end: End::Aborted }),
                    },
                    Action::Abort(task) => {
                        if let Some(session) = &mut self.session {
                            session.nexus.abort(task);
                        }
                    }
                    Action::Manage { id, function, lun } => self.manage(id, function, lun),
                    Action::AbortsOver { token } => self.barriers.retain(|(known, _)| *known != token),
                    Action::Establish(candidate) => self.establish(&candidate).await,
                }
            }
            // Keep the larger of the two for reuse.
            if self.actions.is_empty() {
                self.actions = actions;
            }
        }
    }

    fn answer_finished(&mut self) {
        for Finished { task, end } in self.finished.drain(..) {
            match end {
                End::Reply(reply) => {
                    let data = Data::Payload(&reply.data);
                    let reply = Reply {
                        status: reply.status,
                        sense: reply.sense.as_slice(),
                        data,
                        wanted: reply.wanted,
                        gives: reply.gives,
                    };
                    self.core.complete(task, &reply, &mut self.actions);
                }
                End::Aborted => self.core.aborted(task, &mut self.actions),
            }
        }
    }

    fn manage(&mut self, id: ManagementId, function: TaskFunction, lun: u64) {
        let Some(session) = &self.session else { return };
        let whole_target = matches!(function, TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset);
        let unit = session.nexus.unit(lun);
        if unit.is_none() && !whole_target {
            self.core.managed(id, TaskResult::LunDoesNotExist, &mut self.actions);
            return;
        }
        if let Some(unit) = unit.filter(|_| !whole_target) {
            let nexus = &session.nexus;
            self.core.abort_also(id, |task| nexus.unit_of(task) == Some(unit), &mut self.actions);
        }
        self.management.push((id, function, lun));
        if function == TaskFunction::AbortTaskSet {
            // Only this nexus's own commands (SAM-5 7.3), which the core is aborting.
            self.managed(id);
        } else {
            let unit = if whole_target { None } else { unit };
            self.config.sessions.abort_elsewhere(&self.mailbox, unit, id, function);
        }
    }

    async fn establish(&mut self, candidate: &Candidate) {
        let tag = self.config.target.portal_group_tag;
        let made = match self.service.admit(candidate) {
            Ok(()) => self.config.sessions.establish(candidate, tag, self.peer, &self.mailbox).await,
            Err(status) => Err(status),
        };
        let registration = match made {
            Ok(registration) => registration,
            Err(status) => {
                let name = &candidate.initiator_name;
                tracing::info!(peer = %self.peer, name, ?status, "iSCSI login refused");
                return self.core.refused(status);
            }
        };
        // A session, of either kind, has a limit of its own.
        self.place = None;
        let mut targets = self.service.targets(candidate);
        if let Ok(here) = self.stream.local_addr() {
            name_addresses(&mut targets, &self.config.target.name, here.ip());
        }
        self.core.established(registration.tsih, targets);
        if candidate.session_type == SessionType::Normal {
            let name = candidate.initiator_name.clone();
            tracing::info!(peer = %self.peer, name, tsih = registration.tsih, "iSCSI session");
            let nexus = self.service.nexus(candidate, tag, registration.reinstated);
            self.session = Some(Session { nexus, name, _registration: registration });
        } else {
            self.discovery = Some(registration);
        }
        // The initiator may have sent on, against the rules, or have had the answer already.
        let now = self.now();
        self.feed(now);
    }

    /// Sends what is there, as far as the socket takes it.
    fn write(&mut self) -> io::Result<bool> {
        let mut worked = false;
        while self.writable && !self.core.output().is_empty() {
            let mut pieces = [IoSlice::new(&[]); WRITE_PIECES];
            let mut count = 0;
            for (place, piece) in pieces.iter_mut().zip(self.core.output().slices()) {
                *place = IoSlice::new(piece);
                count += 1;
            }
            match self.stream.try_write_vectored(pieces.get(..count).unwrap_or_default()) {
                Ok(sent) => {
                    self.core.output().sent(sent);
                    worked = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) => return Err(error),
            }
        }
        Ok(worked)
    }

    /// Waits until there may be something to do.
    async fn sleep(&mut self) -> io::Result<()> {
        let now = self.now();
        let due = self.core.next_timeout().since(now);
        // Longer waits than this are waited in parts; "for ever" has no instant.
        let due = due.min(Duration::from_secs(3600));
        let may_read = self.may_read();
        let must_write = !self.core.output().is_empty();
        tokio::select! {
            ready = self.stream.readable(), if may_read => {
                ready?;
                self.readable = true;
            }
            ready = self.stream.writable(), if must_write => {
                ready?;
                self.writable = true;
            }
            () = self.queue.wait() => {}
            () = self.mailbox.wait() => {}
            () = tokio::time::sleep(due) => {
                // Quiet for long: the memory of busy times is given back.
                if self.filled == 0 {
                    self.received.truncate(RECEIVE_MIN);
                    self.received.shrink_to_fit();
                }
            }
        }
        Ok(())
    }

    /// Sends the last answers of a connection that is closing.
    async fn linger(&mut self) -> io::Result<()> {
        let rest = async {
            while !self.core.output().is_empty() {
                self.stream.writable().await?;
                self.writable = true;
                self.write()?;
            }
            Ok(())
        };
        tokio::time::timeout(LINGER, rest).await.unwrap_or(Ok(()))
    }

    /// Aborts what is still running and waits until all of it is over (rule 9); then everything the
    /// session holds is let go.
    async fn wind_up(mut self) {
        self.core.terminate(&mut self.actions);
        // The initiator sees the end at once, whatever the volumes take.
        let _ = socket2::SockRef::from(&self.stream).shutdown(std::net::Shutdown::Both);
        loop {
            self.take_letters();
            self.take_completions();
            self.carry_out().await;
            if self.core.is_quiet() {
                return;
            }
            tokio::select! {
                () = self.queue.wait() => {}
                () = self.mailbox.wait() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_targets_tells_addresses_that_can_be_reached() {
        let portals = |addresses: &[&str]| addresses.iter().map(|text| ((*text).to_owned(), 1)).collect();
        let mut targets = [
            TargetRecord { name: "iqn.a".into(), portals: portals(&["0.0.0.0:3260", "10.0.0.1:3261"]) },
            TargetRecord { name: "iqn.b".into(), portals: portals(&["[::]:3260", "10.0.0.2:3260"]) },
        ];
        name_addresses(&mut targets, "iqn.a", "::ffff:192.0.2.9".parse().unwrap());
        assert_eq!(targets[0].portals, portals(&["192.0.2.9:3260", "10.0.0.1:3261"]));
        assert_eq!(targets[1].portals, portals(&["10.0.0.2:3260"]));
    }
}
