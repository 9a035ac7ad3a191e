//! The connection against an initiator made of plain PDUs.

mod control;
mod data;
mod management;
mod robustness;

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
        let reply = Reply { status: 0, sense: &[], data: Data::Bytes(data), wanted, gives: 0 };
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
