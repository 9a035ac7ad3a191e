//! The SCSI command set of a disk (SAM-5, SPC-5, SBC-4), without I/O, clock or threads.
//!
//! [`execute`] takes a CDB, the [`View`] of the addressed unit and the [`Nexus`] state, and either
//! answers at once or returns a [`Medium`]: the block requests the command consists of, and how
//! their outcomes become its answer. One [`table`] drives decoding, REPORT SUPPORTED OPERATION
//! CODES and what a standby port answers. It knows neither transports nor volumes.

pub mod attention;
pub mod cdb;
pub mod execute;
mod inquiry;
mod log;
pub mod lun;
pub mod medium;
mod mode;
mod parameter;
mod report;
pub mod sense;
pub mod table;
pub mod unit;

pub use attention::{Nexus, UnitAttention};
pub use execute::{Arrival, DataIn, Execution, Reply, Status, execute};
pub use lun::Lun;
pub use medium::{End, Medium, Progress, Submission};
pub use sense::{Sense, SenseKey};
pub use unit::{
    Access, AccessState, Addressed, Changes, Identity, Limits, LogicalUnit, Port, PortGroup, Space, View,
};

#[cfg(test)]
mod tests;
