//! Start, restart, and a database that goes and comes.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use data_encoding::{BASE64, HEXLOWER};
use runtime::{admin::Readiness, error::chain};
use sqlx::{AnyConnection, Connection as _, migrate::Migrate as _};
use tokio::time::timeout;
use tonic::Code;

use super::{
    admission_service::is_granted,
    fixture::{Fixture, Replica, reason, until},
    on_both,
    postgres::PostgresServer,
    reload::replace,
};
use crate::{ControlError, DatabaseConfig, POSTGRES_CONNECTIONS, database::Database};

on_both!(a_restart_keeps_keys, the_database_does_not_hold_the_secret);

async fn a_restart_keeps_keys(fixture: Fixture) {
    let control = fixture.replica().await;
    let (_, secret) = control.create("main").await;
    let (revoked, revoked_secret) = control.create("main").await;
    control.revoke(&revoked.id).await;
    drop(control);
    let control = fixture.replica().await;
    assert!(is_granted(
        &control.authorize("live", &secret).await.unwrap()
    ));
    assert!(!is_granted(
        &control.authorize("live", &revoked_secret).await.unwrap()
    ));
}

/// Everything stored, as bytes.
async fn stored(fixture: &Fixture) -> Vec<u8> {
    match &fixture.config.database {
        DatabaseConfig::Sqlite { path } => {
            let companion = |suffix: &str| {
                std::fs::read(format!("{}{suffix}", path.display())).unwrap_or_default()
            };
            ["", "-wal"].map(companion).concat()
        }
        DatabaseConfig::Postgres { url, .. } => {
            let pool = sqlx::AnyPool::connect(url).await.unwrap();
            let mut stored = String::new();
            for statement in [
                "SELECT CAST(stream_keys AS TEXT) FROM stream_keys",
                "SELECT CAST(streams AS TEXT) FROM streams",
                "SELECT CAST(revocations AS TEXT) FROM revocations",
            ] {
                let rows: Vec<String> = sqlx::query_scalar(statement)
                    .fetch_all(&pool)
                    .await
                    .unwrap();
                stored.push_str(&rows.concat());
            }
            stored.into_bytes()
        }
    }
}

async fn the_database_does_not_hold_the_secret(fixture: Fixture) {
    let control = fixture.replica().await;
    let (key, whole) = control.create("main").await;
    assert!(is_granted(
        &control.authorize("live", &whole).await.unwrap()
    ));
    control.revoke(&key.id).await;
    let stored = stored(&fixture).await;
    let holds = |needle: &[u8]| stored.windows(needle.len()).any(|window| window == needle);
    assert!(holds(key.id.as_bytes()), "the search finds what is there");
    let behind_id = whole.rsplit_once('_').unwrap().1;
    let secret = &behind_id[..26];
    for part in [whole.as_str(), behind_id, secret] {
        for needle in [
            part.to_owned(),
            HEXLOWER.encode(part.as_bytes()),
            BASE64.encode(part.as_bytes()),
        ] {
            assert!(!holds(needle.trim_end_matches('=').as_bytes()));
        }
    }
}

