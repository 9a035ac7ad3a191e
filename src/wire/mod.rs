//! Codec of the control connection and the witness protocol. Pure.
