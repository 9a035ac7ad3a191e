//! One iSCSI session of the host, written from RFC 7143 and not from the array's own code: login,
//! one command at a time while it gets to know the LUN, then PDUs in and out for the driver.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest data segment this host accepts, and what it declares (RFC 7143 13.12).
const RECEIVE_MAX: usize = 256 * 1024;
/// A connection that does not open within this is retried.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A login may wait for the target to finish the commands of the session it replaces.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(5);
/// PDUs of one login or text exchange; more is a target that never ends it.
const EXCHANGE_PDUS_MAX: usize = 16;
/// Unit attentions reported in a row before a probe gives up.
const ATTENTIONS_MAX: usize = 8;

pub const OP_NOP_OUT: u8 = 0x00;
const OP_SCSI_COMMAND: u8 = 0x01;
pub const OP_TASK_REQUEST: u8 = 0x02;
const OP_LOGIN: u8 = 0x03;
const OP_TEXT: u8 = 0x04;
const OP_DATA_OUT: u8 = 0x05;
pub const OP_NOP_IN: u8 = 0x20;
pub const OP_SCSI_RESPONSE: u8 = 0x21;
pub const OP_TASK_RESPONSE: u8 = 0x22;
const OP_LOGIN_RESPONSE: u8 = 0x23;
const OP_TEXT_RESPONSE: u8 = 0x24;
pub const OP_DATA_IN: u8 = 0x25;
pub const OP_R2T: u8 = 0x31;
pub const OP_ASYNC: u8 = 0x32;
pub const OP_REJECT: u8 = 0x3f;
const IMMEDIATE: u8 = 0x40;
const FINAL: u8 = 0x80;
pub const NO_TAG: u32 = 0xffff_ffff;

/// A received PDU: basic header segment and data without padding.
#[derive(Debug)]
pub struct Pdu {
    pub header: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    pub fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.header[at], self.header[at + 1], self.header[at + 2], self.header[at + 3]])
    }

    pub fn task_tag(&self) -> u32 {
        self.word(16)
    }
}

/// SCSI status with the sense key and additional sense code that came with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub status: u8,
    pub key: u8,
    pub asc: u8,
    pub ascq: u8,
}

impl Status {
    pub const GOOD: Self = Self { status: 0, key: 0, asc: 0, ascq: 0 };

    /// From the data segment of a SCSI Response (RFC 7143 11.4.7): two bytes of length, then
    /// fixed or descriptor sense data (SPC-5 4.4).
    pub fn parse(status: u8, data: &[u8]) -> Self {
        let sense = data.get(2..).unwrap_or_default();
        let byte = |n: usize| sense.get(n).copied().unwrap_or(0);
        let (key, asc, ascq) = match byte(0) & 0x7f {
            0x72 | 0x73 => (byte(1) & 0xf, byte(2), byte(3)),
            0x70 | 0x71 => (byte(2) & 0xf, byte(12), byte(13)),
            _ => (0, 0, 0),
        };
        Self { status, key, asc, ascq }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {:02x}h sense {:02x}/{:02x}/{:02x}", self.status, self.key, self.asc, self.ascq)
    }
}

/// How a command is named when it is to be aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub tag: u32,
    pub cmd_sn: u32,
}

/// State of one target port group as a path sees it (SPC-5 6.38, REPORT TARGET PORT GROUPS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    Optimized,
    NonOptimized,
    Standby,
    Unavailable,
    Transitioning,
}

impl PathState {
    fn from_code(code: u8) -> Self {
        match code & 0xf {
            0 => Self::Optimized,
            1 => Self::NonOptimized,
            2 => Self::Standby,
            15 => Self::Transitioning,
            _ => Self::Unavailable,
        }
    }
}

/// What the host learned of the LUN through one path.
#[derive(Clone, Debug)]
pub struct Identity {
    /// NAA designator of the logical unit, in hex.
    pub naa: String,
    /// None: a target without ALUA, whose paths are all as good.
    pub port_group: Option<u16>,
    pub blocks: u64,
}

#[derive(Debug)]
pub struct Session {
    stream: TcpStream,
    cmd_sn: u32,
    exp_stat_sn: u32,
    max_cmd_sn: u32,
    next_tag: u32,
    /// Data that may go with a write command itself.
    immediate_max: usize,
    /// Longest data segment the target accepts.
    send_max: usize,
    lun: u64,
    out: Vec<u8>,
}

fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Reads one PDU. Header and data digests are never negotiated by this host.
pub fn read_pdu(stream: &mut impl Read) -> io::Result<Pdu> {
    let mut header = [0; 48];
    stream.read_exact(&mut header)?;
    let extra = usize::from(header[4]) * 4;
    let length = usize::from(header[5]) << 16 | usize::from(header[6]) << 8 | usize::from(header[7]);
    if length > RECEIVE_MAX {
        return Err(broken(format!("a data segment of {length} bytes, declared limit {RECEIVE_MAX}")));
    }
    let mut data = vec![0; extra + length.next_multiple_of(4)];
    stream.read_exact(&mut data)?;
    data.drain(..extra);
    data.truncate(length);
    Ok(Pdu { header, data })
}

fn text(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in pairs {
        out.extend_from_slice(format!("{key}={value}\0").as_bytes());
    }
    out
}

fn text_pairs(data: &[u8]) -> Vec<(String, String)> {
    data.split(|&byte| byte == 0)
        .filter_map(|pair| {
            String::from_utf8_lossy(pair).split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()))
        })
        .collect()
}

/// Asks `portal` for its targets and picks the one that names this very portal.
pub fn discover(portal: SocketAddr, initiator: &str) -> io::Result<String> {
    let mut session = Session::connect(portal)?;
    session.login(initiator, None, 0)?;
    let tag = session.tag();
    let mut header = session.header(OP_TEXT, FINAL, tag);
    header[20..24].copy_from_slice(&NO_TAG.to_be_bytes());
    session.put_sequence(&mut header, true);
    session.send(&header, &text(&[("SendTargets", "All")]))?;
    let answer = session.await_pdu(|pdu| pdu.opcode() == OP_TEXT_RESPONSE)?;
    let mut name = None;
    let mut chosen = None;
    for (key, value) in text_pairs(&answer.data) {
        match key.as_str() {
            "TargetName" => name = Some(value),
            "TargetAddress" if value.split(',').next().and_then(|a| a.parse().ok()) == Some(portal) => {
                chosen = chosen.or(name.clone());
            }
            _ => {}
        }
    }
    chosen.or(name).ok_or_else(|| broken(format!("{portal} offers no target to {initiator}")))
}

