//! What an edge is told to do, and how far it may be taken back.

use std::time::{Duration, Instant};

use edge::Config;
use futures_util::future::join_all;
use proto::internal::v1::{DrainOrder as DrainMessage, EdgeCommand, UndrainOrder, edge_command};
use registry::{
    ClaimOutcome, Command, CommandId, DrainOrder, Edge, EdgeName, EdgePhase, Policy, SessionId,
    Slot, StreamId,
};
use runtime::shutdown::DrainTimes;
use tokio::task::JoinSet;

use crate::{
    encoder::{Encoder, Said, media},
    harness::{Harness, found, in_time, until},
};

const REFUSED: &str = "The service is not available right now, please try again";

fn quick(config: &mut Config) {
    config.host = "edge-0.example".to_owned();
    config.drain.reconnect_jitter = Duration::from_millis(50);
    config.drain.keyframe_wait = Duration::from_millis(300);
    config.drain_times = DrainTimes {
        notice: Duration::ZERO,
        timeout: Duration::from_secs(60),
    };
}

fn drain(timeout: Option<Duration>) -> Command {
    Command::Drain(DrainOrder {
        timeout,
        reconnect: true,
        reason: "a new kernel".to_owned(),
    })
}

async fn announced(harness: &Harness) -> Edge {
    found("the announcement", async || {
        let mut edges = harness.registry.edges().await.unwrap();
        assert!(edges.len() <= 1, "{edges:?}");
        edges.pop()
    })
    .await
}

async fn announced_as(harness: &Harness, phase: EdgePhase) -> Edge {
    found("the phase", async || {
        let edge = announced(harness).await;
        (edge.phase == phase).then_some(edge)
    })
    .await
}

async fn name(harness: &Harness) -> EdgeName {
    announced(harness).await.name
}

async fn tell(harness: &Harness, command: Command) {
    let name = name(harness).await;
    harness.registry.command(&name, &command).await.unwrap();
}

async fn obeyed(harness: &Harness, kind: &str, outcome: &str) {
    let labels = format!("{{kind=\"{kind}\",outcome=\"{outcome}\"}}");
    until(&format!("{kind} {outcome}"), || {
        harness.metric(&format!("headwater_edge_commands_total{labels}")) > 0
    })
    .await;
}

fn phase(harness: &Harness) -> i64 {
    harness.metric("headwater_edge_drain_phase")
}

async fn refused(harness: &Harness, stream_key: &str) {
    let mut encoder = Encoder::connect(harness.address, "live", stream_key).await;
    let said = in_time("the refusal", encoder.said()).await;
    assert_eq!(said, Said::Rejected(REFUSED.to_owned()));
    let refusals =
        "headwater_publish_attempts_total{app=\"\",outcome=\"refused\",reason=\"draining\"}";
    until("the count", || harness.metric(refusals) > 0).await;
}

#[tokio::test]
async fn an_ordered_drain_refuses_publishers_and_is_taken_back() {
    let harness = Harness::start_with(1, quick).await;
    let mut capable = Encoder::mobile(harness.address, "live", "good-asked").await;
    assert_eq!(capable.said().await, Said::Started);
    tell(&harness, drain(None)).await;
    let asked = in_time("the request", capable.said()).await;
    assert_eq!(asked, Said::AskedToReconnect);
    let told = harness.readiness.missing();
    let [told] = &told[..] else {
        panic!("one line: {told:?}");
    };
    println!("{told}");
    assert!(
        told.starts_with("drain: draining on order (a new kernel): 1 sessions, the last ends in "),
        "{told}"
    );
    let edge = announced_as(&harness, EdgePhase::Draining).await;
    assert_eq!(
        (edge.drain_reason.as_str(), edge.stopping),
        ("a new kernel", false)
    );
    assert!(edge.drain_until_ms.is_some());
    refused(&harness, "good-late").await;
    let claim = harness.claim_elsewhere("asked", Policy::Reject);
    let outcome = harness.registry.claim(&claim).await.unwrap();
    assert_eq!(outcome, ClaimOutcome::Leaving);

    tell(&harness, Command::Undrain).await;
    until("the edge is ready", || {
        harness.readiness.missing().is_empty() && phase(&harness) == 0
    })
    .await;
    let back = Encoder::publish(harness.address, "live", "good-back").await;
    // It stays, and its key's policy decides again who may take its place.
    capable.send_all(&media(0..4, 100)).await;
    found("the lease", async || {
        let outcome = harness.registry.claim(&claim).await.unwrap();
        matches!(outcome, ClaimOutcome::Refused { .. }).then_some(())
    })
    .await;
    let edge = announced_as(&harness, EdgePhase::Serving).await;
    assert_eq!(
        (edge.drain_until_ms, edge.drain_reason.as_str()),
        (None, "")
    );
    drop((capable, back));
}

