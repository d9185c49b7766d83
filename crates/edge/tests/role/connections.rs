//! What happens before a connection speaks RTMP.

use std::{net::SocketAddr, time::Duration};

use edge::{PlainRtmp, ProxyProtocol, TerminatedTls};
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
    let socket = TcpStream::connect(harness.address).await.unwrap();
    let mut encoder = Encoder::speaking(socket, "live", "good-plain");
    let Said::Rejected(description) = in_time("refusal", encoder.said()).await else {
        panic!("not refused");
    };
    assert!(description.contains("use rtmps://"), "{description}");
    assert_eq!(in_time("close", encoder.said()).await, Said::Closed);
    until("the log line", || {
        logged().contains("rtmp:// used on an rtmps:// port")
    })
    .await;
    assert_eq!(harness.metric(&rejected("plain_rtmp")), 1);
    assert!(harness.control.requests().is_empty(), "nobody was asked");
}

#[tokio::test]
async fn plain_rtmp_shares_the_port_where_it_is_allowed() {
    let harness = Harness::start_with(1, |config| config.plain_rtmp = PlainRtmp::Allow).await;
    let socket = TcpStream::connect(harness.address).await.unwrap();
    let mut plain = Encoder::speaking(socket, "live", "good-plain");
    assert_eq!(in_time("start", plain.said()).await, Said::Started);
    let encrypted = Encoder::publish(harness.address, "live", "good-encrypted").await;
    plain.send_all(&media(0..10, 100)).await;
    plain.finish().await;
    encrypted.finish().await;
    assert_eq!(harness.metric("headwater_plain_connections_total"), 1);
    harness.no_lease().await;
}

#[tokio::test]
async fn http_is_told_what_the_port_is() {
    let harness = Harness::start(1).await;
    let mut socket = TcpStream::connect(harness.address).await.unwrap();
    socket
        .write_all(b"POST /fcs/ident2 HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    in_time("answer", socket.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(answer.contains("rtmps://"), "{answer}");
    assert_eq!(harness.metric(&rejected("http")), 1);
}

#[tokio::test]
async fn whatever_else_people_connect_is_closed_and_counted() {
    let harness = Harness::start(1).await;
    is_closed(
        harness.address,
        b"PROXY TCP4 192.0.2.1 192.0.2.9 1 2\r\n\x16\x03",
    )
    .await;
    is_closed(harness.address, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await;
    is_closed(harness.address, b"\x00\x01\x02").await;
    is_closed(harness.address, &[0x16; 600]).await;
    drop(TcpStream::connect(harness.address).await.unwrap());
    for (reason, count) in [
        ("proxy_unexpected", 2),
        ("not_tls", 1),
        ("tls_malformed", 1),
        ("silent", 1),
    ] {
        until(reason, || harness.metric(&rejected(reason)) == count).await;
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
        terminated_tls: TerminatedTls::Refuse,
    }
}

/// Version 2, from 192.0.2.7, with a server name and perhaps the encoder's TLS.
fn header_of_a_balancer(tls: bool) -> Vec<u8> {
    let mut body = vec![192, 0, 2, 7, 192, 0, 2, 9, 4, 210, 1, 187];
    body.extend(b"\x02\0\x0clive.example");
    if tls {
        body.extend(b"\x20\0\x1e\x07\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x0cgood-camera1");
    }
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".to_vec();
    header.push(u8::try_from(body.len()).unwrap());
    header.extend(body);
    header
}

#[tokio::test]
async fn tls_that_ends_at_a_trusted_balancer_counts_where_that_is_allowed() {
    for (terminated_tls, announces, starts) in [
        (TerminatedTls::Refuse, true, false),
        (TerminatedTls::Announced, false, false),
        (TerminatedTls::Announced, true, true),
        (TerminatedTls::Assumed, false, true),
    ] {
        let harness = Harness::start_with(1, |config| {
            config.proxy_protocol = ProxyProtocol::Require {
                trusted: vec!["127.0.0.0/8".parse().unwrap()],
                terminated_tls,
            };
        })
        .await;
        let mut socket = TcpStream::connect(harness.address).await.unwrap();
        socket
            .write_all(&header_of_a_balancer(announces))
            .await
            .unwrap();
        let mut encoder = Encoder::speaking(socket, "live", "good-terminated?token=a.b-c_d");
        let said = in_time("word", encoder.said()).await;
        let what = format!("{terminated_tls:?}, announces {announces}: {said:?}");
        assert_eq!(said == Said::Started, starts, "{what}");
        if starts {
            let request = harness.control.requests().remove(0);
            assert_eq!(request.server_name, "live.example");
            assert_eq!(request.client_address, "192.0.2.7:1234");
            assert_eq!(request.token, "a.b-c_d");
            assert!(
                request.client_certificate.is_none(),
                "what a header says proves nothing"
            );
            encoder.finish().await;
        }
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
