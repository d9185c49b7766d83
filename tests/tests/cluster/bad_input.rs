//! What the internet sends: each misuse ends with a reason in the log and, where the protocol has a place for it, in
//! the encoder's own words; and a session beside it notices nothing.

use std::time::Duration;

use tests::{
    cluster::{Cluster, Layout, Node},
    deployment::{APP, Deployment},
    encoder::{self, Encoder},
    ffmpeg::{self, Pace},
    fixture, guess,
    process::Process,
    standalone::Standalone,
    synthetic, tls, turn,
    wait::wait_for,
    witness::Witness,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The product waits ten seconds at most for a peer that says nothing, twenty for one that does not publish.
const CLOSED: Duration = Duration::from_secs(40);
const LOGGED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_survives_bad_input() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout::default()).await;
    let origins: Vec<_> = cluster.origins.iter().map(Node::process).collect();
    survives_bad_input(&cluster.deployment, cluster.edge.process(), &origins).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_process_survives_bad_input() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let process = &standalone.process;
    survives_bad_input(&standalone.deployment, process, &[process]).await;
}

async fn survives_bad_input(deployment: &Deployment, edge: &Process, origins: &[&Process]) {
    let key = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(deployment, key).await;
    tokio::join!(
        keys_that_are_not_accepted(deployment, edge),
        an_unknown_application(deployment, edge),
        plain_rtmp(deployment, edge),
        tls_on_a_plain_port(deployment, edge, origins),
        garbage(deployment, edge),
        silence(deployment, edge),
        a_slow_handshake(deployment, edge),
        messages_beyond_the_limit(deployment, edge),
        media_before_publish(deployment, edge),
    );
    let received = witness.finish().await;
    assert!(
        received.frames.len() > 100,
        "the witness was there all the time"
    );
}

async fn keys_that_are_not_accepted(deployment: &Deployment, edge: &Process) {
    let issued = deployment.api.create_key(APP, "refused").await;
    let revoked = deployment.api.create_key(APP, "revoked").await;
    deployment
        .api
        .revoke_key(&revoked.id, "a test")
        .await
        .unwrap();
    let mistyped = mistype(&issued.secret);
    for (what, name) in [
        ("revoked", revoked.secret.as_str()),
        ("mistyped", &mistyped),
        ("foreign", &guess::stream_key(&"0".repeat(16), 0)),
        ("the stream's public name", "refused"),
        ("the key's public part", &issued.id),
    ] {
        let mut encoder = deployment.encoder().await;
        let status = encoder.publish(APP, name).await.unwrap();
        assert_eq!(
            status.code, "NetStream.Publish.BadName",
            "{what}: {status:?}"
        );
        assert_eq!(status.level, "error", "{what}");
        assert!(status.description.contains("key"), "{what}: {status:?}");
        encoder.until_closed(CLOSED).await;
    }
    edge.log_line(&["reason=\"key_not_accepted\""], LOGGED)
        .await;

    // A real encoder shows the person what is wrong.
    let url = format!("{}/{mistyped}", deployment.rtmps_url(APP));
    let source = fixture("source.flv");
    let mut ffmpeg = ffmpeg::publish_named(
        "ffmpeg-mistyped",
        &source,
        1,
        Pace::RealTime,
        &url,
        &deployment.logs,
    );
    let status = ffmpeg.exit(CLOSED).await;
    assert!(!status.success());
    assert!(ffmpeg.log().contains("Server error: "), "{}", ffmpeg.log());
    assert!(ffmpeg.log().contains("key"), "{}", ffmpeg.log());
}

/// Two neighbouring characters swapped: what hands do.
fn mistype(stream_key: &str) -> String {
    let mut characters: Vec<char> = stream_key.chars().collect();
    let position = (25..characters.len() - 1)
        .find(|position| characters[*position] != characters[position + 1])
        .unwrap();
    characters.swap(position, position + 1);
    characters.into_iter().collect()
}

async fn an_unknown_application(deployment: &Deployment, edge: &Process) {
    let key = deployment.api.create_key(APP, "elsewhere").await;
    let mut encoder = deployment.encoder().await;
    let status = encoder.publish("nowhere", &key.secret).await.unwrap();
    assert_eq!(status.level, "error", "{status:?}");
    assert!(
        status.description.to_lowercase().contains("app"),
        "{status:?}"
    );
    encoder.until_closed(CLOSED).await;
    edge.log_line(&["reason=\"app_not_found\""], LOGGED).await;
}

async fn plain_rtmp(deployment: &Deployment, edge: &Process) {
    let plain = tls::connect_plain(deployment.rtmps).await.unwrap();
    let mut encoder = Encoder::new(plain);
    encoder.handshake().await.unwrap();
    let refused = encoder.connect(APP).await.unwrap().unwrap_err();
    assert_eq!(refused.code, "NetConnection.Connect.Rejected");
    assert!(refused.description.contains("rtmps://"), "{refused:?}");
    edge.log_line(
        &["rtmp:// used on an rtmps:// port", "reason=\"plain_rtmp\""],
        LOGGED,
    )
    .await;
}

