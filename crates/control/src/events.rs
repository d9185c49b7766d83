//! `EventService`: what happened, to watchers and webhooks.

mod watch;
mod webhooks;

use std::sync::Arc;

use proto::{
    error::status,
    v1::{
        CreateWebhookRequest, CreateWebhookResponse, DeleteWebhookRequest, DeleteWebhookResponse,
        Event, GetWebhookRequest, ListDeadLettersRequest, ListDeadLettersResponse,
        ListWebhooksRequest, ListWebhooksResponse, ReplayWebhookRequest, ReplayWebhookResponse,
        WatchEventsRequest, WatchEventsResponse, Webhook, event,
        event_service_server::EventService,
    },
};
use runtime::shutdown::Shutdown;
use tokio::sync::Semaphore;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use self::webhooks::Webhooks;
use crate::{
    Shared,
    caller::Scope,
    database::{Database, DatabaseError, EventEntry, Subject},
    field::timestamp,
    log_tail::{ENTRIES_PER_PAGE, LogTail},
    page_token::LogCursor,
};

/// Serves one control process's watches, and the webhooks of all.
pub(crate) struct Events {
    shared: Arc<Shared>,
    webhooks: Webhooks,
    shutdown: Shutdown,
    watches: Arc<Semaphore>,
}

impl Events {
    pub(crate) fn new(shared: Arc<Shared>, shutdown: Shutdown) -> Self {
        Self {
            webhooks: Webhooks(shared.clone()),
            shared,
            shutdown,
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
        }
    }
}

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = ReceiverStream<Result<WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let caller = self.shared.caller(&request, Scope::EventsRead).await?;
        let permit = self.watches.clone().try_acquire_owned();
        let permit = permit.map_err(|_none_left| too_many_watches())?;
        let watch = watch::Watch::open(&self.shared, &caller, request.into_inner()).await?;
        let (answers, stream) = tokio::sync::mpsc::channel(ANSWERS_QUEUED_MAX);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            watch.run(answers, shutdown).await;
            drop(permit);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn create_webhook(
        &self,
        request: Request<CreateWebhookRequest>,
    ) -> Result<Response<CreateWebhookResponse>, Status> {
        let call = self.webhooks.create(request);
        self.shared.metrics.timed("CreateWebhook", call).await
    }

    async fn get_webhook(
        &self,
        request: Request<GetWebhookRequest>,
    ) -> Result<Response<Webhook>, Status> {
        let call = self.webhooks.get(request);
        self.shared.metrics.timed("GetWebhook", call).await
    }

    async fn list_webhooks(
        &self,
        request: Request<ListWebhooksRequest>,
    ) -> Result<Response<ListWebhooksResponse>, Status> {
        let call = self.webhooks.list(request);
        self.shared.metrics.timed("ListWebhooks", call).await
    }

    async fn delete_webhook(
        &self,
        request: Request<DeleteWebhookRequest>,
    ) -> Result<Response<DeleteWebhookResponse>, Status> {
        let call = self.webhooks.delete(request);
        self.shared.metrics.timed("DeleteWebhook", call).await
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let call = self.webhooks.dead_letters(request);
        self.shared.metrics.timed("ListDeadLetters", call).await
    }

    async fn replay_webhook(
        &self,
        request: Request<ReplayWebhookRequest>,
    ) -> Result<Response<ReplayWebhookResponse>, Status> {
        let call = self.webhooks.replay(request);
        self.shared.metrics.timed("ReplayWebhook", call).await
    }
}

/// What comes behind a position, from memory where it is there; `None` where it was forgotten.
pub(crate) async fn page_behind(
    database: &Database,
    tail: &LogTail<EventEntry>,
    position: u64,
) -> Result<Option<Vec<Arc<EventEntry>>>, DatabaseError> {
    let limit = usize::try_from(ENTRIES_PER_PAGE).unwrap_or(usize::MAX);
    if let Some(entries) = tail.behind(position, limit) {
        return Ok(Some(entries));
    }
    let page = database
        .log_page::<EventEntry>(position, ENTRIES_PER_PAGE)
        .await?;
    let entries = page.entries.into_iter().map(Arc::new).collect();
    Ok((!page.truncated).then_some(entries))
}

pub(crate) fn message(entry: &EventEntry) -> Event {
    let subject = match &entry.subject {
        Subject::Key(key) => event::Subject::Key(key.clone()),
        Subject::Session(session) => event::Subject::Session((**session).clone()),
    };
    Event {
        id: entry.id.clone(),
        r#type: entry.event_type.into(),
        time: Some(timestamp(entry.create_ms)),
        tenant: entry.tenant.clone(),
        cursor: LogCursor(entry.position).encode(),
        subject: Some(subject),
    }
}

pub(crate) fn too_many_watches() -> Status {
    let description = "too many open watches; try another control";
    status(Code::ResourceExhausted, "TOO_MANY_WATCHES", description)
}

/// Watches of one control process.
const WATCHES_MAX: usize = 256;
/// Answers that wait for one watcher to read them.
const ANSWERS_QUEUED_MAX: usize = 4;
