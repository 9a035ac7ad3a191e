//! NOP-Out and NOP-In, Text, Logout, SNACK, Asynchronous Message and Reject (RFC 7143 11.9-11.11,
//! 11.14-11.19).

use super::{CONTINUE, FINAL, Numbers};
use crate::iscsi::header::{Header, NO_TAG, Opcode};
use crate::iscsi::serial::Serial;

/// NOP-Out (RFC 7143 11.18): a ping (`itt` valid), or the answer to one (`itt` = [`NO_TAG`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NopOut {
    pub immediate: bool,
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
    pub cmd_sn: Serial,
    pub exp_stat_sn: Serial,
}

impl NopOut {
    pub fn decode(header: &Header) -> Self {
        Self {
            immediate: header.immediate(),
            lun: header.u64::<8>(),
            itt: header.itt(),
            ttt: header.u32::<20>(),
            cmd_sn: Serial(header.u32::<24>()),
            exp_stat_sn: Serial(header.u32::<28>()),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::NopOut);
        header.set_immediate(self.immediate);
        header.put_u8::<1>(FINAL);
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.ttt);
        header.put_u32::<24>(self.cmd_sn.0);
        header.put_u32::<28>(self.exp_stat_sn.0);
        header
    }
}

/// NOP-In (RFC 7143 11.19): the answer to a ping (`itt` valid), or a ping (`ttt` valid). Only an
/// answer counts in StatSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NopIn {
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
    pub numbers: Numbers,
}

impl NopIn {
    pub fn decode(header: &Header) -> Self {
        Self {
            lun: header.u64::<8>(),
            itt: header.itt(),
            ttt: header.u32::<20>(),
            numbers: Numbers::decode(header),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::NopIn);
        header.put_u8::<1>(FINAL);
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.ttt);
        self.numbers.encode(&mut header);
        header
    }
}

/// Text Request (RFC 7143 11.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TextRequest {
    pub immediate: bool,
    pub last: bool,
    pub more: bool,
    pub lun: u64,
    pub itt: u32,
    /// [`NO_TAG`] in the first request of an exchange.
    pub ttt: u32,
    pub cmd_sn: Serial,
    pub exp_stat_sn: Serial,
}

impl TextRequest {
    pub fn decode(header: &Header) -> Self {
        Self {
            immediate: header.immediate(),
            last: header.flags() & FINAL != 0,
            more: header.flags() & CONTINUE != 0,
            lun: header.u64::<8>(),
            itt: header.itt(),
            ttt: header.u32::<20>(),
            cmd_sn: Serial(header.u32::<24>()),
            exp_stat_sn: Serial(header.u32::<28>()),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::TextRequest);
        header.set_immediate(self.immediate);
        header.put_u8::<1>(text_flags(self.last, self.more));
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.ttt);
        header.put_u32::<24>(self.cmd_sn.0);
        header.put_u32::<28>(self.exp_stat_sn.0);
        header
    }
}

fn text_flags(last: bool, more: bool) -> u8 {
    let mut flags = if last { FINAL } else { 0 };
    flags |= if more { CONTINUE } else { 0 };
    flags
}

/// Text Response (RFC 7143 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TextResponse {
    pub last: bool,
    pub more: bool,
    pub lun: u64,
    pub itt: u32,
    /// [`NO_TAG`] when the exchange is over.
    pub ttt: u32,
    pub numbers: Numbers,
}

impl TextResponse {
    pub fn decode(header: &Header) -> Self {
        Self {
            last: header.flags() & FINAL != 0,
            more: header.flags() & CONTINUE != 0,
            lun: header.u64::<8>(),
            itt: header.itt(),
            ttt: header.u32::<20>(),
            numbers: Numbers::decode(header),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::TextResponse);
        header.put_u8::<1>(text_flags(self.last, self.more));
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.ttt);
        self.numbers.encode(&mut header);
        header
    }
}

/// RFC 7143 11.14.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogoutReason {
    CloseSession,
    CloseConnection,
    RemoveForRecovery,
    Other(u8),
}

