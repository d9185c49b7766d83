//! The registry's promises, kept by both homes of the leases (`ownership`), and what Redis alone can do to them
//! (`redis`, `access`, `failover`): real servers with TLS and the users of `deploy/redis/users.acl`, in every form in
//! which Redis is run (`forms`), of several versions and makers (`program`).

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test's helper fails its test; what was measured is printed"
)]

#[macro_use]
mod program;

mod access;
mod commands;
mod failover;
mod forms;
mod home;
mod ownership;
mod redis;
mod server;
