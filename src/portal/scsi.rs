//! The SCSI command set behind a session: CDBs to [`scsi::execute`], block requests to the volumes.

use std::sync::Arc;

use crate::block::Outcome;
use crate::iscsi::pdu::{LoginStatus, TaskFunction};
use crate::iscsi::{Candidate, Command, TargetRecord, TaskId};
use crate::scsi::{
    self, Addressed, Arrival, DataIn, Execution, Lun, Medium, Port, Progress, UnitAttention, execute,
};
use crate::sys::buffer::Buffer;
use crate::volume::{BlockVolume, Completion, CompletionQueue, ReplyTo, Submitted, Ticket};

use super::exports::{Export, Exports, View};
use super::service::{End, Finished, Nexus, OwnedReply, SenseData, Service};

/// The array's [`Exports`] as a portal's [`Service`].
#[derive(Clone, Debug)]
pub struct ScsiService<E>(pub E);

impl<E: Exports> Service for ScsiService<E> {
    type Nexus = ScsiNexus<E>;

    fn admit(&self, candidate: &Candidate) -> Result<(), LoginStatus> {
        self.0.admit(candidate)
    }

    fn nexus(&self, candidate: &Candidate, portal_group_tag: u16, reinstated: bool) -> ScsiNexus<E> {
        ScsiNexus::new(self.0.clone(), candidate, portal_group_tag, reinstated)
    }

    fn targets(&self, candidate: &Candidate) -> Vec<TargetRecord> {
        self.0.targets(candidate)
    }
}

/// A command that waits for block requests.
#[derive(Debug)]
struct Running<V> {
    medium: Medium,
    /// Data-out.
    data: Buffer,
    volume: V,
    /// Number of the unit.
    unit: u64,
    /// No further request is submitted.
    aborted: bool,
}

/// One place for a command; what it holds is reused.
#[derive(Debug)]
struct Slot<V> {
    running: Option<Running<V>>,
    /// Requests not yet over, by their number within the command.
    tickets: Vec<(u32, Ticket)>,
    next_request: u32,
}

impl<V> Default for Slot<V> {
    fn default() -> Self {
        Self { running: None, tickets: Vec::new(), next_request: 0 }
    }
}

/// One I_T nexus.
#[derive(Debug)]
pub struct ScsiNexus<E: Exports> {
    exports: E,
    initiator: String,
    portal_group_tag: u16,
    port: Port,
    nexus: scsi::Nexus,
    version: u64,
    view: View<E::Volume>,
    /// The LUNs of `view`.
    luns: Vec<Lun>,
    /// By task.
    slots: Vec<Slot<E::Volume>>,
    /// Parameter data of one command.
    parameter: Vec<u8>,
}

/// A completion's tag: which command, which of its requests.
fn tag(task: TaskId, request: u32) -> u64 {
    u64::from(task.0) << 32 | u64::from(request)
}

fn untag(tag: u64) -> (TaskId, u32) {
    let task = u16::try_from(tag >> 32).unwrap_or(u16::MAX);
    (TaskId(task), u32::try_from(tag & u64::from(u32::MAX)).unwrap_or(0))
}

impl<E: Exports> ScsiNexus<E> {
    fn new(exports: E, candidate: &Candidate, portal_group_tag: u16, reinstated: bool) -> Self {
        let first = if reinstated { UnitAttention::NexusLoss } else { UnitAttention::PowerOn };
        let initiator = candidate.initiator_name.clone();
        let version = exports.version();
        let view = exports.view(&initiator, portal_group_tag);
        Self {
            port: exports.port(portal_group_tag),
            luns: view.exports.iter().map(|export| export.lun).collect(),
            exports,
            initiator,
            portal_group_tag,
            nexus: scsi::Nexus::new(first),
            version,
            view,
            slots: (0..TaskId::LIMIT).map(|_| Slot::default()).collect(),
            parameter: Vec::new(),
        }
    }

    /// Takes a newer view when there is one.
    fn refresh(&mut self) {
        let version = self.exports.version();
        if version != self.version {
            self.version = version;
            self.view = self.exports.view(&self.initiator, self.portal_group_tag);
            self.luns.clear();
            self.luns.extend(self.view.exports.iter().map(|export| export.lun));
        }
    }

    fn export(&self, lun: u64) -> Option<&Export<E::Volume>> {
        let lun = Lun::decode(lun)?;
        let place = self.view.exports.binary_search_by_key(&lun, |export| export.lun).ok()?;
        self.view.exports.get(place)
    }

    fn slot(&mut self, task: TaskId) -> Option<&mut Slot<E::Volume>> {
        self.slots.get_mut(usize::from(task.0))
    }

    /// Submits what may be submitted now; finishes the command if that was the last of it.
    fn drive(&mut self, task: TaskId, queue: &Arc<CompletionQueue>, finished: &mut Vec<Finished>) {
        let Some(slot) = self.slot(task) else { return };
        loop {
            let Some(running) = &mut slot.running else { return };
            if running.aborted {
                if slot.tickets.is_empty() {
                    slot.running = None;
                    finished.push(Finished { task, end: End::Aborted });
                }
                return;
            }
            let Some(submission) = running.medium.next(running.data.as_slice()) else { return };
            let data = if submission.data.is_empty() {
                Buffer::empty()
            } else {
                running.data.slice(submission.data)
            };
            let number = slot.next_request;
            slot.next_request = number.wrapping_add(1);
            let reply = ReplyTo { queue: Arc::clone(queue), tag: tag(task, number) };
            match running.volume.submit(submission.request, data, reply) {
                Submitted::Pending(ticket) => slot.tickets.push((number, ticket)),
                Submitted::Done(completion) => {
                    if slot.take(task, completion, finished) {
                        return;
                    }
                }
            }
        }
    }
}