/// Logout Request (RFC 7143 11.14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogoutRequest {
    pub immediate: bool,
    pub reason: LogoutReason,
    pub itt: u32,
    /// Not meaningful with `CloseSession`.
    pub cid: u16,
    pub cmd_sn: Serial,
    pub exp_stat_sn: Serial,
}

impl LogoutRequest {
    pub fn decode(header: &Header) -> Self {
        Self {
            immediate: header.immediate(),
            reason: match header.flags() & !FINAL {
                0 => LogoutReason::CloseSession,
                1 => LogoutReason::CloseConnection,
                2 => LogoutReason::RemoveForRecovery,
                other => LogoutReason::Other(other),
            },
            itt: header.itt(),
            cid: header.u16::<20>(),
            cmd_sn: Serial(header.u32::<24>()),
            exp_stat_sn: Serial(header.u32::<28>()),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::LogoutRequest);
        header.set_immediate(self.immediate);
        header.put_u8::<1>(
            FINAL
                | match self.reason {
                    LogoutReason::CloseSession => 0,
                    LogoutReason::CloseConnection => 1,
                    LogoutReason::RemoveForRecovery => 2,
                    LogoutReason::Other(other) => other,
                },
        );
        header.put_u32::<16>(self.itt);
        header.put_u16::<20>(self.cid);
        header.put_u32::<24>(self.cmd_sn.0);
        header.put_u32::<28>(self.exp_stat_sn.0);
        header
    }
}

/// RFC 7143 11.15.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LogoutResult {
    Success,
    CidNotFound,
    RecoveryNotSupported,
    CleanupFailed,
    Other(u8),
}

/// Logout Response (RFC 7143 11.15). Times in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogoutResponse {
    pub result: LogoutResult,
    pub itt: u32,
    pub numbers: Numbers,
    pub time2wait: u16,
    pub time2retain: u16,
}

impl LogoutResponse {
    pub fn decode(header: &Header) -> Self {
        Self {
            result: match header.u8::<2>() {
                0 => LogoutResult::Success,
                1 => LogoutResult::CidNotFound,
                2 => LogoutResult::RecoveryNotSupported,
                3 => LogoutResult::CleanupFailed,
                other => LogoutResult::Other(other),
            },
            itt: header.itt(),
            numbers: Numbers::decode(header),
            time2wait: header.u16::<40>(),
            time2retain: header.u16::<42>(),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::LogoutResponse);
        header.put_u8::<1>(FINAL);
        header.put_u8::<2>(match self.result {
            LogoutResult::Success => 0,
            LogoutResult::CidNotFound => 1,
            LogoutResult::RecoveryNotSupported => 2,
            LogoutResult::CleanupFailed => 3,
            LogoutResult::Other(other) => other,
        });
        header.put_u32::<16>(self.itt);
        self.numbers.encode(&mut header);
        header.put_u16::<40>(self.time2wait);
        header.put_u16::<42>(self.time2retain);
        header
    }
}

/// SNACK Request (RFC 7143 11.16); a target at error recovery level 0 rejects every one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Snack {
    pub kind: u8,
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
    pub exp_stat_sn: Serial,
    pub beg_run: u32,
    pub run_length: u32,
}

impl Snack {
    const KIND: u8 = 0x0f;

    pub fn decode(header: &Header) -> Self {
        Self {
            kind: header.flags() & Self::KIND,
            lun: header.u64::<8>(),
            itt: header.itt(),
            ttt: header.u32::<20>(),
            exp_stat_sn: Serial(header.u32::<28>()),
            beg_run: header.u32::<40>(),
            run_length: header.u32::<44>(),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::Snack);
        header.put_u8::<1>(FINAL | self.kind & Self::KIND);
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.ttt);
        header.put_u32::<28>(self.exp_stat_sn.0);
        header.put_u32::<40>(self.beg_run);
        header.put_u32::<44>(self.run_length);
        header
    }
}

