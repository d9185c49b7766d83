//! `AdmissionService`: may this encoder publish, and what has ended since. For edges alone.

mod adobe;
mod guesses;
mod managed;
mod offer;
mod refusal;
mod signed;
mod source;
mod watch;
mod webhook;

use std::{future::pending, sync::Arc};

use proto::internal::v1::{
    AuthorizeRequest, AuthorizeResponse, Grant, ReportSessionsRequest, ReportSessionsResponse,
    WatchRevocationsRequest, WatchRevocationsResponse, admission_service_server::AdmissionService,
    authorize_request::Credential, authorize_response::Decision,
};
use registry::{SessionId, StreamId};
use runtime::{identity::Role, shutdown::Shutdown, telemetry};
use tonic::{Request, Response, Status};
use tracing::{Instrument as _, Span};
use zeroize::Zeroizing;

use self::{guesses::Guesses, watch::RevocationWatch};
pub(crate) use self::{
    managed::claimed_id,
    refusal::{PasswordFault, Refusal, SignedFault, SourceFault},
    signed::{LIFETIME_MAX, Uses, credential_id, jti},
    source::{Source, Sources},
};
use crate::{
    Shared,
    adobe::UsedOpaques,
    caller::require_role,
    client_certificate::CertificateBinding,
    field::{invalid, now_ms},
    policy::Terms,
    session_log::reports,
    stream_key::redacted,
    watches::{Answers, Watches},
};

/// Serves one control process's decisions.
pub(crate) struct Admission {
    shared: Arc<Shared>,
    used_opaques: UsedOpaques,
    guesses: Guesses,
    watches: Watches,
}

