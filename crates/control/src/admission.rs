//! `AdmissionService`: may this encoder publish, and what has ended since. For edges alone.

mod adobe;
mod watch;

use std::sync::Arc;

use proto::{
    error::status,
    internal::v1::{
        AuthorizeRequest, AuthorizeResponse, Denial, DenialReason, Grant, WatchRevocationsRequest,
        WatchRevocationsResponse, admission_service_server::AdmissionService,
        authorize_request::Credential, authorize_response::Decision,
    },
};
use registry::{SessionId, StreamId};
use runtime::{identity::Role, shutdown::Shutdown, telemetry};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use tracing::{Instrument as _, Span};
use zeroize::Zeroizing;

use crate::{
    Shared,
    adobe::UsedOpaques,
    caller::require_role,
    database::KeyRecord,
    field::{invalid, now_ms},
    pepper::Peppers,
    policy::Terms,
    stream_key::{StreamKey, StreamKeyError, StreamKeyId, redacted},
};

/// Serves one control process's decisions.
pub(crate) struct Admission {
    shared: Arc<Shared>,
    shutdown: Shutdown,
    used_opaques: UsedOpaques,
    watches: Arc<tokio::sync::Semaphore>,
}

impl Admission {
    pub(crate) fn new(shared: Arc<Shared>, shutdown: Shutdown) -> Self {
        Self {
            shared,
            shutdown,
            used_opaques: UsedOpaques::default(),
            watches: Arc::new(tokio::sync::Semaphore::new(WATCHES_MAX)),
        }
    }
}

#[tonic::async_trait]
impl AdmissionService for Admission {
    async fn authorize(
        &self,
        request: Request<AuthorizeRequest>,
    ) -> Result<Response<AuthorizeResponse>, Status> {
        let span = tracing::info_span!("authorize", otel.kind = "server", rpc.method = "Authorize");
        telemetry::accept(request.metadata(), &span);
        let answer = self
            .shared
            .metrics
            .timed("Authorize", self.decide(request).instrument(span.clone()))
            .await;
        if let Err(status) = &answer {
            telemetry::fail(&span, &format!("{:?}", status.code()));
        }
        answer
    }

    type WatchRevocationsStream = ReceiverStream<Result<WatchRevocationsResponse, Status>>;

    async fn watch_revocations(
        &self,
        request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        require_role(&request, Role::Edge)?;
        let permit = self
            .watches
            .clone()
            .try_acquire_owned()
            .map_err(|_none_left| {
                status(
                    Code::ResourceExhausted,
                    "TOO_MANY_WATCHES",
                    "too many open watches; try another control",
                )
            })?;
        let watch = watch::Watch::open(&self.shared, request.into_inner().after).await?;
        let counted = self.shared.metrics.watch_opened();
        let (answers, stream) = tokio::sync::mpsc::channel(ANSWERS_QUEUED_MAX);
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            watch.run(answers, shutdown).await;
            drop((permit, counted));
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn report_sessions(
        &self,
        _request: Request<proto::internal::v1::ReportSessionsRequest>,
    ) -> Result<Response<proto::internal::v1::ReportSessionsResponse>, Status> {
        Err(Status::unimplemented("report_sessions"))
    }
}

impl Admission {
    async fn decide(
        &self,
        request: Request<AuthorizeRequest>,
    ) -> Result<AuthorizeResponse, Status> {
        require_role(&request, Role::Edge)?;
        let mut request = request.into_inner();
        if SessionId::new(&request.session_id).is_err() {
            return Err(invalid("session_id", "1 to 128 bytes of [A-Za-z0-9._:-]"));
        }
        let now_ms = now_ms();
        let (claimed_id, checked) = match request.credential.take() {
            Some(Credential::StreamKey(credential)) => {
                let credential = Zeroizing::new(credential);
                let claimed_id = StreamKey::parse(&credential).map(|stream_key| stream_key.id());
                let checked = self.check(&credential, &request, now_ms).await?;
                (claimed_id.ok(), checked)
            }
            Some(Credential::Adobe(mut credential)) => {
                let claimed_id = StreamKeyId::parse(&credential.user).ok();
                let Some(response) = credential.response.take() else {
                    return self.challenge(&credential.user, &request.client_address, now_ms);
                };
                let attempt = adobe::Attempt::new(credential.user, response, &request);
                (claimed_id, self.check_password(&attempt, now_ms).await?)
            }
            None => {
                return Err(invalid(
                    "credential",
                    "missing, or of a kind that this version does not know",
                ));
            }
        };
        let checked = match checked {
            Ok(record) => self.admit(record.terms(), &request, now_ms).await?,
            Err(refused) => Err(refused),
        };
        let decision = match checked {
            Ok(terms) => Decision::SignedGrant(self.grant(&request, terms, now_ms)),
            Err((refusal, source)) => {
                self.refused(&request, claimed_id, refusal, source);
                Decision::Denial(refusal.denial())
            }
        };
        Ok(AuthorizeResponse {
            decision: Some(decision),
        })
    }

