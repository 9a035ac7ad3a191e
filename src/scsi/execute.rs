//! Carrying out a command: attentions, access state, then the command itself.

use super::attention::{Nexus, UnitAttention};
use super::cdb::{Command, Range};
use super::medium::{Medium, Step, UNMAP_DESCRIPTOR, UNMAP_HEADER, bytes_of, unmap_extent};
use super::parameter::Parameter;
use super::sense::Sense;
use super::table::Entry;
use super::unit::{AccessState, Addressed, LogicalUnit, View};
use super::{inquiry, log, mode, report};
use crate::block::{BLOCK, Extent, Op};

/// SCSI status (SAM-5 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Good = 0x00,
    CheckCondition = 0x02,
    Busy = 0x08,
    TaskSetFull = 0x28,
}

impl Status {
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// Where the data-in of a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataIn {
    None,
    /// In the buffer handed to [`execute`], cut at the allocation length.
    Parameter,
    /// What the last read gave.
    Medium,
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reply {
    pub status: Status,
    pub sense: Option<Sense>,
    pub data_in: DataIn,
    /// Data-out that the CDB asks for, in bytes.
    pub wanted: u64,
    /// Data-in that the CDB asks for, in bytes, of a read: more than there is when the initiator has no
    /// room for it. Zero: what is there is all.
    pub gives: u64,
}

impl Reply {
    pub(super) const GOOD: Self = Self::status(Status::Good);

    pub(super) const fn status(status: Status) -> Self {
        Self { status, sense: None, data_in: DataIn::None, wanted: 0, gives: 0 }
    }

    pub(super) const fn check(sense: Sense) -> Self {
        Self { sense: Some(sense), ..Self::status(Status::CheckCondition) }
    }
}

/// A command as it came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The CDB; zeroes after a shorter one.
    pub cdb: &'a [u8; 16],
    /// All data-out that the initiator sent.
    pub data: &'a [u8],
    /// Data-in that the initiator takes, in bytes. No more than that is read from the medium, whatever the CDB
    /// asks for: it is what the command was let in for.
    pub room: u32,
}

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Execution {
    Done(Reply),
    /// It takes block requests; the volume knows whether they may be carried out here and now.
    Medium(Medium),
}

/// Carries out a command or starts it. Parameter data is written into `out`, which is cleared.
pub fn execute(view: &View<'_>, nexus: &mut Nexus, arrival: &Arrival<'_>, out: &mut Vec<u8>) -> Execution {
    out.clear();
    nexus.observe(view);
    let parsed = Command::parse(arrival.cdb);
    let wanted = parsed.as_ref().map_or(0, |(command, _)| command.wants());
    let gives = parsed.as_ref().map_or(0, |(command, _)| command.gives());
    let answer = match &view.unit {
        None => absent(view, parsed.map(|(command, _)| command), arrival.cdb[0], nexus, out),
        Some(addressed) => {
            let mut device =
                Device { view, addressed, nexus, data: arrival.data, room: arrival.room, wanted };
            device.answer(parsed, arrival.cdb[0], out)
        }
    };
    match answer {
        Ok(Some(medium)) => Execution::Medium(medium),
        Ok(None) => {
            let data_in = if out.is_empty() { DataIn::None } else { DataIn::Parameter };
            Execution::Done(Reply { data_in, wanted, gives, ..Reply::GOOD })
        }
        Err(sense) => {
            out.clear();
            Execution::Done(Reply { wanted, ..Reply::check(sense) })
        }
    }
}

/// `Ok(None)`: GOOD with what is in the buffer.
type Answer = Result<Option<Medium>, Sense>;

const INQUIRY: u8 = 0x12;
const REPORT_LUNS: u8 = 0xa0;
const REQUEST_SENSE: u8 = 0x03;

