//! From the bytes of a CDB to a [`Command`] in which every field is valid by itself.

use super::sense::Sense;
use super::table::{Entry, Kind, Unknown, find};

/// Where a CDB has the field that a check against the unit may refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct At(pub u16);

/// LOGICAL BLOCK ADDRESS with the number of blocks; not yet checked against the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Range {
    pub lba: u64,
    pub blocks: u32,
    /// The field with the number of blocks.
    pub blocks_at: At,
}

/// Page control of mode pages (SPC-5 6.14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageControl {
    Current,
    Changeable,
    Default,
    Saved,
}

/// A command, parsed. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    TestUnitReady,
    RequestSense {
        descriptor: bool,
        allocation: u32,
    },
    Inquiry {
        page: Option<u8>,
        allocation: u32,
    },
    ModeSelect {
        long: bool,
        save: bool,
        list: u32,
    },
    ModeSense {
        long: bool,
        no_block: bool,
        long_lba: bool,
        control: PageControl,
        page: u8,
        subpage: u8,
        allocation: u32,
    },
    StartStopUnit,
    PreventAllow,
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    GetLbaStatus {
        lba: u64,
        allocation: u32,
    },
    Read {
        range: Range,
    },
    Write {
        range: Range,
        force: bool,
    },
    WriteAndVerify {
        range: Range,
        compare: bool,
    },
    Verify {
        range: Range,
        compare: bool,
    },
    PreFetch {
        range: Range,
    },
    SynchronizeCache {
        range: Range,
    },
    WriteSame {
        range: Range,
        unmap: bool,
        no_data: bool,
    },
    Unmap {
        list: u32,
    },
    CompareAndWrite {
        range: Range,
        force: bool,
    },
    ReadDefectData {
        long: bool,
        /// REQ_PLIST and REQ_GLIST, where the CDB has them.
        lists: u8,
        format: u8,
        allocation: u32,
    },
    LogSense {
        page: u8,
        subpage: u8,
        pointer: u16,
        allocation: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReportTargetPortGroups {
        extended: bool,
        allocation: u32,
    },
    ReportSupportedOpcodes {
        timeouts: bool,
        which: Which,
        allocation: u32,
    },
    ReportSupportedTaskManagement {
        extended: bool,
        allocation: u32,
    },
}

/// REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES (SPC-5 6.36.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    All,
    /// 001b: an operation code without service actions.
    Opcode(u8),
    /// 010b: an operation code with service actions.
    Action(u8, u16),
    /// 011b: either.
    Any(u8, u16),
}

