//! Assembly of one array: threads, objects, portals, groups.

pub mod age;
pub mod control;
pub mod data;
mod dying;
pub mod events;
pub mod exports;
pub mod groups;
pub mod handle;
pub mod metadata;
pub mod peer;
mod probes;
pub mod rpc;
mod run;
mod start;
pub mod volumes;

pub use control::finding;
pub use handle::{CommandError, Handle, Links, NewVolume};
pub use run::{RunError, run};
