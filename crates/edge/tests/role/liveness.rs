//! Publishers that are there no more, and how soon that is found.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::{
    encoder::{Encoder, Said, media},
    harness::{Harness, in_time, until},
    neighbour::Neighbour,
};

const ENDED: &str = "headwater_sessions_ended_total{reason=\"idle\"}";

/// A connection through this process that can stop to carry anything, both ways, without a FIN: what a phone leaves
/// behind when it changes its network.
struct Wire {
    near: TcpStream,
    cut: tokio::sync::oneshot::Sender<()>,
}

impl Wire {
    async fn to(address: std::net::SocketAddr) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut inner, _) = listener.accept().await.unwrap();
        let mut outer = TcpStream::connect(address).await.unwrap();
        let (cut, is_cut) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => {}
                _ = is_cut => {
                    // Both sockets stay open, and nobody reads them.
                    std::future::pending::<()>().await;
                }
            }
        });
        Self { near, cut }
    }
}

#[tokio::test]
async fn a_half_open_publisher_is_found_within_the_idle_deadline() {
    const IDLE: Duration = Duration::from_secs(3);
    let harness = Harness::start_with(1, |config| {
        config.rtmp.idle_deadline = IDLE;
        config.connections.ping_period = Duration::from_millis(100);
    })
    .await;
    let neighbour = Neighbour::start(&harness, "beside-half-open").await;
    let Wire { near, cut } = Wire::to(harness.address).await;
    let mut encoder = Encoder::over(near, "live", "good-half-open").await;
    assert_eq!(in_time("start", encoder.said()).await, Said::Started);
    encoder.send_all(&media(0..10, 100)).await;
    cut.send(()).unwrap();
    let started = Instant::now();
    // It goes on as if nothing had happened, and so does the other side's silence.
    encoder.send_all(&media(10..12, 100)).await;
    until("the session's end", || harness.metric(ENDED) == 1).await;
    println!(
        "a half-open publisher was found after {:?} (idle deadline {IDLE:?})",
        started.elapsed()
    );
    assert!(started.elapsed() < 5 * IDLE);
    neighbour.lost_nothing(&harness).await;
    harness.no_lease().await;
}

#[tokio::test]
async fn pings_measure_the_round_trip_and_nobody_has_to_answer() {
    const PERIOD: Duration = Duration::from_millis(50);
    let harness = Harness::start_with(1, |config| config.connections.ping_period = PERIOD).await;
    let measured = || harness.metric("headwater_rtmp_round_trip_seconds_count");
    // As OBS, which never answers: it never even reads. One ping may have come with the start.
    let mut silent = Encoder::publish(harness.address, "live", "good-silent").await;
    for number in 0..20 {
        silent.send_all(&media(number..number + 1, 100)).await;
        tokio::time::sleep(PERIOD / 2).await;
    }
    let before = measured();
    assert!(before <= 1, "{before}");
    // One that reads answers what it was asked last.
    let asked = Instant::now();
    while measured() == before {
        assert!(asked.elapsed() < Duration::from_secs(10), "no answer came");
        tokio::time::timeout(PERIOD, silent.said()).await.ok();
    }
    silent.finish().await;
    harness.no_lease().await;
}

#[tokio::test]
async fn bytes_without_a_message_do_not_keep_a_publisher_alive() {
    const DRIP: Duration = Duration::from_millis(500);
    let harness = Harness::start_with(1, |config| config.rtmp.slow_drip_deadline = DRIP).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-drip").await;
    encoder.send_all(&media(0..1, 10)).await;
    let started = Instant::now();
    // A video message of a mebibyte that comes a byte at a time.
    let mut bytes = vec![6, 0, 0, 1, 0x10, 0, 0, 9, 1, 0, 0, 0];
    bytes.resize(4096, 0);
    for byte in bytes {
        encoder.try_send_raw(&[byte]).await.ok();
        if harness.metric("headwater_sessions_ended_total{reason=\"protocol_error\"}")
            + harness.metric(ENDED)
            == 1
        {
            break;
        }
        tokio::time::sleep(DRIP / 50).await;
    }
    println!("a slow drip was found after {:?}", started.elapsed());
    assert!(started.elapsed() < 5 * DRIP);
    harness.no_lease().await;
}