impl Admission {
    pub(crate) fn new(shared: Arc<Shared>, shutdown: Shutdown) -> Self {
        Self {
            shared,
            used_opaques: UsedOpaques::default(),
            guesses: Guesses::new(),
            watches: Watches::new(WATCHES_MAX, ANSWERS_QUEUED_MAX, shutdown),
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

    type WatchRevocationsStream = Answers<WatchRevocationsResponse>;

    async fn watch_revocations(
        &self,
        request: Request<WatchRevocationsRequest>,
    ) -> Result<Response<Self::WatchRevocationsStream>, Status> {
        require_role(&request, Role::Edge)?;
        let room = self.watches.room(None)?;
        let watch = RevocationWatch::open(&self.shared, request.into_inner()).await?;
        let counted = self.shared.metrics.watch_opened();
        Ok(self.watches.serve(watch, pending(), (room, counted)))
    }

    async fn report_sessions(
        &self,
        request: Request<ReportSessionsRequest>,
    ) -> Result<Response<ReportSessionsResponse>, Status> {
        let call = async {
            require_role(&request, Role::Edge)?;
            let events = reports(request.into_inner(), now_ms())?;
            self.shared.database.tell_sessions(&events).await?;
            Ok(ReportSessionsResponse {})
        };
        self.shared.metrics.timed("ReportSessions", call).await
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
        let token = Zeroizing::new(std::mem::take(&mut request.token));
        let verdict = match request.credential.take() {
            Some(Credential::StreamKey(stream_key)) => {
                let shown = Shown {
                    stream_key: &Zeroizing::new(stream_key),
                    token: &token,
                    request: &request,
                };
                self.ask_source(&shown, now_ms).await?
            }
            Some(Credential::Adobe(mut credential)) => {
                let Some(response) = credential.response.take() else {
                    return self.challenge(&credential.user, &request.client_address, now_ms);
                };
                let attempt = adobe::Attempt::new(credential.user, response, &request);
                self.check_password(&attempt, now_ms).await?
            }
            None => {
                return Err(invalid(
                    "credential",
                    "missing, or of a kind that this version does not know",
                ));
            }
        };
        let verdict = self.admit(verdict, &request, now_ms).await?;
        let decision = match verdict.outcome {
            Ok(terms) => Decision::SignedGrant(self.grant(&request, terms, verdict.by, now_ms)),
            Err(refusal) => {
                let claimed_id = verdict.claimed_id.as_deref();
                self.refused(&request, claimed_id, &refusal, verdict.by);
                let denial = refusal.denial();
                let refusals = &self.shared.refusals;
                refusals.tell(&request, claimed_id, &refusal, &denial.description);
                Decision::Denial(denial)
            }
        };
        Ok(AuthorizeResponse {
            decision: Some(decision),
        })
    }

    /// What the application's source says.
    async fn ask_source(&self, shown: &Shown<'_>, now_ms: i64) -> Result<Verdict, Status> {
        let verdict = match self.shared.live.source(&shown.request.app).as_deref() {
            None => {
                let claimed_id = claimed_id(shown.stream_key);
                Ok(Verdict::refused(
                    Refusal::AppNotFound,
                    "request",
                    claimed_id,
                ))
            }
            Some(Source::Managed) => {
                self.check_key(shown.stream_key, shown.request, now_ms)
                    .await
            }
            Some(Source::Signed(signed)) => signed.decide(&self.shared, shown, now_ms).await,
            Some(Source::Webhook(webhook)) => webhook.decide(&self.shared, shown, now_ms).await,
        };
        verdict.inspect_err(|_undecided| self.undecided())
    }

    /// The database did not answer.
    fn undecided(&self) {
        self.shared.metrics.key_check("undecided", "database");
    }

    /// The same, for one of the stream's slots, if the terms take this publisher now, what they start fits into the quotas, the credential has a use
    /// left, and the stream is the tenant's. What is refused counts nowhere.
    async fn admit(
        &self,
        mut verdict: Verdict,
        request: &AuthorizeRequest,
        now_ms: i64,
    ) -> Result<Verdict, Status> {
        if let Ok(terms) = &mut verdict.outcome {
            match terms.policy.role.asked(request.backup) {
                Ok(role) => terms.policy.role = role,
                Err(refusal) => {
                    return Ok(Verdict::refused(refusal, verdict.by, verdict.claimed_id));
                }
            }
        }
        let Ok(terms) = &verdict.outcome else {
            return Ok(verdict);
        };
        let refuse = |refusal, by| Ok(Verdict::refused(refusal, by, verdict.claimed_id.clone()));
        if let Err(refusal) = terms.admits(&request.client_address, now_ms) {
            return refuse(refusal, verdict.by);
        }
        let admitted = match self.shared.quotas.admit(&self.shared, terms).await? {
            Ok(admitted) => admitted,
            Err(refusal) => return refuse(refusal, "registry"),
        };
        // Before the use is counted: a claim can fail, and made again it is the same one.
        if verdict.claims {
            let claimed = self.shared.claim_stream(terms).await;
            let claimed = claimed.inspect_err(|_undecided| self.undecided())?;
            if let Some(foreign) = claimed {
                return refuse(foreign, "database");
            }
        }
        if let Some(uses) = &verdict.uses
            && let Err(refusal) = uses.count(&self.shared, request).await?
        {
            return refuse(refusal, "registry");
        }
        admitted.keep();
        Ok(verdict)
    }

    fn refused(
        &self,
        request: &AuthorizeRequest,
        claimed_id: Option<&str>,
        refusal: &Refusal,
        by: &'static str,
    ) {
        self.shared.metrics.key_check(refusal.outcome(), by);
        telemetry::fail(&Span::current(), refusal.outcome());
        if *refusal == Refusal::TooManyAttempts {
            // A flood of guesses is none of lines.
            return;
        }
        tracing::info!(
            reason = refusal.outcome(),
            stream_key_id = claimed_id,
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

    fn grant(
        &self,
        request: &AuthorizeRequest,
        terms: Terms,
        by: &'static str,
        now_ms: i64,
    ) -> Vec<u8> {
        self.shared.metrics.key_check("accepted", by);
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
            reconnect_window_ms: policy
                .reconnect_window_seconds
                .map(|seconds| seconds.saturating_mul(1000)),
            limits: Some(policy.limits.message()),
            quota_group: policy.quota_group,
            takeover_priority: policy.takeover_priority,
        })
    }
}

/// What an encoder showed, and where it came from.
pub(crate) struct Shown<'a> {
    /// The last segment of the path. A secret, as the token is.
    pub(crate) stream_key: &'a str,
    /// The query's parameter `token`; empty where there is none.
    pub(crate) token: &'a str,
    /// The rest of the request: it holds no secret any more.
    pub(crate) request: &'a AuthorizeRequest,
}

/// What a source decided, and with what: `request` (nobody was asked), `database`, `signature`, `registry`, `webhook`
/// or `cache`.
pub(crate) struct Verdict {
    pub(crate) outcome: Result<Terms, Refusal>,
    pub(crate) by: &'static str,
    /// What the credential says that it is, for the log.
    pub(crate) claimed_id: Option<String>,
    /// `None`: it can be used again and again.
    pub(crate) uses: Option<Uses>,
    /// Whether the stream was nobody's.
    pub(crate) claims: bool,
}

impl Verdict {
    pub(crate) fn refused(refusal: Refusal, by: &'static str, claimed_id: Option<String>) -> Self {
        Self {
            outcome: Err(refusal),
            by,
            claimed_id,
            uses: None,
            claims: false,
        }
    }
}

/// Whether the client has shown the certificate that its key is bound to.
pub(crate) fn certified(
    binding: Option<&CertificateBinding>,
    request: &AuthorizeRequest,
) -> Result<(), Refusal> {
    match (binding, &request.client_certificate) {
        (Some(_), None) => Err(Refusal::CertificateMissing),
        (Some(binding), Some(shown)) if !binding.is_of(shown) => Err(Refusal::CertificateWrong),
        (Some(_), Some(_)) | (None, _) => Ok(()),
    }
}

/// The common name of the client's certificate, for the log.
fn subject(request: &AuthorizeRequest) -> Option<&str> {
    let certificate = request.client_certificate.as_ref();
    certificate.map(|certificate| certificate.subject.as_str())
}

/// Edges (or attempts of them) that watch one control process.
const WATCHES_MAX: usize = 1024;
/// Answers that wait for one edge to read them.
const ANSWERS_QUEUED_MAX: usize = 4;
