//! A database that is slow, read-only or full: what cannot be decided or written is refused for now, what can be goes on,
//! and all is well once the database is.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use proto::{
    internal::v1::{ReportSessionsRequest, admission_service_server::AdmissionService as _},
    v1::{
        CreateStreamKeyRequest, ListStreamKeysRequest, RevokeStreamKeyRequest,
        stream_key_service_server::StreamKeyService as _,
    },
};
use runtime::identity::Role;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, migrate::Migrate as _};
use tonic::{Code, Status};

use super::{
    admission_service::is_granted,
    fixture::{Fixture, Replica, of_role, of_tenant, reason, until},
};
use crate::{
    DatabaseConfig,
    database::{Database, DatabaseError},
};

/// Five times what an edge waits for a decision.
const ANSWER_MAX: Duration = Duration::from_millis(12_500);
const RECOVERS: Duration = Duration::from_secs(30);

fn assert_unavailable<T>(answer: Result<T, Status>, what: &str) {
    let expected = (Code::Unavailable, "DATABASE_UNAVAILABLE".to_owned());
    assert_eq!(reason(answer), expected, "{what}");
}

async fn create(control: &Replica) -> Result<(), Status> {
    let request = CreateStreamKeyRequest {
        app: "live".to_owned(),
        stream: "next".to_owned(),
        ..CreateStreamKeyRequest::default()
    };
    let created = control
        .keys
        .create_stream_key(of_tenant("default", request));
    created.await.map(drop)
}

async fn revoke(control: &Replica, id: &str) -> Result<(), Status> {
    let request = RevokeStreamKeyRequest {
        id: id.to_owned(),
        reason: String::new(),
    };
    let revoked = control
        .keys
        .revoke_stream_key(of_tenant("default", request));
    revoked.await.map(drop)
}

async fn list(control: &Replica) -> Result<(), Status> {
    let request = of_tenant("default", ListStreamKeysRequest::default());
    control.keys.list_stream_keys(request).await.map(drop)
}

async fn writes_are_refused_for_now(control: &Replica, id: &str) {
    assert_unavailable(create(control).await, "create");
    assert_unavailable(revoke(control, id).await, "revoke");
}

async fn reads_go_on(control: &Replica, secret: &str) {
    let answer = control.authorize("live", secret).await.unwrap();
    assert!(is_granted(&answer), "{answer:?}");
    list(control).await.unwrap();
}

