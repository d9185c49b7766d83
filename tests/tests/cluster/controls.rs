//! Three controls on one PostgreSQL: one that dies and one that hangs do not keep a publisher waiting beyond the time
//! that control is given, and revocations arrive through the ones that are left. And one that starts before its database.

use std::time::{Duration, Instant};

use tests::{
    cluster::{Cluster, Database, Layout},
    deployment::{APP, Deployment},
    turn_alone,
    wait::{wait_for, wait_until},
    witness::Witness,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

/// What `edge.relay.authorize_timeout` leaves control.
const BUDGET: Duration = Duration::from_millis(2_500);
/// Handshakes, claim and open beside it.
const BESIDE: Duration = Duration::from_secs(1);
/// For a revocation to end a session, where a control that hangs must first be given up.
const REVOKED: Duration = Duration::from_secs(45);
/// The edge has looked its controls up, and follows revocations.
const READY: Duration = Duration::from_secs(30);

fn three_controls() -> Layout {
    Layout {
        database: Database::Postgres,
        controls: 3,
        origins: 1,
        edge_knows_all_controls: true,
        ..Layout::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_control_of_three_dies() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(three_controls()).await;
    let deployment = cluster.deployment.clone();
    let witness_key = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(&deployment, witness_key).await;
    cluster.controls[2].kill();
    publishes_are_admitted(&deployment, "killed").await;
    revocation_arrives(&cluster, "killed").await;
    witness.is_alive().await;
    cluster.controls[2].start().await;
    cluster.controls[2].serves(READY).await;
    publishes_are_admitted(&deployment, "back").await;
    witness.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_control_of_three_hangs() {
    let _turn = turn_alone().await;
    let cluster = Cluster::start(three_controls()).await;
    let deployment = cluster.deployment.clone();
    let witness_key = deployment.api.create_key(APP, "witness").await;
    let witness = Witness::start(&deployment, witness_key).await;
    // Whichever it is, one of the sessions' questions goes there.
    cluster.controls[1].process().signal("STOP");
    publishes_are_admitted(&deployment, "stopped").await;
    revocation_arrives(&cluster, "stopped").await;
    publishes_are_admitted(&deployment, "stopped-later").await;
    witness.is_alive().await;
    cluster.controls[1].process().signal("CONT");
    publishes_are_admitted(&deployment, "continued").await;
    witness.finish().await;
}

/// One after the other, so that every control's turn comes.
async fn publishes_are_admitted(deployment: &Deployment, round: &str) {
    let mut slowest = Duration::ZERO;
    let mut total = Duration::ZERO;
    for number in 0..9 {
        let key = deployment
            .api
            .create_key(APP, &format!("{round}-{number}"))
            .await;
        let mut encoder = deployment.encoder().await;
        let start = Instant::now();
        let status = encoder.publish(&key.app, &key.secret).await.unwrap();
        let elapsed = start.elapsed();
        assert_eq!(
            status.code, "NetStream.Publish.Start",
            "{round}: {status:?}"
        );
        assert!(
            elapsed < BUDGET + BESIDE,
            "{round}: admitted after {elapsed:?}"
        );
        encoder.finish(&key.secret).await.unwrap();
        slowest = slowest.max(elapsed);
        total += elapsed;
    }
    println!(
        "{round}: 9 publishes admitted, slowest {slowest:?}, mean {:?} (budget {BUDGET:?})",
        total / 9
    );
}

/// Revoked at the first control, wherever the edge listens.
async fn revocation_arrives(cluster: &Cluster, round: &str) {
    let api = cluster.api(0);
    let key = api.create_key(APP, &format!("{round}-revoked")).await;
    let witness = wait_for("a session to revoke", READY, async || {
        Some(Witness::start(&cluster.deployment, key.clone()).await)
    })
    .await;
    let start = Instant::now();
    api.revoke_key(&key.id, "the contract ended").await.unwrap();
    wait_until("the revoked session to end", REVOKED, || {
        !witness.is_publishing()
    })
    .await;
    println!("{round}: revoked session ended after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_that_starts_without_its_database_waits_for_it() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(Layout::postgres()).await;
    cluster.controls[0].kill();
    cluster.postgres.as_mut().unwrap().kill();
    let control = &mut cluster.controls[0];
    control.begin();
    let said = ["waiting for the database", "Connection refused"];
    control.process().log_line(&said, READY).await;
    // Who asks is to ask another control at once.
    let mut asking = TcpStream::connect(control.text("public")).await.unwrap();
    let closed = timeout(READY, asking.read_u8()).await;
    assert!(closed.expect("it is closed").is_err());
    control.process().signal("TERM");
    assert!(control.process_mut().exit(READY).await.success());

    control.begin();
    cluster.postgres.as_mut().unwrap().start_again().await;
    cluster.controls[0].begun().await;
    for control in &cluster.controls {
        control.serves(READY).await;
    }
    publishes_are_admitted(&cluster.deployment, "behind").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_behind_which_nobody_listens_is_no_hindrance() {
    let _turn = turn_alone().await;
    let mut cluster = Cluster::start(Layout {
        origins: 1,
        ..Layout::default()
    })
    .await;
    let internal = cluster.controls[0].text("internal");
    let (_, port) = internal.rsplit_once(':').unwrap();
    let names = format!(
        "[\"localhost:{port}\", \"localhost:{}\"]",
        tests::free_port()
    );
    cluster.edge.kill();
    cluster.edge.set("EDGE__CONTROL", names);
    cluster.edge.start().await;
    cluster.edge.serves(READY).await;
    publishes_are_admitted(&cluster.deployment, "half-dead").await;
}
