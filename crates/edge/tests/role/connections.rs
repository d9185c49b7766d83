//! What happens before a connection speaks RTMP.

use std::{net::SocketAddr, time::Duration};

use edge::ProxyProtocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    encoder::{Encoder, Said, media},
    harness::{Harness, in_time, logged, until},
};

fn rejected(reason: &str) -> String {
    format!("headwater_connections_rejected_total{{reason=\"{reason}\"}}")
}

/// Sends bytes and waits for the edge to close without a word.
async fn is_closed(address: SocketAddr, bytes: &[u8]) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    in_time("close", socket.read_to_end(&mut answer)).await.ok();
    assert!(
        answer.is_empty() || answer[0] == 0x15,
        "nothing but a TLS alert: {answer:?}"
    );
}

#[tokio::test]
async fn plain_rtmp_on_the_tls_port_is_named_in_the_log() {
    let harness = Harness::start(1).await;
    is_closed(harness.address, &[&[3][..], &[0; 1536]].concat()).await;
    until("the log line", || {
        logged().contains("rtmp:// used on an rtmps:// port")
    })
    .await;
    assert_eq!(harness.metric(&rejected("plain_rtmp")), 1);
}

#[tokio::test]
async fn whatever_else_people_connect_is_closed_and_counted() {
    let harness = Harness::start(1).await;
    is_closed(
        harness.address,
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
    )
    .await;
    is_closed(harness.address, b"\x00\x01\x02").await;
    is_closed(harness.address, &[0x16; 600]).await;
    drop(TcpStream::connect(harness.address).await.unwrap());
    for reason in ["http", "not_tls", "tls_malformed", "silent"] {
        until(reason, || harness.metric(&rejected(reason)) == 1).await;
    }
    until("nobody", || {
        harness.metric("headwater_connections_active") == 0
    })
    .await;
    Encoder::publish(harness.address, "live", "good-still")
        .await
        .finish()
        .await;
}

#[tokio::test]
async fn a_handshake_that_stops_is_closed_at_its_deadline() {
    let harness = Harness::start_with(1, |config| {
        config.connections.tls_handshake_timeout = Duration::from_millis(200);
    })
    .await;
    is_closed(harness.address, &[]).await;
    is_closed(harness.address, &[0x16, 3, 1]).await;
    until("the count", || {
        harness.metric(&rejected("tls_timeout")) == 2
    })
    .await;
}

#[tokio::test]
async fn one_address_has_a_limit() {
    let harness = Harness::start_with(1, |config| {
        config.connections.connections_per_address_max = 2;
    })
    .await;
    let first = Encoder::publish(harness.address, "live", "good-one").await;
    let second = Encoder::publish(harness.address, "live", "good-two").await;
    is_closed(harness.address, &[]).await;
    assert_eq!(harness.metric(&rejected("connections_per_address_max")), 1);
    first.finish().await;
    until("a free place", || {
        harness.metric("headwater_connections_active") == 1
    })
    .await;
    Encoder::publish(harness.address, "live", "good-three")
        .await
        .finish()
        .await;
    second.finish().await;
}

#[tokio::test]
async fn the_process_has_a_limit() {
    let harness = Harness::start_with(1, |config| config.connections.connections_max = 1).await;
    let first = Encoder::publish(harness.address, "live", "good-only").await;
    is_closed(harness.address, &[]).await;
    assert_eq!(harness.metric(&rejected("connections_max")), 1);
    first.finish().await;
}

fn behind_a_balancer(trusted: &str) -> ProxyProtocol {
    ProxyProtocol::Require {
        trusted: vec![trusted.parse().unwrap()],
    }
}

#[tokio::test]
async fn a_trusted_balancer_tells_the_encoders_address() {
    let harness = Harness::start_with(1, |config| {
        config.proxy_protocol = behind_a_balancer("127.0.0.0/8");
        config.connections.connections_per_address_max = 1;
    })
    .await;
    let v1 = b"PROXY TCP4 192.0.2.1 192.0.2.9 1234 443\r\n".to_vec();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([192, 0, 2, 2, 192, 0, 2, 9, 4, 210, 1, 187]);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let mut encoders = Vec::new();
    // Each has an address of its own, and so a place of its own.
    for (header, key, address) in [
        (v1, "good-v1", "192.0.2.1:1234"),
        (v2, "good-v2", "192.0.2.2:1234"),
        (local, "good-local", "127.0.0.1:"),
    ] {
        let mut socket = TcpStream::connect(harness.address).await.unwrap();
        socket.write_all(&header).await.unwrap();
        let mut encoder = Encoder::over(socket, "live", key).await;
        assert_eq!(encoder.said().await, Said::Started);
        let request = harness.control.requests().pop().unwrap();
        assert!(
            request.client_address.starts_with(address),
            "{}",
            request.client_address
        );
        encoders.push(encoder);
    }
    for encoder in encoders {
        encoder.finish().await;
    }
}

#[tokio::test]
async fn without_a_header_no_connection_passes_the_balancers_port() {
    let harness = Harness::start_with(1, |config| {
        config.proxy_protocol = behind_a_balancer("127.0.0.0/8");
        config.connections.proxy_header_timeout = Duration::from_millis(200);
    })
    .await;
    is_closed(harness.address, &[0x16; 600]).await;
    is_closed(harness.address, b"PROXY TCP4").await;
    assert_eq!(harness.metric(&rejected("proxy_malformed")), 1);
    assert_eq!(harness.metric(&rejected("proxy_timeout")), 1);
}

#[tokio::test]
async fn a_header_of_a_stranger_is_not_believed() {
    let harness = Harness::start_with(1, |config| {
        config.proxy_protocol = behind_a_balancer("10.0.0.0/8");
    })
    .await;
    is_closed(
        harness.address,
        b"PROXY TCP4 192.0.2.1 192.0.2.9 1234 443\r\n",
    )
    .await;
    assert_eq!(harness.metric(&rejected("proxy_untrusted")), 1);
    until("the log line", || {
        logged().contains("not a trusted load balancer")
    })
    .await;
}

#[tokio::test]
async fn a_broken_protocol_costs_its_own_connection_alone() {
    let harness = Harness::start(1).await;
    let mut good = Encoder::publish(harness.address, "live", "good-neighbour").await;
    let mut bad = Encoder::publish(harness.address, "live", "good-breaker").await;
    // Set Chunk Size 1.
    bad.send_raw(&[2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 1])
        .await;
    assert!(matches!(
        in_time("end", bad.said()).await,
        Said::Rejected(_)
    ));
    assert_eq!(in_time("close", bad.said()).await, Said::Closed);
    until("the metric", || {
        harness.metric("headwater_sessions_ended_total{reason=\"protocol_error\"}") == 1
    })
    .await;
    good.send_all(&media(0..10, 100)).await;
    good.finish().await;
    harness.no_lease().await;
}
