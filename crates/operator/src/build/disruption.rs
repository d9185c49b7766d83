//! PodDisruptionBudgets: a node is drained of one pod of a tier after another.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::metadata::{object_meta, pods_of};
use crate::{names::Component, validate::ValidatedCluster};

pub(super) fn budgets(cluster: &ValidatedCluster) -> Vec<PodDisruptionBudget> {
    Component::ALL
        .map(|component| PodDisruptionBudget {
            metadata: object_meta(cluster, Some(component), cluster.names.tier(component)),
            spec: Some(PodDisruptionBudgetSpec {
                // 0 would block the upgrade of a node for ever.
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(pods_of(cluster, component)),
                // A pod that does not come up must not keep its node from being drained.
                unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        })
        .into()
}
