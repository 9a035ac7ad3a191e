//! The connection against an initiator made of plain PDUs.

use proptest::prelude::*;

use super::*;
use crate::iscsi::frame;
use crate::iscsi::header::NO_TAG;
use crate::iscsi::pdu::*;
use crate::iscsi::text;

const READ_10: [u8; 16] = [0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
const WRITE_10: [u8; 16] = [0x2a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];

fn target() -> TargetIdentity {
    TargetIdentity { name: "iqn.2026-01.t:a".into(), alias: String::new(), portal_group_tag: 1 }
}

/// One received PDU with its data.
#[derive(Debug)]
struct Received {
    pdu: Pdu,
    data: Vec<u8>,
}

struct Rig {
    connection: Connection,
    digests: Digests,
    cmd_sn: u32,
    actions: Vec<Action>,
    /// Bytes of the stream not taken yet.
    rest: Vec<u8>,
    now: Time,
}

impl Rig {
    fn new() -> Self {
        Self {
            connection: Connection::new(target(), Limits::default(), Time::ZERO),
            digests: Digests::NONE,
            cmd_sn: 1,
            actions: Vec::new(),
            rest: Vec::new(),
            now: Time::ZERO,
        }
    }

    /// In full feature phase with the given keys besides the names.
    fn logged_in(keys: &[u8]) -> Self {
        let mut rig = Self::new();
        rig.login(keys);
        rig
    }

    fn login(&mut self, keys: &[u8]) -> Vec<u8> {
        let mut data = b"InitiatorName=iqn.2026-01.h:a\0TargetName=iqn.2026-01.t:a\0".to_vec();
        data.extend_from_slice(keys);
        let request = LoginRequest {
            transit: true,
            current: Stage::LoginOperationalNegotiation,
            next: Stage::FullFeaturePhase,
            cmd_sn: Serial(self.cmd_sn),
            isid: Isid([1; 6]),
            ..LoginRequest::default()
        };
        self.send(request.encode(), &data);
        let candidate = self.actions.iter().find_map(|action| match action {
            Action::Establish(candidate) => Some(candidate.clone()),
            _ => None,
        });
        self.actions.clear();
        let digests = candidate.unwrap().parameters.digests;
        self.connection.established(7, Vec::new());
        let mut answers = self.receive();
        self.digests = digests;
        let answer = answers.remove(0);
        let Pdu::LoginResponse(response) = answer.pdu else { panic!("{answer:?}") };
        assert!(response.status.is_success() && response.transit && response.tsih == 7);
        answer.data
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, header, data, self.digests);
        self.send_raw(&bytes);
    }

    fn send_raw(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        let used = self.connection.receive(&self.rest, self.now, &mut self.actions);
        self.rest.drain(..used);
    }

    fn receive(&mut self) -> Vec<Received> {
        let bytes: Vec<u8> = self.connection.output().slices().flatten().copied().collect();
        self.connection.output().sent(bytes.len());
        let mut rest = &bytes[..];
        let mut received = Vec::new();
        while let Some(frame) = Frame::parse(rest, self.digests, 1 << 24).unwrap() {
            received.push(Received { pdu: Pdu::decode(&frame.header).unwrap(), data: frame.data.to_vec() });
            rest = &rest[frame.len..];
        }
        assert!(rest.is_empty());
        received
    }

    fn one(&mut self) -> Received {
        let mut received = self.receive();
        assert_eq!(received.len(), 1, "{received:?}");
        received.remove(0)
    }

    fn next_sn(&mut self) -> Serial {
        self.cmd_sn += 1;
        Serial(self.cmd_sn - 1)
    }

    fn command(&mut self, itt: u32, cdb: [u8; 16], length: u32) -> ScsiCommand {
        let write = cdb[0] == WRITE_10[0];
        ScsiCommand {
            last: true,
            read: !write,
            write,
            lun: 0,
            itt,
            expected_data_transfer_length: length,
            cmd_sn: self.next_sn(),
            cdb,
            ..ScsiCommand::default()
        }
    }

    fn read(&mut self, itt: u32, length: u32) {
        let command = self.command(itt, READ_10, length);
        self.send(command.encode(), &[]);
    }

    fn executed(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        self.actions.retain(|action| match action {
            Action::Execute(command) => {
                commands.push(command.clone());
                false
            }
            _ => true,
        });
        commands
    }

    fn good(&mut self, task: TaskId, data: &[u8], wanted: u64) {
        let reply = Reply { status: 0, sense: &[], data: Data::Bytes(data), wanted };
        self.connection.complete(task, &reply, &mut self.actions);
    }

    fn data_out(&mut self, itt: u32, ttt: u32, data_sn: u32, buffer_offset: u32, data: &[u8], last: bool) {
        let pdu = DataOut { last, itt, ttt, data_sn, buffer_offset, ..DataOut::default() };
        self.send(pdu.encode(), data);
    }

    fn task(&mut self, function: TaskFunction, tag: u32, ref_cmd_sn: u32) {
        let request = TaskRequest {
            immediate: true,
            function,
            lun: 0,
            itt: 900,
            referenced_task_tag: tag,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(0),
            ref_cmd_sn: Serial(ref_cmd_sn),
            exp_data_sn: 0,
        };
        self.send(request.encode(), &[]);
    }

    fn task_result(&mut self) -> TaskResult {
        match self.one().pdu {
            Pdu::TaskResponse(response) => response.result,
            other => panic!("{other:?}"),
        }
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..251_u8).cycle().take(len).collect()
}