/// RFC 7143 11.9.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AsyncEvent {
    Scsi,
    LogoutRequest,
    ConnectionDrop,
    SessionDrop,
    NegotiationRequest,
    TaskTermination,
    Other(u8),
}

impl AsyncEvent {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Scsi,
            1 => Self::LogoutRequest,
            2 => Self::ConnectionDrop,
            3 => Self::SessionDrop,
            4 => Self::NegotiationRequest,
            5 => Self::TaskTermination,
            other => Self::Other(other),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Scsi => 0,
            Self::LogoutRequest => 1,
            Self::ConnectionDrop => 2,
            Self::SessionDrop => 3,
            Self::NegotiationRequest => 4,
            Self::TaskTermination => 5,
            Self::Other(bits) => bits,
        }
    }
}

/// Asynchronous Message (RFC 7143 11.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AsyncMessage {
    pub lun: u64,
    pub numbers: Numbers,
    pub event: AsyncEvent,
    pub vendor_code: u8,
    /// `LogoutRequest`: reserved, reserved, seconds until the connection is dropped. `ConnectionDrop`
    /// and `SessionDrop`: CID, Time2Wait, Time2Retain.
    pub parameters: [u16; 3],
}

impl AsyncMessage {
    pub fn decode(header: &Header) -> Self {
        Self {
            lun: header.u64::<8>(),
            numbers: Numbers::decode(header),
            event: AsyncEvent::from_bits(header.u8::<36>()),
            vendor_code: header.u8::<37>(),
            parameters: [header.u16::<38>(), header.u16::<40>(), header.u16::<42>()],
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::AsyncMessage);
        header.put_u8::<1>(FINAL);
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(NO_TAG);
        self.numbers.encode(&mut header);
        header.put_u8::<36>(self.event.bits());
        header.put_u8::<37>(self.vendor_code);
        let [first, second, third] = self.parameters;
        header.put_u16::<38>(first);
        header.put_u16::<40>(second);
        header.put_u16::<42>(third);
        header
    }
}

/// RFC 7143 11.17.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    DataDigestError,
    SnackReject,
    ProtocolError,
    CommandNotSupported,
    TooManyImmediateCommands,
    TaskInProgress,
    InvalidDataAck,
    InvalidPduField,
    LongOperation,
    WaitingForLogout,
    Other(u8),
}

impl RejectReason {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0x02 => Self::DataDigestError,
            0x03 => Self::SnackReject,
            0x04 => Self::ProtocolError,
            0x05 => Self::CommandNotSupported,
            0x06 => Self::TooManyImmediateCommands,
            0x07 => Self::TaskInProgress,
            0x08 => Self::InvalidDataAck,
            0x09 => Self::InvalidPduField,
            0x0a => Self::LongOperation,
            0x0c => Self::WaitingForLogout,
            other => Self::Other(other),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::DataDigestError => 0x02,
            Self::SnackReject => 0x03,
            Self::ProtocolError => 0x04,
            Self::CommandNotSupported => 0x05,
            Self::TooManyImmediateCommands => 0x06,
            Self::TaskInProgress => 0x07,
            Self::InvalidDataAck => 0x08,
            Self::InvalidPduField => 0x09,
            Self::LongOperation => 0x0a,
            Self::WaitingForLogout => 0x0c,
            Self::Other(bits) => bits,
        }
    }
}

/// Reject (RFC 7143 11.17). Its data segment is the header of the PDU it rejects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reject {
    pub reason: RejectReason,
    pub numbers: Numbers,
    pub data_sn: u32,
}

impl Reject {
    pub fn decode(header: &Header) -> Self {
        Self {
            reason: RejectReason::from_bits(header.u8::<2>()),
            numbers: Numbers::decode(header),
            data_sn: header.u32::<36>(),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::Reject);
        header.put_u8::<1>(FINAL);
        header.put_u8::<2>(self.reason.bits());
        header.put_u32::<16>(NO_TAG);
        self.numbers.encode(&mut header);
        header.put_u32::<36>(self.data_sn);
        header
    }
}