/// A LUN without a unit (SPC-5 4.5.3, SAM-5 4.7.3).
fn absent(
    view: &View<'_>,
    parsed: Result<Command, Sense>,
    opcode: u8,
    nexus: &mut Nexus,
    out: &mut Vec<u8>,
) -> Answer {
    let mut out = Parameter(out);
    match parsed {
        Ok(Command::Inquiry { page, allocation }) => inquire(view, page, allocation, &mut out)?,
        Ok(Command::ReportLuns { select, allocation }) => {
            report::luns(view, select, &mut out);
            out.allocate(allocation);
            nexus.luns_reported();
        }
        Ok(Command::RequestSense { descriptor, allocation }) => {
            request_sense(Sense::UNIT_NOT_SUPPORTED, descriptor, allocation, &mut out);
        }
        Err(sense) if matches!(opcode, INQUIRY | REPORT_LUNS | REQUEST_SENSE) => return Err(sense),
        _ => return Err(Sense::UNIT_NOT_SUPPORTED),
    }
    Ok(None)
}

fn inquire(view: &View<'_>, page: Option<u8>, allocation: u32, out: &mut Parameter<'_>) -> Result<(), Sense> {
    match page {
        None => inquiry::standard(view, out),
        Some(page) => inquiry::page(view, page, out)?,
    }
    out.allocate(allocation);
    Ok(())
}

/// SPC-5 6.40.
fn request_sense(sense: Sense, descriptor: bool, allocation: u32, out: &mut Parameter<'_>) {
    if descriptor {
        sense.descriptor(out.0);
    } else {
        out.bytes(&sense.fixed());
    }
    out.allocate(allocation);
}

/// One command at one unit.
struct Device<'a> {
    view: &'a View<'a>,
    addressed: &'a Addressed<'a>,
    nexus: &'a mut Nexus,
    data: &'a [u8],
    room: u32,
    wanted: u64,
}

