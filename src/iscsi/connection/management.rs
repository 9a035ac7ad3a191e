//! Task management and logout that tell the truth: answered only after every command they concern
//! is over (RFC 7143 4.2.3, 11.5, 11.6, 11.14, 11.15; rule 9).

use super::tasks::{State, Task, TaskSet};
use super::{Action, Connection, Phase, TaskId, Violation};
use crate::iscsi::header::Header;
use crate::iscsi::negotiation::SessionType;
use crate::iscsi::pdu::{
    AsyncEvent, AsyncMessage, LogoutReason, LogoutRequest, LogoutResponse, LogoutResult, RejectReason,
    TaskFunction, TaskRequest, TaskResponse, TaskResult,
};
use crate::iscsi::serial::Serial;
use crate::iscsi::window::{Arrival, WINDOW};
use crate::time::{Duration, Time};

/// Most functions of one connection waiting at once; a host has one or two.
const MANAGEMENT_MAX: usize = 16;

/// Names a function between [`Action::Manage`] and [`Connection::managed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ManagementId(u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A Task Management Function Request with this tag.
    Request {
        itt: u32,
    },
    Logout {
        itt: u32,
    },
    /// Something outside this connection.
    Outside {
        token: u64,
    },
}

/// A function that waits for commands to be over.
#[derive(Clone, Debug)]
pub(super) struct Management {
    id: ManagementId,
    asker: Asker,
    waiting: TaskSet,
    /// The shell has not called `managed` yet.
    outside: bool,
    result: TaskResult,
}

/// A LUN without its addressing method, so that the same unit addressed in two ways is one
/// (SAM-5 4.7.4: peripheral and flat space method of a single-level LUN).
const fn unit(lun: u64) -> u64 {
    match lun >> 62 {
        0 | 1 => lun & !(3 << 62),
        _ => lun,
    }
}

impl Connection {
    pub(super) fn task_request(
        &mut self,
        header: &Header,
        actions: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let request = TaskRequest::decode(header);
        if self.session_type == SessionType::Discovery {
            return Err(super::PROTOCOL_ERROR);
        }
        if !request.immediate && self.arrive(request.cmd_sn, actions) == Arrival::Ignored {
            return Ok(());
        }
        if self.management.len() >= MANAGEMENT_MAX {
            self.reject(header, RejectReason::TooManyImmediateCommands);
            return Ok(());
        }
        let asker = Asker::Request { itt: request.itt };
        match request.function {
            TaskFunction::AbortTask => {
                let task = self.tasks.find(request.referenced_task_tag);
                let unit_of = |id| self.tasks.get(id).map(|task| unit(task.lun));
                let result = match task {
                    // The tag is that of a command of another unit, and that one goes on.
                    Some(id) if unit_of(id) != Some(unit(request.lun)) => {
                        self.answer_task(request.itt, TaskResult::Rejected);
                        return Ok(());
                    }
                    Some(_) => TaskResult::Complete,
                    None => self.without_task(&request, actions),
                };
                self.manage(asker, false, result, actions, |id, _| Some(id) == task);
            }
            TaskFunction::AbortTaskSet | TaskFunction::ClearTaskSet | TaskFunction::LogicalUnitReset => {
                let lun = unit(request.lun);
                let id =
                    self.manage(asker, true, TaskResult::Complete, actions, |_, task| unit(task.lun) == lun);
                actions.push(Action::Manage { id, function: request.function, lun: request.lun });
            }
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => {
                let id = self.manage(asker, true, TaskResult::Complete, actions, |_, _| true);
                actions.push(Action::Manage { id, function: request.function, lun: request.lun });
            }
            // Tasks keep their allegiance to the one connection at error recovery level 0.
            TaskFunction::TaskReassign => {
                self.answer_task(request.itt, TaskResult::ReassignmentNotSupported);
            }
            // No auto contingent allegiance: NormACA is 0.
            TaskFunction::ClearAca | TaskFunction::Other(_) => {
                self.answer_task(request.itt, TaskResult::FunctionNotSupported);
            }
        }
        Ok(())
    }

