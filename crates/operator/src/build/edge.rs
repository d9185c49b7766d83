//! The edges of the present revision.
//!
//! Sessions live for hours, so edges are never replaced in place: whatever shapes their pods makes a new revision, with a
//! Deployment of its own beside the old one's.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{
    Observed, hash,
    metadata::{object_meta, selector},
    pod::pod_template,
};
use crate::{api::REVISION_LABEL, names::Component, validate::ValidatedCluster};

/// Where nothing else says how many.
const REPLICAS: i32 = 3;
/// An edge that fails soon after it is ready does not count as available.
const READY_SECONDS: i32 = 10;
/// Until a Deployment says that it makes no progress.
pub(super) const PROGRESS_SECONDS: i32 = 600;

pub(super) fn deployment(
    cluster: &ValidatedCluster,
    observed: &Observed,
    boot: &str,
) -> Deployment {
    let mut template = pod_template(cluster, Component::Edge, boot);
    let revision = revision(&template);
    let name = cluster.names.edge_deployment(&revision);
    let mut metadata = object_meta(cluster, Some(Component::Edge), name);
    let mut pods = selector(cluster, Component::Edge);
    let labels = [
        metadata.labels.get_or_insert_default(),
        template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default(),
        &mut pods,
    ];
    for labels in labels {
        labels.insert(REVISION_LABEL.to_owned(), revision.clone());
    }
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: Some(replicas(cluster, observed)),
            selector: LabelSelector {
                match_labels: Some(pods),
                ..LabelSelector::default()
            },
            // For pods that die: a change of the template is another revision.
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::String("25%".to_owned())),
                }),
            }),
            min_ready_seconds: Some(READY_SECONDS),
            progress_deadline_seconds: Some(PROGRESS_SECONDS),
            revision_history_limit: Some(1),
            template,
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// The specification's number; with an autoscaler and none in the specification, as many as there are.
pub(super) fn replicas(cluster: &ValidatedCluster, observed: &Observed) -> i32 {
    let edge = &cluster.spec.edge;
    match (edge.replicas, &edge.autoscaling) {
        (Some(replicas), _) => replicas,
        (None, None) => REPLICAS,
        (None, Some(autoscaling)) => observed
            .edge_replicas
            .unwrap_or(REPLICAS)
            .max(autoscaling.min_replicas)
            .min(autoscaling.max_replicas),
    }
}

/// Of a pod template without its revision.
#[expect(
    clippy::expect_used,
    reason = "fails only for a map whose keys are no text, of which a pod template has none"
)]
fn revision(template: &PodTemplateSpec) -> String {
    let bytes = serde_json::to_vec(template).expect("a pod template is JSON");
    hash::revision(&bytes)
}
