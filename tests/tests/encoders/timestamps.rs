//! Streams that have run for hours and weeks: extended timestamps, and the 31 bits of FLV.

use std::time::Duration;

use tests::{
    clients::{Address, Client},
    deployment::APP,
    flv,
    standalone::Standalone,
    turn,
};

const PUBLISHED: Duration = Duration::from_secs(60);
const SECONDS: u32 = 4;
/// Pictures a second, less the last ones that an encoder may keep.
const PICTURES_MIN: usize = 15 * 4 - 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_5_is_beyond_24_bits() {
    publishes_late(Client::Ffmpeg5, "20000").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_9_is_beyond_24_bits() {
    publishes_late(Client::Ffmpeg9, "20000").await;
}

/// 2^24 ms are 16 777.216 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_9_passes_24_bits() {
    publishes_late(Client::Ffmpeg9, "16775").await;
}

/// 2^31 ms are 2 147 483.648 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_5_wraps_at_31_bits() {
    publishes_late(Client::Ffmpeg5, "2147481").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_9_wraps_at_31_bits() {
    publishes_late(Client::Ffmpeg9, "2147481").await;
}

/// Everything arrives, and time does not go back nor jump.
async fn publishes_late(client: Client, offset_s: &str) {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "encoder").await;
    let address = Address::secure(deployment, &key.secret);
    let subscriber = deployment.subscribe(&key);
    let options = ["-output_ts_offset", offset_s];
    let mut publisher = client.publish_with(&options, &address, SECONDS, &deployment.logs);
    let status = publisher.finish().await;
    assert!(status.success(), "{status}: {}", publisher.said());
    let received = subscriber.finish(PUBLISHED).await;
    received.assert_contiguous();
    received.assert_monotonic();
    let tags = received.tags();
    let packets = flv::packets(&tags);
    let pictures = packets
        .iter()
        .filter(|packet| packet.track == flv::Kind::Video);
    assert!(
        pictures.clone().count() >= PICTURES_MIN,
        "{} pictures",
        pictures.count()
    );
    let times: Vec<i64> = packets.iter().map(|packet| packet.dts_ms).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    println!("{client} from {offset_s} s: {first} to {last} ms");
    assert!(
        (2_000..6_000).contains(&(last - first)),
        "{first} to {last} ms"
    );
}
