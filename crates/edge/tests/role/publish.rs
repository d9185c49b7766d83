//! Who may publish, and what of it reaches the origin.

use std::time::{Duration, Instant};

use edge::OutagePolicy;
use proto::internal::v1::authorize_request::Credential;
use registry::{
    ClaimOutcome, Origin, OriginName, Policy, RedisConfig, RedisRegistry, Registry, Slot, StreamId,
};

use crate::{
    encoder::{Encoder, Said, media},
    fake_control::DENIED,
    fake_origin::Mode,
    harness::{Harness, assert_same, found, in_time, logged, until},
};

#[tokio::test]
async fn a_publish_reaches_the_origin_byte_for_byte() {
    let harness = Harness::start(1).await;
    let sent = media(0..100, 3000);
    let mut encoder = Encoder::publish(harness.address, "live", "good-bytes").await;
    let (_, session) = harness.owner().await;
    encoder.send_all(&sent).await;
    in_time("finish", encoder.finish()).await;

    let origin = &harness.origins[0];
    until("the close", || origin.session(&session).closed.is_some()).await;
    let log = origin.session(&session);
    assert_same(&log.frames, 0, &sent);
    assert_eq!(log.closed.as_deref(), Some("client_close"));
    harness.no_lease().await;
    assert_eq!(
        harness.metric("headwater_sessions_ended_total{reason=\"client_close\"}"),
        1
    );
}

#[tokio::test]
async fn a_message_larger_than_a_batch_arrives_whole() {
    let harness = Harness::start(1).await;
    let sent = media(0..3, 5 * 1024 * 1024);
    let mut encoder = Encoder::publish(harness.address, "live", "good-large").await;
    let (_, session) = harness.owner().await;
    encoder.send_all(&sent).await;
    in_time("finish", encoder.finish()).await;
    let origin = &harness.origins[0];
    until("the close", || origin.session(&session).closed.is_some()).await;
    assert_same(&origin.session(&session).frames, 0, &sent);
}

#[tokio::test]
async fn control_hears_who_wants_to_publish_what() {
    let harness = Harness::start(1).await;
    let encoder = Encoder::publish(harness.address, "live/inst", "good-asked").await;
    let request = harness.control.requests().remove(0);
    assert_eq!(request.app, "live/inst");
    assert_eq!(request.encoder, "test");
    assert_eq!(request.server_name, "localhost");
    assert!(
        request.client_address.starts_with("127.0.0.1:"),
        "{}",
        request.client_address
    );
    // Not with assert_eq: a credential has no Debug.
    assert!(request.credential == Some(Credential::StreamKey("good-asked".to_owned())));
    assert_eq!(request.session_id, harness.lease().await.session.as_str());
    encoder.finish().await;
}

#[tokio::test]
async fn one_trace_goes_with_the_question_to_control_and_the_open_at_the_origin() {
    let harness = Harness::start(1).await;
    let encoder = Encoder::publish(harness.address, "live", "good-traced").await;
    let asked = harness.control.traceparents().remove(0);
    let opened = harness.origins[0].opens().remove(0).traceparent;
    // version-trace-parent-flags
    let trace_id = |traceparent: &str| traceparent.split('-').nth(1).map(str::to_owned);
    let trace_id = (trace_id(&asked), trace_id(&opened));
    let (Some(asked), Some(opened)) = trace_id else {
        panic!("no trace: {trace_id:?}");
    };
    assert_eq!(asked, opened);
    assert!(asked.len() == 32 && asked != "0".repeat(32), "{asked}");
    let line = format!("trace_id=\"{asked}\"");
    until("the log line", || logged().contains(&line)).await;
    encoder.finish().await;
}