    fn refused(
        &self,
        request: &AuthorizeRequest,
        claimed_id: Option<StreamKeyId>,
        refusal: Refusal,
        source: &'static str,
    ) {
        self.shared.metrics.key_check(refusal.outcome(), source);
        telemetry::fail(&Span::current(), refusal.outcome());
        tracing::info!(
            reason = refusal.outcome(),
            stream_key_id = claimed_id.map(|id| id.to_string()),
            app = &*redacted(&request.app),
            session_id = request.session_id,
            client_address = request.client_address,
            server_name = &*redacted(&request.server_name),
            encoder = &*redacted(&request.encoder),
            client_certificate = subject(request),
            trace_id = telemetry::trace_id(&Span::current()),
            "publish refused"
        );
    }

    /// The key that was accepted, or why none was and what that was decided with.
    async fn check(
        &self,
        credential: &str,
        request: &AuthorizeRequest,
        now_ms: i64,
    ) -> Result<Checked, Status> {
        if !self.shared.live.has_application(&request.app) {
            return Ok(Err((Refusal::AppNotFound, "request")));
        }
        let stream_key = match StreamKey::parse(credential) {
            Ok(stream_key) => stream_key,
            Err(StreamKeyError::Malformed) => return Ok(Err((Refusal::Malformed, "request"))),
            Err(StreamKeyError::Mistyped) => return Ok(Err((Refusal::Mistyped, "request"))),
        };
        let record = self.find(stream_key.id()).await?;
        let peppers = self.shared.peppers.load();
        if let Some(record) = &record {
            self.check_pepper(&peppers, record.pepper_version, record.id)?;
        }
        let authentic = peppers.is_secret_of(record.as_ref(), &stream_key, now_ms);
        Ok(match record {
            None => Err(Refusal::Unknown),
            Some(_) if !authentic => Err(Refusal::WrongSecret),
            Some(record) => admissible(record, request, now_ms),
        }
        .map_err(|refusal| (refusal, "database")))
    }

    /// The same terms, if they take this publisher now, and what they start fits into the quotas.
    async fn admit(
        &self,
        terms: Terms,
        request: &AuthorizeRequest,
        now_ms: i64,
    ) -> Result<Decided<Terms>, Status> {
        if let Err(refusal) = terms.admits(&request.client_address, now_ms) {
            return Ok(Err((refusal, "database")));
        }
        let admitted = self.shared.quotas.admit(&self.shared, &terms).await?;
        Ok(admitted
            .map(|()| terms)
            .map_err(|refusal| (refusal, "registry")))
    }

    async fn find(&self, id: StreamKeyId) -> Result<Option<KeyRecord>, Status> {
        self.shared.database.key(id).await.map_err(|error| {
            self.shared.metrics.key_check("undecided", "database");
            error.into()
        })
    }

