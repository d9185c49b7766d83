//! The revocation log: `WatchRevocations` at one replica of what another one did.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proto::internal::v1::revocation;
use runtime::{admin::Readiness, metrics::Metrics};
use sqlx::{AnyConnection, Connection as _};
use tokio::{sync::watch, task::JoinSet};
use tonic::Code;

use super::{
    fixture::{Fixture, reason},
    on_both,
    postgres::PostgresServer,
};
use crate::{
    DatabaseConfig, POSTGRES_CONNECTIONS,
    database::{Database, LogEntry, Termination},
    field::now_ms,
    log_tail::{LogFollower, LogTail},
    metrics::ControlMetrics,
};

on_both!(
    a_revocation_at_one_replica_reaches_a_watcher_at_another,
    a_watch_resumes_at_a_restarted_replica,
    concurrent_revocations_are_seen_once_and_in_order,
    a_watch_behind_pruned_entries_is_told_so,
    a_position_of_another_log_is_told_so,
    what_is_left_of_a_log_that_went_back_is_told,
    a_drain_ends_the_watch,
);

/// The goal is 500 ms; a busy test machine gets five times as long.
const DEADLINE: Duration = Duration::from_millis(5 * 500);

async fn a_revocation_at_one_replica_reaches_a_watcher_at_another(fixture: Fixture) {
    let (a, b) = (fixture.replica().await, fixture.replica().await);
    let mut watcher = b.watch(None).await.unwrap();
    assert_eq!(watcher.answer().await.unwrap().position, 0);
    let mut worst = Duration::ZERO;
    for position in 1..=5 {
        let (key, _) = a.create("main").await;
        a.revoke(&key.id).await;
        let revoked = Instant::now();
        let answer = watcher.revocations().await;
        worst = worst.max(revoked.elapsed());
        assert_eq!(answer.position, position);
        assert_eq!(
            answer.revocations[0].target,
            Some(revocation::Target::StreamKeyId(key.id))
        );
        assert_eq!(
            (
                answer.revocations.len(),
                answer.revocations[0].reason.as_str()
            ),
            (1, "a test")
        );
    }
    println!("revoked at A, told at B: at most {worst:?} of 5");
    assert!(worst < DEADLINE, "{worst:?}");
    assert!(
        b.metrics
            .encode()
            .contains("key_revocation_propagation_seconds_count 5")
    );
}

async fn a_watch_resumes_at_a_restarted_replica(fixture: Fixture) {
    let a = fixture.replica().await;
    let b = fixture.replica().await;
    let (first, _) = a.create("main").await;
    let (second, _) = a.create("main").await;
    a.revoke(&first.id).await;
    let position = b.watch(Some(0)).await.unwrap().revocations().await.position;
    drop(b);
    a.revoke(&second.id).await;

    let restarted = fixture.replica().await;
    let resumed = Instant::now();
    let answer = restarted
        .watch(Some(position))
        .await
        .unwrap()
        .revocations()
        .await;
    println!("resumed after a restart: {:?}", resumed.elapsed());
    assert!(resumed.elapsed() < DEADLINE);
    assert_eq!(answer.revocations.len(), 1);
    assert_eq!(
        answer.revocations[0].target,
        Some(revocation::Target::StreamKeyId(second.id))
    );
    assert!(!answer.truncated);
}

async fn concurrent_revocations_are_seen_once_and_in_order(fixture: Fixture) {
    const TASKS: usize = 6;
    const EACH: usize = 20;
    let replicas = [
        Arc::new(fixture.replica().await),
        Arc::new(fixture.replica().await),
    ];
    let mut watcher = replicas[1].watch(Some(0)).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let replica = replicas[task % replicas.len()].clone();
        tasks.spawn(async move {
            for number in 0..EACH {
                if number % 2 == 0 {
                    let (key, _) = replica.create("main").await;
                    replica.revoke(&key.id).await;
                } else {
                    let session_id = format!("{task}-{number}");
                    replica
                        .shared
                        .database
                        .terminate_session(&termination(&session_id), now_ms())
                        .await
                        .unwrap();
                }
            }
        });
    }
    let mut seen = Vec::new();
    while seen.len() < TASKS * EACH {
        let answer = watcher.revocations().await;
        assert!(!answer.truncated);
        seen.extend(answer.revocations);
        assert_eq!(seen.last().unwrap().position, answer.position);
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let positions: Vec<_> = seen.iter().map(|revocation| revocation.position).collect();
    assert_eq!(positions, (1..=(TASKS * EACH) as u64).collect::<Vec<_>>());
    let mut targets: Vec<_> = seen
        .iter()
        .map(|revocation| format!("{:?}", revocation.target))
        .collect();
    targets.sort();
    targets.dedup();
    assert_eq!(targets.len(), TASKS * EACH);
}

fn termination(session_id: &str) -> Termination<'_> {
    Termination {
        tenant: "default",
        session_id,
        stream_key_id: "",
        reason: "",
        held_off_until_ms: 0,
    }
}

