//! The PDUs of RFC 7143 section 11, one struct each, with both directions: `decode` from a header
//! and `encode` into one. Decoding cannot fail: fields with values the standard reserves keep
//! them, and the state machine that meets such a PDU answers it. Data segments are not here; the
//! caller sets their length with [`Header::set_data_len`](super::Header::set_data_len).

mod control;
mod data;
mod login;
mod scsi;
mod task;

pub use control::{
    AsyncEvent, AsyncMessage, LogoutReason, LogoutRequest, LogoutResponse, LogoutResult, NopIn, NopOut,
    Reject, RejectReason, Snack, TextRequest, TextResponse,
};
pub use data::{DataIn, DataOut, R2t};
pub use login::{Isid, LoginRequest, LoginResponse, LoginStatus, Stage};
pub use scsi::{Attribute, Residual, ScsiCommand, ScsiResponse, ServiceResponse};
pub use task::{TaskFunction, TaskRequest, TaskResponse, TaskResult};

use super::header::{Header, Opcode};
use super::serial::Serial;

/// Byte 1 of most PDUs: final.
const FINAL: u8 = 0x80;
/// Byte 1 of text and login PDUs: the text goes on in the next PDU.
const CONTINUE: u8 = 0x40;

/// StatSN, ExpCmdSN and MaxCmdSN, which every PDU of a target carries (RFC 7143 4.2.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Numbers {
    pub stat_sn: Serial,
    pub exp_cmd_sn: Serial,
    pub max_cmd_sn: Serial,
}

impl Numbers {
    fn decode(header: &Header) -> Self {
        Self {
            stat_sn: Serial(header.u32::<24>()),
            exp_cmd_sn: Serial(header.u32::<28>()),
            max_cmd_sn: Serial(header.u32::<32>()),
        }
    }

    fn encode(self, header: &mut Header) {
        header.put_u32::<24>(self.stat_sn.0);
        header.put_u32::<28>(self.exp_cmd_sn.0);
        header.put_u32::<32>(self.max_cmd_sn.0);
    }
}

/// Any PDU, decoded. Data paths decode the one they expect; this is for the rest, and for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pdu {
    NopOut(NopOut),
    ScsiCommand(ScsiCommand),
    TaskRequest(TaskRequest),
    LoginRequest(LoginRequest),
    TextRequest(TextRequest),
    DataOut(DataOut),
    LogoutRequest(LogoutRequest),
    Snack(Snack),
    NopIn(NopIn),
    ScsiResponse(ScsiResponse),
    TaskResponse(TaskResponse),
    LoginResponse(LoginResponse),
    TextResponse(TextResponse),
    DataIn(DataIn),
    LogoutResponse(LogoutResponse),
    R2t(R2t),
    AsyncMessage(AsyncMessage),
    Reject(Reject),
}

impl Pdu {
    /// `None`: no opcode of this protocol.
    pub fn decode(header: &Header) -> Option<Self> {
        Some(match header.opcode()? {
            Opcode::NopOut => Self::NopOut(NopOut::decode(header)),
            Opcode::ScsiCommand => Self::ScsiCommand(ScsiCommand::decode(header)),
            Opcode::TaskRequest => Self::TaskRequest(TaskRequest::decode(header)),
            Opcode::LoginRequest => Self::LoginRequest(LoginRequest::decode(header)),
            Opcode::TextRequest => Self::TextRequest(TextRequest::decode(header)),
            Opcode::DataOut => Self::DataOut(DataOut::decode(header)),
            Opcode::LogoutRequest => Self::LogoutRequest(LogoutRequest::decode(header)),
            Opcode::Snack => Self::Snack(Snack::decode(header)),
            Opcode::NopIn => Self::NopIn(NopIn::decode(header)),
            Opcode::ScsiResponse => Self::ScsiResponse(ScsiResponse::decode(header)),
            Opcode::TaskResponse => Self::TaskResponse(TaskResponse::decode(header)),
            Opcode::LoginResponse => Self::LoginResponse(LoginResponse::decode(header)),
            Opcode::TextResponse => Self::TextResponse(TextResponse::decode(header)),
            Opcode::DataIn => Self::DataIn(DataIn::decode(header)),
            Opcode::LogoutResponse => Self::LogoutResponse(LogoutResponse::decode(header)),
            Opcode::R2t => Self::R2t(R2t::decode(header)),
            Opcode::AsyncMessage => Self::AsyncMessage(AsyncMessage::decode(header)),
            Opcode::Reject => Self::Reject(Reject::decode(header)),
        })
    }

    pub fn encode(&self) -> Header {
        match self {
            Self::NopOut(pdu) => pdu.encode(),
            Self::ScsiCommand(pdu) => pdu.encode(),
            Self::TaskRequest(pdu) => pdu.encode(),
            Self::LoginRequest(pdu) => pdu.encode(),
            Self::TextRequest(pdu) => pdu.encode(),
            Self::DataOut(pdu) => pdu.encode(),
            Self::LogoutRequest(pdu) => pdu.encode(),
            Self::Snack(pdu) => pdu.encode(),
            Self::NopIn(pdu) => pdu.encode(),
            Self::ScsiResponse(pdu) => pdu.encode(),
            Self::TaskResponse(pdu) => pdu.encode(),
            Self::LoginResponse(pdu) => pdu.encode(),
            Self::TextResponse(pdu) => pdu.encode(),
            Self::DataIn(pdu) => pdu.encode(),
            Self::LogoutResponse(pdu) => pdu.encode(),
            Self::R2t(pdu) => pdu.encode(),
            Self::AsyncMessage(pdu) => pdu.encode(),
            Self::Reject(pdu) => pdu.encode(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::header::HEADER_LEN;
    use proptest::prelude::*;

    proptest! {
        /// Whatever the bytes, decoding and encoding settle at once: a decoded PDU reads back as
        /// itself from its own encoding (reserved bits are not kept, everything else is).
        #[test]
        fn every_header_settles(bytes in proptest::collection::vec(any::<u8>(), HEADER_LEN)) {
            let header = Header::from_slice(&bytes).unwrap();
            if let Some(pdu) = Pdu::decode(&header) {
                let again = pdu.encode();
                prop_assert_eq!(again.opcode(), header.opcode());
                prop_assert_eq!(Pdu::decode(&again), Some(pdu));
                prop_assert_eq!(Pdu::decode(&again).unwrap().encode(), again);
            }
        }
    }
}
