//! One array's part in arbitration: voter, proposer, holder of leases.

use super::VoterRecord;

#[derive(Clone, Debug)]
pub struct Arbiter {
    record: VoterRecord,
}

/// What the proposer must know of the world outside arbitration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Environment {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArbiterAction {}

impl Arbiter {
    pub const fn new(record: VoterRecord) -> Self {
        Self { record }
    }

    pub const fn record(&self) -> &VoterRecord {
        &self.record
    }
}
