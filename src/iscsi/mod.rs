//! iSCSI (RFC 7143): the protocol without sockets, clock or threads.
//!
//! [`pdu`] and [`frame`] are the codec, for both ends of a connection; [`text`] and [`negotiation`]
//! are the key=value language of login; [`Connection`] is the target's end of one connection at
//! error recovery level 0. It is fed with received bytes, with the time and with the outcomes of
//! commands, and gives out [`Action`]s for its shell and bytes to send. It knows neither the SCSI
//! command sets nor volumes: a command is a CDB, a LUN and a payload.

pub mod connection;
pub mod digest;
pub mod frame;
pub mod header;
pub mod login;
pub mod negotiation;
pub mod output;
pub mod pdu;
pub mod serial;
pub mod text;
pub mod window;

pub use connection::{Action, Command, Connection, Data, Limits, ManagementId, Reply, TargetRecord, TaskId};
pub use header::{HEADER_LEN, Header, Opcode};
pub use login::{Candidate, TargetIdentity};
pub use negotiation::SessionType;
pub use pdu::Pdu;
pub use serial::Serial;
