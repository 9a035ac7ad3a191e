//! The only module with `unsafe` or raw system calls: buffers, files and their engines, clocks,
//! socket options. No decisions are taken here.
#![allow(unsafe_code)]

pub mod buffer;
pub mod clock;
pub mod directory;
pub mod engine;
pub mod file;
#[cfg(test)]
pub mod mounted_tests;
pub mod pool;
pub mod process;
pub mod runtime;
pub mod socket;
pub mod thread;
#[cfg(feature = "testing")]
pub mod trace;
pub mod turn;
#[cfg(feature = "testing")]
pub mod volatile;
#[cfg(feature = "testing")]
mod volatile_names;
