//! What edges say of themselves and what they are told: the promises of both homes, and what Redis alone can do to them.

use std::time::{Duration, Instant};

use registry::{
    Command, CommandId, Commands, DrainOrder, Edge, EdgePhase, LEASE_TTL, RedisEvent, Slot,
};
use tokio::time::timeout;

use crate::{
    forms::Form,
    home::{Place, edge, session, stream},
    program::Program,
    redis::{observed, reconnects, retried},
    server::{PATIENCE, RedisServer, figures},
};

pub(crate) async fn edges_come_and_go(place: Place) {
    let edges = async || place.control.edges().await.unwrap();
    assert_eq!(edges().await, []);
    let (second, first) = (
        announced("b", EdgePhase::Serving),
        announced("a", EdgePhase::Draining),
    );
    place.edge.announce_edge(&second).await.unwrap();
    place.edge.announce_edge(&first).await.unwrap();
    assert_eq!(edges().await, [first.clone(), second.clone()]);

    let empty = announced("b", EdgePhase::Empty);
    place.edge.announce_edge(&empty).await.unwrap();
    assert_eq!(edges().await, [first.clone(), empty.clone()]);

    place.edge.withdraw_edge(&first.name).await.unwrap();
    assert_eq!(edges().await, [empty]);
    place.pass(LEASE_TTL + Duration::from_secs(1)).await;
    assert_eq!(edges().await, []);
}

pub(crate) async fn commands_come_in_their_order_and_once(place: Place) {
    let (to, other) = (edge("a"), edge("b"));
    let mut heard = place.edge.commands(&to);
    let commands = every_command();
    let mut sent = vec![];
    for command in &commands {
        place
            .control
            .command(&other, &Command::Undrain)
            .await
            .unwrap();
        let id = place.control.command(&to, command).await.unwrap();
        sent.push((id, command.clone()));
    }
    assert!(sent.is_sorted_by(|(one, _), (other, _)| one < other));
    for expected in &sent {
        assert_eq!(next(&mut heard).await, *expected);
    }
    nothing(&mut heard).await;
    // Whoever begins later hears what is kept.
    let mut late = place.edge.commands(&to);
    assert_eq!(next(&mut late).await, sent[0]);
}

pub(crate) async fn a_command_reaches_whoever_waits_for_it(place: Place) {
    let to = edge("a");
    let mut heard = place.edge.commands(&to);
    nothing(&mut heard).await;
    let waiting = tokio::spawn(async move {
        let (_, command) = next(&mut heard).await;
        (command, Instant::now())
    });
    // For it to wait: one that is there before is not what this measures.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let sent = Instant::now();
    place.control.command(&to, &Command::Undrain).await.unwrap();
    let (command, at) = waiting.await.unwrap();
    let took = at.saturating_duration_since(sent);
    println!("a command is heard after {took:?}");
    assert_eq!(command, Command::Undrain);
    assert!(took < 5 * GOAL, "{took:?}");
}

pub(crate) async fn a_command_is_numbered_above_what_its_edge_has_heard(place: Place) {
    let to = edge("a");
    let mut heard = place.edge.commands(&to);
    let mut sent = vec![];
    // As of a registry whose clock was far ahead, and which is gone.
    let mut after = CommandId {
        at_ms: 9_999_999_999_999,
        number: u64::MAX,
    };
    for command in every_command() {
        let id = place.control.command_after(&to, &command, after).await;
        let id = id.unwrap();
        assert!(id > after, "{id}");
        sent.push((id, command.clone()));
        // Whoever orders next may not know yet that the edge has heard of these.
        let id = place.control.command(&to, &command).await.unwrap();
        sent.push((id, command.clone()));
        let id = place.control.command_after(&to, &command, after).await;
        sent.push((id.unwrap(), command));
        after = sent[sent.len() - 1].0;
        for expected in sent.drain(..) {
            assert_eq!(next(&mut heard).await, expected);
        }
        place.lose_everything().await;
    }
}

pub(crate) async fn commands_are_forgotten_after_an_hour(place: Place) {
    let to = edge("a");
    place.control.command(&to, &Command::Undrain).await.unwrap();
    place.pass(Duration::from_secs(59 * 60)).await;
    next(&mut place.edge.commands(&to)).await;
    place.pass(Duration::from_secs(2 * 60)).await;
    nothing(&mut place.edge.commands(&to)).await;
}

pub(crate) async fn about_a_thousand_commands_are_kept(place: Place) {
    let to = edge("a");
    let mut last = CommandId::default();
    for _ in 0..1_200 {
        last = place.control.command(&to, &Command::Undrain).await.unwrap();
    }
    let mut heard = place.edge.commands(&to);
    let mut count = 0;
    while next(&mut heard).await.0 != last {
        count += 1;
    }
    assert!((999..1_150).contains(&count), "{count}");
}

