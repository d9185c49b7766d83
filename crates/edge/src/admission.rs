//! Asks control whether a publish is allowed.

use std::{net::SocketAddr, time::Duration};

use proto::{
    grant::read_unverified,
    internal::v1::{
        AdobeChallenge, AdobeCredential, AuthorizeRequest, Denial, DenialReason, Grant,
        admission_service_client::AdmissionServiceClient, authorize_request::Credential,
        authorize_response::Decision,
    },
    v1::TakeoverPolicy,
};
use registry::{Policy, SessionId, Slot, StreamId};
use runtime::{grpc::Endpoints, telemetry};
use tokio::time::timeout;
use tracing::{Instrument as _, info_span, warn};
use uuid::Uuid;

use crate::live::Terms;

/// Control, as far as a publish needs it.
pub(crate) struct Admission {
    control: Endpoints,
    stale_after: Duration,
}

/// What control allowed.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    /// For the origin, which verifies it.
    pub(crate) signed_grant: Vec<u8>,
    pub(crate) stream: StreamId,
    pub(crate) slot: Slot,
    pub(crate) tenant: String,
    pub(crate) app: String,
    pub(crate) name: String,
    pub(crate) stream_key_id: String,
    pub(crate) quota_group: String,
    pub(crate) policy: Policy,
    pub(crate) reconnect_window: Duration,
    pub(crate) priority: u32,
    pub(crate) terms: Terms,
}

/// Why a publish does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// A stable word for metrics and logs.
    pub(crate) reason: &'static str,
    /// For the person at the encoder.
    pub(crate) description: String,
}

/// What an encoder is told about a fault that is not its own.
pub(crate) const NOT_AVAILABLE: &str = "The service is not available right now, please try again";

impl Refusal {
    /// Ours to mend; the encoder may try again.
    pub(crate) fn not_available(reason: &'static str) -> Self {
        Self {
            reason,
            description: NOT_AVAILABLE.to_owned(),
        }
    }

    /// Whether it may be one of many attempts to guess.
    pub(crate) fn may_be_a_guess(&self) -> bool {
        matches!(
            self.reason,
            "key_not_accepted"
                | "name_not_accepted"
                | "password_not_accepted"
                | "refused_by_platform"
                | "too_many_attempts"
        )
    }
}

impl Admission {
    pub(crate) fn new(control: Endpoints, stale_after: Duration) -> Self {
        Self {
            control,
            stale_after,
        }
    }

    pub(crate) fn control(&self) -> &Endpoints {
        &self.control
    }

    /// Control's decision on one publish, in time or not at all.
    pub(crate) async fn authorize(
        &self,
        request: AuthorizeRequest,
        session: &SessionId,
        patience: Duration,
    ) -> Result<Granted, Refusal> {
        match self.decide(request, patience).await? {
            Decision::Denial(denial) => Err(refusal(denial)),
            Decision::SignedGrant(signed_grant) => {
                self.granted(signed_grant, session).ok_or_else(|| {
                    warn!("control's grant cannot be read, or is of another session");
                    Refusal::not_available("grant_invalid")
                })
            }
            Decision::AdobeChallenge(_) => Err(undecided()),
        }
    }

    /// A challenge for an encoder that wants to log in with a password.
    pub(crate) async fn challenge(
        &self,
        user: String,
        client_address: SocketAddr,
        patience: Duration,
    ) -> Result<rtmp::AdobeChallenge, Refusal> {
        let credential = AdobeCredential {
            user,
            response: None,
        };
        let request = AuthorizeRequest {
            credential: Some(Credential::Adobe(credential)),
            client_address: client_address.to_string(),
            session_id: new_session_id().to_string(),
            ..AuthorizeRequest::default()
        };
        match self.decide(request, patience).await? {
            Decision::AdobeChallenge(AdobeChallenge {
                salt,
                challenge,
                opaque,
            }) => Ok(rtmp::AdobeChallenge {
                salt,
                challenge,
                opaque,
            }),
            Decision::Denial(denial) => Err(refusal(denial)),
            Decision::SignedGrant(_) => Err(undecided()),
        }
    }

