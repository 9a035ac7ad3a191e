//! The target's end of one iSCSI connection, which at error recovery level 0 with one connection
//! per session is the session too.
//!
//! ```text
//!  Login --> Establishing --> FullFeature --> LoggingOut --> Closing
//!    \____________\________________\_______________________/
//!            refused, protocol error, time-out, `terminate`
//! ```
//! The shell calls [`Connection::receive`] with what the socket brought, carries out the
//! [`Action`]s, and sends what [`Connection::output`] holds. Each [`Action::Execute`] is answered
//! once with [`Connection::complete`] or [`Connection::aborted`], in any order.

mod command;
mod control;
mod management;
mod reply;
mod tasks;

#[cfg(test)]
mod tests;

pub use management::ManagementId;
pub use reply::{Data, Reply};

use super::digest::{Digests, Running};
use super::frame::{Frame, FrameError, Head};
use super::header::{Header, Opcode};
use super::login::{Candidate, LOGIN_DATA_MAX, Login, Step, TargetIdentity};
use super::negotiation::{Parameters, RECEIVE_MAX, SessionType};
use super::output::Output;
use super::pdu::{
    Attribute, DataOut, LoginRequest, LoginResponse, LoginStatus, Numbers, Reject, RejectReason, TaskFunction,
};
use super::serial::Serial;
use super::window::CommandWindow;
use crate::sys::buffer::Buffer;
use crate::time::{Duration, Time};
use control::{Ping, TextExchange};
use management::Management;
use tasks::Tasks;

/// Names a command between [`Action::Execute`] and its completion; used again after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u16);

impl TaskId {
    /// Every id is below this.
    pub const LIMIT: usize = tasks::SLOTS;
}

/// What bounds a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From the accept to the end of the login.
    pub login_timeout: Duration,
    /// From the accept to the end of a discovery session: it asks, and leaves.
    pub discovery_lifetime: Duration,
    /// After this long without a byte the initiator is pinged,
    pub idle_before_ping: Duration,
    /// and after this much longer without a byte it is gone.
    pub ping_timeout: Duration,
    /// Most data one command moves, in bytes; the command set's MAXIMUM TRANSFER LENGTH is not
    /// above it. What a command brings beyond is not asked for.
    pub command_bytes: u32,
    /// Payload memory of all commands of the connection and of what waits to be sent. A command
    /// that would go beyond it gets TASK SET FULL, unless it is the only one.
    pub connection_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login_timeout: Duration::from_secs(15),
            discovery_lifetime: Duration::from_secs(60),
            idle_before_ping: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(30),
            command_bytes: 8 << 20,
            connection_bytes: 64 << 20,
        }
    }
}

/// One target as SendTargets tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TargetRecord {
    pub name: String,
    /// `address:port` (IPv6 in brackets) and the portal group tag.
    pub portals: Vec<(String, u16)>,
}

/// A command for the SCSI layer, all its data there.
#[derive(Clone, Debug)]
pub struct Command {
    pub task: TaskId,
    pub lun: u64,
    pub attribute: Attribute,
    pub cdb: [u8; 16],
    pub read: bool,
    pub write: bool,
    /// ExpectedDataTransferLength.
    pub expected: u32,
    /// The data-out, as far as the initiator sent any.
    pub data: Buffer,
}

/// What the shell must do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Make the session, after every command of the one it replaces is over (rule 9); then
    /// [`Connection::established`] or [`Connection::refused`].
    Establish(Box<Candidate>),
    /// Carry the command out; then `complete` or `aborted`.
    Execute(Command),
    /// The command should not take effect any more; `complete` or `aborted` comes all the same,
    /// when it is really over.
    Abort(TaskId),
    /// A task management function that reaches beyond this connection's commands (which are being
    /// aborted already, where the function says so): do the rest, then [`Connection::managed`].
    Manage { id: ManagementId, function: TaskFunction, lun: u64 },
    /// Every command that [`Connection::abort_outside`] concerned is over.
    AbortsOver { token: u64 },
}

#[derive(Clone, Debug)]
enum Phase {
    Login(Box<Login>),
    Establishing(Box<(LoginResponse, Vec<u8>, Candidate)>),
    FullFeature,
    /// Waits for the last command, then answers the logout.
    LoggingOut,
    /// Sends what is there and closes.
    Closing,
}