#[tokio::test]
async fn an_encoder_that_says_farewell_in_two_steps_closes_first() {
    let harness = Harness::start_with(1, |config| {
        config.connections.linger = Duration::from_secs(60);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-polite").await;
    encoder.send_fc_unpublish("good-polite").await;
    let ended = "headwater_sessions_ended_total{reason=\"client_close\"}";
    until("the session's end", || harness.metric(ended) == 1).await;
    let said = tokio::time::timeout(Duration::from_millis(300), encoder.said());
    assert!(said.await.is_err(), "deleteStream is still to come");
    // It may say that, and closes; only then do we.
    in_time("close", encoder.finish()).await;
    until("nobody", || {
        harness.metric("headwater_connections_active") == 0
    })
    .await;
}

#[tokio::test]
async fn a_denial_reaches_the_encoder_in_words() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::connect(harness.address, "live", "wrong").await;
    assert_eq!(encoder.said().await, Said::Rejected(DENIED.to_owned()));
    assert_eq!(in_time("close", encoder.said()).await, Said::Closed);
    assert!(harness.leases().await.is_empty());
    assert!(harness.origins[0].opens().is_empty());
}

#[tokio::test]
async fn a_control_that_does_not_answer_is_a_refusal_in_time() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::connect(harness.address, "live", "hang-on").await;
    let asked = Instant::now();
    let Said::Rejected(description) = in_time("refusal", encoder.said()).await else {
        panic!("not refused");
    };
    let elapsed = asked.elapsed();
    println!("control does not answer: refused after {elapsed:?} (goal 2.5 s)");
    assert!(elapsed < Duration::from_millis(2500) * 5);
    assert_eq!(
        description,
        "The service is not available right now, please try again"
    );
}

#[tokio::test]
async fn without_control_nobody_publishes_and_sessions_go_on() {
    let harness = Harness::start(1).await;
    let sent = media(0..50, 100);
    let mut live = Encoder::publish(harness.address, "live", "good-before").await;
    let (_, session) = harness.owner().await;
    live.send_all(&sent[..60]).await;
    harness.control_shutdown.stop();
    let mut late = Encoder::connect(harness.address, "live", "good-late").await;
    assert!(matches!(
        in_time("refusal", late.said()).await,
        Said::Rejected(_)
    ));
    live.send_all(&sent[60..]).await;
    live.finish().await;
    let origin = &harness.origins[0];
    until("the close", || origin.session(&session).closed.is_some()).await;
    assert_same(&origin.session(&session).frames, 0, &sent);
}

#[tokio::test]
async fn an_encoder_that_leaves_while_control_decides_leaves_no_lease() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::connect(harness.address, "live", "hang-on").await;
    tokio::select! {
        said = encoder.said() => panic!("no answer yet: {said:?}"),
        () = until("the question", || !harness.control.requests().is_empty()) => {}
    }
    drop(encoder);
    let aborted =
        "headwater_publish_attempts_total{app=\"\",outcome=\"refused\",reason=\"aborted\"}";
    until("the abort", || harness.metric(aborted) == 1).await;
    assert!(harness.leases().await.is_empty());
}

#[tokio::test]
async fn an_encoder_that_leaves_while_the_origin_opens_leaves_no_lease() {
    let harness = Harness::start(1).await;
    harness.origins[0].set(Mode::Stall);
    let mut encoder = Encoder::connect(harness.address, "live", "good-gone").await;
    tokio::select! {
        said = encoder.said() => panic!("no answer yet: {said:?}"),
        () = found("the lease", async || (harness.leases().await.len() == 1).then_some(())) => {}
    }
    drop(encoder);
    harness.no_lease().await;
}

#[tokio::test]
async fn a_lost_encoder_leaves_the_stream_open_and_no_lease() {
    let harness = Harness::start(1).await;
    let sent = media(0..20, 100);
    let mut encoder = Encoder::publish(harness.address, "live", "good-lost").await;
    let (_, session) = harness.owner().await;
    encoder.send_all(&sent).await;
    drop(encoder);
    let origin = &harness.origins[0];
    until("the end", || origin.session(&session).lost).await;
    let log = origin.session(&session);
    assert_same(&log.frames, 0, &sent);
    assert_eq!(log.closed, None, "the publisher may come back");
    harness.no_lease().await;
}

