//! twinlun: one LUN, two arrays.
//!
//! Three kinds of code, kept apart (see `docs/DESIGN.md`): pure cores that take events and a
//! `now` and return actions; thin shells around sockets, disks and timers; and the assembly that
//! joins them. `tests/architecture.rs` fails on a `use` that points the wrong way.

pub mod arbitration;
pub mod array;
pub mod block;
pub mod cli;
pub mod config;
pub mod format;
pub mod group;
pub mod iscsi;
pub mod link;
pub mod management;
pub mod mirror;
pub mod mutation;
pub mod portal;
pub mod scsi;
pub mod store;
pub mod sys;
pub mod time;
pub mod tls;
pub mod volume;
pub mod wire;
pub mod witness;
