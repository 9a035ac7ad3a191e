//! SCSI Data-Out, Data-In and Ready To Transfer (RFC 7143 11.7, 11.8).

use super::{FINAL, Numbers, Residual};
use crate::iscsi::header::{Header, NO_TAG, Opcode};
use crate::iscsi::serial::Serial;

/// SCSI Data-Out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DataOut {
    /// Last PDU of its sequence (of an R2T's answer, or of the unsolicited data).
    pub last: bool,
    pub lun: u64,
    pub itt: u32,
    /// The R2T's tag; [`NO_TAG`] in unsolicited data.
    pub ttt: u32,
    pub exp_stat_sn: Serial,
    /// Counts the PDUs of the sequence from zero.
    pub data_sn: u32,
    pub buffer_offset: u32,
}

impl DataOut {
    pub fn decode(header: &Header) -> Self {
        Self {
            last: header.flags() & FINAL != 0,
            lun: header.u64::<8>(),
            itt: header.itt(),
            ttt: header.u32::<20>(),
            exp_stat_sn: Serial(header.u32::<28>()),
            data_sn: header.u32::<36>(),
            buffer_offset: header.u32::<40>(),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::DataOut);
        header.put_u8::<1>(if self.last { FINAL } else { 0 });
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.ttt);
        header.put_u32::<28>(self.exp_stat_sn.0);
        header.put_u32::<36>(self.data_sn);
        header.put_u32::<40>(self.buffer_offset);
        header
    }
}

const ACKNOWLEDGE: u8 = 0x40;
const STATUS: u8 = 0x01;

/// SCSI Data-In. With `status` it ends the command (S bit) and its StatSN counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DataIn {
    /// Last PDU of its sequence.
    pub last: bool,
    /// Asks for a DataACK SNACK; never at error recovery level 0.
    pub acknowledge: bool,
    pub status: Option<u8>,
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
    pub numbers: Numbers,
    pub data_sn: u32,
    pub buffer_offset: u32,
    pub residual: Residual,
}

impl DataIn {
    pub fn decode(header: &Header) -> Self {
        let flags = header.flags();
        let status = (flags & STATUS != 0).then(|| header.u8::<3>());
        Self {
            last: flags & FINAL != 0,
            acknowledge: flags & ACKNOWLEDGE != 0,
            status,
            lun: header.u64::<8>(),
            itt: header.itt(),
            ttt: header.u32::<20>(),
            numbers: Numbers::decode(header),
            data_sn: header.u32::<36>(),
            buffer_offset: header.u32::<40>(),
            residual: match status {
                Some(_) => Residual::decode(flags, header.u32::<44>()),
                None => Residual::None,
            },
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::DataIn);
        let mut flags = if self.last { FINAL } else { 0 };
        flags |= if self.acknowledge { ACKNOWLEDGE } else { 0 };
        if let Some(status) = self.status {
            flags |= STATUS | self.residual.flags();
            header.put_u8::<3>(status);
            header.put_u32::<44>(self.residual.count());
        }
        header.put_u8::<1>(flags);
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.ttt);
        self.numbers.encode(&mut header);
        header.put_u32::<36>(self.data_sn);
        header.put_u32::<40>(self.buffer_offset);
        header
    }

    /// A PDU that does not end its command, with the tags a target without acknowledgements uses.
    pub fn plain(itt: u32) -> Self {
        Self { itt, ttt: NO_TAG, ..Self::default() }
    }
}

/// Ready To Transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct R2t {
    pub lun: u64,
    pub itt: u32,
    pub ttt: u32,
    /// StatSN here is the next one; an R2T does not count.
    pub numbers: Numbers,
    pub r2t_sn: u32,
    pub buffer_offset: u32,
    pub desired_length: u32,
}

impl R2t {
    pub fn decode(header: &Header) -> Self {
        Self {
            lun: header.u64::<8>(),
            itt: header.itt(),
            ttt: header.u32::<20>(),
            numbers: Numbers::decode(header),
            r2t_sn: header.u32::<36>(),
            buffer_offset: header.u32::<40>(),
            desired_length: header.u32::<44>(),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::R2t);
        header.put_u8::<1>(FINAL);
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.ttt);
        self.numbers.encode(&mut header);
        header.put_u32::<36>(self.r2t_sn);
        header.put_u32::<40>(self.buffer_offset);
        header.put_u32::<44>(self.desired_length);
        header
    }
}
