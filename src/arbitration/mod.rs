//! Arbitration: who may serve a group, decided by a chain of epochs over A, B and the witness.
//!
//! Pure: events and a `now` in, actions out. It knows nothing of volumes, lanes, hosts or disks;
//! it publishes one [`Gate`] per group, which the data path reads.

mod arbiter;
#[cfg(feature = "testing")]
mod canonical;
mod config;
mod fields;
mod gate;
mod message;
mod overriding;
mod owners;
mod proposer;
mod record;
mod serving;
mod taint;
mod timers;
mod transition;
mod voter;
mod witness;

pub use arbiter::{Arbiter, ArbiterAction, Environment};
#[cfg(feature = "testing")]
pub use canonical::Rebase;
pub use config::{Config, Epoch, GroupId, InSync, Incarnation, Lineage, Quorum, Side, Tenure, Voter};
pub use fields::{Reader, Writer};
pub use gate::{Gate, Mode};
pub use message::{Body, Connection, Message, Promise};
pub use owners::{Caller, OwnerMap, Owners, SiteName};
pub use record::{Ballot, MemoryId, RECORD_FORMAT, Vote, VoterRecord};
pub use timers::{LEASE_MAX, TimerError, Timers};
pub use transition::Transition;
pub use witness::{WitnessAction, WitnessCore, WitnessImage};

#[cfg(test)]
mod walk_tests;
