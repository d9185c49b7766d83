//! `IngestCluster`: one deployment of edges, origins and control.
//!
//! No field and no enum value is here before it works.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ClusterStatus, Control, Edge, InternalTls, Logging, NetworkPolicies, Observability,
    PodTemplate, PublicTls, Redis,
};

/// One RTMPS ingest cluster: edges, origins and control.
#[derive(CustomResource, Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[kube(
    group = "headwater.dev",
    version = "v1alpha1",
    kind = "IngestCluster",
    namespaced,
    doc = "An RTMPS ingest cluster: edges that encoders publish to, origins that hold the streams, control that knows the keys",
    shortname = "igc",
    category = "ingest",
    status = "ClusterStatus",
    derive = "PartialEq",
    selectable = ".spec.version",
    annotation("headwater.dev/crd-revision", "7"),
    scale(
        spec_replicas_path = ".spec.edge.replicas",
        status_replicas_path = ".status.edge.replicas",
        label_selector_path = ".status.edge.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Edges", type_ = "string", json_path = ".status.edge.summary"),
    printcolumn(name = "Origins", type_ = "string", json_path = ".status.origin.summary"),
    printcolumn(name = "Sessions", type_ = "integer", json_path = ".status.sessions.publishing"),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40")
        .message("metadata.name: at most 40 characters, since the names of its objects are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: lower-case letters, digits and -, the first a letter, since Services are named by it")
)]
#[serde(rename_all = "camelCase")]
pub struct IngestClusterSpec {
    /// Headwater's version, by default the operator's own. One that the operator does not know is refused with the
    /// condition VersionSupported=False; what runs goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 64),
        regex(pattern = r"^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$")
    )]
    pub version: Option<String>,
    /// Leaves every object of the cluster as it is; the status goes on.
    #[serde(default)]
    pub paused: bool,
    /// In place of the operator's default image.
    #[serde(default)]
    pub image: Image,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Takes publishers in.
    #[serde(default)]
    pub edge: Edge,
    /// Holds the streams.
    #[serde(default)]
    pub origin: Origin,
    /// Issues stream keys and decides who may publish.
    pub control: Control,
    /// Where session ownership is kept.
    pub redis: Redis,
    /// The certificate that encoders see.
    pub tls: PublicTls,
    /// The certificates by which the roles know each other; by default from a CA of the operator's. Never off.
    #[serde(default)]
    pub internal_tls: InternalTls,
    /// Who may reach the pods.
    #[serde(default)]
    pub network_policy: NetworkPolicies,
    /// Metrics, alerts, traces.
    #[serde(default)]
    pub observability: Observability,
    /// What the processes log.
    #[serde(default)]
    pub logging: Logging,
    /// What stays when the cluster is deleted: `Retain` keeps the Secrets that the operator made and the volume of SQLite
    /// (stream keys are void without them), `DeleteAll` deletes them too.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// A container image. A digest wins over a tag.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// With its registry, without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub repository: Option<String>,
    /// By default the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    pub tag: Option<String>,
    /// `sha256:…`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// As Kubernetes has it.
    #[serde(default)]
    pub pull_policy: PullPolicy,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PullPolicy {
    /// At each start of a container.
    Always,
    /// Where it is not there.
    #[default]
    IfNotPresent,
    /// It must be there.
    Never,
}

/// The tier that holds the streams.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Two or more let the death of one pass unnoticed.
    #[serde(default = "Origin::replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// For sessions to move to other origins, which they do at once, and for subscribers to leave, in seconds; the origin
    /// ends sooner where nobody is left.
    #[serde(default = "Origin::drain_timeout_seconds")]
    #[schemars(range(min = 0, max = 604_800))]
    pub drain_timeout_seconds: i64,
    /// Playback over RTMP, on port 1936 of the origins' Service.
    #[serde(default)]
    pub rtmp: RtmpPull,
    /// Changes to the pods.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// Playback over RTMP.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RtmpPull {
    /// Whether it is served.
    #[serde(default = "RtmpPull::enabled")]
    pub enabled: bool,
    /// `rtmps://` alone, with the certificate of playback over gRPC; otherwise `rtmp://`, as HTTP-FLV is `http://`.
    #[serde(default)]
    pub tls: bool,
}

impl RtmpPull {
    fn enabled() -> bool {
        true
    }
}

impl Default for RtmpPull {
    fn default() -> Self {
        Self {
            enabled: Self::enabled(),
            tls: false,
        }
    }
}

impl Origin {
    fn replicas() -> i32 {
        3
    }

    fn drain_timeout_seconds() -> i64 {
        30
    }
}

impl Default for Origin {
    fn default() -> Self {
        Self {
            replicas: Self::replicas(),
            drain_timeout_seconds: Self::drain_timeout_seconds(),
            rtmp: RtmpPull::default(),
            pod_template: PodTemplate::default(),
        }
    }
}

/// What stays when a cluster is deleted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum DeletionPolicy {
    /// Secrets and volumes go too.
    DeleteAll,
    /// Secrets and volumes stay.
    #[default]
    Retain,
}

/// A key of a Secret of this namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyReference {
    /// The Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its key.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}
