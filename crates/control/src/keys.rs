//! `StreamKeyService`: stream keys for product backends.

use std::sync::Arc;

use proto::{
    error::status,
    v1::{
        CreateStreamKeyRequest, CreateStreamKeyResponse, GetStreamKeyRequest,
        ListStreamKeysRequest, ListStreamKeysResponse, RevokeSignedKeyRequest,
        RevokeSignedKeyResponse, RevokeStreamKeyRequest, StreamKey as StreamKeyMessage,
        TakeoverPolicy, stream_key_service_server::StreamKeyService,
    },
};
use tonic::{Code, Request, Response, Status};

use crate::{
    Shared,
    adobe::password_equivalent,
    caller::{address, tenant},
    client_certificate::CertificateBinding,
    database::{CreateOutcome, KeyFilter, KeyRecord},
    field::{self, Violations, now_ms, timestamp},
    page_token::{Cursor, Page},
    policy::Policy,
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
        self.0
            .metrics
            .timed("CreateStreamKey", self.create(request))
            .await
    }

    async fn get_stream_key(
        &self,
        request: Request<GetStreamKeyRequest>,
    ) -> Result<Response<StreamKeyMessage>, Status> {
        self.0
            .metrics
            .timed("GetStreamKey", self.get(request))
            .await
    }

    async fn list_stream_keys(
        &self,
        request: Request<ListStreamKeysRequest>,
    ) -> Result<Response<ListStreamKeysResponse>, Status> {
        self.0
            .metrics
            .timed("ListStreamKeys", self.list(request))
            .await
    }

    async fn revoke_stream_key(
        &self,
        request: Request<RevokeStreamKeyRequest>,
    ) -> Result<Response<StreamKeyMessage>, Status> {
        self.0
            .metrics
            .timed("RevokeStreamKey", self.revoke(request))
            .await
    }

    async fn update_stream_key(
        &self,
        _request: Request<proto::v1::UpdateStreamKeyRequest>,
    ) -> Result<Response<StreamKeyMessage>, Status> {
        Err(Status::unimplemented("update_stream_key"))
    }

    async fn rotate_stream_key(
        &self,
        _request: Request<proto::v1::RotateStreamKeyRequest>,
    ) -> Result<Response<proto::v1::RotateStreamKeyResponse>, Status> {
        Err(Status::unimplemented("rotate_stream_key"))
    }

    async fn delete_stream_key(
        &self,
        _request: Request<proto::v1::DeleteStreamKeyRequest>,
    ) -> Result<Response<proto::v1::DeleteStreamKeyResponse>, Status> {
        Err(Status::unimplemented("delete_stream_key"))
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
        let (tenant, address) = (tenant(&request)?, address(&request));
        let request = request.into_inner();
        let now_ms = now_ms();
        let Checked {
            expire_ms,
            policy,
            publish_policy,
            binding,
        } = check(&request, &tenant, now_ms)?;
        if !self.0.live.has_application(&request.app) {
            return Err(status(
                Code::NotFound,
                "APP_NOT_FOUND",
                "no such application",
            ));
        }

        let unavailable = || status(Code::Unavailable, "RANDOM_UNAVAILABLE", "no random bytes");
        // One version of the file for both: a reload may come between.
        let peppers = self.0.peppers.load_full();
        let stream_key = StreamKey::generate().map_err(|_no_random| unavailable())?;
        let adobe = request.adobe.then(|| {
            let equivalent = password_equivalent(&stream_key);
            peppers.seal(stream_key.id(), &equivalent)
        });
        let record = KeyRecord {
            id: stream_key.id(),
            tenant: tenant.as_ref().into(),
            app: request.app,
            stream: request.stream,
            description: request.description,
            takeover_policy: policy,
            mac: peppers.mac(&stream_key),
            pepper_version: peppers.current(),
            create_ms: now_ms,
            expire_ms,
            revoke_ms: None,
            held_off_until_ms: 0,
            client_certificate: binding,
            adobe: adobe.transpose().map_err(|_no_random| unavailable())?,
            policy: publish_policy,
        };
        match self.0.database.create_key(&record).await? {
            CreateOutcome::Created => {}
            CreateOutcome::StreamOfAnotherTenant => {
                let description = "the stream belongs to another tenant";
                return Err(status(
                    Code::AlreadyExists,
                    "STREAM_OF_ANOTHER_TENANT",
                    description,
                ));
            }
        }
        self.audit("create_stream_key", &record, &address, "");
        Ok(CreateStreamKeyResponse {
            stream_key: Some(message(record)),
            secret: (*stream_key.reveal()).clone(),
        })
    }

    async fn get(&self, request: Request<GetStreamKeyRequest>) -> Result<StreamKeyMessage, Status> {
        let tenant = tenant(&request)?;
        self.find(&tenant, id(&request.into_inner().id)?)
            .await
            .map(message)
    }

    async fn list(
        &self,
        request: Request<ListStreamKeysRequest>,
    ) -> Result<ListStreamKeysResponse, Status> {
        let tenant = tenant(&request)?;
        let request = request.into_inner();
        let page = Page::of(&request.app, request.page_size, &request.page_token)?;

        let filter = KeyFilter {
            tenant: tenant.as_ref().into(),
            app: request.app,
            include_revoked: request.include_revoked,
        };
        // One more than asked for tells whether there is a next page.
        let mut records = self
            .0
            .database
            .keys(&filter, &page.after, page.size.saturating_add(1))
            .await?;
        let page_len = usize::try_from(page.size).unwrap_or(usize::MAX);
        let more = records.len() > page_len;
        records.truncate(page_len);
        let last = records.last().filter(|_| more);
        let next = last.map(|last| Cursor {
            time_ms: last.create_ms,
            id: last.id.to_string(),
        });
        Ok(ListStreamKeysResponse {
            next_page_token: next.map(|cursor| cursor.encode()).unwrap_or_default(),
            stream_keys: records.into_iter().map(message).collect(),
        })
    }

    async fn revoke(
        &self,
        request: Request<RevokeStreamKeyRequest>,
    ) -> Result<StreamKeyMessage, Status> {
        let (tenant, address) = (tenant(&request)?, address(&request));
        let request = request.into_inner();
        let id = id(&request.id)?;
        let mut violations = Violations::default();
        violations.check("reason", field::reason(&request.reason));
        violations.finish()?;
        let revoked = self
            .0
            .database
            .revoke_key(&tenant, id, &request.reason, now_ms())
            .await?;
        let record = self.find(&tenant, id).await?;
        if revoked {
            self.audit("revoke_stream_key", &record, &address, &request.reason);
        }
        Ok(message(record))
    }

    /// What another tenant owns is not there.
    async fn find(&self, tenant: &str, id: StreamKeyId) -> Result<KeyRecord, Status> {
        let record = self
            .0
            .database
            .key(id)
            .await?
            .filter(|record| record.tenant == tenant);
        record.ok_or_else(|| status(Code::NotFound, "KEY_NOT_FOUND", "no such stream key"))
    }

    fn audit(&self, action: &'static str, record: &KeyRecord, client_address: &str, reason: &str) {
        self.0.metrics.admin_action(action);
        tracing::info!(
            action,
            tenant = record.tenant,
            stream_key_id = %record.id,
            app = record.app,
            stream = record.stream,
            adobe = record.adobe.is_some(),
            client_address,
            reason,
            "stream key changed"
        );
    }
}

