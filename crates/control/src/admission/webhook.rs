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
use http::{HeaderMap, HeaderValue, StatusCode, header};
use runtime::{
    egress::{Egress, EgressError, HttpsUrl},
    error::chain,
    reload::{FileError, Reloading},
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use uuid::Uuid;
use zeroize::Zeroizing;

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
        let peppers = shared.peppers.load_full();
        let id = peppers.credential_id(&shown.request.app, &credential(shown));
        let id = format!("webhook:{id}");
        let question = fingerprint(shown);
        // Of the database each time, whatever is remembered: a termination holds at once, on every control.
        if let Some(refused) = shared.refused_credential(&id, now_ms).await? {
            self.cache.forget(&question);
            return Ok(Verdict::refused(refused, "database", Some(id)));
        }
        let (answer, by) = self.answer(shown, question, now_ms).await;
        let claimed_id = Some(id.clone());
        let outcome = match answer.as_deref() {
            Ok(Answer::Allow(offer)) => offer.clone().terms(id, None, shown.request, now_ms),
            Ok(Answer::Deny(reason)) => Err(Refusal::Platform(reason.clone())),
            Err(fault) => Err(Refusal::Source(*fault)),
        };
        if let Ok(terms) = &outcome
            && let Some(foreign) = shared.claim_stream(terms).await?
        {
            return Ok(Verdict::refused(foreign, "database", claimed_id));
        }
        Ok(Verdict {
            outcome,
            by,
            claimed_id,
        })
    }

    /// What is remembered, or what the backend says.
    async fn answer(
        &self,
        shown: &Shown<'_>,
        question: Fingerprint,
        now_ms: i64,
    ) -> (Result<Arc<Answer>, SourceFault>, &'static str) {
        if let Some(answer) = self.cache.find(&question) {
            self.metrics.webhook_cached(answer.outcome());
            return (Ok(answer), "cache");
        }
        let started = Instant::now();
        let asked = self.ask(shown, question, now_ms).await;
        let outcome = match &asked {
            Ok(answer) => answer.outcome(),
            Err(fault) => fault.outcome(),
        };
        self.metrics.webhook_asked(outcome, started.elapsed());
        (asked, "webhook")
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
            Ok((answer, kept)) => {
                attempt.succeeded();
                let answer = Arc::new(answer);
                self.cache.keep(question, &answer, kept);
                Ok(answer)
            }
            Err(fault) => {
                attempt.failed(question);
                Err(fault)
            }
        }
    }

    /// One request.
    async fn exchange(
        &self,
        shown: &Shown<'_>,
        now_ms: i64,
    ) -> Result<(Answer, Duration), SourceFault> {
        let body = Bytes::from(body(shown, now_ms));
        let headers = self.headers(&body, now_ms)?;
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
                    EgressError::Deadline { .. } => SourceFault::TimedOut,
                    EgressError::BodyTooLong { .. }
                    | EgressError::Connect { .. }
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
            SourceFault::AnswerInvalid
        })
    }

    /// Signed anew each time.
    fn headers(&self, body: &[u8], now_ms: i64) -> Result<HeaderMap, SourceFault> {
        let id = format!("msg_{}", Uuid::now_v7().simple());
        let seconds = now_ms.div_euclid(1000);
        let signature = standard_webhooks::sign(&self.secret.load(), &id, seconds, body);
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        for (name, value) in [
            (standard_webhooks::ID, id),
            (standard_webhooks::TIMESTAMP, seconds.to_string()),
            (standard_webhooks::SIGNATURE, signature),
        ] {
            // Digits, letters and base64 are a header's value.
            let value = HeaderValue::try_from(value).map_err(|_| SourceFault::Unreachable)?;
            headers.insert(name, value);
        }
        Ok(headers)
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

/// All that is secret of what was shown, in one.
fn credential(shown: &Shown<'_>) -> Zeroizing<String> {
    Zeroizing::new(format!("{}\0{}", shown.stream_key, shown.token))
}

/// An answer is remembered for the same key from the same address with the same certificate alone: the backend may have
/// looked at each.
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
        credential(shown).as_bytes(),
        address.as_bytes(),
        certificate,
    ] {
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part);
    }
    let hash = context.finish();
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}
