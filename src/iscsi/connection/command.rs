//! SCSI commands and their data-out (RFC 7143 4.2.3, 4.2.5, 11.3, 11.7, 11.8).

use super::tasks::{Asked, Collect, IMMEDIATE_MAX, State, Task};
use super::{Action, Command, Connection, Data, PROTOCOL_ERROR, Reply, TaskId, Violation};
use crate::iscsi::header::{Header, NO_TAG};
use crate::iscsi::negotiation::SessionType;
use crate::iscsi::pdu::{DataOut, R2t, RejectReason, ScsiCommand};
use crate::iscsi::window::Arrival;
use crate::sys::buffer::Buffer;

/// SCSI status TASK SET FULL (SAM-5 5.3.1).
const TASK_SET_FULL: u8 = 0x28;
/// SCSI status CHECK CONDITION.
const CHECK_CONDITION: u8 = 0x02;
/// Fixed-format sense data: ILLEGAL REQUEST, INVALID FIELD IN COMMAND INFORMATION UNIT (0E/03).
const BIDIRECTIONAL_SENSE: [u8; 18] = [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x0e, 0x03, 0, 0, 0, 0];

/// Fixed-format sense data: ABORTED COMMAND, PROTOCOL SERVICE CRC ERROR (RFC 7143 11.4.7.2).
const SPOILED_SENSE: [u8; 18] = [0x70, 0, 0x0b, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x47, 0x05, 0, 0, 0, 0];

/// The command a data segment belongs to, and where in its payload it starts; `None`: skip it.
type Place = Option<(TaskId, usize)>;

impl Connection {
    /// A SCSI Command's header. Its data segment, if any, goes to the place returned.
    pub(super) fn scsi_command(&mut self, header: &Header) -> Result<Place, Violation> {
        let command = ScsiCommand::decode(header);
        if self.session_type == SessionType::Discovery {
            return Err(PROTOCOL_ERROR);
        }
        if !command.immediate && self.window.arrive(command.cmd_sn) == Arrival::Ignored {
            return Ok(None);
        }
        if command.itt == NO_TAG {
            return Err(Violation(RejectReason::InvalidPduField));
        }
        if self.tasks.find(command.itt).is_some() {
            return Err(Violation(RejectReason::TaskInProgress));
        }
        let collect = self.collect_from(&command, header.data_len())?;
        if command.immediate && self.tasks.immediate() >= IMMEDIATE_MAX {
            self.reject(header, RejectReason::TooManyImmediateCommands);
            return Ok(None);
        }
        if command.read && command.write {
            self.answer_at_once(&command, CHECK_CONDITION, &BIDIRECTIONAL_SENSE);
            return Ok(None);
        }
        let moved = command.expected_data_transfer_length.min(self.limits.command_bytes);
        let charge = if command.read || command.write { moved as usize } else { 0 };
        let used = self.memory();
        let limit = self.limits.connection_bytes.min(self.memory_limit);
        if used > 0 && used + charge > limit {
            self.answer_at_once(&command, TASK_SET_FULL, &[]);
            return Ok(None);
        }
        let transfer = if command.write { moved } else { 0 };
        let task = Task {
            itt: command.itt,
            lun: command.lun,
            cmd_sn: command.cmd_sn,
            immediate: command.immediate,
            read: command.read,
            write: command.write,
            expected: command.expected_data_transfer_length,
            transfer,
            attribute: command.attribute,
            cdb: command.cdb,
            state: State::Collecting(collect),
            payload: if transfer == 0 { Buffer::empty() } else { Buffer::with_len(transfer as usize) },
            r2t_sn: 0,
            aborted: false,
            charge,
        };
        let Some(id) = self.tasks.insert(task) else {
            self.answer_at_once(&command, TASK_SET_FULL, &[]);
            return Ok(None);
        };
        self.window.set_in_progress(self.tasks.queued());
        Ok(Some((id, 0)))
    }

    /// The state a command's data-out starts in, if what it announces is allowed.
    fn collect_from(&self, command: &ScsiCommand, immediate_data: usize) -> Result<Collect, Violation> {
        let first_burst = self.parameters.first_burst.min(command.expected_data_transfer_length);
        let immediate_data = u32::try_from(immediate_data).unwrap_or(u32::MAX);
        let data_allowed = command.write && self.parameters.immediate_data && immediate_data <= first_burst;
        if immediate_data > 0 && !data_allowed {
            return Err(PROTOCOL_ERROR);
        }
        // F = 0 announces unsolicited Data-Out (11.3.1), which InitialR2T = Yes forbids (13.10).
        let unsolicited = command.write && !command.last;
        if unsolicited && self.parameters.initial_r2t {
            return Err(PROTOCOL_ERROR);
        }
        Ok(Collect::new(unsolicited.then_some(first_burst)))
    }