/// Playback over HTTP at the origins, the admin port of every process.
async fn tls_on_a_plain_port(deployment: &Deployment, edge: &Process, origins: &[&Process]) {
    // The gRPC API is plaintext in the standalone process alone, on loopback.
    let grpc = deployment.playback.origins.iter();
    let grpc = grpc.filter(|url| url.starts_with("http://"));
    for base in deployment.http.iter().chain(&deployment.admin).chain(grpc) {
        let address = base.strip_prefix("http://").unwrap().parse().unwrap();
        let config = tls::trusting(&deployment.ca_file, &[]);
        let connected = tokio::time::timeout(CLOSED, tls::connect(address, config)).await;
        assert!(
            connected.expect("an answer").is_err(),
            "there is no TLS at {base}"
        );
    }
    for process in origins.iter().chain([&edge]) {
        process
            .log_line(&["reason=\"tls_on_plain_port\"", "client_address="], LOGGED)
            .await;
    }
}

async fn garbage(deployment: &Deployment, edge: &Process) {
    // No TLS record, no RTMP version, a chunk that continues nothing: 0xff is wrong everywhere.
    let bytes = [0xff; 8192];
    let mut plain = tls::connect_plain(deployment.rtmps).await.unwrap();
    plain.write_all(&bytes).await.ok();
    closes(plain).await;
    edge.log_line(&["reason=\"not_tls\""], LOGGED).await;

    let config = tls::trusting(&deployment.ca_file, &[]);
    let mut encrypted = tls::connect(deployment.rtmps, config).await.unwrap();
    encrypted.write_all(&bytes).await.ok();
    closes(encrypted).await;
    edge.log_line(&["reason=\"unknown_protocol\""], LOGGED)
        .await;

    let mut encoder = deployment.encoder().await;
    encoder.handshake().await.unwrap();
    encoder.send_bytes(&bytes).await.ok();
    encoder.until_closed(CLOSED).await;
    edge.log_line(&["reason=\"unknown_chunk_stream\""], LOGGED)
        .await;

    let mut encoder = deployment.encoder().await;
    encoder.handshake().await.unwrap();
    encoder.connect(APP).await.unwrap().unwrap();
    encoder.send_message(3, 20, 0, 0, &bytes[..64]).await.ok();
    encoder.until_closed(CLOSED).await;
    edge.log_line(&["reason=\"malformed_command\""], LOGGED)
        .await;
}

async fn closes(mut connection: Box<dyn tls::Connection>) {
    let read = tokio::time::timeout(CLOSED, async {
        let mut rest = Vec::new();
        // An alert and a reset are both an end.
        connection.read_to_end(&mut rest).await.ok();
    });
    read.await.expect("the server closes the connection");
}

async fn silence(deployment: &Deployment, edge: &Process) {
    let half_open = tls::connect_plain(deployment.rtmps).await.unwrap();
    let config = tls::trusting(&deployment.ca_file, &[]);
    let no_handshake = tls::connect(deployment.rtmps, config).await.unwrap();
    let mut no_publish = deployment.encoder().await;
    no_publish.handshake().await.unwrap();
    no_publish.connect(APP).await.unwrap().unwrap();
    tokio::join!(
        closes(half_open),
        closes(no_handshake),
        no_publish.until_closed(CLOSED)
    );
    edge.log_line(&["reason=\"tls_timeout\""], LOGGED).await;
    edge.log_line(&["reason=\"deadline\""], LOGGED).await;
}

async fn a_slow_handshake(deployment: &Deployment, edge: &Process) {
    let config = tls::trusting(&deployment.ca_file, &[]);
    let mut slow = tls::connect(deployment.rtmps, config).await.unwrap();
    let drip = async {
        let mut clock = tokio::time::interval(Duration::from_millis(200));
        loop {
            clock.tick().await;
            if slow.write_all(&[3]).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(CLOSED, drip)
        .await
        .expect("the server gives up on a drip");
    edge.log_line(&["reason=\"deadline\""], LOGGED).await;
}

async fn messages_beyond_the_limit(deployment: &Deployment, edge: &Process) {
    const AUDIO: u8 = 8;
    const COMMAND: u8 = 20;
    // The header announces it; nothing of that size is waited for.
    let key = deployment.api.create_key(APP, "large").await;
    let mut live = deployment.publish(&key).await;
    live.send(&synthetic::video_header()).await.unwrap();
    let header = encoder::message_header(4, AUDIO, 1, 0, 1024 * 1024 + 1);
    live.send_bytes(&[header, vec![0; 256]].concat())
        .await
        .unwrap();
    live.until_closed(CLOSED).await;

    let mut unknown = deployment.encoder().await;
    unknown.handshake().await.unwrap();
    let header = encoder::message_header(3, COMMAND, 0, 0, 64 * 1024 + 1);
    unknown
        .send_bytes(&[header, vec![0; 256]].concat())
        .await
        .unwrap();
    unknown.until_closed(CLOSED).await;
    edge.log_line(&["reason=\"message_too_large\""], LOGGED)
        .await;
}

async fn media_before_publish(deployment: &Deployment, edge: &Process) {
    let mut encoder = deployment.encoder().await;
    encoder.handshake().await.unwrap();
    encoder.connect(APP).await.unwrap().unwrap();
    encoder.create_stream().await.unwrap();
    // A little is overlooked: there are encoders that cannot wait.
    for number in 0..40 {
        let frame = synthetic::video(number, number == 0, 4096);
        encoder.send(&frame).await.ok();
    }
    encoder.until_closed(CLOSED).await;
    edge.log_line(&["reason=\"media_before_publish\""], LOGGED)
        .await;

    // The connection that behaved is not confused with it.
    let key = deployment.api.create_key(APP, "behaved").await;
    let publisher = deployment.publish(&key).await;
    publisher.finish(&key.secret).await.unwrap();
    wait_for("the stream to be free", LOGGED, async || {
        let session = deployment.api.session_of(&key.stream).await;
        session.is_none().then_some(())
    })
    .await;
}
