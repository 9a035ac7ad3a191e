//! The quorum witness process: a durable third voter for any number of pairs. It never calls
//! anybody; arrays connect to it.

mod continuity;
mod serve;

pub use serve::{WitnessError, run};
