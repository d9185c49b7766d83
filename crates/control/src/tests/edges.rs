//! `EdgeService`, and what edges hear of it.

use std::time::{Duration, Instant};

use proto::{
    internal::v1::{EdgeCommand, edge_command},
    v1::{
        DrainEdgeRequest, EdgePhase as PhaseMessage, ListEdgesRequest, TerminateSessionRequest,
        UndrainEdgeRequest, edge_service_server::EdgeService as _,
        session_service_server::SessionService as _,
    },
};
use registry::{
    Command, CommandId, Commands, DrainOrder, Edge, EdgeName, EdgePhase, Slot, StreamId,
};
use tokio::time::timeout;
use tonic::Code;

use super::{
    fixture::{Fixture, Watcher, bearing, of_tenant, reason, unreachable_registry},
    on_both,
    session_service::publish,
};

on_both!(
    an_order_reaches_its_edge_both_ways_and_nobody_else,
    an_ended_session_and_a_revoked_key_are_told_to_their_edge,
);

pub(super) fn edge(name: &str) -> Edge {
    Edge {
        name: EdgeName::new(name).unwrap(),
        host: "edge-0.example".to_owned(),
        zone: "eu-1a".to_owned(),
        version: "1.2.3".to_owned(),
        phase: EdgePhase::Serving,
        stopping: false,
        sessions: 3,
        drain_until_ms: None,
        drain_reason: String::new(),
        heard: CommandId::default(),
    }
}

fn of_everybody<T>(message: T) -> tonic::Request<T> {
    bearing("a token for tests", message)
}

fn drain(name: &str, timeout: Option<i64>) -> DrainEdgeRequest {
    DrainEdgeRequest {
        name: name.to_owned(),
        timeout: timeout.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        no_reconnect: true,
        reason: "a new kernel".to_owned(),
    }
}

fn undrain(name: &str) -> UndrainEdgeRequest {
    UndrainEdgeRequest {
        name: name.to_owned(),
    }
}

async fn next(commands: &mut Commands) -> Command {
    let next = timeout(Duration::from_secs(20), commands.next()).await;
    next.expect("a command").1
}

/// The next command that a watch tells, and how long that took.
async fn pushed(watcher: &mut Watcher) -> (edge_command::Command, Duration) {
    let began = Instant::now();
    let command = pushed_whole(watcher).await;
    assert!(command.at_ms > 0);
    (command.command.unwrap(), began.elapsed())
}

async fn pushed_whole(watcher: &mut Watcher) -> EdgeCommand {
    loop {
        let mut answer = watcher.answer().await.unwrap();
        if let Some(command) = answer.commands.pop() {
            assert_eq!(answer.commands, []);
            return command;
        }
    }
}

async fn an_order_reaches_its_edge_both_ways_and_nobody_else(fixture: Fixture) {
    let (control, other_control) = (fixture.replica().await, fixture.replica().await);
    let draining = Edge {
        phase: EdgePhase::Draining,
        stopping: true,
        drain_until_ms: Some(1_800_000_000_000),
        drain_reason: "why".to_owned(),
        ..edge("edge-b")
    };
    for edge in [edge("edge-a"), draining] {
        fixture.registry.announce_edge(&edge).await.unwrap();
    }
    let listed = control.edges.list_edges(of_everybody(ListEdgesRequest {}));
    let listed = listed.await.unwrap().into_inner().edges;
    assert_eq!((listed[0].name.as_str(), listed[0].sessions), ("edge-a", 3));
    assert_eq!(listed[0].phase(), PhaseMessage::Serving);
    assert_eq!(listed[0].drain_deadline, None);
    assert_eq!(listed[1].phase(), PhaseMessage::Draining);
    assert!(listed[1].stopping && listed[1].drain_reason == "why");
    assert_eq!(listed[1].drain_deadline.unwrap().seconds, 1_800_000_000);

    let mut mine = control.watch_as("edge-a", None).await.unwrap();
    let mut foreign = control.watch_as("edge-b", None).await.unwrap();
    let mut nameless = control.watch(None).await.unwrap();
    for watcher in [&mut mine, &mut foreign, &mut nameless] {
        watcher.answer().await.unwrap();
    }
    let mut kept = fixture.registry.commands(&edge("edge-a").name);
    let request = of_everybody(drain("edge-a", Some(90)));
    control.edges.drain_edge(request).await.unwrap();
    let (told, took) = pushed(&mut mine).await;
    println!("pushed after {took:?}");
    assert!(took < 5 * PUSH_GOAL, "{took:?}");
    let edge_command::Command::Drain(order) = told else {
        panic!("{told:?}");
    };
    assert_eq!(order.timeout_ms, Some(90_000));
    assert!(!order.reconnect && order.reason == "a new kernel");
    let order = DrainOrder {
        timeout: Some(Duration::from_secs(90)),
        reconnect: false,
        reason: "a new kernel".to_owned(),
    };
    assert_eq!(next(&mut kept).await, Command::Drain(order));

    // Through the registry alone, where the edge watches another control.
    let request = of_everybody(undrain("edge-a"));
    other_control.edges.undrain_edge(request).await.unwrap();
    assert_eq!(next(&mut kept).await, Command::Undrain);
    let request = of_everybody(undrain("edge-a"));
    control.edges.undrain_edge(request).await.unwrap();
    let (told, _) = pushed(&mut mine).await;
    assert!(
        matches!(told, edge_command::Command::Undrain(_)),
        "{told:?}"
    );
    for watcher in [&mut foreign, &mut nameless] {
        let life = watcher.answer().await.unwrap();
        assert_eq!(life.commands, []);
    }
}

