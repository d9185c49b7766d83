//! Origins die, stall, leave and lag; the encoder notices nothing.

use std::time::{Duration, Instant};

use registry::{ClaimOutcome, Policy};
use rtmp::MediaMessage;

use crate::{
    encoder::{Encoder, Said, media, send_until},
    fake_origin::{FakeOrigin, Mode, SessionLog},
    harness::{Harness, assert_same, found, in_time, until},
};

/// What the second origin got begins where a decoder can, with everything that it needs.
fn assert_resumed(log: &SessionLog, sent: &[MediaMessage]) {
    assert_same(&log.frames, log.first_sequence, sent);
    if log.first_sequence > 0 {
        assert!(log.frames[0].keyframe(), "begins at {}", log.first_sequence);
        let headers: Vec<_> = log.headers.iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!(headers, [0, 1, 2]);
        for (sequence, header) in &log.headers {
            assert_eq!(header.body, sent[usize::try_from(*sequence).unwrap()].body);
        }
    }
}

/// Publishes, spoils the owner, and checks that another origin has the session without a seam.
async fn survives(stream_key: &str, spoil: impl FnOnce(&FakeOrigin)) -> (Harness, SessionLog) {
    let harness = Harness::start(2).await;
    let mut encoder = Encoder::publish(harness.address, "live", stream_key).await;
    let (owner, session) = harness.owner().await;
    let (lost, other) = (&harness.origins[owner], &harness.origins[1 - owner]);
    let mut sent = Vec::new();
    // Longer than the replay window: history has left the ring.
    let started = Instant::now();
    send_until(&mut encoder, &mut sent, "two seconds of media", || {
        started.elapsed() > Duration::from_secs(2) && lost.session(&session).next_sequence() > 50
    })
    .await;
    let acknowledged = lost.session(&session).next_sequence();
    spoil(lost);
    let spoilt = Instant::now();
    send_until(&mut encoder, &mut sent, "another origin", || {
        !other.session(&session).frames.is_empty()
    })
    .await;
    println!(
        "{stream_key}: another origin had the session after {:?}",
        spoilt.elapsed()
    );
    let reopened = other.opens().pop().unwrap();
    assert!(reopened.attempt > 1);
    assert_eq!(reopened.timeline_offset_ms, Some(1000));
    assert!(!reopened.gap_before);
    assert!(
        reopened.first_sequence <= acknowledged,
        "nothing unacknowledged is lost"
    );
    encoder.finish().await;
    until("the close", || other.session(&session).closed.is_some()).await;
    let log = other.session(&session);
    assert_resumed(&log, &sent);
    harness.no_lease().await;
    (harness, log)
}

#[tokio::test]
async fn a_killed_origin_is_replaced() {
    let (harness, log) = survives("good-killed", FakeOrigin::kill).await;
    assert!(log.first_sequence > 0, "history has left the ring");
    let reopened = "headwater_relay_reopens_total{reason=\"broken\",outcome=\"ok\"}";
    assert_eq!(harness.metric(reopened), 1);
}

#[tokio::test]
async fn a_stalled_origin_is_replaced() {
    let (harness, _) = survives("good-stalled", |origin| origin.set(Mode::Stall)).await;
    let reopened = "headwater_relay_reopens_total{reason=\"stalled\",outcome=\"ok\"}";
    assert_eq!(harness.metric(reopened), 1);
}

#[tokio::test]
async fn an_origin_that_says_goodbye_is_replaced() {
    let (harness, _) = survives("good-goodbye", |origin| origin.set(Mode::Goodbye)).await;
    let reopened = "headwater_relay_reopens_total{reason=\"goodbye\",outcome=\"ok\"}";
    assert_eq!(harness.metric(reopened), 1);
}

