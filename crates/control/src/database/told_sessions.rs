//! What the event log has told of sessions: each starts once and ends once, whichever edge, control or reconciliation says
//! so, and however often.

use data_encoding::HEXLOWER;
use prost::Message as _;
use proto::v1::{EventType, SessionEvent};
use sqlx::{Any, Row as _, Transaction};

use super::{
    Database, DatabaseError,
    events::{NewEvent, Subject, append_event},
};

/// A session that has started and not ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToldSession {
    pub(crate) start_ms: i64,
    /// As it started.
    pub(crate) event: SessionEvent,
}

impl Database {
    /// Writes what became of sessions. How many events were new. What fails halfway is told again as a whole: what was
    /// written by then is no news.
    pub(crate) async fn tell_sessions(&self, events: &[NewEvent]) -> Result<u64, DatabaseError> {
        let mut written = 0_u64;
        for batch in events.chunks(EVENTS_PER_TRANSACTION) {
            written = written.saturating_add(self.tell_batch(batch).await?);
        }
        Ok(written)
    }

    /// All of it or nothing.
    async fn tell_batch(&self, events: &[NewEvent]) -> Result<u64, DatabaseError> {
        self.bounded(async {
            let mut transaction = self.pool.begin().await?;
            // The state of every session first: the log's head stays unlocked until then.
            let mut news = Vec::new();
            for event in events {
                if is_news(&mut transaction, event).await? {
                    news.push(event);
                }
            }
            let mut written = 0_u64;
            for event in news {
                written =
                    written.saturating_add(append_event(&mut transaction, event).await?.into());
            }
            transaction.commit().await?;
            Ok(written)
        })
        .await
    }

    /// The ids of sessions that are live as far as the log tells, in order; at most as many as asked for, behind the given
    /// one.
    pub(crate) async fn told_ids(
        &self,
        after: &str,
        limit: u32,
    ) -> Result<Vec<String>, DatabaseError> {
        self.bounded(async {
            let ids = sqlx::query_scalar(
                "SELECT session_id FROM told_sessions WHERE end_ms IS NULL AND session_id > $1 \
                 ORDER BY session_id LIMIT $2",
            )
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
            Ok(ids)
        })
        .await
    }

    /// A session that is live as far as the log tells.
    pub(crate) async fn told_session(
        &self,
        id: &str,
    ) -> Result<Option<ToldSession>, DatabaseError> {
        self.bounded(async {
            let row = sqlx::query(
                "SELECT start_ms, subject FROM told_sessions WHERE end_ms IS NULL AND session_id = $1",
            )
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
            let session = |row: sqlx::any::AnyRow| {
                let subject: String = row.try_get("subject")?;
                let bytes = HEXLOWER.decode(subject.as_bytes()).ok();
                let event = bytes.and_then(|bytes| SessionEvent::decode(&*bytes).ok());
                Ok(ToldSession {
                    start_ms: row.try_get("start_ms")?,
                    event: event.ok_or(DatabaseError::Malformed { what: "session" })?,
                })
            };
            row.map(session).transpose()
        })
        .await
    }

    /// Forgets sessions that ended before a time. How many.
    pub(super) async fn prune_told_sessions(&self, before_ms: i64) -> Result<u64, DatabaseError> {
        let statement = "DELETE FROM told_sessions WHERE session_id IN \
                         (SELECT session_id FROM told_sessions WHERE end_ms < $1 LIMIT $2)";
        self.prune(statement, before_ms).await
    }
}

/// Notes a start or an end, unless it was told before (or, of a start, the end was). Everything else is news.
async fn is_news(
    transaction: &mut Transaction<'_, Any>,
    event: &NewEvent,
) -> Result<bool, DatabaseError> {
    let Subject::Session(session) = &event.subject else {
        return Ok(true);
    };
    let statement = if event.event_type == EventType::SessionStarted {
        "INSERT INTO told_sessions (session_id, start_ms, subject) VALUES ($1, $2, $3) \
         ON CONFLICT (session_id) DO NOTHING"
    } else if event.event_type == EventType::SessionEnded {
        "INSERT INTO told_sessions (session_id, start_ms, end_ms, subject) VALUES ($1, $2, $2, $3) \
         ON CONFLICT (session_id) DO UPDATE SET end_ms = excluded.end_ms WHERE told_sessions.end_ms IS NULL"
    } else {
        return Ok(true);
    };
    let noted = sqlx::query(statement)
        .bind(&session.session_id)
        .bind(event.create_ms)
        .bind(HEXLOWER.encode(&session.encode_to_vec()))
        .execute(&mut **transaction)
        .await?;
    Ok(noted.rows_affected() == 1)
}

/// Some three statements each, in one operation's time; the log's head is locked for two of them.
const EVENTS_PER_TRANSACTION: usize = 32;
