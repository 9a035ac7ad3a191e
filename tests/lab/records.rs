//! What the writer in the guest tells the judge outside, over the log network: fixed records of
//! 24 bytes on one TCP connection, in the order in which things happened.

use std::io::{self, Read, Write};

pub const LENGTH: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The device said that write `seq` is done. Sent before the block is used again.
    Acknowledged { stream: u8, block: u32, seq: u64 },
    /// A read or write failed.
    Failed { stream: u8, block: u32, errno: u64 },
    /// A read during the run returned something older than it may.
    Stale { stream: u8, block: u32, found: u64, floor: u64 },
    /// Newest write issued to the block so far. Sent before a scan.
    Issued { stream: u8, block: u32, seq: u64 },
    /// What a scan found.
    Found { stream: u8, block: u32, oldest: u64, newest: u64 },
    /// A scan found no stamp of this run at a block that was written.
    Foreign { stream: u8, block: u32 },
    /// Everything up to here belongs to the request `token`.
    End { token: u64 },
}

impl Record {
    pub fn encode(self) -> [u8; LENGTH] {
        let (kind, stream, block, first, second) = match self {
            Self::Acknowledged { stream, block, seq } => (1, stream, block, seq, 0),
            Self::Failed { stream, block, errno } => (2, stream, block, errno, 0),
            Self::Stale { stream, block, found, floor } => (3, stream, block, found, floor),
            Self::Issued { stream, block, seq } => (4, stream, block, seq, 0),
            Self::Found { stream, block, oldest, newest } => (5, stream, block, oldest, newest),
            Self::Foreign { stream, block } => (6, stream, block, 0, 0),
            Self::End { token } => (7, 0, 0, token, 0),
        };
        let mut out = [0; LENGTH];
        out[0] = kind;
        out[1] = stream;
        out[4..8].copy_from_slice(&block.to_le_bytes());
        out[8..16].copy_from_slice(&first.to_le_bytes());
        out[16..].copy_from_slice(&second.to_le_bytes());
        out
    }

    pub fn decode(raw: &[u8; LENGTH]) -> Option<Self> {
        let stream = raw[1];
        let block = u32::from_le_bytes([raw[4], raw[5], raw[6], raw[7]]);
        let word =
            |at: usize| raw[at..at + 8].iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        let (first, second) = (word(8), word(16));
        Some(match raw[0] {
            1 => Self::Acknowledged { stream, block, seq: first },
            2 => Self::Failed { stream, block, errno: first },
            3 => Self::Stale { stream, block, found: first, floor: second },
            4 => Self::Issued { stream, block, seq: first },
            5 => Self::Found { stream, block, oldest: first, newest: second },
            6 => Self::Foreign { stream, block },
            7 => Self::End { token: first },
            _ => return None,
        })
    }

    #[allow(dead_code, reason = "the writer writes, the judge reads; each program uses one")]
    pub fn send(self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&self.encode())
    }

    #[allow(dead_code, reason = "the writer writes, the judge reads; each program uses one")]
    pub fn receive(input: &mut impl Read) -> io::Result<Self> {
        let mut raw = [0; LENGTH];
        input.read_exact(&mut raw)?;
        Self::decode(&raw).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown record"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        let all = [
            Record::Acknowledged { stream: 1, block: 0x0102_0304, seq: u64::MAX - 1 },
            Record::Failed { stream: 2, block: 3, errno: 5 },
            Record::Stale { stream: 1, block: 9, found: 1, floor: 2 },
            Record::Issued { stream: 1, block: 9, seq: 77 },
            Record::Found { stream: 3, block: 1, oldest: 4, newest: 5 },
            Record::Foreign { stream: 1, block: 2 },
            Record::End { token: 42 },
        ];
        for record in all {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
        assert_eq!(Record::decode(&[0; LENGTH]), None);
    }
}
