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

use crate::arbitration::{Epoch, GroupId, Lineage, Side, Tenure};
use crate::block::{BLOCK, Extent, Op, StoreResult};

use super::api::{FrameHeader, LaneId, SessionId, VolumeId};
use super::findings::{Sum, pieces};

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
const READABLE_FROM: u8 = 1;

const MAGIC: [u8; 4] = *b"tLan";
const HEADER_CRC_AT: usize = 124;
/// Volume 16, session 16, sequence 8, result 1, zero 7.
const ACK_LEN: usize = 48;
/// Array 16, boot nonce 16, lane 2, side 1, newest version 1, oldest version 1, zero 3.
pub const HELLO_LEN: usize = 40;

const KIND_HELLO: u8 = 1;
const KIND_DATA: u8 = 2;
const KIND_ACKS: u8 = 3;
const KIND_ASK: u8 = 4;
const KIND_HERE: u8 = 5;
const KIND_GIVEN: u8 = 6;
const KIND_ASK_SUMS: u8 = 7;
const KIND_SUMS: u8 = 8;
const SUM_LEN: usize = size_of::<Sum>();

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

/// The payload that an op carries, in bytes; `None`: the op is not mirrored.
fn data_len(op: Op, extent: Extent) -> Option<u64> {
    match op {
        Op::Write => Some(extent.bytes()),
        Op::WriteSame => Some(u64::from(BLOCK)),
        Op::WriteZeroes | Op::Unmap | Op::Read | Op::Flush => Some(0),
        Op::CompareAndWrite => None,
    }
}

fn check_data_len(op: Op, extent: Extent, found: u32) -> Result<(), FrameError> {
    let wanted = data_len(op, extent).ok_or(FrameError::Op(op_code(op)))?;
    if u64::from(found) != wanted || found > PAYLOAD_MAX {
        return Err(FrameError::Length { found, wanted: wanted.min(u64::from(PAYLOAD_MAX)) });
    }
    Ok(())
}

fn check_given_len(op: Op, extent: Extent, found: u32) -> Result<(), FrameError> {
    if op != Op::Read {
        return Err(FrameError::Op(op_code(op)));
    }
    let wanted = extent.bytes();
    if u64::from(found) != wanted || found > PAYLOAD_MAX {
        return Err(FrameError::Length { found, wanted: wanted.min(u64::from(PAYLOAD_MAX)) });
    }
    Ok(())
}

fn check_sums_len(kind: u8, op: Op, extent: Extent, found: u32) -> Result<(), FrameError> {
    if op != Op::Read {
        return Err(FrameError::Op(op_code(op)));
    }
    let wanted = if kind == KIND_SUMS { pieces(extent).saturating_mul(SUM_LEN as u64) } else { 0 };
    if u64::from(found) != wanted || found > PAYLOAD_MAX {
        return Err(FrameError::Length { found, wanted: wanted.min(u64::from(PAYLOAD_MAX)) });
    }
    Ok(())
}

const fn op_code(op: Op) -> u8 {
    match op {
        Op::Write => 1,
        Op::WriteSame => 2,
        Op::WriteZeroes => 3,
        Op::Unmap => 4,
        Op::Read => 5,
        Op::Flush => 6,
        Op::CompareAndWrite => 0,
    }
}

const fn op_from(code: u8) -> Result<Op, FrameError> {
    match code {
        1 => Ok(Op::Write),
        2 => Ok(Op::WriteSame),
        3 => Ok(Op::WriteZeroes),
        4 => Ok(Op::Unmap),
        5 => Ok(Op::Read),
        6 => Ok(Op::Flush),
        code => Err(FrameError::Op(code)),
    }
}

const fn result_code(result: Option<StoreResult>) -> u8 {
    match result {
        None => 0,
        Some(StoreResult::Done) => 1,
        Some(StoreResult::NoSpace) => 2,
        Some(StoreResult::Failed | StoreResult::Differs { .. }) => 3,
    }
}

const fn result_from(code: u8) -> Result<Option<StoreResult>, FrameError> {
    match code {
        0 => Ok(None),
        1 => Ok(Some(StoreResult::Done)),
        2 => Ok(Some(StoreResult::NoSpace)),
        3 => Ok(Some(StoreResult::Failed)),
        code => Err(FrameError::Result(code)),
    }
}

fn begin(kind: u8, payload_len: u32, payload: &[u8]) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[5] = if matches!(kind, KIND_ASK_SUMS | KIND_SUMS) { KNOWS_SUMS } else { READABLE_FROM };
    bytes[6] = kind;
    bytes[8..12].copy_from_slice(&payload_len.to_le_bytes());
    bytes[112..116].copy_from_slice(&crc_fast::crc32_iscsi(payload).to_le_bytes());
    bytes
}

