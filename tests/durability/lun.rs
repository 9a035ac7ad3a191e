//! The LUN through one session: one command after the other.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::initiator::{
    OP_DATA_IN, OP_NOP_IN, OP_R2T, OP_SCSI_RESPONSE, PathState, Session, Status, read_pdu, transfer,
};
use crate::site::{INITIATOR, Place};

/// Longer than an array needs to give its peer up.
const PATIENCE: Duration = Duration::from_secs(4);

/// An open session with LUN 1 of one array.
#[derive(Debug)]
pub struct Lun {
    session: Session,
    reader: TcpStream,
    pub state: PathState,
}

/// Who to log in to, and as what.
#[derive(Clone, Debug)]
pub struct Portal {
    address: SocketAddr,
    target: String,
}

impl Portal {
    pub fn of(place: &Place) -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], place.portal)), target: place.iqn() }
    }

    /// `isid`: a session of its own for each user.
    pub fn open(&self, isid: u8) -> io::Result<Lun> {
        let (session, _, state) = Session::open(self.address, INITIATOR, &self.target, isid, 1)?;
        Lun::over(session, state)
    }
}

impl Drop for Lun {
    fn drop(&mut self) {
        self.session.shut();
    }
}

/// A command that is under way.
#[derive(Clone, Debug)]
pub struct Sent {
    pub tag: u32,
    data: Vec<u8>,
}

impl Lun {
    pub fn over(session: Session, state: PathState) -> io::Result<Self> {
        let reader = session.reader()?;
        reader.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { session, reader, state })
    }

    pub fn send(&mut self, cdb: &[u8], data: &[u8]) -> io::Result<Sent> {
        Ok(Sent { tag: self.session.write(cdb, data)?.tag, data: data.to_vec() })
    }

    /// The next answer to any of `sent`: its task tag and status.
    pub fn answer(&mut self, sent: &[Sent]) -> io::Result<(u32, Status)> {
        loop {
            let pdu = read_pdu(&mut self.reader)?;
            self.session.note(&pdu);
            match pdu.opcode() {
                OP_SCSI_RESPONSE => {
                    return Ok((pdu.task_tag(), Status::parse(pdu.header[3], &pdu.data)));
                }
                OP_R2T => {
                    let of = sent.iter().find(|sent| sent.tag == pdu.task_tag());
                    let of = of.ok_or_else(|| io::Error::other("R2T for nothing"))?;
                    self.session.answer_r2t(&pdu, &of.data)?;
                }
                OP_NOP_IN => self.session.answer_ping(&pdu)?,
                _ => {}
            }
        }
    }

    /// One command with data to the LUN; its status and task tag.
    pub fn command(&mut self, cdb: &[u8], data: &[u8]) -> io::Result<(u32, Status)> {
        let sent = self.send(cdb, data)?;
        self.answer(&[sent])
    }

    pub fn write(&mut self, lba: u64, data: &[u8]) -> io::Result<Status> {
        let blocks = u32::try_from(data.len() / 512).map_err(io::Error::other)?;
        Ok(self.command(&transfer(true, lba, blocks), data)?.1)
    }

    pub fn unmap(&mut self, lba: u64, blocks: u32) -> io::Result<Status> {
        let (cdb, list) = unmap(lba, blocks);
        Ok(self.command(&cdb, &list)?.1)
    }

    /// Logical blocks of 512 bytes.
    pub fn read(&mut self, lba: u64, blocks: u32) -> io::Result<Vec<u8>> {
        self.data_in(&transfer(false, lba, blocks), blocks * 512)
    }

    /// What a command brings, of at most `allocation` bytes.
    pub fn data_in(&mut self, cdb: &[u8], allocation: u32) -> io::Result<Vec<u8>> {
        let tag = self.session.read(cdb, allocation)?.tag;
        let mut bytes = Vec::new();
        loop {
            let pdu = read_pdu(&mut self.reader)?;
            self.session.note(&pdu);
            match pdu.opcode() {
                OP_DATA_IN if pdu.task_tag() == tag => {
                    bytes.extend_from_slice(&pdu.data);
                    if pdu.header[1] & 1 != 0 {
                        return Ok(bytes); // status GOOD comes with the last data (RFC 7143 11.7)
                    }
                }
                OP_SCSI_RESPONSE if pdu.task_tag() == tag => {
                    let status = Status::parse(pdu.header[3], &pdu.data);
                    return if status == Status::GOOD {
                        Ok(bytes)
                    } else {
                        Err(io::Error::other(status.to_string()))
                    };
                }
                OP_NOP_IN => self.session.answer_ping(&pdu)?,
                _ => {}
            }
        }
    }
}

/// UNMAP of one range (SBC-4 5.35), its CDB and parameter list.
pub fn unmap(lba: u64, blocks: u32) -> ([u8; 10], [u8; 24]) {
    let mut list = [0; 24];
    list[..4].copy_from_slice(&[0, 22, 0, 16]);
    list[8..16].copy_from_slice(&lba.to_be_bytes());
    list[16..20].copy_from_slice(&blocks.to_be_bytes());
    ([0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], list)
}

/// WRITE SAME(16) of one block over `blocks`.
pub fn write_same(lba: u64, blocks: u32) -> [u8; 16] {
    let mut cdb = transfer(true, lba, blocks);
    cdb[0] = 0x93;
    cdb
}

/// COMPARE AND WRITE of `blocks` (at most 255).
pub fn compare_and_write(lba: u64, blocks: u8) -> [u8; 16] {
    let mut cdb = transfer(true, lba, 0);
    cdb[0] = 0x89;
    cdb[13] = blocks;
    cdb
}
