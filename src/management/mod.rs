//! HTTP+JSON management API in the shape of the 3PAR WSAPI, and Prometheus metrics.
//!
//! WSAPI's own resources lie under `/api/v1`; what it has no word for under `/api/twinlun`. The
//! command line is a client like any other.

mod auth;
mod bounds;
mod error;
mod group_targets;
mod guesses;
mod metrics;
mod objects;
mod remotecopy;
mod server;
mod token;
mod transport;
mod verbs;
mod verify;

pub use auth::{UsersError, set_user};
pub use server::{ServeError, serve};
pub use token::{certificate_path, local_certificate, read_token, token_path};

/// Body of an answer or request.
pub(crate) type Json = serde_json::Value;
