//! RelayService: who may write, and what becomes of frames.

use registry::{RedisConfig, RedisRegistry};

use super::*;
use crate::OutagePolicy;

#[tokio::test]
async fn a_grant_must_be_signed_fresh_and_for_this_publish() {
    let origin = start(config()).await;
    let good = grant("main", "s1");
    let refused = async |open: PublishOpen| {
        let refusal = origin.open(open).await.err().expect("a refusal");
        assert_refused(&refusal, Code::PermissionDenied, "GRANT_INVALID");
    };

    let foreign = GrantSigner::from_pkcs8(&GrantSigner::generate_pkcs8().unwrap()).unwrap();
    let mut open = origin.open_request(&good, 1, 1);
    open.signed_grant = foreign.sign(&good);
    refused(open).await;

    let mut open = origin.open_request(&good, 1, 1);
    open.session_id = "s2".to_owned();
    refused(open).await;

    let mut open = origin.open_request(&good, 1, 1);
    open.slot = 1;
    refused(open).await;

    let mut open = origin.open_request(&good, 1, 1);
    open.stream_id = stream_id("other").as_bytes().to_vec();
    refused(open).await;

    let disguised = Grant {
        stream: "other".to_owned(),
        ..good.clone()
    };
    refused(origin.open_request(&disguised, 1, 1)).await;

    let expired = Grant {
        expires_ms: now_ms() - 1,
        ..good.clone()
    };
    refused(origin.open_request(&expired, 1, 1)).await;

    let over = Grant {
        session_until_ms: now_ms() - 1,
        ..good.clone()
    };
    refused(origin.open_request(&over, 1, 1)).await;

    let mut reopened = origin.open_request(&expired, 1, 2);
    reopened.timeline_offset_ms = Some(0);
    assert!(
        origin.open(reopened).await.is_ok(),
        "expiry binds a session's first open alone"
    );
}

