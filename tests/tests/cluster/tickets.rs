//! Clients that never heard of TLS 1.3's session tickets: librtmp with GnuTLS, as Debian has it and many devices.
//!
//! It asks GnuTLS for bytes, and GnuTLS says "again" (`GNUTLS_E_AGAIN`) where what came was a ticket. librtmp takes that
//! for the end of the connection. One ticket is enough, always: servers send it in the first bytes after the handshake,
//! and librtmp's first read of S0 meets it.

use std::{path::Path, sync::Arc, time::Duration};

use rcgen::generate_simple_self_signed;
use rustls::{ServerConfig, server::ServerSessionMemoryCache};
use rustls_pki_types::PrivateKeyDer;
use tests::{
    deployment::APP,
    fixture, http,
    process::{self, Process},
    recorder::Recorder,
    standalone::Standalone,
    turn,
    wait::wait_for,
};

const STARTED: Duration = Duration::from_secs(20);
/// C0 and C1: what a client says before it reads.
const OPENING_BYTES: usize = 1 + 1536;

/// librtmp as it publishes the fixture to `server`.
fn librtmp(server: &str, stream_key: &str, logs: &Path) -> Process {
    let mut command = process::command("python3");
    command
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/python/librtmp_publish.py"
        ))
        .arg(format!("{server}/{stream_key}"))
        .arg(fixture("source.flv"));
    Process::spawn("librtmp", &mut command, logs)
}

async fn publishes(standalone: &Standalone, stream: &str, librtmp: &mut Process) {
    wait_for("the session", STARTED, async || {
        if let Some(status) = librtmp.ended() {
            panic!("librtmp ended ({status}):\n{}", librtmp.log());
        }
        standalone.deployment.api.session_of(stream).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn librtmp_publishes_over_tls() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "old-device").await;
    let server = deployment.rtmps_url(APP);
    let mut librtmp = librtmp(&server, &key.secret, &deployment.logs);
    publishes(&standalone, "old-device", &mut librtmp).await;
    let status = librtmp.exit(STARTED * 2).await;
    assert!(status.success(), "{}", librtmp.log());
    let edge = &standalone.process;
    edge.log_line(&["reason=\"client_close\""], STARTED).await;
    let (_, metrics) = http::get(&format!("{}/metrics", deployment.admin[0]))
        .await
        .unwrap();
    let modern = metrics.lines().find(|line| {
        line.starts_with("headwater_tls_handshakes_total{version=\"1.3\"")
            && line.contains("server_name=\"missing\"")
    });
    assert!(
        modern.is_some(),
        "it speaks TLS 1.3 and sends no name:\n{metrics}"
    );
}

/// The control of the test above: the same client, the same edge, and before it a TLS server that differs in this alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn librtmp_dies_of_one_ticket() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "old-device").await;
    // rustls's own default is two.
    for tickets in [1, 2] {
        let front = Recorder::with_tls(deployment, sending(tickets)).await;
        let mut librtmp = librtmp(&front.server(APP), &key.secret, &deployment.logs);
        let status = librtmp.exit(STARTED).await;
        let log = librtmp.log();
        assert!(!status.success(), "{tickets} tickets:\n{log}");
        assert!(log.contains("RTMP_Connect1, handshake failed"), "{log}");
        let sent = front.recordings();
        let sent: Vec<_> = sent.iter().map(Vec::len).collect();
        assert_eq!(sent, [OPENING_BYTES], "TLS stood, and RTMP had begun");
    }
    let front = Recorder::with_tls(deployment, sending(0)).await;
    let mut librtmp = librtmp(&front.server(APP), &key.secret, &deployment.logs);
    publishes(&standalone, "old-device", &mut librtmp).await;
}

/// A server that sends so many tickets after each handshake. librtmp checks no certificate.
fn sending(tickets: usize) -> ServerConfig {
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = vec![made.cert.der().clone()];
    let private_key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .unwrap();
    config.send_tls13_tickets = tickets;
    config.session_storage = ServerSessionMemoryCache::new(8);
    config
}
