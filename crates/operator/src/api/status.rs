//! What the operator says of a cluster. Aggregates alone: sessions, publishers and keys are not Kubernetes's.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Status of an IngestCluster.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Of the spec that this status speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// That is being run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub version: Option<String>,
    /// The edges.
    #[serde(default)]
    pub edge: EdgeStatus,
    /// The origins.
    #[serde(default)]
    pub origin: TierStatus,
    /// Control.
    #[serde(default)]
    pub control: TierStatus,
    /// Written when it changed by more than a tenth and not more often than every 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    pub sessions: Option<SessionsStatus>,
    /// Where the cluster can be reached.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Until when certificates are valid.
    #[serde(default)]
    pub certificates: Certificates,
    /// What reaches the processes without a restart.
    #[serde(default)]
    pub live_configuration: LiveConfiguration,
    /// `Ready`, `Reconciling`, `Stalled` (as kstatus reads them) and one per part.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// A tier's pods.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TierStatus {
    /// That exist, terminating ones left out.
    pub replicas: i32,
    /// Of these, ready.
    pub ready_replicas: i32,
    /// Of these, with the present pod template.
    pub updated_replicas: i32,
    /// `ready/wanted`.
    pub summary: String,
}

/// The edges' pods.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EdgeStatus {
    /// That exist, terminating ones left out.
    pub replicas: i32,
    /// Of these, ready.
    pub ready_replicas: i32,
    /// Of these, with the present pod template.
    pub updated_replicas: i32,
    /// `ready/wanted`, and how many others are draining.
    pub summary: String,
    /// The edges' label selector, for autoscalers.
    pub selector: String,
    /// Of the present pod template.
    pub revision: String,
}

/// Live publishing sessions.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionsStatus {
    /// How many.
    pub publishing: i32,
}

/// An address.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `Publish` (RTMPS) or `Api` (gRPC).
    #[serde(rename = "type")]
    pub endpoint_type: String,
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: i32,
}

/// Certificates of a cluster.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Certificates {
    /// What encoders see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public: Option<CertificateStatus>,
    /// The one that ends first of those by which the roles know each other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub internal: Option<CertificateStatus>,
}

/// A certificate.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// Its end.
    pub not_after: Timestamp,
}

/// The live configuration.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiveConfiguration {
    /// SHA-256 of the wanted one, hexadecimal.
    pub hash: String,
    /// Whether every control that is ready has loaded it.
    pub loaded: bool,
}

/// As `metav1.Condition`, with a closed set of types and reasons.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub condition_type: ConditionType,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, for programs.
    pub reason: Reason,
    /// Why, for people.
    #[serde(default)]
    pub message: String,
    /// When `status` changed.
    pub last_transition_time: Timestamp,
    /// Of the spec that it speaks of.
    #[serde(default)]
    pub observed_generation: i64,
}

/// What a condition is about. `Reconciling` and `Stalled` are there only while they are true.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
pub enum ConditionType {
    /// Of an application: every control has loaded it.
    Accepted,
    /// The HorizontalPodAutoscaler can act.
    AutoscalingActive,
    /// Certificates are there and not about to end.
    CertificatesReady,
    /// The specification makes sense, and what it refers to is there.
    ConfigAccepted,
    /// Enough controls are ready.
    ControlAvailable,
    /// Enough edges are ready.
    EdgeAvailable,
    /// Enough origins are ready.
    OriginAvailable,
    /// Encoders can publish. Does not wait for draining pods.
    Ready,
    /// Something is being changed (kstatus).
    Reconciling,
    /// Pods are being replaced, or are draining.
    RolloutProgressing,
    /// Nothing more will happen until somebody changes something (kstatus).
    Stalled,
    /// The operator knows the version.
    VersionSupported,
}

/// Why a condition is as it is. Names are stable.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
pub enum Reason {
    /// Every tier is available.
    AllTiersAvailable,
    /// Every replica is ready.
    AllReplicasReady,
    /// The application is loaded.
    Loaded,
    /// Not every control has loaded it yet.
    AwaitingControl,
    /// A certificate ends soon and was not renewed.
    CertificateExpiringSoon,
    /// A certificate is not there yet.
    CertificatePending,
    /// One of `tls.additionalSecrets` cannot be used; the others are.
    CertificateUnusable,
    /// Certificates are valid.
    CertificatesValid,
    /// The IngestCluster does not exist.
    ClusterMissing,
    /// An older IngestApplication has this app.
    Conflict,
    /// No control is ready.
    ControlUnavailable,
    /// Fewer edges are ready than needed.
    EdgeBelowMinimum,
    /// The specification contradicts itself.
    InvalidConfig,
    /// cert-manager is not there, or its issuer.
    IssuerMissing,
    /// The autoscaler sees no metrics.
    MetricsUnavailable,
    /// No origin is ready.
    OriginUnavailable,
    /// `spec.paused`.
    Paused,
    /// A call to Kubernetes failed.
    ReconcileFailed,
    /// Pods are being replaced.
    RolloutInProgress,
    /// Every pod has the present template.
    RolloutComplete,
    /// The autoscaler is at its limit.
    ScalingLimited,
    /// The autoscaler acts.
    ScalingActive,
    /// A Secret that the operator made holds something else, and must not be made anew.
    SecretDamaged,
    /// A Secret, or a key of it, is not there.
    SecretMissing,
    /// The operator makes the certificate by itself: for trying things out.
    SelfSigned,
    /// The operator does not know the version.
    UnsupportedVersion,
    /// All is as it should be.
    Valid,
}