#[tokio::test]
async fn an_encoder_that_is_lost_with_frames_on_their_way_is_not_held_against_the_origin() {
    let harness = Harness::start_with(2, |config| {
        config.relay.finish_timeout = Duration::from_secs(60);
    })
    .await;
    let sent = media(0..20, 1000);
    let mut encoder = Encoder::publish(harness.address, "live", "good-killed-encoder").await;
    let (owner, session) = harness.owner().await;
    let origin = &harness.origins[owner];
    origin.set(Mode::Slow(Duration::from_millis(50)));
    encoder.send_all(&sent).await;
    drop(encoder);
    harness.no_lease().await;
    assert_same(&origin.session(&session).frames, 0, &sent);
    let reopened = harness.metrics.encode();
    assert!(
        !reopened.contains("headwater_relay_reopens_total{"),
        "{reopened}"
    );
}

#[tokio::test]
async fn a_takeover_fences_the_first_publisher() {
    let harness = Harness::start(1).await;
    let mut first = Encoder::publish(harness.address, "live", "takeover-slot").await;
    let (_, first_session) = harness.owner().await;
    first.send_all(&media(0..10, 100)).await;
    let mut second = Encoder::publish(harness.address, "live", "takeover-slot").await;
    assert_eq!(
        in_time("fence", first.said()).await,
        Said::Rejected("Another publisher took over this stream".to_owned())
    );
    let (_, second_session) = harness.owner().await;
    assert_ne!(first_session, second_session);
    let sent = media(0..10, 100);
    second.send_all(&sent).await;
    second.finish().await;
    let origin = &harness.origins[0];
    until("the close", || {
        origin.session(&second_session).closed.is_some()
    })
    .await;
    assert_same(&origin.session(&second_session).frames, 0, &sent);
    assert_eq!(origin.session(&first_session).closed, None);
    assert_eq!(harness.metric("headwater_ownership_fenced_total"), 1);
}

#[tokio::test]
async fn a_stream_with_a_publisher_is_refused_where_the_policy_says_so() {
    let harness = Harness::start(1).await;
    let first = Encoder::publish(harness.address, "live", "reject-slot").await;
    let mut second = Encoder::connect(harness.address, "live", "reject-slot").await;
    assert_eq!(
        second.said().await,
        Said::Rejected("This stream is already being published".to_owned())
    );
    first.finish().await;
    harness.no_lease().await;
}

#[tokio::test]
async fn a_higher_epoch_at_the_origin_becomes_the_floor_of_the_next_claim() {
    let harness = Harness::start(1).await;
    let seen = crate::fake_control::unix_ms() + 20_000;
    harness.origins[0].has_seen_epoch(seen);
    let encoder = Encoder::publish(harness.address, "live", "good-floor").await;
    assert_eq!(harness.origins[0].opens().len(), 2);
    assert!(harness.lease().await.epoch > seen);
    encoder.finish().await;
}

#[tokio::test]
async fn an_origin_that_refuses_is_passed_over() {
    let harness = Harness::start(3).await;
    for refusing in &harness.origins[..2] {
        refusing.set(Mode::Refuse);
    }
    let encoder = Encoder::publish(harness.address, "live", "good-second").await;
    assert_eq!(harness.owner().await.0, 2);
    encoder.finish().await;
}

#[tokio::test]
async fn without_an_origin_there_is_a_readable_refusal() {
    let harness = Harness::start(0).await;
    let mut encoder = Encoder::connect(harness.address, "live", "good-nowhere").await;
    assert!(matches!(encoder.said().await, Said::Rejected(_)));
    assert!(
        harness
            .readiness
            .missing()
            .iter()
            .any(|missing| missing.contains("origin"))
    );
}

