//! `StreamKeyService`: stream keys for product backends.

mod change;
mod request;
mod settings;

use std::sync::Arc;

use proto::{
    error::status,
    v1::{
        CreateStreamKeyRequest, CreateStreamKeyResponse, DeleteStreamKeyRequest,
        DeleteStreamKeyResponse, EventType, GetStreamKeyRequest, KeyEvent, ListStreamKeysRequest,
        ListStreamKeysResponse, RevokeSignedKeyRequest, RevokeSignedKeyResponse,
        RevokeStreamKeyRequest, RotateStreamKeyRequest, RotateStreamKeyResponse,
        StreamKey as StreamKeyMessage, StreamKeyState, UpdateStreamKeyRequest,
        stream_key_service_server::StreamKeyService,
    },
};
use tonic::{Code, Request, Response, Status};

use self::{
    request::Named,
    settings::{Settings, message},
};
use crate::{
    Shared,
    adobe::password_equivalent,
    caller::{Caller, Scope},
    database::{CreateOutcome, Creation, KeyFilter, KeyRecord, NewEvent},
    field::{self, Violations, now_ms},
    page_token::{self, Cursor, Page},
    pepper::Peppers,
    stream_key::{StreamKey, StreamKeyId},
};

/// Serves one control process's stream keys.
pub(crate) struct StreamKeys(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl StreamKeyService for StreamKeys {
    async fn create_stream_key(
        &self,
        request: Request<CreateStreamKeyRequest>,
    ) -> Result<Response<CreateStreamKeyResponse>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("CreateStreamKey", self.create(request)).await
    }

    async fn get_stream_key(
        &self,
        request: Request<GetStreamKeyRequest>,
    ) -> Result<Response<StreamKeyMessage>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("GetStreamKey", self.get(request)).await
    }

    async fn list_stream_keys(
        &self,
        request: Request<ListStreamKeysRequest>,
    ) -> Result<Response<ListStreamKeysResponse>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("ListStreamKeys", self.list(request)).await
    }

    async fn update_stream_key(
        &self,
        request: Request<UpdateStreamKeyRequest>,
    ) -> Result<Response<StreamKeyMessage>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("UpdateStreamKey", self.update(request)).await
    }

    async fn rotate_stream_key(
        &self,
        request: Request<RotateStreamKeyRequest>,
    ) -> Result<Response<RotateStreamKeyResponse>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("RotateStreamKey", self.rotate(request)).await
    }

    async fn revoke_stream_key(
        &self,
        request: Request<RevokeStreamKeyRequest>,
    ) -> Result<Response<StreamKeyMessage>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("RevokeStreamKey", self.revoke(request)).await
    }

    async fn delete_stream_key(
        &self,
        request: Request<DeleteStreamKeyRequest>,
    ) -> Result<Response<DeleteStreamKeyResponse>, Status> {
        let metrics = &self.0.metrics;
        metrics.timed("DeleteStreamKey", self.delete(request)).await
    }

    async fn revoke_signed_key(
        &self,
        request: Request<RevokeSignedKeyRequest>,
    ) -> Result<Response<RevokeSignedKeyResponse>, Status> {
        self.0
            .metrics
            .timed("RevokeSignedKey", self.revoke_signed(request))
            .await
    }
}

