//! The origins: a StatefulSet, since an origin's name has to outlive its pod.

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy,
};

use super::{
    metadata::{object_meta, pods_of},
    pod::pod_template,
};
use crate::{names::Component, validate::ValidatedCluster};

/// Edges move their sessions onto an origin that is ready: let it settle before the next one goes.
const READY_SECONDS: i32 = 10;

pub(super) fn stateful_set(cluster: &ValidatedCluster, boot: &str) -> StatefulSet {
    let name = cluster.names.tier(Component::Origin);
    StatefulSet {
        metadata: object_meta(cluster, Some(Component::Origin), name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(cluster.spec.origin.replicas),
            selector: pods_of(cluster, Component::Origin),
            service_name: Some(name),
            template: pod_template(cluster, Component::Origin, boot),
            // No origin waits for another, neither at the start nor where one of them is broken.
            pod_management_policy: Some("Parallel".to_owned()),
            // One at a time, whatever the policy above.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateStatefulSetStrategy {
                    partition: Some(0),
                    ..RollingUpdateStatefulSetStrategy::default()
                }),
            }),
            min_ready_seconds: Some(READY_SECONDS),
            revision_history_limit: Some(1),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}
