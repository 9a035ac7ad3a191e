//! The iSCSI portal over loopback, against an initiator that is nothing but PDUs, and with a
//! command set that is nothing but READ and WRITE on memory: what is tested is the transport.

mod initiator;
mod memory;
mod scenarios;
