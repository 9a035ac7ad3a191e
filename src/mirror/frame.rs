//! Frames of the data lanes between two arrays: one header of 128 bytes, little-endian, then the
//! payload. Pure: bytes in, words out; the caller owns sockets and buffers.
//!
//! ```text
//!   0 magic 4        4 version 1      5 readable from 1   6 kind 1   7 flags 1
//!   8 payload length 4               12 op 1, zero 3
//!  16 group 16      32 volume 16
//!  48 lineage counter 4, zero 4      56 lineage id 8     64 tenure epoch 8
//!  72 session boot 8                80 session counter 8
//!  88 lba 8         96 blocks 8    104 sequence 8
//! 112 CRC32C of the payload 4      116 zero 8           124 CRC32C of bytes 0..124 4
//! ```
//!
//! Flag 1 of a data frame: the receiver may acknowledge it from its memory (a reader that does not know
//! the flag makes it stable). The header's checksum is tested before any of its lengths is believed.

mod layout;
#[cfg(test)]
mod tests;

use crate::arbitration::{Epoch, GroupId, Lineage, Side, Tenure};
use crate::block::{Extent, Op, StoreResult};

use super::api::{FrameHeader, LaneId, SessionId, VolumeId};
use super::findings::Sum;
use layout::{
    HEADER_CRC_AT, KIND_ACKS, KIND_ASK, KIND_ASK_SUMS, KIND_DATA, KIND_GIVEN, KIND_HELLO, KIND_HERE,
    KIND_SUMS, MAGIC, SUM_LEN, array_at, begin, check_data_len, check_given_len, check_sums_len, op_code,
    op_from, result_code, result_from, seal, u32_at, u64_at,
};

/// Bytes of every frame's header.
pub const HEADER_LEN: usize = 128;
/// Largest payload of one frame: a host write of the largest size any front end takes.
pub const PAYLOAD_MAX: u32 = 32 << 20;
/// Most answers in one frame: as many as a busy lane gathers between two writes.
pub const ACKS_MAX: usize = 1024;
/// Version written here, and the oldest that is spoken. 2: questions for digests (verify), which are
/// put only to an array that speaks it, and flushes (write promise *memory*), which an older reader
/// refuses by name; all else a reader of version 1 understands.
pub const VERSION: u8 = 2;
pub const OLDEST: u8 = 1;
/// The first version that knows questions for digests.
pub const KNOWS_SUMS: u8 = 2;
const KNOWS_FLUSH: u8 = 2;
/// Volume 16, session 16, sequence 8, result 1, zero 7.
const ACK_LEN: usize = 48;
/// Array 16, boot nonce 16, lane 2, side 1, newest version 1, oldest version 1, zero 3.
pub const HELLO_LEN: usize = 40;

const FLAG_MEMORY: u8 = 1;

/// First frame on a lane, from both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LaneHello {
    /// Identity of the sending array.
    pub array: [u8; 16],
    /// Drawn anew at each start of the sender: a lane of a former life is refused.
    pub boot_nonce: [u8; 16],
    pub lane: LaneId,
    pub side: Side,
    /// Versions of this format that the sender speaks.
    pub newest: u8,
    pub oldest: u8,
}

/// One answer to a data frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ack {
    pub volume: VolumeId,
    pub session: SessionId,
    pub sequence: u64,
    /// `None`: refused, see `VolumeAction::Acknowledge`.
    pub result: Option<StoreResult>,
}

/// What a header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Announced {
    /// The payload is one [`LaneHello`].
    Hello,
    /// The payload is what the op needs: Write all blocks, WriteSame one, others nothing. `Read`
    /// asks for the blocks.
    Data { group: GroupId, volume: VolumeId, header: FrameHeader },
    /// The blocks that a `Read` asked for, under its own header.
    Given { group: GroupId, volume: VolumeId, header: FrameHeader },
    /// Asks for the digests of the header's extent (`Read`); no payload.
    AskSums { group: GroupId, volume: VolumeId, header: FrameHeader },
    /// Those digests, under the header that asked; the payload is read with [`sums`].
    Sums { group: GroupId, volume: VolumeId, header: FrameHeader },
    /// The payload is read with [`acks`].
    Acks,
    /// Asks the other end for a sign of life; no payload.
    Ask,
    /// The sign of life that was asked for; no payload.
    Here,
}