/// The registry stood still, the session began without it, and what was asked of it is carried out later.
#[tokio::test]
async fn a_claim_of_its_own_that_is_carried_out_late_costs_a_session_nothing() {
    let harness = Harness::start_with(2, |config| {
        config.relay.renew_period = Duration::from_millis(200);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-late").await;
    let lease = harness.lease().await;
    let (owner, session) = harness.owner().await;
    let mut claim = harness.claim_elsewhere("late", Policy::Reject);
    (claim.session, claim.edge) = (lease.session, lease.edge);
    claim.floor = lease.epoch + 1000;
    let outcome = harness.registry.claim(&claim).await.unwrap();
    let ClaimOutcome::Granted { epoch, .. } = outcome else {
        panic!("{outcome:?}");
    };
    let mut sent = Vec::new();
    let won_back = "headwater_ownership_renewals_total{outcome=\"won_back\"}";
    send_until(&mut encoder, &mut sent, "its renewal", || {
        harness.metric(won_back) == 1
    })
    .await;
    found("the lease", async || {
        let lease = harness.lease().await;
        let here = lease.origin == harness.origins[owner].name && lease.attempt == 1;
        (lease.epoch == epoch && here).then_some(())
    })
    .await;
    // The next origin asks the registry, and knows it by that epoch.
    let other = &harness.origins[1 - owner];
    harness.origins[owner].kill();
    send_until(&mut encoder, &mut sent, "another origin", || {
        !other.session(&session).frames.is_empty()
    })
    .await;
    assert_eq!(other.opens().pop().unwrap().epoch, epoch);
    encoder.finish().await;
    until("the close", || other.session(&session).closed.is_some()).await;
    assert_resumed(&other.session(&session), &sent);
    harness.no_lease().await;
}

#[tokio::test]
async fn an_origin_that_leaves_keeps_its_session_until_there_is_another() {
    let harness = Harness::start_with(1, |config| {
        config.relay.origins_poll_period = Duration::from_millis(50);
    })
    .await;
    let first = &harness.origins[0];
    let second = harness.unannounced_origin("second").await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-patient").await;
    let (_, session) = harness.owner().await;
    let mut sent = Vec::new();
    first.set(Mode::Leave);
    send_until(
        &mut encoder,
        &mut sent,
        "media at the leaving origin",
        || first.session(&session).frames.len() > 60,
    )
    .await;
    harness
        .registry
        .announce(&second.announcement())
        .await
        .unwrap();
    send_until(&mut encoder, &mut sent, "media at the other origin", || {
        !second.session(&session).frames.is_empty()
    })
    .await;
    encoder.finish().await;
    until("the close", || second.session(&session).closed.is_some()).await;
    assert_resumed(&second.session(&session), &sent);
}

#[tokio::test]
async fn an_origin_that_leaves_takes_frames_until_another_has_the_session() {
    let harness = Harness::start(2).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-unbroken").await;
    let (owner, session) = harness.owner().await;
    let (first, second) = (&harness.origins[owner], &harness.origins[1 - owner]);
    let mut sent = Vec::new();
    second.set(Mode::Refuse);
    first.set(Mode::Leave);
    // Longer than it takes to be refused at the other.
    send_until(
        &mut encoder,
        &mut sent,
        "media at the leaving origin",
        || first.session(&session).frames.len() > 200,
    )
    .await;
    assert!(!first.session(&session).lost);
    second.set(Mode::Take);
    send_until(&mut encoder, &mut sent, "media at the other origin", || {
        !second.session(&session).frames.is_empty()
    })
    .await;
    until("the end at the first", || first.session(&session).lost).await;
    encoder.finish().await;
    until("the close", || second.session(&session).closed.is_some()).await;
    assert_resumed(&second.session(&session), &sent);
    let moved = "headwater_relay_reopens_total{reason=\"goodbye\",outcome=\"ok\"}";
    assert_eq!(harness.metric(moved), 1);
}

#[tokio::test]
async fn the_registry_hears_at_once_where_a_session_has_moved() {
    let harness = Harness::start_with(2, |config| {
        config.relay.renew_period = Duration::from_secs(3600);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-moved").await;
    let (owner, _) = harness.owner().await;
    encoder.send_all(&media(0..20, 100)).await;
    harness.origins[owner].kill();
    for _ in 0..1000 {
        let lease = harness.lease().await;
        if lease.origin == harness.origins[1 - owner].name {
            assert!(lease.attempt > 1);
            return encoder.finish().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lease names the lost origin");
}

#[tokio::test]
async fn the_tail_of_a_finished_session_survives_its_origin() {
    let harness = Harness::start(2).await;
    let sent = media(0..100, 1000);
    let mut encoder = Encoder::publish(harness.address, "live", "good-tail").await;
    let (owner, session) = harness.owner().await;
    let (lost, other) = (&harness.origins[owner], &harness.origins[1 - owner]);
    encoder.send_all(&sent[..100]).await;
    until("some frames", || !lost.session(&session).frames.is_empty()).await;
    lost.set(Mode::Stall);
    encoder.send_all(&sent[100..]).await;
    in_time("finish", encoder.finish()).await;
    lost.kill();
    until("the close", || other.session(&session).closed.is_some()).await;
    assert_resumed(&other.session(&session), &sent);
}

#[tokio::test]
async fn without_any_origin_the_session_ends_in_words() {
    let harness = Harness::start_with(1, |config| {
        config.relay.reopen_timeout = Duration::from_secs(1);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-alone").await;
    encoder.send_all(&media(0..20, 100)).await;
    harness.origins[0].kill();
    assert_eq!(
        in_time("end", encoder.said()).await,
        Said::Rejected("The service is not available right now, please try again".to_owned())
    );
    until("the metric", || {
        harness.metric("headwater_sessions_ended_total{reason=\"origin_lost\"}") == 1
    })
    .await;
    harness.no_lease().await;
}

#[tokio::test]
async fn a_session_outlives_every_origin_where_others_come_at_new_addresses() {
    const AWAY: Duration = Duration::from_secs(4);
    let harness = Harness::start(2).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-outlives").await;
    let (owner, session) = harness.owner().await;
    let first = &harness.origins[owner];
    let mut sent = Vec::new();
    send_until(&mut encoder, &mut sent, "some media", || {
        first.session(&session).frames.len() > 60
    })
    .await;
    for origin in &harness.origins {
        origin.kill();
    }
    let acknowledged = first.session(&session).next_sequence();
    let gone = Instant::now();
    send_until(&mut encoder, &mut sent, "the time without origins", || {
        gone.elapsed() > AWAY
    })
    .await;
    let mut others = Vec::new();
    for name in ["other-0", "other-1"] {
        let other = harness.unannounced_origin(name).await;
        let announcement = other.announcement();
        harness.registry.announce(&announcement).await.unwrap();
        others.push(other);
    }
    let announced = Instant::now();
    let has_it = |origin: &&FakeOrigin| !origin.session(&session).frames.is_empty();
    send_until(&mut encoder, &mut sent, "another origin", || {
        others.iter().any(|other| has_it(&other))
    })
    .await;
    println!("another origin had it after {:?}", announced.elapsed());
    let other = others.iter().find(has_it).unwrap();
    encoder.finish().await;
    until("the close", || other.session(&session).closed.is_some()).await;
    let log = other.session(&session);
    assert_resumed(&log, &sent);
    assert!(log.first_sequence <= acknowledged, "nothing is lost");
    harness.no_lease().await;
}

#[tokio::test]
async fn a_new_session_finds_an_origin_that_came_where_those_that_are_known_refuse() {
    let harness = Harness::start_with(1, |config| {
        config.relay.origins_poll_period = Duration::from_secs(3600);
    })
    .await;
    harness.origins[0].set(Mode::Refuse);
    let other = harness.unannounced_origin("other").await;
    let announcement = other.announcement();
    harness.registry.announce(&announcement).await.unwrap();
    let mut encoder = Encoder::publish(harness.address, "live", "good-rollout").await;
    assert_eq!(harness.origins[0].opens().len(), 1);
    let session = harness.lease().await.session.to_string();
    let sent = media(0..20, 100);
    encoder.send_all(&sent).await;
    encoder.finish().await;
    until("the close", || other.session(&session).closed.is_some()).await;
    assert_resumed(&other.session(&session), &sent);
}

#[tokio::test]
async fn a_single_origin_that_comes_back_gets_its_session_back() {
    let harness = Harness::start(1).await;
    let origin = &harness.origins[0];
    let mut encoder = Encoder::publish(harness.address, "live", "good-back").await;
    let (_, session) = harness.owner().await;
    let mut sent = media(0..20, 100);
    encoder.send_all(&sent).await;
    origin.set(Mode::Goodbye);
    send_until(&mut encoder, &mut sent, "a second open", || {
        origin.opens().len() > 1
    })
    .await;
    origin.set(Mode::Take);
    send_until(&mut encoder, &mut sent, "an accepted session", || {
        origin.session(&session).frames.len() > 60
    })
    .await;
    encoder.finish().await;
    until("the close", || origin.session(&session).closed.is_some()).await;
    assert_same(&origin.session(&session).frames, 0, &sent);
}

#[tokio::test]
async fn a_slow_origin_slows_the_encoder_and_memory_stays_bounded() {
    const LIMIT: usize = 1024 * 1024;
    let harness = Harness::start_with(1, |config| {
        config.relay.unacknowledged_bytes_max = LIMIT;
        config.relay.ring_bytes_max = 2 * LIMIT;
        config.relay.replay_window = Duration::from_millis(100);
        config.relay.stall_timeout = Duration::from_secs(10);
    })
    .await;
    let origin = &harness.origins[0];
    let sent = media(0..300, 100_000);
    let total: usize = sent.iter().map(|message| message.body.len()).sum();
    let mut encoder = Encoder::publish(harness.address, "live", "good-slow").await;
    let (_, session) = harness.owner().await;
    origin.set(Mode::Stall);
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            encoder.send_all(&sent).await;
            encoder
        }
    });
    let received = || usize::try_from(harness.metric("headwater_received_bytes_total")).unwrap();
    until("a full ring", || received() > LIMIT).await;
    let mut before = 0;
    until("a socket that is not read", || {
        let now = received();
        std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!(!sending.is_finished());
    println!("read {} of {total} bytes from the encoder", received());
    assert!(received() < 2 * LIMIT);

    origin.set(Mode::Slow(Duration::from_millis(5)));
    let mut most = 0;
    until("everything sent", || {
        most = most.max(harness.metric("headwater_forward_queue_bytes"));
        sending.is_finished()
    })
    .await;
    sending.await.unwrap().finish().await;
    until("the close", || origin.session(&session).closed.is_some()).await;
    assert_same(&origin.session(&session).frames, 0, &sent);
    println!("the ring held {most} bytes at most");
    assert!(usize::try_from(most).unwrap() < 4 * LIMIT);
}

#[tokio::test]
async fn a_process_without_memory_refuses_new_publishes() {
    let harness = Harness::start_with(1, |config| {
        config.relay.process_bytes_max = 100_000;
    })
    .await;
    let mut first = Encoder::publish(harness.address, "live", "good-first").await;
    // What is acknowledged would be given up.
    harness.origins[0].set(Mode::Stall);
    first.send_all(&media(0..30, 5000)).await;
    until("a used budget", || {
        harness.metric("headwater_forward_queue_bytes") > 90_000
    })
    .await;
    let mut second = Encoder::connect(harness.address, "live", "good-second").await;
    assert_eq!(
        second.said().await,
        Said::Rejected("The service is busy right now, please try again".to_owned())
    );
    harness.origins[0].set(Mode::Take);
    first.finish().await;
    until("a free budget", || {
        harness.metric("headwater_forward_queue_bytes") == 0
    })
    .await;
}

#[tokio::test]
async fn a_takeover_while_the_origin_is_lost_fences_at_the_next_one() {
    let harness = Harness::start(2).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-overtaken").await;
    let (owner, _) = harness.owner().await;
    encoder.send_all(&media(0..20, 100)).await;
    harness.origins[1 - owner].has_seen_epoch(u64::MAX);
    harness.origins[owner].kill();
    assert_eq!(
        in_time("fence", encoder.said()).await,
        Said::Rejected("Another publisher took over this stream".to_owned())
    );
}

#[tokio::test]
async fn a_session_that_is_sent_to_an_origin_goes_there_and_nowhere_else() {
    let harness = Harness::start_with(2, |config| {
        config.relay.origins_poll_period = Duration::from_millis(50);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-sent").await;
    let (owner, session) = harness.owner().await;
    let (first, other) = (&harness.origins[owner], &harness.origins[1 - owner]);
    let target = harness.unannounced_origin("target").await;
    let mut sent = Vec::new();
    first.set(Mode::SendTo("target"));
    // Longer than any other origin would take.
    send_until(&mut encoder, &mut sent, "media where it was", || {
        first.session(&session).frames.len() > 100
    })
    .await;
    assert!(other.opens().is_empty() && !first.session(&session).lost);
    let announcement = target.announcement();
    harness.registry.announce(&announcement).await.unwrap();
    send_until(&mut encoder, &mut sent, "media where it is to be", || {
        !target.session(&session).frames.is_empty()
    })
    .await;
    assert!(other.opens().is_empty());
    encoder.finish().await;
    until("the close", || target.session(&session).closed.is_some()).await;
    assert_resumed(&target.session(&session), &sent);
}

#[tokio::test]
async fn an_origin_is_told_what_the_one_before_said_of_standby_and_of_time() {
    let harness = Harness::start(2).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-standby").await;
    let (owner, session) = harness.owner().await;
    let (first, other) = (&harness.origins[owner], &harness.origins[1 - owner]);
    assert!(first.opens().iter().all(|open| !open.standby));
    let mut sent = Vec::new();
    first.set(Mode::Standby(7));
    send_until(&mut encoder, &mut sent, "media on standby", || {
        first.session(&session).frames.len() > 60
    })
    .await;
    first.kill();
    send_until(&mut encoder, &mut sent, "another origin", || {
        !other.session(&session).frames.is_empty()
    })
    .await;
    let reopened = other.opens().pop().unwrap();
    assert_eq!(
        (reopened.standby, reopened.timeline_offset_ms),
        (true, Some(7))
    );
}
