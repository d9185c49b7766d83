//! Control, Redis or the origins are not there: new publishers are told to come back, live sessions go on.

use std::time::Duration;

use tests::{
    cluster::{Cluster, Layout},
    deployment::APP,
    scenario::{assert_refused_for_now, is_accepted, tries_to_publish},
    turn,
    wait::wait_for,
    witness::Witness,
};

const RECOVERS: Duration = Duration::from_secs(60);
const LOGGED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_sessions_outlive_control_and_redis() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout::default()).await;
    let deployment = cluster.deployment.clone();
    let key = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(&deployment, key).await;
    let next = deployment.api.create_key(APP, "next").await;

    cluster.controls[0].kill();
    let status = tries_to_publish(&deployment, &next).await;
    assert_refused_for_now(&status);
    let edge = cluster.edge.process();
    edge.log_line(&["reason=\"control_unavailable\""], LOGGED)
        .await;
    witness.is_alive().await;
    cluster.controls[0].start().await;
    is_accepted(&deployment, &next, RECOVERS).await;

    cluster.redis.kill();
    witness.is_alive().await;
    // The outage policy `keep`: the origin alone fences.
    let status = tries_to_publish(&deployment, &next).await;
    assert_eq!(status.code, "NetStream.Publish.Start", "{status:?}");
    witness.is_alive().await;
    cluster.redis.start_again().await;
    is_accepted(&deployment, &next, RECOVERS).await;
    wait_for(
        "the session to be in the registry again",
        RECOVERS,
        async || {
            let sessions = deployment.api.sessions().await.ok()?;
            let found = sessions.iter().any(|session| session.stream == "witness");
            found.then_some(())
        },
    )
    .await;
    witness.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_without_an_origin_is_told_to_come_back() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout::default()).await;
    let deployment = cluster.deployment.clone();
    let key = deployment.api.create_key(APP, "early").await;
    for origin in &mut cluster.origins {
        origin.kill();
    }
    let status = tries_to_publish(&deployment, &key).await;
    assert_refused_for_now(&status);
    let edge = cluster.edge.process();
    edge.log_line(&["reason=\"no_origin\""], LOGGED).await;
    cluster.origins[0].start().await;
    is_accepted(&deployment, &key, RECOVERS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_fails_closed_refuses_new_publishers_while_redis_is_down() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout {
        edge: vec![("EDGE__OUTAGE_POLICY", "fail_closed".to_owned())],
        ..Layout::default()
    })
    .await;
    let deployment = cluster.deployment.clone();
    let key = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(&deployment, key).await;
    let next = deployment.api.create_key(APP, "next").await;
    cluster.redis.kill();
    let status = tries_to_publish(&deployment, &next).await;
    assert_refused_for_now(&status);
    let edge = cluster.edge.process();
    edge.log_line(&["reason=\"registry_unavailable\""], LOGGED)
        .await;
    witness.is_alive().await;
    witness.finish().await;
}
