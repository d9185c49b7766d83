//! Certificates that processes prove themselves with: between the roles, of the API and of playback, and the one that
//! encoders see where it is self-signed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use runtime::identity::Role;

use super::{
    Existing, Plan, SecretsError,
    authority::Trust,
    stored::{self, BUNDLE_SINCE, Draft},
};
use crate::{
    build,
    certificates::{self, Facts, Pair, Subject},
    names::Component,
    validate::ValidatedCluster,
};

/// Those that have a certificate.
pub(super) const ROLES: [Role; 4] = [Role::Origin, Role::Control, Role::Edge, Role::Operator];

/// Whether anything is issued by the operator at all.
pub(super) fn needs_authority(cluster: &ValidatedCluster) -> bool {
    issues_internal(cluster) || issues_servers(cluster)
}

/// The Secrets whose `ca.crt` is the operator's.
pub(super) fn bundle_holders(cluster: &ValidatedCluster) -> Vec<String> {
    subjects(cluster)
        .into_iter()
        .map(|leaf| leaf.name)
        .collect()
}

/// Plans every certificate of the operator's CA.
pub(super) fn plan(
    cluster: &ValidatedCluster,
    existing: &Existing,
    trust: &Trust,
    now: Timestamp,
    plan: &mut Plan,
) -> Result<(), SecretsError> {
    for Leaf {
        name,
        component,
        subject,
    } in subjects(cluster)
    {
        let present = existing.get(&name);
        let kept = present.and_then(|secret| keep(secret, &subject, Some(trust), now));
        let issued = kept.is_none();
        let pair = match kept {
            Some(pair) => pair,
            None => trust.authority.issue(&subject, now)?,
        };
        if issued && present.is_some() {
            plan.renewed.push(format!("Secret {name}"));
        }
        let mut draft = Draft::of(name, component, present);
        let bundle = present.and_then(|secret| stored::text(secret, "ca.crt"));
        if bundle != Some(trust.bundle.as_str()) || !draft.annotations.contains_key(BUNDLE_SINCE) {
            draft.annotations.insert(BUNDLE_SINCE, now.to_string());
        }
        fill(&mut draft, pair);
        draft.data.insert("ca.crt".to_owned(), trust.bundle.clone());
        draft.plan(cluster, existing, plan);
    }
    Ok(())
}

/// Plans the certificate that encoders see, where it is self-signed.
pub(super) fn plan_edge(
    cluster: &ValidatedCluster,
    existing: &Existing,
    now: Timestamp,
    plan: &mut Plan,
) -> Result<(), SecretsError> {
    if cluster.spec.tls.self_signed.is_none() {
        return Ok(());
    }
    let name = cluster.names.public_certificate(Component::Edge);
    let names = with_localhost(build::edge_dns_names(cluster));
    let subject = Subject::Server(names.clone());
    let present = existing.get(&name);
    let kept = present.and_then(|secret| keep(secret, &subject, None, now));
    if kept.is_none() && present.is_some() {
        plan.renewed.push(format!("Secret {name}"));
    }
    let pair = match kept {
        Some(pair) => pair,
        None => Pair::new_self_signed(&names, now)?,
    };
    let mut draft = Draft::of(name, Component::Edge.as_str(), present);
    fill(&mut draft, pair);
    draft.plan(cluster, existing, plan);
    Ok(())
}

struct Leaf {
    name: String,
    component: &'static str,
    subject: Subject,
}

fn subjects(cluster: &ValidatedCluster) -> Vec<Leaf> {
    let roles = ROLES.map(|role| Leaf {
        name: cluster.names.internal_certificate(role.as_str()),
        component: role.as_str(),
        subject: Subject::Role(build::uri(cluster, role)),
    });
    let servers = [
        (Component::Control, build::control_dns_names(cluster)),
        (Component::Origin, build::origin_dns_names(cluster)),
    ]
    .map(|(component, names)| Leaf {
        name: cluster.names.public_certificate(component),
        component: component.as_str(),
        subject: Subject::Server(with_localhost(names)),
    });
    let mut all = Vec::new();
    if issues_internal(cluster) {
        all.extend(roles);
    }
    if issues_servers(cluster) {
        all.extend(servers);
    }
    all
}

fn issues_internal(cluster: &ValidatedCluster) -> bool {
    cluster.spec.internal_tls.issuer_ref.is_none()
}

fn issues_servers(cluster: &ValidatedCluster) -> bool {
    cluster.spec.control.tls.is_none()
}

/// With the end of a port-forward.
fn with_localhost(mut names: Vec<String>) -> Vec<String> {
    names.push("localhost".to_owned());
    names
}

/// The certificate that is there, where it is still good. A damaged one is no loss: it is issued anew.
fn keep(secret: &Secret, subject: &Subject, trust: Option<&Trust>, now: Timestamp) -> Option<Pair> {
    let pair = Pair {
        certificate: stored::text(secret, "tls.crt")?.to_owned(),
        private_key: stored::text(secret, "tls.key")?.to_owned(),
    };
    let facts: Facts = pair.check().ok()?;
    let issued = trust.is_none_or(|trust| {
        certificates::signed_by(&pair.certificate, &trust.authority.certificate)
    });
    let current = facts.not_before <= now && now < facts.renew_at();
    (issued && current && facts.is_of(subject)).then_some(pair)
}

fn fill(draft: &mut Draft, pair: Pair) {
    draft.tls = true;
    draft.data.insert("tls.crt".to_owned(), pair.certificate);
    draft.data.insert("tls.key".to_owned(), pair.private_key);
}