impl StreamKeys {
    async fn create(
        &self,
        request: Request<CreateStreamKeyRequest>,
    ) -> Result<CreateStreamKeyResponse, Status> {
        let caller = self.0.caller(&request, Scope::KeysWrite).await?;
        let request = request.into_inner();
        let now_ms = now_ms();
        let (tenant, settings) = check(&caller, &request, now_ms)?;
        let named = Named::new(
            "CreateStreamKey",
            &request,
            &request.request_id,
            &tenant,
            now_ms,
        );
        if let Some(known) = self.answer_again(&caller, named.as_ref()).await? {
            return Ok(created(known, now_ms));
        }
        if !self.0.live.has_application(&request.app) {
            return Err(status(
                Code::NotFound,
                "APP_NOT_FOUND",
                "no such application",
            ));
        }

        // One version of the file for everything: a reload may come between.
        let peppers = self.0.peppers.load_full();
        let stream_key = StreamKey::generate()?;
        let record = settings.of(KeyRecord {
            adobe: password(&peppers, &stream_key, request.adobe)?,
            ..new_record(&tenant, &request, &stream_key, &peppers, now_ms)
        });
        let event = event(EventType::KeyCreated, &record, &caller, "", now_ms);
        let answer = named
            .as_ref()
            .map(|named| named.answered(&peppers, &stream_key));
        let answer = answer.transpose()?;
        let creation = Creation {
            record: &record,
            event: &event,
            request: answer.as_ref(),
            default_quota: self.0.quotas.default_quota(),
        };
        match (self.0.database.create_key(creation).await?, &named) {
            (CreateOutcome::Created, _) => {}
            (CreateOutcome::RequestKnown(known), Some(named)) => {
                let known = self.open(&caller, named, known).await?;
                return Ok(created(known, now_ms));
            }
            (CreateOutcome::QuotaExceeded | CreateOutcome::RequestKnown(_), _) => {
                return Err(quota_exceeded());
            }
            (CreateOutcome::StreamOfAnotherTenant, _) => {
                let description = "the stream belongs to another tenant";
                return Err(status(
                    Code::AlreadyExists,
                    "STREAM_OF_ANOTHER_TENANT",
                    description,
                ));
            }
        }
        self.audit("create_stream_key", &record, &caller, "");
        Ok(created((record, stream_key), now_ms))
    }

    async fn get(&self, request: Request<GetStreamKeyRequest>) -> Result<StreamKeyMessage, Status> {
        let caller = self.0.caller(&request, Scope::KeysRead).await?;
        let id = id("id", &request.into_inner().id)?;
        let record = self.find(&caller, id).await?;
        Ok(message(record, now_ms()))
    }

    async fn list(
        &self,
        request: Request<ListStreamKeysRequest>,
    ) -> Result<ListStreamKeysResponse, Status> {
        let caller = self.0.caller(&request, Scope::KeysRead).await?;
        let request = request.into_inner();
        let page = Page::of(&request.app, request.page_size, &request.page_token)?;
        let now_ms = now_ms();
        let filter = filter(&caller, request, now_ms)?;
        // One more than asked for tells whether there is a next page.
        let mut records = self
            .0
            .database
            .keys(&filter, &page.after, page.size.saturating_add(1))
            .await?;
        let last = page_token::cut(&mut records, page.size);
        let next = last.map(|last| Cursor {
            time_ms: last.create_ms,
            id: last.id.to_string(),
        });
        let messages = records.into_iter().map(|record| message(record, now_ms));
        Ok(ListStreamKeysResponse {
            next_page_token: next.map(|cursor| cursor.encode()).unwrap_or_default(),
            stream_keys: messages.collect(),
        })
    }

    /// What another tenant owns is not there.
    async fn find(&self, caller: &Caller, id: StreamKeyId) -> Result<KeyRecord, Status> {
        let record = self.0.database.key(id).await?;
        let record = record.filter(|record| caller.sees(&record.tenant));
        record.ok_or_else(not_found)
    }

    fn audit(&self, action: &'static str, record: &KeyRecord, caller: &Caller, reason: &str) {
        self.0.metrics.admin_action(action);
        tracing::info!(
            action,
            tenant = record.tenant,
            stream_key_id = %record.id,
            app = record.app,
            stream = record.stream,
            adobe = record.adobe.is_some(),
            actor = caller.name,
            client_address = caller.address,
            reason,
            "stream key changed"
        );
    }
}

/// Whose the key is to be, and what its fields mean.
fn check(
    caller: &Caller,
    request: &CreateStreamKeyRequest,
    now_ms: i64,
) -> Result<(Arc<str>, Settings), Status> {
    let mut violations = Violations::default();
    violations.check("app", field::app(&request.app));
    violations.check("stream", field::stream(&request.stream));
    let settings = StreamKeyMessage {
        description: request.description.clone(),
        expire_time: request.expire_time,
        takeover_policy: request.takeover_policy,
        client_certificate: request.client_certificate.clone(),
        policy: request.policy.clone(),
        labels: request.labels.clone(),
        ..StreamKeyMessage::default()
    };
    let settings = Settings::check(settings, now_ms, true, &mut violations);
    violations.check("request_id", field::request_id(&request.request_id));
    let tenant = field::named_tenant(&request.tenant);
    let tenant = tenant.and_then(|named| caller.tenant(named));
    let tenant = violations.check("tenant", tenant);
    violations.finish()?;
    Ok((tenant.unwrap_or_default(), settings))
}

