//! The shell around a [`mirror::Volume`](crate::mirror): what front ends submit block requests to.
//!
//! It keeps payloads under the core's command numbers, carries out the core's actions on the data
//! threads, and brings each outcome back to the connection that asked, whichever thread it ends on.

mod completion;
mod service;

pub use completion::{Completion, CompletionQueue, ReplyTo};
pub use service::{BlockVolume, Submitted, Ticket};
