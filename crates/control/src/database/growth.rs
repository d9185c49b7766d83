//! That the revocation log has grown: of another process by PostgreSQL's LISTEN and NOTIFY, of this one directly. A hint
//! alone: who follows the log asks it now and then in any case, since a pooler between us and the database may swallow
//! notifications.

use std::time::Duration;

use runtime::error::chain;
use sqlx::{Any, AnyPool, Transaction, postgres::PgListener};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{DatabaseError, OPERATION_TIMEOUT};

/// Heard by everybody who follows a log. A cheap handle.
#[derive(Clone, Default)]
pub(super) struct Growth(watch::Sender<()>);

impl Growth {
    pub(super) fn tell(&self) {
        self.0.send_replace(());
    }

    /// Changes with each hint from now on.
    pub(super) fn hints(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

/// Tells the other processes, once the transaction is committed.
pub(super) async fn notify(transaction: &mut Transaction<'_, Any>) -> Result<(), DatabaseError> {
    if transaction.backend_name() == POSTGRES {
        sqlx::query(NOTIFY).execute(&mut **transaction).await?;
    }
    Ok(())
}

/// Listens on a connection of its own, for as long as the pool is there.
pub(super) async fn listen(pool: AnyPool, growth: Growth) {
    let mut reported = false;
    loop {
        let ended = listen_once(&pool, &growth, &mut reported).await;
        if let Err(error) = ended
            && !std::mem::replace(&mut reported, true)
        {
            let reason = chain(&error);
            tracing::warn!(
                reason,
                "the database's notifications are not heard; the log is polled"
            );
        }
        sleep(PAUSE).await;
    }
}

async fn listen_once(
    pool: &AnyPool,
    growth: &Growth,
    reported: &mut bool,
) -> Result<(), DatabaseError> {
    // With the password of the hour.
    let url = pool.connect_options().database_url.to_string();
    let mut listener = in_time(PgListener::connect(&url)).await?;
    in_time(listener.listen(CHANNEL)).await?;
    if std::mem::take(reported) {
        tracing::info!("the database's notifications are heard again");
    }
    loop {
        // Also at first and behind a connection that was lost: nobody listened before.
        growth.tell();
        while let Ok(heard) = timeout(CHECK_PERIOD, listener.try_recv()).await {
            heard?;
            growth.tell();
        }
        // A connection that only listens does not find out by itself that the other end is gone.
        in_time(sqlx::query("SELECT 1").execute(&mut listener)).await?;
    }
}

async fn in_time<T>(
    operation: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DatabaseError> {
    match timeout(OPERATION_TIMEOUT, operation).await {
        Ok(result) => Ok(result?),
        Err(_elapsed) => Err(DatabaseError::Timeout),
    }
}

const CHANNEL: &str = "headwater_revocations";
const NOTIFY: &str = "NOTIFY headwater_revocations";
/// As sqlx names it.
const POSTGRES: &str = "PostgreSQL";
/// Before the connection is made again.
const PAUSE: Duration = Duration::from_secs(1);
/// Silence behind which the connection is asked for a sign of life.
const CHECK_PERIOD: Duration = Duration::from_secs(30);
