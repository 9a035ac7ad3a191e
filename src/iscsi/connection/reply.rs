//! How a command's end reaches the initiator: Data-In, status, residuals (RFC 7143 11.4, 11.7).

use super::{Action, Connection, Phase, TaskId};
use crate::iscsi::pdu::{DataIn, Residual, ScsiCommand, ScsiResponse};
use crate::sys::buffer::Buffer;

/// SCSI status GOOD.
const GOOD: u8 = 0x00;
/// SCSI status TASK ABORTED (SAM-5 5.3.1).
const TASK_ABORTED: u8 = 0x40;
/// Longest sense data (SPC-5 4.5.1).
const SENSE_MAX: usize = 252;

/// Data-in of a command.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    None,
    /// Copied.
    Bytes(&'a [u8]),
    /// Sent from where it lies.
    Payload(&'a Buffer),
}

impl Data<'_> {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len(),
            Self::Payload(buffer) => buffer.len(),
        }
    }
}

/// The end of a command as the SCSI layer sees it.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// SCSI status byte.
    pub status: u8,
    pub sense: &'a [u8],
    /// What the command has to give; what is beyond the expected length is cut off and shows as
    /// overflow.
    pub data: Data<'a>,
    /// Data-out the command asked for by its CDB, in bytes; zero for one that takes none.
    pub wanted: u64,
    /// Data-in the command asked for by its CDB, in bytes, where that is more than `data`: the rest was not
    /// fetched, because the initiator does not expect it, and shows as overflow.
    pub gives: u64,
}

impl Connection {
    /// The command is over, with this answer. Nothing is sent for a command that was aborted.
    pub fn complete(&mut self, id: TaskId, reply: &Reply<'_>, actions: &mut Vec<Action>) {
        let Some(task) = self.tasks.remove(id) else { return };
        self.window.set_in_progress(self.tasks.queued());
        if !task.aborted && !matches!(self.phase, Phase::Closing) {
            let gives = reply.gives.max(reply.data.len() as u64);
            let residual = residual(task.read, task.write, task.expected, gives, reply.wanted);
            let sent = if task.read { reply.data.len().min(task.expected as usize) } else { 0 };
            let with_data = sent > 0 && reply.status == GOOD && reply.sense.is_empty();
            let status = with_data.then_some((reply.status, residual));
            let data_pdus = self.send_data(task.itt, task.lun, &reply.data, sent, status);
            if !with_data {
                let response = ScsiResponse {
                    status: reply.status,
                    itt: task.itt,
                    exp_data_sn: data_pdus + task.r2t_sn,
                    residual,
                    ..ScsiResponse::default()
                };
                self.respond(response, reply.sense);
            }
        }
        self.task_is_over(id, actions);
    }

    /// The command is over without effect, as [`Action::Abort`] asked. One that nobody asked to
    /// abort is answered TASK ABORTED, so that no initiator waits for ever.
    pub fn aborted(&mut self, id: TaskId, actions: &mut Vec<Action>) {
        let reply = Reply { status: TASK_ABORTED, sense: &[], data: Data::None, wanted: 0, gives: 0 };
        self.complete(id, &reply, actions);
    }

    /// Sends the first `len` bytes as Data-In, in segments the initiator takes and sequences of
    /// MaxBurstLength; the last one carries `status`. Returns how many PDUs it took.
    fn send_data(
        &mut self,
        itt: u32,
        lun: u64,
        data: &Data<'_>,
        len: usize,
        status: Option<(u8, Residual)>,
    ) -> u32 {
        let segment_max = self.parameters.send_max as usize;
        let burst_max = self.parameters.max_burst as usize;
        let (mut offset, mut burst, mut data_sn) = (0, 0, 0);
        while offset < len {
            let end = len.min(offset + segment_max.min(burst_max - burst));
            burst += end - offset;
            let ends = end == len;
            let mut pdu = DataIn {
                last: ends || burst == burst_max,
                // Tags and LUN matter only with the A bit, but the LUN is harmless and seen in traces.
                lun,
                data_sn,
                buffer_offset: u32::try_from(offset).unwrap_or(u32::MAX),
                ..DataIn::plain(itt)
            };
            if let (true, Some((status, residual))) = (ends, status) {
                pdu.status = Some(status);
                pdu.residual = residual;
                pdu.numbers = self.status_numbers();
            } else {
                pdu.numbers = self.numbers();
            }
            let header = pdu.encode();
            match data {
                Data::None => {}
                Data::Bytes(bytes) => {
                    self.output.push(header, bytes.get(offset..end).unwrap_or_default(), self.digests);
                }
                Data::Payload(buffer) => self.output.push_payload(header, buffer, offset, end, self.digests),
            }
            if burst == burst_max {
                burst = 0;
            }
            offset = end;
            data_sn += 1;
        }
        data_sn
    }

    /// Sends a SCSI Response; sense data goes behind its length (11.4.7).
    fn respond(&mut self, response: ScsiResponse, sense: &[u8]) {
        let numbers = self.status_numbers();
        let header = ScsiResponse { numbers, ..response }.encode();
        let sense = sense.get(..sense.len().min(SENSE_MAX)).unwrap_or_default();
        if sense.is_empty() {
            return self.output.push(header, &[], self.digests);
        }
        let mut data = [0; 2 + SENSE_MAX];
        let (length, rest) = data.split_at_mut(2);
        length.copy_from_slice(&u16::try_from(sense.len()).unwrap_or(0).to_be_bytes());
        rest.iter_mut().zip(sense).for_each(|(place, byte)| *place = *byte);
        self.output.push(header, data.get(..2 + sense.len()).unwrap_or_default(), self.digests);
    }

    /// Answers a command that never became a task.
    pub(super) fn answer_at_once(&mut self, command: &ScsiCommand, status: u8, sense: &[u8]) {
        let expected = command.expected_data_transfer_length;
        let residual = residual(command.read, command.write, expected, 0, 0);
        // Its number has arrived and no task took its place: the window moves on.
        self.window.set_in_progress(self.tasks.queued());
        self.respond(ScsiResponse { status, itt: command.itt, residual, ..ScsiResponse::default() }, sense);
    }
}

/// What the initiator expected against what the command moves (11.4.5): `gives` bytes in, `wants`
/// bytes out. Data in a direction that was not announced cannot move at all: overflow.
fn residual(read: bool, write: bool, expected: u32, gives: u64, wants: u64) -> Residual {
    let (moves, cannot) = match (read, write) {
        (true, _) => (gives, wants),
        (false, true) => (wants, gives),
        (false, false) => (0, gives + wants),
    };
    if cannot > 0 {
        return Residual::of(0, cannot);
    }
    let expected = if read || write { expected } else { 0 };
    Residual::of(u64::from(expected), moves)
}

#[cfg(test)]
mod tests {
    use super::{Residual, residual};

    #[test]
    fn residuals_are_exact() {
        assert_eq!(residual(true, false, 512, 512, 0), Residual::None);
        assert_eq!(residual(true, false, 1024, 512, 0), Residual::Underflow(512));
        assert_eq!(residual(true, false, 0, 512, 0), Residual::Overflow(512));
        assert_eq!(residual(false, true, 512, 0, 1024), Residual::Overflow(512));
        assert_eq!(residual(false, true, 10_000, 0, 512), Residual::Underflow(9488));
        assert_eq!(residual(false, false, 0, 0, 0), Residual::None);
        assert_eq!(residual(false, false, 0, 36, 0), Residual::Overflow(36));
        assert_eq!(residual(true, false, 512, 0, 512), Residual::Overflow(512));
    }
}
