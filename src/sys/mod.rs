//! The only module with `unsafe` or raw system calls: buffers, engines, clocks, socket options.

pub mod buffer;
