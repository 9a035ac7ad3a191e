//! Assembly of one array: threads, objects, portals, groups.

pub mod data;
pub mod metadata;
pub mod volumes;