async fn a_watch_behind_pruned_entries_is_told_so(fixture: Fixture) {
    let control = fixture.replica().await;
    let database = &control.shared.database;
    let start_ms = now_ms() - 5000;
    for (session_id, time_ms) in [("a", 1000), ("b", 3000), ("c", 2000), ("d", 4000)] {
        database
            .terminate_session(&termination(session_id), start_ms + time_ms)
            .await
            .unwrap();
    }
    // Clocks of replicas differ: everything up to the newest old entry goes.
    assert_eq!(
        database
            .prune_log::<LogEntry>(start_ms + 2500)
            .await
            .unwrap(),
        3
    );
    let mut gone = control.watch(Some(2)).await.unwrap();
    let answer = gone.answer().await.unwrap();
    assert_eq!((answer.truncated, answer.position), (true, 3));
    assert_eq!(gone.revocations().await.position, 4);
    let mut complete = control.watch(Some(3)).await.unwrap();
    assert!(!complete.answer().await.unwrap().truncated);
    assert_eq!(complete.revocations().await.revocations[0].position, 4);

    assert_eq!(
        database
            .prune_log::<LogEntry>(start_ms + 5000)
            .await
            .unwrap(),
        1
    );
    assert!(
        control
            .watch(Some(3))
            .await
            .unwrap()
            .answer()
            .await
            .unwrap()
            .truncated
    );
    let mut current = control.watch(Some(4)).await.unwrap();
    assert!(!current.answer().await.unwrap().truncated);
    // Both went on behind the pruned entries.
    database
        .terminate_session(&termination("e"), now_ms())
        .await
        .unwrap();
    assert_eq!(gone.revocations().await.position, 5);
    assert_eq!(current.revocations().await.position, 5);
}

async fn a_position_of_another_log_is_told_so(fixture: Fixture) {
    let control = fixture.replica().await;
    for after in [7, u64::MAX] {
        let answer = control
            .watch(Some(after))
            .await
            .unwrap()
            .answer()
            .await
            .unwrap();
        assert_eq!((answer.truncated, answer.position), (true, 0));
    }
}

async fn what_is_left_of_a_log_that_went_back_is_told(fixture: Fixture) {
    let control = fixture.replica().await;
    for session_id in ["a", "b"] {
        control
            .shared
            .database
            .terminate_session(&termination(session_id), now_ms())
            .await
            .unwrap();
    }
    // As after a failover to a database that had not heard of the last positions: what has taken them since is news.
    let mut watcher = control.watch(Some(3)).await.unwrap();
    let answer = watcher.answer().await.unwrap();
    assert_eq!((answer.truncated, answer.position), (true, 0));
    let mut told = Vec::new();
    while told.len() < 2 {
        told.extend(watcher.revocations().await.revocations);
    }
    let targets: Vec<_> = told.into_iter().filter_map(|told| told.target).collect();
    let session = |id: &str| revocation::Target::SessionId(id.to_owned());
    assert_eq!(targets, [session("a"), session("b")]);
}

async fn a_drain_ends_the_watch(fixture: Fixture) {
    let control = fixture.replica().await;
    let mut watcher = control.watch(None).await.unwrap();
    watcher.answer().await.unwrap();
    control.shutdown.drain();
    assert_eq!(
        reason(watcher.answer().await),
        (Code::Unavailable, "DRAINING".to_owned())
    );
}

/// A follower that asks by itself once an hour.
async fn follow_what_is_told(database: &Database) -> watch::Receiver<LogTail> {
    let metrics = ControlMetrics::register(&Metrics::default());
    let follower = LogFollower::start(database.clone(), metrics, Readiness::default());
    let (mut follower, tail) = follower.await.unwrap();
    follower.poll_every(Duration::from_secs(3600));
    tokio::spawn(follower.run());
    tail
}

async fn terminated(by: &Database, tail: &mut watch::Receiver<LogTail>, position: u64) {
    let session_id = format!("session-{position}");
    by.terminate_session(&termination(&session_id), now_ms())
        .await
        .unwrap();
    let start = Instant::now();
    let told = tail.wait_for(|tail| tail.position == position);
    tokio::time::timeout(5 * DEADLINE, told)
        .await
        .expect("it is told")
        .unwrap();
    println!("told without a poll after {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_told_what_it_has_written_itself() {
    let fixture = Fixture::sqlite();
    let database = Database::open(&fixture.config.database).await.unwrap();
    let mut tail = follow_what_is_told(&database).await;
    // Everybody who follows a log is told: nobody takes another's hint.
    let mut other = follow_what_is_told(&database).await;
    for position in 1..=3 {
        terminated(&database, &mut tail, position).await;
        let told = other.wait_for(|tail| tail.position == position);
        let told = tokio::time::timeout(5 * DEADLINE, told).await;
        assert_eq!(told.expect("it is told").unwrap().position, position);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_tells_what_another_process_has_written_also_behind_a_lost_connection() {
    let url = PostgresServer::shared().create_database().await;
    let config = DatabaseConfig::Postgres {
        url: url.clone(),
        password_file: None,
        connections: POSTGRES_CONNECTIONS,
    };
    let (here, there) = (Database::open(&config), Database::open(&config));
    let (here, there) = (here.await.unwrap(), there.await.unwrap());
    let mut tail = follow_what_is_told(&there).await;
    for position in 1..=3 {
        terminated(&here, &mut tail, position).await;
    }
    let mut connection = AnyConnection::connect(&url).await.unwrap();
    let ended: i64 = sqlx::query_scalar(
        "SELECT COUNT(CASE WHEN pg_terminate_backend(pid) THEN 1 END) FROM pg_stat_activity \
         WHERE datname = current_database() AND query LIKE 'LISTEN%'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!(ended >= 1, "somebody listens");
    for position in 4..=6 {
        terminated(&here, &mut tail, position).await;
    }
}
