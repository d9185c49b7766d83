//! One edge's `WatchRevocations`: a position in the log, and what comes behind it.

use proto::internal::v1::{
    KeyChange, Revocation, WatchRevocationsRequest, WatchRevocationsResponse, revocation,
};
use tonic::Status;

use crate::{
    Shared,
    database::{Database, LogEntry, Target},
    edges::Pushed,
    log_tail::{Following, News, unavailable},
    watches::Watch,
};

pub(super) struct RevocationWatch {
    database: Database,
    following: Following,
    commands: Pushed,
    /// The first answer is due: where the watch stands.
    greeting: Option<WatchRevocationsResponse>,
}

impl RevocationWatch {
    pub(super) async fn open(
        shared: &Shared,
        request: WatchRevocationsRequest,
    ) -> Result<Self, Status> {
        let WatchRevocationsRequest { after, edge } = request;
        let tail = shared.tail.clone();
        let (fresh, tail_position) = {
            let tail = tail.borrow();
            (tail.fresh, tail.position)
        };
        if !fresh {
            return Err(unavailable::<LogEntry>());
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
        let database = shared.database.clone();
        Ok(Self {
            following: Following::new(database.clone(), tail, greeting.position),
            database,
            commands: shared.pushes.to(edge),
            greeting: Some(greeting),
        })
    }

    /// At once where something is to be told, else a sign of life.
    async fn told(&mut self) -> Result<WatchRevocationsResponse, Status> {
        if let Some(greeting) = self.greeting.take() {
            return Ok(greeting);
        }
        let mut answer = WatchRevocationsResponse::default();
        let news = tokio::select! {
            biased;
            news = self.following.next() => news?,
            command = self.commands.next() => {
                answer.commands.push(command);
                News::Quiet
            }
        };
        match news {
            News::Forgotten => {
                self.following.position = self.database.log_start::<LogEntry>().await?;
                answer.truncated = true;
            }
            News::Page(page) => {
                answer.revocations = page.iter().map(|entry| message(entry)).collect();
            }
            News::Quiet => {}
        }
        answer.position = self.following.position;
        Ok(answer)
    }
}

impl Watch for RevocationWatch {
    type Answer = WatchRevocationsResponse;

    async fn next(&mut self) -> Result<WatchRevocationsResponse, Status> {
        let answer = self.told().await;
        self.following.answered();
        answer
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
