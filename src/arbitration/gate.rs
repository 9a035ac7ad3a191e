//! The gate: all that the data path knows of arbitration, one small consistent value per group.

use super::Tenure;
use crate::time::{Now, Time};

/// What the data path may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Nothing: media commands are refused at once (standby, failsafe, not yet started).
    Closed,
    /// Roles may be about to change in this array's favour or are changing: new commands are
    /// parked until `Gate::hold_until`, then refused. Nothing in flight may be answered.
    Held,
    /// A switchover is being prepared: new commands are parked, those in flight run to their end
    /// and are answered under the lease, with both copies.
    Draining,
    /// Serving; every acknowledgement needs both copies ({A,B} chosen, voted or being accepted).
    Both,
    /// Serving; this copy alone is enough.
    Alone,
}

/// Published by arbitration, copied into every volume of the group under the volume's lock. A
/// command's check reads the copy under that same lock, so once a stricter gate was set on every
/// volume no data thread can still act under the older one (rule 5's confirmation).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    /// Commands and replication frames live within one tenure (rules 5, 6).
    pub tenure: Tenure,
    pub mode: Mode,
    /// End of the lease on the holder's clock; [`Time::FOREVER`] where none is needed.
    pub lease_end: Time,
    /// Until when parked commands wait (grantor clock); meaningful in `Held` and `Draining`.
    pub hold_until: Time,
}

impl Gate {
    pub const fn closed(tenure: Tenure) -> Self {
        Self { tenure, mode: Mode::Closed, lease_end: Time::ZERO, hold_until: Time::ZERO }
    }

    /// A volume outside any group: always served, never mirrored.
    pub fn solitary() -> Self {
        Self {
            tenure: Tenure::default(),
            mode: Mode::Alone,
            lease_end: Time::FOREVER,
            hold_until: Time::ZERO,
        }
    }

    /// May a command start now?
    pub fn may_start(&self, now: Now) -> bool {
        matches!(self.mode, Mode::Both | Mode::Alone) && now.holder < self.lease_end
    }

    /// May a command of this tenure that is done be answered with anything but a refusal?
    pub fn may_answer(&self, now: Now) -> bool {
        matches!(self.mode, Mode::Both | Mode::Alone | Mode::Draining) && now.holder < self.lease_end
    }

    /// Does an acknowledgement need both copies?
    pub const fn needs_both(&self) -> bool {
        matches!(self.mode, Mode::Both | Mode::Draining)
    }
}