#[test]
fn a_read_with_status_in_its_data() {
    let mut rig = Rig::logged_in(b"MaxRecvDataSegmentLength=4096\0MaxBurstLength=8192\0");
    rig.read(5, 10_000);
    let command = rig.executed().remove(0);
    assert_eq!((command.lun, command.expected, command.cdb), (0, 10_000, READ_10));
    let data = pattern(10_000);
    rig.good(command.task, &data, 0);
    let received = rig.receive();
    let mut all = Vec::new();
    let mut shape = Vec::new();
    for Received { pdu, data } in received {
        let Pdu::DataIn(pdu) = pdu else { panic!("{pdu:?}") };
        assert_eq!(pdu.buffer_offset as usize, all.len());
        shape.push((pdu.data_sn, data.len(), pdu.last, pdu.status));
        all.extend(data);
    }
    assert_eq!(all, data);
    assert_eq!(
        shape,
        [(0, 4096, false, None), (1, 4096, true, None), (2, 1808, true, Some(0))],
        "segments, bursts and the status at the end"
    );
}

#[test]
fn residuals_of_reads() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.good(command.task, &pattern(1024), 0);
    let Received { pdu: Pdu::DataIn(pdu), data } = rig.one() else { panic!() };
    assert_eq!((data.len(), pdu.residual), (512, Residual::Overflow(512)));
    rig.read(6, 1024);
    let command = rig.executed().remove(0);
    rig.good(command.task, &pattern(36), 0);
    let Received { pdu: Pdu::DataIn(pdu), .. } = rig.one() else { panic!() };
    assert_eq!(pdu.residual, Residual::Underflow(988));
}

#[test]
fn check_condition_brings_its_sense() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    let sense = [0x70, 0, 5, 0, 0, 0, 0, 10];
    let reply = Reply { status: 2, sense: &sense, data: Data::None, wanted: 0 };
    rig.connection.complete(command.task, &reply, &mut rig.actions);
    let Received { pdu: Pdu::ScsiResponse(pdu), data } = rig.one() else { panic!() };
    assert_eq!((pdu.status, pdu.residual), (2, Residual::Underflow(512)));
    assert_eq!(data, [&[0, 8][..], &sense].concat());
}

#[test]
fn immediate_and_unsolicited_data_then_r2t() {
    let mut rig =
        Rig::logged_in(b"InitialR2T=No\0FirstBurstLength=8192\0MaxBurstLength=16384\0MaxOutstandingR2T=1\0");
    let data = pattern(40_000);
    let mut command = rig.command(5, WRITE_10, 40_000);
    command.last = false;
    rig.send(command.encode(), &data[..4096]);
    rig.data_out(5, NO_TAG, 0, 4096, &data[4096..6000], false);
    assert!(rig.receive().is_empty());
    rig.data_out(5, NO_TAG, 1, 6000, &data[6000..8192], true);
    let mut at = 8192;
    let mut r2t_sn = 0;
    while at < data.len() {
        assert!(rig.executed().is_empty());
        let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
        assert_eq!((r2t.buffer_offset as usize, r2t.r2t_sn), (at, r2t_sn));
        let end = at + r2t.desired_length as usize;
        assert_eq!(end, data.len().min(at + 16_384));
        let half = at + 5000;
        rig.data_out(5, r2t.ttt, 0, u32::try_from(at).unwrap(), &data[at..half], false);
        rig.data_out(5, r2t.ttt, 1, u32::try_from(half).unwrap(), &data[half..end], true);
        at = end;
        r2t_sn += 1;
    }
    let command = rig.executed().remove(0);
    assert_eq!(command.data.as_slice(), data);
    rig.good(command.task, &[], 40_000);
    let Pdu::ScsiResponse(response) = rig.one().pdu else { panic!() };
    assert_eq!((response.status, response.residual, response.exp_data_sn), (0, Residual::None, 2));
}

