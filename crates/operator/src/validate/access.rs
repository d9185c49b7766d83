//! Who may call control's API, and what tenants may have.

use super::{
    applications::{TEXT_BYTES_MAX, check_tenant, check_url},
    cluster::check_key,
    problems::{Problems, is_label, is_subdomain},
};
use crate::api::{ApiClientCertificates, Control, Quotas, Scope, Subject, TokenIssuer};

/// Of a claim's name.
const CLAIM_BYTES_MAX: usize = 128;
/// Of a subject's name.
const NAME_BYTES_MAX: usize = 512;
/// Of a quota: far above any line.
const BITRATE_BPS_MAX: i64 = 1_000_000_000_000;
/// In place of a tenant: all of them.
const EVERY: &str = "*";
/// Before the namespace and the name of a ServiceAccount.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

pub(super) fn check(control: &Control, problems: &mut Problems) {
    for (index, issuer) in control.oidc.iter().enumerate() {
        check_issuer(&format!("spec.control.oidc[{index}]"), issuer, problems);
    }
    let egress = control.egress.as_ref();
    let calls_kubernetes = control
        .oidc
        .iter()
        .any(|issuer| issuer.kubernetes.is_some());
    if calls_kubernetes && egress.is_none_or(|egress| egress.allow.is_empty()) {
        problems.add(
            "spec.control.egress.allow",
            "is empty, and oidc.kubernetes needs the address of the API server's Service \
             (kubectl get service kubernetes --namespace default), such as 10.96.0.1/32",
        );
    }
    if let Some(clients) = &control.client_certificates {
        check_client_certificates(clients, problems);
    }
    if let Some(quotas) = &control.quotas {
        check_quotas(quotas, problems);
    }
}

fn check_issuer(path: &str, issuer: &TokenIssuer, problems: &mut Problems) {
    problems.text(&format!("{path}.issuer"), &issuer.issuer, TEXT_BYTES_MAX);
    let audience = format!("{path}.audience");
    problems.text(&audience, &issuer.audience, TEXT_BYTES_MAX);
    match (&issuer.jwks_url, &issuer.jwks_secret_ref, issuer.kubernetes) {
        (Some(url), None, None) => check_url(&format!("{path}.jwksUrl"), url, problems),
        (None, Some(keys), None) => check_key(&format!("{path}.jwksSecretRef"), keys, problems),
        (None, None, Some(_)) => check_service_accounts(path, issuer, problems),
        _ => problems.add(path, "exactly one of jwksUrl, jwksSecretRef and kubernetes"),
    }
    let claims = [&issuer.tenant_claim, &issuer.scopes_claim];
    for (name, claim) in ["tenantClaim", "scopesClaim"].into_iter().zip(claims) {
        if let Some(claim) = claim {
            problems.text(&format!("{path}.{name}"), claim, CLAIM_BYTES_MAX);
        }
    }
    let tenant = [issuer.tenant.is_some(), issuer.tenant_claim.is_some()];
    let scopes = [!issuer.scopes.is_empty(), issuer.scopes_claim.is_some()];
    let nothing = |given: [bool; 2]| !given.contains(&true);
    let one = |given: [bool; 2]| given.contains(&true) && given.contains(&false);
    let whole = if issuer.subjects.is_empty() {
        one(tenant) && one(scopes)
    } else {
        nothing(tenant) && nothing(scopes)
    };
    if !whole {
        problems.add(
            path,
            "either subjects, or one of tenant and tenantClaim with one of scopes and scopesClaim",
        );
    }
    check_whose(
        &format!("{path}.tenant"),
        issuer.tenant.as_deref(),
        problems,
    );
    check_subjects(&format!("{path}.subjects"), &issuer.subjects, problems);
}

