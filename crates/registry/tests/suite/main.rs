//! The registry's promises, kept by both homes of the leases (`ownership`), and what Redis alone can do to them
//! (`redis`): a real server with TLS and the users of `deploy/redis/users.acl`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's helper fails its test"
)]

mod home;
mod ownership;
mod redis;
mod server;
