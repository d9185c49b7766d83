//! `IngestApplication`: one application name that encoders may publish to, on one cluster.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// One RTMP application (`rtmps://host/<app>`) of a cluster.
#[derive(CustomResource, Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "IngestApplication",
    namespaced,
    doc = "An application that encoders may publish to (rtmps://host/<app>) on an IngestCluster",
    shortname = "iapp",
    category = "ingest",
    status = "ApplicationStatus",
    derive = "PartialEq",
    selectable = ".spec.clusterRef.name",
    annotation("headwater.dev/crd-revision", "2"),
    printcolumn(
        name = "Cluster",
        type_ = "string",
        json_path = ".spec.clusterRef.name"
    ),
    printcolumn(name = "App", type_ = "string", json_path = ".spec.app"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].reason"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct IngestApplicationSpec {
    /// The IngestCluster, in this namespace.
    #[x_kube(validation = Rule::new("self == oldSelf").message("clusterRef is immutable: delete the application and create it anew"))]
    pub cluster_ref: ClusterReference,
    /// As in the RTMPS URL's path. Unique per cluster: the oldest IngestApplication has it, later ones are in conflict.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("app is immutable: delete the application and create it anew"))]
    pub app: String,
}

/// An IngestCluster of the same namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterReference {
    /// Its name.
    #[schemars(length(min = 1, max = 40))]
    pub name: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationStatus {
    /// Of the spec that the conditions speak of.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Accepted` (every control has loaded it), `Ready` (the same, for tools that look for it).
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
