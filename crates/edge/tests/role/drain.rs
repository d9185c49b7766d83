//! How an edge gets empty, and what its encoders see of that.

use std::time::{Duration, Instant};

use edge::Config;
use proto::v1::EventType;
use registry::{Claim, ClaimOutcome, LeaseStats, Policy, Renewal, RenewalOutcome, Standing};

use runtime::shutdown::DrainTimes;

use crate::{
    encoder::{Encoder, Said, media},
    harness::{Harness, assert_same, in_time, until},
};

/// As a process that got SIGTERM.
fn drain_within(harness: &Harness, timeout: Duration) {
    let shutdown = harness.shutdown.clone();
    let times = DrainTimes {
        notice: Duration::ZERO,
        timeout,
    };
    shutdown.give_notice();
    tokio::spawn(async move { shutdown.keep_time(times).await });
}

#[tokio::test]
async fn an_encoder_that_follows_requests_is_asked_and_loses_nothing() {
    let harness = Harness::start_with(1, |config| {
        config.drain.reconnect_jitter = Duration::from_millis(200);
    })
    .await;
    let sent = media(0..40, 100);
    let mut encoder = Encoder::mobile(harness.address, "live", "good-moved").await;
    assert_eq!(encoder.said().await, Said::Started);
    let (_, session) = harness.owner().await;
    encoder.send_all(&sent[..30]).await;
    harness.shutdown.drain();
    let asked = in_time("the request", encoder.said()).await;
    assert_eq!(asked, Said::AskedToReconnect);
    // Whatever its key says: whoever comes next is its successor.
    let claim = harness.claim_elsewhere("moved", Policy::Reject);
    let outcome = harness.registry.claim(&claim).await.unwrap();
    assert_eq!(outcome, ClaimOutcome::Leaving);
    // It is served until it leaves.
    encoder.send_all(&sent[30..]).await;
    encoder.finish().await;
    in_time("the edge's end", harness.edge).await.unwrap();
    let outcome = harness.registry.claim(&claim).await.unwrap();
    assert!(
        matches!(outcome, ClaimOutcome::Granted { previous: None, .. }),
        "{outcome:?}"
    );
    let log = harness.origins[0].session(&session);
    assert_same(&log.frames, 0, &sent);
    assert_eq!(log.closed, None, "the stream waits for its successor");
    let ended = harness.control.reports(EventType::SessionEnded);
    assert_eq!(ended[0].reason, "drain_move");
}

#[tokio::test]
async fn an_encoder_that_does_not_is_closed_at_a_keyframe_before_the_end() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-legacy").await;
    let (_, session) = harness.owner().await;
    let begun = Instant::now();
    drain_within(&harness, Duration::from_secs(4));
    let sent = media(0..2_000, 10);
    let mut messages = sent.chunks(2);
    let said = loop {
        encoder.send_all(messages.next().unwrap()).await;
        let said = tokio::time::timeout(Duration::from_millis(10), encoder.said()).await;
        if let Ok(said) = said {
            break said;
        }
    };
    let told = "The server is restarting, please reconnect".to_owned();
    assert_eq!(said, Said::Rejected(told));
    let elapsed = begun.elapsed();
    println!("closed {elapsed:.1?} after the drain began, which takes 4 s at most");
    assert!(elapsed > Duration::from_millis(900), "{elapsed:?}");
    drop(encoder);
    in_time("the edge's end", harness.edge).await.unwrap();
    let log = harness.origins[0].session(&session);
    let last = log.frames.last().unwrap();
    assert!(last.parts.iter().any(|part| part.keyframe), "{last:?}");
    assert_eq!(log.closed, None, "the stream waits for its publisher");
    let ended = harness.control.reports(EventType::SessionEnded);
    assert_eq!(ended[0].reason, "drain");
}

#[tokio::test]
async fn a_publisher_that_is_decided_on_as_the_drain_begins_leaves_with_the_others() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::connect(harness.address, "live", "slow-decision").await;
    let drains = async {
        until("the question", || !harness.control.requests().is_empty()).await;
        drain_within(&harness, Duration::from_secs(2));
        until("the drain", || {
            harness.metric("headwater_edge_drain_phase") == 2
        })
        .await;
        harness.control.decide();
    };
    let (said, ()) = tokio::join!(encoder.said(), drains);
    assert_eq!(said, Said::Started, "it would be back seconds later");
    let (_, session) = harness.owner().await;
    let sent = media(0..20, 100);
    encoder.send_all(&sent).await;
    let said = in_time("the close", encoder.said()).await;
    assert!(matches!(said, Said::Rejected(_)), "{said:?}");
    drop(encoder);
    in_time("the edge's end", harness.edge).await.unwrap();
    assert!(harness.registry.leases().await.unwrap().is_empty());
    assert_same(&harness.origins[0].session(&session).frames, 0, &sent);
}