/// A data segment that is being received into a command's payload, or skipped.
#[derive(Clone, Debug)]
struct Body {
    header: Header,
    /// `None`: skipped.
    task: Option<TaskId>,
    /// Where the next byte goes in the payload.
    at: usize,
    left: usize,
    /// Padding and digest after the data.
    tail: usize,
    digest: Option<Running>,
}

/// Why a PDU ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Violation(RejectReason);

const PROTOCOL_ERROR: Violation = Violation(RejectReason::ProtocolError);

/// See the module.
#[derive(Clone, Debug)]
pub struct Connection {
    target: TargetIdentity,
    limits: Limits,
    /// What the shell allows, besides `limits.connection_bytes`.
    memory_limit: usize,
    phase: Phase,
    session_type: SessionType,
    cid: u16,
    parameters: Parameters,
    digests: Digests,
    stat_sn: Serial,
    window: CommandWindow,
    tasks: Tasks,
    body: Option<Body>,
    next_ttt: u32,
    management: Vec<Management>,
    next_management: u32,
    text: Option<TextExchange>,
    targets: Vec<TargetRecord>,
    output: Output,
    opened: Time,
    last_received: Time,
    ping: Option<Ping>,
    logout_deadline: Option<Time>,
    /// Bytes the next PDU needs in the receive buffer.
    wanted: usize,
}

impl Connection {
    pub fn new(target: TargetIdentity, limits: Limits, now: Time) -> Self {
        Self {
            target,
            limits,
            memory_limit: usize::MAX,
            phase: Phase::Login(Box::default()),
            session_type: SessionType::Normal,
            cid: 0,
            parameters: Parameters::default(),
            digests: Digests::NONE,
            stat_sn: Serial(1),
            window: CommandWindow::new(Serial(0)),
            tasks: Tasks::new(),
            body: None,
            next_ttt: 0,
            management: Vec::new(),
            next_management: 0,
            text: None,
            targets: Vec::new(),
            output: Output::default(),
            opened: now,
            last_received: now,
            ping: None,
            logout_deadline: None,
            wanted: 0,
        }
    }

    /// Takes bytes of the stream and returns how many; the rest is handed in again, with more
    /// behind it. Stops early while a session is being established.
    pub fn receive(&mut self, bytes: &[u8], now: Time, actions: &mut Vec<Action>) -> usize {
        self.last_received = now;
        let mut used = 0;
        while let Some(rest) = bytes.get(used..)
            && !rest.is_empty()
        {
            let taken = match self.phase {
                Phase::Establishing(_) => 0,
                Phase::LoggingOut | Phase::Closing => rest.len(),
                _ if self.body.is_some() => self.receive_body(rest, actions),
                _ => self.receive_pdu(rest, actions),
            };
            if taken == 0 {
                break;
            }
            used += taken;
        }
        used
    }

    /// The receive buffer must be able to hold this many bytes for the next PDU to be taken.
    pub const fn wanted(&self) -> usize {
        self.wanted
    }

    /// The place in a command's payload where the next bytes of the stream belong, when there is
    /// one and going there directly pays; then [`received_directly`](Self::received_directly).
    /// Everything handed to `receive` before was taken.
    pub fn direct(&mut self) -> Option<&mut [u8]> {
        let body = self.body.as_ref()?;
        if body.digest.is_some() || body.left < DIRECT_MIN {
            return None;
        }
        let (at, left) = (body.at, body.left);
        let task = self.tasks.get_mut(body.task?)?;
        task.payload.as_mut_slice()?.get_mut(at..at + left)
    }

    /// `bytes` were received into [`direct`](Self::direct), from its beginning.
    pub fn received_directly(&mut self, bytes: usize, now: Time, actions: &mut Vec<Action>) {
        self.last_received = now;
        if let Some(body) = &mut self.body {
            let bytes = bytes.min(body.left);
            body.at += bytes;
            body.left -= bytes;
            if body.left == 0 && body.tail == 0 {
                self.end_body(actions);
            }
        }
    }

    /// What waits to be sent.
    pub const fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// True once the connection is to be closed, after the output was sent.
    pub const fn is_closing(&self) -> bool {
        matches!(self.phase, Phase::Closing)
    }

    pub const fn is_full_feature(&self) -> bool {
        matches!(self.phase, Phase::FullFeature)
    }