/// A name that is no ServiceAccount's would wait for a caller who never comes.
fn check_service_accounts(path: &str, issuer: &TokenIssuer, problems: &mut Problems) {
    if issuer.subjects.is_empty() {
        let what = "is empty: every pod of the Kubernetes cluster can have a token";
        problems.add(format!("{path}.subjects"), what);
    }
    for (index, subject) in issuer.subjects.iter().enumerate() {
        let account = subject.name.strip_prefix(SERVICE_ACCOUNT);
        let account = account.and_then(|account| account.split_once(':'));
        let valid =
            account.is_some_and(|(namespace, name)| is_label(namespace) && is_subdomain(name));
        if !valid {
            problems.add(
                format!("{path}.subjects[{index}].name"),
                format!(
                    "{:?} is not of the form {SERVICE_ACCOUNT}NAMESPACE:NAME",
                    subject.name
                ),
            );
        }
    }
}

fn check_subjects(path: &str, subjects: &[Subject], problems: &mut Problems) {
    for (index, subject) in subjects.iter().enumerate() {
        let path = format!("{path}[{index}]");
        problems.text(&format!("{path}.name"), &subject.name, NAME_BYTES_MAX);
        check_whose(&format!("{path}.tenant"), Some(&subject.tenant), problems);
        check_scopes(&format!("{path}.scopes"), &subject.scopes, problems);
    }
    problems.unique(path, subjects.iter().map(|subject| subject.name.as_str()));
}

fn check_scopes(path: &str, scopes: &[Scope], problems: &mut Problems) {
    if scopes.is_empty() {
        problems.add(path, "is empty");
    }
}

/// A tenant, or all of them.
fn check_whose(path: &str, tenant: Option<&str>, problems: &mut Problems) {
    if tenant != Some(EVERY) {
        check_tenant(path, tenant, problems);
    }
}

fn check_client_certificates(clients: &ApiClientCertificates, problems: &mut Problems) {
    const PATH: &str = "spec.control.clientCertificates";
    let ca = format!("{PATH}.caSecretRef");
    check_key(&ca, &clients.ca_secret_ref, problems);
    if let Some(crl) = &clients.crl_secret_ref {
        check_key(&format!("{PATH}.crlSecretRef"), crl, problems);
    }
    let path = format!("{PATH}.subjects");
    check_subjects(&path, &clients.subjects, problems);
    for (index, subject) in clients.subjects.iter().enumerate() {
        if !is_certificate_name(&subject.name) {
            problems.add(
                format!("{path}[{index}].name"),
                format!(
                    "{:?} is neither a DNS name, a URI, an email address nor sha256: and 64 hexadecimal digits",
                    subject.name
                ),
            );
        }
    }
}

/// As control takes them, with its kind before it or without.
fn is_certificate_name(name: &str) -> bool {
    if let Some(fingerprint) = name.strip_prefix("sha256:") {
        let digits = fingerprint.bytes().filter(|byte| *byte != b':');
        return digits.clone().count() == 64
            && digits.clone().all(|digit| digit.is_ascii_hexdigit());
    }
    let (dns, text) = match ["dns:", "uri:", "email:"]
        .into_iter()
        .find_map(|kind| Some((kind, name.strip_prefix(kind)?)))
    {
        Some((kind, text)) => (kind == "dns:", text),
        None => (!name.contains("://") && !name.contains('@'), name),
    };
    let of_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    !text.is_empty()
        && text.bytes().all(|byte| {
            if dns {
                of_host(byte)
            } else {
                byte.is_ascii_graphic()
            }
        })
}

fn check_quotas(quotas: &Quotas, problems: &mut Problems) {
    const PATH: &str = "spec.control.quotas";
    for (field, value) in [
        ("maxKeys", quotas.max_keys.map(i64::from)),
        ("maxSessions", quotas.max_sessions.map(i64::from)),
    ] {
        if let Some(value) = value {
            problems.range(&format!("{PATH}.{field}"), value, 0, i32::MAX.into());
        }
    }
    if let Some(bitrate) = quotas.max_bitrate_bps {
        let path = format!("{PATH}.maxBitrateBps");
        problems.range(&path, bitrate, 0, BITRATE_BPS_MAX);
    }
}
