//! Assembly of one array: threads, objects, portals, groups.

pub mod control;
pub mod data;
pub mod events;
pub mod groups;
pub mod metadata;
pub mod peer;
pub mod volumes;