    /// Fails where this control cannot decide on the key.
    fn check_pepper(&self, peppers: &Peppers, version: u32, id: StreamKeyId) -> Result<(), Status> {
        if peppers.has(version) {
            return Ok(());
        }
        tracing::error!(stream_key_id = %id, pepper_version = version, "the pepper file lacks this version");
        self.shared.metrics.key_check("undecided", "database");
        Err(status(
            Code::Unavailable,
            "PEPPER_UNKNOWN",
            "the key's pepper is not known here",
        ))
    }

    fn grant(&self, request: &AuthorizeRequest, terms: Terms, now_ms: i64) -> Vec<u8> {
        self.shared.metrics.key_check("accepted", "database");
        let stream_id = StreamId::derive(&terms.tenant, &terms.app, &terms.stream);
        tracing::info!(
            stream_key_id = terms.credential_id,
            tenant = terms.tenant,
            app = terms.app,
            stream = terms.stream,
            stream_id = %stream_id,
            session_id = request.session_id,
            client_address = request.client_address,
            client_certificate = subject(request),
            trace_id = telemetry::trace_id(&Span::current()),
            "publish authorized"
        );
        let issued_ms = u64::try_from(now_ms).unwrap_or_default();
        let lifetime_ms = u64::try_from(self.shared.grant_lifetime.as_millis()).unwrap_or(u64::MAX);
        let policy = terms.policy;
        self.shared.signer.load().sign(&Grant {
            tenant: terms.tenant,
            app: terms.app,
            stream: terms.stream,
            stream_id: stream_id.as_bytes().to_vec(),
            slot: policy.role.slot(),
            session_id: request.session_id.clone(),
            stream_key_id: terms.credential_id,
            issued_ms,
            expires_ms: issued_ms.saturating_add(lifetime_ms),
            // A key's expiry ends what it started.
            session_until_ms: policy
                .session_until_ms(now_ms, terms.expire_ms)
                .unwrap_or_default(),
            takeover_policy: u32::try_from(terms.takeover_policy).unwrap_or_default(),
            reconnect_window_ms: policy.reconnect_window_seconds.saturating_mul(1000),
            limits: Some(policy.limits.message()),
            quota_group: policy.quota_group,
        })
    }
}

/// The common name of the client's certificate, for the log.
fn subject(request: &AuthorizeRequest) -> Option<&str> {
    let certificate = request.client_certificate.as_ref();
    certificate.map(|certificate| certificate.subject.as_str())
}

/// What was asked for, or why it is refused and what that was decided with.
type Decided<T> = Result<T, (Refusal, &'static str)>;

/// The key that may publish.
type Checked = Decided<KeyRecord>;

/// Whether an authentic key may publish to this app, from this client, now.
fn admissible(
    record: KeyRecord,
    request: &AuthorizeRequest,
    now_ms: i64,
) -> Result<KeyRecord, Refusal> {
    if record.app != request.app {
        Err(Refusal::WrongApp)
    } else if record.revoke_ms.is_some() {
        Err(Refusal::Revoked)
    } else if record
        .expire_ms
        .is_some_and(|expire_ms| expire_ms <= now_ms)
    {
        Err(Refusal::Expired)
    } else if record.held_off_until_ms > now_ms {
        Err(Refusal::HeldOff)
    } else {
        match (&record.client_certificate, &request.client_certificate) {
            (Some(_), None) => Err(Refusal::CertificateMissing),
            (Some(binding), Some(shown)) if !binding.is_of(shown) => Err(Refusal::CertificateWrong),
            (Some(_), Some(_)) | (None, _) => Ok(record),
        }
    }
}

/// Why a publish is refused: told to our own log and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The policy takes other addresses alone.
    AddressNotAllowed,
    AppNotFound,
    CertificateMissing,
    CertificateWrong,
    Expired,
    HeldOff,
    Malformed,
    Mistyped,
    NotYetValid,
    /// User and password, whatever is wrong with them.
    Password(PasswordFault),
    QuotaOfBitrate,
    QuotaOfSessions,
    Revoked,
    Unknown,
    WrongApp,
    /// Right user and password, another name.
    WrongName,
    WrongSecret,
}

/// What is wrong with a user and a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordFault {
    /// The challenge is of another user or address, or not ours.
    Forged,
    /// The key is not what it was when it was in force: revoked, expired, or of another app.
    KeyNotAdmissible,
    Late,
    /// The key was created without.
    NoPassword,
    Replayed,
    UnknownUser,
    Wrong,
}

