//! Control of one remote copy group on one array: the glue, pure as well, between arbitration
//! (who may serve), the mirror's volumes (what is equal) and the operator.

mod absent;
mod api;
mod attempts;
mod change;
mod control;
mod cut;
mod disks;
mod gate;
mod liveness;
pub mod membership;
mod memory;
mod overriding;
mod probe;
mod runs;
mod session;
mod state;
mod view;

pub use absent::{Enrolment, enrolment, may_hold_more};
pub use api::{
    Action, BootNonce, Command, Decline, Event, GroupState, Life, LogEntry, MEMBERS_MAX, Members, PathState,
    PathView, Policy, RUNS_MAX, Reason, Refused, Request, Role, SessionEnd, SessionMessage, Settings,
    SyncStatus,
};
pub use control::Control;
pub use liveness::Liveness;
pub use probe::{Probe, Probed, Trouble};

#[cfg(test)]
mod rig_tests;
#[cfg(test)]
mod session_tests;
