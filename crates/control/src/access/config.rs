//! What the configuration says of callers.

use std::{collections::BTreeMap, path::PathBuf};

use runtime::egress::HttpsUrl;

use crate::{
    caller::{EVERY, Scopes},
    client_certificate::CertificateBinding,
    field,
};

/// Who may call the public API beside whoever has an API token.
#[derive(Clone, Debug, Default)]
pub struct ApiAccess {
    /// Whose signed tokens are taken.
    pub issuers: Vec<TokenIssuer>,
    /// Client certificates, by a name in them (`dns:…`, `uri:…`, `email:…`) or their fingerprint (`sha256:…`).
    pub certificates: BTreeMap<String, Permission>,
}

/// What a caller may do, for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permission {
    /// `*`: every tenant.
    pub tenant: String,
    /// As an API token's.
    pub scopes: Vec<String>,
}

/// Somebody who signs tokens: an OpenID provider, or a Kubernetes cluster.
#[derive(Clone, Debug)]
pub struct TokenIssuer {
    /// The claim `iss`.
    pub issuer: String,
    /// One of the claim `aud`.
    pub audience: String,
    /// How a token is found to be good.
    pub verification: TokenVerification,
    /// What its bearer may do.
    pub permissions: TokenPermissions,
}

/// How a token is found to be good.
#[derive(Clone, Debug)]
pub enum TokenVerification {
    /// By keys from a file that is followed.
    KeySetFile(PathBuf),
    /// By keys from a URL.
    KeySetUrl {
        /// Of a JSON Web Key Set.
        url: HttpsUrl,
        /// Holds a bearer token for it.
        token_file: Option<PathBuf>,
    },
    /// By asking a Kubernetes API server each time: sees that a pod has gone before its token expires.
    TokenReview {
        /// Of `TokenReview`s: `https://<API server>/apis/authentication.k8s.io/v1/tokenreviews`.
        url: HttpsUrl,
        /// Holds a bearer token for it.
        token_file: PathBuf,
    },
}

/// What the bearer of a good token may do.
#[derive(Clone, Debug)]
pub enum TokenPermissions {
    /// By the token's claims; the same for every subject.
    Claims {
        /// For whom.
        tenant: ClaimOr<String>,
        /// What.
        scopes: ClaimOr<Vec<String>>,
    },
    /// These subjects (the claim `sub`), and nobody else.
    Subjects(BTreeMap<String, Permission>),
}

/// From a claim, or always the same.
#[derive(Clone, Debug)]
pub enum ClaimOr<T> {
    /// The claim's name.
    Claim(String),
    /// What it is.
    Fixed(T),
}

impl Permission {
    /// Says what is wrong with it.
    pub fn check(&self) -> Result<(), &'static str> {
        check_tenant(&self.tenant)?;
        check_scopes(&self.scopes)
    }
}

impl TokenPermissions {
    /// Says what is wrong with them.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Claims { tenant, scopes } => {
                if let ClaimOr::Fixed(tenant) = tenant {
                    check_tenant(tenant)?;
                }
                match scopes {
                    ClaimOr::Fixed(scopes) => check_scopes(scopes),
                    ClaimOr::Claim(_) => Ok(()),
                }
            }
            Self::Subjects(subjects) => subjects.values().try_for_each(Permission::check),
        }
    }
}

impl ApiAccess {
    /// Says what is wrong with it; parts that [`check`](Permission::check) themselves are looked at again.
    pub fn check(&self) -> Result<(), &'static str> {
        for (name, permission) in &self.certificates {
            CertificateBinding::parse(name)?;
            permission.check()?;
        }
        self.issuers
            .iter()
            .try_for_each(|issuer| issuer.permissions.check())
    }
}

fn check_tenant(tenant: &str) -> Result<(), &'static str> {
    if tenant == EVERY {
        Ok(())
    } else {
        field::tenant(tenant)
    }
}

fn check_scopes(scopes: &[String]) -> Result<(), &'static str> {
    Scopes::parse(scopes.iter().map(String::as_str)).map(|_| ())
}
