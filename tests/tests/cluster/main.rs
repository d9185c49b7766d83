//! Headwater as its users meet it: real processes of the real binary, real Redis and databases, real encoders.
//!
//! What holds for any deployment is written once, against [`tests::deployment::Deployment`], and run for the separate
//! roles and for the standalone process.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

mod admission;
mod backup;
mod bad_input;
mod bad_peers;
mod certificates;
mod client_certificates;
mod client_examples;
mod command_line;
mod controls;
mod database_faults;
mod discovery;
mod events;
mod failover;
mod following;
mod guessing;
mod half_open;
mod hostile_records;
mod limits;
mod live_changes;
mod load;
mod media;
mod metrics;
mod orders;
mod outage;
mod passwords;
mod probe;
mod pull;
mod reconnect;
mod restore;
mod revocation;
mod rollout;
mod secrecy;
mod standalone;
mod takeover;
mod tickets;
mod traces;