impl Device<'_> {
    fn answer(
        &mut self,
        parsed: Result<(Command, &'static Entry), Sense>,
        opcode: u8,
        out: &mut Vec<u8>,
    ) -> Answer {
        // SAM-5 5.14.1: these three are carried out with a condition pending.
        if !matches!(opcode, INQUIRY | REPORT_LUNS | REQUEST_SENSE)
            && let Some(attention) = self.nexus.take(self.addressed.lun)
        {
            return Err(attention.sense());
        }
        let (command, entry) = parsed?;
        if entry.thin && !self.addressed.unit.thin {
            return Err(Sense::INVALID_OPCODE);
        }
        // The volume decides on media commands: it may hold them until the roles are clear.
        if !entry.standby && !command.is_for_the_volume() {
            self.must_be_active()?;
        }
        let medium = self.carry_out(command, &mut Parameter(out))?;
        if medium.is_none() && command.is_for_the_volume() {
            self.must_be_active()?;
        }
        Ok(medium)
    }

    /// In a transition 02/04/0B too, TEST UNIT READY included: path checkers (multipath-tools up to
    /// 0.9.4) take 02/04/0A for a dead path, which comes back at the next poll only, seconds after
    /// the array serves. Who wants to know asks by RTPG or REQUEST SENSE.
    fn must_be_active(&self) -> Result<(), Sense> {
        match self.addressed.access.own.state {
            AccessState::ActiveOptimized | AccessState::ActiveNonOptimized => Ok(()),
            AccessState::Standby | AccessState::Unavailable | AccessState::Transitioning => {
                Err(Sense::STANDBY)
            }
        }
    }

    fn carry_out(&mut self, command: Command, out: &mut Parameter<'_>) -> Answer {
        let unit = self.addressed.unit;
        let allocation = match command {
            Command::TestUnitReady | Command::StartStopUnit | Command::PreventAllow => return Ok(None),
            Command::RequestSense { descriptor, allocation } => {
                request_sense(self.condition(), descriptor, allocation, out);
                return Ok(None);
            }
            Command::Inquiry { page, allocation } => {
                inquire(self.view, page, allocation, out)?;
                return Ok(None);
            }
            Command::ModeSelect { long, save, list } => {
                self.mode_select(long, save, list)?;
                return Ok(None);
            }
            Command::ModeSense { long, no_block, long_lba, control, page, subpage, allocation } => {
                let question = mode::Question { long, no_block, long_lba, control, page, subpage };
                mode::sense(unit, question, out)?;
                allocation
            }
            Command::ReadCapacity10 => {
                report::capacity_10(unit, out);
                return Ok(None);
            }
            Command::ReadCapacity16 { allocation } => {
                report::capacity_16(unit, out);
                allocation
            }
            Command::GetLbaStatus { lba, allocation } => {
                report::lba_status(unit, lba, out)?;
                allocation
            }
            Command::ReadDefectData { long, lists, format, allocation } => {
                report::defects(long, lists, format, out);
                allocation
            }
            Command::LogSense { page, subpage, pointer, allocation } => {
                log::sense(self.addressed.space, page, subpage, pointer, out)?;
                allocation
            }
            Command::ReportLuns { select, allocation } => {
                report::luns(self.view, select, out);
                self.nexus.luns_reported();
                allocation
            }
            Command::ReportTargetPortGroups { extended, allocation } => {
                report::target_port_groups(self.addressed.access, extended, out);
                allocation
            }
            Command::ReportSupportedOpcodes { timeouts, which, allocation } => {
                report::supported_opcodes(unit, which, timeouts, out)?;
                allocation
            }
            Command::ReportSupportedTaskManagement { extended, allocation } => {
                report::task_management(extended, out);
                allocation
            }
            Command::PreFetch { range } => {
                // Nothing to fetch into: GOOD says that not all of it is in a cache (SBC-4 5.13).
                self.extent(range)?;
                return Ok(None);
            }
            Command::Read { range } => return self.read(range),
            Command::Write { range, force } => return self.write(range, force),
            Command::WriteAndVerify { range, compare } => return self.write_and_verify(range, compare),
            Command::Verify { range, compare } => return self.verify(range, compare),
            Command::SynchronizeCache { range } => return self.synchronize(range),
            Command::WriteSame { range, unmap, no_data } => return self.write_same(range, unmap, no_data),
            Command::Unmap { list } => return self.unmap(list),
            Command::CompareAndWrite { range, force } => return self.compare_and_write(range, force),
        };
        out.allocate(allocation);
        Ok(None)
    }

    /// What REQUEST SENSE has to say: a pending attention, which is thereby cleared, else why the
    /// unit is not ready.
    fn condition(&mut self) -> Sense {
        if let Some(attention) = self.nexus.take(self.addressed.lun) {
            return UnitAttention::sense(attention);
        }
        match self.addressed.access.own.state {
            AccessState::Transitioning => Sense::TRANSITION,
            _ => self.must_be_active().err().unwrap_or(Sense::NO_SENSE),
        }
    }

    fn mode_select(&self, long: bool, save: bool, list: u32) -> Result<(), Sense> {
        if save {
            return Err(Sense::invalid_in_cdb(1, Some(0)));
        }
        let list = self.list(list)?;
        mode::select(self.addressed.unit, long, list)
    }

    /// The parameter list of the length that the CDB tells.
    fn list(&self, len: u32) -> Result<&[u8], Sense> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.data.get(..len).ok_or(Sense::PARAMETER_LIST_LENGTH)
    }

    /// The blocks, inside the capacity.
    fn extent(&self, range: Range) -> Result<Extent, Sense> {
        let extent = Extent::new(range.lba, u64::from(range.blocks));
        inside(self.addressed.unit, extent)?;
        Ok(extent)
    }

    /// The blocks, inside capacity and limit.
    fn limited(&self, range: Range, limit: u32) -> Result<Extent, Sense> {
        let extent = self.extent(range)?;
        if range.blocks > limit {
            return Err(Sense::invalid_in_cdb(range.blocks_at.0, None));
        }
        Ok(extent)
    }

    fn transfer(&self, range: Range) -> Result<Extent, Sense> {
        self.limited(range, self.addressed.unit.limits.transfer_blocks)
    }

    /// FUA, and what else must be on the medium, for a volume whose promise is memory.
    fn flush(&self, needed: bool) -> Option<Step> {
        (needed && self.addressed.unit.write_cache).then_some(Step::new(Op::Flush, Extent::new(0, 0)))
    }

    fn read(&self, range: Range) -> Answer {
        let extent = self.transfer(range)?;
        let blocks = extent.blocks.min(u64::from(self.room.div_ceil(BLOCK)));
        let gives = bytes_of(extent.blocks) as u64;
        Ok((blocks > 0).then(|| Medium::read(Extent { blocks, ..extent }, gives)))
    }

    /// What arrived of the data to write, in whole blocks: an initiator may announce less than its
    /// CDB asks for, and is told by the residual count (RFC 7143 11.4.5.1).
    fn arrived(&self, extent: Extent) -> Result<Extent, Sense> {
        let block = BLOCK as usize;
        let len = self.data.len().min(bytes_of(extent.blocks));
        if !len.is_multiple_of(block) {
            return Err(Sense::WRONG_DATA_LENGTH);
        }
        Ok(Extent::new(extent.lba, (len / block) as u64))
    }

    fn write(&self, range: Range, force: bool) -> Answer {
        let extent = self.arrived(self.transfer(range)?)?;
        if extent.blocks == 0 {
            return Ok(None);
        }
        let write = Step::new(Op::Write, extent).with_data(bytes_of(extent.blocks));
        Ok(Some(Medium::steps([Some(write), self.flush(force), None], self.wanted)))
    }

    /// Another host may write between write and comparison; its blocks are then a miscompare, as
    /// they are on a disk.
    fn write_and_verify(&self, range: Range, compare: bool) -> Answer {
        let extent = self.arrived(self.transfer(range)?)?;
        if extent.blocks == 0 {
            return Ok(None);
        }
        let write = Step::new(Op::Write, extent).with_data(bytes_of(extent.blocks));
        let verify = Step::verify(extent, compare);
        let steps = match self.flush(true) {
            Some(flush) => [Some(write), Some(flush), Some(verify)],
            None => [Some(write), Some(verify), None],
        };
        Ok(Some(Medium::steps(steps, self.wanted)))
    }

    fn verify(&self, range: Range, compare: bool) -> Answer {
        let extent = self.transfer(range)?;
        if compare && self.data.len() < bytes_of(extent.blocks) {
            return Err(Sense::WRONG_DATA_LENGTH);
        }
        if extent.blocks == 0 {
            return Ok(None);
        }
        let verify = Step::verify(extent, compare);
        Ok(Some(Medium::steps([Some(verify), None, None], self.wanted)))
    }

    /// IMMED is answered late rather than early: GOOD then means what it says.
    fn synchronize(&self, range: Range) -> Answer {
        let extent = self.extent(range)?;
        Ok(Some(Medium::steps([Some(Step::new(Op::Flush, extent)), None, None], 0)))
    }

    fn write_same(&self, range: Range, unmap: bool, no_data: bool) -> Answer {
        let unit = self.addressed.unit;
        let extent = self.extent(range)?;
        if unmap && !unit.thin {
            return Err(Sense::invalid_in_cdb(1, Some(3)));
        }
        // WSNZ: zero does not stand for the rest of the volume.
        if extent.blocks == 0 || range.blocks > unit.limits.write_same_blocks {
            return Err(Sense::invalid_in_cdb(range.blocks_at.0, None));
        }
        if self.data.len() != if no_data { 0 } else { BLOCK as usize } {
            return Err(Sense::WRONG_DATA_LENGTH);
        }
        // Unmapped blocks read as zeroes, so only zeroes may become holes (SBC-4 5.44, LBPRZ).
        let step = if !self.data.iter().all(|byte| *byte == 0) {
            Step::new(Op::WriteSame, extent).with_data(BLOCK as usize)
        } else if unmap {
            Step::new(Op::Unmap, extent)
        } else {
            Step::new(Op::WriteZeroes, extent)
        };
        Ok(Some(Medium::steps([Some(step), None, None], self.wanted)))
    }

    /// SBC-4 5.35; all is checked before anything is unmapped.
    fn unmap(&self, list: u32) -> Answer {
        if list == 0 {
            return Ok(None);
        }
        let unit = self.addressed.unit;
        let list = self.list(list)?;
        let Some(&[_, _, high, low, ..]) = list.get(..UNMAP_HEADER) else {
            return Err(Sense::PARAMETER_LIST_LENGTH);
        };
        let described = usize::from(u16::from_be_bytes([high, low]));
        // A part of a descriptor at the end is ignored.
        let described = described - described % UNMAP_DESCRIPTOR;
        if list.len() - UNMAP_HEADER < described {
            return Err(Sense::PARAMETER_LIST_LENGTH);
        }
        // At most 65535 / 16.
        let count = u16::try_from(described / UNMAP_DESCRIPTOR).unwrap_or(u16::MAX);
        if count > unit.limits.unmap_descriptors {
            return Err(Sense::invalid_in_list(2, None));
        }
        let mut blocks = 0;
        for index in 0..count {
            let Some(extent) = unmap_extent(list, index) else { break };
            inside(unit, extent)?;
            blocks += extent.blocks;
            if blocks > u64::from(unit.limits.unmap_blocks) {
                let at = UNMAP_HEADER + usize::from(index) * UNMAP_DESCRIPTOR + 8;
                return Err(Sense::invalid_in_list(u16::try_from(at).unwrap_or(u16::MAX), None));
            }
        }
        Ok(Medium::unmap(list, count, self.wanted))
    }

    fn compare_and_write(&self, range: Range, force: bool) -> Answer {
        let limit = u32::from(self.addressed.unit.limits.compare_and_write_blocks);
        let extent = self.limited(range, limit)?;
        // Half of it is compared: with another length the halves would be others.
        let bytes = 2 * bytes_of(extent.blocks);
        if self.data.len() != bytes {
            return Err(Sense::invalid_in_cdb(range.blocks_at.0, None));
        }
        if extent.blocks == 0 {
            return Ok(None);
        }
        let step = Step::new(Op::CompareAndWrite, extent).with_data(bytes);
        Ok(Some(Medium::steps([Some(step), self.flush(force), None], self.wanted)))
    }
}

