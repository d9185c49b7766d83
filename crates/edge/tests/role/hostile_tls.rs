//! Hostile input before RTMP, each case with a good publisher beside it that loses nothing. The numbers are those of the
//! list that the project keeps of them; the cases of the RTMP protocol are tests of the crate `rtmp`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustls::{ClientConnection, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    encoder::{Encoder, Said, connect_tls, trusting_everyone},
    harness::{Harness, in_time, logged, until},
    neighbour::Neighbour,
};

/// For handshakes, so that a test can wait for it.
const DEADLINE: Duration = Duration::from_millis(500);

async fn with_short_deadlines() -> Harness {
    Harness::start_with(1, |config| {
        config.connections.tls_handshake_timeout = DEADLINE;
        config.rtmp.handshake_deadline = DEADLINE;
        config.connections.linger = Duration::from_millis(100);
    })
    .await
}

fn rejected(reason: &str) -> String {
    format!("headwater_connections_rejected_total{{reason=\"{reason}\"}}")
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Reads to the end; how long that took.
async fn closed(what: &str, socket: &mut (impl tokio::io::AsyncRead + Unpin)) -> Duration {
    let started = Instant::now();
    let mut rest = Vec::new();
    in_time(what, socket.read_to_end(&mut rest)).await.ok();
    let after = started.elapsed();
    println!("{what}: closed after {after:?} (deadline {DEADLINE:?})");
    assert!(after < 5 * DEADLINE, "{what}: {after:?}");
    after
}

/// Nobody is left but the neighbour, and that one has everything.
async fn all_is_well(harness: &Harness, neighbour: Neighbour) {
    until("the neighbour alone", || {
        harness.metric("headwater_connections_active") == 1
    })
    .await;
    let messages = neighbour.lost_nothing(harness).await;
    println!("the neighbour's {messages} messages are all there");
    harness.no_lease().await;
}

#[tokio::test]
async fn hostile_01_silence_ends_at_the_handshakes_deadline() {
    let harness = with_short_deadlines().await;
    let neighbour = Neighbour::start(&harness, "beside-01").await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        sockets.push(connect(harness.address).await);
    }
    let socket = connect(harness.address).await;
    let tls = connect_tls(socket, "localhost", trusting_everyone().into()).await;
    let (mut tcp, mut tls) = (sockets.remove(0), tls.unwrap());
    tokio::join!(closed("TCP", &mut tcp), closed("TLS", &mut tls));
    until("the count", || {
        harness.metric(&rejected("tls_timeout")) == 50
    })
    .await;
    drop(sockets);
    all_is_well(&harness, neighbour).await;
}

#[tokio::test]
async fn hostile_02_a_byte_now_and_then_moves_no_deadline() {
    let harness = with_short_deadlines().await;
    let neighbour = Neighbour::start(&harness, "beside-02").await;
    let socket = connect(harness.address).await;
    let tls = connect_tls(socket, "localhost", trusting_everyone().into()).await;
    let (mut read, mut write) = tokio::io::split(tls.unwrap());
    let dripping = tokio::spawn(async move {
        write.write_all(&[3]).await.ok();
        while write.write_all(&[0]).await.is_ok() && write.flush().await.is_ok() {
            tokio::time::sleep(DEADLINE / 10).await;
        }
    });
    // The same below TLS.
    let (mut below, mut drop_below) = connect(harness.address).await.into_split();
    let dripping_below = tokio::spawn(async move {
        for byte in [0x16, 3, 1, 2].into_iter().chain([0; 1000]) {
            if drop_below.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(DEADLINE / 10).await;
        }
    });
    tokio::join!(
        closed("a slow handshake of RTMP", &mut read),
        closed("a slow ClientHello", &mut below)
    );
    drop((read, below));
    in_time("the drip", dripping).await.unwrap();
    in_time("the drip below", dripping_below).await.unwrap();
    all_is_well(&harness, neighbour).await;
}