impl Session {
    fn connect(portal: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&portal, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOGIN_TIMEOUT))?;
        stream.set_write_timeout(Some(LOGIN_TIMEOUT))?;
        Ok(Self {
            stream,
            cmd_sn: 1,
            exp_stat_sn: 0,
            max_cmd_sn: 1,
            next_tag: 1,
            immediate_max: 0,
            send_max: 8192,
            lun: 0,
            out: Vec::new(),
        })
    }

    /// Connects, logs in to the LUN's target and learns who the LUN is. The same `isid` as before
    /// makes it a reinstatement: when this returns, no command of the older session is alive
    /// (RFC 7143 6.3.5).
    pub fn open(
        portal: SocketAddr,
        initiator: &str,
        target: &str,
        isid: u8,
        lun: u8,
    ) -> io::Result<(Self, Identity, PathState)> {
        let mut session = Self::connect(portal)?;
        session.lun = u64::from(lun) << 48;
        session.login(initiator, Some(target), isid)?;
        let identity = session.identify()?;
        let state = session.probe_state(identity.port_group)?;
        session.stream.set_read_timeout(None)?;
        session.stream.set_write_timeout(Some(Duration::from_millis(250)))?;
        Ok((session, identity, state))
    }

    pub fn reader(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Ends the connection in both directions; the reader sees its end.
    pub fn shut(&self) {
        // Closed already is as good.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    fn tag(&mut self) -> u32 {
        let tag = self.next_tag;
        self.next_tag = if self.next_tag >= 0x7fff_ffff { 1 } else { self.next_tag + 1 };
        tag
    }

    fn header(&self, opcode: u8, flags: u8, tag: u32) -> [u8; 48] {
        let mut header = [0; 48];
        header[0] = opcode;
        header[1] = flags;
        header[8..16].copy_from_slice(&self.lun.to_be_bytes());
        header[16..20].copy_from_slice(&tag.to_be_bytes());
        header
    }

    /// CmdSN and ExpStatSN; an immediate command does not use up a number.
    fn put_sequence(&mut self, header: &mut [u8; 48], immediate: bool) {
        if immediate {
            header[0] |= IMMEDIATE;
        }
        header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
        if !immediate {
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
    }

    fn send(&mut self, header: &[u8; 48], data: &[u8]) -> io::Result<()> {
        self.out.clear();
        self.out.extend_from_slice(header);
        let [_, high, middle, low] =
            u32::try_from(data.len()).map_err(|_| broken("data segment too long"))?.to_be_bytes();
        self.out[5..8].copy_from_slice(&[high, middle, low]);
        self.out.extend_from_slice(data);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self.stream.write_all(&self.out)
    }

    /// Takes the sequence numbers of any PDU from the target (RFC 7143 4.2.2).
    pub fn note(&mut self, pdu: &Pdu) {
        let carries_status = match pdu.opcode() {
            OP_DATA_IN => pdu.header[1] & 1 != 0,
            OP_R2T => false,
            OP_NOP_IN => pdu.task_tag() != NO_TAG,
            _ => true,
        };
        if carries_status {
            self.exp_stat_sn = pdu.word(24).wrapping_add(1);
        }
        let max = pdu.word(32);
        if max.wrapping_sub(self.max_cmd_sn) < 0x8000_0000 {
            self.max_cmd_sn = max;
        }
    }

    /// Whether the target's command window has room (RFC 7143 4.2.2.1).
    pub fn window_open(&self) -> bool {
        self.max_cmd_sn.wrapping_sub(self.cmd_sn) < 0x8000_0000
    }

    fn login(&mut self, initiator: &str, target: Option<&str>, isid: u8) -> io::Result<()> {
        let session_type = if target.is_some() { "Normal" } else { "Discovery" };
        let mut security =
            vec![("InitiatorName", initiator), ("SessionType", session_type), ("AuthMethod", "None")];
        if let Some(target) = target {
            security.push(("TargetName", target));
        }
        let receive_max = RECEIVE_MAX.to_string();
        let operational = [
            ("HeaderDigest", "None"),
            ("DataDigest", "None"),
            ("ErrorRecoveryLevel", "0"),
            ("InitialR2T", "No"),
            ("ImmediateData", "Yes"),
            ("MaxBurstLength", "262144"),
            ("FirstBurstLength", "65536"),
            ("MaxOutstandingR2T", "1"),
            ("MaxConnections", "1"),
            ("DataPDUInOrder", "Yes"),
            ("DataSequenceInOrder", "Yes"),
            ("DefaultTime2Wait", "0"),
            ("DefaultTime2Retain", "0"),
            ("MaxRecvDataSegmentLength", receive_max.as_str()),
        ];
        let mut keys = self.login_stage(0, 1, isid, &text(&security))?;
        let stage: Vec<_> = if target.is_some() { operational.to_vec() } else { operational[..2].to_vec() };
        keys.extend(self.login_stage(1, 3, isid, &text(&stage))?);
        let value = |key: &str| keys.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let number = |key: &str, default: usize| value(key).and_then(|v| v.parse().ok()).unwrap_or(default);
        self.send_max = number("MaxRecvDataSegmentLength", 8192);
        self.immediate_max = match value("ImmediateData") {
            Some("No") => 0,
            _ => number("FirstBurstLength", 65536).min(self.send_max),
        };
        Ok(())
    }

    /// One stage of login (RFC 7143 6.3): sends `keys`, asks to go on to `next`.
    fn login_stage(
        &mut self,
        current: u8,
        next: u8,
        isid: u8,
        keys: &[u8],
    ) -> io::Result<Vec<(String, String)>> {
        let mut answers = Vec::new();
        let mut data = keys;
        for _ in 0..EXCHANGE_PDUS_MAX {
            let mut header = self.header(OP_LOGIN | IMMEDIATE, FINAL | current << 2 | next, 1);
            // ISID of the "random" type (80h); TSIH 0 asks for a new session or a reinstatement.
            header[8..16].copy_from_slice(&[0x80, 0x74, 0x6c, 0, 0, isid, 0, 0]);
            header[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
            header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
            self.send(&header, data)?;
            let answer = read_pdu(&mut self.stream)?;
            if answer.opcode() != OP_LOGIN_RESPONSE {
                return Err(broken(format!("opcode {:02x}h in answer to a login", answer.opcode())));
            }
            if answer.header[36] != 0 {
                return Err(broken(format!(
                    "login refused, status {:02x}{:02x}h",
                    answer.header[36], answer.header[37]
                )));
            }
            self.note(&answer);
            answers.extend(text_pairs(&answer.data));
            if answer.header[1] & FINAL != 0 {
                return Ok(answers);
            }
            data = &[];
        }
        Err(broken("login does not come to an end"))
    }

    /// Reads until `wanted`, answering pings on the way.
    fn await_pdu(&mut self, wanted: impl Fn(&Pdu) -> bool) -> io::Result<Pdu> {
        loop {
            let pdu = read_pdu(&mut self.stream)?;
            self.note(&pdu);
            if wanted(&pdu) {
                return Ok(pdu);
            }
            match pdu.opcode() {
                OP_NOP_IN => self.answer_ping(&pdu)?,
                OP_REJECT => return Err(broken(format!("rejected, reason {:02x}h", pdu.header[2]))),
                _ => {}
            }
        }
    }

    /// One reading command, with its answer; repeats it while unit attentions come.
    fn ask(&mut self, cdb: &[u8], allocation: u32) -> io::Result<Vec<u8>> {
        let mut last = Status::GOOD;
        for _ in 0..ATTENTIONS_MAX {
            let Sent { tag, .. } = self.read(cdb, allocation)?;
            let mut data = Vec::new();
            let status = loop {
                let pdu = self.await_pdu(|pdu| {
                    matches!(pdu.opcode(), OP_DATA_IN | OP_SCSI_RESPONSE) && pdu.task_tag() == tag
                })?;
                if pdu.opcode() == OP_SCSI_RESPONSE {
                    break Status::parse(pdu.header[3], &pdu.data);
                }
                data.extend_from_slice(&pdu.data);
                if pdu.header[1] & 1 != 0 {
                    break Status::parse(pdu.header[3], &[]);
                }
            };
            if status == Status::GOOD {
                return Ok(data);
            }
            last = status;
            if status.key != 6 {
                break;
            }
        }
        Err(broken(format!("command {:02x}h: {last}", cdb[0])))
    }

    fn identify(&mut self) -> io::Result<Identity> {
        let page = self.ask(&[0x12, 1, 0x83, 0x04, 0, 0], 1024)?;
        let mut naa = None;
        let mut port_group = None;
        let mut rest = page.get(4..).unwrap_or_default();
        while let [_, kind, _, length, tail @ ..] = rest {
            let value = tail.get(..usize::from(*length)).ok_or_else(|| broken("VPD 83h is cut short"))?;
            match (kind >> 4 & 3, kind & 0xf) {
                (0, 3) => naa = Some(value.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
                (1, 5) if value.len() >= 4 => port_group = Some(u16::from_be_bytes([value[2], value[3]])),
                _ => {}
            }
            rest = &tail[value.len()..];
        }
        let mut cdb = [0; 16];
        cdb[..2].copy_from_slice(&[0x9e, 0x10]);
        cdb[13] = 32;
        let capacity = self.ask(&cdb, 32)?;
        let last: [u8; 8] = capacity
            .get(..8)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| broken("READ CAPACITY is cut short"))?;
        Ok(Identity {
            naa: naa.ok_or_else(|| broken("the LUN has no NAA name"))?,
            port_group,
            blocks: u64::from_be_bytes(last) + 1,
        })
    }

    fn probe_state(&mut self, port_group: Option<u16>) -> io::Result<PathState> {
        let Some(group) = port_group else { return Ok(PathState::Optimized) };
        let answer = self.ask(&RTPG, RTPG_ALLOCATION)?;
        parse_port_groups(&answer, group)
            .ok_or_else(|| broken("the path's own port group is not in its own report"))
    }

    /// Sends a command without data or with data to the host; its task tag.
    pub fn read(&mut self, cdb: &[u8], allocation: u32) -> io::Result<Sent> {
        let tag = self.tag();
        let cmd_sn = self.cmd_sn;
        let mut header = self.header(OP_SCSI_COMMAND, FINAL | 0x40, tag);
        header[20..24].copy_from_slice(&allocation.to_be_bytes());
        self.put_sequence(&mut header, false);
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(&header, &[])?;
        Ok(Sent { tag, cmd_sn })
    }

    /// Sends a write with as much immediate data as was negotiated; its task tag.
    pub fn write(&mut self, cdb: &[u8], data: &[u8]) -> io::Result<Sent> {
        let tag = self.tag();
        let cmd_sn = self.cmd_sn;
        let now = data.len().min(self.immediate_max);
        let mut header = self.header(OP_SCSI_COMMAND, FINAL | 0x20, tag);
        let length = u32::try_from(data.len()).map_err(|_| broken("write too long"))?;
        header[20..24].copy_from_slice(&length.to_be_bytes());
        self.put_sequence(&mut header, false);
        header[32..32 + cdb.len()].copy_from_slice(cdb);
        self.send(&header, &data[..now])?;
        Ok(Sent { tag, cmd_sn })
    }

    /// Answers an R2T (RFC 7143 11.8) for the write that `data` belongs to.
    pub fn answer_r2t(&mut self, request: &Pdu, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(request.word(40)).map_err(|_| broken("R2T"))?;
        let length = usize::try_from(request.word(44)).map_err(|_| broken("R2T"))?;
        let wanted =
            data.get(start..start.saturating_add(length)).ok_or_else(|| broken("R2T outside the write"))?;
        let mut sent = 0;
        for (number, piece) in (0u32..).zip(wanted.chunks(self.send_max)) {
            let last = sent + piece.len() == wanted.len();
            let mut header = self.header(OP_DATA_OUT, if last { FINAL } else { 0 }, request.task_tag());
            header[20..24].copy_from_slice(&request.header[20..24]);
            header[28..32].copy_from_slice(&self.exp_stat_sn.to_be_bytes());
            header[36..40].copy_from_slice(&number.to_be_bytes());
            let offset = u32::try_from(start + sent).map_err(|_| broken("R2T"))?;
            header[40..44].copy_from_slice(&offset.to_be_bytes());
            self.send(&header, piece)?;
            sent += piece.len();
        }
        Ok(())
    }

    /// ABORT TASK for `victim` (RFC 7143 11.5), immediate; its own task tag.
    pub fn abort(&mut self, victim: Sent) -> io::Result<u32> {
        let tag = self.tag();
        let mut header = self.header(OP_TASK_REQUEST, FINAL | 1, tag);
        header[20..24].copy_from_slice(&victim.tag.to_be_bytes());
        self.put_sequence(&mut header, true);
        header[32..36].copy_from_slice(&victim.cmd_sn.to_be_bytes());
        self.send(&header, &[])?;
        Ok(tag)
    }

    /// Echoes a NOP-In that asks for it (RFC 7143 11.18).
    pub fn answer_ping(&mut self, ping: &Pdu) -> io::Result<()> {
        if ping.word(20) == NO_TAG {
            return Ok(());
        }
        let mut header = self.header(OP_NOP_OUT, FINAL, NO_TAG);
        header[8..16].copy_from_slice(&ping.header[8..16]);
        header[20..24].copy_from_slice(&ping.header[20..24]);
        self.put_sequence(&mut header, true);
        self.send(&header, &[])
    }
}

/// REPORT TARGET PORT GROUPS (SPC-5 6.38), plain header.
pub const RTPG: [u8; 12] = [0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0x04, 0, 0, 0];
pub const RTPG_ALLOCATION: u32 = 1024;

/// The state of `group` in a report; of no other: a path speaks for itself only.
pub fn parse_port_groups(report: &[u8], group: u16) -> Option<PathState> {
    let mut rest = report.get(4..)?;
    while let [state, _, high, low, _, _, _, ports, tail @ ..] = rest {
        if u16::from_be_bytes([*high, *low]) == group {
            return Some(PathState::from_code(*state));
        }
        rest = tail.get(usize::from(*ports) * 4..)?;
    }
    None
}

/// READ(16) or WRITE(16) of 4 KiB-blocks.
pub fn transfer(write: bool, lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = if write { 0x8a } else { 0x88 };
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_believed_for_the_own_group_only() {
        let report =
            [0, 0, 0, 24, 0x00, 0x05, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0x02, 0x05, 1, 0, 0, 0, 0, 1, 0, 0, 1, 0];
        assert_eq!(parse_port_groups(&report, 1), Some(PathState::Optimized));
        assert_eq!(parse_port_groups(&report, 256), Some(PathState::Standby));
        assert_eq!(parse_port_groups(&report, 2), None);
        assert_eq!(parse_port_groups(&report[..10], 1), None);
    }

    #[test]
    fn sense_is_read_in_both_formats() {
        let mut fixed = vec![0, 18, 0x70, 0, 0x02, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x04, 0x0b, 0, 0, 0, 0];
        assert_eq!(Status::parse(2, &fixed), Status { status: 2, key: 2, asc: 4, ascq: 0x0b });
        fixed.truncate(3);
        assert_eq!(Status::parse(2, &fixed).key, 0);
        let descriptor = [0, 8, 0x72, 0x06, 0x2a, 0x06, 0, 0, 0, 0];
        assert_eq!(Status::parse(2, &descriptor), Status { status: 2, key: 6, asc: 0x2a, ascq: 6 });
    }
}