#[test]
fn several_r2ts_at_once_are_answered_in_order() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0MaxBurstLength=4096\0MaxOutstandingR2T=3\0");
    let command = rig.command(5, WRITE_10, 20_480);
    rig.send(command.encode(), &[]);
    let tags: Vec<u32> = rig
        .receive()
        .iter()
        .map(|received| match received.pdu {
            Pdu::R2t(r2t) => r2t.ttt,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(tags.len(), 3);
    rig.data_out(5, tags[1], 0, 4096, &pattern(4096), true);
    assert!(matches!(rig.one().pdu, Pdu::Reject(Reject { reason: RejectReason::ProtocolError, .. })));
    assert!(rig.connection.is_closing());
}

/// What a Data-Out must not do.
#[test]
fn data_out_outside_its_place_ends_the_connection() {
    type Case = fn(&mut Rig, u32);
    let cases: [(&str, Case); 4] = [
        ("beyond", |rig, ttt| rig.data_out(5, ttt, 0, 0, &[0; 5000], true)),
        ("foreign tag", |rig, ttt| rig.data_out(5, ttt + 9, 0, 0, &[0; 512], false)),
        ("unsolicited", |rig, _| rig.data_out(5, NO_TAG, 0, 0, &[0; 512], false)),
        ("same task tag", |rig, _| {
            let command = rig.command(5, READ_10, 0);
            rig.send(command.encode(), &[]);
        }),
    ];
    for (name, case) in cases {
        let mut rig = Rig::logged_in(b"ImmediateData=No\0");
        let command = rig.command(5, WRITE_10, 4096);
        rig.send(command.encode(), &[]);
        let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
        case(&mut rig, r2t.ttt);
        assert!(matches!(rig.one().pdu, Pdu::Reject(_)), "{name}");
        assert!(rig.connection.is_closing(), "{name}");
        assert!(rig.executed().is_empty(), "{name}");
    }
}

/// A gap in the data fails the command, after all that was asked for; the connection goes on.
#[test]
fn a_data_out_out_of_sequence_fails_its_command() {
    type Case = fn(&mut Rig, u32);
    let cases: [(&str, Case); 5] = [
        ("offset", |rig, ttt| rig.data_out(5, ttt, 0, 512, &[0; 3584], true)),
        ("data sn", |rig, ttt| rig.data_out(5, ttt, 1, 0, &[0; 4096], true)),
        ("twice", |rig, ttt| {
            rig.data_out(5, ttt, 0, 0, &[0; 512], false);
            rig.data_out(5, ttt, 0, 0, &[0; 512], false);
            rig.data_out(5, ttt, 1, 512, &[0; 3584], true);
        }),
        ("early end", |rig, ttt| rig.data_out(5, ttt, 0, 0, &[0; 512], true)),
        ("no end", |rig, ttt| {
            rig.data_out(5, ttt, 0, 0, &[0; 4096], false);
            assert!(rig.receive().is_empty(), "not before the end");
            rig.data_out(5, ttt, 1, 4096, &[], true);
        }),
    ];
    for (name, case) in cases {
        let mut rig = Rig::logged_in(b"ImmediateData=No\0");
        let command = rig.command(5, WRITE_10, 4096);
        rig.send(command.encode(), &[]);
        let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
        case(&mut rig, r2t.ttt);
        let Received { pdu: Pdu::ScsiResponse(response), data } = rig.one() else { panic!("{name}") };
        assert_eq!((response.status, data[4], data[14]), (2, 0x0b, 0x47), "{name}");
        assert!(!rig.connection.is_closing() && rig.connection.is_quiet(), "{name}");
        assert!(rig.executed().is_empty(), "{name}");
    }
}

#[test]
fn a_damaged_data_out_fails_its_command() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0DataDigest=CRC32C\0");
    let command = rig.command(5, WRITE_10, 4096);
    rig.send(command.encode(), &[]);
    let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
    let pdu = DataOut { last: true, itt: 5, ttt: r2t.ttt, ..DataOut::default() };
    let mut bytes = Vec::new();
    frame::append(&mut bytes, pdu.encode(), &pattern(4096), rig.digests);
    bytes[99] ^= 4;
    rig.send_raw(&bytes);
    let received = rig.receive();
    assert!(matches!(received[0].pdu, Pdu::Reject(Reject { reason: RejectReason::DataDigestError, .. })));
    assert!(matches!(received[1].pdu, Pdu::ScsiResponse(ScsiResponse { status: 2, .. })));
    assert!(rig.executed().is_empty() && !rig.connection.is_closing());
    rig.read(6, 512);
    assert_eq!(rig.executed().len(), 1, "the stream is still in step");
}

#[test]
fn announced_data_must_be_allowed() {
    for (keys, last, len) in [
        (&b"ImmediateData=No\0"[..], true, 512),
        (b"FirstBurstLength=512\0", true, 1024),
        (b"", true, 8192),
        (b"", false, 0),
    ] {
        let mut rig = Rig::logged_in(keys);
        let mut command = rig.command(5, WRITE_10, 4096);
        command.last = last;
        rig.send(command.encode(), &vec![0; len]);
        assert!(matches!(rig.one().pdu, Pdu::Reject(_)));
        assert!(rig.connection.is_closing());
    }
}

#[test]
fn data_of_a_command_that_is_over_is_skipped() {
    let mut rig = Rig::logged_in(b"");
    rig.data_out(77, 3, 0, 0, &[1; 600], true);
    rig.read(5, 512);
    assert_eq!(rig.executed().len(), 1);
    assert!(rig.receive().is_empty());
}