    /// A Data-Out's header.
    pub(super) fn data_out(
        &mut self,
        header: &Header,
        actions: &mut Vec<Action>,
    ) -> Result<Place, Violation> {
        let pdu = DataOut::decode(header);
        // Data of a command that is over already (aborted, or answered early) is nothing wrong.
        let Some(id) = self.tasks.find(pdu.itt) else { return Ok(None) };
        let Some(task) = self.tasks.get_mut(id) else { return Ok(None) };
        let State::Collecting(collect) = &mut task.state else {
            // All its data has arrived; what an aborted command still brings is skipped.
            return if task.aborted { Ok(None) } else { Err(PROTOCOL_ERROR) };
        };
        let len = u32::try_from(header.data_len()).unwrap_or(u32::MAX);
        let room = if pdu.ttt == NO_TAG {
            let end = collect.unsolicited.ok_or(PROTOCOL_ERROR)?;
            end.saturating_sub(collect.received)
        } else {
            match collect.front() {
                Some(asked) if asked.ttt == pdu.ttt => asked.left,
                _ => return Err(PROTOCOL_ERROR),
            }
        };
        if len > room {
            return Err(PROTOCOL_ERROR);
        }
        // In order and without gaps (13.18, 13.19); the last PDU of an R2T's answer, and only it,
        // ends it exactly (11.7.1, 11.8.4). Otherwise a PDU is missing (7.9).
        let in_place = pdu.buffer_offset == collect.received && pdu.data_sn == collect.data_sn;
        let ends_right = pdu.ttt == NO_TAG || pdu.last == (len == room);
        if collect.spoiled || !in_place || !ends_right {
            self.spoil(id, &pdu, actions);
            return Ok(None);
        }
        collect.data_sn = collect.data_sn.wrapping_add(1);
        Ok(Some((id, pdu.buffer_offset as usize)))
    }

    /// A Data-Out that cannot be used. Without error recovery within commands the command fails,
    /// once everything that was asked for has ended (7.8 b).
    pub(super) fn spoil(&mut self, id: TaskId, pdu: &DataOut, actions: &mut Vec<Action>) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        let State::Collecting(collect) = &mut task.state else { return };
        collect.spoiled = true;
        if pdu.last {
            if pdu.ttt == NO_TAG {
                collect.unsolicited = None;
            } else {
                collect.pop();
            }
        }
        if collect.unsolicited.is_none() && collect.outstanding() == 0 {
            let reply = Reply {
                status: CHECK_CONDITION,
                sense: &SPOILED_SENSE,
                data: Data::None,
                wanted: 0,
                gives: 0,
            };
            self.complete(id, &reply, actions);
        }
    }

    /// The data segment of a command or Data-Out is complete (it may be empty).
    pub(super) fn data_arrived(&mut self, id: TaskId, header: &Header, actions: &mut Vec<Action>) {
        let len = u32::try_from(header.data_len()).unwrap_or(u32::MAX);
        let Some(task) = self.tasks.get_mut(id) else { return };
        let State::Collecting(collect) = &mut task.state else { return };
        collect.received = collect.received.saturating_add(len);
        collect.asked = collect.asked.max(collect.received);
        let is_data_out = header.opcode() == Some(crate::iscsi::Opcode::DataOut);
        if is_data_out {
            let pdu = DataOut::decode(header);
            if pdu.ttt == NO_TAG {
                if pdu.last {
                    collect.unsolicited = None;
                    collect.data_sn = 0;
                }
            } else if let Some(asked) = collect.front() {
                asked.left = asked.left.saturating_sub(len);
                if asked.left == 0 {
                    collect.pop();
                }
            }
        }
        if collect.unsolicited.is_some() {
            return;
        }
        if collect.received >= task.transfer {
            self.data_complete(id, actions);
        } else {
            self.ask(id);
        }
    }

    /// Sends the R2Ts that MaxOutstandingR2T leaves room for.
    fn ask(&mut self, id: TaskId) {
        let most = usize::try_from(self.parameters.max_outstanding_r2t).unwrap_or(1);
        loop {
            let ttt = self.next_ttt;
            let numbers = self.numbers();
            let Some(task) = self.tasks.get_mut(id) else { return };
            let State::Collecting(collect) = &mut task.state else { return };
            let left = task.transfer.saturating_sub(collect.asked).min(self.parameters.max_burst);
            if left == 0 || collect.outstanding() >= most || !collect.push(Asked { ttt, left }) {
                return;
            }
            let r2t = R2t {
                lun: task.lun,
                itt: task.itt,
                ttt,
                numbers,
                r2t_sn: task.r2t_sn,
                buffer_offset: collect.asked,
                desired_length: left,
            };
            task.r2t_sn = task.r2t_sn.wrapping_add(1);
            collect.asked = collect.asked.saturating_add(left);
            self.new_ttt();
            self.output.push(r2t.encode(), &[], self.digests);
        }
    }

    /// Everything the command brings is there: it starts, if every command before it has arrived.
    fn data_complete(&mut self, id: TaskId, actions: &mut Vec<Action>) {
        let Some(task) = self.tasks.get(id) else { return };
        if task.immediate || task.cmd_sn.before(self.window.expected()) {
            self.execute(id, actions);
        } else {
            self.tasks.make_ready(id);
        }
    }

    /// Starts what waited for a number that has arrived now.
    pub(super) fn start_ready(&mut self, actions: &mut Vec<Action>) {
        while let Some(id) = self.tasks.next_ready(self.window.expected()) {
            self.execute(id, actions);
        }
    }

    fn execute(&mut self, id: TaskId, actions: &mut Vec<Action>) {
        if let Some(task) = self.tasks.execute(id) {
            actions.push(Action::Execute(Command {
                task: id,
                lun: task.lun,
                attribute: task.attribute,
                cdb: task.cdb,
                read: task.read,
                write: task.write,
                expected: task.expected,
                data: core::mem::take(&mut task.payload),
            }));
        }
    }
}
