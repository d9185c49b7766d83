//! The Secrets that the operator makes: what exists and the time in, what to create or replace out. Pure but for the
//! randomness of new keys.
//!
//! Three things are never made anew while something uses them: the key of the internal CA, the pepper and the key that
//! signs grants. Where one of them is missing or damaged, that is a [`Fault`] for people to see.
//!
//! A change reaches processes late: the kubelet looks at a mounted Secret about once a minute, and a process at its
//! files every few seconds. Every rotation therefore waits [`DISTRIBUTION`] between telling those who check and those
//! who prove. All state of a rotation is in the Secrets themselves, so a restart of the operator loses nothing.

mod authority;
mod credentials;
mod front;
mod leaves;
mod references;
mod stored;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::{
    api::{ConditionType, Reason},
    certificates::{CertificateError, Facts},
    names::{Component, Names},
    validate::ValidatedCluster,
};

/// From a write of a Secret to the last process that has it: the kubelet's period of one minute and its cache of
/// another, the process's own look, and room for a node that is slow.
pub const DISTRIBUTION: Duration = Duration::from_secs(5 * 60);
/// For how long a token is still taken after its successor stands in the first line.
pub const TOKEN_OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// For how long grants of an old key are still taken: a session shows its first grant to every origin that it moves to.
pub const GRANT_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3600);
/// A CA is succeeded by a new one this long before its end.
pub const AUTHORITY_RENEWAL: Duration = Duration::from_secs(90 * 24 * 3600);

/// Existing Secrets by name: those of [`names`] that are there.
pub type Existing = BTreeMap<String, Secret>;

/// What depends on the Secrets that are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InUse {
    /// Control runs, or ran: stream keys may have been made.
    pub control: bool,
    /// Origins run.
    pub origin: bool,
}

/// What is to be done.
#[derive(Default)]
pub struct Plan {
    /// In this order; when one fails, the rest has to wait.
    pub writes: Vec<Write>,
    /// What the operator cannot put right.
    pub faults: Vec<Fault>,
    /// End of the certificate that encoders see.
    pub public_not_after: Option<Timestamp>,
    /// End of the certificate that ends first of those between the roles.
    pub internal_not_after: Option<Timestamp>,
    /// What was renewed or rotated, for people.
    pub renewed: Vec<String>,
    /// By which the operator talks to this cluster's control.
    pub identity: Option<Identity>,
}

/// A write of a Secret. Prints nothing but the name.
pub enum Write {
    /// It must not be there yet.
    Create(Box<Secret>),
    /// Only over the version that was read.
    Replace(Box<Secret>),
}

/// Something is missing or damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `CertificatesReady` or `ConfigAccepted`.
    pub about: ConditionType,
    /// For the condition.
    pub reason: Reason,
    /// What, and what to do.
    pub message: String,
}

/// A role's certificate, its key, and whom it trusts, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its certificate.
    pub certificate: String,
    /// Its key.
    pub private_key: String,
    /// The CAs that are trusted.
    pub bundle: String,
}

/// Something could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// A certificate.
    #[error("a certificate cannot be made: {0}")]
    Certificate(#[from] CertificateError),
    /// No random numbers.
    #[error("the system's random numbers are not available")]
    Random,
}

impl std::fmt::Debug for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (verb, secret) = match self {
            Self::Create(secret) => ("Create", secret),
            Self::Replace(secret) => ("Replace", secret),
        };
        let name = secret.metadata.name.as_deref().unwrap_or_default();
        write!(f, "{verb}({name})")
    }
}

impl Write {
    /// Its name.
    pub fn name(&self) -> &str {
        let (Self::Create(secret) | Self::Replace(secret)) = self;
        secret.metadata.name.as_deref().unwrap_or_default()
    }
}

impl Fault {
    /// What runs pods has to wait: they could not start, or not trust one another. A certificate that ends soon is no such
    /// thing.
    pub fn holds(&self) -> bool {
        self.reason != Reason::CertificateExpiringSoon && self.reason != Reason::CertificateUnusable
    }

    /// What is to come from cert-manager does not come without it.
    pub fn nobody_issues(&mut self) {
        if self.reason == Reason::CertificatePending {
            self.reason = Reason::IssuerMissing;
            self.message += ": cert-manager is not installed (cert-manager.io/v1 is not served)";
        }
    }

    fn missing(about: ConditionType, message: String) -> Self {
        Self {
            about,
            reason: Reason::SecretMissing,
            message,
        }
    }

    fn damaged(about: ConditionType, message: String) -> Self {
        Self {
            about,
            reason: Reason::SecretDamaged,
            message,
        }
    }
}

/// Every Secret that [`plan`] wants to see: the operator's own, cert-manager's, and those that the user names.
pub fn names(cluster: &ValidatedCluster) -> Vec<String> {
    let mut names = owned(&cluster.names);
    names.extend(references::of(cluster).into_iter().map(|one| one.secret));
    names.extend(cluster.spec.tls.additional_secrets.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// The Secrets that the operator may make for a cluster.
pub fn owned(names: &Names) -> Vec<String> {
    let roles = leaves::ROLES.map(|role| names.internal_certificate(role.as_str()));
    let public = Component::ALL.map(|component| names.public_certificate(component));
    let mut all = vec![
        names.internal_ca(),
        names.pepper(),
        names.grant(),
        names.api_token(),
        names.playback_token(),
        names.edge_certificates(),
    ];
    all.extend(roles);
    all.extend(public);
    all
}

/// What to create or replace, now.
pub fn plan(
    cluster: &ValidatedCluster,
    in_use: InUse,
    existing: &Existing,
    now: Timestamp,
) -> Result<Plan, SecretsError> {
    let mut plan = Plan::default();
    if leaves::needs_authority(cluster) {
        let step = authority::step(cluster, existing, now, &mut plan)?;
        if let Some(trust) = step {
            leaves::plan(cluster, existing, &trust, now, &mut plan)?;
        }
    }
    leaves::plan_edge(cluster, existing, now, &mut plan)?;
    front::plan(cluster, existing, now, &mut plan);
    credentials::plan(cluster, in_use, existing, now, &mut plan)?;
    references::check(cluster, existing, now, &mut plan);
    observe(cluster, existing, &mut plan);
    Ok(plan)
}

/// What certificates will be there once the plan is done.
fn observe(cluster: &ValidatedCluster, existing: &Existing, plan: &mut Plan) {
    let after = |name: &str| {
        let planned = plan.writes.iter().find(|write| write.name() == name);
        let planned = planned.map(|(Write::Create(secret) | Write::Replace(secret))| &**secret);
        planned.or_else(|| existing.get(name))
    };
    let end = |name: &str| {
        let certificate = stored::text(after(name)?, "tls.crt")?;
        Some(Facts::read(certificate).ok()?.not_after)
    };
    let names = &cluster.names;
    let roles = leaves::ROLES.map(|role| end(&names.internal_certificate(role.as_str())));
    let internal_not_after = roles.into_iter().flatten().min();
    let public = cluster.spec.tls.secret_name.clone();
    let public = public.unwrap_or_else(|| names.public_certificate(Component::Edge));
    let public_not_after = end(&public);
    let identity = after(&names.internal_certificate("operator")).and_then(|secret| {
        Some(Identity {
            certificate: stored::text(secret, "tls.crt")?.to_owned(),
            private_key: stored::text(secret, "tls.key")?.to_owned(),
            bundle: stored::text(secret, "ca.crt")?.to_owned(),
        })
    });
    plan.internal_not_after = internal_not_after;
    plan.public_not_after = public_not_after;
    plan.identity = identity;
}