#[test]
fn commands_start_in_the_order_of_their_numbers() {
    let mut rig = Rig::logged_in(b"");
    let first = rig.command(1, READ_10, 512);
    let second = rig.command(2, READ_10, 512);
    let third = rig.command(3, READ_10, 512);
    rig.send(third.encode(), &[]);
    rig.send(second.encode(), &[]);
    rig.send(second.encode(), &[]);
    assert!(rig.executed().is_empty());
    rig.send(first.encode(), &[]);
    let order: Vec<Serial> =
        rig.executed().iter().map(|command| rig.connection.tasks.get(command.task).unwrap().cmd_sn).collect();
    assert_eq!(order, [first.cmd_sn, second.cmd_sn, third.cmd_sn]);
}

#[test]
fn numbers_outside_the_window_are_ignored() {
    let mut rig = Rig::logged_in(b"");
    for wrong in [0, 1 + 128] {
        let command = ScsiCommand { cmd_sn: Serial(wrong), ..rig.command(9, READ_10, 512) };
        rig.cmd_sn -= 1;
        rig.send(command.encode(), &[]);
    }
    assert!(rig.executed().is_empty() && rig.receive().is_empty());
    rig.read(9, 512);
    assert_eq!(rig.executed().len(), 1);
}

#[test]
fn the_window_is_as_wide_as_what_is_free() {
    let mut rig = Rig::logged_in(b"");
    for itt in 0..128 {
        rig.read(itt, 512);
    }
    assert_eq!(rig.executed().len(), 128);
    rig.read(200, 512);
    assert!(rig.executed().is_empty(), "the window is full");
    rig.cmd_sn -= 1;
    rig.good(TaskId(3), &[0; 512], 0);
    let Pdu::DataIn(pdu) = rig.one().pdu else { panic!() };
    assert_eq!(pdu.numbers.exp_cmd_sn.until(pdu.numbers.max_cmd_sn), 0);
    rig.read(200, 512);
    assert_eq!(rig.executed().len(), 1);
}

#[test]
fn immediate_commands_are_limited() {
    let mut rig = Rig::logged_in(b"");
    for itt in 0..17 {
        let command = ScsiCommand { immediate: true, ..rig.command(itt, READ_10, 512) };
        rig.cmd_sn -= 1;
        rig.send(command.encode(), &[]);
    }
    assert_eq!(rig.executed().len(), 16);
    let Pdu::Reject(reject) = rig.one().pdu else { panic!() };
    assert_eq!(reject.reason, RejectReason::TooManyImmediateCommands);
    assert!(!rig.connection.is_closing());
}

#[test]
fn memory_is_bounded_by_task_set_full() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0");
    let mut full = 0;
    for itt in 0..40 {
        let command = rig.command(itt, WRITE_10, 8 << 20);
        rig.send(command.encode(), &[]);
        for received in rig.receive() {
            match received.pdu {
                Pdu::ScsiResponse(response) => {
                    assert_eq!(response.status, 0x28);
                    full += 1;
                }
                Pdu::R2t(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(full, 32);
    assert!(rig.connection.tasks.charged() <= Limits::default().connection_bytes);
}

#[test]
fn an_abort_waits_for_its_command() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.task(TaskFunction::AbortTask, 5, 1);
    assert!(matches!(rig.actions[..], [Action::Abort(task)] if task == command.task));
    assert!(rig.receive().is_empty(), "not before the command is over");
    rig.connection.aborted(command.task, &mut rig.actions);
    assert_eq!(rig.task_result(), TaskResult::Complete);
    assert!(rig.connection.is_quiet());
}

#[test]
fn an_aborted_command_that_finished_is_not_answered() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.task(TaskFunction::AbortTask, 5, 1);
    rig.good(command.task, &[0; 512], 0);
    assert_eq!(rig.task_result(), TaskResult::Complete);
}

#[test]
fn abort_of_what_is_not_there() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.good(command.task, &[0; 512], 0);
    rig.receive();
    rig.task(TaskFunction::AbortTask, 5, 1);
    assert_eq!(rig.task_result(), TaskResult::Complete, "finished");
    rig.task(TaskFunction::AbortTask, 6, 5000);
    assert_eq!(rig.task_result(), TaskResult::TaskDoesNotExist, "outside the window");
    // A command that was never received: its number counts as received, and it is dead.
    let lost = rig.command(8, READ_10, 512);
    rig.task(TaskFunction::AbortTask, 8, lost.cmd_sn.0);
    assert_eq!(rig.task_result(), TaskResult::Complete, "not received");
    rig.send(lost.encode(), &[]);
    assert!(rig.executed().is_empty(), "an aborted command never starts");
}

#[test]
fn abort_of_a_command_of_another_unit_is_no_success() {
    let mut rig = Rig::logged_in(b"");
    let command = ScsiCommand { lun: 1 << 48, ..rig.command(5, READ_10, 512) };
    rig.send(command.encode(), &[]);
    rig.executed();
    rig.task(TaskFunction::AbortTask, 5, command.cmd_sn.0);
    assert_eq!(rig.task_result(), TaskResult::Rejected);
    assert!(rig.actions.is_empty());
}

