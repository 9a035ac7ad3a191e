//! Shells around disks: data files, dirty maps, votes, the object store.

pub mod objects;