#[tokio::test]
async fn a_revocation_ends_the_sessions_of_its_key() {
    let harness = Harness::start(1).await;
    let mut revoked = Encoder::publish(harness.address, "live", "good-revoked").await;
    let (_, session) = harness.owner().await;
    let other = Encoder::publish(harness.address, "live", "good-other").await;
    revoked.send_all(&media(0..10, 100)).await;
    let asked = Instant::now();
    harness.control.revoke_stream_key("key-of-revoked");
    assert!(matches!(
        in_time("end", revoked.said()).await,
        Said::Rejected(_)
    ));
    let elapsed = asked.elapsed();
    println!("revoked after {elapsed:?} (goal 2 s)");
    assert!(elapsed < Duration::from_secs(2) * 5);
    assert_eq!(in_time("close", revoked.said()).await, Said::Closed);
    let origin = &harness.origins[0];
    until("the close", || {
        origin.session(&session).closed.as_deref() == Some("kicked")
    })
    .await;
    until("the metric", || {
        harness.metric("headwater_sessions_ended_total{reason=\"kicked\"}") == 1
    })
    .await;
    assert_eq!(harness.lease().await.stats.name, "other");
    other.finish().await;
}

#[tokio::test]
async fn a_termination_ends_its_session() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-terminated").await;
    harness
        .control
        .terminate(harness.lease().await.session.as_str());
    assert!(matches!(
        in_time("end", encoder.said()).await,
        Said::Rejected(_)
    ));
    harness.no_lease().await;
}

#[tokio::test]
async fn a_revocation_that_overtakes_the_grant_ends_the_publish() {
    let harness = Harness::start(1).await;
    harness.control.revoke_before_the_next_answer("key-of-late");
    let mut encoder = Encoder::connect(harness.address, "live", "good-late").await;
    assert!(matches!(
        in_time("refusal", encoder.said()).await,
        Said::Rejected(_)
    ));
    harness.no_lease().await;
}

