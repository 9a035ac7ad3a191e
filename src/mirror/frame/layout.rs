//! Bytes of a header and what goes with each kind: codes, lengths, checksums.

use crate::block::{BLOCK, Extent, Op, StoreResult};

use super::super::findings::{Sum, pieces};
use super::{FrameError, HEADER_LEN, KNOWS_SUMS, PAYLOAD_MAX, VERSION};

pub(super) const READABLE_FROM: u8 = 1;

pub(super) const MAGIC: [u8; 4] = *b"tLan";
pub(super) const HEADER_CRC_AT: usize = 124;

pub(super) const KIND_HELLO: u8 = 1;
pub(super) const KIND_DATA: u8 = 2;
pub(super) const KIND_ACKS: u8 = 3;
pub(super) const KIND_ASK: u8 = 4;
pub(super) const KIND_HERE: u8 = 5;
pub(super) const KIND_GIVEN: u8 = 6;
pub(super) const KIND_ASK_SUMS: u8 = 7;
pub(super) const KIND_SUMS: u8 = 8;
pub(super) const SUM_LEN: usize = size_of::<Sum>();

/// The payload that an op carries, in bytes; `None`: the op is not mirrored.
pub(super) fn data_len(op: Op, extent: Extent) -> Option<u64> {
    match op {
        Op::Write => Some(extent.bytes()),
        Op::WriteSame => Some(u64::from(BLOCK)),
        Op::WriteZeroes | Op::Unmap | Op::Read | Op::Flush => Some(0),
        Op::CompareAndWrite => None,
    }
}

pub(super) fn check_data_len(op: Op, extent: Extent, found: u32) -> Result<(), FrameError> {
    let wanted = data_len(op, extent).ok_or(FrameError::Op(op_code(op)))?;
    if u64::from(found) != wanted || found > PAYLOAD_MAX {
        return Err(FrameError::Length { found, wanted: wanted.min(u64::from(PAYLOAD_MAX)) });
    }
    Ok(())
}

pub(super) fn check_given_len(op: Op, extent: Extent, found: u32) -> Result<(), FrameError> {
    if op != Op::Read {
        return Err(FrameError::Op(op_code(op)));
    }
    let wanted = extent.bytes();
    if u64::from(found) != wanted || found > PAYLOAD_MAX {
        return Err(FrameError::Length { found, wanted: wanted.min(u64::from(PAYLOAD_MAX)) });
    }
    Ok(())
}

pub(super) fn check_sums_len(kind: u8, op: Op, extent: Extent, found: u32) -> Result<(), FrameError> {
    if op != Op::Read {
        return Err(FrameError::Op(op_code(op)));
    }
    let wanted = if kind == KIND_SUMS { pieces(extent).saturating_mul(SUM_LEN as u64) } else { 0 };
    if u64::from(found) != wanted || found > PAYLOAD_MAX {
        return Err(FrameError::Length { found, wanted: wanted.min(u64::from(PAYLOAD_MAX)) });
    }
    Ok(())
}

pub(super) const fn op_code(op: Op) -> u8 {
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

pub(super) const fn op_from(code: u8) -> Result<Op, FrameError> {
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

pub(super) const fn result_code(result: Option<StoreResult>) -> u8 {
    match result {
        None => 0,
        Some(StoreResult::Done) => 1,
        Some(StoreResult::NoSpace) => 2,
        Some(StoreResult::Failed | StoreResult::Differs { .. }) => 3,
    }
}

pub(super) const fn result_from(code: u8) -> Result<Option<StoreResult>, FrameError> {
    match code {
        0 => Ok(None),
        1 => Ok(Some(StoreResult::Done)),
        2 => Ok(Some(StoreResult::NoSpace)),
        3 => Ok(Some(StoreResult::Failed)),
        code => Err(FrameError::Result(code)),
    }
}

pub(super) fn begin(kind: u8, payload_len: u32, payload: &[u8]) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4] = VERSION;
    bytes[5] = if matches!(kind, KIND_ASK_SUMS | KIND_SUMS) { KNOWS_SUMS } else { READABLE_FROM };
    bytes[6] = kind;
    bytes[8..12].copy_from_slice(&payload_len.to_le_bytes());
    bytes[112..116].copy_from_slice(&crc_fast::crc32_iscsi(payload).to_le_bytes());
    bytes
}

pub(super) fn seal(mut bytes: [u8; HEADER_LEN]) -> [u8; HEADER_LEN] {
    let crc = crc_fast::crc32_iscsi(&bytes[..HEADER_CRC_AT]);
    bytes[HEADER_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// `N` bytes of a record of fixed length; every caller's `at` is a constant inside it.
pub(super) fn array_at<const N: usize, const L: usize>(bytes: &[u8; L], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

pub(super) fn u32_at<const L: usize>(bytes: &[u8; L], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub(super) fn u64_at<const L: usize>(bytes: &[u8; L], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