fn seal(mut bytes: [u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    let crc = crc_fast::crc32_iscsi(&bytes[..HEADER_CRC_AT]);
    bytes[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// `N` bytes of a record of fixed length; every caller's `at` is a constant inside it.
fn array_at<const N: usize, const L: usize>(bytes: &[u8; L], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

fn u32_at<const L: usize>(bytes: &[u8; L], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at<const L: usize>(bytes: &[u8; L], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(op: Op, lba: u64, blocks: u64, sequence: u64) -> FrameHeader {
        let lineage = Lineage { counter: 2, id: 0x1122_3344_5566_7788 };
        FrameHeader {
            tenure: Tenure { lineage, epoch: Epoch(9) },
            session: SessionId { boot: 3, counter: 4 },
            sequence,
            op,
            extent: Extent::new(lba, blocks),
            memory: sequence % 2 == 1,
        }
    }

    fn data(op: Op, lba: u64, blocks: u64, sequence: u64) -> (FrameHeader, Vec<u8>) {
        let header = header(op, lba, blocks, sequence);
        let len = usize::try_from(data_len(op, header.extent).unwrap()).unwrap();
        let payload: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let mut bytes = encode_data(GroupId([5; 16]), VolumeId([6; 16]), &header, &payload).unwrap().to_vec();
        bytes.extend_from_slice(&payload);
        (header, bytes)
    }

    fn op() -> impl Strategy<Value = Op> {
        prop::sample::select(vec![Op::Write, Op::WriteSame, Op::WriteZeroes, Op::Unmap, Op::Read, Op::Flush])
    }

    fn ack() -> impl Strategy<Value = Ack> {
        let result = prop::sample::select(vec![
            None,
            Some(StoreResult::Done),
            Some(StoreResult::NoSpace),
            Some(StoreResult::Failed),
        ]);
        (any::<[u8; 16]>(), any::<(u64, u64, u64)>(), result).prop_map(|(volume, words, result)| Ack {
            volume: VolumeId(volume),
            session: SessionId { boot: words.0, counter: words.1 },
            sequence: words.2,
            result,
        })
    }

    proptest! {
        #[test]
        fn data_comes_back_and_says_what_it_needs(
            op in op(), lba in any::<u64>(), blocks in 0_u64..9, sequence in any::<u64>(), cut in 0_usize..5000,
        ) {
            let (header, bytes) = data(op, lba, blocks, sequence);
            let whole = decode(&bytes).unwrap();
            let (group, volume) = (GroupId([5; 16]), VolumeId([6; 16]));
            let what = Announced::Data { group, volume, header };
            prop_assert_eq!(whole, Decoded::Frame { what, payload: &bytes[HEADER_LEN..], consumed: bytes.len() });
            let cut = cut.min(bytes.len() - 1);
            match decode(&bytes[..cut]).unwrap() {
                Decoded::NeedHeader(more) => prop_assert_eq!(cut + more, HEADER_LEN),
                Decoded::NeedPayload { missing, .. } => prop_assert_eq!(cut + missing, bytes.len()),
                Decoded::Frame { .. } => prop_assert!(false, "a frame out of its beginning"),
            }
        }

        #[test]
        fn a_flipped_bit_is_found(op in op(), blocks in 0_u64..9, at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let (_, mut bytes) = data(op, 1, blocks, 7);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), magic in any::<bool>()) {
            let mut bytes = bytes;
            if magic {
                for (byte, wanted) in bytes.iter_mut().zip(MAGIC) { *byte = wanted; }
            }
            let whole = matches!(decode(&bytes), Ok(Decoded::Frame { .. }));
            prop_assert!(!whole);
            let _ = acks(&bytes).count();
            let _ = hello(&bytes);
        }

        /// Whatever a header with a right checksum says.
        #[test]
        fn sealed_garbage_never_panics_and_is_bounded(garbage in prop::collection::vec(any::<u8>(), HEADER_LEN)) {
            let mut bytes = [0; HEADER_LEN];
            bytes.copy_from_slice(&garbage);
            bytes[..6].copy_from_slice(&[b't', b'L', b'a', b'n', 1, 1]);
            bytes[6] %= 10;
            bytes[12] %= 7;
            if let Ok(announced) = decode_header(&seal(bytes)) {
                prop_assert!(announced.payload_len <= PAYLOAD_MAX);
            }
        }

        #[test]
        fn acks_travel_in_batches(list in prop::collection::vec(ack(), 0..20)) {
            let mut bytes = vec![1, 2, 3];
            prop_assert_eq!(encode_acks(&list, &mut bytes), list.len());
            let Decoded::Frame { what: Announced::Acks, payload, consumed } = decode(&bytes[3..]).unwrap() else {
                panic!("not an ack frame");
            };
            prop_assert_eq!(consumed, bytes.len() - 3);
            let read: Vec<Ack> = acks(payload).map(Result::unwrap).collect();
            prop_assert_eq!(read, list);
        }
    }

    #[test]
    fn given_blocks_come_back_under_the_header_that_asked() {
        let header = header(Op::Read, 8, 2, 5);
        let (group, volume) = (GroupId([5; 16]), VolumeId([6; 16]));
        let blocks = [7; 1024];
        let mut bytes = encode_given(group, volume, &header, &blocks).unwrap().to_vec();
        bytes.extend_from_slice(&blocks);
        let what = Announced::Given { group, volume, header };
        assert_eq!(decode(&bytes), Ok(Decoded::Frame { what, payload: &blocks, consumed: bytes.len() }));
        assert_eq!(
            encode_given(group, volume, &header, &blocks[1..]),
            Err(FrameError::Length { found: 1023, wanted: 1024 })
        );
        let write = FrameHeader { op: Op::Write, ..header };
        assert_eq!(encode_given(group, volume, &write, &blocks), Err(FrameError::Op(1)));
    }

    #[test]
    fn digests_come_back_under_the_header_that_asked() {
        let header = header(Op::Read, 2048, 129, 5);
        let (group, volume) = (GroupId([5; 16]), VolumeId([6; 16]));
        let asked = encode_ask_sums(group, volume, &header).unwrap();
        let what = Announced::AskSums { group, volume, header };
        assert_eq!(decode(&asked), Ok(Decoded::Frame { what, payload: &[], consumed: HEADER_LEN }));
        assert_eq!(asked[5], KNOWS_SUMS, "an older reader names the version it lacks");
        let digests = [[7; 32], [8; 32]];
        let mut bytes = encode_sums(group, volume, &header, digests.as_flattened()).unwrap().to_vec();
        bytes.extend_from_slice(digests.as_flattened());
        let Ok(Decoded::Frame { what, payload, .. }) = decode(&bytes) else { panic!("not whole") };
        assert_eq!(what, Announced::Sums { group, volume, header });
        assert_eq!(sums(payload), digests);
        assert_eq!(
            encode_sums(group, volume, &header, &digests[0]),
            Err(FrameError::Length { found: 32, wanted: 64 })
        );
        let write = FrameHeader { op: Op::Write, ..header };
        assert_eq!(encode_ask_sums(group, volume, &write), Err(FrameError::Op(1)));
    }

    #[test]
    fn all_but_flushes_and_questions_for_digests_is_readable_by_the_first_version() {
        let (_, bytes) = data(Op::Read, 0, 8, 1);
        assert_eq!(bytes[4..6], [VERSION, 1]);
        let (_, flush) = data(Op::Flush, 0, 0, 1);
        assert_eq!(flush[4..6], [VERSION, 2], "and flushes");
        assert_eq!(encode_sign(true)[5], 1);
    }

    #[test]
    fn one_frame_carries_a_bounded_number_of_acks() {
        let session = SessionId { boot: 1, counter: 1 };
        let ack = Ack { volume: VolumeId([0; 16]), session, sequence: 1, result: None };
        let mut bytes = Vec::new();
        assert_eq!(encode_acks(&vec![ack; ACKS_MAX + 5], &mut bytes), ACKS_MAX);
        assert!(matches!(decode(&bytes), Ok(Decoded::Frame { what: Announced::Acks, .. })));
    }

    #[test]
    fn a_hello_comes_back() {
        let sent = LaneHello {
            array: [1; 16],
            boot_nonce: [2; 16],
            lane: LaneId(3),
            side: Side::B,
            newest: VERSION,
            oldest: OLDEST,
        };
        let mut bytes = Vec::new();
        encode_hello(&sent, &mut bytes);
        let Ok(Decoded::Frame { what: Announced::Hello, payload, .. }) = decode(&bytes) else {
            panic!("not a hello");
        };
        assert_eq!(hello(payload), Ok(sent));
    }

    #[test]
    fn a_newer_format_is_named() {
        let (_, bytes) = data(Op::Unmap, 0, 8, 1);
        let mut newer: [u8; HEADER_LEN] = bytes.try_into().unwrap();
        newer[4] = 7;
        newer[5] = 6;
        assert_eq!(decode_header(&seal(newer)), Err(FrameError::Version { version: 7 }));
    }
}
