//! Who may call the public API: the credentials that are taken, and what each stands for. Whatever is not named by one of
//! them is refused.
//!
//! - The tokens of the API token file: they come before everything else, and may do everything for every tenant.
//! - API tokens, which are rows. The database holds a SHA-256 of each, without the pepper: a token has 130 random bits,
//!   which nobody guesses, with or without a key in the hash; and so the pepper can be replaced without regard to tokens.
//! - Tokens that somebody else signs (an OpenID provider, a Kubernetes cluster).
//! - Client certificates, where the port asks for them and no token comes along.

mod config;
mod issuer;
mod token_cache;
mod token_review;

use std::sync::Arc;

use proto::error::status;
use runtime::{
    bearer::{BearerCredentials, BearerError, credential},
    egress::Egress,
    reload::FileError,
    tls::ClientCertificate,
};
use tonic::{Code, Status};

pub use self::config::{
    ApiAccess, ClaimOr, Permission, TokenIssuer, TokenPermissions, TokenVerification,
};
use self::{issuer::Issuer, token_cache::TokenCache};
use crate::{
    caller::{EVERY, Identity, Scopes, Shown},
    client_certificate::CertificateBinding,
    database::Database,
    field::now_ms,
    jwt::{JwtError, claimed_issuer},
    stream_key::{ApiToken, StreamKeyError},
};

/// Every credential that is taken.
pub(crate) struct Access {
    file: BearerCredentials,
    default_tenant: Arc<str>,
    pub(crate) tokens: TokenCache,
    issuers: Vec<Issuer>,
    certificates: Vec<(CertificateBinding, Identity)>,
}

impl Access {
    /// Must be called inside a tokio runtime: files and key sets are followed. What `config` holds was checked.
    pub(crate) fn open(
        config: ApiAccess,
        file: BearerCredentials,
        default_tenant: &str,
        egress: &Egress,
    ) -> Result<Self, FileError> {
        let issuers = config.issuers.into_iter();
        let certificates = config.certificates.into_iter();
        Ok(Self {
            file,
            default_tenant: default_tenant.into(),
            tokens: TokenCache::default(),
            issuers: issuers
                .map(|issuer| Issuer::open(issuer, egress))
                .collect::<Result<_, _>>()?,
            certificates: certificates
                .filter_map(|(name, permission)| {
                    let binding = CertificateBinding::parse(&name).ok()?;
                    let name = format!("certificate {}", binding.as_str());
                    Some((binding, permission.identity(name)?))
                })
                .collect(),
        })
    }

    /// The tenant that is meant where nobody names one.
    pub(crate) fn default_tenant(&self) -> Arc<str> {
        self.default_tenant.clone()
    }

    /// Whose credential this is.
    pub(crate) async fn identify(
        &self,
        shown: &Shown,
        database: &Database,
    ) -> Result<Identity, Status> {
        #[cfg(test)]
        if let Some(tenant) = &shown.tenant {
            return Ok(tenant.identity());
        }
        let header = shown.authorization.as_ref().map(|value| value.as_bytes());
        if let (None, Some(certificate)) = (header, &shown.certificate) {
            return self.by_certificate(certificate);
        }
        let credential = credential(header).map_err(unauthenticated)?;
        if self.file.check(credential).is_ok() {
            return Ok(Identity {
                tenant: None,
                scopes: Scopes::All,
                name: "API token file".to_owned(),
                expire_ms: None,
            });
        }
        match ApiToken::parse(credential) {
            Ok(token) => self.by_token(&token, database).await,
            Err(StreamKeyError::Mistyped) => Err(unauthenticated(BearerError::Invalid)),
            Err(StreamKeyError::Malformed) => self.by_issuer(credential).await,
        }
    }

    /// A token that is not known costs as much as one with another secret, and is told the same.
    async fn by_token(&self, token: &ApiToken, database: &Database) -> Result<Identity, Status> {
        let now_ms = now_ms();
        let record = self.tokens.record(token.id(), database, now_ms).await?;
        let hash = token.hash();
        record
            .filter(|record| record.admits(&hash, now_ms))
            .map(|record| Identity {
                tenant: tenant(&record.tenant),
                scopes: record.scopes.clone(),
                name: format!("token {}", record.id),
                expire_ms: record.expire_ms,
            })
            .ok_or_else(|| unauthenticated(BearerError::Invalid))
    }

    async fn by_issuer(&self, token: &str) -> Result<Identity, Status> {
        let invalid = || unauthenticated(BearerError::Invalid);
        let issuer = claimed_issuer(token, TOKEN_BYTES_MAX).ok_or_else(invalid)?;
        let mut refusal = invalid();
        for issuer in self.issuers.iter().filter(|known| known.is(&issuer)) {
            match issuer.identify(token).await {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => refusal = not_admitted(),
                Err(JwtError::KeysUnavailable) => {
                    let description = JwtError::KeysUnavailable.to_string();
                    refusal = status(Code::Unavailable, "ISSUER_UNAVAILABLE", description);
                }
                // The first reason is as good as any: several entries for one issuer differ in their audiences.
                Err(error) => {
                    refusal = status(Code::Unauthenticated, "TOKEN_INVALID", error.to_string());
                }
            }
        }
        Err(refusal)
    }

    fn by_certificate(&self, certificate: &ClientCertificate) -> Result<Identity, Status> {
        self.certificates
            .iter()
            .find(|(binding, _)| binding.names(&certificate.sans, &certificate.sha256))
            .map(|(_, identity)| identity.clone())
            .ok_or_else(not_admitted)
    }
}

impl Permission {
    /// `None` where it was not checked.
    fn identity(&self, name: String) -> Option<Identity> {
        Some(Identity {
            tenant: tenant(&self.tenant),
            scopes: Scopes::parse(self.scopes.iter().map(String::as_str)).ok()?,
            name,
            expire_ms: None,
        })
    }
}

/// `None`: every tenant.
fn tenant(name: &str) -> Option<Arc<str>> {
    (name != EVERY).then(|| name.into())
}

fn unauthenticated(error: BearerError) -> Status {
    let reason = match error {
        BearerError::Invalid => "TOKEN_INVALID",
        BearerError::Missing => "TOKEN_MISSING",
    };
    status(Code::Unauthenticated, reason, error.to_string())
}

/// Somebody that we know who it is, and nobody said what he may do.
fn not_admitted() -> Status {
    let description = "the configuration gives this caller nothing to do";
    status(Code::PermissionDenied, "CALLER_NOT_ADMITTED", description)
}

/// Of a signed token; HTTP/2 headers have 16 KiB in all.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
