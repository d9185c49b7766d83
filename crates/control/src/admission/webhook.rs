//! The platform's own backend decides: it is asked for each publish, and answers with terms or a refusal.
//!
//! A backend that hangs costs its own publishers alone: questions under way are bounded, for the application as a whole
//! and for each key, one that waits too long is given up, and a backend that answers nobody is left alone for a while.

mod answer;
mod breaker;
mod cache;
mod gate;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::StatusCode;
use runtime::{
    egress::{Egress, EgressError, HttpsUrl},
    error::chain,
    reload::{FileError, Reloading},
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use uuid::Uuid;

use self::{answer::Answer, breaker::Breaker, cache::Cache, gate::Gate};
use super::{Refusal, Shown, SourceFault, Verdict, source::Sources};
use crate::{
    Shared, config,
    field::timestamp,
    metrics::ControlMetrics,
    standard_webhooks::{self, Secret},
};

/// What decides for one application.
pub(crate) struct Webhook {
    url: HttpsUrl,
    tenant: Option<String>,
    default_tenant: String,
    timeout: Duration,
    secret: Reloading<Secret>,
    egress: Egress,
    metrics: ControlMetrics,
    gate: Gate,
    breaker: Breaker,
    cache: Cache,
}

/// A question: what the answer depends on. Nothing of it can be read back.
type Fingerprint = [u8; 32];

impl Webhook {
    /// Reads the secret.
    pub(super) fn open(config: &config::Webhook, sources: &Sources) -> Result<Self, FileError> {
        let expected = "a secret such as whsec_ and base64 of 24 to 64 bytes";
        let path = config.secret_file.clone();
        let secret = Reloading::watch_text("webhook secret", path, expected, |text| {
            Secret::parse(text.trim())
        })?;
        let metrics = sources.metrics.clone();
        Ok(Self {
            url: config.url.clone(),
            tenant: config.tenant.clone(),
            default_tenant: sources.default_tenant.clone(),
            timeout: config.timeout,
            secret,
            egress: sources.egress.clone(),
            gate: Gate::new(config.concurrency_max),
            breaker: Breaker::new(metrics.clone()),
            cache: Cache::default(),
            metrics,
        })
    }

    pub(super) async fn decide(
        &self,
        shared: &Shared,
        shown: &Shown<'_>,
        now_ms: i64,
    ) -> Result<Verdict, Status> {
        let app = &shown.request.app;
        let id = shared.credential_ids.of_webhook(app, shown.stream_key);
        let refuse = |refusal, by| Ok(Verdict::refused(refusal, by, Some(id.clone())));
        let question = fingerprint(shown);
        let (answer, by) = match self.cache.find(&question) {
            Some(answer) => {
                self.metrics.webhook_cached(answer.outcome());
                (Ok(answer), "cache")
            }
            None => {
                // What is refused in any case is not asked for.
                if let Err(refusal) = shared.standing(&id, app, None, now_ms).await? {
                    return refuse(refusal, "database");
                }
                (self.ask_timed(shown, question, now_ms).await, "webhook")
            }
        };
        let offer = match answer.as_deref() {
            Ok(Answer::Allow(offer)) => offer,
            Ok(Answer::Deny(reason)) => return refuse(Refusal::Platform(reason.clone()), by),
            Err(fault) => return refuse(Refusal::Source(*fault), by),
        };
        // Also behind what is remembered: a termination holds at once, on every control.
        let claims = match shared.standing(&id, app, Some(offer), now_ms).await? {
            Ok(claims) => claims,
            Err(refusal) => {
                if matches!(refusal, Refusal::HeldOff | Refusal::Revoked) {
                    self.cache.forget(&question);
                }
                return refuse(refusal, "database");
            }
        };
        let claimed_id = Some(id.clone());
        Ok(Verdict {
            outcome: (**offer).clone().terms(id, None, shown.request),
            by,
            claimed_id,
            uses: None,
            claims,
        })
    }

    async fn ask_timed(
        &self,
        shown: &Shown<'_>,
        question: Fingerprint,
        now_ms: i64,
    ) -> Result<Arc<Answer>, SourceFault> {
        let started = Instant::now();
        let asked = self.ask(shown, question, now_ms).await;
        let outcome = match &asked {
            Ok(answer) => answer.outcome(),
            Err(fault) => fault.outcome(),
        };
        self.metrics.webhook_asked(outcome, started.elapsed());
        asked
    }

    /// Within the deadline, the wait for a turn included.
    async fn ask(
        &self,
        shown: &Shown<'_>,
        question: Fingerprint,
        now_ms: i64,
    ) -> Result<Arc<Answer>, SourceFault> {
        let deadline = Instant::now() + self.timeout;
        let turn = timeout_at(deadline, self.gate.enter(question)).await;
        let Ok(Some(_pass)) = turn else {
            return Err(SourceFault::Busy);
        };
        let attempt = self.breaker.admit().ok_or(SourceFault::BreakerOpen)?;
        let exchanged = timeout_at(deadline, self.exchange(shown, now_ms)).await;
        let exchanged = exchanged.unwrap_or_else(|_elapsed| {
            tracing::warn!(
                host = self.url.host(),
                app = shown.request.app,
                "an admission webhook did not answer in time"
            );
            Err(SourceFault::TimedOut)
        });
        match exchanged {
            // One that nobody can follow is an answer too: whoever is asked is there.
            Ok(_) | Err(SourceFault::AnswerInvalid) => attempt.succeeded(),
            Err(_) => attempt.failed(question),
        }
        let (answer, kept) = exchanged?;
        let answer = Arc::new(answer);
        self.cache.keep(question, &answer, kept);
        Ok(answer)
    }

    /// One request.
    async fn exchange(
        &self,
        shown: &Shown<'_>,
        now_ms: i64,
    ) -> Result<(Answer, Duration), SourceFault> {
        let body = Bytes::from(body(shown, now_ms));
        // Signed anew each time.
        let id = format!("msg_{}", Uuid::now_v7().simple());
        let (seconds, content) = (now_ms.div_euclid(1000), ("application/json", &*body));
        let headers = standard_webhooks::headers(&self.secret.load(), &id, seconds, content);
        let headers = headers.ok_or(SourceFault::Unreachable)?;
        let (host, app) = (self.url.host(), shown.request.app.as_str());
        let response = match self.egress.post(&self.url, headers, body).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(
                    host,
                    app,
                    reason = chain(&error),
                    "an admission webhook failed"
                );
                return Err(match error {
                    EgressError::BodyTooLong { .. } => SourceFault::AnswerInvalid,
                    EgressError::Deadline { .. } => SourceFault::TimedOut,
                    EgressError::Connect { .. }
                    | EgressError::Forbidden { .. }
                    | EgressError::Http { .. }
                    | EgressError::Resolve { .. }
                    | EgressError::Tls { .. } => SourceFault::Unreachable,
                });
            }
        };
        let answer = (response.status == StatusCode::OK).then(|| {
            let tenant = self.tenant.as_deref();
            Answer::read(&response.body, tenant, &self.default_tenant)
        });
        answer.flatten().ok_or_else(|| {
            let status = response.status.as_u16();
            tracing::warn!(
                host,
                app,
                status,
                "an admission webhook gave no good answer"
            );
            // What is wrong with a URL or a secret (401, 404) is nothing that goes by when it is left alone.
            if response.status.is_server_error() || response.status == StatusCode::TOO_MANY_REQUESTS
            {
                SourceFault::BackendFailed
            } else {
                SourceFault::AnswerInvalid
            }
        })
    }
}

