//! The controls.

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{
    edge::PROGRESS_SECONDS,
    metadata::{object_meta, pods_of},
    pod::pod_template,
};
use crate::{
    names::Component,
    validate::{ValidatedCluster, ValidatedDatabase},
};

pub(super) fn deployment(cluster: &ValidatedCluster, boot: &str) -> Deployment {
    let strategy = match cluster.database {
        ValidatedDatabase::Postgres { .. } => DeploymentStrategy {
            type_: Some("RollingUpdate".to_owned()),
            rolling_update: Some(RollingUpdateDeployment {
                max_unavailable: Some(IntOrString::Int(0)),
                max_surge: Some(IntOrString::Int(1)),
            }),
        },
        // Two processes must never have its file open.
        ValidatedDatabase::Sqlite(_) => DeploymentStrategy {
            type_: Some("Recreate".to_owned()),
            rolling_update: None,
        },
    };
    Deployment {
        metadata: object_meta(
            cluster,
            Some(Component::Control),
            cluster.names.tier(Component::Control),
        ),
        spec: Some(DeploymentSpec {
            replicas: Some(cluster.spec.control.replicas),
            selector: pods_of(cluster, Component::Control),
            strategy: Some(strategy),
            template: pod_template(cluster, Component::Control, boot),
            progress_deadline_seconds: Some(PROGRESS_SECONDS),
            revision_history_limit: Some(1),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}