#[test]
fn a_write_aborted_while_its_data_come_never_starts() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0");
    let command = rig.command(5, WRITE_10, 4096);
    rig.send(command.encode(), &[]);
    let Pdu::R2t(r2t) = rig.one().pdu else { panic!() };
    rig.task(TaskFunction::AbortTask, 5, command.cmd_sn.0);
    assert_eq!(rig.task_result(), TaskResult::Complete);
    rig.data_out(5, r2t.ttt, 0, 0, &[0; 4096], true);
    assert!(rig.executed().is_empty() && rig.receive().is_empty());
    assert!(rig.connection.is_quiet());
}

#[test]
fn a_reset_waits_for_both_sides() {
    for inside_first in [true, false] {
        let mut rig = Rig::logged_in(b"");
        rig.read(5, 512);
        let command = rig.executed().remove(0);
        rig.task(TaskFunction::LogicalUnitReset, NO_TAG, 0);
        let [Action::Abort(_), Action::Manage { id, function: TaskFunction::LogicalUnitReset, lun: 0 }] =
            rig.actions[..]
        else {
            panic!("{:?}", rig.actions)
        };
        if inside_first {
            rig.connection.aborted(command.task, &mut rig.actions);
            assert!(rig.receive().is_empty());
            rig.connection.managed(id, TaskResult::Complete, &mut rig.actions);
        } else {
            rig.connection.managed(id, TaskResult::Complete, &mut rig.actions);
            assert!(rig.receive().is_empty());
            rig.connection.aborted(command.task, &mut rig.actions);
        }
        assert_eq!(rig.task_result(), TaskResult::Complete);
    }
}

#[test]
fn a_set_is_that_of_its_unit() {
    let mut rig = Rig::logged_in(b"");
    for (itt, lun) in [(1, 0), (2, 1 << 48), (3, 0x4001 << 48)] {
        let command = ScsiCommand { lun, ..rig.command(itt, READ_10, 512) };
        rig.send(command.encode(), &[]);
    }
    rig.executed();
    let request = TaskRequest {
        immediate: true,
        function: TaskFunction::AbortTaskSet,
        lun: 1 << 48,
        itt: 900,
        referenced_task_tag: NO_TAG,
        cmd_sn: Serial(rig.cmd_sn),
        exp_stat_sn: Serial(0),
        ref_cmd_sn: Serial(0),
        exp_data_sn: 0,
    };
    rig.send(request.encode(), &[]);
    let aborted: Vec<_> = rig.actions.iter().filter(|action| matches!(action, Action::Abort(_))).collect();
    assert_eq!(aborted.len(), 2, "peripheral and flat addressing name the same unit");
}

#[test]
fn a_reset_from_another_session() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    rig.connection.abort_outside(Some(0), 42, &mut rig.actions);
    assert!(matches!(rig.actions[..], [Action::Abort(_)]));
    rig.connection.aborted(command.task, &mut rig.actions);
    assert!(matches!(rig.actions[..], [Action::Abort(_), Action::AbortsOver { token: 42 }]));
    assert!(rig.receive().is_empty());
    rig.connection.abort_outside(None, 43, &mut rig.actions);
    assert!(matches!(rig.actions.last(), Some(Action::AbortsOver { token: 43 })), "nothing to wait for");
}

#[test]
fn a_reset_from_another_session_while_data_arrive() {
    let mut rig = Rig::logged_in(b"");
    let command = rig.command(5, WRITE_10, 4096);
    let mut bytes = Vec::new();
    frame::append(&mut bytes, command.encode(), &pattern(4096), Digests::NONE);
    rig.send_raw(&bytes[..1000]);
    rig.connection.abort_outside(None, 1, &mut rig.actions);
    assert!(matches!(rig.actions[..], [Action::AbortsOver { token: 1 }]));
    rig.send_raw(&bytes[1000..]);
    assert!(rig.executed().is_empty());
    rig.read(6, 512);
    assert_eq!(rig.executed().len(), 1, "the stream is still in step");
}

#[test]
fn logout_waits_for_the_commands() {
    let mut rig = Rig::logged_in(b"");
    rig.read(5, 512);
    let command = rig.executed().remove(0);
    let logout = LogoutRequest {
        immediate: true,
        reason: LogoutReason::CloseSession,
        itt: 8,
        cid: 0,
        cmd_sn: Serial(rig.cmd_sn),
        exp_stat_sn: Serial(0),
    };
    rig.send(logout.encode(), &[]);
    assert!(rig.receive().is_empty() && !rig.connection.is_closing());
    rig.connection.aborted(command.task, &mut rig.actions);
    let Pdu::LogoutResponse(response) = rig.one().pdu else { panic!() };
    assert_eq!(response.result, LogoutResult::Success);
    assert!(rig.connection.is_closing() && rig.connection.is_quiet());
}

