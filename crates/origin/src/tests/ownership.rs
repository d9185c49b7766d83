//! What the registry and a drain do to streams.

use registry::{Claim, ClaimOutcome, EdgeName, LeaseStats, Policy, SessionId, Slot, Standing};

use super::*;

/// Takes a stream in the registry; its epoch.
pub(super) async fn claim(
    registry: &Registry,
    stream: &str,
    session_id: &str,
    origin: &str,
) -> u64 {
    let claim = Claim {
        stream: stream_id(stream),
        slot: Slot::PRIMARY,
        session: SessionId::new(session_id).unwrap(),
        edge: EdgeName::new("edge-0").unwrap(),
        candidate: OriginName::new(origin).unwrap(),
        announced: vec![OriginName::new(origin).unwrap()],
        broadcast_id: "b1".to_owned(),
        policy: Policy::Takeover,
        standing: Standing::default(),
        patient: false,
        floor: 0,
        home_ttl: Duration::from_secs(60),
        stats: LeaseStats::default(),
    };
    match registry.claim(&claim).await.unwrap() {
        ClaimOutcome::Granted { epoch, .. } => epoch,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_another_origin_owns_moves() {
    let origin = start(config()).await;
    let epoch = claim(&origin.registry, "main", "s1", "origin-0").await;
    let mut publisher = origin.publish("main", "s1", epoch, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    publisher.publish(&recording(1)).await;

    let higher = claim(&origin.registry, "main", "s2", "elsewhere").await;
    assert!(higher > epoch);
    player.header().await;
    player.frames(12).await;
    match player.next().await.unwrap() {
        subscribe_event::Event::Moved(moved) => assert_eq!(moved.origin, "elsewhere"),
        other => panic!("{other:?}"),
    }
    let refusal = publisher.refusal().await;
    assert_refused(&refusal, Code::FailedPrecondition, "FENCED");
}

#[tokio::test]
async fn a_kick_in_the_registry_ends_the_publish() {
    let origin = start(config()).await;
    let epoch = claim(&origin.registry, "main", "s1", "origin-0").await;
    let publisher = origin.publish("main", "s1", epoch, 1).await.unwrap();
    let (stream, slot) = (stream_id("main"), Slot::PRIMARY);
    origin.registry.kick(stream, slot, None).await.unwrap();
    let refusal = publisher.refusal().await;
    assert_refused(&refusal, Code::FailedPrecondition, "FENCED");
    let refused = origin.publish("main", "s1", epoch, 2).await.err().unwrap();
    assert_refused(&refused, Code::FailedPrecondition, "FENCED");
}

#[tokio::test]
async fn an_origin_is_announced_while_it_runs() {
    let origin = start(config()).await;
    let registry = origin.registry.clone();
    eventually("announced", async || {
        let origins = registry.origins().await.unwrap();
        origins
            .iter()
            .any(|origin| origin.relay_address == "origin-0.test:7444" && !origin.draining)
    })
    .await;
    origin.shutdown.drain();
    let ended = tokio::time::timeout(PATIENCE, origin.ended).await;
    ended.expect("nothing holds it up").unwrap().unwrap();
    assert_eq!(registry.origins().await.unwrap(), []);
}

#[tokio::test]
async fn an_origin_that_was_given_notice_says_so_and_still_takes_publishers() {
    let origin = start(config()).await;
    origin.shutdown.give_notice();
    eventually("announced as draining", async || {
        let origins = origin.registry.origins().await.unwrap();
        origins.iter().any(|origin| origin.draining)
    })
    .await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    publisher.publish(&recording(1)).await;
    player.header().await;
    player.frames(12).await;
    origin.shutdown.drain();
    let refused = origin.publish("other", "s2", 1, 1).await;
    assert!(refused.is_err(), "a drain takes none");
}

#[tokio::test]
async fn a_drain_sends_publishers_and_readers_elsewhere() {
    let origin = start(config()).await;
    let mut publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let mut player = origin.subscribe("main", lossless).await;
    publisher.publish(&recording(1)).await;
    player.header().await;
    player.frames(12).await;

    origin.shutdown.drain();
    match next_answer(&mut publisher.answers).await.unwrap() {
        Some(publish_response::Response::Goodbye(goodbye)) => {
            assert_eq!(goodbye.reason, "draining");
        }
        other => panic!("{other:?}"),
    }
    // Until the edge has moved the session, its frames still arrive.
    publisher.publish(&[keyframe(400)]).await;
    assert_eq!(player.sequences(1).await, [12]);
    drop(publisher);
    match player.next().await.unwrap() {
        subscribe_event::Event::Moved(moved) => assert_eq!(moved.origin, ""),
        other => panic!("{other:?}"),
    }
    drop(player);
    let ended = tokio::time::timeout(PATIENCE, origin.ended).await;
    ended.expect("nothing holds it up").unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_waits_for_nobody() {
    let origin = start(config()).await;
    let _publisher = origin.publish("main", "s1", 1, 1).await.unwrap();
    let _player = origin.subscribe("main", lossless).await;
    origin.shutdown.stop();
    let ended = tokio::time::timeout(PATIENCE, origin.ended).await;
    ended.expect("a stop stops").unwrap().unwrap();
}
