//! An edge that starts while Redis is down finds origins by the name of their Service.

use std::time::Duration;

use tests::{
    cluster::{Cluster, Layout},
    deployment::APP,
    turn,
    wait::{wait_for, wait_until},
    witness::Witness,
};

const STARTS: Duration = Duration::from_secs(30);
const LOGGED: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_that_starts_without_redis_finds_origins_by_dns() {
    let _turn = turn().await;
    let mut cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let deployment = cluster.deployment.clone();
    let key = deployment.api.create_key(APP, "witness").await;
    let relay = cluster.origins[0].text("relay");
    let (_, port) = relay.rsplit_once(':').unwrap();

    cluster.redis.kill();
    cluster.edge.kill();
    let name = format!("localhost:{port}");
    cluster.edge.set("EDGE__ORIGINS_DNS", name);
    cluster.edge.start().await;
    cluster.edge.serves(STARTS).await;
    let edge = cluster.edge.process();
    edge.log_line(&["known origins", &format!("{relay:?}")], LOGGED)
        .await;
    // Once the origin has a session, its name replaces its address. The log holds the first start, too.
    let named = || edge.log().matches(r#"origins=["origin-0"]"#).count();
    let told = || {
        edge.log()
            .matches("the registry tells origins again")
            .count()
    };
    let before = (named(), told());
    let witness = Witness::start(&deployment, key).await;
    wait_until("the origin's name", LOGGED, || named() > before.0).await;

    cluster.redis.start_again().await;
    wait_until("announcements", LOGGED, || told() > before.1).await;
    let next = deployment.api.create_key(APP, "next").await;
    let encoder = deployment.publish(&next).await;
    let session = wait_for("the next session", LOGGED, async || {
        deployment.api.session_of("next").await
    });
    assert_eq!(session.await.origin, "origin-0");
    // Who was published when only its address was known has a lease too by now, in which readers look for it.
    let session = wait_for("the session of before", LOGGED, async || {
        deployment.api.session_of("witness").await
    });
    assert_eq!(session.await.origin, "origin-0");
    encoder.finish(&next.secret).await.unwrap();
    witness.is_alive().await;
    witness.finish().await;
}