/// The blocks are inside the capacity (SBC-4 4.4.1); an empty range may start right behind it.
fn inside(unit: &LogicalUnit, extent: Extent) -> Result<(), Sense> {
    match extent.lba.checked_add(extent.blocks) {
        Some(end) if end <= unit.blocks => Ok(()),
        _ => Err(Sense::LBA_OUT_OF_RANGE),
    }
}

impl Command {
    /// Data-out that the CDB asks for, in bytes.
    fn wants(&self) -> u64 {
        let block = u64::from(BLOCK);
        match *self {
            Self::ModeSelect { list, .. } | Self::Unmap { list } => u64::from(list),
            Self::Write { range, .. }
            | Self::WriteAndVerify { range, .. }
            | Self::Verify { range, compare: true } => u64::from(range.blocks) * block,
            Self::WriteSame { no_data: false, .. } => block,
            Self::CompareAndWrite { range, .. } => u64::from(range.blocks) * 2 * block,
            _ => 0,
        }
    }

    /// Data-in that a media command asks for, in bytes.
    fn gives(&self) -> u64 {
        match *self {
            Self::Read { range } => u64::from(range.blocks) * u64::from(BLOCK),
            _ => 0,
        }
    }

    /// It ends in block requests, unless it is empty.
    const fn is_for_the_volume(&self) -> bool {
        matches!(
            self,
            Self::Read { .. }
                | Self::Write { .. }
                | Self::WriteAndVerify { .. }
                | Self::Verify { .. }
                | Self::SynchronizeCache { .. }
                | Self::WriteSame { .. }
                | Self::Unmap { .. }
                | Self::CompareAndWrite { .. }
        )
    }
}