#[tokio::test]
async fn sqlite_files_are_for_their_owner_alone() {
    let fixture = Fixture::sqlite();
    let control = fixture.replica().await;
    control.create("main").await;
    for name in ["headwater.db", "headwater.db-wal", "headwater.db-shm"] {
        let mode = std::fs::metadata(fixture.directory.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn a_sqlite_path_may_hold_any_character() {
    let mut fixture = Fixture::sqlite();
    let path = fixture
        .directory
        .path()
        .join("Ein Weg #1?mode=ro&x=50%25.db");
    fixture.config.database = DatabaseConfig::Sqlite { path: path.clone() };
    fixture.replica().await.create("main").await;
    assert!(path.is_file());
}

#[tokio::test]
async fn a_database_that_is_not_there_is_a_clear_error() {
    let mut fixture = Fixture::sqlite();
    fixture.config.database = DatabaseConfig::Sqlite {
        path: "/nonexistent/headwater.db".into(),
    };
    let error = fixture.try_replica().await.err().unwrap();
    assert!(
        chain(&error).contains("/nonexistent/headwater.db cannot be opened"),
        "{}",
        chain(&error)
    );

    // What no waiting can mend.
    for url in [
        "postgres://headwater@127.0.0.1:none/headwater",
        "postgres://headwater@127.0.0.1/headwater?sslmode=some",
    ] {
        fixture.config.database = postgresql(url.to_owned(), None);
        let error = fixture.try_replica().await.err().unwrap();
        assert!(matches!(error, ControlError::Database(_)), "{error:?}");
        assert!(
            chain(&error).starts_with("the key database cannot be used: "),
            "{}",
            chain(&error)
        );
    }
}

fn postgresql(url: String, password_file: Option<PathBuf>) -> DatabaseConfig {
    DatabaseConfig::Postgres {
        url,
        password_file,
        connections: POSTGRES_CONNECTIONS,
    }
}

/// Control, opened while the database is as it is until `mended`; what is told meanwhile holds this.
async fn opened_behind(
    fixture: &Fixture,
    told: &str,
    mended: impl AsyncFnOnce(),
) -> (Replica, String) {
    let readiness = Readiness::default();
    let mending = async {
        let mut missing = String::new();
        until(&format!("{told:?} is told"), async || {
            missing = readiness.missing().join("; ");
            missing.contains("database: ") && missing.contains(told)
        })
        .await;
        mended().await;
        missing
    };
    let (opened, missing) = tokio::join!(fixture.opened(readiness.clone()), mending);
    assert_eq!(readiness.missing(), Vec::<String>::new());
    (opened.unwrap(), missing)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_waits_for_a_database_that_is_down_or_hangs() {
    let server = PostgresServer::start();
    let url = server.create_database().await;
    let fixture = Fixture::new(|_| postgresql(url.clone(), None));
    let answers = async || {
        let connecting = AnyConnection::connect(&url);
        matches!(timeout(CONNECTS, connecting).await, Ok(Ok(_)))
    };
    for (fault, told, end) in [
        ("stop", "the database cannot be reached", "start"),
        ("freeze", "the database did not answer in time", "thaw"),
    ] {
        server.command(fault);
        until("no new connection", async || !answers().await).await;
        let (control, _) = opened_behind(&fixture, told, async || server.command(end)).await;
        let (_, secret) = control.create(fault).await;
        assert!(is_granted(
            &control.authorize("live", &secret).await.unwrap()
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_waits_for_a_password_that_the_database_takes() {
    let server = PostgresServer::start();
    server.demand_password("guarded", "the right one").await;
    let mut fixture = Fixture::sqlite();
    let password_file = fixture.directory.path().join("password");
    replace(&password_file, "a wrong one\n");
    let url = server.url_with_host("guarded", "postgres");
    fixture.config.database = postgresql(url, Some(password_file.clone()));
    let told = "password authentication failed";
    let mend = async || replace(&password_file, "the right one\n");
    let (control, missing) = opened_behind(&fixture, told, mend).await;
    assert!(!missing.contains("a wrong one"), "{missing}");
    control.create("main").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_waits_for_sqlite_that_another_process_has_locked() {
    sqlx::any::install_default_drivers();
    let fixture = Fixture::sqlite();
    let path = fixture.directory.path().join("headwater.db");
    let url = format!("sqlite://{}?mode=rwc", path.display());
    let mut other = AnyConnection::connect(&url).await.unwrap();
    // No write-ahead log yet: nobody reads either.
    let locking = sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut other);
    locking.await.unwrap();
    let end = async || other.close().await.unwrap();
    let (control, _) = opened_behind(&fixture, "database is locked", end).await;
    control.create("main").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_waits_for_a_migration_that_is_under_way_elsewhere() {
    let fixture = Fixture::postgres().await;
    let DatabaseConfig::Postgres { url, .. } = &fixture.config.database else {
        panic!("{:?}", fixture.config.database);
    };
    let mut other = AnyConnection::connect(url).await.unwrap();
    other.lock().await.unwrap();
    // The wait itself ends, and is of those that begin anew.
    let limit = Duration::from_millis(100);
    let waited = Database::open_within(&fixture.config.database, limit).await;
    let error = waited.err().unwrap();
    assert!(chain(&error).contains("lock timeout"), "{}", chain(&error));
    assert!(error.may_pass());
    // While it lasts, it is told.
    let told = "being opened: a migration is under way";
    let end = async || other.unlock().await.unwrap();
    let (control, _) = opened_behind(&fixture, told, end).await;
    control.create("main").await;
}

/// For a connection to a server that is well.
const CONNECTS: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_missing_secret_names_its_file() {
    let mut fixture = Fixture::sqlite();
    fixture.config.pepper_file = Path::new("/nonexistent/pepper").to_owned();
    let error = chain(&fixture.try_replica().await.err().unwrap());
    assert!(
        error.contains("/nonexistent/pepper cannot be read"),
        "{error}"
    );
}

#[tokio::test]
async fn a_name_that_cannot_be_one_is_refused() {
    let mut fixture = Fixture::sqlite();
    fixture.config.applications = vec![crate::Application::managed("../live")];
    let error = fixture.try_replica().await.err().unwrap();
    assert!(
        error.to_string().contains("application \"../live\""),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_may_migrate_at_the_same_time() {
    let fixture = Fixture::postgres().await;
    let (a, b, c) = tokio::join!(fixture.replica(), fixture.replica(), fixture.replica());
    let (_, secret) = a.create("main").await;
    for replica in [a, b, c] {
        assert!(is_granted(
            &replica.authorize("live", &secret).await.unwrap()
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_outlives_its_database() {
    let server = PostgresServer::start();
    let url = server.create_database().await;
    let fixture = Fixture::new(|_| postgresql(url, None));
    let control = fixture.replica().await;
    let (_, secret) = control.create("main").await;
    let mut watcher = control.watch(None).await.unwrap();

    server.command("stop");
    let stopped = Instant::now();
    let failed = loop {
        match control.authorize("live", &secret).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(status) => break status,
        }
        assert!(
            stopped.elapsed() < Duration::from_secs(30),
            "PostgreSQL does not stop"
        );
    };
    assert_eq!(
        reason::<()>(Err(failed)),
        (Code::Unavailable, "DATABASE_UNAVAILABLE".to_owned())
    );
    let watch_end = loop {
        if let Err(status) = watcher.answer().await {
            break status;
        }
    };
    assert_eq!(
        reason::<()>(Err(watch_end)),
        (Code::Unavailable, "DATABASE_UNAVAILABLE".to_owned())
    );
    assert_eq!(
        control.watch(None).await.err().unwrap().code(),
        Code::Unavailable
    );

    server.command("start");
    until("the database is there, and control authorizes", async || {
        matches!(control.authorize("live", &secret).await, Ok(answer) if is_granted(&answer))
    })
    .await;
    until("watches recover", async || {
        control.watch(None).await.is_ok()
    })
    .await;
}
