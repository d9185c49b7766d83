//! Numbers of pods.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};

use super::Workloads;
use crate::api::{EdgeStatus, IngestCluster, TierStatus};

/// Edges of every revision; those of the present one count as updated.
pub(super) fn edge(workloads: &Workloads, cluster: &IngestCluster) -> EdgeStatus {
    let mut status = EdgeStatus {
        selector: workloads.selector.clone(),
        revision: workloads.revision.clone(),
        ..EdgeStatus::default()
    };
    for deployment in &workloads.edges {
        let counts = counts(deployment);
        status.replicas += counts.replicas;
        status.ready_replicas += counts.ready_replicas;
        if deployment.metadata.name.as_ref() == Some(&workloads.edge) {
            status.updated_replicas = counts.updated_replicas;
        }
    }
    let wanted = wanted_edges(workloads, cluster);
    status.summary = format!("{}/{wanted}", status.ready_replicas);
    if workloads.draining > 0 {
        status.summary += &format!(" +{} draining", workloads.draining);
    }
    status
}

/// Of the present revision's Deployment; where nothing was built, of the specification.
pub(super) fn wanted_edges(workloads: &Workloads, cluster: &IngestCluster) -> i32 {
    let mut edges = workloads.edges.iter();
    let current = edges.find(|edge| edge.metadata.name.as_ref() == Some(&workloads.edge));
    let current = current.and_then(|deployment| deployment.spec.as_ref()?.replicas);
    current.or(cluster.spec.edge.replicas).unwrap_or_default()
}

pub(super) fn origin(set: Option<&StatefulSet>, cluster: &IngestCluster) -> TierStatus {
    let status = set.and_then(|set| set.status.as_ref());
    let counts = TierStatus {
        replicas: status.map_or(0, |status| status.replicas),
        ready_replicas: status.and_then(|status| status.ready_replicas).unwrap_or_default(),
        updated_replicas: status.and_then(|status| status.updated_replicas).unwrap_or_default(),
        summary: String::new(),
    };
    summed(counts, cluster.spec.origin.replicas)
}

pub(super) fn control(deployment: Option<&Deployment>, cluster: &IngestCluster) -> TierStatus {
    let counts = deployment.map(counts).unwrap_or_default();
    summed(counts, cluster.spec.control.replicas)
}

fn counts(deployment: &Deployment) -> TierStatus {
    let status = deployment.status.clone().unwrap_or_default();
    TierStatus {
        replicas: status.replicas.unwrap_or_default(),
        ready_replicas: status.ready_replicas.unwrap_or_default(),
        updated_replicas: status.updated_replicas.unwrap_or_default(),
        summary: String::new(),
    }
}

fn summed(mut counts: TierStatus, wanted: i32) -> TierStatus {
    counts.summary = format!("{}/{wanted}", counts.ready_replicas);
    counts
}
