//! `EventService`: what happened, to watchers and webhooks.

mod watch;
mod webhooks;

use std::sync::Arc;

use proto::v1::{
    CreateWebhookRequest, CreateWebhookResponse, DeleteWebhookRequest, DeleteWebhookResponse,
    Event, GetWebhookRequest, ListDeadLettersRequest, ListDeadLettersResponse, ListWebhooksRequest,
    ListWebhooksResponse, ReplayWebhookRequest, ReplayWebhookResponse, WatchEventsRequest,
    WatchEventsResponse, Webhook, event, event_service_server::EventService,
};
use runtime::shutdown::Shutdown;
use tonic::{Request, Response, Status};

use self::{watch::EventWatch, webhooks::Webhooks};
use crate::{
    Shared,
    caller::Scope,
    database::{EventEntry, Subject},
    field::timestamp,
    page_token::LogCursor,
    watches::{Answers, PUBLIC_WATCHES_MAX, Watches},
};

/// Serves one control process's watches, and the webhooks of all.
pub(crate) struct Events {
    shared: Arc<Shared>,
    webhooks: Webhooks,
    watches: Watches,
}

impl Events {
    pub(crate) fn new(shared: Arc<Shared>, shutdown: Shutdown) -> Self {
        Self {
            webhooks: Webhooks(shared.clone()),
            shared,
            watches: Watches::new(PUBLIC_WATCHES_MAX, ANSWERS_QUEUED_MAX, shutdown),
        }
    }
}

#[tonic::async_trait]
impl EventService for Events {
    type WatchEventsStream = Answers<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let caller = self.shared.caller(&request, Scope::EventsRead).await?;
        let room = self.watches.room(caller.own_tenant())?;
        let watch = EventWatch::open(&self.shared, &caller, request.into_inner()).await?;
        let end = caller.ended(self.shared.clone());
        Ok(self.watches.serve(watch, end, room))
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

pub(crate) fn message(entry: &EventEntry) -> Event {
    let subject = entry.subject.as_ref().map(|subject| match subject {
        Subject::Key(key) => event::Subject::Key(key.clone()),
        Subject::Session(session) => event::Subject::Session((**session).clone()),
    });
    Event {
        id: entry.id.clone(),
        r#type: entry.event_type.into(),
        time: Some(timestamp(entry.create_ms)),
        tenant: entry.tenant.clone(),
        cursor: LogCursor(entry.position).encode(),
        subject,
    }
}

/// Answers that wait for one watcher to read them.
const ANSWERS_QUEUED_MAX: usize = 4;
