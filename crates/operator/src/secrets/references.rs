//! Secrets that are not the operator's: whether they are there, and until when their certificates are good.

use std::time::Duration;

use jiff::Timestamp;

use super::{Existing, Fault, Plan, stored};
use crate::{
    api::{ConditionType, KeyReference, Reason, Redis},
    certificates::Facts,
    names::Component,
    validate::ValidatedCluster,
};

/// A certificate that nobody renewed until then is worth a word.
const EXPIRY_NOTICE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Keys of a Secret that the cluster needs.
pub(super) struct Reference {
    pub(super) secret: String,
    keys: Vec<String>,
    /// Of the field.
    path: &'static str,
    /// Who makes it.
    cert_manager: bool,
}

/// Everything that a specification refers to.
pub(super) fn of(cluster: &ValidatedCluster) -> Vec<Reference> {
    let (spec, names) = (&cluster.spec, &cluster.names);
    let mut all = Vec::new();
    if let Some(secret) = &spec.tls.secret_name {
        all.push(certificate(secret.clone(), "tls.secretName", false));
    }
    if spec.tls.issuer_ref.is_some() {
        let secret = names.public_certificate(Component::Edge);
        all.push(certificate(secret, "tls.issuerRef", true));
    }
    if let Some(clients) = &spec.tls.client_certificates {
        let path = "tls.clientCertificates.caSecretRef";
        all.push(key(&clients.ca_secret_ref, path));
        if let Some(crl) = &clients.crl_secret_ref {
            all.push(key(crl, "tls.clientCertificates.crlSecretRef"));
        }
    }
    if let Some(clients) = &spec.control.client_certificates {
        let path = "control.clientCertificates.caSecretRef";
        all.push(key(&clients.ca_secret_ref, path));
        if let Some(crl) = &clients.crl_secret_ref {
            all.push(key(crl, "control.clientCertificates.crlSecretRef"));
        }
    }
    for issuer in &spec.control.oidc {
        let keys = issuer.jwks_secret_ref.as_ref();
        all.extend(keys.map(|keys| key(keys, "control.oidc.jwksSecretRef")));
    }
    if spec.control.tls.is_some() {
        for component in [Component::Control, Component::Origin] {
            let secret = names.public_certificate(component);
            all.push(certificate(secret, "control.tls", true));
        }
    }
    if spec.internal_tls.issuer_ref.is_some() {
        for role in super::leaves::ROLES {
            let mut reference = certificate(
                names.internal_certificate(role.as_str()),
                "internalTls.issuerRef",
                true,
            );
            reference.keys.push("ca.crt".to_owned());
            all.push(reference);
        }
    }
    redis(&spec.redis, &mut all);
    if let Some(postgres) = &spec.control.database.postgres {
        let path = "control.database.postgres.passwordSecretRef";
        all.push(key(&postgres.password_secret_ref, path));
        if let Some(ca) = &postgres.ca_secret_ref {
            all.push(key(ca, "control.database.postgres.caSecretRef"));
        }
    }
    all
}

fn redis(redis: &Redis, all: &mut Vec<Reference>) {
    if let Some(auth) = &redis.auth {
        if let Some(per_role) = &auth.per_role {
            all.push(Reference {
                secret: per_role.secret_name.clone(),
                keys: ["edge-password", "control-password", "origin-password"]
                    .map(str::to_owned)
                    .to_vec(),
                path: "redis.auth.perRole.secretName",
                cert_manager: false,
            });
        }
        if let Some(shared) = &auth.shared {
            let path = "redis.auth.shared.passwordSecretRef";
            all.push(key(&shared.password_secret_ref, path));
        }
    }
    let sentinels = redis.sentinel.as_ref();
    if let Some(auth) = sentinels.and_then(|sentinels| sentinels.auth.as_ref()) {
        let path = "redis.sentinel.auth.passwordSecretRef";
        all.push(key(&auth.password_secret_ref, path));
    }
    let tls = redis.tls.as_ref();
    if let Some(ca) = tls.and_then(|tls| tls.ca_secret_ref.as_ref()) {
        all.push(key(ca, "redis.tls.caSecretRef"));
    }
    if let Some(secret) = tls.and_then(|tls| tls.certificate_secret_name.as_ref()) {
        let path = "redis.tls.certificateSecretName";
        all.push(certificate(secret.clone(), path, false));
    }
}

/// Tells of what is missing, and of certificates that are about to end.
pub(super) fn check(
    cluster: &ValidatedCluster,
    existing: &Existing,
    now: Timestamp,
    plan: &mut Plan,
) {
    for reference in of(cluster) {
        let (name, path) = (&reference.secret, reference.path);
        let certificate = reference.keys.iter().any(|key| key == "tls.crt");
        let about = if certificate {
            ConditionType::CertificatesReady
        } else {
            ConditionType::ConfigAccepted
        };
        let secret = existing.get(name);
        if secret.is_none() && reference.cert_manager {
            plan.faults.push(Fault {
                about,
                reason: Reason::CertificatePending,
                message: format!("Secret {name} ({path}) was not made by cert-manager yet"),
            });
            continue;
        }
        let Some(secret) = secret else {
            let message = format!("Secret {name} ({path}) does not exist");
            plan.faults.push(Fault::missing(about, message));
            continue;
        };
        for key in &reference.keys {
            let data = secret.data.as_ref().and_then(|data| data.get(key));
            if data.is_none_or(|value| value.0.is_empty()) {
                let message = format!("Secret {name} ({path}) has no key {key}");
                plan.faults.push(Fault::missing(about, message));
            }
        }
        if !certificate {
            continue;
        }
        match stored::text(secret, "tls.crt").map(Facts::read) {
            Some(Ok(facts)) if now >= soon(facts.not_after) => plan.faults.push(Fault {
                about,
                reason: Reason::CertificateExpiringSoon,
                message: format!(
                    "the certificate of Secret {name} ({path}) ends at {} and was not renewed",
                    facts.not_after
                ),
            }),
            Some(Err(error)) => {
                let message = format!("Secret {name} ({path}): tls.crt: {error}");
                plan.faults.push(Fault::damaged(about, message));
            }
            Some(Ok(_)) | None => {}
        }
    }
}

fn certificate(secret: String, path: &'static str, cert_manager: bool) -> Reference {
    Reference {
        secret,
        keys: ["tls.crt", "tls.key"].map(str::to_owned).to_vec(),
        path,
        cert_manager,
    }
}

fn key(reference: &KeyReference, path: &'static str) -> Reference {
    Reference {
        secret: reference.name.clone(),
        keys: vec![reference.key.clone()],
        path,
        cert_manager: false,
    }
}

pub(super) fn soon(not_after: Timestamp) -> Timestamp {
    not_after
        .checked_sub(EXPIRY_NOTICE)
        .unwrap_or(Timestamp::MIN)
}
