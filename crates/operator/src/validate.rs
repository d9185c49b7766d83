//! From what a user wrote to what [`crate::build`] works on: names resolved, defaults filled in, contradictions refused.
//! Pure.
//!
//! Everything that the CRD's schema and CEL rules check is checked again: an object may be older than a rule. Problems
//! are collected, so that a user learns of all of them at once.

mod access;
mod applications;
mod cluster;
mod database;
mod pods;
mod problems;
mod services;
mod version;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};

use self::problems::Problems;
pub use self::{
    applications::{Acceptance, ValidatedApplication, ValidatedAuth, accept_applications},
    version::supported as version_supported,
};
use crate::{
    api::{IngestApplication, IngestCluster, IngestClusterSpec, Reason, Sqlite},
    names::Names,
};

/// What the operator itself was told.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Image of a cluster that names none, without a tag.
    pub image_repository: String,
    /// SPIFFE trust domain of every cluster.
    pub trust_domain: String,
    /// The DNS domain of Kubernetes services, such as `cluster.local`.
    pub cluster_domain: String,
}

/// A cluster that makes sense: the single input of the build steps.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedCluster {
    /// Names of its objects.
    pub names: Names,
    /// Where it is.
    pub namespace: String,
    /// On everything that is made for it.
    pub owner: OwnerReference,
    /// `metadata.generation`.
    pub generation: i64,
    /// As written, with the API server's defaults.
    pub spec: IngestClusterSpec,
    /// That is to be run.
    pub version: String,
    /// `repository:tag` or `repository@digest`.
    pub image: String,
    /// The trust domain of its internal certificates.
    pub trust_domain: String,
    /// The DNS domain of Kubernetes services.
    pub cluster_domain: String,
    /// Applications that encoders may publish to, in order.
    pub applications: Vec<ValidatedApplication>,
    /// Where stream keys are.
    pub database: ValidatedDatabase,
    /// Before every key in Redis.
    pub redis_key_prefix: String,
    /// Of the trace collector, where traces are exported.
    pub trace_port: Option<u16>,
    /// Memory limit of an edge's container in bytes, where there is one.
    pub edge_memory_limit: Option<u64>,
    /// Memory limit of an origin's container in bytes, where there is one.
    pub origin_memory_limit: Option<u64>,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq)]
pub enum ValidatedDatabase {
    /// A server.
    Postgres {
        /// Without a password; with `sslmode` and the CA's file, where there is a CA.
        url: String,
        /// Where it listens.
        port: u16,
        /// Of each control at once, where it is not as control has it.
        connections: Option<i32>,
    },
    /// A file on a volume.
    Sqlite(Sqlite),
}

/// Why a cluster cannot be built; every reason at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// For the condition.
    pub reason: Reason,
    /// Path of the field.
    pub path: String,
    /// What is wrong with it, and what to do.
    pub message: String,
}

/// What is to be built for a cluster; or everything that is wrong with it. `applications` may hold those of other
/// clusters too.
pub fn validate(
    cluster: &IngestCluster,
    applications: &[IngestApplication],
    defaults: &Defaults,
) -> Result<ValidatedCluster, Vec<Problem>> {
    let mut problems = Problems::default();
    let spec = &cluster.spec;
    let namespace = problems.required("metadata.namespace", cluster.namespace());
    let owner = problems.required("metadata.uid", cluster.controller_owner_ref(&()));
    let version = version::resolve(spec, &mut problems);
    cluster::check(cluster, &mut problems);
    access::check(&spec.control, &mut problems);
    services::check(spec, &mut problems);
    pods::check(spec, &mut problems);
    let database = database::resolve(&spec.control, &mut problems);
    let trace_port = cluster::trace_port(&spec.observability, &mut problems);
    let (edge_memory_limit, origin_memory_limit) = pods::memory_limits(spec, &mut problems);

    let accepted = accept_applications(cluster, applications);
    let mut applications: Vec<ValidatedApplication> = accepted
        .iter()
        .filter(|(_, acceptance)| *acceptance == Acceptance::Accepted)
        .filter_map(|(application, _)| ValidatedApplication::of(application))
        .collect();
    applications.sort_by(|one, other| one.app.cmp(&other.app));

    match (namespace, owner, version, database) {
        (Some(namespace), Some(owner), Some(version), Some(database)) if problems.is_empty() => {
            let key_prefix = spec.redis.key_prefix.clone();
            Ok(ValidatedCluster {
                names: Names::new(cluster),
                owner,
                generation: cluster.metadata.generation.unwrap_or_default(),
                spec: spec.clone(),
                image: version::image(&spec.image, &version, defaults),
                version,
                trust_domain: defaults.trust_domain.clone(),
                cluster_domain: defaults.cluster_domain.clone(),
                applications,
                database,
                redis_key_prefix: key_prefix
                    .unwrap_or_else(|| format!("hw-{namespace}-{}", cluster.name_any())),
                trace_port,
                edge_memory_limit,
                origin_memory_limit,
                namespace,
            })
        }
        _ => Err(problems.into_vec()),
    }
}

#[cfg(test)]
mod tests;
