//! The witness: the third voter of many groups. It never calls anybody.

use std::collections::BTreeMap;

use crate::time::Now;

use super::{Connection, GroupId, Incarnation, Message, Side, Timers, VoterRecord};

/// All that a witness keeps durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessImage {
    pub incarnation: Incarnation,
    /// Grows with each durable change; the token in `/run` must name the same number.
    pub sequence: u64,
    pub groups: BTreeMap<GroupId, VoterRecord>,
}

/// What the witness's shell must do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WitnessAction {
    /// Write `image()` (or at least these records, with its incarnation and sequence) durably, then
    /// the token, then call `persisted`.
    Persist { sequence: u64, groups: Vec<GroupId> },
    /// Answers to one batch, all on the connection it came by; drop them when it is gone.
    Reply { connection: Connection, messages: Vec<Message> },
}

/// The pure core of the witness.
#[derive(Clone, Debug)]
pub struct WitnessCore {
    image: WitnessImage,
}

impl WitnessCore {
    /// Most groups a witness takes: bounds what a client can make grow.
    pub const GROUPS_MAX: usize = 4096;

    /// A witness that starts. `image`: its state file, `None` when there is none. `continued`: the
    /// token in `/run` matched it (rule 12); otherwise `fresh` becomes its incarnation, and nothing
    /// but tombstones is kept.
    #[must_use]
    pub fn start(
        _timers: Timers,
        image: Option<WitnessImage>,
        _continued: bool,
        fresh: Incarnation,
        _now: Now,
        _out: &mut Vec<WitnessAction>,
    ) -> Self {
        Self {
            image: image.unwrap_or(WitnessImage { incarnation: fresh, sequence: 0, groups: BTreeMap::new() }),
        }
    }

    pub const fn image(&self) -> &WitnessImage {
        &self.image
    }

    /// One batch of `from`, of many groups: one `Persist` at most, one `Reply`.
    pub fn receive(
        &mut self,
        _from: Side,
        _connection: Connection,
        _batch: &[Message],
        _now: Now,
        _out: &mut Vec<WitnessAction>,
    ) {
    }

    /// Everything up to this sequence is on stable storage.
    pub fn persisted(&mut self, _sequence: u64, _out: &mut Vec<WitnessAction>) {}
}
