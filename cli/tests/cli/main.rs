//! The binary as its users meet it: standard output, standard error, exit code, and the files it
//! leaves.

// Helpers of tests, which the exemption of clippy.toml does not see.
#![allow(clippy::unwrap_used)]

mod allocation;
mod bad_input;
mod bench;
mod calibration;
mod check;
mod checksums;
mod compare;
mod corpora;
mod docs;
mod edit;
mod end_to_end;
mod faults;
mod golden;
mod harness;
mod importance;
mod inspect;
mod lora;
mod output_file;
mod remote;
mod reports;
mod resume;
mod rust_version;
mod sample;
mod shells;
mod tables;
mod tokenize;
mod transform;
mod usage;
mod verify;