impl Refusal {
    fn outcome(self) -> &'static str {
        match self {
            Self::AddressNotAllowed => "address_not_allowed",
            Self::AppNotFound => "app_not_found",
            Self::CertificateMissing => "client_certificate_missing",
            Self::CertificateWrong => "client_certificate_wrong",
            Self::Expired => "expired",
            Self::HeldOff => "held_off",
            Self::Malformed => "malformed",
            Self::Mistyped => "mistyped",
            Self::NotYetValid => "not_yet_valid",
            Self::Password(fault) => fault.outcome(),
            Self::QuotaOfBitrate => "quota_bitrate",
            Self::QuotaOfSessions => "quota_sessions",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::WrongApp => "wrong_app",
            Self::WrongName => "wrong_name",
            Self::WrongSecret => "wrong_secret",
        }
    }

    /// What the publisher learns: one text for every fault of the key, so that nobody can probe for keys. Who has the
    /// whole key may know what else it needs.
    fn denial(self) -> Denial {
        let (reason, description, retryable) = match self {
            Self::AddressNotAllowed => (
                DenialReason::AddressNotAllowed,
                "This stream key may not be used from this address",
                false,
            ),
            Self::AppNotFound => (DenialReason::AppNotFound, "Application not found", false),
            Self::CertificateMissing => (
                DenialReason::ClientCertificateMissing,
                "This stream key needs its client certificate",
                false,
            ),
            Self::CertificateWrong => (
                DenialReason::ClientCertificateWrong,
                "This stream key belongs to another client certificate",
                false,
            ),
            Self::HeldOff => (
                DenialReason::HeldOff,
                "Session was ended; try again later",
                true,
            ),
            Self::NotYetValid => (
                DenialReason::NotYetValid,
                "This stream key is not valid yet",
                true,
            ),
            Self::QuotaOfBitrate => (
                DenialReason::QuotaExceeded,
                "The bitrate of all streams together is used up; try again when one has ended",
                true,
            ),
            Self::QuotaOfSessions => (
                DenialReason::QuotaExceeded,
                "As many streams are live as may be; try again when one has ended",
                true,
            ),
            Self::Password(_) => (
                DenialReason::PasswordNotAccepted,
                "User or password not accepted",
                false,
            ),
            Self::WrongName => (
                DenialReason::NameNotAccepted,
                "Stream name not accepted: user and password are of another stream",
                false,
            ),
            Self::Expired
            | Self::Malformed
            | Self::Mistyped
            | Self::Revoked
            | Self::Unknown
            | Self::WrongApp
            | Self::WrongSecret => (
                DenialReason::KeyNotAccepted,
                "Stream key not accepted",
                false,
            ),
        };
        Denial {
            reason: reason.into(),
            description: description.to_owned(),
            retryable,
        }
    }
}

impl PasswordFault {
    fn outcome(self) -> &'static str {
        match self {
            Self::Forged => "challenge_forged",
            Self::KeyNotAdmissible => "password_of_lapsed_key",
            Self::Late => "challenge_expired",
            Self::NoPassword => "no_password",
            Self::Replayed => "challenge_replayed",
            Self::UnknownUser => "unknown_user",
            Self::Wrong => "wrong_password",
        }
    }
}

/// Edges (or attempts of them) that watch one control process.
const WATCHES_MAX: usize = 1024;
/// Answers that wait for one edge to read them.
const ANSWERS_QUEUED_MAX: usize = 4;