#[tokio::test]
async fn a_malformed_edge_does_not_hide_the_others() {
    let server = RedisServer::start().await;
    let registry = server.registry("edge");
    let spoilt = [
        ("phase", "asleep"),
        ("host", "a b"),
        ("version", "\n"),
        ("stopping", "2"),
        ("sessions", "-1"),
        ("until", "soon"),
        ("heard", "1"),
    ];
    for name in spoilt.iter().map(|(field, _)| *field).chain(["sound"]) {
        let announced = announced(name, EdgePhase::Serving);
        registry.announce_edge(&announced).await.unwrap();
    }
    for (field, value) in spoilt {
        let key = format!("hw:{{e}}:at:{}", edge(field));
        server.admin(&["HSET", &key, field, value]).await;
    }
    server.admin(&["ZADD", "hw:{e}:all", "1", "no{edge}"]).await;
    let sound = format!("hw:{{e}}:at:{}", edge("sound"));
    server
        .admin(&["HSET", &sound, "reason", "two\nlines \u{1b}[31m"])
        .await;
    // As of an edge of the version before.
    server.admin(&["HDEL", &sound, "heard"]).await;
    let edges = server.registry("control").edges().await.unwrap();
    assert_eq!(edges.len(), 1, "{edges:?}");
    assert_eq!(edges[0].drain_reason, "twolines [31m");
    assert_eq!(edges[0].heard, CommandId::default());
}

#[tokio::test]
async fn what_is_no_command_is_passed_over() {
    let server = RedisServer::start().await;
    let key = stream_of_a();
    let stream_id = stream().to_string();
    let long = "x".repeat(10_000);
    let spoilt: [&[&str]; 10] = [
        &["kind", "reload"],
        &["other", "kick"],
        &["kind", "drain", "timeout", "-1", "reconnect", "1"],
        &[
            "kind",
            "drain",
            "timeout",
            "18446744073709551616",
            "reconnect",
            "1",
        ],
        &["kind", "drain", "timeout", "", "reconnect", "yes"],
        &[
            "kind", "kick", "stream", &stream_id, "slot", "2", "session", "a",
        ],
        &["kind", "kick", "stream", "0", "slot", "0", "session", "a"],
        &[
            "kind", "kick", "stream", &stream_id, "slot", "0", "session", "a{b}",
        ],
        &["kind", "revoke", "key", &long],
        &["\u{0}", "\u{0}"],
    ];
    let mut heard = server.registry("edge").commands(&edge("a"));
    for spoilt in spoilt {
        let add = [&["XADD", &key, "*"], spoilt].concat();
        server.admin(&add).await;
    }
    server
        .registry("control")
        .command(&edge("a"), &Command::Undrain)
        .await
        .unwrap();
    assert_eq!(next(&mut heard).await.1, Command::Undrain);

    // Somebody else's value is none of ours, until it is gone.
    server.admin(&["SET", &key, "x"]).await;
    nothing(&mut heard).await;
    server.admin(&["DEL", &key]).await;
    server
        .registry("control")
        .command(&edge("a"), &Command::Undrain)
        .await
        .unwrap();
    assert_eq!(next(&mut heard).await.1, Command::Undrain);
}

#[tokio::test]
async fn commands_go_on_behind_a_restart_whose_ids_begin_below() {
    let mut server = RedisServer::start().await;
    let mut heard = server.registry("edge").commands(&edge("a"));
    let key = stream_of_a();
    // An hour ahead: as of a primary whose clock was.
    let ahead = "99999999999999-0";
    server
        .admin(&["XADD", &key, ahead, "kind", "undrain"])
        .await;
    assert_eq!(next(&mut heard).await.0.to_string(), ahead);
    server.kill();
    server.restart().await;
    let drain = every_command().remove(0);
    let control = server.registry("control");
    retried(|| async { control.command(&edge("a"), &drain).await }).await;
    assert_eq!(next(&mut heard).await.1, drain);
}

#[tokio::test]
async fn commands_go_on_behind_sentinels() {
    let mut form = Form::sentinel(Program::Redis).await;
    let mut heard = listen(&form).await;
    form.servers[0].kill();
    go_on(&form, &mut heard, "sentinel, primary killed").await;
}

#[tokio::test]
async fn commands_go_on_in_a_cluster() {
    let mut form = Form::cluster(Program::Redis, 3, true).await;
    let mut heard = listen(&form).await;
    let at = form.owner(&stream_of_a()).await;
    form.servers[at].kill();
    go_on(&form, &mut heard, "cluster, node killed").await;
}

with_redis_and_valkey! {
    commands_go_on_while_their_slot_moves
}

