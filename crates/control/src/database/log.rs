//! Logs in the database: positions 1, 2, 3, …, visible in that order and without gaps (the first migration says how). So a
//! reader knows from the positions alone whether something was pruned behind it.

use sqlx::{Row as _, any::AnyRow};

use super::{Database, DatabaseError, keys::number};
use crate::metrics::ControlMetrics;

/// An entry of a log, and how the log is asked.
pub(crate) trait Logged: Send + Sync + Sized + Unpin + 'static {
    /// For the process's own log.
    const NAME: &'static str;
    /// Head and entries behind position `$1`, at most `$2`, in order; the head always comes back.
    const PAGE: &'static str;
    /// The position behind which everything that is left comes.
    const START: &'static str;
    /// Of the first `$2` entries, forgets what is older than `$1`. By position, not by time: what remains has no gap even
    /// where the replicas' clocks differ.
    const PRUNE: &'static str;

    /// `None` for the row that carries the head alone.
    fn read(row: &AnyRow) -> Result<Option<Self>, DatabaseError>;

    fn position(&self) -> u64;

    fn create_ms(&self) -> i64;

    /// Hears how old an entry was when this process saw it first.
    fn seen(_metrics: &ControlMetrics, _age_seconds: f64) {}

    /// Forgets what goes with the log.
    fn prune_beside(
        database: &Database,
        now_ms: i64,
    ) -> impl Future<Output = Result<(), DatabaseError>> + Send;
}

/// Entries behind a position, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogPage<E> {
    /// The last position given out.
    pub(crate) head: u64,
    /// In order; at most as many as asked for.
    pub(crate) entries: Vec<E>,
    /// Entries behind the position asked for are gone (or it was never given out by this database).
    pub(crate) truncated: bool,
}

impl Database {
    /// What comes behind a position.
    pub(crate) async fn log_page<E: Logged>(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<LogPage<E>, DatabaseError> {
        // Positions are made by us and are i64 there; one that is not cannot be in the log.
        let stored_after = i64::try_from(after).unwrap_or(i64::MAX);
        self.bounded(async {
            // One statement, one snapshot.
            let rows = sqlx::query(E::PAGE)
                .bind(stored_after)
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await?;
            let head = rows.first().ok_or(DatabaseError::Malformed {
                what: "head of the log",
            })?;
            let head = number(head.try_get("head")?, "position")?;
            let entries: Vec<E> = rows
                .iter()
                .filter_map(|row| E::read(row).transpose())
                .collect::<Result<_, _>>()?;
            let next = entries.first().map(E::position);
            let truncated = match next {
                Some(next) => next.checked_sub(1) != Some(after),
                None => head != after,
            };
            Ok(LogPage {
                head,
                entries,
                truncated,
            })
        })
        .await
    }

    /// The position behind which everything that is left of the log comes.
    pub(crate) async fn log_start<E: Logged>(&self) -> Result<u64, DatabaseError> {
        self.bounded(async {
            let start = sqlx::query_scalar(E::START).fetch_one(&self.pool).await?;
            number(start, "position")
        })
        .await
    }

    /// Forgets what is older than a time. How many.
    pub(crate) async fn prune_log<E: Logged>(&self, before_ms: i64) -> Result<u64, DatabaseError> {
        self.prune(E::PRUNE, before_ms).await
    }
}