impl<V> Slot<V> {
    /// Takes the outcome of one request; true when the command is over.
    fn take(&mut self, task: TaskId, completion: Completion, finished: &mut Vec<Finished>) -> bool {
        let Some(running) = &mut self.running else { return true };
        let Completion { outcome, data: read, .. } = completion;
        let good = if outcome == Outcome::Good { read.as_slice() } else { &[] };
        let end = match running.medium.completed(outcome, good, running.data.as_slice()) {
            Progress::Pending => return false,
            Progress::Finished(scsi::End::Aborted) => End::Aborted,
            Progress::Finished(scsi::End::Reply(reply)) => End::Reply(owned(&reply, &[], read)),
        };
        self.running = None;
        finished.push(Finished { task, end });
        true
    }
}

/// A reply with its data: `parameter`, or what the medium gave.
fn owned(reply: &scsi::Reply, parameter: &[u8], medium: Buffer) -> OwnedReply {
    OwnedReply {
        status: reply.status.code(),
        sense: reply.sense.map_or(SenseData::EMPTY, |sense| SenseData::new(&sense.fixed())),
        data: match reply.data_in {
            DataIn::None => Buffer::empty(),
            DataIn::Parameter => Buffer::copy_of(parameter),
            DataIn::Medium => medium,
        },
        wanted: reply.wanted,
        gives: reply.gives,
    }
}

impl<E: Exports> Nexus for ScsiNexus<E> {
    fn start(&mut self, command: Command, queue: &Arc<CompletionQueue>, finished: &mut Vec<Finished>) {
        self.refresh();
        let task = command.task;
        let lun = Lun::decode(command.lun);
        let place = lun
            .and_then(|lun| self.view.exports.binary_search_by_key(&lun, |export| export.lun).ok())
            .and_then(|place| self.view.exports.get(place));
        let view = scsi::View {
            port: &self.port,
            luns: &self.luns,
            inventory: self.view.inventory,
            unit: place.map(|export| Addressed {
                lun: export.lun,
                unit: &export.unit,
                access: &export.access,
                changes: export.changes,
                space: export.space,
            }),
        };
        let room = if command.read { command.expected } else { 0 };
        let arrival = Arrival { cdb: &command.cdb, data: command.data.as_slice(), room };
        match (execute(&view, &mut self.nexus, &arrival, &mut self.parameter), place) {
            (Execution::Done(reply), _) => {
                let end = End::Reply(owned(&reply, &self.parameter, Buffer::empty()));
                finished.push(Finished { task, end });
            }
            (Execution::Medium(medium), Some(export)) => {
                let volume = export.volume.clone();
                let running = Running { medium, data: command.data, volume, unit: export.id, aborted: false };
                if let Some(slot) = self.slots.get_mut(usize::from(task.0)) {
                    slot.running = Some(running);
                    slot.tickets.clear();
                }
                self.drive(task, queue, finished);
            }
            // A media command needs a unit; without one it was answered.
            (Execution::Medium(_), None) => finished.push(Finished { task, end: End::Aborted }),
        }
    }

    fn completed(
        &mut self,
        completion: Completion,
        queue: &Arc<CompletionQueue>,
        finished: &mut Vec<Finished>,
    ) {
        let (task, number) = untag(completion.tag);
        let Some(slot) = self.slot(task) else { return };
        let Some(at) = slot.tickets.iter().position(|(known, _)| *known == number) else { return };
        slot.tickets.swap_remove(at);
        if !slot.take(task, completion, finished) {
            self.drive(task, queue, finished);
        }
    }

    fn abort(&mut self, task: TaskId) {
        let Some(slot) = self.slot(task) else { return };
        let Some(running) = &mut slot.running else { return };
        running.aborted = true;
        for (_, ticket) in &slot.tickets {
            running.volume.abort(*ticket);
        }
    }

    fn unit(&self, lun: u64) -> Option<u64> {
        self.export(lun).map(|export| export.id)
    }

    fn lun_of(&self, unit: u64) -> Option<u64> {
        self.view.exports.iter().find(|export| export.id == unit).map(|export| export.lun.encode())
    }

    fn unit_of(&self, task: TaskId) -> Option<u64> {
        self.slots.get(usize::from(task.0))?.running.as_ref().map(|running| running.unit)
    }

    fn managed(&mut self, function: TaskFunction, lun: u64) {
        match function {
            TaskFunction::LogicalUnitReset => {
                if let Some(unit) = self.unit(lun) {
                    self.exports.reset(Some(unit));
                }
            }
            TaskFunction::TargetWarmReset | TaskFunction::TargetColdReset => self.exports.reset(None),
            _ => {}
        }
    }

    fn commands_cleared(&mut self, lun: u64) {
        if let Some(lun) = Lun::decode(lun) {
            self.nexus.establish(lun, UnitAttention::CommandsCleared);
        }
    }
}
