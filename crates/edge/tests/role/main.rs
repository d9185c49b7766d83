//! The role as a whole: encoders on loopback TLS, control and origins as fakes over the real gRPC transport, leases in
//! memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

mod adobe;
mod connections;
mod drain;
mod encoder;
mod failover;
mod fake_control;
mod fake_origin;
mod harness;
mod hostile_bytes;
mod hostile_media;
mod hostile_rtmp;
mod hostile_tls;
mod limits;
mod liveness;
mod moves;
mod neighbour;
mod orders;
mod publish;
mod reports;
#[path = "../../../rtmp/tests/support/script.rs"]
mod script;
mod tls;
