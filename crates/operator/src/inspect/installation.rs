//! The clusters of a namespace with their pods, as they are.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{ResourceExt as _, api::ListParams};

use super::{Desk, InspectError, component_of};
use crate::{
    api::{CLUSTER_LABEL, IngestApplication, IngestCluster, REVISION_LABEL},
    names::Component,
};

/// An IngestCluster and what belongs to it.
#[derive(Debug)]
pub struct Cluster {
    /// The resource itself.
    pub resource: IngestCluster,
    /// Its applications.
    pub applications: Vec<IngestApplication>,
    /// Its pods, by tier and name.
    pub pods: Vec<PodState>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Its tier.
    pub component: Component,
    /// Its name.
    pub name: String,
    /// Where it runs; empty before that is decided.
    pub node: String,
    /// Whether Kubernetes sends it traffic.
    pub ready: bool,
    /// It was told to end, and lets its sessions finish.
    pub draining: bool,
    /// Of its container.
    pub restarts: i32,
    /// Of the edges' pod template.
    pub revision: Option<String>,
    /// What keeps it from being ready, as far as Kubernetes knows.
    pub trouble: Option<String>,
}

/// Every IngestCluster of the namespace, or the one of this name.
pub async fn clusters(desk: &Desk, name: Option<&str>) -> Result<Vec<Cluster>, InspectError> {
    let resources = match name {
        Some(name) => {
            let found = desk.api::<IngestCluster>().get_opt(name).await.map_err(
                InspectError::kubernetes(format!("for IngestCluster {name}")),
            )?;
            let missing = || {
                InspectError::Missing(format!(
                    "there is no IngestCluster {name:?} in namespace {:?}",
                    desk.namespace
                ))
            };
            vec![found.ok_or_else(missing)?]
        }
        None => {
            desk.api::<IngestCluster>()
                .list(&ListParams::default())
                .await
                .map_err(InspectError::kubernetes("for IngestClusters"))?
                .items
        }
    };
    let mut applications = by_cluster(desk).await?;
    let mut clusters = Vec::with_capacity(resources.len());
    for resource in resources {
        let name = resource.name_any();
        clusters.push(Cluster {
            pods: pods(desk, &name).await?,
            applications: applications.remove(&name).unwrap_or_default(),
            resource,
        });
    }
    Ok(clusters)
}

async fn by_cluster(desk: &Desk) -> Result<BTreeMap<String, Vec<IngestApplication>>, InspectError> {
    let applications = desk
        .api::<IngestApplication>()
        .list(&ListParams::default())
        .await
        .map_err(InspectError::kubernetes("for IngestApplications"))?;
    let mut by_cluster: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for application in applications.items {
        by_cluster
            .entry(application.spec.cluster_ref.name.clone())
            .or_default()
            .push(application);
    }
    Ok(by_cluster)
}

/// The pods of a cluster's tiers.
pub(super) async fn pods(desk: &Desk, cluster: &str) -> Result<Vec<PodState>, InspectError> {
    let selector = ListParams::default().labels(&format!("{CLUSTER_LABEL}={cluster}"));
    let pods = desk
        .api::<Pod>()
        .list(&selector)
        .await
        .map_err(InspectError::kubernetes("for pods"))?;
    let mut states: Vec<_> = pods.items.iter().filter_map(PodState::of).collect();
    states.sort_by(|a, b| (a.component, &a.name).cmp(&(b.component, &b.name)));
    Ok(states)
}

impl PodState {
    fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let containers = status
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default();
        let condition = |kind: &str| {
            status
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default()
                .iter()
                .find(|condition| condition.type_ == kind)
        };
        let ready = condition("Ready").is_some_and(|condition| condition.status == "True");
        let unscheduled = condition("PodScheduled")
            .filter(|condition| condition.status != "True")
            .and_then(|condition| condition.message.clone());
        Some(Self {
            component: component_of(pod)?,
            name: pod.name_any(),
            node: spec
                .and_then(|spec| spec.node_name.clone())
                .unwrap_or_default(),
            ready,
            draining: pod.metadata.deletion_timestamp.is_some(),
            restarts: containers
                .iter()
                .map(|container| container.restart_count)
                .sum(),
            revision: pod.labels().get(REVISION_LABEL).cloned(),
            trouble: unscheduled.or_else(|| containers.iter().find_map(trouble)),
        })
    }
}

/// Why a container does not run, or why it last ended.
fn trouble(container: &ContainerStatus) -> Option<String> {
    let waiting = container
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref())
        .and_then(|waiting| {
            let reason = waiting.reason.clone()?;
            Some(match &waiting.message {
                Some(message) => format!("{reason}: {message}"),
                None => reason,
            })
        });
    let ended = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref())
        .filter(|ended| ended.exit_code != 0)
        .map(|ended| {
            let reason = ended.reason.as_deref().unwrap_or("Error");
            format!("last ended with code {} ({reason})", ended.exit_code)
        });
    match (waiting, ended) {
        (Some(waiting), Some(ended)) => Some(format!("{waiting}; {ended}")),
        (waiting, ended) => waiting.or(ended),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> PodState {
        let pod = serde_json::from_value(json!({
            "metadata": {
                "name": "a-edge-1",
                "labels": { "app.kubernetes.io/component": "edge", REVISION_LABEL: "abc" },
            },
            "spec": { "nodeName": "node1", "containers": [] },
            "status": status,
        }))
        .unwrap();
        PodState::of(&pod).unwrap()
    }

    #[test]
    fn a_pod_that_cannot_start_says_why() {
        let state = pod(&json!({ "containerStatuses": [{
            "name": "edge", "image": "", "imageID": "", "ready": false, "restartCount": 3,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 64, "reason": "Error" } },
        }] }));
        assert!(!state.ready);
        assert_eq!(state.restarts, 3);
        assert_eq!(
            state.trouble.as_deref(),
            Some("CrashLoopBackOff; last ended with code 64 (Error)")
        );
    }

    #[test]
    fn a_pod_without_a_node_says_why() {
        let state = pod(&json!({ "conditions": [{
            "type": "PodScheduled", "status": "False", "message": "0/2 nodes are available",
        }] }));
        assert_eq!(state.trouble.as_deref(), Some("0/2 nodes are available"));
    }

    #[test]
    fn a_ready_pod_has_no_trouble() {
        let state = pod(&json!({ "conditions": [{ "type": "Ready", "status": "True" }] }));
        assert!(state.ready && !state.draining);
        assert_eq!(state.trouble, None);
        assert_eq!(state.revision.as_deref(), Some("abc"));
    }
}