    async fn decide(
        &self,
        request: AuthorizeRequest,
        patience: Duration,
    ) -> Result<Decision, Refusal> {
        let span = info_span!("authorize", otel.kind = "client", rpc.method = "Authorize");
        let call = self.control.call(|channel| {
            let request = request.clone();
            async move {
                AdmissionServiceClient::with_interceptor(channel, telemetry::inject)
                    .authorize(request)
                    .await
            }
        });
        match timeout(patience, call).instrument(span.clone()).await {
            Ok(Ok(response)) => response.into_inner().decision.ok_or_else(undecided),
            Ok(Err(status)) => {
                telemetry::fail(&span, "control_unavailable");
                warn!(code = ?status.code(), error = status.message(), "control did not decide on a publish");
                Err(Refusal::not_available("control_unavailable"))
            }
            Err(_elapsed) => {
                telemetry::fail(&span, "control_timeout");
                warn!("control did not answer in time");
                Err(Refusal::not_available("control_timeout"))
            }
        }
    }

    fn granted(&self, signed_grant: Vec<u8>, session: &SessionId) -> Option<Granted> {
        let grant: Grant = read_unverified(&signed_grant).ok()?;
        if grant.session_id != session.as_str() {
            return None;
        }
        Some(Granted {
            signed_grant,
            stream: StreamId::from_bytes(&grant.stream_id).ok()?,
            slot: Slot::new(grant.slot).ok()?,
            policy: self.policy(grant.takeover_policy),
            priority: grant.takeover_priority,
            tenant: grant.tenant,
            app: grant.app,
            name: grant.stream,
            stream_key_id: grant.stream_key_id,
            quota_group: grant.quota_group,
            reconnect_window: Duration::from_millis(
                grant.reconnect_window_ms.unwrap_or_default().into(),
            ),
            terms: Terms {
                limits: grant.limits.unwrap_or_default(),
                granted_ms: grant.issued_ms,
                until_ms: (grant.session_until_ms > 0).then_some(grant.session_until_ms),
            },
        })
    }

    fn policy(&self, takeover_policy: u32) -> Policy {
        let policy = i32::try_from(takeover_policy)
            .ok()
            .and_then(|policy| TakeoverPolicy::try_from(policy).ok());
        match policy {
            Some(TakeoverPolicy::Reject) => Policy::Reject,
            Some(TakeoverPolicy::Takeover) => Policy::Takeover,
            Some(TakeoverPolicy::Priority) => Policy::Priority(self.stale_after),
            Some(TakeoverPolicy::SameAddress) => Policy::SameAddress(self.stale_after),
            // A policy of a later version: the default is the safe middle.
            Some(TakeoverPolicy::TakeoverIfStale | TakeoverPolicy::Unspecified) | None => {
                Policy::TakeoverIfStale(self.stale_after)
            }
        }
    }
}

fn undecided() -> Refusal {
    warn!("control's answer holds no decision");
    Refusal::not_available("grant_invalid")
}

/// For a publish, or an attempt at one.
pub(crate) fn new_session_id() -> SessionId {
    let id = Uuid::now_v7().to_string();
    // Hexadecimal digits and dashes are an id.
    SessionId::new(&id).unwrap_or_else(|_| unreachable!("{id} is an id"))
}

fn refusal(denial: Denial) -> Refusal {
    let reason = match denial.reason() {
        DenialReason::AddressNotAllowed => "address_not_allowed",
        DenialReason::AppNotFound => "app_not_found",
        DenialReason::BackupNotAllowed => "backup_not_allowed",
        DenialReason::ClientCertificateMissing => "client_certificate_missing",
        DenialReason::ClientCertificateWrong => "client_certificate_wrong",
        DenialReason::HeldOff => "held_off",
        DenialReason::KeyNotAccepted => "key_not_accepted",
        DenialReason::KeyUsedUp => "key_used_up",
        DenialReason::NameNotAccepted => "name_not_accepted",
        DenialReason::NotYetValid => "not_yet_valid",
        DenialReason::PasswordNotAccepted => "password_not_accepted",
        DenialReason::QuotaExceeded => "quota_exceeded",
        DenialReason::RefusedByPlatform => "refused_by_platform",
        DenialReason::SourceUnavailable => "source_unavailable",
        DenialReason::TooManyAttempts => "too_many_attempts",
        DenialReason::Unspecified => "denied",
    };
    let description = if denial.description.is_empty() {
        "This stream may not be published".to_owned()
    } else {
        denial.description
    };
    Refusal {
        reason,
        description,
    }
}
