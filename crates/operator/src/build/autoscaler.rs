//! The HorizontalPodAutoscaler of the edges. It sets the number of edges of the IngestCluster, not of a Deployment, of
//! which there is one per revision.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
    ResourceMetricSource,
};

use super::metadata::object_meta;
use crate::{
    api::{Autoscaling, GROUP, VERSION},
    names::Component,
    validate::ValidatedCluster,
};

/// Of the edges, the share that may begin to drain within [`SCALE_DOWN_PERIOD_SECONDS`]; or one, if that is more.
const SCALE_DOWN_PERCENT: i32 = 10;
const SCALE_DOWN_PERIOD_SECONDS: i32 = 60;

pub(super) fn autoscaler(cluster: &ValidatedCluster) -> Option<HorizontalPodAutoscaler> {
    let autoscaling = cluster.spec.edge.autoscaling.as_ref()?;
    Some(HorizontalPodAutoscaler {
        metadata: object_meta(
            cluster,
            Some(Component::Edge),
            cluster.names.tier(Component::Edge),
        ),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some(format!("{GROUP}/{VERSION}")),
                kind: "IngestCluster".to_owned(),
                name: cluster.names.cluster().to_owned(),
            },
            min_replicas: Some(autoscaling.min_replicas),
            max_replicas: autoscaling.max_replicas,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".to_owned(),
                resource: Some(ResourceMetricSource {
                    name: "cpu".to_owned(),
                    target: MetricTarget {
                        type_: "Utilization".to_owned(),
                        average_utilization: Some(autoscaling.target_cpu_percent),
                        ..MetricTarget::default()
                    },
                }),
                ..MetricSpec::default()
            }]),
            behavior: Some(HorizontalPodAutoscalerBehavior {
                scale_down: Some(scale_down(autoscaling)),
                // Up, Kubernetes' own default is right: at once, at most twice as many every 15 s.
                scale_up: None,
            }),
        }),
        ..HorizontalPodAutoscaler::default()
    })
}

fn scale_down(autoscaling: &Autoscaling) -> HPAScalingRules {
    let policy = |policy_type: &str, value| HPAScalingPolicy {
        type_: policy_type.to_owned(),
        value,
        period_seconds: SCALE_DOWN_PERIOD_SECONDS,
    };
    HPAScalingRules {
        stabilization_window_seconds: Some(autoscaling.scale_down_window_seconds),
        policies: Some(vec![
            policy("Percent", SCALE_DOWN_PERCENT),
            policy("Pods", 1),
        ]),
        select_policy: Some("Max".to_owned()),
        ..HPAScalingRules::default()
    }
}
