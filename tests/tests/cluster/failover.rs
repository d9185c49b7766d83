//! An origin dies: the encoder notices nothing, a reader with a cursor misses nothing.

use std::time::Duration;

use tests::{
    bench::{Bench, Load},
    cluster::{Cluster, Layout},
    deployment::APP,
    ffmpeg::Pace,
    fixture, flv, turn,
};

/// The fixture takes ten seconds to publish.
const PUBLISHED: Duration = Duration::from_secs(60);
const SOURCE: &str = "source.flv";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_an_origin_is_invisible_to_ffmpeg_and_to_a_cursor() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout::default()).await;
    origin_dies_under_ffmpeg(&mut cluster, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_an_origin_is_invisible_while_redis_is_down_too() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout::default()).await;
    origin_dies_under_ffmpeg(&mut cluster, true).await;
}

async fn origin_dies_under_ffmpeg(cluster: &mut Cluster, redis_first: bool) {
    let deployment = cluster.deployment.clone();
    let key = deployment.api.create_key(APP, "failover").await;
    let subscriber = deployment.subscribe(&key);
    let mut ffmpeg = deployment.ffmpeg(&key, &fixture(SOURCE), 1, Pace::RealTime);
    subscriber.frames(150, PUBLISHED).await;
    let owner = cluster.owner(&key.stream).await;
    if redis_first {
        cluster.redis.kill();
    }
    cluster.origins[owner].kill();
    let status = ffmpeg.exit(PUBLISHED).await;
    assert!(status.success(), "{status}: {}", ffmpeg.log());

    let received = subscriber.finish(PUBLISHED).await;
    received.assert_contiguous();
    received.assert_monotonic();
    let session = &received.frames[0].session_id;
    assert!(
        received
            .frames
            .iter()
            .all(|frame| frame.session_id == *session),
        "the encoder's connection is one session"
    );
    let attempts = received.frames.last().unwrap().attempt;
    assert!(attempts > 1, "the stream went to another origin");
    let source = flv::read_file(&fixture(SOURCE));
    flv::assert_same_packets(&flv::packets(&received.tags()), &flv::packets(&source));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_an_origin_leaves_the_load_generators_ledger_clean() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout::default()).await;
    origin_dies_under_load(&mut cluster, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_stays_clean_while_redis_is_down_too() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout::default()).await;
    origin_dies_under_load(&mut cluster, true).await;
}

async fn origin_dies_under_load(cluster: &mut Cluster, redis_first: bool) {
    let load = Load {
        publishers: 8,
        seconds: 12,
        ramp_seconds: 0,
        kilobits_per_second: 400,
    };
    let mut bench = Bench::start(&cluster.deployment, "ledger", &load).await;
    bench.is_live(PUBLISHED).await;
    let owned = cluster.deployment.api.sessions().await.unwrap();
    let owner = cluster.owner(&owned[0].stream).await;
    if redis_first {
        cluster.redis.kill();
    }
    cluster.origins[owner].kill();
    bench.finish_clean(PUBLISHED).await;
}
