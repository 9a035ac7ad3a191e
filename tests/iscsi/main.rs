//! The iSCSI portal over loopback, against an initiator that is nothing but PDUs. Mostly with a
//! command set that is nothing but READ and WRITE on memory, because the transport is tested.

mod disk;
mod initiator;
mod memory;
mod scenarios;
