//! Every encoder publishes, with TLS and without, and what it sent is at the origin.

use std::time::Duration;

use tests::{
    api::IssuedKey,
    chunks,
    clients::{Address, Client},
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    ffmpeg,
    flv::{Kind, Tag},
    http::{get, metric},
    recorder::Recorder,
    standalone::Standalone,
    subscriber::Received,
    turn,
    wait::wait_for,
};

/// To start, to publish, to end.
const PUBLISHED: Duration = Duration::from_secs(60);
/// How long each encoder that is told so publishes, in seconds: codecs are listed once a lease has been renewed.
const SECONDS: u32 = 8;
/// A keyframe each second; OBS has its own mind.
const KEYFRAMES_MIN: usize = 2;
/// Two seconds' worth of every encoder's frames.
const FRAMES_MIN: usize = 60;

// With librtmp the regression test of TLS 1.3 session tickets too: one ticket, and it fails (tests/cluster/tickets.rs).
of_every_encoder! { publishes_with_tls, publishes_without_tls }

/// By the server's name: the certificate is checked by all that can.
async fn publishes_with_tls(client: Client) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "encoder").await;
    let address = Address::secure(deployment, &key.secret);
    let received = publishes(deployment, client, &key, &address).await;
    plays(deployment, &received);
    if client == Client::Librtmp {
        let (_, metrics) = get(&format!("{}/metrics", deployment.admin[0]))
            .await
            .unwrap();
        let labels = ["version=\"1.3\"", "server_name=\"missing\""];
        let handshakes = metric(&metrics, "headwater_tls_handshakes_total", &labels);
        assert!(handshakes >= 1.0, "TLS 1.3, and no server name:\n{metrics}");
    }
}

/// Through a recorder: every byte of media that was sent is there, and the query is not in the way.
async fn publishes_without_tls(client: Client) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "encoder").await;
    let recorder = Recorder::start(deployment).await;
    let address = Address {
        server: recorder.server(APP),
        ..Address::secure(deployment, &format!("{}?token=a&trial=1", key.secret))
    };
    let received = publishes(deployment, client, &key, &address).await;
    let recordings = recorder.recordings();
    assert_eq!(recordings.len(), 1, "one connection");
    let sent: Vec<Tag> = chunks::of_client(&recordings[0])
        .iter()
        .filter_map(chunks::Message::tag)
        .collect();
    for kind in [Kind::Audio, Kind::Video] {
        let sent = coded(&sent, kind);
        let got = coded(&received.tags(), kind);
        assert!(!sent.is_empty(), "{client} sent no {kind:?}");
        assert_eq!(got, sent, "{kind:?} of {client}");
    }
}

/// The same port takes both where the edge's configuration says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_publishes_without_tls_where_the_edge_allows_it() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout {
        edge: vec![("EDGE__PLAIN_RTMP", "allow".to_owned())],
        ..Layout::default()
    })
    .await;
    let deployment = &cluster.deployment;
    for client in Client::ALL {
        let key = deployment.api.create_key(APP, &client.to_string()).await;
        let address = Address::at("rtmp://localhost", deployment, &key.secret);
        publishes(deployment, client, &key, &address).await;
    }
}

/// Publishes, is seen in the list of sessions, and ends as its user ends it.
async fn publishes(
    deployment: &Deployment,
    client: Client,
    key: &IssuedKey,
    address: &Address,
) -> Received {
    let subscriber = deployment.subscribe(key);
    let mut publisher = client.publish(address, SECONDS, &deployment.logs);
    let what = format!("{client} to be listed with its codecs");
    let session = wait_for(&what, PUBLISHED, async || {
        if let Some(status) = publisher.process.ended() {
            panic!("{client} ended ({status}):\n{}", publisher.said());
        }
        let session = deployment.api.session_of(&key.stream).await?;
        let is_known = !session.video_codec.is_empty() && !session.audio_codec.is_empty();
        is_known.then_some(session)
    })
    .await;
    assert_eq!(session.app, APP);
    assert!(session.video_codec.starts_with("avc1"), "{session:?}");
    assert!(session.audio_codec.starts_with("mp4a"), "{session:?}");
    match client.encoder_name() {
        Some(name) => assert!(session.encoder.contains(name), "{session:?}"),
        None => assert_eq!(session.encoder, ""),
    }
    subscriber.frames(FRAMES_MIN, PUBLISHED).await;
    let status = publisher.finish().await;
    assert!(status.success(), "{client}: {status}\n{}", publisher.said());
    let received = subscriber.finish(PUBLISHED).await;
    received.assert_contiguous();
    received.assert_monotonic();
    assert_eq!(received.ended.as_deref(), Some("client_close"), "{client}");
    let tags = received.tags();
    let keyframes = tags.iter().filter(|tag| tag.is_keyframe()).count();
    assert!(
        keyframes >= KEYFRAMES_MIN || client == Client::Obs,
        "{keyframes} keyframes"
    );
    assert!(keyframes >= 1);
    println!("{client}: {} frames, {keyframes} keyframes", tags.len());
    received
}

/// Bodies of coded media, in order.
fn coded(tags: &[Tag], kind: Kind) -> Vec<Vec<u8>> {
    let of_kind = tags
        .iter()
        .filter(|tag| tag.kind == kind && tag.packet().is_some());
    of_kind.map(|tag| tag.body.clone()).collect()
}

/// FFmpeg decodes what was received without a complaint.
fn plays(deployment: &Deployment, received: &Received) {
    let file = deployment.logs.join("received.flv");
    let tags = received.tags();
    let first = tags.first().map_or(0, |tag| tag.timestamp_ms);
    let headers = received.header_tags().into_iter().map(|header| Tag {
        timestamp_ms: first,
        ..header
    });
    let tags: Vec<Tag> = headers.chain(tags.iter().cloned()).collect();
    std::fs::write(&file, tests::flv::file(&tags)).unwrap();
    assert_eq!(ffmpeg::decode_errors(file.to_str().unwrap()), "");
}
