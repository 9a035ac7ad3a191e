//! Shared shape of everything durable: magic, version range, checksum, two-slot records. Pure.

pub mod envelope;
pub mod slots;

pub use envelope::{EnvelopeError, Format, checksum};
pub use slots::{SlotError, Slots};
