//! Every object of a cluster, as values: `build(validated, observed) -> Objects`. Pure: no client, no clock, no
//! randomness, so the same input gives the same bytes.

mod access;
mod accounts;
mod autoscaler;
mod boot;
mod certificates;
mod control;
mod disruption;
mod edge;
mod environment;
mod files;
mod hash;
mod live;
mod metadata;
mod monitors;
mod network;
mod origin;
mod pod;
mod ports;
mod resources;
mod security;
mod services;
mod storage;
mod yaml;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, PersistentVolumeClaim, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{ResourceExt as _, core::DynamicObject};

pub(crate) use self::resources::resources;
pub use self::{
    certificates::{control_dns_names, edge_dns_names, origin_dns_names, uri},
    files::{CONFIGURATION_DIRECTORY, DATA_DIRECTORY, POSTGRES_CA_FILE, VOLUMES},
    metadata::{labels, object_meta, selector},
    ports::Port,
};
use crate::{names::Component, validate::ValidatedCluster};

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
    /// One per tier, where the user brings none.
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
    /// Of SQLite. Without an owner where it is to outlive the cluster.
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

/// Every object of a cluster.
pub fn build(cluster: &ValidatedCluster, observed: &Observed) -> Objects {
    let boot = Component::ALL.map(|component| boot::config_map(cluster, component));
    let [origin_boot, control_boot, edge_boot] = &boot;
    Objects {
        service_accounts: accounts::service_accounts(cluster),
        network_policies: network::policies(cluster),
        live: live::config_map(cluster),
        certificates: certificates::certificates(cluster, observed),
        services: services::services(cluster),
        disruption_budgets: disruption::budgets(cluster),
        volume_claims: storage::volume_claims(cluster),
        origin: origin::stateful_set(cluster, &origin_boot.name_any()),
        control: control::deployment(cluster, &control_boot.name_any()),
        edge: edge::deployment(cluster, observed, &edge_boot.name_any()),
        autoscaler: autoscaler::autoscaler(cluster),
        pod_monitors: monitors::pod_monitors(cluster, observed),
        boot: boot.into(),
    }
}

/// What has to be written into `spec.edge.replicas`: an autoscaler reads the number of replicas there, and does nothing
/// where there is none or where it is 0 by default. Nothing where somebody has set it, or no autoscaler is on.
pub fn edge_replicas_to_set(cluster: &ValidatedCluster, observed: &Observed) -> Option<i32> {
    let edge = &cluster.spec.edge;
    (edge.autoscaling.is_some() && edge.replicas.is_none())
        .then(|| edge::replicas(cluster, observed))
}

impl Objects {
    /// Revision of the edges: a hash of everything that shapes their pods.
    pub fn edge_revision(&self) -> &str {
        let labels = self.edge.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(crate::api::REVISION_LABEL))
            .map_or("", String::as_str)
    }

    /// SHA-256 of the live configuration, hexadecimal: what `GetState` says once it is loaded.
    pub fn live_hash(&self) -> String {
        let data = self.live.data.as_ref();
        let text = data.and_then(|data| data.get(files::LIVE_KEY));
        hash::hexadecimal(text.map_or("", String::as_str).as_bytes())
    }
}

/// The label selector of every edge of a cluster, whatever its revision, as text: for the scale subresource.
pub fn edge_selector(cluster: &ValidatedCluster) -> String {
    let pairs = selector(cluster, Component::Edge);
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}
