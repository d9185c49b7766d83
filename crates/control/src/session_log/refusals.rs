//! Refused publishers as events: of keys that are there alone, and of each key and reason seldom, so that a flood of
//! guesses is no flood of events. Admission waits for none of it.

use std::time::Duration;

use proto::{
    internal::v1::AuthorizeRequest,
    v1::{EventType, SessionEvent},
};
use runtime::error::chain;
use tokio::{sync::mpsc, time::Instant};

use super::text;
use crate::{
    admission::Refusal,
    database::{Database, DatabaseError, NewEvent, Subject},
    field::now_ms,
    recent::Recent,
    stream_key::StreamKeyId,
};

/// Takes refusals. A cheap handle.
#[derive(Clone)]
pub(crate) struct Refusals(mpsc::Sender<Refused>);

/// Writes them.
pub(crate) struct RefusalWriter {
    queue: mpsc::Receiver<Refused>,
    database: Database,
    /// Keys and reasons that were told.
    told: Recent<(StreamKeyId, &'static str), ()>,
}

struct Refused {
    id: StreamKeyId,
    reason: &'static str,
    event: SessionEvent,
}

impl Refusals {
    pub(crate) fn new(database: Database) -> (Self, RefusalWriter) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let writer = RefusalWriter {
            queue,
            database,
            told: Recent::new(PERIOD, TOLD_MAX),
        };
        (Self(sender), writer)
    }

    /// Queues a refusal of a key that may be there; where there is no room it is left out.
    pub(crate) fn tell(
        &self,
        request: &AuthorizeRequest,
        claimed_id: Option<&str>,
        refusal: &Refusal,
        description: &str,
    ) {
        let id = claimed_id.and_then(|id| StreamKeyId::parse(id).ok());
        let Some(id) = id.filter(|_| !refusal.is_of_no_key()) else {
            return;
        };
        let reason = refusal.outcome();
        let event = SessionEvent {
            session_id: request.session_id.clone(),
            stream_key_id: id.to_string(),
            client_address: text(&request.client_address),
            encoder: text(&request.encoder),
            reason: reason.to_owned(),
            description: description.to_owned(),
            ..SessionEvent::default()
        };
        self.0.try_send(Refused { id, reason, event }).ok();
    }
}

impl RefusalWriter {
    /// Until nobody can refuse any more.
    pub(crate) async fn run(mut self) {
        while let Some(refused) = self.queue.recv().await {
            if let Err(error) = self.write(refused).await {
                tracing::info!(
                    reason = chain(&error),
                    "a refusal is missing in the event log"
                );
            }
        }
    }

    async fn write(&mut self, refused: Refused) -> Result<(), DatabaseError> {
        let Refused {
            id,
            reason,
            mut event,
        } = refused;
        if !self.is_due((id, reason)) {
            return Ok(());
        }
        let Some(record) = self.database.key(id).await? else {
            return Ok(());
        };
        event.tenant.clone_from(&record.tenant);
        event.app = record.app;
        event.stream = record.stream;
        let now_ms = now_ms();
        let window = now_ms.div_euclid(PERIOD_MS);
        let event = NewEvent {
            // Another replica that refuses the same makes the same event.
            id: format!("refused-{id}-{reason}-{window}"),
            create_ms: now_ms,
            tenant: record.tenant,
            event_type: EventType::SessionRefused,
            subject: Subject::Session(Box::new(event)),
        };
        self.database.append_events(&[event]).await.map(drop)
    }

    fn is_due(&mut self, key: (StreamKeyId, &'static str)) -> bool {
        self.told.get(&key).is_none() && self.told.insert(key, (), Instant::now())
    }
}

/// Of one key and reason, one event.
const PERIOD: Duration = Duration::from_secs(10);
const PERIOD_MS: i64 = 10_000;
/// Refusals that wait to be written.
const QUEUE_MAX: usize = 256;
/// Keys and reasons that are remembered: some 1 MB.
const TOLD_MAX: usize = 10_000;
