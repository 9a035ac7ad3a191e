//! A small blocking initiator.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use twinlun::iscsi::digest::Digests;
use twinlun::iscsi::frame::{self, Frame};
use twinlun::iscsi::header::NO_TAG;
use twinlun::iscsi::pdu::*;
use twinlun::iscsi::{Header, Pdu, Serial};

pub struct Initiator {
    stream: TcpStream,
    buffer: Vec<u8>,
    pub digests: Digests,
    pub cmd_sn: u32,
    exp_stat_sn: u32,
    next_itt: u32,
    pub tsih: u16,
}

#[derive(Debug)]
pub struct Received {
    pub pdu: Pdu,
    pub data: Vec<u8>,
}

pub const NAME: &str = "iqn.2026-01.host:one";

impl Initiator {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
            digests: Digests::NONE,
            cmd_sn: 1,
            exp_stat_sn: 0,
            next_itt: 1,
            tsih: 0,
        }
    }

    /// Connected and logged in under an ISID, with more keys.
    pub fn login(address: SocketAddr, isid: u8, keys: &str) -> Self {
        let mut this = Self::connect(address);
        let response = this.try_login(isid, 0, keys);
        assert!(response.status.is_success(), "{response:?}");
        assert!(response.transit && response.tsih != 0);
        this
    }

    pub fn try_login(&mut self, isid: u8, tsih: u16, keys: &str) -> LoginResponse {
        let mut text = format!("InitiatorName={NAME}\0TargetName={}\0", crate::memory::TARGET);
        for key in keys.split(' ').filter(|key| !key.is_empty()) {
            text.push_str(key);
            text.push('\0');
        }
        self.send_login(isid, tsih, &text);
        let received = self.receive().expect("a login response");
        let Pdu::LoginResponse(response) = received.pdu else { panic!("{received:?}") };
        self.tsih = response.tsih;
        self.digests = Digests {
            header: keys.contains("HeaderDigest=CRC32C"),
            data: keys.contains("DataDigest=CRC32C"),
        };
        response
    }

    pub fn send_login(&mut self, isid: u8, tsih: u16, text: &str) {
        let request = LoginRequest {
            transit: true,
            current: Stage::LoginOperationalNegotiation,
            next: Stage::FullFeaturePhase,
            isid: Isid([0x80, 0, 0, 0, 0, isid]),
            tsih,
            cmd_sn: Serial(self.cmd_sn),
            ..LoginRequest::default()
        };
        self.send(request.encode(), text.as_bytes());
    }

    pub fn send(&mut self, header: Header, data: &[u8]) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, header, data, self.digests);
        self.send_raw(&bytes);
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        // A target that has closed already is not the sender's failure.
        let _ = self.stream.write_all(bytes);
    }

    /// The next PDU; `None` at the end of the stream.
    pub fn receive(&mut self) -> Option<Received> {
        loop {
            if let Some(frame) = Frame::parse(&self.buffer, self.digests, 1 << 24).unwrap() {
                let pdu = Pdu::decode(&frame.header).unwrap();
                let received = Received { pdu, data: frame.data.to_vec() };
                let len = frame.len;
                self.buffer.drain(..len);
                return Some(received);
            }
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the target does not answer: {error}"),
            }
        }
    }

    /// Nothing comes within `wait`.
    pub fn is_silent(&mut self, wait: Duration) -> bool {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let mut piece = [0; 1];
        let peeked = self.stream.peek(&mut piece);
        self.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        self.buffer.is_empty()
            && matches!(peeked, Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut))
    }

    pub fn itt(&mut self) -> u32 {
        self.next_itt += 1;
        self.next_itt
    }

    fn next_sn(&mut self) -> Serial {
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        Serial(self.cmd_sn.wrapping_sub(1))
    }

    /// A READ or WRITE (10) command of whole blocks, not sent yet.
    pub fn command(&mut self, write: bool, lba: u32, blocks: u16) -> ScsiCommand {
        let mut cdb = [0; 16];
        cdb[0] = if write { 0x2a } else { 0x28 };
        cdb[2..6].copy_from_slice(&lba.to_be_bytes());
        cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
        ScsiCommand {
            last: true,
            read: !write,
            write,
            itt: self.itt(),
            expected_data_transfer_length: u32::from(blocks) * 512,
            cmd_sn: self.next_sn(),
            exp_stat_sn: Serial(self.exp_stat_sn),
            cdb,
            ..ScsiCommand::default()
        }
    }

    /// Sends a read and returns its task tag.
    pub fn start_read(&mut self, lba: u32, blocks: u16) -> ScsiCommand {
        let command = self.command(false, lba, blocks);
        self.send(command.encode(), &[]);
        command
    }

    pub fn read(&mut self, lba: u32, blocks: u16) -> Vec<u8> {
        let command = self.start_read(lba, blocks);
        self.finish_read(command.itt)
    }

    pub fn finish_read(&mut self, itt: u32) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let received = self.receive().expect("data");
            let Pdu::DataIn(pdu) = received.pdu else { panic!("{received:?}") };
            assert_eq!((pdu.itt, pdu.buffer_offset as usize), (itt, data.len()));
            data.extend(received.data);
            if pdu.status.is_some() {
                assert_eq!(pdu.status, Some(0));
                return data;
            }
        }
    }

    /// Writes with immediate data and whatever the target asks for; returns the number of R2Ts.
    pub fn write(&mut self, lba: u32, data: &[u8], immediate: usize, segment: usize) -> u32 {
        let command = self.command(true, lba, u16::try_from(data.len() / 512).unwrap());
        self.send(command.encode(), &data[..immediate]);
        let mut r2ts = 0;
        loop {
            match self.receive().expect("an answer").pdu {
                Pdu::R2t(r2t) => {
                    r2ts += 1;
                    self.answer(&command, &r2t, data, segment);
                }
                Pdu::ScsiResponse(response) => {
                    assert_eq!((response.itt, response.status), (command.itt, 0));
                    assert_eq!(response.residual, Residual::None);
                    return r2ts;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn answer(&mut self, command: &ScsiCommand, r2t: &R2t, data: &[u8], segment: usize) {
        let end = (r2t.buffer_offset + r2t.desired_length) as usize;
        let mut at = r2t.buffer_offset as usize;
        let mut data_sn = 0;
        while at < end {
            let stop = end.min(at + segment);
            let pdu = DataOut {
                last: stop == end,
                itt: command.itt,
                ttt: r2t.ttt,
                data_sn,
                buffer_offset: u32::try_from(at).unwrap(),
                ..DataOut::default()
            };
            self.send(pdu.encode(), &data[at..stop]);
            data_sn += 1;
            at = stop;
        }
    }

    pub fn manage(&mut self, function: TaskFunction, of: Option<&ScsiCommand>) {
        let request = TaskRequest {
            immediate: true,
            function,
            lun: 0,
            itt: self.itt(),
            referenced_task_tag: of.map_or(NO_TAG, |command| command.itt),
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.exp_stat_sn),
            ref_cmd_sn: of.map_or(Serial(0), |command| command.cmd_sn),
            exp_data_sn: 0,
        };
        self.send(request.encode(), &[]);
    }

    pub fn task_result(&mut self) -> TaskResult {
        let received = self.receive().expect("a task management response");
        let Pdu::TaskResponse(response) = received.pdu else { panic!("{received:?}") };
        response.result
    }

    pub fn ping(&mut self, data: &[u8]) {
        let ping = NopOut {
            immediate: true,
            lun: 0,
            itt: self.itt(),
            ttt: NO_TAG,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.exp_stat_sn),
        };
        self.send(ping.encode(), data);
        let received = self.receive().expect("an answer to the ping");
        let Pdu::NopIn(answer) = received.pdu else { panic!("{received:?}") };
        assert_eq!(answer.itt, ping.itt);
        assert_eq!(received.data, data);
    }

    /// Pings with `data` and reads no answer, until `most` bytes are sent or the target takes no more. The
    /// session is of no further use.
    pub fn flood(&mut self, data: &[u8], most: usize, mut sent_one: impl FnMut()) {
        self.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut sent = 0;
        while sent < most {
            let ping = NopOut {
                immediate: true,
                lun: 0,
                itt: self.itt(),
                ttt: NO_TAG,
                cmd_sn: Serial(self.cmd_sn),
                exp_stat_sn: Serial(self.exp_stat_sn),
            };
            let mut bytes = Vec::new();
            frame::append(&mut bytes, ping.encode(), data, self.digests);
            if self.stream.write_all(&bytes).is_err() {
                return;
            }
            sent += bytes.len();
            sent_one();
        }
    }

    pub fn text(&mut self, text: &str) -> String {
        let request = TextRequest {
            immediate: false,
            last: true,
            more: false,
            lun: 0,
            itt: self.itt(),
            ttt: NO_TAG,
            cmd_sn: self.next_sn(),
            exp_stat_sn: Serial(self.exp_stat_sn),
        };
        self.send(request.encode(), text.as_bytes());
        let received = self.receive().expect("a text response");
        assert!(matches!(received.pdu, Pdu::TextResponse(TextResponse { last: true, .. })), "{received:?}");
        String::from_utf8(received.data).unwrap()
    }

    pub fn logout(&mut self) -> LogoutResult {
        let request = LogoutRequest {
            immediate: true,
            reason: LogoutReason::CloseSession,
            itt: self.itt(),
            cid: 0,
            cmd_sn: Serial(self.cmd_sn),
            exp_stat_sn: Serial(self.exp_stat_sn),
        };
        self.send(request.encode(), &[]);
        loop {
            match self.receive().expect("a logout response").pdu {
                Pdu::LogoutResponse(response) => return response.result,
                other => println!("before the logout response: {other:?}"),
            }
        }
    }
}