async fn commands_go_on_while_their_slot_moves(program: Program) {
    let form = Form::cluster(program, 3, false).await;
    let mut heard = listen(&form).await;
    let moving = form.begin_move(&stream_of_a()).await;
    go_on(&form, &mut heard, "slot about to move").await;
    assert_eq!(moving.move_keys().await, 1);
    // Whoever reads is sent on each time: ASK.
    go_on(&form, &mut heard, "slot moving").await;
    let mut to = moving.to.connect("admin").await.unwrap();
    let names = [
        "cmdstat_asking",
        "total_connections_received",
        "cmdstat_cluster|slots",
    ];
    let before = figures(&mut to, names).await;
    let waiting = tokio::spawn(async move {
        let (_, command) = heard.next().await;
        (command, heard)
    });
    let deadline = Instant::now() + PATIENCE;
    let since = loop {
        let now = figures(&mut to, names).await;
        let since: [u64; 3] = std::array::from_fn(|at| now[at] - before[at]);
        if since[0] >= READS {
            break since;
        }
        assert!(Instant::now() < deadline, "read so far: {since:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let [reads, connections, asked] = since;
    println!(
        "slot moving: {reads} reads, {connections} connections, {asked} times asked for the map"
    );
    assert!(connections < READS / 2 && asked < READS / 2);
    moving.end().await;
    let control = form.observed("control", |_event| {});
    retried(|| async { control.command(&edge("a"), &Command::Undrain).await }).await;
    let heard = timeout(PATIENCE, waiting).await.expect("a command");
    let (command, mut heard) = heard.unwrap();
    assert_eq!(command, Command::Undrain);
    go_on(&form, &mut heard, "slot moved").await;
}

#[tokio::test]
async fn what_waits_for_commands_is_in_no_figure() {
    let mut server = RedisServer::start().await;
    let (registry, events) = observed(&server);
    let mut heard = registry.commands(&edge("a"));
    let waiting = tokio::spawn(async move { heard.next().await.1 });
    let mut admin = server.connect("admin").await.unwrap();
    let (mut told, mut skipped) = (0, 0);
    let deadline = Instant::now() + PATIENCE;
    // Each connection asks for the role once when it is made, and with every reading of the clock. Told of are the
    // readings of the one that does not wait; the other's would be late by as long as it waited.
    while skipped < 2 + UNTOLD {
        assert!(Instant::now() < deadline, "{told} told, {skipped} not");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let [roles] = figures(&mut admin, ["cmdstat_role"]).await;
        let clock = |event: &RedisEvent| matches!(event, RedisEvent::ClockSkew { .. });
        told += u64::try_from(events.try_iter().filter(clock).count()).unwrap();
        skipped = roles.saturating_sub(told);
    }
    // Both are lost, and one of them counts.
    server.kill();
    server.restart().await;
    retried(|| async { registry.origins().await }).await;
    let control = server.registry("control");
    retried(|| async { control.command(&edge("a"), &Command::Undrain).await }).await;
    let heard = timeout(PATIENCE, waiting).await.expect("a command");
    assert_eq!(heard.unwrap(), Command::Undrain);
    assert_eq!(reconnects(&events), ["closed"]);
}

/// Patient commands are sent to a server that is gone: as quick as in production.
async fn listen(form: &Form) -> Commands {
    let mut heard = form.observed("edge", |_event| {}).commands(&edge("a"));
    let control = form.observed("control", |_event| {});
    retried(|| async { control.command(&edge("a"), &Command::Undrain).await }).await;
    assert_eq!(next(&mut heard).await.1, Command::Undrain);
    heard
}

async fn go_on(form: &Form, heard: &mut Commands, what: &str) {
    let (failed, drain) = (Instant::now(), every_command().remove(0));
    let control = form.observed("control", |_event| {});
    retried(|| async { control.command(&edge("a"), &drain).await }).await;
    let (sent, mut command) = (Instant::now(), next(heard).await.1);
    while command != drain {
        // A failover may bring back what was heard.
        command = next(heard).await.1;
    }
    println!(
        "{what}: a command is taken after {:?} and heard {:?} later",
        sent - failed,
        sent.elapsed()
    );
}

fn stream_of_a() -> String {
    format!("hw:{{e:{}}}:cmd", edge("a"))
}

async fn next(heard: &mut Commands) -> (CommandId, Command) {
    timeout(PATIENCE, heard.next()).await.expect("a command")
}

async fn nothing(heard: &mut Commands) {
    let heard = timeout(Duration::from_millis(200), heard.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

fn announced(name: &str, phase: EdgePhase) -> Edge {
    let draining = phase == EdgePhase::Draining;
    Edge {
        name: edge(name),
        host: format!("{name}.example"),
        zone: "eu-1a".to_owned(),
        version: "1.2.3".to_owned(),
        phase,
        stopping: draining,
        sessions: 7,
        drain_until_ms: draining.then_some(1_800_000_000_000),
        drain_reason: if draining { "größer" } else { "" }.to_owned(),
        heard: CommandId {
            at_ms: 1_800_000_000_000,
            number: 1,
        },
    }
}

fn every_command() -> Vec<Command> {
    let order = |timeout, reconnect, reason: &str| {
        Command::Drain(DrainOrder {
            timeout,
            reconnect,
            reason: reason.to_owned(),
        })
    };
    vec![
        order(None, true, ""),
        order(Some(Duration::ZERO), false, "a new kernel, zwölf"),
        Command::Kick {
            stream: stream(),
            slot: Slot::BACKUP,
            session: session("a"),
        },
        Command::Revoke {
            stream_key_id: "0123456789abcdef".to_owned(),
        },
        Command::Undrain,
    ]
}

/// Of the way through Redis.
const GOAL: Duration = Duration::from_secs(1);

/// Redis is waited at for half a second each time.
const READS: u64 = 6;

/// More than can be on their way to whoever counts.
const UNTOLD: u64 = 3;
