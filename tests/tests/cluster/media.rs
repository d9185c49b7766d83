//! What goes in comes out: every packet, from first to last, to readers that were there before and to those who come
//! late.

use std::time::Duration;

use tests::{
    cluster::{Cluster, Database, Layout},
    deployment::{APP, Deployment},
    ffmpeg::{self, Pace},
    fixture, flv,
    http::{FlvReader, metric},
    standalone::Standalone,
    subscriber::{Received, Subscriber},
    turn,
    wait::wait_for,
    witness::Witness,
};

/// The fixture takes ten seconds to publish.
const PUBLISHED: Duration = Duration::from_secs(60);
const SOURCE: &str = "source.flv";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_packet_comes_out_of_the_cluster() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout::default()).await;
    every_packet_comes_out(&cluster.deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_packet_comes_out_of_the_cluster_on_postgres() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout {
        database: Database::Postgres,
        ..Layout::default()
    })
    .await;
    every_packet_comes_out(&cluster.deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_packet_comes_out_of_the_standalone_process() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    every_packet_comes_out(&standalone.deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reader_of_the_cluster_starts_at_a_keyframe() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout::default()).await;
    a_late_reader_starts_at_a_keyframe(&cluster.deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reader_of_the_standalone_process_starts_at_a_keyframe() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    a_late_reader_starts_at_a_keyframe(&standalone.deployment).await;
}

async fn every_packet_comes_out(deployment: &Deployment) {
    let key = deployment.api.create_key(APP, "exact").await;
    let subscribers = deployment.subscribe_everywhere(&key);
    let readers = deployment.read_everywhere(&key);
    let mut ffmpeg = deployment.ffmpeg(&key, &fixture(SOURCE), 1, Pace::RealTime);
    let status = ffmpeg.exit(PUBLISHED).await;
    assert!(status.success(), "{status}: {}", ffmpeg.log());

    let received = first_to_end(&subscribers).await;
    received.assert_contiguous();
    received.assert_monotonic();
    let tags = received.tags();
    assert_is_the_source(deployment, &tags, &received.header_tags());

    let reader = first_to_read(&readers).await;
    let tags = reader.finish(PUBLISHED).await;
    assert_is_the_source(deployment, &tags, &[]);
}

/// Packets, sequence headers and metadata are those of the file.
fn assert_is_the_source(deployment: &Deployment, tags: &[flv::Tag], headers: &[flv::Tag]) {
    let source = flv::read_file(&fixture(SOURCE));
    flv::assert_same_packets(&flv::packets(tags), &flv::packets(&source));
    let all: Vec<_> = headers.iter().chain(tags).collect();
    assert_eq!(
        flv::sequence_headers(all.iter().copied()),
        flv::sequence_headers(&source)
    );
    let published = ffmpeg::as_published(&fixture(SOURCE), &deployment.logs);
    assert_eq!(
        flv::described_media(all.iter().copied()),
        flv::described_media(&published)
    );
}

async fn a_late_reader_starts_at_a_keyframe(deployment: &Deployment) {
    let key = deployment.api.create_key(APP, "late").await;
    let early = deployment.subscribe(&key);
    let mut ffmpeg = deployment.ffmpeg(&key, &fixture(SOURCE), 1, Pace::RealTime);
    early.frames(150, PUBLISHED).await;
    let late = deployment.subscribe(&key);
    let readers = deployment.read_everywhere(&key);
    assert!(ffmpeg.exit(PUBLISHED).await.success(), "{}", ffmpeg.log());
    let early = early.finish(PUBLISHED).await;
    early.assert_contiguous();

    let late = late.finish(PUBLISHED).await;
    late.assert_contiguous();
    let first = late.frames.first().expect("frames").sequence;
    assert!(first > 0, "the reader was late");
    let suffix = early.frames.iter().filter(|frame| frame.sequence >= first);
    let suffix: Vec<_> = suffix.map(|frame| frame.tag.clone()).collect();
    assert_eq!(late.tags(), suffix);
    assert!(suffix[0].is_keyframe(), "{:?}", suffix[0]);
    assert_eq!(
        flv::sequence_headers(&late.header_tags()),
        flv::sequence_headers(&flv::read_file(&fixture(SOURCE)))
    );
    assert!(
        late.header_tags()
            .iter()
            .any(|tag| tag.metadata().is_some())
    );

    let tags = first_to_read(&readers).await.finish(PUBLISHED).await;
    let packets = flv::packets(&tags);
    let whole = flv::packets(&early.tags());
    let (_, suffix) = whole
        .split_at_checked(whole.len() - packets.len())
        .expect("no more packets than there were");
    // A player's clock starts anew where it joins.
    flv::assert_same_packets(&packets, suffix);
    let first = tags.iter().find(|tag| tag.packet().is_some()).unwrap();
    assert!(first.is_keyframe(), "{first:?}");
    let ahead = tags.iter().take_while(|tag| tag.packet().is_none());
    assert_eq!(
        flv::sequence_headers(ahead.clone()).len(),
        2,
        "sequence headers come first"
    );
    assert!(ahead.clone().any(|tag| tag.metadata().is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_tell_of_a_session() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout::default()).await;
    let key = cluster.deployment.api.create_key(APP, "measured").await;
    let witness = Witness::start(&cluster.deployment, key).await;
    witness.is_alive().await;
    let control = cluster.controls[0].metrics().await.unwrap();
    let edge = cluster.edge.metrics().await.unwrap();
    let mut origins = String::new();
    for origin in &cluster.origins {
        origins += &origin.metrics().await.unwrap();
    }
    for (metrics, name, labels) in [
        (
            &control,
            "headwater_key_checks_total",
            vec!["outcome=\"accepted\""],
        ),
        (&edge, "headwater_connections_accepted_total", vec![]),
        (
            &edge,
            "headwater_publish_attempts_total",
            vec!["app=\"live\"", "outcome=\"ok\""],
        ),
        (&edge, "headwater_publishers_active", vec!["app=\"live\""]),
        (&edge, "headwater_ownership_claims_total", vec![]),
        (&edge, "headwater_received_bytes_total", vec![]),
        (&edge, "headwater_forwarded_bytes_total", vec![]),
        (
            &edge,
            "headwater_redis_command_duration_seconds_count",
            vec![],
        ),
        (&origins, "headwater_origin_streams_active", vec![]),
        (&origins, "headwater_origin_subscribers_active", vec![]),
    ] {
        assert!(metric(metrics, name, &labels) > 0.0, "{name}:\n{metrics}");
    }
    for metrics in [&control, &edge, &origins] {
        assert!(
            !metrics.contains("measured"),
            "no stream is a label:\n{metrics}"
        );
    }
    witness.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ffmpeg_decodes_what_comes_out_without_a_complaint() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    let key = deployment.api.create_key(APP, "decoded").await;
    let subscriber = deployment.subscribe(&key);
    let mut publisher = deployment.ffmpeg(&key, &fixture(SOURCE), 1, Pace::RealTime);
    subscriber.frames(10, PUBLISHED).await;
    let url = deployment.flv_urls(&key).remove(0);
    let complaints = tokio::task::spawn_blocking(move || ffmpeg::decode_errors(&url)).await;
    assert_eq!(complaints.unwrap(), "");
    assert!(publisher.exit(PUBLISHED).await.success());
}

/// The subscriber at the origin where the stream was.
async fn first_to_end(subscribers: &[Subscriber]) -> Received {
    wait_for("the stream to end at a subscriber", PUBLISHED, async || {
        let mut all = subscribers.iter().map(Subscriber::received);
        all.find(|received| received.ended.is_some() && !received.frames.is_empty())
    })
    .await
}

/// The reader at the origin where the stream was.
async fn first_to_read(readers: &[FlvReader]) -> &FlvReader {
    wait_for("an FLV reader to get media", PUBLISHED, async || {
        readers.iter().find(|reader| !reader.tags().is_empty())
    })
    .await
}
