//! From what a user wrote to what [`crate::build`] works on: names resolved, defaults filled in, contradictions refused.
//! Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::{
    api::{IngestClusterSpec, Reason},
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
    pub applications: Vec<String>,
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