/// The ClientHello of a good client, as one record.
fn client_hello() -> Vec<u8> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(trusting_everyone().into(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn hostile_03_a_client_hello_in_pieces_or_without_end() {
    let harness = with_short_deadlines().await;
    let neighbour = Neighbour::start(&harness, "beside-03").await;
    // A record of one byte each: legal, and understood.
    let hello = client_hello();
    let (head, body) = hello.split_at(5);
    assert_eq!(head[0], 0x16);
    let pieces: Vec<u8> = body
        .iter()
        .flat_map(|byte| [0x16, 3, 1, 0, 1, *byte])
        .collect();
    let mut socket = connect(harness.address).await;
    socket.write_all(&pieces).await.unwrap();
    let mut first = [0; 1];
    in_time("the answer", socket.read_exact(&mut first))
        .await
        .unwrap();
    assert_eq!(first, [0x16], "ServerHello");
    drop(socket);

    // One that says it is 16 MiB long: refused by its head, whatever follows.
    let mut socket = connect(harness.address).await;
    let mut endless = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    endless.resize(5 + 0x4000, 0);
    socket.write_all(&endless).await.unwrap();
    closed("a huge ClientHello", &mut socket).await;
    until("the count", || {
        harness.metric(&rejected("tls_malformed")) == 1
    })
    .await;
    all_is_well(&harness, neighbour).await;
}

#[tokio::test]
async fn hostile_04_what_is_no_tls_is_told_so_or_closed() {
    let harness = with_short_deadlines().await;
    let neighbour = Neighbour::start(&harness, "beside-04").await;
    let plain = connect(harness.address).await;
    let mut plain = Encoder::speaking(plain, "live", "good-nobody");
    let said = in_time("the refusal", plain.said()).await;
    assert!(
        matches!(&said, Said::Rejected(text) if text.contains("rtmps://")),
        "{said:?}"
    );
    assert_eq!(in_time("close", plain.said()).await, Said::Closed);

    // Told so, and not one to listen: the deadline ends it.
    let mut stubborn = connect(harness.address).await;
    stubborn.write_all(&[3]).await.unwrap();
    closed("half a C0", &mut stubborn).await;

    let mut http = connect(harness.address).await;
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    in_time("the answer", http.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "));

    let mut proxy = connect(harness.address).await;
    let header = b"PROXY TCP4 192.0.2.1 192.0.2.9 1234 443\r\n\x16\x03\x01";
    proxy.write_all(header).await.unwrap();
    closed("a stranger's PROXY header", &mut proxy).await;
    for (reason, count) in [("plain_rtmp", 2), ("http", 1), ("proxy_unexpected", 1)] {
        until(reason, || harness.metric(&rejected(reason)) == count).await;
    }
    assert!(logged().contains("a PROXY header, and edge.proxy_protocol does not expect one"));
    drop((plain, stubborn, http, proxy));
    all_is_well(&harness, neighbour).await;
}

/// Sends a warning alert, a KeyUpdate or the like again and again: how many went out before the connection was closed.
/// TLS below 1.3 without a cipher cannot be had; what is sent in the clear to a running session is garbage to it.
async fn flood(harness: &Harness, what: &str, record: &[u8]) {
    let mut socket = connect(harness.address).await;
    socket.write_all(&client_hello()).await.unwrap();
    let mut first = [0; 1];
    in_time("ServerHello", socket.read_exact(&mut first))
        .await
        .unwrap();
    let (mut read, mut write) = socket.into_split();
    let record = record.to_vec();
    let flooding = tokio::spawn(async move {
        let mut sent = 0;
        while sent < 100_000 && write.write_all(&record).await.is_ok() {
            sent += 1;
        }
    });
    closed(what, &mut read).await;
    drop(read);
    in_time("the flood's end", flooding).await.unwrap();
}

#[tokio::test]
async fn hostile_54_records_without_end_or_meaning_and_ends_without_a_word() {
    let harness = with_short_deadlines().await;
    let neighbour = Neighbour::start(&harness, "beside-54").await;
    // no_renegotiation as a warning; a ChangeCipherSpec, which TLS 1.3 lets pass once; a record without content.
    flood(&harness, "warning alerts", &[0x15, 3, 3, 0, 2, 1, 100]).await;
    flood(&harness, "ChangeCipherSpec", &[0x14, 3, 3, 0, 1, 1]).await;
    flood(&harness, "empty records", &[0x17, 3, 3, 0, 0]).await;
    // A second ClientHello in the clear: what renegotiation would look like.
    flood(&harness, "ClientHello", &client_hello()).await;

    // KeyUpdates in an established session. rustls sends one for each call, and the server stops taking them.
    let name = ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(trusting_everyone()));
    let mut tls = connector
        .connect(name, connect(harness.address).await)
        .await
        .unwrap();
    let mut updates = 0;
    let started = Instant::now();
    while started.elapsed() < 5 * DEADLINE {
        let refreshed = tls.get_mut().1.refresh_traffic_keys();
        if refreshed.is_err() || tls.flush().await.is_err() {
            break;
        }
        updates += 1;
        tokio::task::yield_now().await;
    }
    println!(
        "closed after {updates} KeyUpdates and {:?}",
        started.elapsed()
    );
    assert!(started.elapsed() < 5 * DEADLINE, "KeyUpdates have no limit");
    drop(tls);

    // Ends: without close_notify, and half.
    for half in [false, true] {
        let name = format!("good-end-{half}");
        let socket = connect(harness.address).await;
        let raw = socket2::SockRef::from(&socket).try_clone().unwrap();
        let mut encoder = Encoder::over(socket, "live", &name).await;
        assert_eq!(in_time("start", encoder.said()).await, Said::Started);
        let how = if half {
            std::net::Shutdown::Write
        } else {
            std::net::Shutdown::Both
        };
        raw.shutdown(how).unwrap();
        until("the lease's end", || {
            harness.metric("headwater_sessions_ended_total{reason=\"disconnected\"}")
                == i64::from(half) + 1
        })
        .await;
    }
    all_is_well(&harness, neighbour).await;
}