#[test]
fn terminate_aborts_everything_and_says_nothing() {
    let mut rig = Rig::logged_in(b"ImmediateData=No\0");
    rig.read(5, 512);
    let command = rig.command(6, WRITE_10, 4096);
    rig.send(command.encode(), &[]);
    let running = rig.executed().remove(0);
    rig.connection.terminate(&mut rig.actions);
    assert!(matches!(rig.actions[..], [Action::Abort(task)] if task == running.task));
    assert!(rig.connection.is_closing() && !rig.connection.is_quiet());
    rig.good(running.task, &[0; 512], 0);
    assert!(rig.connection.is_quiet() && rig.receive().is_empty());
}

#[test]
fn pings_both_ways() {
    let mut rig = Rig::logged_in(b"MaxRecvDataSegmentLength=512\0");
    let ping = NopOut {
        immediate: true,
        lun: 0,
        itt: 6,
        ttt: NO_TAG,
        cmd_sn: Serial(rig.cmd_sn),
        exp_stat_sn: Serial(0),
    };
    rig.send(ping.encode(), &pattern(700));
    let Received { pdu: Pdu::NopIn(answer), data } = rig.one() else { panic!() };
    assert_eq!((answer.itt, answer.ttt), (6, NO_TAG));
    assert_eq!(data, pattern(512), "as much as the initiator takes");

    rig.now = rig.connection.next_timeout();
    rig.connection.handle_timeout(rig.now);
    let Pdu::NopIn(ours) = rig.one().pdu else { panic!() };
    assert_eq!(ours.itt, NO_TAG);
    assert_eq!(ours.numbers.stat_sn, answer.numbers.stat_sn.next());
    rig.send(NopOut { itt: NO_TAG, ttt: ours.ttt, ..ping }.encode(), &[]);
    rig.connection.handle_timeout(rig.now);
    assert!(!rig.connection.is_closing() && rig.receive().is_empty());

    for _ in 0..2 {
        rig.now = rig.connection.next_timeout();
        rig.connection.handle_timeout(rig.now);
    }
    assert!(rig.connection.is_closing(), "an initiator that does not answer is gone");
}

#[test]
fn a_login_that_takes_too_long() {
    let mut connection = Connection::new(target(), Limits::default(), Time::ZERO);
    let due = connection.next_timeout();
    connection.handle_timeout(due - Duration::from_nanos(1));
    assert!(!connection.is_closing());
    connection.handle_timeout(due);
    assert!(connection.is_closing());
}

#[test]
fn logout_is_asked_for_once_and_enforced() {
    let mut rig = Rig::logged_in(b"");
    rig.connection.request_logout(Duration::from_secs(3), rig.now);
    rig.connection.request_logout(Duration::from_secs(3), rig.now);
    let Pdu::AsyncMessage(message) = rig.one().pdu else { panic!() };
    assert_eq!((message.event, message.parameters), (AsyncEvent::LogoutRequest, [0, 0, 3]));
    rig.connection.handle_timeout(Time::from_millis(2999));
    assert!(!rig.connection.is_closing());
    rig.connection.handle_timeout(Time::from_millis(3000));
    assert!(rig.connection.is_closing());
}

#[test]
fn what_error_recovery_level_0_does_not_have() {
    let mut rig = Rig::logged_in(b"");
    let snack =
        Snack { kind: 0, lun: 0, itt: 1, ttt: NO_TAG, exp_stat_sn: Serial(0), beg_run: 0, run_length: 0 };
    rig.send(snack.encode(), &[]);
    let received = rig.one();
    let Pdu::Reject(reject) = received.pdu else { panic!() };
    assert_eq!(reject.reason, RejectReason::SnackReject);
    assert_eq!(received.data, snack.encode().0, "the offending header comes back");
    assert!(!rig.connection.is_closing());
    rig.send(Header([0x0f; 48].map(|byte| byte & 0x0f).map(|_| 0)), &[]);
    rig.receive();
    let mut unknown = Header::new(Opcode::NopOut);
    unknown.0[0] = 0x1c;
    rig.send(unknown, &[]);
    let Pdu::Reject(reject) = rig.one().pdu else { panic!() };
    assert_eq!(reject.reason, RejectReason::CommandNotSupported);
    rig.task(TaskFunction::TaskReassign, 0, 0);
    assert_eq!(rig.task_result(), TaskResult::ReassignmentNotSupported);
}

fn discovery() -> Rig {
    let mut rig = Rig::new();
    let request = LoginRequest {
        transit: true,
        current: Stage::LoginOperationalNegotiation,
        next: Stage::FullFeaturePhase,
        cmd_sn: Serial(1),
        ..LoginRequest::default()
    };
    rig.send(request.encode(), b"InitiatorName=iqn.h\0SessionType=Discovery\0MaxRecvDataSegmentLength=512\0");
    let own = TargetRecord { name: target().name, portals: vec![("10.0.0.1:3260".into(), 1)] };
    let other = TargetRecord {
        name: "iqn.2026-01.t:b".into(),
        portals: (0..40).map(|n| (format!("10.0.1.{n}:3260"), 1)).collect(),
    };
    rig.connection.established(1, vec![own, other]);
    assert!(matches!(rig.one().pdu, Pdu::LoginResponse(_)));
    rig.actions.clear();
    rig
}

