//! What Headwater does on Kubernetes, against a real API server and controller manager.
//!
//! All tests share one control plane; each has namespaces of its own.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

mod charts_rendered;
mod charts_served;
mod control_plane;
mod desk;
mod operator;
mod operator_access;
mod operator_faults;
mod operator_fleet;
mod operator_harness;
mod operator_issuers;
mod operator_rights;
mod operator_steady;
