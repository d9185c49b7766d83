//! PodMonitors of the Prometheus operator, one per tier.

use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use super::{
    Observed,
    metadata::{object_meta, selector},
    ports::Port,
};
use crate::{api::WhenServed, names::Component, validate::ValidatedCluster};

pub(super) fn pod_monitors(cluster: &ValidatedCluster, observed: &Observed) -> Vec<DynamicObject> {
    let observability = &cluster.spec.observability;
    match observability.pod_monitors {
        WhenServed::Auto if observed.pod_monitors => {}
        WhenServed::Auto | WhenServed::Disabled => return Vec::new(),
    }
    let kind = GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor");
    let resource = ApiResource::from_gvk(&kind);
    Component::ALL
        .map(|component| {
            let name = cluster.names.tier(component);
            let mut object = DynamicObject::new(&name, &resource).data(json!({
                "spec": {
                    "selector": {"matchLabels": selector(cluster, component)},
                    "podMetricsEndpoints": [{
                        "port": Port::Admin.name(),
                        "path": "/metrics",
                        "relabelings": relabelings(),
                    }],
                },
            }));
            object.metadata = object_meta(cluster, Some(component), name);
            let labels = object.metadata.labels.get_or_insert_default();
            for (key, value) in &observability.pod_monitor_labels {
                // Ours win: objects are found by them.
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
            object
        })
        .into()
}

/// The labels that alerts and dashboards group by. Not `cluster`: most fleets call a whole Kubernetes cluster that.
fn relabelings() -> Value {
    let from_pod = |label: &str, target: &str| {
        json!({
            "sourceLabels": [format!("__meta_kubernetes_pod_label_{label}")],
            "targetLabel": target,
        })
    };
    json!([
        from_pod("headwater_dev_cluster", "ingest_cluster"),
        from_pod("app_kubernetes_io_component", "role"),
        from_pod("headwater_dev_revision", "revision"),
    ])
}
