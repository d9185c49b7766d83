//! A publisher that was lost comes back by another edge, and readers see one stream.

use std::time::{Duration, Instant};

use proto::v1::TakeoverPolicy;
use tests::{
    cluster::{Cluster, Layout},
    deployment::APP,
    ffmpeg::{self, Pace},
    fixture,
    flv::{self, Packet, Tag},
    turn_alone,
    wait::wait_until,
};

/// For a step that no deadline of the product is about.
const STEP: Duration = Duration::from_secs(60);
/// Tags that are through before anything happens.
const TAGS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_ffmpeg_comes_back_by_another_edge() {
    comes_back(false).await;
}

/// A node is lost that had both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoder_comes_back_when_edge_and_origin_are_killed() {
    comes_back(true).await;
}

async fn comes_back(node_dies: bool) {
    let _turn = turn_alone().await;
    let layout = Layout {
        origins: 3,
        more_edges: 1,
        ..Layout::default()
    };
    let mut cluster = Cluster::start(layout).await;
    let mut deployment = cluster.deployment.clone();
    let policy = TakeoverPolicy::Takeover;
    let key = deployment.api.create_key_with(APP, "returns", policy).await;
    let source = fixture("source.flv");
    let mut lost = deployment.ffmpeg(&key, &source, 100, Pace::RealTime);
    let owner = cluster.owner(&key.stream).await;
    if node_dies {
        // Its readers are gone with it.
        deployment.http.remove(owner);
    }
    let readers = deployment.read_everywhere(&key);
    for reader in &readers {
        wait_until("media", STEP, || reader.tags().len() > TAGS).await;
    }

    let since = Instant::now();
    if node_dies {
        cluster.edge.kill();
        cluster.origins[owner].kill();
    }
    lost.kill();
    let url = format!(
        "rtmps://{}/{APP}/{}",
        cluster.deployment_at(&cluster.more_edges[0]).rtmps,
        key.secret
    );
    let before: Vec<_> = readers.iter().map(|reader| reader.tags().len()).collect();
    let mut back =
        ffmpeg::publish_named("back", &source, 1, Pace::RealTime, &url, &deployment.logs);
    for (reader, before) in readers.iter().zip(before) {
        wait_until("more media", STEP, || reader.tags().len() > before + TAGS).await;
    }
    println!(
        "node lost: {node_dies}; media of the returned publisher after {:?}",
        since.elapsed()
    );
    assert!(back.exit(STEP).await.success(), "{}", back.log());
    let published = ffmpeg::as_published(&source, &deployment.logs);
    let published = flv::packets(&published);
    for reader in readers {
        assert_one_stream(&reader.finish(STEP).await, &published);
    }
}

/// Two sessions in one file: time never goes back, the second is whole, and players were set up once.
fn assert_one_stream(tags: &[Tag], published: &[Packet]) {
    let packets = flv::packets(tags);
    let again = packets.len() - published.len();
    assert!(again > 0);
    flv::assert_same_packets(&packets[again..], published);
    for track in [flv::Kind::Audio, flv::Kind::Video] {
        let of_track = packets.iter().filter(|packet| packet.track == track);
        let times: Vec<_> = of_track.map(|packet| packet.dts_ms).collect();
        assert!(times.is_sorted(), "{track:?}");
    }
    let headers = tags.iter().filter(|tag| tag.is_sequence_header());
    assert_eq!(headers.count(), 2, "the same for both sessions");
}
