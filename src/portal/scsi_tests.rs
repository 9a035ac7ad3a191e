//! The nexus over volumes whose requests stay pending until the test ends them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::block::{Op, Outcome, Request};
use crate::iscsi::negotiation::Parameters;
use crate::iscsi::pdu::{Attribute, Isid, LoginStatus, TaskFunction};
use crate::iscsi::{Candidate, Command, SessionType, TargetRecord, TaskId};
use crate::scsi::{Access, AccessState, Changes, Identity, Limits, LogicalUnit, Lun, Port, PortGroup};
use crate::sys::buffer::Buffer;
use crate::volume::{BlockVolume, Completion, CompletionQueue, ReplyTo, Submitted, Ticket};

use super::exports::{Export, Exports, View};
use super::scsi::{ScsiNexus, ScsiService};
use super::service::{End, Finished, Nexus, Service};

#[derive(Clone, Debug, Default)]
struct SlowVolume(Rc<RefCell<Pending>>);

#[derive(Debug, Default)]
struct Pending {
    requests: Vec<(u64, Request, Vec<u8>, ReplyTo)>,
    aborted: Vec<u64>,
    next: u64,
}

impl BlockVolume for SlowVolume {
    fn submit(&self, request: Request, data: Buffer, reply: ReplyTo) -> Submitted {
        let mut pending = self.0.borrow_mut();
        pending.next += 1;
        let ticket = pending.next;
        pending.requests.push((ticket, request, data.as_slice().to_vec(), reply));
        Submitted::Pending(Ticket(ticket))
    }

    fn abort(&self, ticket: Ticket) {
        self.0.borrow_mut().aborted.push(ticket.0);
    }
}

impl SlowVolume {
    /// Ends the oldest request.
    fn end(&self, outcome: Outcome, data: &[u8]) {
        let (.., reply) = self.0.borrow_mut().requests.remove(0);
        reply.queue.push(Completion { tag: reply.tag, outcome, data: Buffer::copy_of(data) });
    }
}

#[derive(Clone, Debug)]
struct Array {
    volume: SlowVolume,
    version: Rc<Cell<u64>>,
    resets: Rc<Cell<u64>>,
    exported: Rc<Cell<bool>>,
    write_cache: bool,
}

impl Exports for Array {
    type Volume = SlowVolume;

    fn version(&self) -> u64 {
        self.version.get()
    }

    fn view(&self, _: &str, _: u16) -> View<SlowVolume> {
        let identity = Identity {
            naa: [0x60; 16],
            serial: "1".into(),
            vendor: Identity::field("TWINLUN"),
            product: Identity::field("VV"),
            revision: Identity::field("1"),
        };
        let unit = LogicalUnit {
            identity,
            blocks: 1024,
            thin: true,
            write_cache: self.write_cache,
            limits: Limits::default(),
        };
        let own = PortGroup { id: 1, state: AccessState::ActiveOptimized, ports: vec![1] };
        let export = Export {
            lun: Lun::new(3).unwrap(),
            id: 900,
            unit,
            access: Access { own, other: None, transition_s: 5, told: true },
            changes: Changes { access: 0, resets: self.resets.get() },
            space: None,
            volume: self.volume.clone(),
        };
        let exports = if self.exported.get() { vec![export] } else { Vec::new() };
        View { inventory: u64::from(!self.exported.get()), exports }
    }

    fn port(&self, portal_group_tag: u16) -> Port {
        Port { relative: portal_group_tag, name: "iqn.t,t,0x0001".into(), device: "iqn.t".into() }
    }

    fn admit(&self, _: &Candidate) -> Result<(), LoginStatus> {
        Ok(())
    }

    fn targets(&self, _: &Candidate) -> Vec<TargetRecord> {
        Vec::new()
    }

    fn reset(&self, _: Option<u64>) {
        self.resets.set(self.resets.get() + 1);
        self.version.set(self.version.get() + 1);
    }
}

const LUN: u64 = 3 << 48;

struct Rig {
    array: Array,
    nexus: ScsiNexus<Array>,
    queue: Arc<CompletionQueue>,
    finished: Vec<Finished>,
}

