//! An origin dies: the encoder notices nothing, a reader with a cursor misses nothing.

use std::time::Duration;

use tests::{
    bench::{Bench, Load},
    cluster::{Cluster, Layout},
    scenario::origin_dies_under_ffmpeg,
    turn,
};

/// For the load to be published and read.
const PUBLISHED: Duration = Duration::from_secs(60);

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
