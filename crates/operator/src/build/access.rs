//! Who may call control's API, as control reads it.

use serde_json::{Value, json};

use super::files::{KUBERNETES_TOKEN, issuer_file, secret_file};
use crate::{
    api::{
        ClientCertificatesMode, Control, IngestClusterSpec, KeyReference, KubernetesTokens,
        Subject, TokenIssuer,
    },
    validate::ValidatedCluster,
};

/// The API server, by the name that its certificate has in every Kubernetes cluster.
const KEY_SET_URL: &str = "https://kubernetes.default.svc/openid/v1/jwks";
const TOKEN_REVIEW_URL: &str =
    "https://kubernetes.default.svc/apis/authentication.k8s.io/v1/tokenreviews";

/// Whether controls call the API server.
pub(super) fn calls_kubernetes(spec: &IngestClusterSpec) -> bool {
    let mut issuers = spec.control.oidc.iter();
    issuers.any(|issuer| issuer.kubernetes.is_some())
}

/// `control.oidc`.
pub(super) fn issuers(cluster: &ValidatedCluster) -> Value {
    let issuers = &cluster.spec.control.oidc;
    if issuers.is_empty() {
        return Value::Null;
    }
    let issuers = issuers.iter().enumerate();
    issuers
        .map(|(index, written)| issuer(index, written))
        .collect()
}

fn issuer(index: usize, issuer: &TokenIssuer) -> Value {
    let of_kubernetes = |kind| (issuer.kubernetes == Some(kind)).then_some(());
    let key_set = of_kubernetes(KubernetesTokens::KeySet).map(|()| KEY_SET_URL);
    let review = of_kubernetes(KubernetesTokens::TokenReview).map(|()| TOKEN_REVIEW_URL);
    let token = issuer.kubernetes.map(|_| secret_file(KUBERNETES_TOKEN));
    let jwks_file = issuer.jwks_secret_ref.as_ref().map(|_| issuer_file(index));
    json!({
        "issuer": issuer.issuer,
        "audience": issuer.audience,
        "jwks_url": issuer.jwks_url.as_deref().or(key_set),
        "jwks_file": jwks_file,
        "token_review_url": review,
        "token_file": token,
        "subjects": subjects(&issuer.subjects),
        "tenant": issuer.tenant,
        "tenant_claim": issuer.tenant_claim,
        "scopes": (!issuer.scopes.is_empty()).then_some(&issuer.scopes),
        "scopes_claim": issuer.scopes_claim,
    })
}

/// `control.client_certificates`.
pub(super) fn certificates(cluster: &ValidatedCluster) -> Value {
    match &cluster.spec.control.client_certificates {
        Some(clients) => subjects(&clients.subjects),
        None => Value::Null,
    }
}

/// Which certificates a port asks for; `directory` is that of the files of [`super::files`].
pub(super) fn asked_for(
    mode: ClientCertificatesMode,
    crl: Option<&KeyReference>,
    directory: &str,
) -> Value {
    json!({
        "mode": match mode {
            ClientCertificatesMode::Optional => "optional",
            ClientCertificatesMode::Required => "required",
        },
        "ca": secret_file(&format!("{directory}/ca.crt")),
        "crls": crl.map(|_| [secret_file(&format!("{directory}/ca.crl"))]),
    })
}

/// `control.quotas`.
pub(super) fn quotas(control: &Control) -> Value {
    let Some(quotas) = &control.quotas else {
        return Value::Null;
    };
    json!({
        "max_keys": quotas.max_keys,
        "max_sessions": quotas.max_sessions,
        "max_bitrate_bps": quotas.max_bitrate_bps,
    })
}

fn subjects(subjects: &[Subject]) -> Value {
    if subjects.is_empty() {
        return Value::Null;
    }
    let subjects = subjects.iter().map(
        |subject| json!({"name": subject.name, "tenant": subject.tenant, "scopes": subject.scopes}),
    );
    subjects.collect()
}