/// Its key's time may have changed since its grant was signed: the edge hears of that, and ends it.
#[tokio::test]
async fn a_session_that_was_accepted_is_ended_by_its_edge() {
    let origin = start(config()).await;
    let until_ms = now_ms() + 1500;
    let short = Grant {
        session_until_ms: until_ms,
        ..grant("main", "s1")
    };
    let mut publisher = origin
        .open(origin.open_request(&short, 1, 1))
        .await
        .unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    while now_ms() <= until_ms {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refused = origin.open(origin.open_request(&short, 2, 1)).await;
    let refusal = refused.err().expect("a refusal");
    assert_refused(&refusal, Code::PermissionDenied, "GRANT_INVALID");
    publisher.publish(&recording(1)).await;
    player.header().await;
    player.frames(12).await;
    let mut reopened = origin.open_request(&short, 1, 2);
    (reopened.timeline_offset_ms, reopened.first_sequence) = (Some(0), 12);
    let mut publisher = origin.open(reopened).await.unwrap();
    publisher.publish(&[keyframe(400)]).await;
    publisher.close("expired").await;
    while !matches!(player.next().await.unwrap(), subscribe_event::Event::End(_)) {}
}

#[tokio::test]
async fn an_open_must_be_well_formed() {
    let origin = start(config()).await;
    let good = grant("main", "s1");
    for break_it in [
        (|open| open.attempt = 0) as fn(&mut PublishOpen),
        |open| open.slot = 2,
        |open| open.stream_id = vec![1; 15],
        |open| open.broadcast_id = String::new(),
        |open| open.broadcast_id = "b".repeat(65),
        |open| open.session_id = "a b".to_owned(),
    ] {
        let mut open = origin.open_request(&good, 1, 1);
        break_it(&mut open);
        let refusal = origin.open(open).await.err().expect("a refusal");
        assert_refused(&refusal, Code::InvalidArgument, "OPEN_INVALID");
    }
    let open = origin.open_request(&good, now_ms() + 120_000, 1);
    let refusal = origin.open(open).await.err().expect("a refusal");
    assert_refused(&refusal, Code::FailedPrecondition, "EPOCH_IN_FUTURE");
}

#[tokio::test]
async fn only_a_higher_token_takes_a_stream_over() {
    let origin = start(config()).await;
    let mut first = origin.publish("main", "s1", 7, 2).await.unwrap();
    first.publish(&recording(1)).await;
    for (session_id, epoch, attempt) in [("s2", 6, 9), ("s1", 7, 1), ("s1", 7, 2)] {
        let refusal = origin
            .publish("main", session_id, epoch, attempt)
            .await
            .err()
            .expect("a refusal");
        assert_refused(&refusal, Code::FailedPrecondition, "FENCED");
        assert_eq!(proto::error::metadata(&refusal, "epoch").unwrap(), "7");
        assert_eq!(proto::error::metadata(&refusal, "attempt").unwrap(), "2");
    }

    let second = origin.publish("main", "s2", 8, 1).await.unwrap();
    let refusal = first.refusal().await;
    assert_refused(&refusal, Code::FailedPrecondition, "FENCED");
    assert_eq!(proto::error::metadata(&refusal, "epoch").unwrap(), "8");
    assert_eq!(second.accepted.next_sequence, 0);
    assert_eq!(
        second.accepted.timeline_offset_ms,
        9 * 40 + 1,
        "behind the last output"
    );
    let text = origin.metrics.encode();
    assert!(
        text.contains("headwater_origin_epoch_rejections_total 4"),
        "{text}"
    );
}

#[tokio::test]
async fn a_reopened_session_continues_without_duplicates() {
    let origin = start(config()).await;
    let frames = recording(2);
    let mut first = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    first.publish(&frames[..15]).await;
    drop(first);

    let mut open = origin.open_request(&grant("main", "s1"), 1, 2);
    open.timeline_offset_ms = Some(0);
    open.first_sequence = 2;
    let mut second = origin.open(open).await.unwrap();
    assert_eq!(second.accepted.next_sequence, 15);
    second.publish(&frames[2..]).await;
    assert_eq!(player.header().await.0, "s1");
    let mut got = player.frames(15).await;
    assert_eq!(player.header().await.0, "s1", "another token");
    got.extend(player.frames(frames.len() - 15).await);
    assert!(got.into_iter().eq((0..).zip(frames)));
    let text = origin.metrics.encode();
    assert!(text.contains("origin_duplicate_frames_total 13"), "{text}");
}

/// The edge holds less than a GOP of it any more, and the origin that had the rest is gone.
#[tokio::test]
async fn who_comes_to_a_session_that_begins_inside_of_a_gop_waits_for_a_keyframe() {
    let origin = start(config()).await;
    let mut open = origin.open_request(&grant("main", "s1"), 1, 2);
    (open.timeline_offset_ms, open.first_sequence) = (Some(0), 20);
    open.gap_before = true;
    let mut publisher = origin.open(open).await.unwrap();
    let frames = [inter(0), inter(40), keyframe(80), inter(120)];
    publisher.publish(&frames[..2]).await;
    let mut waited = origin.subscribe("main", lossless).await;
    publisher.publish(&frames[2..]).await;
    let mut came_later = origin.subscribe("main", lossless).await;
    for player in [&mut waited, &mut came_later] {
        player.header().await;
        assert_eq!(player.sequences(2).await, [22, 23]);
    }
}

#[tokio::test]
async fn a_session_that_comes_back_from_another_origin_leaves_a_gap() {
    let origin = start(config()).await;
    let mut first = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    first.publish(&recording(1)).await;

    // The second attempt was elsewhere, and what it brought there has left the edge's ring.
    let mut open = origin.open_request(&grant("main", "s1"), 1, 3);
    open.timeline_offset_ms = Some(0);
    open.first_sequence = 20;
    let mut second = origin.open(open).await.unwrap();
    second.publish(&[keyframe(800)]).await;
    player.header().await;
    player.frames(12).await;
    match player.next().await.unwrap() {
        subscribe_event::Event::Gap(gap) => {
            assert_eq!((gap.from_sequence, gap.to_sequence), (12, 20));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(player.header().await.1.len(), 2);
    assert_eq!(player.sequences(1).await, [20]);

    second.next_sequence += 1;
    second.send(&[inter(840)]).await;
    let refusal = second.refusal().await;
    assert_refused(&refusal, Code::InvalidArgument, "SEQUENCE_INVALID");
}

#[tokio::test]
async fn broken_batches_end_the_publish_alone() {
    let origin = start(config()).await;
    let mut neighbour = origin.publish("other", "s2", 1, 1).await.unwrap();
    let publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut batch = batches([(0, &keyframe(0))], Parts::Omitted).remove(0);
    batch.frames[0].kind = 9;
    send(&publisher.requests, publish_request::Request::Batch(batch)).await;
    let refusal = publisher.refusal().await;
    assert_refused(&refusal, Code::InvalidArgument, "FRAME_INVALID");
    neighbour.publish(&recording(1)).await;
}

#[tokio::test]
async fn a_body_that_contradicts_itself_is_passed_through() {
    let origin = start(config()).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    let broken = Frame::opaque(FrameKind::Video, 5, Bytes::from_static(&[0x17]));
    publisher.publish(std::slice::from_ref(&broken)).await;
    player.header().await;
    assert_eq!(player.frames(1).await, [(0, broken)]);
}

#[tokio::test]
async fn a_publisher_that_reads_no_answer_slows_nobody() {
    let origin = start(config()).await;
    let mut stalled = origin.publish("stalled", "s1", 1, 1).await.unwrap();
    let mut neighbour = origin.publish("main", "s2", 1, 1).await.unwrap();
    // Far more than the windows of one RPC and of the connection that both share.
    let large: Vec<_> = (0..24)
        .map(|time| video(0x17, time * 40, 2 * 1024 * 1024))
        .collect();
    for frames in large.chunks(4) {
        stalled.send(frames).await;
        neighbour.publish(&recording(1)).await;
    }
    stalled.acknowledged().await;
}

#[tokio::test]
async fn a_spent_budget_refuses_new_publishes_and_keeps_old_ones() {
    let mut config = config();
    config.limits.process_bytes_max = 1024 * 1024;
    let origin = start(config).await;
    let mut first = origin.publish("main", "s1", 1, 1).await.unwrap();
    for time in 0..20 {
        first.publish(&[video(0x17, time * 40, 100_000)]).await;
    }
    let refusal = origin.publish("other", "s2", 1, 1).await.err().unwrap();
    assert_refused(&refusal, Code::ResourceExhausted, "PROCESS_BUDGET");
    first.publish(&recording(1)).await;
    first.close("done").await;
    eventually("the memory is free again", async || {
        origin.publish("other", "s2", 1, 1).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_is_not_held_is_fenced_by_the_registry() {
    let origin = start(config()).await;
    let epoch = ownership::claim(&origin.registry, "main", "s9", "elsewhere").await;
    let refusal = origin
        .publish("main", "s1", epoch - 1, 1)
        .await
        .err()
        .unwrap();
    assert_refused(&refusal, Code::FailedPrecondition, "FENCED");
    assert_eq!(
        proto::error::metadata(&refusal, "epoch").unwrap(),
        epoch.to_string()
    );
    assert!(origin.publish("main", "s9", epoch, 1).await.is_ok());
}

/// A registry that nobody answers for.
async fn unreachable_registry() -> Registry {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut config = RedisConfig::from_url(&url).unwrap();
    config.timeout = Duration::from_millis(200);
    Registry::Redis(RedisRegistry::open(&config).unwrap())
}

#[tokio::test]
async fn without_a_registry_the_outage_policy_decides() {
    let origin = start_with(config(), unreachable_registry().await).await;
    let before = now_ms();
    let mut publisher = origin.publish("main", "s1", 0, 1).await.unwrap();
    let granted = publisher.accepted.epoch;
    assert!(granted >= before, "keep: the origin grants an epoch");
    publisher.publish(&recording(1)).await;
    assert!(origin.publish("main", "s1", granted, 2).await.is_ok());
    let next = origin.publish("main", "s2", 0, 1).await.unwrap();
    assert!(next.accepted.epoch > granted);

    let mut closed = config();
    closed.outage_policy = OutagePolicy::FailClosed;
    let origin = start_with(closed, unreachable_registry().await).await;
    for epoch in [0, 5] {
        let refusal = origin.publish("main", "s1", epoch, 1).await.err().unwrap();
        assert_refused(&refusal, Code::Unavailable, "REGISTRY_UNAVAILABLE");
    }
}