impl Rig {
    fn new() -> Self {
        Self::with_cache(false)
    }

    fn with_cache(write_cache: bool) -> Self {
        let array = Array {
            volume: SlowVolume::default(),
            version: Rc::default(),
            resets: Rc::default(),
            exported: Rc::new(Cell::new(true)),
            write_cache,
        };
        let mut rig = Self { nexus: nexus(&array), array, queue: Arc::default(), finished: Vec::new() };
        assert_eq!(rig.sense([0; 16]), Some((0x29, 0x00)), "power on");
        rig
    }

    fn start(&mut self, task: u16, cdb: [u8; 16], data: &[u8]) {
        let command = Command {
            task: TaskId(task),
            lun: LUN,
            attribute: Attribute::Simple,
            cdb,
            read: cdb[0] == 0x28,
            write: false,
            expected: if cdb[0] == 0x28 { 512 } else { 0 },
            data: Buffer::copy_of(data),
        };
        self.nexus.start(command, &self.queue, &mut self.finished);
    }

    fn drain(&mut self) {
        let mut completions = Vec::new();
        self.queue.drain(&mut completions);
        for completion in completions {
            self.nexus.completed(completion, &self.queue, &mut self.finished);
        }
    }

    /// The additional sense code that a command gets at once, if it gets one.
    fn sense(&mut self, cdb: [u8; 16]) -> Option<(u8, u8)> {
        self.start(9, cdb, &[]);
        let Some(Finished { end: End::Reply(reply), .. }) = self.finished.pop() else { panic!() };
        let sense = reply.sense.as_slice();
        (reply.status == 2).then(|| (sense[12], sense[13]))
    }

    fn pending(&self) -> Vec<Op> {
        self.array.volume.0.borrow().requests.iter().map(|(_, request, ..)| request.op).collect()
    }
}

fn nexus(array: &Array) -> ScsiNexus<Array> {
    let candidate = Candidate {
        initiator_name: "iqn.h".into(),
        initiator_alias: String::new(),
        isid: Isid([0; 6]),
        tsih: 0,
        cid: 0,
        session_type: SessionType::Normal,
        parameters: Parameters::default(),
    };
    ScsiService(array.clone()).nexus(&candidate, 1, false)
}

const TEST_UNIT_READY: [u8; 16] = [0; 16];

fn write_10(force: bool) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[8]) = (0x2a, if force { 8 } else { 0 }, 1);
    cdb
}

fn read_10() -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[8]) = (0x28, 1);
    cdb
}

#[test]
fn a_read_brings_what_the_volume_read() {
    let mut rig = Rig::new();
    rig.start(1, read_10(), &[]);
    assert!(rig.finished.is_empty());
    rig.array.volume.end(Outcome::Good, &[7; 512]);
    rig.drain();
    let Finished { task: TaskId(1), end: End::Reply(reply) } = rig.finished.remove(0) else { panic!() };
    assert_eq!((reply.status, reply.data.as_slice()), (0, &[7; 512][..]));
}

#[test]
fn completions_in_any_order_find_their_commands() {
    let mut rig = Rig::new();
    rig.start(1, read_10(), &[]);
    rig.start(2, write_10(false), &[5; 512]);
    assert_eq!(rig.array.volume.0.borrow().requests[1].2, vec![5; 512]);
    rig.array.volume.0.borrow_mut().requests.swap(0, 1);
    rig.array.volume.end(Outcome::Good, &[]);
    rig.array.volume.end(Outcome::ReadError, &[]);
    rig.drain();
    let tasks: Vec<_> = rig.finished.iter().map(|finished| finished.task.0).collect();
    assert_eq!(tasks, [2, 1]);
}

/// Rule 9: the command is over when its request is, and what the request did is not hidden.
#[test]
fn an_abort_is_over_when_its_request_is() {
    let mut rig = Rig::new();
    rig.start(1, write_10(false), &[5; 512]);
    rig.nexus.abort(TaskId(1));
    assert_eq!(rig.array.volume.0.borrow().aborted, [1]);
    assert!(rig.finished.is_empty(), "still running");
    rig.array.volume.end(Outcome::Aborted, &[]);
    rig.drain();
    assert!(matches!(rig.finished[..], [Finished { task: TaskId(1), end: End::Aborted }]));
}

