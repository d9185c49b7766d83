//! Who may call control's API beside whoever has one of its tokens, and what tenants may have.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClientCertificatesMode, KeyReference};

/// Somebody who signs tokens (JWT) that the API takes: an OpenID provider, or this Kubernetes cluster for its
/// ServiceAccounts. What a token allows is `subjects`, or `tenant` (`tenantClaim`) with `scopes` (`scopesClaim`).
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("[has(self.jwksUrl), has(self.jwksSecretRef), has(self.kubernetes)].exists_one(x, x)")
    .message("control.oidc: exactly one of jwksUrl, jwksSecretRef and kubernetes"))]
#[x_kube(validation = Rule::new("has(self.subjects) ? (!has(self.tenant) && !has(self.tenantClaim) && !has(self.scopes) && !has(self.scopesClaim)) : (has(self.tenant) != has(self.tenantClaim) && has(self.scopes) != has(self.scopesClaim))")
    .message("control.oidc: either subjects, or one of tenant and tenantClaim with one of scopes and scopesClaim"))]
#[x_kube(validation = Rule::new("!has(self.kubernetes) || has(self.subjects)")
    .message("control.oidc: kubernetes needs subjects: every pod of the Kubernetes cluster can have a token"))]
#[serde(rename_all = "camelCase")]
pub struct TokenIssuer {
    /// The claim `iss` of its tokens.
    #[schemars(length(min = 1, max = 256))]
    pub issuer: String,
    /// What their claim `aud` must hold.
    #[schemars(length(min = 1, max = 256))]
    pub audience: String,
    /// The keys that its tokens are signed with (JWKS), over https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 2048))]
    #[x_kube(validation = Rule::new("self.startsWith('https://')").message("control.oidc.jwksUrl begins with https://"))]
    pub jwks_url: Option<String>,
    /// The keys that its tokens are signed with (JWKS).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_secret_ref: Option<KeyReference>,
    /// The tokens are those of ServiceAccounts of this Kubernetes cluster. Controls call its API server, whose Service
    /// `egress.allow` must name, and have a token of their own for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<KubernetesTokens>,
    /// Those who are admitted, by their claim `sub`, and nobody else. A ServiceAccount's is `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub subjects: Vec<Subject>,
    /// Whose stream keys every token is for; `*` is every tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tenant: Option<String>,
    /// The claim that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub tenant_claim: Option<String>,
    /// What every token allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub scopes: Vec<Scope>,
    /// The claim that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub scopes_claim: Option<String>,
}

/// How tokens of ServiceAccounts are checked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum KubernetesTokens {
    /// With the API server's public keys: a token is good until it ends, also after its pod has gone.
    KeySet,
    /// The API server is asked, and knows which pods have gone. Control's ServiceAccount must be allowed to create
    /// `tokenreviews`, which the operator cannot give it.
    TokenReview,
}

/// Somebody by name.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// Whole: nothing in it stands for more than itself.
    #[schemars(length(min = 1, max = 512))]
    pub name: String,
    /// Whose stream keys; `*` is every tenant's.
    #[schemars(length(min = 1, max = 128))]
    pub tenant: String,
    /// What is allowed.
    #[schemars(length(min = 1, max = 16))]
    pub scopes: Vec<Scope>,
}

/// What a caller of the API may do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Scope {
    /// Everything, also what later versions add.
    #[serde(rename = "*")]
    All,
    /// See edges.
    #[serde(rename = "edges:read")]
    EdgesRead,
    /// Drain them and have them serve again.
    #[serde(rename = "edges:write")]
    EdgesWrite,
    /// Watch events, see webhooks.
    #[serde(rename = "events:read")]
    EventsRead,
    /// Create, delete and replay webhooks.
    #[serde(rename = "events:write")]
    EventsWrite,
    /// See stream keys.
    #[serde(rename = "keys:read")]
    KeysRead,
    /// Create, change, rotate, revoke and delete them.
    #[serde(rename = "keys:write")]
    KeysWrite,
    /// See live sessions.
    #[serde(rename = "sessions:read")]
    SessionsRead,
    /// End them.
    #[serde(rename = "sessions:write")]
    SessionsWrite,
    /// See quotas and their use.
    #[serde(rename = "tenants:read")]
    TenantsRead,
    /// Set quotas.
    #[serde(rename = "tenants:write")]
    TenantsWrite,
    /// See API tokens.
    #[serde(rename = "tokens:read")]
    TokensRead,
    /// Create, rotate and revoke them.
    #[serde(rename = "tokens:write")]
    TokensWrite,
}

/// Certificates that callers of the API show. A change of the Secrets restarts nothing, a change here makes new controls.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiClientCertificates {
    /// Whether a caller without one may come, with a token. `Required` shuts out those that have nothing but a token.
    #[serde(default = "ApiClientCertificates::mode")]
    pub mode: ClientCertificatesMode,
    /// The CAs (PEM) that issue them.
    pub ca_secret_ref: KeyReference,
    /// Their revocation lists (PEM or DER). A CA without one revokes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_secret_ref: Option<KeyReference>,
    /// Those who need no token: a DNS name, URI or email address of the certificate's subjectAltName, or `sha256:` and its
    /// fingerprint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub subjects: Vec<Subject>,
}

impl ApiClientCertificates {
    fn mode() -> ClientCertificatesMode {
        ClientCertificatesMode::Optional
    }
}

/// What a tenant may have that has no quota of its own. What is not given, or 0, is not limited.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Quotas {
    /// Stream keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub max_keys: Option<i32>,
    /// Live sessions at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub max_sessions: Option<i32>,
    /// Of all its live sessions together, in bits per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000_000_000_i64))]
    pub max_bitrate_bps: Option<i64>,
}