#[tokio::test]
async fn a_publisher_without_keyframes_is_closed_at_the_end() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-silent").await;
    encoder.send_all(&media(0..2, 100)).await;
    let begun = Instant::now();
    drain_within(&harness, Duration::from_secs(1));
    let said = in_time("the close", encoder.said()).await;
    assert!(matches!(said, Said::Rejected(_)), "{said:?}");
    let elapsed = begun.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(5)).contains(&elapsed),
        "{elapsed:?}"
    );
    drop(encoder);
    in_time("the edge's end", harness.edge).await.unwrap();
}

#[tokio::test]
async fn readiness_and_metrics_tell_how_far_a_drain_is() {
    let harness = Harness::start(1).await;
    let encoder = Encoder::publish(harness.address, "live", "good-told").await;
    assert_eq!(harness.metric("headwater_edge_drain_phase"), 0);
    harness.shutdown.give_notice();
    let told = |text: &str| {
        let missing = harness.readiness.missing();
        missing.iter().any(|missing| missing.contains(text))
    };
    until("the notice", || {
        told("drain: leaving") && harness.metric("headwater_edge_drain_phase") == 1
    })
    .await;
    harness.shutdown.drain();
    until("the drain", || {
        told("drain: draining: 1 sessions")
            && harness.metric("headwater_drain_remaining_sessions") == 1
    })
    .await;
    encoder.finish().await;
    in_time("the edge's end", harness.edge).await.unwrap();
}

/// A session on another edge that was asked to leave, and has not yet.
async fn leaving(harness: &Harness, name: &str) -> (Claim, u64) {
    let claim = harness.claim_elsewhere(name, Policy::Reject);
    let ClaimOutcome::Granted { epoch, home, .. } = harness.registry.claim(&claim).await.unwrap()
    else {
        panic!("the stream is not free");
    };
    let renewal = Renewal {
        stream: claim.stream,
        slot: claim.slot,
        session: claim.session.clone(),
        edge: claim.edge.clone(),
        epoch,
        attempt: 1,
        origin: home.origin,
        broadcast_id: home.broadcast_id,
        media_age: Duration::ZERO,
        standing: Standing {
            leaving: true,
            ..Standing::default()
        },
        home_ttl: claim.home_ttl,
        stats: LeaseStats::default(),
    };
    let renewed = harness.registry.renew(&[renewal]).await.unwrap();
    assert_eq!(renewed, [RenewalOutcome::Renewed]);
    (claim, epoch)
}

fn patient(config: &mut Config) {
    config.relay.leaving_wait = Duration::from_secs(10);
}

#[tokio::test]
async fn a_successor_begins_when_the_last_frames_before_it_are_delivered() {
    let harness = Harness::start_with(1, patient).await;
    let (claim, epoch) = leaving(&harness, "handed").await;
    let mut encoder = Encoder::connect(harness.address, "live", "reject-handed").await;
    let early = tokio::time::timeout(Duration::from_millis(300), encoder.said()).await;
    assert!(early.is_err(), "{early:?}");
    let registry = &harness.registry;
    let released = registry.release(claim.stream, claim.slot, &claim.session, epoch);
    assert!(released.await.unwrap());
    let said = in_time("the start", encoder.said()).await;
    assert_eq!(said, Said::Started);
    assert_eq!(
        harness.control.reports(EventType::SessionTakenOver),
        [],
        "it was not taken over"
    );
}

#[tokio::test]
async fn a_successor_does_not_wait_for_ever() {
    let harness = Harness::start_with(1, |config| {
        config.relay.leaving_wait = Duration::from_millis(200);
    })
    .await;
    leaving(&harness, "stuck").await;
    let mut encoder = Encoder::connect(harness.address, "live", "reject-stuck").await;
    let said = in_time("the start", encoder.said()).await;
    assert_eq!(said, Said::Started);
    assert_ne!(harness.lease().await.session.as_str(), "another");
}