#[tokio::test]
async fn nobody_more_leaves_once_a_drain_is_taken_back() {
    let harness = Harness::start_with(1, |config| {
        quick(config);
        config.drain.keyframe_wait = Duration::from_secs(10);
    })
    .await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-stays").await;
    encoder.send_all(&media(0..2, 100)).await;
    // It is to be closed at its next keyframe, which does not come.
    tell(&harness, drain(Some(Duration::from_secs(6)))).await;
    until("the drain", || phase(&harness) == 2).await;
    // From a quarter before its end it is told to close; nothing shows that until it does.
    tokio::time::sleep(Duration::from_millis(4_700)).await;
    tell(&harness, Command::Undrain).await;
    until("the edge is ready", || phase(&harness) == 0).await;
    // Through the end that was, and with keyframes.
    for frames in media(2..140, 100).chunks(2) {
        encoder.send_all(frames).await;
        // As an encoder in real time.
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(harness.lease().await.stats.name, "stays");
    let said = tokio::time::timeout(Duration::from_millis(50), encoder.said()).await;
    assert!(said.is_err(), "{said:?}");
}

#[tokio::test]
async fn an_order_for_at_once_closes_everybody_and_the_edge_stays_empty() {
    let harness = Harness::start_with(1, quick).await;
    let mut encoder = Encoder::publish(harness.address, "live", "good-closed").await;
    let began = Instant::now();
    tell(&harness, drain(Some(Duration::ZERO))).await;
    let said = in_time("the close", encoder.said()).await;
    println!("closed after {:?}", began.elapsed());
    let told = "The server is restarting, please reconnect".to_owned();
    assert_eq!(said, Said::Rejected(told));
    let edge = announced_as(&harness, EdgePhase::Empty).await;
    assert_eq!(edge.sessions, 0);
    assert_eq!(phase(&harness), 3);
    refused(&harness, "good-later").await;
    assert!(
        !harness.edge.is_finished(),
        "its process was not told to end"
    );
    tell(&harness, Command::Undrain).await;
    until("the edge is ready", || {
        harness.readiness.missing().is_empty()
    })
    .await;
    Encoder::publish(harness.address, "live", "good-again").await;
}

#[tokio::test]
async fn an_edge_is_empty_whoever_goes_on_guessing_there() {
    let harness = Harness::start_with(1, quick).await;
    let address = harness.address;
    let guess = async move || {
        let mut encoder = Encoder::connect(address, "live", "guess").await;
        encoder.said().await
    };
    // Past what is asked before the publishes of an address take turns.
    in_time("answers", join_all((0..100).map(|_| guess()))).await;
    let mut guessers = JoinSet::new();
    for _ in 0..4 {
        guessers.spawn(async move {
            loop {
                guess().await;
            }
        });
    }
    tell(&harness, drain(None)).await;
    until("the edge is empty", || phase(&harness) == 3).await;
}

#[tokio::test]
async fn the_earlier_end_counts_where_the_process_ends_too() {
    for (ordered, of_the_process) in [(60, 1), (1, 60)] {
        let harness = Harness::start_with(1, quick).await;
        let mut encoder = Encoder::publish(harness.address, "live", "good-both").await;
        let began = Instant::now();
        tell(&harness, drain(Some(Duration::from_secs(ordered)))).await;
        until("the drain", || phase(&harness) == 2).await;
        let shutdown = harness.shutdown.clone();
        let times = DrainTimes {
            notice: Duration::from_millis(100),
            timeout: Duration::from_secs(of_the_process),
        };
        shutdown.give_notice();
        tokio::spawn(async move { shutdown.keep_time(times).await });
        // That is too late now.
        tell(&harness, Command::Undrain).await;
        obeyed(&harness, "undrain", "refused").await;
        assert_eq!(phase(&harness), 2, "it does not step back");
        let said = in_time("the close", encoder.said()).await;
        let elapsed = began.elapsed();
        println!("closed after {elapsed:?}");
        assert!(matches!(said, Said::Rejected(_)), "{said:?}");
        assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
        drop(encoder);
        in_time("the edge's end", harness.edge).await.unwrap();
        assert_eq!(harness.registry.edges().await.unwrap(), [], "withdrawn");
    }
}

#[tokio::test]
async fn a_command_ends_a_session_without_control() {
    let harness = Harness::start_with(1, quick).await;
    let mut kicked = Encoder::publish(harness.address, "live", "good-kicked").await;
    let lease = harness.lease().await;
    harness.control_shutdown.stop();
    let kick = |session: &SessionId| Command::Kick {
        stream: StreamId::derive("default", "live", "kicked"),
        slot: Slot::PRIMARY,
        session: session.clone(),
    };
    tell(&harness, kick(&SessionId::new("another").unwrap())).await;
    obeyed(&harness, "kick", "known").await;
    let began = Instant::now();
    tell(&harness, kick(&lease.session)).await;
    let said = in_time("the end", encoder_said(&mut kicked)).await;
    let took = began.elapsed();
    println!("kicked after {took:?}");
    assert_eq!(said, "This stream was ended by its owner");
    assert!(took < 5 * Duration::from_secs(1), "{took:?}");
    obeyed(&harness, "kick", "done").await;
    until("the count", || {
        harness.metric("headwater_sessions_ended_total{reason=\"kicked\"}") == 1
    })
    .await;
}

#[tokio::test]
async fn a_command_ends_the_sessions_of_a_key() {
    let harness = Harness::start_with(1, quick).await;
    let mut revoked = Encoder::publish(harness.address, "live", "good-revoked").await;
    let other = Encoder::publish(harness.address, "live", "good-other").await;
    let stream_key_id = "key-of-revoked".to_owned();
    tell(&harness, Command::Revoke { stream_key_id }).await;
    let said = in_time("the end", encoder_said(&mut revoked)).await;
    assert_eq!(said, "This stream was ended by its owner");
    drop(revoked);
    found("the lease", async || {
        (harness.leases().await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(harness.lease().await.stats.name, "other");
    drop(other);
}

async fn encoder_said(encoder: &mut Encoder) -> String {
    match encoder.said().await {
        Said::Rejected(text) => text,
        said @ (Said::AskedToReconnect | Said::Closed | Said::Started) => panic!("{said:?}"),
    }
}

#[tokio::test]
async fn control_is_heard_as_well_and_what_comes_late_says_nothing() {
    let harness = Harness::start_with(1, quick).await;
    let push = |at_ms, command| {
        harness.control.command(EdgeCommand {
            at_ms,
            number: 0,
            command: Some(command),
        });
    };
    let drain_message = |timeout_ms| {
        edge_command::Command::Drain(DrainMessage {
            timeout_ms,
            reconnect: false,
            reason: "pushed".to_owned(),
        })
    };
    let undrain = || edge_command::Command::Undrain(UndrainOrder {});
    let far = u64::MAX - 10;
    push(far, drain_message(Some(90_000)));
    until("the drain", || phase(&harness) == 3).await;
    let edge = announced_as(&harness, EdgePhase::Empty).await;
    assert_eq!(edge.drain_reason, "pushed");
    push(far + 1, undrain());
    until("the edge serves", || phase(&harness) == 0).await;
    // The same order once more, behind what took it back.
    push(far, drain_message(Some(90_000)));
    until("it is known", || {
        harness.metric("headwater_edge_commands_total{kind=\"drain\",outcome=\"known\"}") == 1
    })
    .await;
    assert_eq!(phase(&harness), 0);
    assert!(harness.readiness.missing().is_empty());
}

#[tokio::test]
async fn an_order_counts_whose_registry_has_lost_what_control_told() {
    let harness = Harness::start_with(1, quick).await;
    // By control alone, and above whatever the registry numbers by its clock.
    let lost = CommandId {
        at_ms: 9_999_999_999_999,
        number: 7,
    };
    harness.control.command(EdgeCommand {
        at_ms: lost.at_ms,
        number: lost.number,
        command: Some(edge_command::Command::Drain(DrainMessage::default())),
    });
    let edge = announced_as(&harness, EdgePhase::Empty).await;
    assert_eq!(edge.heard, lost);
    // Below that it counts as one that comes late.
    tell(&harness, Command::Undrain).await;
    obeyed(&harness, "undrain", "known").await;
    assert_eq!(phase(&harness), 3);
    let undrain = Command::Undrain;
    let ordered = harness
        .registry
        .command_after(&edge.name, &undrain, edge.heard);
    assert!(ordered.await.unwrap() > lost);
    until("the edge serves", || phase(&harness) == 0).await;
}

#[tokio::test]
async fn an_order_without_requests_asks_nobody() {
    let harness = Harness::start_with(1, quick).await;
    let mut capable = Encoder::mobile(harness.address, "live", "good-unasked").await;
    assert_eq!(capable.said().await, Said::Started);
    let order = DrainOrder {
        timeout: Some(Duration::from_secs(1)),
        reconnect: false,
        reason: String::new(),
    };
    tell(&harness, Command::Drain(order)).await;
    let said = in_time("the close", capable.said()).await;
    assert!(matches!(said, Said::Rejected(_)), "{said:?}");
}

#[tokio::test]
async fn an_order_gives_notice_first_and_a_second_one_replaces_it() {
    let harness = Harness::start_with(1, |config| {
        quick(config);
        config.drain_times.notice = Duration::from_secs(60);
    })
    .await;
    tell(&harness, drain(None)).await;
    until("the notice", || phase(&harness) == 1).await;
    let noticed = Encoder::publish(harness.address, "live", "good-noticed").await;
    let told = harness.readiness.missing();
    assert_eq!(
        told,
        ["drain: leaving on order (a new kernel): still taking publishers in"]
    );
    tell(&harness, drain(Some(Duration::ZERO))).await;
    until("the end", || phase(&harness) == 3).await;
    drop(noticed);
}
