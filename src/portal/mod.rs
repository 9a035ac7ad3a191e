//! The iSCSI front end's shell: listeners, and connections on the data threads.
//!
//! It moves bytes between sockets and [`iscsi::Connection`](crate::iscsi::Connection), and commands
//! between that and a [`Nexus`]. What hosts see of the array comes from a [`Service`].

mod acceptor;
mod connection;
mod exports;
mod mailbox;
mod scsi;
#[cfg(test)]
mod scsi_tests;
mod service;
mod sessions;
mod spin;

pub use acceptor::{Accepted, accept};
pub use connection::{PortalConfig, serve_connection};
pub use exports::{Export, Exports, View};
pub use scsi::{ScsiNexus, ScsiService};
pub use service::{End, Finished, Nexus, OwnedReply, SenseData, Service};
pub use sessions::{DISCOVERIES_PER_ADDRESS, SessionInfo, Sessions};
