//! Two publishers of one stream: who gets the stream, and when it is free again.

use std::{net::Ipv4Addr, time::Duration};

use proto::v1::{CreateStreamKeyRequest, PublishPolicy, TakeoverPolicy};
use tests::{
    api::IssuedKey,
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    encoder::Encoder,
    ffmpeg::Pace,
    fixture, flv,
    standalone::Standalone,
    synthetic, tls, turn,
    wait::wait_for,
    witness::{Witness, publish_when_free},
};
use tokio::time::{Instant, sleep};

const DELIVERY: Duration = Duration::from_secs(20);
/// Several times the time after which a silent publisher counts as gone.
const STALE: Duration = Duration::from_secs(60);
/// Longer than from one renewal of a lease to the next, and than a publisher may be silent.
const RENEWED: Duration = Duration::from_secs(6);
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// An address of this machine that nothing else here comes from.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_settles_who_publishes() {
    let _turn = turn().await;
    let cluster = Cluster::start(Layout::default()).await;
    the_policy_settles_who_publishes(&cluster.deployment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standalone_process_settles_who_publishes() {
    let _turn = turn().await;
    let standalone = Standalone::start().await;
    the_policy_settles_who_publishes(&standalone.deployment).await;
}

async fn the_policy_settles_who_publishes(deployment: &Deployment) {
    tokio::join!(
        a_second_publisher_is_refused(deployment, TakeoverPolicy::Reject),
        a_second_publisher_is_refused(deployment, TakeoverPolicy::TakeoverIfStale),
        a_second_publisher_takes_over(deployment, TakeoverPolicy::Takeover),
        a_second_publisher_takes_over(deployment, TakeoverPolicy::SameAddress),
        a_publisher_from_another_address_is_refused(deployment),
        a_higher_priority_takes_over(deployment),
        a_priority_that_is_not_higher_is_refused(deployment),
        a_silent_publisher_is_replaced(deployment),
        a_killed_publisher_frees_its_stream(deployment),
    );
}

async fn a_second_publisher_is_refused(deployment: &Deployment, policy: TakeoverPolicy) {
    let stream = policy.as_str_name().to_lowercase();
    let key = deployment.api.create_key_with(APP, &stream, policy).await;
    let first = Witness::start(deployment, key.clone()).await;
    // However old what the first's lease says is.
    let began = Instant::now();
    while began.elapsed() < RENEWED {
        let second = deployment.encoder().await;
        let what = format!("{policy:?}, after {:?}", began.elapsed());
        is_refused(second, &key, &what).await;
        sleep(TRY_AGAIN).await;
    }
    first.is_alive().await;
    first.finish().await;
}

/// Both with one key, and from one address.
async fn a_second_publisher_takes_over(deployment: &Deployment, policy: TakeoverPolicy) {
    let stream = policy.as_str_name().to_lowercase();
    let key = deployment.api.create_key_with(APP, &stream, policy).await;
    replaces(deployment, &key, &key).await;
}

async fn a_publisher_from_another_address_is_refused(deployment: &Deployment) {
    let policy = TakeoverPolicy::SameAddress;
    let api = &deployment.api;
    let key = api.create_key_with(APP, "other-address", policy).await;
    let first = Witness::start(deployment, key.clone()).await;
    let config = tls::trusting(&deployment.ca_file, &[]);
    let elsewhere = tls::connect_from(ELSEWHERE.into(), deployment.rtmps, config).await;
    let second = Encoder::new(elsewhere.unwrap());
    is_refused(second, &key, "from another address").await;
    first.is_alive().await;
    first.finish().await;
}

async fn a_higher_priority_takes_over(deployment: &Deployment) {
    let lower = key_of_priority(deployment, "higher", 9).await;
    let higher = key_of_priority(deployment, "higher", 10).await;
    replaces(deployment, &lower, &higher).await;
}

async fn a_priority_that_is_not_higher_is_refused(deployment: &Deployment) {
    let key = key_of_priority(deployment, "not-higher", 10).await;
    let first = Witness::start(deployment, key).await;
    for priority in [10, 9] {
        let key = key_of_priority(deployment, "not-higher", priority).await;
        let second = deployment.encoder().await;
        is_refused(second, &key, &format!("priority {priority}")).await;
    }
    first.is_alive().await;
    first.finish().await;
}

async fn key_of_priority(deployment: &Deployment, stream: &str, priority: u32) -> IssuedKey {
    let request = CreateStreamKeyRequest {
        app: APP.to_owned(),
        stream: stream.to_owned(),
        takeover_policy: TakeoverPolicy::Priority.into(),
        policy: Some(PublishPolicy {
            takeover_priority: priority,
            ..PublishPolicy::default()
        }),
        ..CreateStreamKeyRequest::default()
    };
    deployment.api.try_create_key(request).await.unwrap()
}

async fn is_refused(mut second: Encoder, key: &IssuedKey, what: &str) {
    let status = second.publish(&key.app, &key.secret).await.unwrap();
    assert_eq!(
        status.code, "NetStream.Publish.BadName",
        "{what}: {status:?}"
    );
    assert_eq!(status.level, "error", "{what}");
    assert_eq!(
        status.description, "This stream is already being published",
        "{what}"
    );
    second.until_closed(DELIVERY).await;
}

/// At the first attempt: nobody waits until the first one counts as silent.
async fn replaces(deployment: &Deployment, first_key: &IssuedKey, second_key: &IssuedKey) {
    let subscriber = deployment.subscribe(first_key);
    let mut first = deployment.publish(first_key).await;
    publish_gop(&mut first).await;
    subscriber.frames(25, DELIVERY).await;

    let mut second = deployment.publish(second_key).await;
    publish_gop(&mut second).await;
    let status = first.final_status(DELIVERY).await.expect("a last word");
    assert_eq!(status.level, "error", "{status:?}");
    assert_eq!(
        status.description, "Another publisher took over this stream",
        "the first is told why it ends"
    );
    second.finish(&second_key.secret).await.unwrap();

    let received = subscriber.finish(DELIVERY).await;
    received.assert_monotonic();
    received.assert_contiguous();
    assert_eq!(
        received.sessions().len(),
        2,
        "one session follows the other"
    );
    assert_eq!(flv::packets(&received.tags()).len(), 2 * 25);
}

async fn a_silent_publisher_is_replaced(deployment: &Deployment) {
    let key = deployment.api.create_key(APP, "silent").await;
    let mut first = deployment.publish(&key).await;
    publish_gop(&mut first).await;
    // The first stays connected and sends nothing more.
    let second = publish_when_free(deployment, &key, STALE).await;
    second.finish(&key.secret).await.unwrap();
    first.until_closed(DELIVERY).await;
}

async fn a_killed_publisher_frees_its_stream(deployment: &Deployment) {
    let key = deployment
        .api
        .create_key_with(APP, "killed", TakeoverPolicy::Reject)
        .await;
    let subscriber = deployment.subscribe(&key);
    let mut ffmpeg = deployment.ffmpeg(&key, &fixture("source.flv"), 1, Pace::RealTime);
    subscriber.frames(50, DELIVERY).await;
    assert!(refused(deployment, &key).await, "the stream is taken");
    ffmpeg.kill();
    let second = publish_when_free(deployment, &key, DELIVERY).await;
    second.finish(&key.secret).await.unwrap();
    wait_for("the session to be gone", DELIVERY, async || {
        deployment
            .api
            .session_of(&key.stream)
            .await
            .is_none()
            .then_some(())
    })
    .await;
}

async fn refused(deployment: &Deployment, key: &IssuedKey) -> bool {
    let mut encoder = deployment.encoder().await;
    let status = encoder.publish(&key.app, &key.secret).await.unwrap();
    status.code != "NetStream.Publish.Start"
}

/// A sequence header and 25 frames.
async fn publish_gop(encoder: &mut Encoder) {
    encoder.send(&synthetic::video_header()).await.unwrap();
    for tag in synthetic::gop(0, 25) {
        encoder.send(&tag).await.unwrap();
    }
}