/// What the fields of a new key mean.
struct Checked {
    expire_ms: Option<i64>,
    policy: i32,
    publish_policy: Policy,
    binding: Option<CertificateBinding>,
}

fn check(request: &CreateStreamKeyRequest, tenant: &str, now_ms: i64) -> Result<Checked, Status> {
    let mut violations = Violations::default();
    violations.check("app", field::app(&request.app));
    violations.check("stream", field::stream(&request.stream));
    violations.check("description", field::description(&request.description));
    let expire_ms = request
        .expire_time
        .map(|time| field::future_ms(time, now_ms))
        .transpose();
    let expire_ms = violations.check("expire_time", expire_ms).flatten();
    let policy = violations.check("takeover_policy", takeover_policy(request.takeover_policy));
    let binding = &request.client_certificate;
    let binding = (!binding.is_empty()).then(|| CertificateBinding::parse(binding));
    let binding = violations.check("client_certificate", binding.transpose());
    let own = request.tenant.is_empty() || request.tenant == tenant;
    violations.check(
        "tenant",
        if own {
            Ok(())
        } else {
            Err("not the tenant of the caller's token")
        },
    );
    let publish_policy = request.policy.clone().unwrap_or_default();
    let publish_policy = Policy::parse(publish_policy, &mut violations);
    violations.finish()?;
    Ok(Checked {
        publish_policy,
        expire_ms,
        policy: policy.unwrap_or_default(),
        binding: binding.flatten(),
    })
}

fn id(id: &str) -> Result<StreamKeyId, Status> {
    StreamKeyId::parse(id)
        .map_err(|_malformed| field::invalid("id", "16 characters of Crockford base32"))
}

fn takeover_policy(policy: i32) -> Result<i32, &'static str> {
    match TakeoverPolicy::try_from(policy) {
        Ok(TakeoverPolicy::Unspecified) => Ok(TakeoverPolicy::TakeoverIfStale.into()),
        Ok(known) => Ok(known.into()),
        Err(_unknown) => Err("not a takeover policy"),
    }
}

fn message(record: KeyRecord) -> StreamKeyMessage {
    StreamKeyMessage {
        id: record.id.to_string(),
        tenant: record.tenant,
        app: record.app,
        stream: record.stream,
        description: record.description,
        create_time: Some(timestamp(record.create_ms)),
        expire_time: record.expire_ms.map(timestamp),
        revoke_time: record.revoke_ms.map(timestamp),
        takeover_policy: record.takeover_policy,
        client_certificate: record
            .client_certificate
            .map(|binding| binding.as_str().to_owned())
            .unwrap_or_default(),
        adobe: record.adobe.is_some(),
        policy: Some(record.policy.message()),
        ..StreamKeyMessage::default()
    }
}
