//! Name, labels and owner of every object: made here and nowhere else.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::{
    api::{CLUSTER_LABEL, FIELD_MANAGER},
    names::Component,
    validate::ValidatedCluster,
};

/// Labels of Kubernetes' own catalogue.
const NAME_LABEL: &str = "app.kubernetes.io/name";
const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
const VERSION_LABEL: &str = "app.kubernetes.io/version";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";

/// Value of the label `app.kubernetes.io/name` on the pods of a cluster.
const NAME: &str = "headwater";
/// The same on the operator's own pods, of whatever namespace.
const OPERATOR_NAME: &str = "headwater-operator";

/// Metadata of an object; `None` is for one of no tier in particular.
pub fn object_meta(
    cluster: &ValidatedCluster,
    component: Option<Component>,
    name: String,
) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels(cluster, component)),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// On every object and pod.
pub fn labels(
    cluster: &ValidatedCluster,
    component: Option<Component>,
) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        (NAME_LABEL, NAME),
        (INSTANCE_LABEL, cluster.names.cluster()),
        (VERSION_LABEL, &cluster.version),
        (MANAGED_BY_LABEL, FIELD_MANAGER),
        (PART_OF_LABEL, NAME),
        (CLUSTER_LABEL, cluster.names.cluster()),
    ]);
    if let Some(component) = component {
        labels.insert(COMPONENT_LABEL, component.as_str());
    }
    own(labels)
}

/// What the pods of a tier have and no other pod has. Part of objects that cannot be changed: never add to it.
pub fn selector(cluster: &ValidatedCluster, component: Component) -> BTreeMap<String, String> {
    own(BTreeMap::from([
        (NAME_LABEL, NAME),
        (INSTANCE_LABEL, cluster.names.cluster()),
        (COMPONENT_LABEL, component.as_str()),
    ]))
}

/// The pods of a tier.
pub(super) fn pods_of(cluster: &ValidatedCluster, component: Component) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector(cluster, component)),
        ..LabelSelector::default()
    }
}

/// The operator's pods.
pub(super) fn operator_pods() -> LabelSelector {
    LabelSelector {
        match_labels: Some(own(BTreeMap::from([(NAME_LABEL, OPERATOR_NAME)]))),
        ..LabelSelector::default()
    }
}

fn own(pairs: BTreeMap<&str, &str>) -> BTreeMap<String, String> {
    let pairs = pairs.into_iter();
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