fn text_request(rig: &mut Rig, ttt: u32, last: bool, more: bool, data: &[u8]) {
    let request = TextRequest {
        immediate: false,
        last,
        more,
        lun: 0,
        itt: 3,
        ttt,
        cmd_sn: rig.next_sn(),
        exp_stat_sn: Serial(0),
    };
    rig.send(request.encode(), data);
}

#[test]
fn send_targets_over_several_responses() {
    let mut rig = discovery();
    text_request(&mut rig, NO_TAG, true, false, b"SendTargets=All\0");
    let mut all = Vec::new();
    loop {
        let Received { pdu: Pdu::TextResponse(response), data } = rig.one() else { panic!() };
        assert!(data.len() <= 512);
        all.extend(data);
        if response.last {
            assert_eq!(response.ttt, NO_TAG);
            break;
        }
        assert!(response.more);
        text_request(&mut rig, response.ttt, true, false, b"");
    }
    let pairs = text::parse(&all).unwrap();
    assert_eq!(pairs.len(), 43);
    assert_eq!(pairs[1].value, "10.0.0.1:3260,1");
}

#[test]
fn send_targets_asked_in_pieces_and_by_name() {
    let mut rig = discovery();
    text_request(&mut rig, NO_TAG, false, true, b"SendTargets=iqn.20");
    let Pdu::TextResponse(response) = rig.one().pdu else { panic!() };
    assert!(!response.last && !response.more && response.ttt != NO_TAG);
    text_request(&mut rig, response.ttt, true, false, b"26-01.t:A\0");
    let Received { pdu: Pdu::TextResponse(_), data } = rig.one() else { panic!() };
    assert_eq!(data, b"TargetName=iqn.2026-01.t:a\0TargetAddress=10.0.0.1:3260,1\0");
    text_request(&mut rig, 77, true, false, b"");
    assert!(matches!(rig.one().pdu, Pdu::Reject(_)), "an unknown tag");
    rig.read(4, 512);
    assert!(rig.connection.is_closing(), "no commands in a discovery session");
}

#[test]
fn text_in_a_normal_session() {
    let mut rig = Rig::logged_in(b"");
    text_request(&mut rig, NO_TAG, true, false, b"SendTargets=All\0X-a=b\0MaxBurstLength=512\0");
    assert_eq!(rig.one().data, b"SendTargets=Reject\0X-a=NotUnderstood\0MaxBurstLength=Reject\0");
    text_request(&mut rig, NO_TAG, true, false, b"MaxRecvDataSegmentLength=1024\0");
    assert_eq!(rig.one().data, b"");
    assert_eq!(rig.connection.parameters.send_max, 1024);
}

#[test]
fn digests_both_ways_and_a_broken_one() {
    let mut rig = Rig::logged_in(b"HeaderDigest=CRC32C\0DataDigest=CRC32C\0");
    let data = pattern(4097);
    let command = rig.command(5, WRITE_10, 4097);
    rig.send(command.encode(), &data);
    let command = rig.executed().remove(0);
    assert_eq!(command.data.as_slice(), data);
    rig.good(command.task, &[], 4097);
    rig.one();
    let command = rig.command(6, WRITE_10, 4096);
    let mut bytes = Vec::new();
    frame::append(&mut bytes, command.encode(), &pattern(4096), rig.digests);
    bytes[1000] ^= 1;
    rig.send_raw(&bytes);
    let Pdu::Reject(reject) = rig.one().pdu else { panic!() };
    assert_eq!(reject.reason, RejectReason::DataDigestError);
    assert!(rig.connection.is_closing() && rig.executed().is_empty());
}

#[test]
fn a_session_is_refused_with_the_shells_reason() {
    let mut rig = Rig::new();
    let request = LoginRequest {
        transit: true,
        current: Stage::LoginOperationalNegotiation,
        next: Stage::FullFeaturePhase,
        ..LoginRequest::default()
    };
    rig.send(request.encode(), b"InitiatorName=iqn.h\0TargetName=iqn.2026-01.t:a\0");
    rig.connection.refused(LoginStatus::AUTHORIZATION_FAILURE);
    let Pdu::LoginResponse(response) = rig.one().pdu else { panic!() };
    assert_eq!(response.status, LoginStatus::AUTHORIZATION_FAILURE);
    assert!(!response.transit && rig.connection.is_closing());
}

#[test]
fn large_data_goes_straight_to_its_place() {
    let mut rig = Rig::logged_in(b"");
    let data = pattern(50_000);
    let command = rig.command(5, WRITE_10, 50_000);
    let mut bytes = Vec::new();
    frame::append(&mut bytes, command.encode(), &data, Digests::NONE);
    rig.send_raw(&bytes[..148]);
    let place = rig.connection.direct().unwrap();
    assert_eq!(place.len(), 49_900);
    place.copy_from_slice(&data[100..]);
    rig.connection.received_directly(20_000, rig.now, &mut rig.actions);
    assert!(rig.executed().is_empty());
    rig.connection.received_directly(29_900, rig.now, &mut rig.actions);
    assert_eq!(rig.executed().remove(0).data.as_slice(), data);
}

