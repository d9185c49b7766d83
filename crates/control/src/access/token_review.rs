//! `TokenReview`: a Kubernetes API server says whose a ServiceAccount's token is.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use runtime::{
    egress::{Egress, EgressError, HttpsUrl},
    error::chain,
    reload::Reloading,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time::Instant};

use super::issuer::json_headers;
use crate::{
    jwt::{Claims, JwtError},
    recent::Recent,
};

/// Asks one API server, and remembers its answers for a moment.
pub(super) struct TokenReview {
    egress: Egress,
    url: HttpsUrl,
    bearer: Reloading<HeaderValue>,
    audience: String,
    asking: Semaphore,
    /// By the token's hash.
    known: Mutex<Recent<Vec<u8>, String>>,
}

/// Of `authentication.k8s.io/v1`.
#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    audiences: Vec<String>,
    authenticated: bool,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
}

impl TokenReview {
    pub(super) fn new(
        egress: Egress,
        url: HttpsUrl,
        bearer: Reloading<HeaderValue>,
        audience: String,
    ) -> Self {
        Self {
            egress,
            url,
            bearer,
            audience,
            asking: Semaphore::new(ASKED_MAX),
            known: Mutex::new(Recent::new(KEPT, KNOWN_MAX)),
        }
    }

    /// As a verified token's claims: its `sub`.
    pub(super) async fn verify(&self, token: &str) -> Result<Claims, JwtError> {
        let hash = digest(&SHA256, token.as_bytes()).as_ref().to_vec();
        let known = self.known.lock().get(&hash).cloned();
        let subject = match known {
            Some(subject) => subject,
            None => {
                let asked = Instant::now();
                let subject = self.ask(token).await?;
                let mut known = self.known.lock();
                known.insert(hash, subject.clone(), asked);
                subject
            }
        };
        Ok(Claims::from_iter([(
            "sub".to_owned(),
            Value::String(subject),
        )]))
    }

    async fn ask(&self, token: &str) -> Result<String, JwtError> {
        // The API server is not ours to flood: whoever comes on top tries again.
        let Ok(_asking) = self.asking.try_acquire() else {
            return Err(JwtError::KeysUnavailable);
        };
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.audience]},
        });
        let headers = json_headers(HeaderValue::clone(&self.bearer.load()));
        let answer = self
            .egress
            .post(&self.url, headers, body.to_string().into());
        let answer = answer.await.map_err(|error: EgressError| {
            tracing::warn!(reason = chain(&error), "a token cannot be reviewed");
            JwtError::KeysUnavailable
        })?;
        if ![StatusCode::OK, StatusCode::CREATED].contains(&answer.status) {
            tracing::warn!(status = %answer.status, "a token cannot be reviewed");
            return Err(JwtError::KeysUnavailable);
        }
        let review: Review = serde_json::from_slice(&answer.body).map_err(|error| {
            tracing::warn!(%error, "the answer to a TokenReview is not one");
            JwtError::KeysUnavailable
        })?;
        let Status {
            audiences,
            authenticated,
            user,
        } = review.status;
        if !authenticated || user.username.is_empty() {
            return Err(JwtError::Signature);
        }
        // An API server that knows no audiences says yes to its own.
        if !audiences.contains(&self.audience) {
            return Err(JwtError::Audience);
        }
        Ok(user.username)
    }
}

/// A token whose pod has gone is refused after this long.
const KEPT: Duration = Duration::from_secs(10);
/// Tokens that are remembered.
const KNOWN_MAX: usize = 1024;
/// Reviews at a time.
const ASKED_MAX: usize = 8;
