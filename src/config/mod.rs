//! The TOML configuration: keys, bounds, errors with line and advice.
