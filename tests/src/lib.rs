//! The harness of the integration tests: Headwater as its users meet it. Real processes of the real binary on free
//! loopback ports, a real Redis and PostgreSQL, real encoders; and readers of our own for what comes out, so that a
//! mistake of the product is not repeated by its judge.
//!
//! - [`process`]: children that are ended by their id and whose output is kept.
//! - [`cluster`], [`standalone`]: Headwater itself, with [`redis`] and [`postgres`] beside it; [`deployment`]: what its
//!   users see of either.
//! - [`node`]: one process of a role. [`chaos`]: a cluster in network namespaces, what is done to it under load, and what comes of it.
//! - [`kube`]: a real Kubernetes control plane, and what becomes of pods without nodes. [`charts`]: what Helm installs on it.
//! - [`encoder`] (RTMP written here, byte by byte) and [`ffmpeg`]: publishers. [`bench`]: the load generator.
//! - [`clients`]: real encoders, at pinned versions. [`recorder`]: what they send, byte by byte; [`chunks`] reads it.
//! - [`players`]: real players over RTMP, at pinned versions.
//! - [`subscriber`] (gRPC) and [`http`] (FLV): readers. [`flv`]: what was read, comparable packet by packet.
//! - [`scenario`]: what more than one test does.
//! - [`guess`]: stream keys that nobody issued.
//! - [`witness`]: a session that must not notice what happens beside it.
//! - [`metrics`]: what docs/metrics.md promises.
//! - [`mounted`]: files that change as those of a pod do. [`volume`]: file systems that are full or read-only.
//! - [`authority`]: certificates of the internal ports. [`collector`]: an OpenTelemetry collector that keeps what it is sent.
//! - [`backend`]: a platform's own, for webhooks. [`signing`]: the keys that a platform signs.
//! - [`api`]: the public gRPC API. [`secrets`]: looks for a secret in what the processes leave behind.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "in a test a panic is the report"
)]

pub mod amf;
pub mod api;
pub mod authority;
pub mod backend;
pub mod bench;
pub mod binary;
pub mod chaos;
pub mod charts;
pub mod chunks;
pub mod clients;
pub mod cluster;
pub mod collector;
pub mod deployment;
pub mod encoder;
pub mod ffmpeg;
pub mod flv;
pub mod guess;
pub mod http;
pub mod kube;
pub mod metrics;
pub mod mounted;
pub mod node;
pub mod players;
pub mod postgres;
pub mod process;
pub mod recorder;
pub mod redis;
pub mod scenario;
pub mod secrets;
pub mod signing;
pub mod standalone;
pub mod subscriber;
pub mod synthetic;
pub mod tls;
pub mod volume;
pub mod wait;
pub mod witness;

use std::{
    io::Write as _,
    net::TcpListener,
    path::PathBuf,
    sync::atomic::{AtomicU16, Ordering},
};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Tests that start processes share two processor cores: this many at a time.
static SLOTS: Semaphore = Semaphore::const_new(2);

/// Waits for a turn beside another test.
pub async fn turn() -> SemaphorePermit<'static> {
    SLOTS.acquire().await.unwrap()
}

/// Waits for a turn alone: for tests that load the machine or measure time.
pub async fn turn_alone() -> SemaphorePermit<'static> {
    SLOTS.acquire_many(2).await.unwrap()
}

/// Says that something is not run, and why: to whoever runs the tests, whatever becomes of what a test prints.
pub fn not_run(what: &str, why: &str) {
    let said = format!("tests: not run: {what} ({why})\n");
    // What the macros print is kept from view where a test passes.
    std::io::stderr().write_all(said.as_bytes()).unwrap();
}

/// A loopback port that is free now, and stays so while who listens there is away: the system gives none of these to
/// connections by itself.
pub fn free_port() -> u16 {
    static TRIED: AtomicU16 = AtomicU16::new(0);
    // Other processes begin elsewhere.
    let own = u16::try_from(std::process::id() % u32::from(PORTS)).unwrap_or_default();
    let next = || {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed) % PORTS;
        FIRST_PORT + (own.wrapping_mul(97) % PORTS + tried) % PORTS
    };
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(next).take(PORTS.into());
    ports.find(free).expect("a port is free")
}

/// The same, as an address.
pub fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Of [`free_port`]: above those of services, below those of Kubernetes' nodes and of connections.
const FIRST_PORT: u16 = 12_000;
const PORTS: u16 = 18_000;

/// A stream's id as everybody computes it: the first half of SHA-256 over the length-prefixed tenant, app and name.
pub fn stream_id(tenant: &str, app: &str, stream: &str) -> Vec<u8> {
    let mut input = Vec::new();
    for part in [tenant, app, stream] {
        input.extend(u64::try_from(part.len()).unwrap().to_be_bytes());
        input.extend(part.as_bytes());
    }
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &input);
    hash.as_ref()[..16].to_vec()
}

/// The key with which control signs grants.
pub fn grant_signer(file: &std::path::Path) -> proto::grant::GrantSigner {
    let text = std::fs::read_to_string(file).unwrap();
    let base64: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let pkcs8 = data_encoding::BASE64
        .decode(base64.trim().as_bytes())
        .unwrap();
    proto::grant::GrantSigner::from_pkcs8(&pkcs8).unwrap()
}

/// A committed test file.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(name)
}