#[tokio::test]
async fn a_kick_in_the_registry_ends_the_session_at_its_renewal() {
    let harness = Harness::start_with(1, |config| {
        config.relay.renew_period = Duration::from_millis(200);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-kicked").await;
    let stream = StreamId::derive("default", "live", "kicked");
    harness
        .registry
        .kick(stream, Slot::PRIMARY, None)
        .await
        .unwrap();
    assert_eq!(
        in_time("fence", encoder.said()).await,
        Said::Rejected("Another publisher took over this stream".to_owned())
    );
    harness.no_lease().await;
}

/// An edge where a fenced session waits for its revocation for as long as a test may take.
async fn patient_with_revocations() -> Harness {
    Harness::start_with(1, |config| {
        config.relay.renew_period = Duration::from_millis(100);
        config.relay.fenced_grace = Duration::from_secs(60);
    })
    .await
}

/// The session was fenced, and now hears why.
async fn is_ended_by_its_owner(harness: &Harness, session_id: &str, encoder: &mut Encoder) {
    harness.control.terminate(session_id);
    assert_eq!(
        in_time("end", encoder.said()).await,
        Said::Rejected("This stream was ended by its owner".to_owned())
    );
    until("the metric", || {
        harness.metric("headwater_sessions_ended_total{reason=\"kicked\"}") == 1
    })
    .await;
    assert_eq!(harness.metric("headwater_ownership_fenced_total"), 0);
}

#[tokio::test]
async fn a_kick_that_overtakes_its_termination_ends_in_the_terminations_words() {
    let harness = patient_with_revocations().await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-ended").await;
    let lease = harness.lease().await;
    let session = lease.session.clone();
    let kick = harness
        .registry
        .kick(lease.stream, lease.slot, Some(&session));
    kick.await.unwrap();
    until("a renewal that was fenced", || {
        harness.metric("headwater_ownership_renewals_total{outcome=\"fenced\"}") > 0
    })
    .await;
    is_ended_by_its_owner(&harness, session.as_str(), &mut encoder).await;
}

#[tokio::test]
async fn a_fence_at_the_origin_that_overtakes_its_termination_ends_in_the_terminations_words() {
    let harness = patient_with_revocations().await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-fenced").await;
    let lease = harness.lease().await;
    harness.origins[0].fence(lease.stream.as_bytes());
    let said = tokio::time::timeout(Duration::from_millis(300), encoder.said());
    assert!(said.await.is_err(), "nothing explains it yet");
    is_ended_by_its_owner(&harness, lease.session.as_str(), &mut encoder).await;
}

#[tokio::test]
async fn renewals_tell_what_sessions_list_shows() {
    let harness = Harness::start_with(1, |config| {
        config.relay.renew_period = Duration::from_millis(100);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-listed").await;
    encoder.send_all(&media(0..10, 1000)).await;
    for _ in 0..1000 {
        let stats = harness.lease().await.stats;
        if stats.received_bytes > 0 && stats.video_codec == "avc1" && stats.audio_codec == "mp4a" {
            assert_eq!(
                (stats.tenant.as_str(), stats.app.as_str()),
                ("default", "live")
            );
            assert_eq!(stats.stream_key_id, "key-of-listed");
            let [audio, video] = stats.tracks.try_into().unwrap();
            assert_eq!(audio.codec_string, "mp4a.40.2");
            assert_eq!((audio.sample_rate, audio.channels), (44_100, 2));
            assert_eq!((video.video, &*video.codec_string), (true, ""));
            assert!(logged().contains("mp4a.40.2 44100 Hz 2 ch"));
            return encoder.finish().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lease never told the codecs");
}

#[tokio::test]
async fn a_lost_lease_heals() {
    let harness = Harness::start_with(1, |config| {
        config.relay.renew_period = Duration::from_millis(100);
    })
    .await;
    let encoder = Encoder::publish(harness.address, "live", "good-healed").await;
    let lease = harness.lease().await;
    let released = harness
        .registry
        .release(lease.stream, lease.slot, &lease.session, lease.epoch);
    assert!(released.await.unwrap());
    for _ in 0..1000 {
        if !harness.leases().await.is_empty() {
            assert_eq!(harness.lease().await.session, lease.session);
            return encoder.finish().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lease did not heal");
}

#[tokio::test]
async fn a_drain_lets_sessions_finish_and_takes_no_new_ones() {
    let harness = Harness::start(1).await;
    let sent = media(0..40, 100);
    let mut encoder = Encoder::publish(harness.address, "live", "good-drained").await;
    let (_, session) = harness.owner().await;
    encoder.send_all(&sent[..30]).await;
    harness.shutdown.drain();
    until("no listener", || {
        std::net::TcpStream::connect_timeout(&harness.address, Duration::from_secs(1)).is_err()
    })
    .await;
    assert!(
        harness
            .readiness
            .missing()
            .iter()
            .any(|missing| missing.contains("draining"))
    );
    encoder.send_all(&sent[30..]).await;
    encoder.finish().await;
    in_time("the edge's end", harness.edge).await.unwrap();
    let log = harness.origins[0].session(&session);
    assert_same(&log.frames, 0, &sent);
    assert!(harness.registry.leases().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stop_ends_sessions_and_gives_their_leases_back() {
    let harness = Harness::start(1).await;
    let sent = media(0..40, 100);
    let mut encoder = Encoder::publish(harness.address, "live", "good-stopped").await;
    let (_, session) = harness.owner().await;
    encoder.send_all(&sent).await;
    let origin = harness.origins[0].clone();
    until("the frames", || {
        origin.session(&session).frames.len() == sent.len()
    })
    .await;
    harness.shutdown.stop();
    assert!(matches!(
        in_time("end", encoder.said()).await,
        Said::Rejected(_)
    ));
    in_time("the edge's end", harness.edge).await.unwrap();
    // The encoder was told to come back: the stream waits for it.
    assert_eq!(origin.session(&session).closed, None);
    assert!(harness.registry.leases().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_stream_key_is_in_no_log_line() {
    let harness = Harness::start(1).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-canary5ecret").await;
    encoder.send_all(&media(0..10, 100)).await;
    let session = harness.lease().await.session;
    encoder.finish().await;
    let mut denied = Encoder::connect(harness.address, "live", "wrong-canary5ecret").await;
    assert!(matches!(denied.said().await, Said::Rejected(_)));
    harness.no_lease().await;
    until("the canary", || logged().contains(session.as_str())).await;
    let log = logged();
    // The name of the stream is public, the key is not.
    assert!(!log.contains("good-canary5ecret"));
    assert!(!log.contains("wrong-canary5ecret"));
}

/// A registry that nobody serves.
fn registry_down() -> Registry {
    let mut config = RedisConfig::from_url("redis://127.0.0.1:1").unwrap();
    config.timeout = Duration::from_millis(200);
    Registry::Redis(RedisRegistry::open(&config).unwrap())
}

#[tokio::test]
async fn with_the_registry_down_the_origin_grants_the_epoch() {
    let harness = Harness::start_on(registry_down(), 1, |_| {}).await;
    let sent = media(0..10, 100);
    let mut encoder = Encoder::publish(harness.address, "live", "good-outage").await;
    encoder.send_all(&sent).await;
    encoder.finish().await;
    let open = harness.origins[0].opens().remove(0);
    assert_eq!(open.epoch, 0);
    let origin = &harness.origins[0];
    until("the close", || {
        origin.session(&open.session_id).closed.is_some()
    })
    .await;
    assert_same(&origin.session(&open.session_id).frames, 0, &sent);
}

#[tokio::test]
async fn the_lease_names_the_origin_as_it_names_itself() {
    let harness = Harness::start_with(0, |config| {
        // What is to be renewed for it is not made up for in time.
        config.relay.renew_period = Duration::from_secs(3600);
    })
    .await;
    let origin = harness.unannounced_origin("its-own-name").await;
    let known_as = Origin {
        name: OriginName::new(&origin.address).unwrap(),
        ..origin.announcement()
    };
    harness.registry.announce(&known_as).await.unwrap();
    until("an origin", || harness.readiness.missing().is_empty()).await;
    let _encoder = Encoder::publish(harness.address, "live", "good-named").await;
    let named = found("a lease that names it", async || {
        (harness.lease().await.origin == origin.name).then_some(())
    });
    named.await;
}

#[tokio::test]
async fn with_the_registry_down_fail_closed_refuses() {
    let harness = Harness::start_on(registry_down(), 1, |config| {
        config.outage_policy = OutagePolicy::FailClosed;
    })
    .await;
    let mut encoder = Encoder::connect(harness.address, "live", "good-outage").await;
    assert!(matches!(encoder.said().await, Said::Rejected(_)));
    assert!(harness.origins[0].opens().is_empty());
}

#[tokio::test]
async fn a_claim_of_another_edge_takes_over_at_the_renewal() {
    let harness = Harness::start_with(1, |config| {
        config.relay.renew_period = Duration::from_millis(200);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-elsewhere").await;
    let claim = harness.claim_elsewhere("elsewhere", Policy::Takeover);
    let granted = harness.registry.claim(&claim).await.unwrap();
    assert!(matches!(
        granted,
        ClaimOutcome::Granted {
            previous: Some(_),
            ..
        }
    ));
    assert!(matches!(
        in_time("fence", encoder.said()).await,
        Said::Rejected(_)
    ));
    until("the metric", || {
        harness.metric("headwater_ownership_fenced_total") == 1
    })
    .await;
    assert_eq!(
        harness.lease().await.session.as_str(),
        "another",
        "it is not ours to release"
    );
}