    /// ABORT TASK for a task that is not here (11.6.1): over already, never received, or never
    /// there. "Does not exist" makes hosts reset the unit, so it is said only where the standard
    /// demands it: far outside the window.
    fn without_task(&mut self, request: &TaskRequest, actions: &mut Vec<Action>) -> TaskResult {
        let number = request.ref_cmd_sn;
        if self.window.holds(number) && number.before(request.cmd_sn) {
            // Not received: it counts as received from now on, and will be ignored.
            self.arrive(number, actions);
            return TaskResult::Complete;
        }
        let oldest = self.window.expected().minus(WINDOW);
        let recent = !number.before(oldest) && !self.window.max().before(number);
        if recent { TaskResult::Complete } else { TaskResult::TaskDoesNotExist }
    }

    /// Takes the number of a non-immediate PDU; commands that waited for it start.
    pub(super) fn arrive(&mut self, number: Serial, actions: &mut Vec<Action>) -> Arrival {
        let arrival = self.window.arrive(number);
        if arrival == Arrival::Taken {
            self.window.set_in_progress(self.tasks.queued());
            self.start_ready(actions);
        }
        arrival
    }

    /// Aborts the tasks that `concerned` picks and answers `asker` when they are over.
    fn manage(
        &mut self,
        asker: Asker,
        outside: bool,
        result: TaskResult,
        actions: &mut Vec<Action>,
        concerned: impl Fn(TaskId, &Task) -> bool,
    ) -> ManagementId {
        let id = ManagementId(self.next_management);
        self.next_management = self.next_management.wrapping_add(1);
        let mut waiting = TaskSet::default();
        let ids: Vec<TaskId> =
            self.tasks.iter().filter(|(id, task)| concerned(*id, task)).map(|(id, _)| id).collect();
        for task in ids {
            if self.abort(task, actions) {
                waiting.insert(task);
            }
        }
        self.management.push(Management { id, asker, waiting, outside, result });
        self.answer_finished(actions);
        id
    }

    /// Aborts one task; true when it is still to be waited for.
    fn abort(&mut self, id: TaskId, actions: &mut Vec<Action>) -> bool {
        let Some(task) = self.tasks.get_mut(id) else { return false };
        if task.state == State::Executing {
            if !task.aborted {
                task.aborted = true;
                actions.push(Action::Abort(id));
            }
            return true;
        }
        // Never started: gone at once. A data segment on its way to it is skipped. So is what R2Ts still ask for,
        // which RFC 7143 4.2.3.3 has the target wait for: open-iscsi as it is shipped (FastAbort = Yes) does not
        // send it once it has asked for the abort, and a reset that waited would cost the session.
        if let Some(body) = &mut self.body
            && body.task == Some(id)
        {
            body.task = None;
        }
        self.tasks.remove(id);
        self.window.set_in_progress(self.tasks.queued());
        false
    }

    /// A task has left the table: whoever waited for it may be answered now.
    pub(super) fn task_is_over(&mut self, id: TaskId, actions: &mut Vec<Action>) {
        if self.management.is_empty() {
            return;
        }
        for management in &mut self.management {
            management.waiting.remove(id);
        }
        self.answer_finished(actions);
    }

    fn answer_finished(&mut self, actions: &mut Vec<Action>) {
        while let Some(at) =
            self.management.iter().position(|management| management.waiting.is_empty() && !management.outside)
        {
            let Management { asker, result, .. } = self.management.remove(at);
            match asker {
                Asker::Request { itt } => self.answer_task(itt, result),
                Asker::Logout { itt } => {
                    self.answer_logout(itt, LogoutResult::Success);
                    self.phase = Phase::Closing;
                }
                Asker::Outside { token } => actions.push(Action::AbortsOver { token }),
            }
        }
    }

    fn answer_task(&mut self, itt: u32, result: TaskResult) {
        if matches!(self.phase, Phase::Closing) {
            return;
        }
        let numbers = self.status_numbers();
        self.output.push(TaskResponse { result, itt, numbers }.encode(), &[], self.digests);
    }

    /// The shell's part of an [`Action::Manage`] is done: every command of other connections that
    /// the function concerns is over, or it could not be done.
    pub fn managed(&mut self, id: ManagementId, result: TaskResult, actions: &mut Vec<Action>) {
        if let Some(management) = self.management.iter_mut().find(|management| management.id == id) {
            management.outside = false;
            management.result = result;
        }
        self.answer_finished(actions);
    }

