//! What edges are ordered to do, by the program as an operator types it: publishers that can leave an edge without a
//! loss, an order is taken back, and what is ordered arrives also where an edge's control is gone.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use serde_json::Value;
use tests::{
    bench::{Bench, Load},
    binary,
    cluster::{Cluster, Layout, Node},
    deployment::{APP, Deployment},
    http,
    process::{self, Process},
    synthetic, turn, turn_alone,
    wait::{wait_for, wait_until},
    witness::{Witness, publish_when_free},
};

const READY: Duration = Duration::from_secs(60);
/// For an order to reach an edge that watches the control that was asked, and one that does not.
const PUSH_GOAL: Duration = Duration::from_millis(100);
const REGISTRY_GOAL: Duration = Duration::from_secs(1);
/// Of a process that ends, for its sessions.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

fn three_edges() -> Layout {
    Layout {
        more_edges: 2,
        edge: vec![
            ("EDGE__DRAIN__RECONNECT_JITTER", "2s".to_owned()),
            ("EDGE__DRAIN__KEYFRAME_WAIT", "3s".to_owned()),
        ],
        // The first and the third know the second control alone, the second one the first.
        ..Layout::postgres()
    }
}

/// The program at one control, as an operator who has the API token.
struct Operator {
    server: [String; 3],
}

impl Operator {
    fn new(cluster: &Cluster, control: usize) -> Self {
        let base = cluster.base();
        let file = |name: &str| base.join(name).display().to_string();
        let url = format!("https://{}", cluster.controls[control].text("public"));
        Self {
            server: [
                format!("--server={url}"),
                format!("--token-file={}", file("api-token")),
                format!("--ca-file={}", file("public.pem")),
            ],
        }
    }

    /// What is printed, which is shown.
    fn types(&self, arguments: &[&str]) -> String {
        let (succeeded, printed) = self.tries(arguments);
        assert!(succeeded, "{arguments:?}: {printed}");
        printed
    }

    fn tries(&self, arguments: &[&str]) -> (bool, String) {
        let mut program = Command::new(binary::headwater());
        let output = program.args(arguments).args(&self.server).output().unwrap();
        let printed = [output.stdout, output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        println!("$ headwater {}\n{printed}", arguments.join(" "));
        (output.status.success(), printed)
    }

    /// What takes its time.
    fn begins(&self, cluster: &Cluster, arguments: &[&str]) -> Process {
        let mut program = process::command(binary::headwater());
        program.args(arguments).args(&self.server);
        Process::spawn("operator", &mut program, cluster.directory.path())
    }
}

/// Its name in the registry.
async fn name(edge: &Node) -> String {
    let line = edge.process().log_line(&["taking publishers in"], READY);
    let line = line.await;
    let at = line.find("edge-").unwrap();
    let name: String = line[at..]
        .chars()
        .take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '-')
        .collect();
    assert_eq!(name.len(), "edge-".len() + 32, "{line}");
    name
}

async fn readiness(edge: &Node) -> (bool, String) {
    let url = format!("{}/readyz", edge.text("admin_url"));
    let (status, text) = http::get(&url).await.unwrap();
    (status.is_success(), text)
}

/// How long after `ordered` the edge is in this phase.
async fn enters(edge: &Node, phase: f64, ordered: Instant) -> Duration {
    wait_for("the edge to hear of it", READY, async || {
        let metrics = edge.metrics().await?;
        let is_in = http::metric(&metrics, "headwater_edge_drain_phase", &[]);
        ((is_in - phase).abs() < 0.1).then_some(())
    })
    .await;
    ordered.elapsed()
}

async fn sessions_at(cluster: &Cluster, edge: &str) -> usize {
    let sessions = cluster.deployment.api.sessions().await.unwrap();
    sessions
        .iter()
        .filter(|session| session.edge == edge)
        .count()
}