/// An aborted command starts nothing more: here the flush of a forced write.
#[test]
fn an_aborted_command_takes_no_further_step() {
    let mut rig = Rig::with_cache(true);
    rig.start(1, write_10(true), &[5; 512]);
    rig.nexus.abort(TaskId(1));
    rig.array.volume.end(Outcome::Good, &[]);
    rig.drain();
    assert!(rig.pending().is_empty());
    assert!(matches!(rig.finished[..], [Finished { end: End::Aborted, .. }]));

    let mut rig = Rig::with_cache(true);
    rig.start(1, write_10(true), &[5; 512]);
    rig.array.volume.end(Outcome::Good, &[]);
    rig.drain();
    assert_eq!(rig.pending(), [Op::Flush], "without the abort it goes on");
}

#[test]
fn an_unmap_of_many_ranges_is_aborted_as_a_whole() {
    let mut rig = Rig::new();
    let mut cdb = [0; 16];
    (cdb[0], cdb[8]) = (0x42, 8 + 3 * 16);
    let mut list = vec![0, 54, 0, 48, 0, 0, 0, 0];
    for lba in 0..3_u64 {
        list.extend_from_slice(&(lba * 8).to_be_bytes());
        list.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, 0]);
    }
    rig.start(1, cdb, &list);
    assert_eq!(rig.pending(), [Op::Unmap; 3]);
    rig.array.volume.end(Outcome::Good, &[]);
    rig.drain();
    rig.nexus.abort(TaskId(1));
    assert_eq!(rig.array.volume.0.borrow().aborted.len(), 2);
    rig.array.volume.end(Outcome::Aborted, &[]);
    rig.drain();
    assert!(rig.finished.is_empty(), "one range is not over");
    rig.array.volume.end(Outcome::Good, &[]);
    rig.drain();
    assert!(matches!(rig.finished[..], [Finished { end: End::Aborted, .. }]));
}

#[test]
fn a_unit_taken_away_leaves_its_commands_running() {
    let mut rig = Rig::new();
    rig.start(1, read_10(), &[]);
    rig.array.exported.set(false);
    rig.array.version.set(1);
    assert_eq!(rig.sense(TEST_UNIT_READY), Some((0x25, 0x00)));
    assert_eq!((rig.nexus.lun_of(900), rig.nexus.unit_of(TaskId(1))), (None, Some(900)));
    rig.array.volume.end(Outcome::Good, &[1; 512]);
    rig.drain();
    assert_eq!(rig.nexus.unit_of(TaskId(1)), None);
    assert!(matches!(rig.finished[..], [Finished { task: TaskId(1), end: End::Reply(_) }]));
}

#[test]
fn a_reset_is_told_to_every_nexus_once() {
    let mut rig = Rig::new();
    assert_eq!((rig.nexus.unit(LUN), rig.nexus.lun_of(900)), (Some(900), Some(LUN)));
    assert_eq!(rig.sense(TEST_UNIT_READY), None);
    let mut other = nexus(&rig.array);
    std::mem::swap(&mut other, &mut rig.nexus);
    assert_eq!(rig.sense(TEST_UNIT_READY), Some((0x29, 0x00)));
    assert_eq!(rig.sense(TEST_UNIT_READY), None);
    rig.nexus.managed(TaskFunction::LogicalUnitReset, LUN);
    assert_eq!(rig.sense(TEST_UNIT_READY), Some((0x29, 0x03)));
    assert_eq!(rig.sense(TEST_UNIT_READY), None);
    std::mem::swap(&mut other, &mut rig.nexus);
    assert_eq!(rig.sense(TEST_UNIT_READY), Some((0x29, 0x03)));
    rig.nexus.commands_cleared(LUN);
    assert_eq!(rig.sense(TEST_UNIT_READY), Some((0x2f, 0x00)));
    assert_eq!(rig.sense(TEST_UNIT_READY), None);
}
