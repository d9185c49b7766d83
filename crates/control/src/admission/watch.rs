//! One edge's `WatchRevocations`: a position in the log, and what comes behind it.

use std::time::Duration;

use proto::{
    error::status,
    internal::v1::{KeyChange, Revocation, WatchRevocationsResponse, revocation},
};
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Status};

use crate::{
    Shared,
    database::{Database, LogEntry, Target},
    log_tail::LogTail,
    watches::Watch,
};

pub(super) struct RevocationWatch {
    database: Database,
    tail: watch::Receiver<LogTail<LogEntry>>,
    /// Everything up to here was told.
    position: u64,
    /// How far the tail was at the last look: one that goes back is another log.
    tail_position: u64,
    /// The first answer is due: where the watch stands.
    greeting: Option<WatchRevocationsResponse>,
}

impl RevocationWatch {
    pub(super) async fn open(shared: &Shared, after: Option<u64>) -> Result<Self, Status> {
        let tail = shared.tail.clone();
        let (fresh, tail_position) = {
            let tail = tail.borrow();
            (tail.fresh, tail.position)
        };
        if !fresh {
            return Err(stale());
        }
        let mut greeting = WatchRevocationsResponse {
            position: tail_position,
            ..Default::default()
        };
        if let Some(after) = after {
            // Asked of the database itself: a position ahead of our tail may have come from a faster replica.
            let page = shared.database.log_page::<LogEntry>(after, 1).await?;
            greeting.truncated = page.truncated;
            greeting.position = if page.truncated {
                // Pruned, or another log: hearing of an end twice does no harm, hearing of none does.
                shared.database.log_start::<LogEntry>().await?
            } else {
                after
            };
        }
        Ok(Self {
            database: shared.database.clone(),
            tail,
            position: greeting.position,
            tail_position,
            greeting: Some(greeting),
        })
    }
}

impl Watch for RevocationWatch {
    type Answer = WatchRevocationsResponse;

    /// The next answer: at once where something is to be told, else a sign of life every [`SIGN_OF_LIFE_PERIOD`].
    async fn next(&mut self) -> Result<WatchRevocationsResponse, Status> {
        if let Some(greeting) = self.greeting.take() {
            return Ok(greeting);
        }
        loop {
            let tail = self.tail.borrow_and_update().clone();
            if !tail.fresh {
                return Err(stale());
            }
            if tail.position < self.tail_position {
                return Err(status(
                    Code::Unavailable,
                    "LOG_REPLACED",
                    "the revocation log was replaced",
                ));
            }
            self.tail_position = tail.position;
            if tail.position > self.position {
                return self.advance(&tail).await;
            }
            match timeout(SIGN_OF_LIFE_PERIOD, self.tail.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_no_follower)) => return Err(stale()),
                Err(_quiet) => {
                    return Ok(WatchRevocationsResponse {
                        position: self.position,
                        ..Default::default()
                    });
                }
            }
        }
    }
}

impl RevocationWatch {
    async fn advance(
        &mut self,
        tail: &LogTail<LogEntry>,
    ) -> Result<WatchRevocationsResponse, Status> {
        let page = tail.page_behind(&self.database, self.position).await?;
        let truncated = page.is_none();
        let entries = page.unwrap_or_default();
        self.position = match entries.last() {
            Some(last) => last.position,
            None if truncated => self.database.log_start::<LogEntry>().await?,
            None => self.position,
        };
        Ok(WatchRevocationsResponse {
            position: self.position,
            revocations: entries.iter().map(|entry| message(entry)).collect(),
            truncated,
        })
    }
}

fn message(entry: &LogEntry) -> Revocation {
    let target = match &entry.target {
        Target::Change(id, terms) => revocation::Target::Change(KeyChange {
            stream_key_id: id.clone(),
            limits: Some(terms.limits.message()),
            expire_ms: terms
                .expire_ms
                .and_then(|expire_ms| u64::try_from(expire_ms).ok())
                .unwrap_or_default(),
            max_session_seconds: terms.max_session_seconds,
        }),
        Target::Session(id) => revocation::Target::SessionId(id.clone()),
        Target::StreamKey(id) => revocation::Target::StreamKeyId(id.clone()),
    };
    Revocation {
        position: entry.position,
        target: Some(target),
        reason: entry.reason.clone(),
    }
}

fn stale() -> Status {
    status(
        Code::Unavailable,
        "DATABASE_UNAVAILABLE",
        "the revocation log cannot be followed",
    )
}

/// How often an edge hears from a watch that has nothing to tell.
const SIGN_OF_LIFE_PERIOD: Duration = Duration::from_secs(5);
