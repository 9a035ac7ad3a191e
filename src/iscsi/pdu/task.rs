//! Task Management Function Request and Response (RFC 7143 11.5, 11.6).

use super::{FINAL, Numbers};
use crate::iscsi::header::{Header, Opcode};
use crate::iscsi::serial::Serial;

/// RFC 7143 11.5.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskFunction {
    AbortTask,
    AbortTaskSet,
    ClearAca,
    ClearTaskSet,
    LogicalUnitReset,
    TargetWarmReset,
    TargetColdReset,
    TaskReassign,
    Other(u8),
}

impl TaskFunction {
    const fn from_bits(bits: u8) -> Self {
        match bits & !FINAL {
            1 => Self::AbortTask,
            2 => Self::AbortTaskSet,
            3 => Self::ClearAca,
            4 => Self::ClearTaskSet,
            5 => Self::LogicalUnitReset,
            6 => Self::TargetWarmReset,
            7 => Self::TargetColdReset,
            8 => Self::TaskReassign,
            other => Self::Other(other),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::AbortTask => 1,
            Self::AbortTaskSet => 2,
            Self::ClearAca => 3,
            Self::ClearTaskSet => 4,
            Self::LogicalUnitReset => 5,
            Self::TargetWarmReset => 6,
            Self::TargetColdReset => 7,
            Self::TaskReassign => 8,
            Self::Other(bits) => bits & !FINAL,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskRequest {
    pub immediate: bool,
    pub function: TaskFunction,
    pub lun: u64,
    pub itt: u32,
    /// Initiator task tag of the task to abort.
    pub referenced_task_tag: u32,
    pub cmd_sn: Serial,
    pub exp_stat_sn: Serial,
    /// CmdSN of the task to abort.
    pub ref_cmd_sn: Serial,
    pub exp_data_sn: u32,
}

impl TaskRequest {
    pub fn decode(header: &Header) -> Self {
        Self {
            immediate: header.immediate(),
            function: TaskFunction::from_bits(header.flags()),
            lun: header.u64::<8>(),
            itt: header.itt(),
            referenced_task_tag: header.u32::<20>(),
            cmd_sn: Serial(header.u32::<24>()),
            exp_stat_sn: Serial(header.u32::<28>()),
            ref_cmd_sn: Serial(header.u32::<32>()),
            exp_data_sn: header.u32::<36>(),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::TaskRequest);
        header.set_immediate(self.immediate);
        header.put_u8::<1>(FINAL | self.function.bits());
        header.put_u64::<8>(self.lun);
        header.put_u32::<16>(self.itt);
        header.put_u32::<20>(self.referenced_task_tag);
        header.put_u32::<24>(self.cmd_sn.0);
        header.put_u32::<28>(self.exp_stat_sn.0);
        header.put_u32::<32>(self.ref_cmd_sn.0);
        header.put_u32::<36>(self.exp_data_sn);
        header
    }
}

/// RFC 7143 11.6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskResult {
    Complete,
    TaskDoesNotExist,
    LunDoesNotExist,
    TaskStillAllegiant,
    ReassignmentNotSupported,
    FunctionNotSupported,
    AuthorizationFailed,
    Rejected,
    Other(u8),
}

impl TaskResult {
    const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Complete,
            1 => Self::TaskDoesNotExist,
            2 => Self::LunDoesNotExist,
            3 => Self::TaskStillAllegiant,
            4 => Self::ReassignmentNotSupported,
            5 => Self::FunctionNotSupported,
            6 => Self::AuthorizationFailed,
            255 => Self::Rejected,
            other => Self::Other(other),
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::TaskDoesNotExist => 1,
            Self::LunDoesNotExist => 2,
            Self::TaskStillAllegiant => 3,
            Self::ReassignmentNotSupported => 4,
            Self::FunctionNotSupported => 5,
            Self::AuthorizationFailed => 6,
            Self::Rejected => 255,
            Self::Other(bits) => bits,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TaskResponse {
    pub result: TaskResult,
    pub itt: u32,
    pub numbers: Numbers,
}

impl TaskResponse {
    pub fn decode(header: &Header) -> Self {
        Self {
            result: TaskResult::from_bits(header.u8::<2>()),
            itt: header.itt(),
            numbers: Numbers::decode(header),
        }
    }

    pub fn encode(&self) -> Header {
        let mut header = Header::new(Opcode::TaskResponse);
        header.put_u8::<1>(FINAL);
        header.put_u8::<2>(self.result.bits());
        header.put_u32::<16>(self.itt);
        self.numbers.encode(&mut header);
        header
    }
}