/// A header that was read and found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Announcement {
    pub what: Announced,
    /// Bytes that follow the header; at most [`PAYLOAD_MAX`].
    pub payload_len: u32,
    payload_crc: u32,
}

/// What a buffer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// At least so many more bytes are needed.
    NeedHeader(usize),
    /// The header is there; so many bytes of its payload are missing.
    NeedPayload { announced: Announcement, missing: usize },
    /// A whole frame, checked; the next one begins `consumed` bytes further.
    Frame { what: Announced, payload: &'a [u8], consumed: usize },
}

/// Why a lane's bytes are not taken; the lane is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("not a frame of a replication lane")]
    Magic,
    #[error("lane format version {version} is newer than {VERSION}: upgrade this array")]
    Version { version: u8 },
    #[error("checksum of a frame's header is wrong")]
    HeaderChecksum,
    #[error("checksum of a frame's payload is wrong")]
    PayloadChecksum,
    #[error("frame of unknown kind {0}")]
    Kind(u8),
    #[error("frame with unknown operation {0}")]
    Op(u8),
    #[error("frame with unknown result {0}")]
    Result(u8),
    #[error("frame announces {found} bytes of payload where {wanted} belong")]
    Length { found: u32, wanted: u64 },
    #[error("lane hello names no side of a pair")]
    Side,
}

/// The header of a data frame; its payload follows it on the lane.
///
/// # Errors
/// `Length` when the payload is not what the op needs, or larger than [`PAYLOAD_MAX`].
pub fn encode_data(
    group: GroupId,
    volume: VolumeId,
    header: &FrameHeader,
    payload: &[u8],
) -> Result<[u8; HEADER_LEN], FrameError> {
    let found = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    check_data_len(header.op, header.extent, found)?;
    Ok(encode_addressed(begin(KIND_DATA, found, payload), group, volume, header))
}

/// The header of the blocks that a `Read` asked for; they follow it on the lane.
///
/// # Errors
/// `Op` for any other frame's header, `Length` when it is not all of the blocks, or more than
/// [`PAYLOAD_MAX`].
pub fn encode_given(
    group: GroupId,
    volume: VolumeId,
    header: &FrameHeader,
    payload: &[u8],
) -> Result<[u8; HEADER_LEN], FrameError> {
    let found = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    check_given_len(header.op, header.extent, found)?;
    Ok(encode_addressed(begin(KIND_GIVEN, found, payload), group, volume, header))
}

/// The question for the digests of the header's extent (`Read`).
///
/// # Errors
/// `Op` for any other frame's header.
pub fn encode_ask_sums(
    group: GroupId,
    volume: VolumeId,
    header: &FrameHeader,
) -> Result<[u8; HEADER_LEN], FrameError> {
    check_sums_len(KIND_ASK_SUMS, header.op, header.extent, 0)?;
    Ok(encode_addressed(begin(KIND_ASK_SUMS, 0, &[]), group, volume, header))
}

/// The header of the digests that were asked for; they follow it on the lane.
///
/// # Errors
/// `Op` for any other frame's header, `Length` when it is not one for each piece.
pub fn encode_sums(
    group: GroupId,
    volume: VolumeId,
    header: &FrameHeader,
    payload: &[u8],
) -> Result<[u8; HEADER_LEN], FrameError> {
    let found = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    check_sums_len(KIND_SUMS, header.op, header.extent, found)?;
    Ok(encode_addressed(begin(KIND_SUMS, found, payload), group, volume, header))
}

/// The digests in the payload of an [`Announced::Sums`].
pub fn sums(payload: &[u8]) -> Vec<Sum> {
    payload.as_chunks::<SUM_LEN>().0.to_vec()
}