/// A key without settings and password.
fn new_record(
    tenant: &str,
    request: &CreateStreamKeyRequest,
    stream_key: &StreamKey,
    peppers: &Peppers,
    now_ms: i64,
) -> KeyRecord {
    KeyRecord {
        id: stream_key.id(),
        tenant: tenant.to_owned(),
        app: request.app.clone(),
        stream: request.stream.clone(),
        description: String::new(),
        takeover_policy: 0,
        mac: peppers.mac(stream_key),
        pepper_version: peppers.current(),
        create_ms: now_ms,
        expire_ms: None,
        revoke_ms: None,
        held_off_until_ms: 0,
        client_certificate: None,
        adobe: None,
        policy: Default::default(),
        labels: Default::default(),
        version: 1,
        update_ms: None,
        previous: None,
    }
}

/// What is stored for the password, where there is to be one.
fn password(
    peppers: &Peppers,
    stream_key: &StreamKey,
    wanted: bool,
) -> Result<Option<Vec<u8>>, Status> {
    let seal = || peppers.seal(stream_key.id(), &password_equivalent(stream_key)[..]);
    let sealed = wanted.then(seal).transpose();
    Ok(sealed?)
}

fn created((record, stream_key): (KeyRecord, StreamKey), now_ms: i64) -> CreateStreamKeyResponse {
    CreateStreamKeyResponse {
        stream_key: Some(message(record, now_ms)),
        secret: (*stream_key.reveal()).clone(),
    }
}

fn event(
    event_type: EventType,
    record: &KeyRecord,
    caller: &Caller,
    reason: &str,
    now_ms: i64,
) -> NewEvent {
    let event = KeyEvent {
        stream_key_id: record.id.to_string(),
        app: record.app.clone(),
        stream: record.stream.clone(),
        actor: caller.name.clone(),
        reason: reason.to_owned(),
    };
    NewEvent::of_key(event_type, &record.tenant, now_ms, event)
}

fn filter(
    caller: &Caller,
    request: ListStreamKeysRequest,
    now_ms: i64,
) -> Result<KeyFilter, Status> {
    let mut violations = Violations::default();
    if !request.stream.is_empty() {
        violations.check("stream", field::stream(&request.stream));
    }
    let tenant = field::named_tenant(&request.tenant);
    let tenant = tenant.and_then(|named| caller.listed(named));
    let tenant = violations.check("tenant", tenant);
    violations.check("labels", field::labels(&request.labels));
    let states = request.states.iter().map(|state| {
        let state = StreamKeyState::try_from(*state);
        state
            .ok()
            .filter(|state| *state != StreamKeyState::Unspecified)
    });
    let states = states.collect::<Option<Vec<_>>>();
    let states = states.filter(|states| states.len() <= STATES_MAX);
    let states = violations.check("states", states.ok_or("at most 8 states"));
    violations.finish()?;
    let mut states = states.unwrap_or_default();
    if states.is_empty() && !request.include_revoked {
        states = vec![
            StreamKeyState::Active,
            StreamKeyState::Pending,
            StreamKeyState::Expired,
        ];
    }
    Ok(KeyFilter {
        tenant: tenant.flatten(),
        app: request.app,
        stream: request.stream,
        labels: request.labels.into_iter().collect(),
        states,
        now_ms,
    })
}

fn id(field: &'static str, id: &str) -> Result<StreamKeyId, Status> {
    StreamKeyId::parse(id)
        .map_err(|_malformed| field::invalid(field, "16 characters of Crockford base32"))
}

fn not_found() -> Status {
    status(Code::NotFound, "KEY_NOT_FOUND", "no such stream key")
}

fn quota_exceeded() -> Status {
    let description = "the tenant, or the group, has as many keys as it may";
    status(Code::ResourceExhausted, "QUOTA_EXCEEDED", description)
}

/// In one request: each may be there twice.
const STATES_MAX: usize = 8;
