//! Players over RTMP: FFmpeg and one of our own, at the standalone process and at the separate roles. Others are in the
//! suite of the encoders.

use std::{fs, path::Path, time::Duration};

use tests::{
    cluster::{Cluster, Layout},
    deployment::APP,
    encoder::{AUDIO, Encoder, VIDEO},
    ffmpeg::{self, Pace},
    fixture, flv,
    flv::{Kind, Tag},
    http::FlvReader,
    standalone::Standalone,
    synthetic, tls, turn,
    wait::{wait_for, wait_until},
    witness::Witness,
};

/// The fixture takes ten seconds to publish.
const PUBLISHED: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(30);
const SOURCE: &str = "source.flv";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_late_starts_at_a_keyframe_near_zero() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "late").await;
    let reader = FlvReader::start(&deployment.flv_urls(&key)[0]);
    let mut publisher = deployment.ffmpeg(&key, &fixture(SOURCE), 1, Pace::RealTime);
    wait_until("three seconds of media", PUBLISHED, || {
        reader
            .tags()
            .last()
            .is_some_and(|tag| tag.timestamp_ms > 3000)
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("late.flv");
    let url = deployment.pull_urls(&key).remove(0);
    let mut player = ffmpeg::pull("late", &url, &file, &deployment.logs);
    assert!(publisher.exit(PUBLISHED).await.success());
    let status = player.exit(ANSWER).await;
    assert!(status.success(), "{status}\n{}", player.log());
    let played = flv::read_file(&file);
    let all = flv::packets(&reader.finish(ANSWER).await);
    let played_packets = flv::packets(&played);
    let first = played
        .iter()
        .find(|tag| tag.kind == Kind::Video && tag.packet().is_some());
    assert!(first.unwrap().is_keyframe());
    assert!(first.unwrap().timestamp_ms < 2000);
    assert!(played_packets.len() < all.len());
    // From where it came in, every packet to the end.
    for track in [Kind::Video, Kind::Audio] {
        let of = |packets: &[flv::Packet]| -> Vec<String> {
            let mine = packets.iter().filter(|packet| packet.track == track);
            mine.map(|packet| packet.hash.clone()).collect()
        };
        let (played, all) = (of(&played_packets), of(&all));
        assert!(all.ends_with(&played), "{track:?}");
        assert!(played.len() > 50, "{track:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_publishes_where_streams_are_played() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let at = standalone.deployment.rtmp[0];
    let mut encoder = Encoder::new(tls::connect_plain(at).await.unwrap());
    let status = encoder.publish(APP, "key").await.unwrap();
    assert_eq!(status.code, "NetStream.Publish.BadName");
}

/// Bodies that neither FFmpeg 5 nor rtmpdump knows: HEVC, Opus, and a second track of each.
fn enhanced(number: u32) -> Vec<Tag> {
    let tag = |kind, body: &[u8]| Tag {
        kind,
        timestamp_ms: i64::from(number) * synthetic::FRAME_MS,
        body: [body, &number.to_be_bytes()].concat(),
    };
    vec![
        tag(Kind::Video, b"\x96\x01hvc1\x01\0\0\0\0\0\0\x05\x02"),
        tag(Kind::Audio, b"\x95\x01Opus\x01\xfc\xff"),
    ]
}

/// What these tracks begin with; nothing here reads it.
fn enhanced_headers() -> Vec<Tag> {
    let tag = |kind, body: &[u8]| Tag {
        kind,
        timestamp_ms: 0,
        body: body.to_vec(),
    };
    vec![
        tag(Kind::Video, b"\x96\x00hvc1\x01\x01"),
        tag(Kind::Audio, b"\x95\x00Opus\x01OpusHead"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_body_passes_as_it_is_to_a_player_that_announces_nothing() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "bodies").await;
    let mut player = Encoder::new(tls::connect_plain(deployment.rtmp[0]).await.unwrap());
    let name = format!("bodies?token={}&wait=60", deployment.playback.token);
    let playing = tokio::spawn(async move {
        let status = player.play(APP, &name).await.unwrap();
        assert_eq!(status.code, "NetStream.Play.Reset");
        let messages = player.until_closed(PUBLISHED).await;
        let media = messages
            .into_iter()
            .filter(|m| [AUDIO, VIDEO].contains(&m.kind));
        media.map(|message| message.body).collect::<Vec<_>>()
    });
    let mut encoder = deployment.publish(&key).await;
    let mut sent = vec![synthetic::video_header()];
    sent.extend(enhanced_headers());
    for number in 0..50 {
        sent.push(synthetic::video(
            number,
            number % 10 == 0,
            5000 * number as usize,
        ));
        sent.extend(enhanced(number));
    }
    for tag in &sent {
        encoder.send(tag).await.unwrap();
    }
    encoder.finish(&key.secret).await.unwrap();
    let played = playing.await.unwrap();
    let sent: Vec<_> = sent.into_iter().map(|tag| tag.body).collect();
    assert_eq!(played.len(), sent.len());
    assert!(played == sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_player_comes_back_at_another_origin_when_its_own_dies() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout::default()).await;
    let deployment = cluster.deployment.clone();
    let key = deployment.api.create_key(APP, "survivor").await;
    let witness = Witness::start(&deployment, key.clone()).await;
    let owner = cluster.owner("survivor").await;
    let directory = tempfile::tempdir().unwrap();
    let (before, after) = (
        directory.path().join("before.flv"),
        directory.path().join("after.flv"),
    );
    let urls = deployment.pull_urls(&key);
    let mut player = ffmpeg::pull("before", &urls[owner], &before, &deployment.logs);
    wait_until("the player to play", PUBLISHED, || size(&before) > 20_000).await;
    cluster.origins[owner].kill();
    player.exit(ANSWER).await;
    let mut player = ffmpeg::pull("after", &urls[1 - owner], &after, &deployment.logs);
    wait_until("the player to play again", PUBLISHED, || {
        size(&after) > 20_000
    })
    .await;
    player.signal("INT");
    player.exit(ANSWER).await;
    let played = flv::read_file(&after);
    let first = played
        .iter()
        .find(|tag| tag.kind == Kind::Video && tag.packet().is_some());
    assert!(first.unwrap().is_keyframe());
    assert_eq!(flv::sequence_headers(&played).len(), 1);
    witness.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_certificate_players_are_served_over_tls_alone_and_a_new_one_is_taken_up() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let base = cluster.base();
    let pair = |name: &str| ["pem", "key"].map(|end| base.join(format!("{name}.{end}")));
    let [certificate, private_key] = pair("pull");
    let public = pair("public");
    fs::copy(&public[0], &certificate).unwrap();
    fs::copy(&public[1], &private_key).unwrap();
    let origin = &mut cluster.origins[0];
    origin.kill();
    origin.set("ORIGIN__RTMP__CERTIFICATE", "pull.pem".to_owned());
    origin.set("ORIGIN__RTMP__PRIVATE_KEY", "pull.key".to_owned());
    origin.start().await;
    origin.serves(ANSWER).await;
    let deployment = &cluster.deployment;
    let at = deployment.rtmp[0];
    let key = deployment.api.create_key(APP, "secret").await;
    let witness = Witness::start(deployment, key.clone()).await;

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tls.flv");
    let url = deployment
        .pull_urls(&key)
        .remove(0)
        .replace("rtmp://", "rtmps://");
    let mut player = ffmpeg::pull("tls", &url, &file, &deployment.logs);
    wait_until("the player to play", PUBLISHED, || size(&file) > 20_000).await;

    let mut plain = Encoder::new(tls::connect_plain(at).await.unwrap());
    assert!(plain.handshake().await.is_err());
    let origin = cluster.origins[0].process();
    origin.log_line(&["plain_rtmp"], ANSWER).await;

    // Another one, by name: what trusts it alone is content with it once it is there.
    let [other, other_key] = pair("internal/origin");
    let ca = tls::trusting(&base.join("internal/ca.pem"), &[]);
    let refused = tls::connect(at, ca.clone())
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    fs::copy(other_key, &private_key).unwrap();
    fs::copy(other, &certificate).unwrap();
    wait_for("the new certificate", ANSWER, async || {
        let error = tls::connect(at, ca.clone()).await.err()?;
        // It is no server's of this name, and from an issuer that is known.
        error
            .to_string()
            .contains("not valid for name")
            .then_some(())
    })
    .await;
    player.signal("INT");
    player.exit(ANSWER).await;
    witness.finish().await;
}

fn size(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |metadata| metadata.len())
}