    /// Commands that the shell has not reported as over; none may be left when the session goes.
    pub const fn is_quiet(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Commands in progress, immediate ones included.
    pub const fn in_progress(&self) -> u32 {
        self.tasks.queued() + self.tasks.immediate()
    }

    /// Payload bytes that commands in progress stand for, and what waits to be sent.
    pub const fn memory(&self) -> usize {
        self.tasks.charged() + self.output.len()
    }

    /// From now on [`memory`](Self::memory) is to stay below this too.
    pub const fn set_memory_limit(&mut self, bytes: usize) {
        self.memory_limit = bytes;
    }

    /// The session exists: sends the final login response. `targets` is what SendTargets tells.
    pub fn established(&mut self, tsih: u16, targets: Vec<TargetRecord>) {
        let Phase::Establishing(held) = core::mem::replace(&mut self.phase, Phase::FullFeature) else {
            return;
        };
        let (response, text, candidate) = *held;
        self.session_type = candidate.session_type;
        self.cid = candidate.cid;
        self.targets = targets;
        self.respond_to_login(LoginResponse { tsih, ..response }, &text);
        self.parameters = candidate.parameters;
        self.digests = candidate.parameters.digests;
    }

    /// No session: the login fails with `status`.
    pub fn refused(&mut self, status: LoginStatus) {
        let Phase::Establishing(held) = core::mem::replace(&mut self.phase, Phase::Closing) else { return };
        let (response, ..) = *held;
        self.fail_login(LoginResponse { status, ..response });
    }

    fn receive_pdu(&mut self, bytes: &[u8], actions: &mut Vec<Action>) -> usize {
        self.wanted = 0;
        let head = match Head::parse(bytes, self.digests) {
            Ok(Some(head)) => head,
            Ok(None) => return 0,
            // Nothing of the header can be trusted, so it cannot be rejected either (7.7).
            Err(FrameError::HeaderDigest) => return self.close(bytes),
            Err(_) => return self.reject_raw(bytes),
        };
        let login = matches!(self.phase, Phase::Login(_));
        let data_max = if login { LOGIN_DATA_MAX } else { RECEIVE_MAX as usize };
        if head.header.data_len() > data_max {
            return self.reject_raw(bytes);
        }
        let streamed = matches!(head.header.opcode(), Some(Opcode::ScsiCommand | Opcode::DataOut));
        if streamed && !login {
            return self.receive_streamed(&head, actions);
        }
        match Frame::after(head, bytes, self.digests) {
            Ok(Some(frame)) => {
                let len = frame.len;
                let done = if login { self.login(&frame, actions) } else { self.control(&frame, actions) };
                if let Err(Violation(reason)) = done {
                    self.reject(&head.header, reason);
                    self.phase = Phase::Closing;
                }
                len
            }
            Ok(None) => {
                self.wanted = head.total();
                0
            }
            // ERL 0: the session is the unit of recovery (7.8, 7.1.5).
            Err(_) => {
                self.reject(&head.header, RejectReason::DataDigestError);
                self.close(bytes)
            }
        }
    }

    /// Commands and Data-Out: acted on by their header, the data then goes where it belongs.
    fn receive_streamed(&mut self, head: &Head, actions: &mut Vec<Action>) -> usize {
        let header = &head.header;
        let place = if header.opcode() == Some(Opcode::ScsiCommand) {
            self.scsi_command(header)
        } else {
            self.data_out(header, actions)
        };
        match place {
            Ok(place) => {
                let left = header.data_len();
                if left > 0 {
                    self.body = Some(Body {
                        header: *header,
                        task: place.map(|(task, _)| task),
                        at: place.map_or(0, |(_, at)| at),
                        left,
                        tail: head.tail - left,
                        digest: self.digests.data.then(Running::new),
                    });
                } else if let Some((task, _)) = place {
                    self.data_arrived(task, header, actions);
                }
            }
            Err(Violation(reason)) => {
                self.reject(header, reason);
                self.phase = Phase::Closing;
            }
        }
        // Commands that waited for this one's number may start now, after it.
        self.start_ready(actions);
        head.len
    }

    fn receive_body(&mut self, bytes: &[u8], actions: &mut Vec<Action>) -> usize {
        let Some(body) = &mut self.body else { return 0 };
        let part = bytes.len().min(body.left);
        let (data, rest) = bytes.split_at(part);
        if let Some(digest) = &mut body.digest {
            digest.update(data);
        }
        if let Some(task) = body.task.and_then(|id| self.tasks.get_mut(id)) {
            let place = task.payload.as_mut_slice().and_then(|all| all.get_mut(body.at..body.at + part));
            // The payload is the task's own until it executes, and the header's check put the
            // range inside.
            if let Some(place) = place {
                place.copy_from_slice(data);
            }
        }
        body.at += part;
        body.left -= part;
        let Some(tail) = rest.get(..body.tail) else { return part };
        if body.left > 0 {
            return part;
        }
        if let Some(mut digest) = body.digest {
            let (padding, found) = tail.split_at(tail.len().saturating_sub(super::digest::LEN));
            digest.update(padding);
            if digest.finish() != found {
                let taken = part + body.tail;
                return self.damaged(bytes, taken, actions);
            }
        }
        let taken = part + body.tail;
        self.end_body(actions);
        taken
    }

    /// The digest of the data segment that ends after `taken` of `bytes` is wrong (7.8).
    fn damaged(&mut self, bytes: &[u8], taken: usize, actions: &mut Vec<Action>) -> usize {
        let Some(Body { header, task, .. }) = self.body.take() else { return taken };
        self.reject(&header, RejectReason::DataDigestError);
        if header.opcode() == Some(Opcode::DataOut) {
            if let Some(id) = task {
                self.spoil(id, &DataOut::decode(&header), actions);
            }
            return taken;
        }
        // A command that is as if it had not come leaves a gap in CmdSN: the session is the unit of
        // recovery.
        self.close(bytes)
    }

    fn end_body(&mut self, actions: &mut Vec<Action>) {
        if let Some(Body { header, task: Some(task), .. }) = self.body.take() {
            self.data_arrived(task, &header, actions);
        }
    }

    fn login(&mut self, frame: &Frame<'_>, actions: &mut Vec<Action>) -> Result<(), Violation> {
        let Phase::Login(login) = &mut self.phase else { return Ok(()) };
        let header = &frame.header;
        if header.opcode() != Some(Opcode::LoginRequest) {
            // 6.3: nothing else before full feature phase; there is nobody to answer yet.
            self.phase = Phase::Closing;
            return Ok(());
        }
        let request = LoginRequest::decode(header);
        self.window = CommandWindow::new(request.cmd_sn);
        match login.request(&self.target, &request, frame.data) {
            Step::Respond(response, text) => self.respond_to_login(response, &text),
            Step::Establish(response, text, candidate) => {
                let held = (response, text, candidate.as_ref().clone());
                self.phase = Phase::Establishing(Box::new(held));
                actions.push(Action::Establish(candidate));
            }
            Step::Fail(response) => self.fail_login(response),
        }
        Ok(())
    }

    fn fail_login(&mut self, response: LoginResponse) {
        self.respond_to_login(LoginResponse { transit: false, tsih: 0, ..response }, &[]);
        self.phase = Phase::Closing;
    }

    fn respond_to_login(&mut self, response: LoginResponse, text: &[u8]) {
        let numbers = self.status_numbers();
        self.output.push(LoginResponse { numbers, ..response }.encode(), text, self.digests);
    }

    /// Numbers of a PDU that carries status: StatSN advances.
    fn status_numbers(&mut self) -> Numbers {
        let numbers = self.numbers();
        self.stat_sn = self.stat_sn.next();
        numbers
    }

    const fn numbers(&self) -> Numbers {
        Numbers { stat_sn: self.stat_sn, exp_cmd_sn: self.window.expected(), max_cmd_sn: self.window.max() }
    }

    /// A tag for an R2T, a text exchange or a ping.
    fn new_ttt(&mut self) -> u32 {
        let ttt = self.next_ttt;
        // 0xffffffff is reserved.
        self.next_ttt = if ttt == u32::MAX - 1 { 0 } else { ttt + 1 };
        ttt
    }

    /// Sends a Reject with the header it is about (11.17).
    fn reject(&mut self, header: &Header, reason: RejectReason) {
        let numbers = self.status_numbers();
        self.output.push(Reject { reason, numbers, data_sn: 0 }.encode(), &header.0, self.digests);
    }

    /// Rejects a PDU whose lengths are beyond the limits, and ends the connection.
    fn reject_raw(&mut self, bytes: &[u8]) -> usize {
        if let (Some(header), false) = (Header::from_slice(bytes), matches!(self.phase, Phase::Login(_))) {
            self.reject(&header, RejectReason::ProtocolError);
        }
        self.close(bytes)
    }

    /// The rest of the stream means nothing any more.
    fn close(&mut self, bytes: &[u8]) -> usize {
        self.phase = Phase::Closing;
        self.body = None;
        bytes.len()
    }
}

/// Shorter rests of a data segment go through the receive buffer.
const DIRECT_MIN: usize = 4096;
