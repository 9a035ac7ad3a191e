//! The TOML configuration: keys, bounds, errors with line and advice. It holds only what a daemon
//! needs to start; objects are made through the management API.

mod address;
mod duration;
mod file;
mod place;
#[cfg(test)]
mod tests;

pub use duration::Milliseconds;
pub use file::{
    ArrayConfig, ArrayIdentity, ConfigError, EngineChoice, Management, Peer, Portal, SideName, TimersConfig,
    TlsConfig, WitnessClient, WitnessConfig, WitnessIdentity,
};