/// Drains an edge that has two publishers which follow a request to connect elsewhere.
async fn empties(operator: &Operator, edge: &Node, name: &str) {
    let began = Instant::now();
    let order = [
        "drain",
        name,
        "--timeout",
        "60s",
        "--reason",
        "a new kernel",
        "--wait",
    ];
    let printed = operator.types(&order);
    println!("emptied after {:?}", began.elapsed());
    assert!(
        printed.contains(&format!("Edge {name} is empty.")),
        "{printed}"
    );
    let metrics = edge.metrics().await.unwrap();
    let asked = http::metric(&metrics, "headwater_reconnect_requests_total", &["asked"]);
    assert!(asked >= 2.0, "{asked}");
    let moved = http::metric(&metrics, "headwater_sessions_ended_total", &["drain_move"]);
    assert!((moved - 2.0).abs() < 0.1, "{moved}");
    let (ready, told) = readiness(edge).await;
    println!("/readyz: {told}");
    assert_eq!((ready, told.lines().count()), (false, 1), "{told}");
    assert!(told.contains("on order (a new kernel)"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_is_drained_without_a_loss_and_taken_back() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(three_edges()).await;
    let operator = Operator::new(&cluster, 0);
    let edges: Vec<&Node> = cluster.edges().collect();
    let places = cluster.deployments();
    let places: Vec<&Deployment> = places.iter().collect();
    let load = Load {
        publishers: 6,
        seconds: 40,
        ramp_seconds: 1,
        kilobits_per_second: 300,
    };
    let mut bench = Bench::start_moving(&places, "moving", &load).await;
    bench.is_live(READY).await;
    let second = name(edges[1]).await;
    assert_eq!(sessions_at(&cluster, &second).await, 2);
    let listed = operator.types(&["edges", "list"]);
    assert_eq!(listed.lines().count(), 4, "a heading, three edges");
    let listed: Value =
        serde_json::from_str(&operator.types(&["edges", "list", "--json"])).unwrap();
    let is_second = |edge: &&Value| edge["name"] == *second;
    let edge = listed.as_array().unwrap().iter().find(is_second).unwrap();
    assert_eq!(
        (&edge["phase"], &edge["stopping"]),
        (&"serving".into(), &false.into())
    );

    // Publishers that can go on elsewhere, and nobody notices.
    empties(&operator, edges[1], &second).await;
    assert_eq!(sessions_at(&cluster, &second).await, 0);
    let key = cluster.deployment.api.create_key(APP, "later").await;
    let mut encoder = places[1].encoder().await;
    let refused = encoder.publish(APP, &key.secret).await.unwrap();
    assert!(refused.description.contains("try again"), "{refused:?}");

    operator.types(&["undrain", &second]);
    edges[1].serves(READY).await;
    publish_when_free(places[1], &key, READY).await;

    // One that cannot stays where a drain is taken back, and the edge takes others in beside it.
    let third = name(edges[2]).await;
    let key = cluster.deployment.api.create_key(APP, "stays").await;
    let witness = Witness::start(places[2], key).await;
    let ordered = Instant::now();
    operator.types(&["drain", &third, "--timeout", "20s", "--no-reconnect"]);
    enters(edges[2], 2.0, ordered).await;
    operator.types(&["undrain", &third]);
    edges[2].serves(READY).await;
    let key = cluster.deployment.api.create_key(APP, "beside").await;
    publish_when_free(places[2], &key, READY).await;

    let (succeeded, told) = operator.tries(&["drain", "edge-of-nobody"]);
    assert!(!succeeded && told.contains("edge-of-nobody"), "{told}");
    let reports = bench.finish_clean(READY).await;
    let moves: u64 = reports.publish["streams"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stream| stream["moves"].as_u64().unwrap())
        .sum();
    println!("{moves} moves, nothing lost");
    assert_eq!(moves, 2);
    witness.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_arrives_where_the_control_of_an_edge_is_gone() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(three_edges()).await;
    let [first, second] = [&cluster.edge, &cluster.more_edges[0]];
    let (first, second) = (name(first).await, name(second).await);
    let api = cluster.api(0);

    // The second edge watches this control, and there is nobody to wait for.
    let ordered = Instant::now();
    api.drain(&second).await.unwrap();
    let pushed = enters(&cluster.more_edges[0], 3.0, ordered).await;
    println!("an order arrives after {pushed:?}");
    assert!(pushed < 5 * PUSH_GOAL, "{pushed:?}");
    api.undrain(&second).await.unwrap();

    // The first one watches the other control, which dies.
    let key = cluster.deployment.api.create_key(APP, "kicked").await;
    let witness = Witness::start(&cluster.deployment, key).await;
    let session = cluster.deployment.api.session_of("kicked").await.unwrap();
    cluster.controls[1].kill();
    let ordered = Instant::now();
    api.terminate(&session.id, "a test").await.unwrap();
    wait_for("the session to end", READY, async || {
        (!witness.is_publishing()).then_some(())
    })
    .await;
    let took = ordered.elapsed();
    println!("without its control a session is ended after {took:?}");
    assert!(took < 5 * REGISTRY_GOAL, "{took:?}");
    let metrics = cluster.edge.metrics().await.unwrap();
    let kicked = http::metric(&metrics, "headwater_sessions_ended_total", &["kicked"]);
    assert!(
        (kicked - 1.0).abs() < 0.1,
        "by the command, and not by its lease: {kicked}"
    );

    let ordered = Instant::now();
    api.drain(&first).await.unwrap();
    let took = enters(&cluster.edge, 3.0, ordered).await;
    println!("without its control an order arrives after {took:?}");
    assert!(took < 5 * REGISTRY_GOAL, "{took:?}");
    let metrics = cluster.edge.metrics().await.unwrap();
    let done = ["kind=\"drain\"", "outcome=\"done\""];
    let done = http::metric(&metrics, "headwater_edge_commands_total", &done);
    assert!((done - 1.0).abs() < 0.1, "{done}");
    let ordered = Instant::now();
    api.undrain(&first).await.unwrap();
    let took = enters(&cluster.edge, 0.0, ordered).await;
    println!("without its control it serves again after {took:?}");
    assert!(took < 5 * REGISTRY_GOAL, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_waited_for_outlasts_its_control() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let operator = Operator::new(&cluster, 0);
    let edge = name(&cluster.edge).await;
    let key = cluster.deployment.api.create_key(APP, "waited-for").await;
    let witness = Witness::start(&cluster.deployment, key).await;
    let order = ["drain", edge.as_str(), "--timeout", "10m", "--wait"];
    let mut waiting = operator.begins(&cluster, &order);
    wait_until("the wait", READY, || {
        waiting.printed().contains("1 sessions left")
    })
    .await;

    let control = &mut cluster.controls[0];
    control.kill();
    // It was missed, and is the only one.
    let told = waiting.log_line(&["control cannot be reached"], READY);
    println!("{}", told.await);
    control.start().await;
    control.serves(READY).await;
    // As a rollout does it.
    control.replace(READY).await;

    assert!(waiting.ended().is_none(), "{}", waiting.log());
    witness.finish().await;
    let status = waiting.exit(READY).await;
    let printed = waiting.printed();
    assert!(status.success(), "{status}: {printed}{}", waiting.log());
    assert!(
        printed.contains(&format!("Edge {edge} is empty.")),
        "{printed}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_ends_in_its_own_time_whatever_its_edge_was_ordered() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout {
        origins: 1,
        edge: vec![("DRAIN_TIMEOUT", format!("{}s", DRAIN_TIMEOUT.as_secs()))],
        ..Layout::default()
    })
    .await;
    let operator = Operator::new(&cluster, 0);
    let edge = name(&cluster.edge).await;
    // Neither leaves by itself, and the second one has no keyframe at which it could be closed.
    let key = cluster.deployment.api.create_key(APP, "stays").await;
    let witness = Witness::start(&cluster.deployment, key).await;
    let key = cluster.deployment.api.create_key(APP, "silent").await;
    let mut silent = cluster.deployment.publish(&key).await;
    silent.send(&synthetic::video_header()).await.unwrap();
    let ordered = Instant::now();
    operator.types(&["drain", &edge, "--timeout", "1h"]);
    enters(&cluster.edge, 2.0, ordered).await;
    witness.is_alive().await;

    let told = Instant::now();
    cluster.edge.process().signal("TERM");
    let status = cluster.edge.process_mut().exit(READY).await;
    let took = told.elapsed();
    println!("under an order for an hour the process ends after {took:?} (of {DRAIN_TIMEOUT:?})");
    assert!(status.success(), "{status}");
    assert!(took >= DRAIN_TIMEOUT, "the last one has its time: {took:?}");
    assert!(took < 5 * DRAIN_TIMEOUT, "{took:?}");
    wait_until("the publisher to be closed", READY, || {
        !witness.is_publishing()
    })
    .await;
    silent.until_closed(READY).await;
}
