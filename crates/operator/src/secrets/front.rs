//! The certificates of `tls.additionalSecrets`, gathered in the one Secret that edges mount.
//!
//! A volume names its Secrets in the pod template, which cannot change without new edges; what this Secret holds can.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use super::{
    Existing, Fault, Plan, references,
    stored::{self, Draft},
};
use crate::{
    api::{ConditionType, Reason},
    certificates::Facts,
    names::Component,
    validate::ValidatedCluster,
};

/// Kubernetes takes a MiB in one Secret; the rest is for its own fields.
const BYTES_MAX: usize = 1_000_000;

/// Plans it, empty where there are none: then the first one restarts nothing, too. A Secret that cannot be used keeps the
/// place that its last good version had.
pub(super) fn plan(
    cluster: &ValidatedCluster,
    existing: &Existing,
    now: Timestamp,
    plan: &mut Plan,
) {
    let name = cluster.names.edge_certificates();
    let present = existing.get(&name);
    let mut draft = Draft::of(name, Component::Edge.as_str(), present);
    let mut bytes: usize = 0;
    for secret in &cluster.spec.tls.additional_secrets {
        let keys = [format!("{secret}.crt"), format!("{secret}.key")];
        let found = pair(existing.get(secret), "tls.crt", "tls.key");
        let pair = match found.and_then(|pair| checked(pair, now)) {
            Ok((pair, None)) => Some(pair),
            Ok((pair, Some(reason))) => {
                plan.faults
                    .push(fault(Reason::CertificateExpiringSoon, secret, &reason));
                Some(pair)
            }
            Err(reason) => {
                plan.faults
                    .push(fault(Reason::CertificateUnusable, secret, &reason));
                let [certificate, private_key] = &keys;
                pair(present, certificate, private_key).ok()
            }
        };
        let Some(pair) = pair else {
            continue;
        };
        bytes = pair
            .iter()
            .fold(bytes, |bytes, text| bytes.saturating_add(text.len()));
        if bytes > BYTES_MAX {
            let reason = "the certificates do not fit into one Secret: this one and those behind it are not served";
            plan.faults
                .push(fault(Reason::CertificateUnusable, secret, reason));
            break;
        }
        draft
            .data
            .extend(keys.into_iter().zip(pair.map(str::to_owned)));
    }
    draft.plan(cluster, existing, plan);
}

fn pair<'a>(
    secret: Option<&'a Secret>,
    certificate: &str,
    private_key: &str,
) -> Result<[&'a str; 2], String> {
    let secret = secret.ok_or("does not exist")?;
    let text = |key: &str| {
        let text = stored::text(secret, key).filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("has no key {key}"))
    };
    Ok([text(certificate)?, text(private_key)?])
}

/// With a word where it ends soon. Whether the key belongs to it, edges see.
fn checked(pair: [&str; 2], now: Timestamp) -> Result<([&str; 2], Option<String>), String> {
    let [certificate, _] = pair;
    let facts = Facts::read(certificate).map_err(|error| format!("tls.crt: {error}"))?;
    let ends = now >= references::soon(facts.not_after);
    let word = ends.then(|| format!("ends at {} and was not renewed", facts.not_after));
    Ok((pair, word))
}

fn fault(reason: Reason, secret: &str, message: &str) -> Fault {
    Fault {
        about: ConditionType::CertificatesReady,
        reason,
        message: format!("Secret {secret} (tls.additionalSecrets): {message}"),
    }
}
