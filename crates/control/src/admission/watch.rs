//! One edge's `WatchRevocations`: a position in the log, and what comes behind it.

use std::{sync::Arc, time::Duration};

use proto::{
    error::status,
    internal::v1::{KeyChange, Revocation, WatchRevocationsResponse, revocation},
};
use runtime::shutdown::Shutdown;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tonic::{Code, Status};

use crate::{
    Shared,
    database::{Database, LogEntry, Target},
    log_tail::{ENTRIES_PER_PAGE, LogTail},
};

pub(super) struct Watch {
    database: Database,
    tail: watch::Receiver<LogTail<LogEntry>>,
    /// Everything up to here was told.
    position: u64,
    /// How far the tail was at the last look: one that goes back is another log.
    tail_position: u64,
    /// The first answer is due: where the watch stands.
    greeting: Option<WatchRevocationsResponse>,
}

impl Watch {
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

    /// Answers until the edge goes, control drains, or the log cannot be followed.
    pub(super) async fn run(
        mut self,
        answers: mpsc::Sender<Result<WatchRevocationsResponse, Status>>,
        shutdown: Shutdown,
    ) {
        loop {
            let answer = tokio::select! {
                biased;
                () = answers.closed() => return,
                () = shutdown.draining() => Err(status(Code::Unavailable, "DRAINING", "this control is going away")),
                answer = self.next() => answer,
            };
            let last = answer.is_err();
            let sent = tokio::select! {
                sent = answers.send(answer) => sent.is_ok(),
                () = shutdown.stopping() => false,
            };
            if last || !sent {
                return;
            }
        }
    }

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

    async fn advance(
        &mut self,
        tail: &LogTail<LogEntry>,
    ) -> Result<WatchRevocationsResponse, Status> {
        let mut answer = WatchRevocationsResponse::default();
        let limit = usize::try_from(ENTRIES_PER_PAGE).unwrap_or(usize::MAX);
        let entries = match tail.behind(self.position, limit) {
            Some(entries) => entries,
            None => {
                let page = self
                    .database
                    .log_page(self.position, ENTRIES_PER_PAGE)
                    .await?;
                if page.truncated {
                    self.position = self.database.log_start::<LogEntry>().await?;
                    answer.truncated = true;
                    answer.position = self.position;
                    return Ok(answer);
                }
                page.entries.into_iter().map(Arc::new).collect()
            }
        };
        self.position = entries.last().map_or(self.position, |entry| entry.position);
        answer.position = self.position;
        answer.revocations = entries.iter().map(|entry| message(entry)).collect();
        Ok(answer)
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
