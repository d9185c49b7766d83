//! Webhooks: who hears of events by request, and what did not arrive.

use std::sync::Arc;

use proto::{
    error::status,
    v1::{
        CreateWebhookRequest, CreateWebhookResponse, DeadLetter, DeleteWebhookRequest,
        DeleteWebhookResponse, GetWebhookRequest, ListDeadLettersRequest, ListDeadLettersResponse,
        ListWebhooksRequest, ListWebhooksResponse, ReplayWebhookRequest, ReplayWebhookResponse,
        Webhook,
    },
};
use runtime::egress::HttpsUrl;
use tonic::{Code, Request, Status};

use super::{message as event_message, watch::types};
use crate::{
    Shared,
    caller::{Caller, Scope},
    database::{WebhookOutcome, WebhookRecord},
    field::{self, Violations, now_ms, timestamp},
    page_token::{self, Cursor, LogCursor, Page},
    standard_webhooks::Secret,
};

pub(super) struct Webhooks(pub(super) Arc<Shared>);

impl Webhooks {
    pub(super) async fn create(
        &self,
        request: Request<CreateWebhookRequest>,
    ) -> Result<CreateWebhookResponse, Status> {
        let caller = self.0.caller(&request, Scope::EventsWrite).await?;
        let request = request.into_inner();
        let mut violations = Violations::default();
        let url = request.url.parse::<HttpsUrl>();
        let url = url
            .map_err(|_error| "https://host[:port]/path, of at most 2048 bytes and without a user");
        violations.check("url", url);
        violations.check("types", types(&request.types));
        violations.check("description", field::description(&request.description));
        let tenant = violations.check("tenant", caller.tenant(&request.tenant));
        if let Some(tenant) = &tenant {
            violations.check("tenant", field::tenant(tenant));
        }
        violations.finish()?;
        let tenant = tenant.unwrap_or_default();

        let id = uuid::Uuid::now_v7().to_string();
        let secret = Secret::generate()?;
        let secret = secret.reveal();
        let peppers = self.0.peppers.load_full();
        let sealed = peppers.seal_webhook(&id, &secret);
        let record = WebhookRecord {
            id,
            tenant: tenant.to_string(),
            url: request.url,
            types: request.types,
            description: request.description,
            secret_sealed: sealed?,
            pepper_version: peppers.current(),
            create_ms: now_ms(),
            position: 0,
            disable_ms: None,
            last_error: String::new(),
            last_success_ms: None,
            pending: 0,
            dead: 0,
        };
        let created =
            self.0
                .database
                .create_webhook(&record, WEBHOOKS_PER_TENANT_MAX, WEBHOOKS_MAX);
        if created.await? == WebhookOutcome::TooMany {
            let description = "as many webhooks as there may be";
            return Err(status(
                Code::ResourceExhausted,
                "QUOTA_EXCEEDED",
                description,
            ));
        }
        self.audit("create_webhook", &record, &caller);
        Ok(CreateWebhookResponse {
            webhook: Some(message(record)),
            secret: (*secret).clone(),
        })
    }

    pub(super) async fn get(&self, request: Request<GetWebhookRequest>) -> Result<Webhook, Status> {
        let caller = self.0.caller(&request, Scope::EventsRead).await?;
        let id = request.into_inner().id;
        self.find(&caller, &id).await.map(message)
    }

    pub(super) async fn list(
        &self,
        request: Request<ListWebhooksRequest>,
    ) -> Result<ListWebhooksResponse, Status> {
        let caller = self.0.caller(&request, Scope::EventsRead).await?;
        let request = request.into_inner();
        let page = Page::of("", request.page_size, &request.page_token)?;
        let tenant = caller.listed(&request.tenant);
        let tenant = tenant.map_err(|description| field::invalid("tenant", description))?;
        let limit = page.size.saturating_add(1);
        let webhooks = self
            .0
            .database
            .webhooks(tenant.as_deref(), &page.after, limit);
        let mut webhooks = webhooks.await?;
        let cursor = |last: &WebhookRecord| Cursor {
            time_ms: last.create_ms,
            id: last.id.clone(),
        };
        let next = page_token::cut(&mut webhooks, page.size).map(|last| cursor(last).encode());
        Ok(ListWebhooksResponse {
            next_page_token: next.unwrap_or_default(),
            webhooks: webhooks.into_iter().map(message).collect(),
        })
    }