/// What the backend is asked, as JSON: with the key itself, which is its own.
fn body(shown: &Shown<'_>, now_ms: i64) -> String {
    let request = shown.request;
    let certificate = request.client_certificate.as_ref().map(|certificate| {
        json!({
            "subject": certificate.subject,
            "sans": certificate.sans,
            "sha256": HEXLOWER.encode(&certificate.sha256),
        })
    });
    let question = json!({
        "type": "publish.authorize",
        "timestamp": timestamp(now_ms).to_string(),
        "data": {
            "app": request.app,
            "stream_key": shown.stream_key,
            "token": shown.token,
            "client_address": request.client_address,
            "server_name": request.server_name,
            "encoder": request.encoder,
            "session_id": request.session_id,
            "client_certificate": certificate,
        },
    });
    question.to_string()
}

/// An answer is remembered for the same key and token from the same address with the same certificate alone: the backend
/// may have looked at each.
fn fingerprint(shown: &Shown<'_>) -> Fingerprint {
    let address = shown.request.client_address.as_str();
    let address = address.parse::<SocketAddr>().map_or_else(
        |_no_port| address.to_owned(),
        |address| address.ip().to_string(),
    );
    let certificate = shown.request.client_certificate.as_ref();
    let certificate = certificate.map_or(&[][..], |certificate| &certificate.sha256);
    let mut context = Context::new(&SHA256);
    for part in [
        shown.stream_key.as_bytes(),
        shown.token.as_bytes(),
        address.as_bytes(),
        certificate,
    ] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let hash = context.finish();
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}
