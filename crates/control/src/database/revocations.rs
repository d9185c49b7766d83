//! The log of revocations and terminations.

use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{
    Database, DatabaseError,
    credentials::{Refused, refuse},
    keys::number,
    log::Logged,
};
use crate::{metrics::ControlMetrics, stream_key::StreamKeyId};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) position: u64,
    pub(crate) create_ms: i64,
    pub(crate) target: Target,
    pub(crate) reason: String,
}

/// What ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// One session, by its id.
    Session(String),
    /// Every session of a key, by the key's id.
    StreamKey(String),
}

/// The end of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Termination<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) session_id: &'a str,
    /// As the lease has it.
    pub(crate) stream_key_id: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) held_off_until_ms: i64,
}

impl Database {
    /// Appends the end of a session and holds its key off, or neither.
    pub(crate) async fn terminate_session(
        &self,
        termination: &Termination<'_>,
        now_ms: i64,
    ) -> Result<(), DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            hold_off(&mut transaction, termination, now_ms).await?;
            let target = Target::Session(termination.session_id.to_owned());
            append(&mut transaction, &target, termination.reason, now_ms).await?;
            transaction.commit().await?;
            Ok(())
        })
        .await
    }
}

/// Refuses what the session published with for a while.
async fn hold_off(
    transaction: &mut Transaction<'_, Any>,
    termination: &Termination<'_>,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let (id, until_ms) = (termination.stream_key_id, termination.held_off_until_ms);
    if StreamKeyId::parse(id).is_err() {
        refuse(transaction, id, until_ms, Refused::HeldOff, now_ms).await?;
        return Ok(());
    }
    sqlx::query("UPDATE stream_keys SET held_off_until_ms = $1 WHERE id = $2 AND tenant = $3")
        .bind(until_ms)
        .bind(id)
        .bind(termination.tenant)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Takes the next position; to be the last statement before the commit, since it locks the head.
pub(super) async fn append(
    transaction: &mut Transaction<'_, Any>,
    target: &Target,
    reason: &str,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let (stream_key_id, session_id) = match target {
        Target::Session(id) => (None, Some(id)),
        Target::StreamKey(id) => (Some(id), None),
    };
    let position: i64 = sqlx::query_scalar(
        "UPDATE revocations_head SET position = position + 1 RETURNING position",
    )
    .fetch_one(&mut **transaction)
    .await?;
    sqlx::query(
        "INSERT INTO revocations (position, create_ms, stream_key_id, session_id, reason) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(position)
    .bind(now_ms)
    .bind(stream_key_id)
    .bind(session_id)
    .bind(reason)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

impl Logged for LogEntry {
    const NAME: &'static str = "revocation log";
    const PAGE: &'static str = "SELECT revocations_head.position AS head, revocations.position, create_ms, stream_key_id, \
        session_id, reason FROM revocations_head LEFT JOIN revocations ON revocations.position > $1 \
        ORDER BY revocations.position LIMIT $2";
    const START: &'static str = "SELECT COALESCE((SELECT MIN(position) - 1 FROM revocations), position) FROM revocations_head";
    const PRUNE: &'static str = "DELETE FROM revocations WHERE position <= \
        (SELECT COALESCE(MAX(position), 0) FROM revocations WHERE create_ms < $1)";

    fn position(&self) -> u64 {
        self.position
    }

    fn create_ms(&self) -> i64 {
        self.create_ms
    }

    fn seen(metrics: &ControlMetrics, age_seconds: f64) {
        metrics.revocation_seen(age_seconds);
    }

    async fn prune_beside(database: &Database, now_ms: i64) -> Result<(), DatabaseError> {
        database.prune_credentials(now_ms).await.map(drop)
    }

    fn read(row: &AnyRow) -> Result<Option<Self>, DatabaseError> {
        let Some(position) = row.try_get::<Option<i64>, _>("position")? else {
            return Ok(None);
        };
        let stream_key_id: Option<String> = row.try_get("stream_key_id")?;
        let session_id: Option<String> = row.try_get("session_id")?;
        let target = match (stream_key_id, session_id) {
            (Some(id), None) => Target::StreamKey(id),
            (None, Some(id)) => Target::Session(id),
            (None, None) | (Some(_), Some(_)) => {
                return Err(DatabaseError::Malformed { what: "revocation" });
            }
        };
        Ok(Some(Self {
            position: number(position, "position")?,
            create_ms: row.try_get("create_ms")?,
            target,
            reason: row.try_get("reason")?,
        }))
    }
}