    pub(super) async fn delete(
        &self,
        request: Request<DeleteWebhookRequest>,
    ) -> Result<DeleteWebhookResponse, Status> {
        let caller = self.0.caller(&request, Scope::EventsWrite).await?;
        let record = self.find(&caller, &request.into_inner().id).await?;
        if self.0.database.delete_webhook(&record.id).await? {
            self.audit("delete_webhook", &record, &caller);
        }
        Ok(DeleteWebhookResponse {})
    }

    pub(super) async fn dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<ListDeadLettersResponse, Status> {
        let caller = self.0.caller(&request, Scope::EventsRead).await?;
        let request = request.into_inner();
        let record = self.find(&caller, &request.webhook_id).await?;
        let mut violations = Violations::default();
        let size = violations.check("page_size", field::page_size(request.page_size));
        let after = match request.page_token.as_str() {
            "" => Some(LogCursor(0)),
            token => violations.check("page_token", LogCursor::decode(token)),
        };
        violations.finish()?;
        let (size, LogCursor(after)) = (size.unwrap_or_default(), after.unwrap_or(LogCursor(0)));
        let limit = size.saturating_add(1);
        let mut dead = self
            .0
            .database
            .dead_deliveries(&record.id, after, limit)
            .await?;
        let next =
            page_token::cut(&mut dead, size).map(|last| LogCursor(last.event.position).encode());
        Ok(ListDeadLettersResponse {
            next_page_token: next.unwrap_or_default(),
            dead_letters: dead
                .into_iter()
                .map(|dead| DeadLetter {
                    event: Some(event_message(&dead.event)),
                    attempts: dead.attempts,
                    last_error: dead.last_error,
                })
                .collect(),
        })
    }

    pub(super) async fn replay(
        &self,
        request: Request<ReplayWebhookRequest>,
    ) -> Result<ReplayWebhookResponse, Status> {
        let caller = self.0.caller(&request, Scope::EventsWrite).await?;
        let request = request.into_inner();
        let record = self.find(&caller, &request.webhook_id).await?;
        let since = request.since.map(field::time_ms).transpose();
        let since = since.map_err(|description| field::invalid("since", description))?;
        let after = match since {
            Some(since_ms) => Some(self.0.database.events_since(since_ms).await?),
            None => None,
        };
        let replayed = self.0.database.replay_webhook(&record, after, now_ms());
        let events = replayed.await?;
        self.audit("replay_webhook", &record, &caller);
        Ok(ReplayWebhookResponse { events })
    }

    /// What another tenant owns is not there.
    async fn find(&self, caller: &Caller, id: &str) -> Result<WebhookRecord, Status> {
        // PostgreSQL takes no NUL in a text; every id is a UUID.
        let id = uuid::Uuid::try_parse(id).map(|id| id.to_string());
        let found = match id {
            Ok(id) => self.0.database.webhook(&id).await?,
            Err(_malformed) => None,
        };
        let found = found.filter(|record| caller.sees(&record.tenant));
        found.ok_or_else(|| status(Code::NotFound, "WEBHOOK_NOT_FOUND", "no such webhook"))
    }

    fn audit(&self, action: &'static str, record: &WebhookRecord, caller: &Caller) {
        self.0.metrics.admin_action(action);
        tracing::info!(
            action,
            tenant = record.tenant,
            webhook_id = record.id,
            actor = caller.name,
            client_address = caller.address,
            "webhook changed"
        );
    }
}

fn message(record: WebhookRecord) -> Webhook {
    Webhook {
        id: record.id,
        tenant: record.tenant,
        url: record.url,
        types: record.types,
        description: record.description,
        create_time: Some(timestamp(record.create_ms)),
        last_error: record.last_error,
        last_success_time: record.last_success_ms.map(timestamp),
        pending: record.pending,
        dead: record.dead,
        disable_time: record.disable_ms.map(timestamp),
    }
}

const WEBHOOKS_PER_TENANT_MAX: u32 = 50;
/// Of all tenants: one process may have to deliver to all of them.
const WEBHOOKS_MAX: u32 = 1000;
