//! Every object of a cluster, as values: `build(validated, observed) -> Objects`. Pure: no client, no clock, no
//! randomness, so the same input gives the same bytes.

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::core::DynamicObject;

/// What is there already and shapes what is to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// `cert-manager.io/v1` is served.
    pub cert_manager: bool,
    /// `monitoring.coreos.com/v1` is served.
    pub pod_monitors: bool,
    /// Present number of edges, kept where an autoscaler is on and the specification names none.
    pub edge_replicas: Option<i32>,
}

/// Every object of a cluster but the Secrets that the operator makes (those hold randomness). Applied in the order of
/// the fields; `apply` takes it apart without `..`, so that a new field that is never applied does not compile.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// One per tier.
    pub service_accounts: Vec<ServiceAccount>,
    /// One per tier, where enabled.
    pub network_policies: Vec<NetworkPolicy>,
    /// Immutable, named by their content, one per tier.
    pub boot: Vec<ConfigMap>,
    /// Reaches running processes.
    pub live: ConfigMap,
    /// Of cert-manager, where asked for and served.
    pub certificates: Vec<DynamicObject>,
    /// Of every tier.
    pub services: Vec<Service>,
    /// One per tier.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// Of SQLite.
    pub volume_claims: Vec<PersistentVolumeClaim>,
    /// Streams have to have somewhere to go before anybody is admitted.
    pub origin: StatefulSet,
    /// Edges need it to be ready.
    pub control: Deployment,
    /// The present revision's.
    pub edge: Deployment,
    /// Where asked for.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// Of the Prometheus operator, where served and not disabled.
    pub pod_monitors: Vec<DynamicObject>,
}
