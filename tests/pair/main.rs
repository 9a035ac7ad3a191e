//! Arrays, their witness and the command line as real processes on loopback: what an operator does
//! and sees, and what bad input does to them (nothing).

mod bad_input;
mod before_image;
mod configuration;
mod damage;
#[path = "../durability/disk.rs"]
mod disk;
mod enrolment;
mod full_disk;
mod growth;
mod hanging_disk;
mod identity;
mod idle;
#[path = "../host/initiator.rs"]
#[allow(dead_code, reason = "the multipath host uses the rest")]
mod initiator;
#[path = "../durability/lun.rs"]
#[allow(dead_code, reason = "the tests of durability use the rest")]
mod lun;
mod management;
mod many_pairs;
mod members;
mod memory;
mod operator;
mod read_errors;
mod removal;
mod roles;
mod site;
mod story;
mod tls;
mod verify;
