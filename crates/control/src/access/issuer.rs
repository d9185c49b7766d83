//! Tokens that somebody else signs, and what their bearers may do here.

use http::{HeaderMap, HeaderValue, header};
use runtime::{
    egress::Egress,
    reload::{FileError, Reloading},
};
use serde_json::Value;

use super::{
    TOKEN_BYTES_MAX,
    config::{ClaimOr, TokenIssuer, TokenPermissions, TokenVerification},
    tenant,
    token_review::TokenReview,
};
use crate::{
    caller::{Identity, Scope, Scopes},
    field,
    jwt::{Claims, Jwks, JwtError, JwtVerifier},
};

/// One issuer.
pub(super) struct Issuer {
    issuer: String,
    verification: Verification,
    permissions: TokenPermissions,
}

enum Verification {
    Keys(JwtVerifier),
    Review(Box<TokenReview>),
}

impl Issuer {
    pub(super) fn open(config: TokenIssuer, egress: &Egress) -> Result<Self, FileError> {
        let TokenIssuer {
            issuer,
            audience,
            verification,
            permissions,
        } = config;
        let by_keys = |jwks| {
            Verification::Keys(JwtVerifier {
                jwks,
                issuer: issuer.clone(),
                audience: audience.clone(),
                token_bytes_max: TOKEN_BYTES_MAX,
            })
        };
        let verification = match verification {
            TokenVerification::KeySetFile(path) => by_keys(Jwks::watch_file(path)?),
            TokenVerification::KeySetUrl { url, token_file } => {
                let bearer = token_file.map(watch_bearer).transpose()?;
                by_keys(Jwks::fetch_url(egress.clone(), url, move || {
                    let bearer = bearer
                        .as_ref()
                        .map(|bearer| HeaderValue::clone(&bearer.load()));
                    let header = bearer.map(|bearer| (header::AUTHORIZATION, bearer));
                    header.into_iter().collect()
                }))
            }
            TokenVerification::TokenReview { url, token_file } => {
                let bearer = watch_bearer(token_file)?;
                let review = TokenReview::new(egress.clone(), url, bearer, audience.clone());
                Verification::Review(Box::new(review))
            }
        };
        Ok(Self {
            issuer,
            verification,
            permissions,
        })
    }

    /// Whether this is the one that a token claims to be of.
    pub(super) fn is(&self, issuer: &str) -> bool {
        self.issuer == issuer
    }

    /// Whose token this is; `None` where it is good, and its bearer may do nothing here.
    pub(super) async fn identify(&self, token: &str) -> Result<Option<Identity>, JwtError> {
        let claims = match &self.verification {
            Verification::Keys(verifier) => verifier.verify(token).await?,
            Verification::Review(review) => review.verify(token).await?,
        };
        let subject = text(&claims, "sub").ok_or(JwtError::Malformed)?;
        let shown: String = subject.chars().take(SUBJECT_CHARS_SHOWN).collect();
        let name = format!("{} {shown}", self.issuer);
        Ok(match &self.permissions {
            TokenPermissions::Subjects(subjects) => {
                subjects.get(subject).and_then(|it| it.identity(name))
            }
            TokenPermissions::Claims {
                tenant: of_tenant,
                scopes: of_scopes,
            } => {
                let tenant = match of_tenant {
                    ClaimOr::Fixed(fixed) => Some(tenant(fixed)),
                    // Never every tenant: that is for this configuration to say.
                    ClaimOr::Claim(claim) => text(&claims, claim)
                        .filter(|named| field::tenant(named).is_ok())
                        .map(tenant),
                };
                let scopes = match of_scopes {
                    ClaimOr::Fixed(fixed) => Scopes::parse(fixed.iter().map(String::as_str)).ok(),
                    ClaimOr::Claim(claim) => scopes(&claims, claim),
                };
                tenant.zip(scopes).map(|(tenant, scopes)| Identity {
                    tenant,
                    scopes,
                    name,
                    expire_ms: None,
                })
            }
        })
    }
}

fn text<'a>(claims: &'a Claims, name: &str) -> Option<&'a str> {
    claims.get(name)?.as_str()
}

/// A list, or words in one text (RFC 8693). What is no scope of ours is somebody else's; `*` is none of them.
fn scopes(claims: &Claims, name: &str) -> Option<Scopes> {
    let claim = claims.get(name)?;
    let words = claim.as_str().unwrap_or_default().split_ascii_whitespace();
    let listed = claim.as_array().into_iter().flatten();
    let names = words.chain(listed.filter_map(Value::as_str));
    let known = names.filter_map(Scope::parse).collect();
    Some(Scopes::Some(known))
}

/// The `Authorization` header with a file's token, which is followed.
fn watch_bearer(path: std::path::PathBuf) -> Result<Reloading<HeaderValue>, FileError> {
    Reloading::watch_text("bearer token", path, "a bearer token", |text| {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", text.trim())).ok()?;
        bearer.set_sensitive(true);
        (!text.trim().is_empty()).then_some(bearer)
    })
}

/// The headers of a request with a body in JSON.
pub(super) fn json_headers(bearer: HeaderValue) -> HeaderMap {
    let json = HeaderValue::from_static("application/json");
    HeaderMap::from_iter([
        (header::ACCEPT, json.clone()),
        (header::AUTHORIZATION, bearer),
        (header::CONTENT_TYPE, json),
    ])
}

/// Of a subject, in the log.
const SUBJECT_CHARS_SHOWN: usize = 128;