fn encode_addressed(
    mut bytes: [u8; HEADER_LEN],
    group: GroupId,
    volume: VolumeId,
    header: &FrameHeader,
) -> [u8; HEADER_LEN] {
    bytes[7] = if header.memory { FLAG_MEMORY } else { 0 };
    if header.op == Op::Flush {
        bytes[5] = KNOWS_FLUSH;
    }
    bytes[12] = op_code(header.op);
    bytes[16..32].copy_from_slice(&group.0);
    bytes[32..48].copy_from_slice(&volume.0);
    bytes[48..52].copy_from_slice(&header.tenure.lineage.counter.to_le_bytes());
    let words = [
        (56, header.tenure.lineage.id),
        (64, header.tenure.epoch.0),
        (72, header.session.boot),
        (80, header.session.counter),
        (88, header.extent.lba),
        (96, header.extent.blocks),
        (104, header.sequence),
    ];
    for (at, word) in words {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    seal(bytes)
}

/// Appends one frame that carries up to [`ACKS_MAX`] of `acks`; returns how many it carries.
pub fn encode_acks(acks: &[Ack], out: &mut Vec<u8>) -> usize {
    let carried = acks.len().min(ACKS_MAX);
    let at = out.len();
    out.resize(at + HEADER_LEN, 0);
    for ack in &acks[..carried] {
        out.extend_from_slice(&ack.volume.0);
        out.extend_from_slice(&ack.session.boot.to_le_bytes());
        out.extend_from_slice(&ack.session.counter.to_le_bytes());
        out.extend_from_slice(&ack.sequence.to_le_bytes());
        out.extend_from_slice(&[result_code(ack.result), 0, 0, 0, 0, 0, 0, 0]);
    }
    let payload = &out[at + HEADER_LEN..];
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX); // at most ACKS_MAX * ACK_LEN
    let header = seal(begin(KIND_ACKS, len, payload));
    out[at..at + HEADER_LEN].copy_from_slice(&header);
    carried
}

/// The question for a sign of life (`Ask`), or its answer (`Here`).
pub fn encode_sign(answer: bool) -> [u8; HEADER_LEN] {
    seal(begin(if answer { KIND_HERE } else { KIND_ASK }, 0, &[]))
}

/// Appends the hello of a lane.
pub fn encode_hello(hello: &LaneHello, out: &mut Vec<u8>) {
    let mut payload = [0; HELLO_LEN];
    payload[..16].copy_from_slice(&hello.array);
    payload[16..32].copy_from_slice(&hello.boot_nonce);
    payload[32..34].copy_from_slice(&hello.lane.0.to_le_bytes());
    payload[34] = match hello.side {
        Side::A => b'A',
        Side::B => b'B',
    };
    payload[35] = hello.newest;
    payload[36] = hello.oldest;
    out.extend_from_slice(&seal(begin(KIND_HELLO, 40, &payload)));
    out.extend_from_slice(&payload);
}

/// Reads what `buffer` begins with.
///
/// # Errors
/// Bytes that no array of a readable version sent whole.
pub fn decode(buffer: &[u8]) -> Result<Decoded<'_>, FrameError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_LEN>() else {
        let wrong = buffer.iter().zip(MAGIC).any(|(found, wanted)| *found != wanted);
        return if wrong {
            Err(FrameError::Magic)
        } else {
            Ok(Decoded::NeedHeader(HEADER_LEN - buffer.len()))
        };
    };
    let announced = decode_header(header)?;
    let len = announced.payload_len as usize;
    let Some(payload) = rest.get(..len) else {
        return Ok(Decoded::NeedPayload { announced, missing: len - rest.len() });
    };
    announced.check(payload)?;
    Ok(Decoded::Frame { what: announced.what, payload, consumed: HEADER_LEN + len })
}