async fn an_ended_session_and_a_revoked_key_are_told_to_their_edge(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, _) = control.create("main").await;
    publish(&fixture, "session-a", "default", "live", &key.id).await;
    publish(&fixture, "session-b", "default", "live", &key.id).await;
    let edge = EdgeName::new("edge-0").unwrap();
    let mut told = fixture.registry.commands(&edge);
    let request = TerminateSessionRequest {
        id: "session-a".to_owned(),
        ..TerminateSessionRequest::default()
    };
    let ended = control
        .sessions
        .terminate_session(of_tenant("default", request));
    ended.await.unwrap();
    let Command::Kick {
        stream,
        slot,
        session,
    } = next(&mut told).await
    else {
        panic!("a kick");
    };
    let expected = StreamId::derive("default", "live", "session-a");
    assert_eq!((stream, slot), (expected, Slot::PRIMARY));
    assert_eq!(session.as_str(), "session-a");
    control.revoke(&key.id).await;
    let revoke = Command::Revoke {
        stream_key_id: key.id,
    };
    assert_eq!(next(&mut told).await, revoke);
}

#[tokio::test]
async fn an_order_is_numbered_above_what_its_edge_has_heard() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    // The registry has lost it, and its clock went back.
    let heard = CommandId {
        at_ms: 9_999_999_999_999,
        number: 7,
    };
    let edge = Edge {
        heard,
        ..edge("edge-a")
    };
    fixture.registry.announce_edge(&edge).await.unwrap();
    let mut watcher = control.watch_as("edge-a", None).await.unwrap();
    watcher.answer().await.unwrap();
    let mut kept = fixture.registry.commands(&edge.name);
    let request = of_everybody(drain("edge-a", None));
    control.edges.drain_edge(request).await.unwrap();
    let told = pushed_whole(&mut watcher).await;
    let kept = timeout(Duration::from_secs(20), kept.next()).await;
    let (id, _) = kept.expect("a command");
    assert!(id > heard, "{id}");
    assert_eq!((told.at_ms, told.number), (id.at_ms, id.number));
}

#[tokio::test]
async fn what_is_wrong_with_an_order_is_said() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    let stopping = Edge {
        stopping: true,
        ..edge("edge-b")
    };
    for edge in [edge("edge-a"), stopping] {
        fixture.registry.announce_edge(&edge).await.unwrap();
    }
    let drained = async |request| reason(control.edges.drain_edge(of_everybody(request)).await);
    let missing = (Code::NotFound, "EDGE_NOT_FOUND".to_owned());
    assert_eq!(drained(drain("edge-c", None)).await, missing);
    assert_eq!(drained(drain("", None)).await, missing);
    let invalid = (Code::InvalidArgument, "FIELD_INVALID".to_owned());
    for seconds in [-1, 31 * 24 * 60 * 60] {
        assert_eq!(drained(drain("edge-a", Some(seconds))).await, invalid);
    }
    let mut long = drain("edge-a", None);
    long.reason = "x".repeat(257);
    assert_eq!(drained(long).await, invalid);
    let undrained = async |name| {
        reason(
            control
                .edges
                .undrain_edge(of_everybody(undrain(name)))
                .await,
        )
    };
    let stopping = (Code::FailedPrecondition, "EDGE_STOPPING".to_owned());
    assert_eq!(undrained("edge-b").await, stopping);
    assert_eq!(undrained("edge-c").await, missing);
}

#[tokio::test]
async fn without_the_registry_nothing_is_ordered() {
    let mut fixture = Fixture::sqlite();
    fixture.registry = unreachable_registry();
    let control = fixture.replica().await;
    let unavailable = (Code::Unavailable, "REGISTRY_UNAVAILABLE".to_owned());
    let listed = control.edges.list_edges(of_everybody(ListEdgesRequest {}));
    assert_eq!(reason(listed.await), unavailable);
    let drained = control
        .edges
        .drain_edge(of_everybody(drain("edge-a", None)));
    assert_eq!(reason(drained.await), unavailable);
}

const PUSH_GOAL: Duration = Duration::from_millis(100);
