//! The object store: volumes, hosts, VLUNs, remote copy groups, transactional and durable.
//!
//! All objects are kept in memory as one immutable snapshot; a change works on a copy, is checked
//! by the model's rules, made durable in one transaction, and only then shown. Readers never wait.

mod backend;
mod group_state;
mod model;
mod store;
#[cfg(test)]
mod tests;
mod types;

pub use group_state::{Adopted, change_counts, is_older};
pub use model::{Objects, check_name, may_be_overwritten};
pub use store::{ObjectStore, StoreError};
pub use types::{
    Absent, COMMENT_MAX, Group, GroupState, HOST_NAMES_MAX, Host, ISCSI_NAME_MAX, Kind, KnownTenure, LUN_MAX,
    MEMBERS_MAX, Member, NAME_MAX, OBJECTS_MAX, ObjectError, Policies, Provisioning, SharedVolume, Tombstone,
    Unexported, VirtualVolume, Vlun,
};
