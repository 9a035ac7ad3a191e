//! Shells around the connections between the arrays, and to the witness.

pub mod lane;
