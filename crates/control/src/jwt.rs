//! Signed tokens (JWT, RFC 7519): verified with the keys of an issuer, of which each has one algorithm.
//!
//! What a token's header says chooses among the issuer's keys by `kid`, and nothing else: the algorithm is the key's.

mod jwks;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Validation, errors::ErrorKind};
use serde_json::{Map, Value};

pub(crate) use self::jwks::{Fetched, Jwks, JwksError, KeySet};

/// Clocks differ.
pub(crate) const LEEWAY: Duration = Duration::from_secs(30);

/// What is verified, and against whose keys.
#[derive(Clone, Debug)]
pub(crate) struct JwtVerifier {
    pub(crate) jwks: Jwks,
    /// `iss`.
    pub(crate) issuer: String,
    /// One of `aud`.
    pub(crate) audience: String,
    /// Of a token; longer ones are not looked at.
    pub(crate) token_bytes_max: usize,
}

/// A token's claims, verified: what is in `exp`, `nbf`, `iss` and `aud` was checked.
pub(crate) type Claims = Map<String, Value>;

/// A token is not good.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum JwtError {
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is of another issuer")]
    Issuer,
    /// Try again later: nothing is wrong with the token, as far as anybody can tell.
    #[error("the issuer's keys are not available")]
    KeysUnavailable,
    #[error("not a signed token of the expected form")]
    Malformed,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is longer than is taken")]
    TooLong,
    #[error("the issuer has no key of the token's `kid`")]
    UnknownKey,
    #[error("the token's signature is not good")]
    Signature,
}

impl JwtVerifier {
    /// The claims of a good token.
    pub(crate) async fn verify(&self, token: &str) -> Result<Claims, JwtError> {
        if token.len() > self.token_bytes_max {
            return Err(JwtError::TooLong);
        }
        let header =
            jsonwebtoken::decode_header(token).map_err(|_unparsable| JwtError::Malformed)?;
        // `crit` names extensions that must be understood (RFC 7515, 4.1.11): none is.
        if header.crit.is_some() {
            return Err(JwtError::Malformed);
        }
        let kid = header.kid.ok_or(JwtError::Malformed)?;
        let key = self.jwks.key(&kid).await?;
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = LEEWAY.as_secs();
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        let claims: Claims = jsonwebtoken::decode(token, &key.key, &validation)
            .map_err(|error| fault(error.kind()))?
            .claims;
        // A list of issuers is not of the standard.
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(JwtError::Issuer);
        }
        Ok(claims)
    }
}

/// The `iss` that a token claims: it says whose keys to try, and proves nothing.
pub(crate) fn claimed_issuer(token: &str, token_bytes_max: usize) -> Option<String> {
    if token.len() > token_bytes_max {
        return None;
    }
    let mut claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
    match claims.remove("iss") {
        Some(Value::String(issuer)) => Some(issuer),
        Some(_) | None => None,
    }
}

/// A time claim (`exp`, `iat`, `nbf`) in milliseconds since the Unix epoch.
pub(crate) fn time_ms(claims: &Claims, name: &str) -> Option<i64> {
    let seconds = claims.get(name)?;
    let whole = seconds.as_i64();
    // RFC 7519 takes fractions; what is before the point is enough.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "saturates, and no token lives that long"
    )]
    let seconds = whole.or_else(|| seconds.as_f64().map(|seconds| seconds as i64))?;
    seconds.checked_mul(1000)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "non-exhaustive, and everything else is a token that cannot be read"
)]
fn fault(kind: &ErrorKind) -> JwtError {
    match kind {
        ErrorKind::ExpiredSignature => JwtError::Expired,
        ErrorKind::ImmatureSignature => JwtError::NotYetValid,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidSignature => JwtError::Signature,
        ErrorKind::InvalidAudience => JwtError::Audience,
        ErrorKind::InvalidIssuer => JwtError::Issuer,
        _ => JwtError::Malformed,
    }
}

#[cfg(test)]
pub(crate) mod tests;
