//! A key is revoked at one control: the live session ends at an edge that listens to another, also after that one was
//! started again.

use std::time::Instant;

use tests::{
    api::Api,
    cluster::{Cluster, Layout},
    deployment::{APP, Deployment},
    scenario::{REVOCATION_DEADLINE, ends, revocation_ends_the_session},
    standalone::Standalone,
    turn_alone,
    witness::Witness,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_reaches_the_edge_through_the_other_control() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(Layout::postgres()).await;
    let deployment = cluster.deployment.clone();
    // The edge listens to the last control alone; revocations are made at the first.
    let (here, there) = (cluster.api(0), cluster.controls.len() - 1);
    for round in 0..3 {
        revocation_ends_the_session(&deployment, &here, &format!("revoked-{round}")).await;
    }

    let key = deployment.api.create_key(APP, "survivor").await;
    let survivor = Witness::start(&deployment, key).await;
    cluster.controls[there].kill();
    survivor.is_alive().await;
    cluster.controls[there].start().await;
    cluster.controls[there].serves(REVOCATION_DEADLINE).await;
    survivor.is_alive().await;
    revocation_ends_the_session(&deployment, &here, "revoked-after-restart").await;
    survivor.is_alive().await;

    // What was revoked while the edge had no control to listen to is told when one is back.
    cluster.controls[there].kill();
    here.revoke_key(&survivor.key.id, "while nobody listened")
        .await
        .unwrap();
    cluster.controls[there].start().await;
    ends(&survivor, Instant::now()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revocation_and_termination_end_a_session_of_the_standalone_process() {
    let _turn = turn_alone().await;
    let standalone = Standalone::start().await;
    let deployment = &standalone.deployment;
    revocation_ends_the_session(deployment, &deployment.api, "revoked").await;
    termination_ends_the_session(deployment, &deployment.api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn termination_reaches_the_edge_through_the_other_control() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(Layout::postgres()).await;
    termination_ends_the_session(&cluster.deployment, &cluster.api(0)).await;
}

async fn termination_ends_the_session(deployment: &Deployment, api: &Api) {
    let key = api.create_key(APP, "terminated").await;
    let witness = Witness::start(deployment, key.clone()).await;
    let session = api.session_of(&key.stream).await.expect("a live session");
    let start = Instant::now();
    api.terminate(&session.id, "off the air").await.unwrap();
    ends(&witness, start).await;

    // An encoder that connects again by itself does not undo it.
    let mut again = deployment.encoder().await;
    let status = again.publish(&key.app, &key.secret).await.unwrap();
    assert_eq!(status.code, "NetStream.Publish.BadName", "{status:?}");
}