/// A number of the CDB, big endian, `N` bytes from `at`; beyond the CDB there are zeroes.
fn field<const N: usize>(cdb: &[u8; 16], at: usize) -> u64 {
    cdb.iter().skip(at).take(N).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn field32(cdb: &[u8; 16], at: usize) -> u32 {
    // Four bytes fit.
    u32::try_from(field::<4>(cdb, at)).unwrap_or(u32::MAX)
}

fn field16(cdb: &[u8; 16], at: usize) -> u32 {
    u32::try_from(field::<2>(cdb, at)).unwrap_or(u32::MAX)
}

/// The address and the length of a media command, by the length of its CDB.
fn range(entry: &Entry, cdb: &[u8; 16]) -> Range {
    match entry.len {
        6 => {
            let lba = field::<3>(cdb, 1) & 0x1f_ffff;
            // READ(6) and WRITE(6) have no way to say zero (SBC-4 5.11).
            let blocks = if cdb[4] == 0 { 256 } else { u32::from(cdb[4]) };
            Range { lba, blocks, blocks_at: At(4) }
        }
        10 => Range { lba: field::<4>(cdb, 2), blocks: field16(cdb, 7), blocks_at: At(7) },
        12 => Range { lba: field::<4>(cdb, 2), blocks: field32(cdb, 6), blocks_at: At(6) },
        _ => Range { lba: field::<8>(cdb, 2), blocks: field32(cdb, 10), blocks_at: At(10) },
    }
}

impl Command {
    /// Finds the command and checks each field by itself.
    ///
    /// # Errors
    /// The sense data to answer with: 05/20/00, or 05/24/00 with the field.
    pub fn parse(cdb: &[u8; 16]) -> Result<(Self, &'static Entry), Sense> {
        let entry = find(cdb[0], cdb[1] & 0x1f).map_err(|unknown| match unknown {
            Unknown::Opcode => Sense::INVALID_OPCODE,
            Unknown::ServiceAction => Sense::invalid_in_cdb(1, Some(4)),
        })?;
        if let Some((byte, bit)) = entry.reserved_bit(cdb) {
            return Err(Sense::invalid_in_cdb(byte, Some(bit)));
        }
        Ok((Self::decode(entry, cdb)?, entry))
    }

    fn decode(entry: &Entry, cdb: &[u8; 16]) -> Result<Self, Sense> {
        let flag = |bit: u8| cdb[1] & (1 << bit) != 0;
        let long = entry.len == 10;
        let allocation_6_or_10 = || if long { field16(cdb, 7) } else { u32::from(cdb[4]) };
        Ok(match entry.kind {
            Kind::TestUnitReady => Self::TestUnitReady,
            Kind::RequestSense => Self::RequestSense { descriptor: flag(0), allocation: u32::from(cdb[4]) },
            Kind::Inquiry => {
                let page = flag(0).then_some(cdb[2]);
                if page.is_none() && cdb[2] != 0 {
                    return Err(Sense::invalid_in_cdb(2, None));
                }
                Self::Inquiry { page, allocation: field16(cdb, 3) }
            }
            Kind::ModeSelect => {
                let list = allocation_6_or_10();
                // PF = 0: the list is vendor specific (SPC-5 6.11). An empty one is nothing.
                if !flag(4) && list != 0 {
                    return Err(Sense::invalid_in_cdb(1, Some(4)));
                }
                Self::ModeSelect { long, save: flag(0), list }
            }
            Kind::ModeSense => Self::ModeSense {
                long,
                no_block: flag(3),
                long_lba: flag(4),
                control: match cdb[2] >> 6 {
                    0 => PageControl::Current,
                    1 => PageControl::Changeable,
                    2 => PageControl::Default,
                    _ => PageControl::Saved,
                },
                page: cdb[2] & 0x3f,
                subpage: cdb[3],
                allocation: allocation_6_or_10(),
            },
            Kind::StartStopUnit => {
                // No power conditions, nothing to load, and nobody stops a unit that others use.
                if cdb[4] & 0xf0 != 0 {
                    return Err(Sense::invalid_in_cdb(4, Some(7)));
                }
                if cdb[4] & 0x02 != 0 {
                    return Err(Sense::invalid_in_cdb(4, Some(1)));
                }
                if cdb[4] & 0x01 == 0 {
                    return Err(Sense::invalid_in_cdb(4, Some(0)));
                }
                Self::StartStopUnit
            }
            // The medium cannot be removed: prevented and allowed come to the same.
            Kind::PreventAllow => Self::PreventAllow,
            Kind::ReadCapacity10 => Self::ReadCapacity10,
            Kind::ReadCapacity16 => Self::ReadCapacity16 { allocation: field32(cdb, 10) },
            Kind::GetLbaStatus => {
                Self::GetLbaStatus { lba: field::<8>(cdb, 2), allocation: field32(cdb, 10) }
            }
            Kind::Read => Self::Read { range: range(entry, cdb) },
            Kind::Write => Self::Write { range: range(entry, cdb), force: entry.len > 6 && flag(3) },
            Kind::WriteAndVerify => Self::WriteAndVerify { range: range(entry, cdb), compare: flag(1) },
            Kind::Verify => Self::Verify { range: range(entry, cdb), compare: flag(1) },
            Kind::PreFetch => Self::PreFetch { range: range(entry, cdb) },
            Kind::SynchronizeCache => Self::SynchronizeCache { range: range(entry, cdb) },
            Kind::WriteSame => Self::WriteSame {
                range: range(entry, cdb),
                unmap: flag(3),
                no_data: entry.len == 16 && flag(0),
            },
            Kind::Unmap => Self::Unmap { list: field16(cdb, 7) },
            Kind::CompareAndWrite => Self::CompareAndWrite {
                range: Range { lba: field::<8>(cdb, 2), blocks: u32::from(cdb[13]), blocks_at: At(13) },
                force: flag(3),
            },
            Kind::ReadDefectData10 => Self::ReadDefectData {
                long: false,
                lists: cdb[2] & 0x18,
                format: cdb[2] & 0x07,
                allocation: field16(cdb, 7),
            },
            Kind::ReadDefectData12 => Self::ReadDefectData {
                long: true,
                lists: cdb[1] & 0x18,
                format: cdb[1] & 0x07,
                allocation: field32(cdb, 6),
            },
            Kind::LogSense => Self::LogSense {
                page: cdb[2] & 0x3f,
                subpage: cdb[3],
                pointer: u16::from_be_bytes([cdb[5], cdb[6]]),
                allocation: field16(cdb, 7),
            },
            Kind::ReportLuns => {
                // SPC-5 6.37: the kinds of unit that can be asked for.
                if !matches!(cdb[2], 0x00..=0x02 | 0x10..=0x12) {
                    return Err(Sense::invalid_in_cdb(2, None));
                }
                Self::ReportLuns { select: cdb[2], allocation: field32(cdb, 6) }
            }
            Kind::ReportTargetPortGroups => {
                // PARAMETER DATA FORMAT: length only or extended header (SPC-5 6.39).
                let extended = match cdb[1] >> 5 {
                    0 => false,
                    1 => true,
                    _ => return Err(Sense::invalid_in_cdb(1, Some(7))),
                };
                Self::ReportTargetPortGroups { extended, allocation: field32(cdb, 6) }
            }
            Kind::ReportSupportedOpcodes => {
                let (opcode, action) = (cdb[3], u16::from_be_bytes([cdb[4], cdb[5]]));
                let which = match cdb[2] & 7 {
                    0 => Which::All,
                    1 => Which::Opcode(opcode),
                    2 => Which::Action(opcode, action),
                    3 => Which::Any(opcode, action),
                    _ => return Err(Sense::invalid_in_cdb(2, Some(2))),
                };
                Self::ReportSupportedOpcodes {
                    timeouts: cdb[2] & 0x80 != 0,
                    which,
                    allocation: field32(cdb, 6),
                }
            }
            Kind::ReportSupportedTaskManagement => {
                let allocation = field32(cdb, 6);
                // SPC-5 6.38: less than four bytes is an error here.
                if allocation < 4 {
                    return Err(Sense::invalid_in_cdb(6, None));
                }
                Self::ReportSupportedTaskManagement { extended: cdb[2] & 0x80 != 0, allocation }
            }
        })
    }
}
