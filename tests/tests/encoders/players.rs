//! Players that pull over RTMP from the origin: each gets every packet, with TLS and without, and its user sees why where
//! it is refused.

use std::time::Duration;

use tests::{
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    ffmpeg::{self, Pace},
    fixture, flv,
    http::{get, metric},
    players::{Player, Playing},
    standalone::Standalone,
    turn,
    wait::wait_for,
};

/// To start, and to be attached; for ten seconds of media.
const SEEN: Duration = Duration::from_secs(60);
const SOURCE: &str = "source.flv";
const NO_TOKEN: &str = "A valid token is required: rtmp://host/application/stream?token=TOKEN";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_every_packet() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    everybody_plays(deployment, "rtmp://localhost").await;
}

/// By the server's name: the certificate is checked by all that can. librtmp sends no name, and checks nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_gets_every_packet_with_tls() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout {
        origins: 1,
        common: vec![
            ("ORIGIN__RTMP__CERTIFICATE", "public.pem".to_owned()),
            ("ORIGIN__RTMP__PRIVATE_KEY", "public.key".to_owned()),
        ],
        ..Layout::default()
    })
    .await;
    everybody_plays(&cluster.deployment, "rtmps://localhost").await;
}

/// All of them wait for the stream, and have all of it in the end.
async fn everybody_plays(deployment: &Deployment, host: &str) {
    let key = deployment.api.create_key(APP, "pulled").await;
    let port = deployment.rtmp[0].port();
    let token = &deployment.playback.token;
    let url = format!("{host}:{port}/{APP}/{}?token={token}&wait=60", key.stream);
    let players = play(deployment, &url, &Player::ALL).await;
    let mut publisher = deployment.ffmpeg(&key, &fixture(SOURCE), 1, Pace::RealTime);
    assert!(publisher.exit(SEEN).await.success());
    let directory = tempfile::tempdir().unwrap();
    let published = ffmpeg::as_published(&fixture(SOURCE), directory.path());
    for (player, mut playing) in players {
        let played = playing.played().await;
        let packets = flv::packets(&played);
        println!("{player}: {} packets", packets.len());
        flv::assert_same_packets(&packets, &flv::packets(&published));
        assert_eq!(
            flv::sequence_headers(&played),
            flv::sequence_headers(&published),
            "{player}"
        );
    }
}

/// Starts players, which wait for the stream.
pub(crate) async fn play(
    deployment: &Deployment,
    url: &str,
    players: &[Player],
) -> Vec<(Player, Playing)> {
    let start = |&player: &Player| {
        let playing = player.play(url, &deployment.ca_file, &deployment.logs);
        (player, playing)
    };
    let mut players: Vec<_> = players.iter().map(start).collect();
    let all = f64::from(u8::try_from(players.len()).unwrap());
    wait_for("all players to wait for the stream", SEEN, async || {
        for (player, playing) in &mut players {
            if let Some(status) = playing.process.ended() {
                panic!("{player} ended ({status}):\n{}", playing.said());
            }
        }
        (waiting(deployment).await? >= all).then_some(())
    })
    .await;
    players
}

/// How many players wait for a stream.
async fn waiting(deployment: &Deployment) -> Option<f64> {
    let mut count = 0.0;
    for admin in &deployment.admin {
        let (_, metrics) = get(&format!("{admin}/metrics")).await.ok()?;
        count += metric(&metrics, "headwater_origin_subscribers_waiting", &[]);
    }
    Some(count)
}

/// Each as far as it shows what it is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_is_told_that_the_token_is_wrong_and_that_nothing_is_live() {
    let _turn = turn().await;
    let standalone = Standalone::start_with("debug").await;
    let deployment = &standalone.deployment;
    let guess = "0123456789abcdef";
    let token = deployment.playback.token.as_str();
    let port = deployment.rtmp[0].port();
    for (query, code, sentence) in [
        (String::new(), "NetStream.Play.Failed", NO_TOKEN),
        (format!("?token={guess}"), "NetStream.Play.Failed", NO_TOKEN),
        (
            format!("?token={token}"),
            "NetStream.Play.StreamNotFound",
            "No such stream is live.",
        ),
    ] {
        let url = format!("rtmp://localhost:{port}/{APP}/nobody{query}");
        for player in Player::ALL {
            let mut playing = player.play(&url, &deployment.ca_file, &deployment.logs);
            let status = playing.finish().await;
            let said = playing.said();
            let (exit, words) = match player {
                Player::Ffmpeg5 => (1, vec![sentence]),
                Player::Ffmpeg9 => (255, vec![sentence]),
                Player::Rtmp2Src => (1, vec![code, sentence]),
                Player::RtmpDump => (1, vec![code]),
                Player::RtmpSrc => (
                    1,
                    vec!["Failed to read any data from stream, check your URL"],
                ),
            };
            assert_eq!(status.code(), Some(exit), "{player}:\n{said}");
            for word in words {
                assert!(said.contains(word), "{word:?} is not in:\n{said}");
            }
        }
    }
    let log = standalone.process.log();
    assert!(log.contains("a player was refused"), "{log}");
    for secret in [token, guess] {
        assert!(!log.contains(secret), "a token is in the log");
    }
}
