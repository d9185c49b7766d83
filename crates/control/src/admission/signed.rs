//! Keys that the platform makes and signs itself: a JWT in place of the stream key, or behind it as `?token=`.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use proto::internal::v1::AuthorizeRequest;
use registry::SessionId;
use runtime::{egress::Egress, error::chain, reload::FileError};
use serde::Deserialize;
use serde_json::Value;
use tonic::Status;

use super::{
    Refusal, Shown, SignedFault, SourceFault, Verdict,
    offer::{Checked, Offer, Takeover},
};
use crate::{
    Shared,
    config::{KeySetLocation, SignedKeys},
    field::invalid,
    jwt::{Claims, Jwks, JwtError, JwtVerifier, LEEWAY, time_ms},
    policy::Policy,
};

/// Longest signed key: it has to fit into the name of a publish, with the stream's.
pub(crate) const TOKEN_BYTES_MAX: usize = 900;
/// Longest that a signed key may live.
pub(crate) const LIFETIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Of the claim `jti`.
pub(crate) const JTI_BYTES_MAX: usize = 128;
/// Of the claim `max_uses`: what is counted is kept in the registry.
const USES_MAX: u32 = 1000;

/// What decides for one application.
pub(crate) struct Signed {
    verifier: JwtVerifier,
    tenant: Option<String>,
    default_tenant: String,
}

/// The claims that are ours. The standard's own were checked before, and others mean nothing here.
#[derive(Deserialize)]
struct OwnClaims {
    stream: String,
    app: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    policy: Policy,
    #[serde(default)]
    takeover_policy: Takeover,
    client_certificate: Option<String>,
    jti: Option<String>,
    max_uses: Option<u32>,
}

/// A signed key whose every claim is in its range.
struct SignedKey {
    credential_id: String,
    offer: Checked,
    expire_ms: i64,
    max_uses: Option<u32>,
}

impl Signed {
    /// Reads the keys where they are in a file.
    pub(super) fn open(
        config: &SignedKeys,
        egress: &Egress,
        default_tenant: &str,
    ) -> Result<Self, FileError> {
        let jwks = match &config.keys {
            KeySetLocation::File(path) => Jwks::watch_file(path.clone())?,
            KeySetLocation::Url(url) => {
                Jwks::fetch_url(egress.clone(), url.clone(), http::HeaderMap::new)
            }
        };
        Ok(Self {
            verifier: JwtVerifier {
                jwks,
                issuer: config.issuer.clone(),
                audience: config.audience.clone(),
                token_bytes_max: TOKEN_BYTES_MAX,
            },
            tenant: config.tenant.clone(),
            default_tenant: default_tenant.to_owned(),
        })
    }

    /// The tenant that all of the application's keys are of.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    pub(super) async fn decide(
        &self,
        shared: &Shared,
        shown: &Shown<'_>,
        now_ms: i64,
    ) -> Result<Verdict, Status> {
        let key = match self.verified(shown, now_ms).await {
            Ok(key) => key,
            Err(refusal) => return Ok(Verdict::refused(refusal, "signature", None)),
        };
        let claimed_id = Some(key.credential_id.clone());
        let (id, app) = (&key.credential_id, &shown.request.app);
        let standing = shared.standing(id, app, Some(&key.offer), now_ms);
        let claims = match standing.await? {
            Ok(claims) => claims,
            Err(refusal) => return Ok(Verdict::refused(refusal, "database", claimed_id)),
        };
        let uses = key.uses(now_ms);
        let (id, expire_ms) = (key.credential_id, Some(key.expire_ms));
        Ok(Verdict {
            outcome: key.offer.terms(id, expire_ms, shown.request),
            by: "signature",
            claimed_id,
            uses,
            claims,
        })
    }

    /// The key, if it is authentic, in force, and of this application.
    async fn verified(&self, shown: &Shown<'_>, now_ms: i64) -> Result<SignedKey, Refusal> {
        let token = if shown.token.is_empty() {
            shown.stream_key.trim_ascii()
        } else {
            shown.token
        };
        let claims = self.verifier.verify(token).await.map_err(refusal)?;
        let key = self.read(&claims, token, &shown.request.app, now_ms);
        let key = key.map_err(Refusal::Signed)?;
        if !shown.token.is_empty() && key.offer.stream != shown.stream_key {
            return Err(Refusal::Signed(SignedFault::Name));
        }
        Ok(key)
    }

    fn read(
        &self,
        claims: &Claims,
        token: &str,
        app: &str,
        now_ms: i64,
    ) -> Result<SignedKey, SignedFault> {
        let expire_ms = time_ms(claims, "exp").ok_or(SignedFault::Claims)?;
        let issue_ms = time_ms(claims, "iat").ok_or(SignedFault::Claims)?;
        let longest_ms = millis(LIFETIME_MAX);
        if expire_ms.saturating_sub(issue_ms) > longest_ms {
            return Err(SignedFault::TooLongLived);
        }
        if issue_ms > now_ms.saturating_add(millis(LEEWAY)) {
            return Err(SignedFault::Claims);
        }
        let own: OwnClaims = serde_json::from_value(Value::Object(claims.clone()))
            .map_err(|_not_ours| SignedFault::Claims)?;
        let uses = own.max_uses.is_none_or(|max| (1..=USES_MAX).contains(&max));
        let jti = own.jti.as_deref().map_or(Ok(()), jti);
        if own.app.is_some_and(|named| named != app) || !uses || jti.is_err() {
            return Err(SignedFault::Claims);
        }
        let offer = Offer {
            stream: own.stream,
            tenant: own.tenant,
            policy: own.policy,
            takeover_policy: own.takeover_policy,
            client_certificate: own.client_certificate,
        };
        let offer = offer.check(self.tenant(), &self.default_tenant);
        let offer = offer.ok_or(SignedFault::Claims)?;
        let jti = own.jti.unwrap_or_else(|| fingerprint(token));
        Ok(SignedKey {
            credential_id: credential_id(&offer.tenant, app, &jti),
            offer,
            expire_ms,
            max_uses: own.max_uses,
        })
    }
}

