//! The key database: SQLite or PostgreSQL behind one set of statements and migrations.
//!
//! Nothing here decides; nothing here sees a secret (a stream key arrives as its HMAC).

mod backup;
mod credentials;
mod deliveries;
mod events;
mod growth;
mod keys;
mod log;
mod pool;
mod prune;
mod quotas;
mod rehash;
mod requests;
mod revocations;
mod tokens;
mod told_sessions;
mod webhooks;

use std::{
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use runtime::{
    error::chain,
    reload::{FileError, Files, RELOAD_PERIOD},
};
use sqlx::{
    Any, AnyConnection, AnyPool, AssertSqlSafe, ConnectOptions as _, Connection as _,
    SqlSafeStr as _, Transaction,
    any::AnyConnectOptions,
    migrate::{Migrate as _, MigrateError, Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;

pub use self::backup::{BackupError, backup};
use self::growth::Growth;
#[cfg(test)]
pub(crate) use self::prune::ROWS_PER_STEP;
pub(crate) use self::{
    credentials::{Refused, Standing},
    deliveries::{Delivery, Settled, Settlement},
    events::{EventEntry, NewEvent, Subject},
    keys::{
        ChangeOutcome, CreateOutcome, Creation, Deletion, KeyChange, KeyFilter, KeyRecord,
        PreviousSecret,
    },
    log::Logged,
    quotas::QuotaByGroup,
    rehash::{Outdated, Rehash},
    requests::{KnownRequest, NewRequest},
    revocations::{ChangedTerms, LogEntry, Target, Termination},
    tokens::TokenRecord,
    told_sessions::ToldSession,
    webhooks::{WebhookOutcome, WebhookRecord},
};
use crate::{
    config::DatabaseConfig,
    secret_file::{password, read_password},
};

/// A cheap handle.
#[derive(Clone)]
pub(crate) struct Database {
    pool: AnyPool,
    growth: Growth,
    /// End with the last handle.
    _background: Arc<Vec<AbortOnDropHandle<()>>>,
}

/// The database could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection to begin with.
    #[error("the database cannot be reached, or lets nobody in")]
    Connect(#[source] sqlx::Error),
    /// The schema is not what this version needs, and could not be made so.
    #[error("the database cannot be migrated")]
    Migration(#[from] MigrateError),
    /// The directory or file cannot be written.
    #[error("{} cannot be opened", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is stored is not what we write.
    #[error("the database holds a malformed {what}")]
    Malformed {
        /// Which value.
        what: &'static str,
    },
    /// The password could not be read.
    #[error("the database's password")]
    Password(#[from] FileError),
    /// A password file, and a URL that has no place for a password.
    #[error("the database's URL has no host, so it takes no password")]
    PasswordWithoutHost,
    /// A connection was lost, or an error of the database.
    #[error("the database cannot be reached or refused a statement")]
    Sql(#[from] sqlx::Error),
    /// No answer within [`OPERATION_TIMEOUT`].
    #[error("the database did not answer in time")]
    Timeout,
}

impl Database {
    /// Connects and migrates, or fails soon. Several processes may do so at the same time on PostgreSQL.
    pub(crate) async fn open(config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        Self::open_within(config, MIGRATION_LOCK_TIMEOUT).await
    }

    /// The same, where a migration waits for each lock at most so long.
    pub(crate) async fn open_within(
        config: &DatabaseConfig,
        lock_timeout: Duration,
    ) -> Result<Self, DatabaseError> {
        sqlx::any::install_default_drivers();
        let mut rotating = None;
        let options = match config {
            DatabaseConfig::Postgres {
                url,
                password_file: Some(path),
                ..
            } => {
                let (file, password) = read_password(path)?;
                rotating = Some((file, url.clone()));
                postgres_options(url, Some(&password))?
            }
            DatabaseConfig::Postgres {
                url,
                password_file: None,
                ..
            } => postgres_options(url, None)?,
            DatabaseConfig::Sqlite { path } => sqlite_options(path).await?,
        };
        migrate(config, &options, lock_timeout).await?;
        let pool = pool::options(config).connect_with(options).await;
        let pool = pool.map_err(DatabaseError::Connect)?;
        let growth = Growth::default();
        let mut background = Vec::new();
        if let Some((file, url)) = rotating {
            background.push(tokio::spawn(follow_password(file, url, pool.clone())));
        }
        if matches!(config, DatabaseConfig::Postgres { .. }) {
            background.push(tokio::spawn(growth::listen(pool.clone(), growth.clone())));
        }
        let background = background.into_iter().map(AbortOnDropHandle::new);
        Ok(Self {
            pool,
            growth,
            _background: Arc::new(background.collect()),
        })
    }

    /// Ends all connections.
    pub(crate) async fn close(&self) {
        // A connection that hangs must not hold up the end of the process.
        timeout(OPERATION_TIMEOUT, self.pool.close()).await.ok();
    }

    /// Changes when the revocation log may have grown.
    pub(crate) fn log_growth(&self) -> watch::Receiver<()> {
        self.growth.hints()
    }

    /// Commits what may have appended to the revocation log.
    async fn commit(&self, transaction: Transaction<'_, Any>) -> Result<(), DatabaseError> {
        transaction.commit().await?;
        self.growth.tell();
        Ok(())
    }

    /// To look at what is stored.
    #[cfg(any(test, feature = "benchmark"))]
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    async fn bounded<T>(
        &self,
        operation: impl Future<Output = Result<T, DatabaseError>>,
    ) -> Result<T, DatabaseError> {
        match timeout(OPERATION_TIMEOUT, operation).await {
            Ok(result) => result,
            Err(_elapsed) => Err(DatabaseError::Timeout),
        }
    }
}

impl DatabaseError {
    /// Whether it may be well by waiting: the database is away, slow, or does not let us in yet. A password may come to its
    /// file, and a role or a database into being.
    pub(crate) fn may_pass(&self) -> bool {
        let outermost: &(dyn std::error::Error + 'static) = self;
        let causes = std::iter::successors(Some(outermost), |error| error.source());
        let connecting = matches!(self, Self::Connect(_));
        matches!(self, Self::Timeout)
            || causes
                .filter_map(|cause| cause.downcast_ref::<sqlx::Error>())
                .any(|error| may_pass(error, connecting))
    }
}

fn may_pass(error: &sqlx::Error, connecting: bool) -> bool {
    match error.as_database_error() {
        Some(refused) => refused
            .code()
            .is_some_and(|code| refusal_may_pass(&code, connecting)),
        None => matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::Protocol(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::WorkerCrashed
        ),
    }
}

/// By PostgreSQL's SQLSTATE, or SQLite's number.
fn refusal_may_pass(code: &str, connecting: bool) -> bool {
    if code.len() == SQLSTATE_LENGTH {
        // Whoever is not let in may be later: roles, databases and their rights come into being.
        return connecting || PASSING_CLASSES.iter().any(|class| code.starts_with(class));
    }
    let primary = code.parse().map(|code: u32| code & 0xff);
    primary.is_ok_and(|code| SQLITE_PASSING.contains(&code))
}

/// No decision without the database: the one answer to every fault of it. Logs the fault.
impl From<DatabaseError> for tonic::Status {
    fn from(error: DatabaseError) -> Self {
        tracing::warn!(reason = chain(&error), "the database failed an operation");
        let description = "the database does not answer";
        proto::error::status(
            tonic::Code::Unavailable,
            "DATABASE_UNAVAILABLE",
            description,
        )
    }
}

fn postgres_options(url: &str, password: Option<&str>) -> Result<AnyConnectOptions, DatabaseError> {
    let mut options: AnyConnectOptions = url.parse()?;
    if password.is_some() {
        let set = options.database_url.set_password(password);
        set.map_err(|()| DatabaseError::PasswordWithoutHost)?;
    }
    Ok(options)
}

/// Gives new connections the password that the file holds by then; those that are there stay.
async fn follow_password(mut file: Files, url: String, pool: AnyPool) {
    loop {
        let options = match file.changed(RELOAD_PERIOD).await {
            Ok(contents) => password(&contents)
                .map_err(DatabaseError::from)
                .and_then(|password| postgres_options(&url, Some(&password))),
            Err(error) => Err(error.into()),
        };
        match options {
            Ok(options) => {
                pool.set_connect_options(options);
                tracing::info!("the database's password was reloaded");
            }
            Err(error) => tracing::warn!(
                reason = chain(&error),
                "the last good password stays in effect"
            ),
        }
    }
}

async fn sqlite_options(path: &Path) -> Result<AnyConnectOptions, DatabaseError> {
    let path = create_private(path).map_err(|source| DatabaseError::File {
        path: path.to_owned(),
        source,
    })?;
    // Write-ahead logging is kept in the file: readers and the one writer do not wait for each other.
    let options = SqliteConnectOptions::new().filename(&path);
    let options = options.journal_mode(SqliteJournalMode::Wal);
    let connection = options.connect().await.map_err(DatabaseError::Connect)?;
    connection.close().await?;
    // sqlx's defaults do the rest: foreign keys on, busy timeout 5 s, synchronous full. (Its own way from a path to a
    // URL does not survive a `%`.)
    let mut url = "sqlite://".to_owned();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(byte) {
            url.push(char::from(*byte));
        } else {
            url.push_str(&format!("%{byte:02x}"));
        }
    }
    Ok(url.parse()?)
}

/// The absolute path of a file that is there: SQLite would make it with the process's umask. Its companions (-wal,
/// -shm) take over its mode. A file that exists is not opened: closing it would end SQLite's locks in this process.
fn create_private(path: &Path) -> std::io::Result<PathBuf> {
    let created = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Ok(_file) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    std::path::absolute(path)
}

/// On a connection whose statements nothing limits: a migration of many rows takes its time. Only the wait for a lock ends, to
/// be told and begun anew. No pool: one would not say why there is no connection.
async fn migrate(
    config: &DatabaseConfig,
    options: &AnyConnectOptions,
    lock_timeout: Duration,
) -> Result<(), DatabaseError> {
    let connecting = async {
        let mut connection = AnyConnection::connect_with(options).await?;
        if matches!(config, DatabaseConfig::Postgres { .. }) {
            let limit = format!("SET lock_timeout = {}", lock_timeout.as_millis());
            let limit = sqlx::raw_sql(AssertSqlSafe(limit));
            limit.execute(&mut connection).await?;
        }
        Ok::<_, sqlx::Error>(connection)
    };
    let mut connection = timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_elapsed| DatabaseError::Timeout)?
        .map_err(DatabaseError::Connect)?;
    // A server that vanished ends no wait.
    timeout(lock_timeout + OPERATION_TIMEOUT, connection.lock())
        .await
        .map_err(|_elapsed| DatabaseError::Timeout)??;
    migrator().run(&mut connection).await?;
    // Releases the lock. It may hang: that is for the next one to find out.
    timeout(OPERATION_TIMEOUT, connection.close()).await.ok();
    Ok(())
}

fn migrator() -> Migrator {
    let migration = |version, description: &'static str, sql: &'static str| {
        let (description, sql) = (description.into(), sql.into_sql_str());
        Migration::new(version, description, MigrationType::Simple, sql, false)
    };
    let mut migrator = Migrator::with_migrations(vec![
        migration(
            1,
            "stream keys and revocations",
            include_str!("../migrations/0001_stream_keys_and_revocations.sql"),
        ),
        migration(
            2,
            "adobe credentials",
            include_str!("../migrations/0002_adobe_credentials.sql"),
        ),
        migration(
            3,
            "client certificate binding",
            include_str!("../migrations/0003_client_certificate_binding.sql"),
        ),
        migration(
            4,
            "key policies",
            include_str!("../migrations/0004_key_policies.sql"),
        ),
        migration(
            5,
            "api tokens",
            include_str!("../migrations/0005_api_tokens.sql"),
        ),
        migration(
            6,
            "refused credentials",
            include_str!("../migrations/0006_refused_credentials.sql"),
        ),
        migration(7, "events", include_str!("../migrations/0007_events.sql")),
        migration(8, "quotas", include_str!("../migrations/0008_quotas.sql")),
        migration(
            9,
            "prune and reconcile",
            include_str!("../migrations/0009_prune_and_reconcile.sql"),
        ),
        migration(
            10,
            "old peppers",
            include_str!("../migrations/0010_old_peppers.sql"),
        ),
    ]);
    // Who runs it holds the lock, which this would wait for without end.
    migrator.set_locking(false);
    migrator
}

/// For the first connection: at a start, everything else on the machine may be starting too.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// To get a connection: below [`OPERATION_TIMEOUT`], so that "no connection" is told from "no answer".
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1500);
/// For one operation. An edge waits 2.5 s for a decision.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a migration waits for a lock, that of another one above all: its holder may be gone without the server's knowing.
const MIGRATION_LOCK_TIMEOUT: Duration = Duration::from_secs(30);
const SQLSTATE_LENGTH: usize = 5;
/// Of SQLSTATE: connection, read-only, conflict, no room, a lock or a shutdown, cancelled, a fault of the system. All others
/// say that a statement is wrong for this schema, or this user.
const PASSING_CLASSES: [&str; 7] = ["08", "25", "40", "53", "55", "57", "58"];
/// BUSY and LOCKED (another process writes for longer than SQLite waits), READONLY, IOERR and FULL.
const SQLITE_PASSING: [u32; 5] = [5, 6, 8, 10, 13];

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error};

    use sqlx::error::ErrorKind;

    use super::*;

    /// A database that answers with a code.
    #[derive(Debug, thiserror::Error)]
    #[error("refused with {0}")]
    struct Refusal(&'static str);

    impl sqlx::error::DatabaseError for Refusal {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    #[test]
    fn what_may_pass_depends_on_the_code_and_on_when_it_came() {
        let refused = |code| sqlx::Error::Database(Box::new(Refusal(code)));
        for (code, while_connecting, later) in [
            ("08006", true, true),
            ("0A000", true, false),
            ("22P02", true, false),
            ("23505", true, false),
            ("25006", true, true),
            ("28P01", true, false),
            ("3D000", true, false),
            ("40P01", true, true),
            ("42501", true, false),
            ("42601", true, false),
            ("53100", true, true),
            ("53300", true, true),
            ("55P03", true, true),
            ("57014", true, true),
            ("57P03", true, true),
            ("58030", true, true),
            // SQLite's numbers, some of them extended.
            ("1", false, false),
            ("5", true, true),
            ("261", true, true),
            ("6", true, true),
            ("8", true, true),
            ("1032", true, true),
            ("10", true, true),
            ("6410", true, true),
            ("11", false, false),
            ("13", true, true),
            ("14", false, false),
            ("19", false, false),
        ] {
            let migration = MigrateError::ExecuteMigration(refused(code), 1);
            for (error, expected) in [
                (DatabaseError::Connect(refused(code)), while_connecting),
                (DatabaseError::Migration(migration), later),
                (DatabaseError::Sql(refused(code)), later),
            ] {
                assert_eq!(error.may_pass(), expected, "{}", chain(&error));
            }
        }
        assert!(DatabaseError::Timeout.may_pass());
        assert!(!DatabaseError::PasswordWithoutHost.may_pass());
        assert!(!DatabaseError::Migration(MigrateError::VersionMissing(99)).may_pass());
    }
}
