//! The connections. Each PostgreSQL connection has limits of the server's own: what we no longer wait for ends there too,
//! and nobody's lock or forgotten transaction holds up the others.

use std::time::Duration;

use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, any::AnyPoolOptions};
use tokio::time::timeout;

use super::{ACQUIRE_TIMEOUT, OPERATION_TIMEOUT};
use crate::config::DatabaseConfig;

/// For what control asks all the time.
pub(super) fn options(config: &DatabaseConfig) -> AnyPoolOptions {
    let options = AnyPoolOptions::new().acquire_timeout(ACQUIRE_TIMEOUT);
    match config {
        DatabaseConfig::Sqlite { .. } => options
            .max_connections(SQLITE_CONNECTIONS)
            // Where SQLite rolls back by itself (a full disk), sqlx counts on as if a transaction were open, and its next
            // rollback leaves one open for good: nobody else could write.
            .after_release(|connection, _| {
                Box::pin(async move {
                    let free = sqlx::raw_sql("BEGIN; ROLLBACK").execute(connection).await;
                    Ok(free.is_ok())
                })
            }),
        DatabaseConfig::Postgres { connections, .. } => options
            .max_connections(*connections)
            .after_connect(|connection, _| {
                // Not in the URL: a pooler between us and the server refuses parameters that it does not know.
                Box::pin(async move {
                    let limits = AssertSqlSafe(limits());
                    sqlx::raw_sql(limits).execute(connection).await?;
                    Ok(())
                })
            })
            // A server that hangs must not keep the connections that it has for ever: sqlx waits without a bound when
            // one is given back. This look at it replaces the one before each use, except behind a pause.
            .after_release(|connection, _| {
                Box::pin(async move { is_alive(connection).await.map(|()| true) })
            })
            .test_before_acquire(false)
            .before_acquire(|connection, of| {
                Box::pin(async move {
                    if of.idle_for >= IDLE_TRUSTED {
                        is_alive(connection).await?;
                    }
                    Ok(true)
                })
            }),
    }
}

async fn is_alive(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    match timeout(OPERATION_TIMEOUT, connection.ping()).await {
        Ok(answered) => answered,
        Err(_elapsed) => Err(sqlx::Error::PoolTimedOut),
    }
}

fn limits() -> String {
    [
        ("statement_timeout", OPERATION_TIMEOUT),
        ("lock_timeout", LOCK_TIMEOUT),
        ("idle_in_transaction_session_timeout", TRANSACTION_IDLE_MAX),
    ]
    .map(|(name, limit)| format!("SET {name} = {};", limit.as_millis()))
    .concat()
}

/// Of one process; its writers wait for each other in any case.
const SQLITE_CONNECTIONS: u32 = 8;
/// Below the operation's, so that the log tells a lock from a slow statement.
const LOCK_TIMEOUT: Duration = Duration::from_millis(1500);
/// Between two statements of a transaction. A process that is gone or stopped gives its locks back.
const TRANSACTION_IDLE_MAX: Duration = Duration::from_secs(5);
/// For how long a connection that was well when it was given back is taken for well.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);
