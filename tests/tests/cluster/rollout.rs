//! Both tiers at once: edges and origins are replaced side by side, and all origins crash together with Redis.

use std::{slice, time::Duration};

use tests::{
    chaos::{
        fault::Allowed,
        load::{Encoders, Load, Outcome},
        round::faults_of,
    },
    cluster::{Cluster, Layout, Node},
    http, turn_alone,
    wait::wait_for,
};

/// For a process to drain and to be there again, and for sessions to be where they belong.
const STEP: Duration = Duration::from_secs(60);
/// Of each kind.
const PUBLISHERS: usize = 4;
/// How long media may pause; a busy test machine gets five times that.
const CAPABLE_GOAL: Duration = Duration::from_secs(1);
const LEGACY_GOAL: Duration = Duration::from_secs(3);
/// From the death of every origin and Redis; they are there again after a second or two.
const CRASH_GOAL: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edges_and_origins_are_replaced_side_by_side() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(Layout {
        more_edges: 1,
        edge: vec![
            ("DRAIN_TIMEOUT", "10s".to_owned()),
            ("EDGE__DRAIN__RECONNECT_JITTER", "1s".to_owned()),
            ("EDGE__DRAIN__CLOSE_SPREAD", "2s".to_owned()),
        ],
        origin: vec![("DRAIN_TIMEOUT", "15s".to_owned())],
        ..Layout::default()
    })
    .await;
    let at = cluster.deployments();
    let capable = Load::start(&at, "capable", PUBLISHERS, Encoders::Capable, &[]).await;
    let beside = slice::from_ref(&capable);
    let legacy = Load::start(&at, "legacy", PUBLISHERS, Encoders::Legacy, beside).await;

    let Cluster {
        edge,
        more_edges,
        origins,
        ..
    } = &mut cluster;
    let edges = std::iter::once(edge).chain(more_edges);
    // Origins are quicker, and go round twice.
    tokio::join!(replace(edges), async {
        replace(&mut *origins).await;
        replace(origins).await;
    });
    is_well(&cluster, 2 * PUBLISHERS).await;

    let capable = capable.finish().await;
    assert!(capable.moves >= PUBLISHERS as u64, "{}", capable.moves);
    judge("capable", &capable, CAPABLE_GOAL, &Allowed::default());
    let legacy = legacy.finish().await;
    assert!(legacy.disconnects.len() >= PUBLISHERS);
    let allowed = Allowed {
        disconnects: true,
        ..Allowed::default()
    };
    judge("legacy", &legacy, LEGACY_GOAL, &allowed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishers_outlive_every_origin_and_redis_at_once() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(Layout::default()).await;
    let at = cluster.deployments();
    let load = Load::start(&at, "outlive", PUBLISHERS, Encoders::Legacy, &[]).await;
    cluster.origins.iter_mut().for_each(Node::kill);
    cluster.redis.kill();
    // Both come back empty.
    cluster.redis.start_again().await;
    for origin in &mut cluster.origins {
        origin.start().await;
    }
    is_well(&cluster, PUBLISHERS).await;
    judge(
        "crash",
        &load.finish().await,
        CRASH_GOAL,
        &Allowed::default(),
    );
}

/// As a rollout does: the next one goes once the one before is ready.
async fn replace(nodes: impl IntoIterator<Item = &mut Node>) {
    for node in nodes {
        node.replace(STEP).await;
    }
}

/// Waits until so many sessions are in the registry, at exactly one origin each, and read again.
async fn is_well(cluster: &Cluster, sessions: usize) {
    wait_for("every session at one origin, and read", STEP, async || {
        let listed = cluster.deployment.api.sessions().await.ok()?.len();
        let (mut at_origins, mut readers) = (0.0, 0.0);
        for origin in &cluster.origins {
            let metrics = origin.metrics().await?;
            at_origins += http::metric(&metrics, "headwater_origin_publishers_active", &[]);
            let output = ["output=\"grpc\""];
            readers += http::metric(&metrics, "headwater_origin_subscribers_active", &output);
        }
        #[expect(clippy::cast_precision_loss, reason = "few of them")]
        let is_all = |count: f64| (count - sessions as f64).abs() < 0.5;
        (listed == sessions && is_all(at_origins) && is_all(readers)).then_some(())
    })
    .await;
}

/// Nothing lost or doubled, no end for a reader, no pause beyond its deadline, and nobody cut but who may be.
fn judge(who: &str, outcome: &Outcome, goal: Duration, allowed: &Allowed) {
    let pauses = outcome.pauses.iter().map(|pause| pause.to - pause.from);
    let longest = Duration::from_secs_f64(pauses.fold(0.0, f64::max));
    println!(
        "{who}: {} frames, {} moves, {} disconnects, {} frames under way lost with them, longest pause {longest:.2?} (goal {goal:?})",
        outcome.received,
        outcome.moves,
        outcome.disconnects.len(),
        outcome.lost_between_sessions,
    );
    let wrong = faults_of(outcome, allowed);
    assert!(wrong.is_empty(), "{who}: {wrong:#?}");
    assert!(longest < goal * 5, "{who}: {longest:?}");
}