impl SignedKey {
    fn uses(&self, now_ms: i64) -> Option<Uses> {
        let end_ms = self.expire_ms.saturating_add(millis(LEEWAY));
        let left_ms = end_ms.saturating_sub(now_ms).max(1);
        Some(Uses {
            max: self.max_uses?,
            of: use_of(&self.credential_id),
            left: Duration::from_millis(left_ms.unsigned_abs()),
        })
    }
}

/// How often a credential is good, and for how long that has to be known.
pub(crate) struct Uses {
    max: u32,
    of: [u8; 16],
    left: Duration,
}

impl Uses {
    /// Counts this session as one of them.
    pub(super) async fn count(
        &self,
        shared: &Shared,
        request: &AuthorizeRequest,
    ) -> Result<Result<(), Refusal>, Status> {
        let session = SessionId::new(&request.session_id)
            .map_err(|_malformed| invalid("session_id", "not an id"))?;
        let counted = shared
            .registry
            .count_use(self.of, &session, self.max, self.left);
        Ok(match counted.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Refusal::UsedUp),
            Err(error) => {
                tracing::warn!(
                    reason = chain(&error),
                    "the uses of a signed key cannot be counted"
                );
                Err(Refusal::Source(SourceFault::RegistryUnavailable))
            }
        })
    }
}

/// How grants, leases and revocations name a signed key.
pub(crate) fn credential_id(tenant: &str, app: &str, jti: &str) -> String {
    // Neither a tenant nor an application holds a colon.
    format!("jti:{tenant}:{app}:{jti}")
}

/// A key's own name.
pub(crate) fn jti(jti: &str) -> Result<(), &'static str> {
    let printable = jti.bytes().all(|byte| byte.is_ascii_graphic());
    if jti.is_empty() || jti.len() > JTI_BYTES_MAX || !printable {
        Err("1 to 128 printable characters of ASCII")
    } else {
        Ok(())
    }
}

/// Stands for the `jti` of a key that has none.
fn fingerprint(token: &str) -> String {
    let hash = digest(&SHA256, token.as_bytes());
    let (short, _rest) = hash.as_ref().split_at(hash.as_ref().len() / 2);
    HEXLOWER.encode(short)
}

/// What the registry counts the uses of.
fn use_of(credential_id: &str) -> [u8; 16] {
    let hash = digest(&SHA256, credential_id.as_bytes());
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

fn refusal(error: JwtError) -> Refusal {
    match error {
        JwtError::Expired => Refusal::Expired,
        JwtError::KeysUnavailable => Refusal::Source(SourceFault::KeysUnavailable),
        JwtError::Malformed | JwtError::TooLong => Refusal::Malformed,
        // One that begins later is wrong for now, and nothing else is known of it.
        JwtError::NotYetValid => Refusal::NotYetValid,
        JwtError::Audience | JwtError::Issuer | JwtError::Signature | JwtError::UnknownKey => {
            Refusal::Signed(SignedFault::NotAuthentic)
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