    /// Aborts commands for somebody else: a reset from another session. `runs` says of a command that the
    /// shell has started whether it is concerned; of the others (`None`) those whose LUN is `lun` are.
    /// [`Action::AbortsOver`] with the token follows, perhaps at once. True when there was any.
    pub fn abort_outside(
        &mut self,
        lun: Option<u64>,
        runs: impl Fn(TaskId) -> Option<bool>,
        token: u64,
        actions: &mut Vec<Action>,
    ) -> bool {
        let by_lun = |task: &Task| lun.is_some_and(|lun| unit(task.lun) == unit(lun));
        let concerns = |id: TaskId, task: &Task| runs(id).unwrap_or_else(|| by_lun(task));
        let any = self.tasks.iter().any(|(id, task)| concerns(id, task));
        self.manage(Asker::Outside { token }, false, TaskResult::Complete, actions, concerns);
        any
    }

    /// Aborts every command for somebody else, as [`abort_outside`](Self::abort_outside) does.
    pub fn abort_all_outside(&mut self, token: u64, actions: &mut Vec<Action>) {
        self.manage(Asker::Outside { token }, false, TaskResult::Complete, actions, |_, _| true);
    }

    /// The function concerns commands with the shell, too, that its LUN does not name any more: `runs` picks
    /// them, they are aborted, and the function waits for them.
    pub fn abort_also(&mut self, id: ManagementId, runs: impl Fn(TaskId) -> bool, actions: &mut Vec<Action>) {
        let picked = |(id, task): &(TaskId, &Task)| task.state == State::Executing && runs(*id);
        let ids: Vec<TaskId> = self.tasks.iter().filter(picked).map(|(id, _)| id).collect();
        for task in ids {
            self.abort(task, actions);
            if let Some(management) = self.management.iter_mut().find(|management| management.id == id) {
                management.waiting.insert(task);
            }
        }
    }

    /// Ends the connection without a word: every command is aborted. The session is over when
    /// [`is_quiet`](Self::is_quiet) says so.
    pub fn terminate(&mut self, actions: &mut Vec<Action>) {
        self.phase = Phase::Closing;
        self.body = None;
        self.output.clear();
        // Nobody is there to be answered, but somebody outside may still wait.
        self.management.retain(|management| matches!(management.asker, Asker::Outside { .. }));
        let ids: Vec<TaskId> = self.tasks.iter().map(|(id, _)| id).collect();
        for id in ids {
            if !self.abort(id, actions) {
                self.task_is_over(id, actions);
            }
        }
    }

    pub(super) fn logout(&mut self, header: &Header, actions: &mut Vec<Action>) {
        let request = LogoutRequest::decode(header);
        if !request.immediate && self.arrive(request.cmd_sn, actions) == Arrival::Ignored {
            return;
        }
        match request.reason {
            LogoutReason::CloseConnection if request.cid != self.cid => {
                self.answer_logout(request.itt, LogoutResult::CidNotFound);
            }
            LogoutReason::CloseSession | LogoutReason::CloseConnection => {
                self.phase = Phase::LoggingOut;
                self.manage(
                    Asker::Logout { itt: request.itt },
                    false,
                    TaskResult::Complete,
                    actions,
                    |_, _| true,
                );
            }
            LogoutReason::RemoveForRecovery => {
                self.answer_logout(request.itt, LogoutResult::RecoveryNotSupported);
            }
            LogoutReason::Other(_) => self.reject(header, RejectReason::InvalidPduField),
        }
    }

    fn answer_logout(&mut self, itt: u32, result: LogoutResult) {
        let numbers = self.status_numbers();
        // The initiator may come back at once: nothing of its session is left (11.15.3).
        let response = LogoutResponse { result, itt, numbers, time2wait: 0, time2retain: 0 };
        self.output.push(response.encode(), &[], self.digests);
    }

    /// Asks the initiator to log out within `grace` (11.9.1); the connection is closed then.
    pub fn request_logout(&mut self, grace: Duration, now: Time) {
        if !self.is_full_feature() || self.logout_deadline.is_some() {
            return;
        }
        self.logout_deadline = Some(now + grace);
        let seconds = u16::try_from(grace.as_secs().max(1)).unwrap_or(u16::MAX);
        let numbers = self.status_numbers();
        let message = AsyncMessage {
            lun: 0,
            numbers,
            event: AsyncEvent::LogoutRequest,
            vendor_code: 0,
            parameters: [0, 0, seconds],
        };
        self.output.push(message.encode(), &[], self.digests);
    }
}
