//! Shells around the connections between the arrays, and to the witness.

pub mod channel;
pub mod dial;
pub mod lane;
pub mod lives;
pub mod places;
pub mod refusals;
pub mod said;
pub mod secured;
pub mod stream;
pub mod watch;
