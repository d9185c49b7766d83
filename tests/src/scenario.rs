//! What more than one test does to a running cluster.

use std::time::{Duration, Instant};

use crate::{
    api::{Api, IssuedKey},
    cluster::Cluster,
    deployment::{APP, Deployment},
    encoder::RtmpStatus,
    ffmpeg::Pace,
    fixture, flv,
    wait::wait_for,
    witness::Witness,
};

/// The fixture takes ten seconds to publish.
const PUBLISHED: Duration = Duration::from_secs(60);
const SOURCE: &str = "source.flv";
/// How fast a revocation is to work; a busy test machine gets five times that.
pub const REVOCATION_GOAL: Duration = Duration::from_secs(2);
pub const REVOCATION_DEADLINE: Duration = REVOCATION_GOAL.saturating_mul(5);

/// The encoder notices nothing, a reader with a cursor misses nothing.
pub async fn origin_dies_under_ffmpeg(cluster: &mut Cluster, redis_first: bool) {
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

/// A key is revoked at a control, and publishes no more.
pub async fn revocation_ends_the_session(deployment: &Deployment, api: &Api, stream: &str) {
    let key = api.create_key(APP, stream).await;
    let witness = Witness::start(deployment, key.clone()).await;
    let start = Instant::now();
    api.revoke_key(&key.id, "the contract ended").await.unwrap();
    ends(&witness, start).await;

    let mut again = deployment.encoder().await;
    let status = again.publish(&key.app, &key.secret).await.unwrap();
    assert_eq!(status.code, "NetStream.Publish.BadName", "{status:?}");
}

/// Waits for the end of the session, and says how long it took. An encoder that only writes learns of it last: up to a
/// second of the figure is the edge's lingering behind its last words.
pub async fn ends(witness: &Witness, start: Instant) {
    let what = format!("{} to end", witness.key.stream);
    crate::wait::wait_until(&what, REVOCATION_DEADLINE, || !witness.is_publishing()).await;
    println!(
        "{} ended {:?} after the call (goal {REVOCATION_GOAL:?})",
        witness.key.stream,
        start.elapsed()
    );
}

/// Publishes and stops at once, where that is allowed; what the server said.
pub async fn tries_to_publish(deployment: &Deployment, key: &IssuedKey) -> RtmpStatus {
    let mut encoder = deployment.encoder().await;
    let status = encoder.publish(&key.app, &key.secret).await.unwrap();
    if status.level == "status" {
        encoder.finish(&key.secret).await.unwrap();
    }
    status
}

/// Waits until a publisher is let in.
pub async fn is_accepted(deployment: &Deployment, key: &IssuedKey, deadline: Duration) {
    wait_for("a publisher to be accepted again", deadline, async || {
        let status = tries_to_publish(deployment, key).await;
        (status.code == "NetStream.Publish.Start").then_some(())
    })
    .await;
}

/// Fails unless the person at the encoder is told that a retry helps.
pub fn assert_refused_for_now(status: &RtmpStatus) {
    assert_eq!(status.level, "error", "{status:?}");
    assert_eq!(status.code, "NetStream.Publish.BadName", "{status:?}");
    let description = status.description.to_lowercase();
    assert!(
        description.contains("again") || description.contains("later"),
        "the person is told that a retry helps: {status:?}"
    );
}
