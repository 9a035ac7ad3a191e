//! Arrays, their witness and the command line as real processes on loopback: what an operator does
//! and sees, and what bad input does to them (nothing).

mod bad_input;
mod before_image;
mod configuration;
mod damage;
mod enrolment;
mod full_disk;
mod growth;
mod hanging_disk;
mod identity;
mod idle;
mod management;
mod many_pairs;
mod members;
mod operator;
mod read_errors;
mod site;
mod story;
mod tls;
