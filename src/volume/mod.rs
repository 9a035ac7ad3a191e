//! The shell around a [`mirror::Volume`](crate::mirror): what front ends submit block requests to.
//!
//! It keeps payloads under the core's command numbers, carries out the core's actions on the data
//! threads, and brings each outcome back to the connection that asked, whichever thread it ends on.

mod completion;
#[cfg(feature = "testing")]
pub mod fault;
mod keeping;
mod lane;
pub mod latency;
mod mend;
mod perform;
mod service;
mod shell;
mod thread;
mod verify;
mod work;

pub use completion::{Completion, CompletionQueue, ReplyTo};
pub use keeping::{HeldCopy, KeptImage, RollBackError};
pub use lane::{LaneFrame, LaneOut};
pub use mend::{For, MENDED_BLOCKS, Mending};
pub use perform::{RESYNC_BYTES, note_written, run_job, take_written};
pub use service::{BlockVolume, Submitted, Ticket};
pub use shell::{Listener, Volume};
pub use thread::{DataThread, Job, Mailboxes};
pub use verify::Verified;
pub use work::Work;