/// A stream of plausible PDUs in any order, for the robustness tests.
fn any_header() -> impl Strategy<Value = (Header, Vec<u8>)> {
    let opcode = prop_oneof![0_u8..7, Just(0x10_u8), any::<u8>()];
    let small = prop_oneof![0_u32..6, Just(NO_TAG), any::<u32>()];
    (
        opcode,
        any::<u8>(),
        proptest::collection::vec(small, 10),
        proptest::collection::vec(any::<u8>(), 0..64),
        any::<bool>(),
    )
        .prop_map(|(opcode, flags, words, data, immediate)| {
            let mut header = Header([0; 48]);
            header.0[0] = opcode | if immediate { 0x40 } else { 0 };
            header.0[1] = flags;
            for (at, word) in words.iter().enumerate() {
                header.0[8 + at * 4..12 + at * 4].copy_from_slice(&word.to_be_bytes());
            }
            (header, data)
        })
}

proptest! {
    /// Whatever comes, cut however: no panic, every executed command completes, and at the end
    /// nothing is left behind.
    #[test]
    fn nothing_an_initiator_sends_breaks_it(
        pdus in proptest::collection::vec(any_header(), 0..60),
        cut in 1_usize..200,
        outcomes in proptest::collection::vec(0_u8..4, 1..20),
    ) {
        let mut rig = Rig::logged_in(b"InitialR2T=No\0");
        let mut bytes = Vec::new();
        for (header, data) in pdus {
            frame::append(&mut bytes, header, &data, Digests::NONE);
        }
        let mut outcomes = outcomes.into_iter().cycle();
        let mut running = Vec::new();
        for piece in bytes.chunks(cut) {
            rig.send_raw(piece);
            prop_assert!(rig.rest.len() <= rig.connection.wanted().max(48 + 1020));
            for action in core::mem::take(&mut rig.actions) {
                match action {
                    Action::Execute(command) => running.push(command.task),
                    Action::Manage { id, .. } => rig.connection.managed(id, TaskResult::Complete, &mut rig.actions),
                    _ => {}
                }
            }
            match outcomes.next() {
                Some(0) if !running.is_empty() => {
                    let task = running.remove(0);
                    rig.good(task, &[0; 700], 512);
                }
                Some(1) => while let Some(task) = running.pop() {
                    rig.connection.aborted(task, &mut rig.actions);
                },
                Some(2) => rig.connection.handle_timeout(rig.now + Duration::from_secs(1)),
                _ => {}
            }
            let len = rig.connection.output().len();
            rig.connection.output().sent(len);
        }
        rig.connection.terminate(&mut rig.actions);
        for task in running {
            rig.connection.aborted(task, &mut rig.actions);
        }
        prop_assert!(rig.connection.is_quiet());
        prop_assert_eq!(rig.connection.tasks.charged(), 0);
        prop_assert!(rig.connection.management.is_empty());
    }

    /// Garbage before and during login.
    #[test]
    fn garbage_never_logs_in(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 1_usize..100) {
        let mut rig = Rig::new();
        for piece in bytes.chunks(cut) {
            rig.send_raw(piece);
        }
        prop_assert!(!rig.connection.is_full_feature());
    }

    /// A good login with one bit flipped is refused, or still is a login; never a panic.
    #[test]
    fn a_flipped_bit_in_a_login(at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut rig = Rig::new();
        let request = LoginRequest {
            transit: true,
            current: Stage::LoginOperationalNegotiation,
            next: Stage::FullFeaturePhase,
            ..LoginRequest::default()
        };
        let mut bytes = Vec::new();
        let text = b"InitiatorName=iqn.h\0TargetName=iqn.2026-01.t:a\0MaxBurstLength=65536\0";
        frame::append(&mut bytes, request.encode(), text, Digests::NONE);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        rig.send_raw(&bytes);
        rig.connection.established(1, Vec::new());
        rig.receive();
    }

    /// The same write in any cut of the stream gives the same payload.
    #[test]
    fn a_write_however_it_is_cut(len in 1_usize..9000, cut in 1_usize..3000, header in any::<bool>(), data in any::<bool>()) {
        let keys = match (header, data) {
            (false, false) => &b""[..],
            (true, false) => b"HeaderDigest=CRC32C\0",
            (false, true) => b"DataDigest=CRC32C\0",
            (true, true) => b"HeaderDigest=CRC32C\0DataDigest=CRC32C\0",
        };
        let mut rig = Rig::logged_in(keys);
        let command = rig.command(5, WRITE_10, u32::try_from(len).unwrap());
        let mut bytes = Vec::new();
        frame::append(&mut bytes, command.encode(), &pattern(len), rig.digests);
        for piece in bytes.chunks(cut) {
            rig.send_raw(piece);
        }
        let executed = rig.executed();
        prop_assert_eq!(executed.len(), 1);
        prop_assert_eq!(executed[0].data.as_slice(), &pattern(len)[..]);
        prop_assert!(rig.rest.is_empty());
    }
}
