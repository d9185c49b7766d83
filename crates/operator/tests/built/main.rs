//! What is built for clusters as users write them.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "in a test a panic is the report"
)]

#[path = "../support/fixture.rs"]
mod fixture;

mod change;
mod fields;
mod golden;
mod network;
mod scaling;
mod security;