/// Reads a header; the payload may then be read straight to where it is needed.
///
/// # Errors
/// As [`decode`].
pub fn decode_header(bytes: &[u8; HEADER_LEN]) -> Result<Announcement, FrameError> {
    if bytes[..4] != MAGIC {
        return Err(FrameError::Magic);
    }
    if u32_at(bytes, HEADER_CRC_AT) != crc_fast::crc32_iscsi(&bytes[..HEADER_CRC_AT]) {
        return Err(FrameError::HeaderChecksum);
    }
    if bytes[5] > VERSION {
        return Err(FrameError::Version { version: bytes[4] });
    }
    let payload_len = u32_at(bytes, 8);
    let what = match bytes[6] {
        KIND_HELLO if payload_len as usize == HELLO_LEN => Announced::Hello,
        KIND_HELLO => return Err(FrameError::Length { found: payload_len, wanted: HELLO_LEN as u64 }),
        kind @ (KIND_DATA | KIND_GIVEN | KIND_ASK_SUMS | KIND_SUMS) => {
            let extent = Extent::new(u64_at(bytes, 88), u64_at(bytes, 96));
            let op = op_from(bytes[12])?;
            let lineage = Lineage { counter: u32_at(bytes, 48), id: u64_at(bytes, 56) };
            let (group, volume) = (GroupId(array_at(bytes, 16)), VolumeId(array_at(bytes, 32)));
            let header = FrameHeader {
                tenure: Tenure { lineage, epoch: Epoch(u64_at(bytes, 64)) },
                session: SessionId { boot: u64_at(bytes, 72), counter: u64_at(bytes, 80) },
                sequence: u64_at(bytes, 104),
                op,
                extent,
                memory: bytes[7] & FLAG_MEMORY != 0,
            };
            match kind {
                KIND_GIVEN => {
                    check_given_len(op, extent, payload_len)?;
                    Announced::Given { group, volume, header }
                }
                KIND_DATA => {
                    check_data_len(op, extent, payload_len)?;
                    Announced::Data { group, volume, header }
                }
                _ => {
                    check_sums_len(kind, op, extent, payload_len)?;
                    if kind == KIND_SUMS {
                        Announced::Sums { group, volume, header }
                    } else {
                        Announced::AskSums { group, volume, header }
                    }
                }
            }
        }
        KIND_ACKS => {
            let len = payload_len as usize;
            if !len.is_multiple_of(ACK_LEN) || len > ACKS_MAX * ACK_LEN {
                return Err(FrameError::Length {
                    found: payload_len,
                    wanted: (len / ACK_LEN * ACK_LEN) as u64,
                });
            }
            Announced::Acks
        }
        KIND_ASK | KIND_HERE if payload_len > 0 => {
            return Err(FrameError::Length { found: payload_len, wanted: 0 });
        }
        KIND_ASK => Announced::Ask,
        KIND_HERE => Announced::Here,
        kind => return Err(FrameError::Kind(kind)),
    };
    Ok(Announcement { what, payload_len, payload_crc: u32_at(bytes, 112) })
}

impl Announcement {
    /// Tests a payload that was read apart.
    ///
    /// # Errors
    /// `PayloadChecksum`, or `Length` when it is not `payload_len` bytes.
    pub fn check(&self, payload: &[u8]) -> Result<(), FrameError> {
        if payload.len() != self.payload_len as usize {
            return Err(FrameError::Length { found: self.payload_len, wanted: payload.len() as u64 });
        }
        if crc_fast::crc32_iscsi(payload) == self.payload_crc {
            Ok(())
        } else {
            Err(FrameError::PayloadChecksum)
        }
    }
}

/// The answers in the payload of an [`Announced::Acks`].
pub fn acks(payload: &[u8]) -> impl Iterator<Item = Result<Ack, FrameError>> + '_ {
    let (records, _) = payload.as_chunks::<ACK_LEN>();
    records.iter().map(|record| {
        Ok(Ack {
            volume: VolumeId(array_at(record, 0)),
            session: SessionId { boot: u64_at(record, 16), counter: u64_at(record, 24) },
            sequence: u64_at(record, 32),
            result: result_from(record[40])?,
        })
    })
}

/// The hello in the payload of an [`Announced::Hello`].
///
/// # Errors
/// `Length` or `Side`.
pub fn hello(payload: &[u8]) -> Result<LaneHello, FrameError> {
    let Some(bytes) = payload.first_chunk::<HELLO_LEN>() else {
        let found = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        return Err(FrameError::Length { found, wanted: HELLO_LEN as u64 });
    };
    let side = match bytes[34] {
        b'A' => Side::A,
        b'B' => Side::B,
        _ => return Err(FrameError::Side),
    };
    Ok(LaneHello {
        array: array_at(bytes, 0),
        boot_nonce: array_at(bytes, 16),
        lane: LaneId(u16::from_le_bytes(array_at(bytes, 32))),
        side,
        newest: bytes[35],
        oldest: bytes[36],
    })
}