/// Without a restart.
async fn recovers(control: &Replica, id: &str, secret: &str) {
    let begun = Instant::now();
    loop {
        let granted = control.authorize("live", secret).await;
        let created = create(control).await;
        match (granted, created) {
            (Ok(answer), Ok(())) if is_granted(&answer) => break,
            unready => assert!(begun.elapsed() < RECOVERS, "{unready:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("all is well again after {:?}", begun.elapsed());
    revoke(control, id).await.unwrap();
}

async fn other_connection(fixture: &Fixture) -> AnyConnection {
    let url = match &fixture.config.database {
        DatabaseConfig::Sqlite { path } => format!("sqlite://{}", path.display()),
        DatabaseConfig::Postgres { url, .. } => url.clone(),
    };
    AnyConnection::connect(&url).await.unwrap()
}

async fn execute(connection: &mut AnyConnection, statements: &str) {
    let statements = AssertSqlSafe(statements.to_owned());
    sqlx::raw_sql(statements).execute(connection).await.unwrap();
}

/// Every connection that control may have, at once.
async fn on_each_connection(control: &Replica, statement: &str) {
    let pool = control.shared.database.pool();
    let most = pool.options().get_max_connections();
    let mut connections = Vec::new();
    for _ in 0..most {
        connections.push(pool.acquire().await.unwrap());
    }
    for connection in &mut connections {
        execute(connection, statement).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_that_another_process_has_locked_is_read_on() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    let mut other = other_connection(&fixture).await;
    execute(&mut other, "BEGIN IMMEDIATE").await;
    let begun = Instant::now();
    writes_are_refused_for_now(&control, &key.id).await;
    assert!(begun.elapsed() < 2 * ANSWER_MAX, "{:?}", begun.elapsed());
    reads_go_on(&control, &secret).await;
    execute(&mut other, "ROLLBACK").await;
    recovers(&control, &key.id, &secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_that_is_full_is_read_on() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    // SQLite puts a limit below the pages that are there up to these. Whatever it writes then, it finds no room.
    on_each_connection(&control, "PRAGMA max_page_count = 1").await;
    let begun = Instant::now();
    while let Ok(()) = create(&control).await {
        assert!(begun.elapsed() < RECOVERS, "there is room for ever");
    }
    assert_unavailable(create(&control).await, "create");
    reads_go_on(&control, &secret).await;
    on_each_connection(&control, "PRAGMA max_page_count = 1000000").await;
    recovers(&control, &key.id, &secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_that_is_read_only_is_read_on() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    // What SQLite answers of a file that it cannot write; modes do not stop a test that root runs.
    on_each_connection(&control, "PRAGMA query_only = on").await;
    writes_are_refused_for_now(&control, &key.id).await;
    reads_go_on(&control, &secret).await;
    on_each_connection(&control, "PRAGMA query_only = off").await;
    recovers(&control, &key.id, &secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_that_is_read_only_is_read_on() {
    let fixture = Fixture::postgres().await;
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    let mut other = other_connection(&fixture).await;
    on_each_connection(&control, "SET default_transaction_read_only = on").await;
    // And each new one.
    read_only(&mut other, "on").await;
    writes_are_refused_for_now(&control, &key.id).await;
    reads_go_on(&control, &secret).await;
    read_only(&mut other, "off").await;
    on_each_connection(&control, "SET default_transaction_read_only = off").await;
    recovers(&control, &key.id, &secret).await;
}

async fn read_only(connection: &mut AnyConnection, whether: &str) {
    let database: String = sqlx::query_scalar("SELECT CAST(current_database() AS TEXT)")
        .fetch_one(&mut *connection)
        .await
        .unwrap();
    let statement =
        format!("ALTER DATABASE {database} SET default_transaction_read_only = {whether}");
    execute(
        connection,
        &format!("SET default_transaction_read_only = off; {statement}"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_that_is_full_is_read_on() {
    let fixture = Fixture::postgres().await;
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    let mut other = other_connection(&fixture).await;
    // What PostgreSQL answers where it cannot make a file longer: disk_full.
    execute(
        &mut other,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$; \
         CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk()",
    )
    .await;
    writes_are_refused_for_now(&control, &key.id).await;
    reads_go_on(&control, &secret).await;
    execute(&mut other, "DROP TRIGGER full_disk ON events").await;
    recovers(&control, &key.id, &secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_behind_a_lock_decides_nothing_and_keeps_nothing_waiting() {
    let fixture = Fixture::postgres().await;
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    let mut other = other_connection(&fixture).await;
    execute(
        &mut other,
        "BEGIN; LOCK TABLE stream_keys IN ACCESS EXCLUSIVE MODE",
    )
    .await;
    let begun = Instant::now();
    // More than control has connections.
    let waiting: Vec<_> = (0..20)
        .map(|_| control.authorize("live", &secret))
        .collect();
    for answer in futures_util::future::join_all(waiting).await {
        assert_unavailable(answer, "authorize");
    }
    println!("20 were refused for now after {:?}", begun.elapsed());
    assert!(begun.elapsed() < ANSWER_MAX, "{:?}", begun.elapsed());
    // What the lock does not concern goes on.
    let report = of_role(Role::Edge, ReportSessionsRequest::default());
    control.admission.report_sessions(report).await.unwrap();
    let waits: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND state = 'active' AND clock_timestamp() - query_start > interval '10 seconds'",
    )
    .fetch_one(&mut other)
    .await
    .unwrap();
    assert_eq!(waits, 0, "the server has given up as well");
    execute(&mut other, "ROLLBACK").await;
    recovers(&control, &key.id, &secret).await;
}

/// A stopped process answers nothing and closes nothing: as a server behind a network that swallows everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_hang_for_ever_are_replaced() {
    let fixture = Fixture::postgres().await;
    let control = fixture.replica().await;
    let (key, secret) = control.create("main").await;
    // As many connections as there may be.
    on_each_connection(&control, "SELECT 1").await;
    let mut other = other_connection(&fixture).await;
    let backends: Vec<i32> = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .fetch_all(&mut other)
    .await
    .unwrap();
    assert!(backends.len() >= 8, "{backends:?}");
    let stopped = Stopped::new(backends);
    let begun = Instant::now();
    let waiting: Vec<_> = (0..20)
        .map(|_| control.authorize("live", &secret))
        .collect();
    let answers = futures_util::future::join_all(waiting).await;
    let refused = answers.into_iter().filter(Result::is_err);
    let refused: Vec<_> = refused.collect();
    assert!(!refused.is_empty(), "somebody had one of these connections");
    for answer in refused {
        assert_unavailable(answer, "authorize");
    }
    assert!(begun.elapsed() < ANSWER_MAX, "{:?}", begun.elapsed());
    recovers(&control, &key.id, &secret).await;
    drop(stopped);
}

/// The server gives up such a wait, unless it has vanished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_vanishes_while_a_migration_waits_for_another_is_given_up() {
    let fixture = Fixture::postgres().await;
    let mut holder = other_connection(&fixture).await;
    holder.lock().await.unwrap();
    let database = fixture.config.database.clone();
    let limit = Duration::from_secs(3);
    let mut looking = other_connection(&fixture).await;
    let stopping = async {
        let mut waits = None;
        until("the migration waits for the other one", async || {
            let asked = sqlx::query_scalar::<_, i32>(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
                 AND wait_event_type = 'Lock' AND wait_event = 'advisory'",
            );
            waits = asked.fetch_optional(&mut looking).await.unwrap();
            waits.is_some()
        })
        .await;
        Stopped::new(waits.into_iter().collect())
    };
    let begun = Instant::now();
    let (opened, stopped) = tokio::join!(Database::open_within(&database, limit), stopping);
    let error = opened.err().unwrap();
    println!("given up after {:?}", begun.elapsed());
    assert!(matches!(error, DatabaseError::Timeout), "{error:?}");
    assert!(begun.elapsed() >= limit && error.may_pass());
    drop(stopped);
}

/// Processes that go on when it is dropped: the server could not end otherwise.
struct Stopped(Vec<i32>);

impl Stopped {
    fn new(processes: Vec<i32>) -> Self {
        signal("STOP", &processes);
        Self(processes)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("CONT", &self.0);
    }
}

fn signal(name: &str, processes: &[i32]) {
    let status = Command::new("kill")
        .arg(format!("-{name}"))
        .args(processes.iter().map(i32::to_string))
        .status()
        .unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_connection_has_its_limits_and_there_are_as_many_as_configured() {
    let mut fixture = Fixture::postgres().await;
    let DatabaseConfig::Postgres { connections, .. } = &mut fixture.config.database else {
        panic!("a fixture of PostgreSQL");
    };
    *connections = 3;
    let control = fixture.replica().await;
    let pool = control.shared.database.pool();
    assert_eq!(pool.options().get_max_connections(), 3);
    for (name, limit) in [
        ("statement_timeout", "2s"),
        ("lock_timeout", "1500ms"),
        ("idle_in_transaction_session_timeout", "5s"),
    ] {
        let set: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(pool)
            .await
            .unwrap();
        assert_eq!(set, limit, "{name}");
    }
}
