//! Arbitration: who may serve a group, decided by a chain of epochs over A, B and the witness.
//!
//! Pure: events and a `now` in, actions out. It knows nothing of volumes, lanes, hosts or disks;
//! it publishes one [`Gate`] per group, which the data path reads.

mod config;
mod gate;

pub use config::{Config, Epoch, GroupId, InSync, Incarnation, Lineage, Quorum, Side, Tenure, Voter};
pub use gate::{Gate, Mode};
