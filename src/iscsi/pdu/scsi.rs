//! SCSI Command and SCSI Response (RFC 7143 11.3, 11.4).

use super::{FINAL, Numbers};
use crate::iscsi::header::{Header, Opcode};
use crate::iscsi::serial::Serial;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const ATTRIBUTE: u8 = 0x07;

/// Task attribute (RFC 7143 11.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attribute {
    Untagged,
    #[default]
    Simple,
    Ordered,
    HeadOfQueue,
    Aca,
    /// 5-7.
    Reserved(u8),
}

impl Attribute {
    const fn from_bits(bits: u8) -> Self {
        match bits & ATTRIBUTE {
            0 => Self::Untagged,
            1 => Self::Simple,
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            4 => Self::Aca,
            other => Self::Reserved(other),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Untagged => 0,
            Self::Simple => 1,
            Self::Ordered => 2,
            Self::HeadOfQueue => 3,
            Self::Aca => 4,
            Self::Reserved(bits) => bits & ATTRIBUTE,
        }
    }
}

/// SCSI Command (RFC 7143 11.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScsiCommand {
    pub immediate: bool,
    /// No unsolicited Data-Out follows.
    pub last: bool,
    pub read: bool,
    pub write: bool,
    pub attribute: Attribute,
    /// As SAM-5 4.7 lays the eight bytes out.
    pub lun: u64,
    pub itt: u32,
    pub expected_data_transfer_length: u32,
    pub cmd_sn: Serial,
    pub exp_stat_sn: Serial,
    /// The first 16 bytes; longer CDBs go on in an AHS.
    pub cdb: [u8; 16],
}

impl ScsiCommand {
    pub fn decode(header: &Header) -> Self {
        let flags = header.flags();
        Self {
            immediate: header.immediate(),
            last: flags & FINAL != 0,
            read: flags & READ != 0,
            write: flags & WRITE != 0,
            attribute: Attribute::from_bits(flags),
            lun: header.u64::<8>(),
            itt: header.itt(),
            expected_data_transfer_length: header.u32::<20>(),
            cmd_sn: Serial(header.u32::<24>()),
            exp_stat_sn: Serial(header.u32::<28>()),
            cdb: header.bytes::<32, 16>(),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::ScsiCommand);
        header.set_immediate(self.immediate);
        let mut flags = self.attribute.bits();
        flags |= if self.last { FINAL } else { 0 };
        flags |= if self.read { READ } else { 0 };
        flags |= if self.write { WRITE } else { 0 };
        header.put_u8::<1>(flags);
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.expected_data_transfer_length);
        header.put_u32::<24>(self.cmd_sn.0);
        header.put_u32::<28>(self.exp_stat_sn.0);
        header.put::<32, 16>(self.cdb);
        header
    }
}

/// How much the real transfer differed from the expected one (RFC 7143 11.4.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Residual {
    #[default]
    None,
    /// This many bytes of the expected length were not moved.
    Underflow(u32),
    /// The command wanted to move this many bytes more than expected.
    Overflow(u32),
}

impl Residual {
    const OVERFLOW: u8 = 0x04;
    const UNDERFLOW: u8 = 0x02;

    /// From what the initiator expected and what the command would move.
    pub fn of(expected: u64, actual: u64) -> Self {
        let clamp = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        match expected.cmp(&actual) {
            core::cmp::Ordering::Equal => Self::None,
            core::cmp::Ordering::Greater => Self::Underflow(clamp(expected - actual)),
            core::cmp::Ordering::Less => Self::Overflow(clamp(actual - expected)),
        }
    }

    /// Both bits at once are invalid; overflow wins then.
    pub(super) const fn decode(flags: u8, count: u32) -> Self {
        if flags & Self::OVERFLOW != 0 {
            Self::Overflow(count)
        } else if flags & Self::UNDERFLOW != 0 {
            Self::Underflow(count)
        } else {
            Self::None
        }
    }

    pub(super) const fn flags(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Underflow(_) => Self::UNDERFLOW,
            Self::Overflow(_) => Self::OVERFLOW,
        }
    }

    pub(super) const fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Underflow(count) | Self::Overflow(count) => count,
        }
    }
}

/// iSCSI service response (RFC 7143 11.4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServiceResponse {
    #[default]
    CommandCompleted,
    TargetFailure,
    Other(u8),
}

/// SCSI Response (RFC 7143 11.4). Its data segment, if any, is a 16-bit length and sense data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ScsiResponse {
    pub response: ServiceResponse,
    /// SCSI status byte, valid with `CommandCompleted`.
    pub status: u8,
    pub itt: u32,
    pub numbers: Numbers,
    /// Data-In or R2T PDUs sent for the command.
    pub exp_data_sn: u32,
    pub residual: Residual,
}

impl ScsiResponse {
    pub fn decode(header: &Header) -> Self {
        Self {
            response: match header.u8::<2>() {
                0 => ServiceResponse::CommandCompleted,
                1 => ServiceResponse::TargetFailure,
                other => ServiceResponse::Other(other),
            },
            status: header.u8::<3>(),
            itt: header.itt(),
            numbers: Numbers::decode(header),
            exp_data_sn: header.u32::<36>(),
            residual: Residual::decode(header.flags(), header.u32::<44>()),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::ScsiResponse);
        header.put_u8::<1>(FINAL | self.residual.flags());
        header.put_u8::<2>(match self.response {
            ServiceResponse::CommandCompleted => 0,
            ServiceResponse::TargetFailure => 1,
            ServiceResponse::Other(other) => other,
        });
        header.put_u8::<3>(self.status);
        header.put_u32::<16>(self.itt);
        self.numbers.encode(&mut header);
        header.put_u32::<36>(self.exp_data_sn);
        header.put_u32::<44>(self.residual.count());
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_command_on_the_wire() {
        let command = ScsiCommand {
            last: true,
            read: true,
            lun: 0x0005_0000_0000_0000,
            itt: 7,
            expected_data_transfer_length: 4096,
            cmd_sn: Serial(3),
            exp_stat_sn: Serial(9),
            cdb: [0x28, 0, 0, 0, 0, 1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0],
            ..ScsiCommand::default()
        };
        let bytes = command.encode().0;
        assert_eq!(bytes[..4], [0x01, 0xc1, 0, 0]);
        assert_eq!(bytes[8..10], [0, 5]);
        assert_eq!(bytes[16..32], [0, 0, 0, 7, 0, 0, 0x10, 0, 0, 0, 0, 3, 0, 0, 0, 9]);
        assert_eq!(bytes[32], 0x28);
    }

    #[test]
    fn residuals() {
        assert_eq!(Residual::of(512, 512), Residual::None);
        assert_eq!(Residual::of(512, 36), Residual::Underflow(476));
        assert_eq!(Residual::of(0, 512), Residual::Overflow(512));
        let response = ScsiResponse { residual: Residual::Overflow(512), ..ScsiResponse::default() };
        assert_eq!(response.encode().0[1], 0x84);
        assert_eq!(response.encode().0[44..], [0, 0, 2, 0]);
    }
}
