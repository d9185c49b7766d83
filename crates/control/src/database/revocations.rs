//! The log of revocations and terminations.

use serde::{Deserialize, Serialize};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{
    Database, DatabaseError,
    credentials::{Refused, refuse},
    growth::notify,
    keys::number,
    log::Logged,
};
use crate::{
    metrics::ControlMetrics,
    policy::{Limits, Policy},
    stream_key::StreamKeyId,
};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) position: u64,
    pub(crate) create_ms: i64,
    pub(crate) target: Target,
    pub(crate) reason: String,
}

/// What ends or changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Sessions of a key, by the key's id, go on under these terms. What is remembered of the key is void.
    Change(String, Box<ChangedTerms>),
    /// One session, by its id.
    Session(String),
    /// Every session of a key, by the key's id.
    StreamKey(String),
}

/// What live sessions of a key are held to from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangedTerms {
    pub(crate) limits: Limits,
    /// Milliseconds since the Unix epoch; `None`: no such end.
    pub(crate) expire_ms: Option<i64>,
    /// From a session's start; 0: no bound.
    pub(crate) max_session_seconds: u32,
}

impl ChangedTerms {
    pub(crate) fn of(expire_ms: Option<i64>, policy: &Policy) -> Self {
        Self {
            limits: policy.limits.clone(),
            expire_ms,
            max_session_seconds: policy.max_session_seconds,
        }
    }
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
            self.commit(transaction).await
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
    // As other credentials: a shorter one does not take a longer one away.
    sqlx::query(
        "UPDATE stream_keys SET held_off_until_ms = $1 WHERE id = $2 AND tenant = $3 AND held_off_until_ms < $1",
    )
    .bind(until_ms)
    .bind(id)
    .bind(termination.tenant)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Takes the next position; to be the last before [`Database::commit`], since it locks the head.
pub(super) async fn append(
    transaction: &mut Transaction<'_, Any>,
    target: &Target,
    reason: &str,
    now_ms: i64,
) -> Result<(), DatabaseError> {
    let (stream_key_id, session_id, change) = match target {
        // Numbers and names alone: always JSON.
        Target::Change(id, terms) => (Some(id), None, serde_json::to_string(terms).ok()),
        Target::Session(id) => (None, Some(id), None),
        Target::StreamKey(id) => (Some(id), None, None),
    };
    let position: i64 = sqlx::query_scalar(
        "UPDATE revocations_head SET position = position + 1 RETURNING position",
    )
    .fetch_one(&mut **transaction)
    .await?;
    sqlx::query(
        "INSERT INTO revocations (position, create_ms, stream_key_id, session_id, reason, change) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(position)
    .bind(now_ms)
    .bind(stream_key_id)
    .bind(session_id)
    .bind(reason)
    .bind(change)
    .execute(&mut **transaction)
    .await?;
    notify(transaction).await
}

impl Logged for LogEntry {
    const NAME: &'static str = "revocation log";
    const PAGE: &'static str = "SELECT revocations_head.position AS head, revocations.position, create_ms, stream_key_id, \
        session_id, reason, change FROM revocations_head LEFT JOIN revocations ON revocations.position > $1 \
        ORDER BY revocations.position LIMIT $2";
    const START: &'static str = "SELECT COALESCE((SELECT MIN(position) - 1 FROM revocations), position) FROM revocations_head";
    const PRUNE: &'static str = "DELETE FROM revocations WHERE position <= \
        (SELECT MAX(position) FROM (SELECT position, create_ms FROM revocations ORDER BY position LIMIT $2) AS oldest \
         WHERE create_ms < $1)";

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
        database.prune_credentials(now_ms).await?;
        database.prune_requests(now_ms).await.map(drop)
    }

    fn read(row: &AnyRow) -> Result<Option<Self>, DatabaseError> {
        let Some(position) = row.try_get::<Option<i64>, _>("position")? else {
            return Ok(None);
        };
        let stream_key_id: Option<String> = row.try_get("stream_key_id")?;
        let session_id: Option<String> = row.try_get("session_id")?;
        let change: Option<String> = row.try_get("change")?;
        let malformed = || DatabaseError::Malformed { what: "revocation" };
        let target = match (stream_key_id, session_id, change) {
            (Some(id), None, None) => Target::StreamKey(id),
            (Some(id), None, Some(terms)) => {
                let terms = serde_json::from_str(&terms).map_err(|_other| malformed())?;
                Target::Change(id, Box::new(terms))
            }
            (None, Some(id), None) => Target::Session(id),
            (None, None, _) | (Some(_), Some(_), _) | (None, Some(_), Some(_)) => {
                return Err(malformed());
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
