//! `IngestCluster`: one deployment of edges, origins and control.
//!
//! No field and no enum value is here before it works.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::LocalObjectReference,
        networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer},
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClusterStatus, PodTemplate};

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
    annotation("headwater.dev/crd-revision", "1"),
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

/// The tier that encoders connect to.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    /// By default 3; with `autoscaling` it is the autoscaler's, and should be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// A HorizontalPodAutoscaler on CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// What happens to live sessions when an edge has to go.
    #[serde(default)]
    pub drain: Drain,
    /// The Service that encoders reach.
    #[serde(default)]
    pub service: EdgeService,
    /// Against floods. Changes restart nothing.
    #[serde(default)]
    pub limits: EdgeLimits,
    /// Changes to the pods.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// A HorizontalPodAutoscaler, which sets the cluster's scale subresource.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas")
    .message("edge.autoscaling.minReplicas is above maxReplicas"))]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// Not fewer.
    #[serde(default = "Autoscaling::min_replicas")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// Not more.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Average over the edges, in percent of what they request: where `podTemplate.resources` is given, it must request
    /// CPU. Needs a metrics server.
    #[serde(default = "Autoscaling::target_cpu_percent")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_percent: i32,
    /// How long fewer edges must be enough before one goes: sessions live for hours, and an edge that goes ends them at
    /// the end of its drain.
    #[serde(default = "Autoscaling::scale_down_window_seconds")]
    #[schemars(range(min = 0, max = 3600))]
    pub scale_down_window_seconds: i32,
}

impl Autoscaling {
    fn min_replicas() -> i32 {
        2
    }

    fn target_cpu_percent() -> i32 {
        60
    }

    fn scale_down_window_seconds() -> i32 {
        600
    }
}

/// How a pod ends: SIGTERM; not ready but still accepting for the notice; then live sessions go on until they end by
/// themselves or the timeout passes.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("self.noticeSeconds <= self.timeoutSeconds")
    .message("drain.noticeSeconds is above timeoutSeconds"))]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// For the sessions of an edge to end by themselves, in seconds; the rest is told to reconnect.
    #[serde(default = "Drain::timeout_seconds")]
    #[schemars(range(min = 0, max = 604_800))]
    pub timeout_seconds: i64,
    /// For load balancers to learn that the pod is going, in seconds.
    #[serde(default = "Drain::notice_seconds")]
    #[schemars(range(min = 0, max = 600))]
    pub notice_seconds: i64,
}

impl Drain {
    fn timeout_seconds() -> i64 {
        14_400
    }

    fn notice_seconds() -> i64 {
        15
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            timeout_seconds: Self::timeout_seconds(),
            notice_seconds: Self::notice_seconds(),
        }
    }
}

/// The Service in front of the edges.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("!self.proxyProtocol || self.trustedCidrs.size() > 0")
    .message("edge.service.proxyProtocol needs trustedCidrs: anybody could claim any address"))]
#[x_kube(validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'")
    .message("edge.service.nodePort needs type NodePort or LoadBalancer"))]
#[x_kube(validation = Rule::new("self.type == 'LoadBalancer' || (!has(self.loadBalancerClass) && !has(self.loadBalancerSourceRanges))")
    .message("edge.service.loadBalancerClass and loadBalancerSourceRanges need type LoadBalancer"))]
#[serde(rename_all = "camelCase")]
pub struct EdgeService {
    /// How encoders reach it.
    #[serde(default, rename = "type")]
    pub service_type: ServiceType,
    /// RTMPS port of the Service; the pods listen on 8443.
    #[serde(default = "EdgeService::port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// On every node, with type NodePort or LoadBalancer; by default one that Kubernetes chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// `Local` keeps the encoder's address, and takes nodes without an edge out of the load balancer.
    #[serde(default)]
    pub external_traffic_policy: TrafficPolicy,
    /// Of a load balancer implementation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub load_balancer_class: Option<String>,
    /// Who may connect at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), inner(length(max = 64)))]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range))").message("edge.service.loadBalancerSourceRanges: not a CIDR"))]
    pub load_balancer_source_ranges: Option<Vec<String>>,
    /// For the cloud's load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The load balancer sends the PROXY protocol (v1 or v2), and connections without it are refused.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// The load balancer's networks: whose PROXY headers are believed.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 64)))]
    #[x_kube(validation = Rule::new("self.all(range, isCIDR(range))").message("edge.service.trustedCidrs: not a CIDR"))]
    pub trusted_cidrs: Vec<String>,
}

impl EdgeService {
    fn port() -> i32 {
        443
    }
}

impl Default for EdgeService {
    fn default() -> Self {
        Self {
            service_type: ServiceType::default(),
            port: Self::port(),
            node_port: None,
            external_traffic_policy: TrafficPolicy::default(),
            load_balancer_class: None,
            load_balancer_source_ranges: None,
            annotations: BTreeMap::new(),
            proxy_protocol: false,
            trusted_cidrs: Vec::new(),
        }
    }
}

/// As Kubernetes has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster alone.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// Behind the cloud's load balancer.
    #[default]
    LoadBalancer,
    /// On a port of every node.
    NodePort,
}

/// As Kubernetes has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TrafficPolicy {
    /// Any node forwards to any pod; the encoder's address is lost.
    Cluster,
    /// A node forwards to its own pods.
    #[default]
    Local,
}

/// Limits of one edge.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeLimits {
    /// Connections of one edge at a time.
    #[serde(default = "EdgeLimits::max_connections")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: i32,
    /// Of these, from one address.
    #[serde(default = "EdgeLimits::max_connections_per_ip")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per_ip: i32,
}

impl EdgeLimits {
    fn max_connections() -> i32 {
        10_000
    }

    fn max_connections_per_ip() -> i32 {
        256
    }
}

impl Default for EdgeLimits {
    fn default() -> Self {
        Self {
            max_connections: Self::max_connections(),
            max_connections_per_ip: Self::max_connections_per_ip(),
        }
    }
}

/// The tier that holds the streams.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// Two or more let the death of one pass unnoticed.
    #[serde(default = "Origin::replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
    /// For subscribers of a stream to leave before its origin ends, in seconds; edges move their sessions at the end.
    #[serde(default = "Origin::drain_timeout_seconds")]
    #[schemars(range(min = 0, max = 604_800))]
    pub drain_timeout_seconds: i64,
    /// Changes to the pods.
    #[serde(default)]
    pub pod_template: PodTemplate,
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
            pod_template: PodTemplate::default(),
        }
    }
}

/// The tier that issues stream keys.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("!has(self.database.sqlite) || self.replicas <= 1")
    .message("control.replicas: SQLite is one process's; use database.postgres for more than one"))]
#[serde(rename_all = "camelCase")]
pub struct Control {
    /// Edges and API clients go on with one of them lost. 1 with SQLite.
    #[serde(default = "Control::replicas")]
    #[schemars(range(min = 0, max = 50))]
    pub replicas: i32,
    /// Where stream keys are.
    pub database: Database,
    /// The Service of the gRPC API.
    #[serde(default)]
    pub service: PublicService,
    /// Issues the certificates of the gRPC API and of playback; by default the operator's CA. They hold names of
    /// Services: an issuer with a CA of its own, no public one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<IssuerReference>,
    /// Changes to the pods.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

impl Control {
    fn replicas() -> i32 {
        2
    }
}

/// One of the two.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("[has(self.sqlite), has(self.postgres)].exists_one(x, x)")
    .message("control.database: exactly one of sqlite and postgres"))]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// For one control process: a file on a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<Sqlite>,
    /// For production.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<Postgres>,
}

/// SQLite on a PersistentVolumeClaim.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
    .message("control.database.sqlite.storageClassName is immutable"))]
#[serde(rename_all = "camelCase")]
pub struct Sqlite {
    /// Of the volume; may only grow.
    #[serde(default = "Sqlite::size")]
    #[x_kube(validation = Rule::new("quantity(string(self)).compareTo(quantity(string(oldSelf))) >= 0")
        .message("control.database.sqlite.size may only grow"))]
    pub size: Quantity,
    /// By default the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
}

impl Sqlite {
    fn size() -> Quantity {
        Quantity("1Gi".to_owned())
    }
}

/// A PostgreSQL server.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Postgres {
    /// `postgres://user@host:port/database`, with `sslmode` as libpq takes it; no password. With `caSecretRef`, `sslmode=verify-full`
    /// and the CA's file are added.
    #[schemars(length(min = 12, max = 1024))]
    #[x_kube(validation = Rule::new("self.startsWith('postgres://') || self.startsWith('postgresql://')")
        .message("control.database.postgres.url begins with postgres://"))]
    pub url: String,
    /// The password.
    pub password_secret_ref: KeyReference,
    /// Certificates (PEM) that the server's is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<KeyReference>,
}

/// The Service of the gRPC API.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicService {
    /// How product backends reach it.
    #[serde(default = "PublicService::service_type", rename = "type")]
    pub service_type: ServiceType,
    /// For the cloud's load balancer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Further names that its certificate holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    pub dns_names: Vec<String>,
}

impl PublicService {
    fn service_type() -> ServiceType {
        ServiceType::ClusterIp
    }
}

impl Default for PublicService {
    fn default() -> Self {
        Self {
            service_type: Self::service_type(),
            annotations: BTreeMap::new(),
            dns_names: Vec::new(),
        }
    }
}

/// Redis or Valkey.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// One server, or one stable address of a managed one.
    pub standalone: RedisServer,
    /// Without it, no password is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RedisAuth>,
    /// Without it, the connection is not encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
    /// Before every key; by default `hw-<namespace>-<name>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = r"^[a-z0-9][a-z0-9-]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("redis.keyPrefix is immutable: live sessions are under it"))]
    pub key_prefix: Option<String>,
    /// What new publishes get while Redis is down.
    #[serde(default)]
    pub outage_policy: OutagePolicy,
}

/// An address.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisServer {
    /// Name or address; with TLS, the certificate's.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Its port.
    #[serde(default = "RedisServer::port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

impl RedisServer {
    fn port() -> i32 {
        6379
    }
}

/// One of the two.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("[has(self.perRole), has(self.shared)].exists_one(x, x)")
    .message("redis.auth: exactly one of perRole and shared"))]
#[serde(rename_all = "camelCase")]
pub struct RedisAuth {
    /// The users `edge`, `control` and `origin`, each with the rights that it needs (the chart's values and `deploy/redis/users.acl` show them).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_role: Option<PerRoleAuth>,
    /// One user for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedAuth>,
}

/// A user per role.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PerRoleAuth {
    /// A Secret with the keys `edge-password`, `control-password` and `origin-password`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// One user.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedAuth {
    /// By default Redis's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub username: Option<String>,
    /// Its password.
    pub password_secret_ref: KeyReference,
}

/// An encrypted connection to Redis.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {
    /// Certificates (PEM) that the server's is checked against; by default the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<KeyReference>,
}

/// What new publishes get while Redis is down. Live sessions go on either way.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum OutagePolicy {
    /// They are refused, with a reason that says to try again.
    FailClosed,
    /// They are taken; origins keep two publishers of a stream apart.
    #[default]
    KeepExisting,
}

/// One of the three.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("[has(self.secretName), has(self.issuerRef), has(self.selfSigned)].exists_one(x, x)")
    .message("tls: exactly one of secretName, issuerRef and selfSigned"))]
#[x_kube(validation = Rule::new("!has(self.issuerRef) || self.dnsNames.size() > 0")
    .message("tls.issuerRef needs dnsNames"))]
#[serde(rename_all = "camelCase")]
pub struct PublicTls {
    /// A Secret with `tls.crt` and `tls.key`, yours. Renewals are seen without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// cert-manager makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerReference>,
    /// The operator makes it: for trying things out. Encoders that check certificates refuse it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSigned>,
    /// Names in a certificate of `issuerRef` or `selfSigned`.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub dns_names: Vec<String>,
}

/// No settings.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct SelfSigned {}

/// An issuer of cert-manager.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// `Issuer`, `ClusterIssuer`, or an external issuer's kind.
    #[serde(default = "IssuerReference::kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Of an external issuer.
    #[serde(default = "IssuerReference::group")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

impl IssuerReference {
    fn kind() -> String {
        "Issuer".to_owned()
    }

    fn group() -> String {
        "cert-manager.io".to_owned()
    }
}

/// Mutual TLS between the roles.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InternalTls {
    /// An issuer of cert-manager with a CA of its own, which fills `ca.crt` and signs URI names. By default, a CA of the operator's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerReference>,
}

/// NetworkPolicies, one per tier: nothing but what the tier needs.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicies {
    /// Needs a network plugin that enforces them.
    #[serde(default = "NetworkPolicies::enabled")]
    pub enabled: bool,
    /// Who may call the gRPC API, beside pods of this namespace. `[{namespaceSelector: {}}]` is every pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub api_from: Vec<NetworkPolicyPeer>,
    /// Who may read streams from the origins, beside pods of this namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub playback_from: Vec<NetworkPolicyPeer>,
    /// Who may scrape metrics; by default anybody in the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub metrics_from: Vec<NetworkPolicyPeer>,
    /// Added for every tier, beside DNS, the other tiers, Redis, PostgreSQL and the trace collector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub extra_egress: Vec<NetworkPolicyEgressRule>,
}

impl NetworkPolicies {
    fn enabled() -> bool {
        true
    }
}

impl Default for NetworkPolicies {
    fn default() -> Self {
        Self {
            enabled: Self::enabled(),
            api_from: Vec::new(),
            playback_from: Vec::new(),
            metrics_from: Vec::new(),
            extra_egress: Vec::new(),
        }
    }
}

/// Metrics, alerts, traces.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Observability {
    /// PodMonitors of the Prometheus operator, one per tier.
    #[serde(default)]
    pub pod_monitors: WhenServed,
    /// Added to the PodMonitors, for Prometheus to select them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_monitor_labels: BTreeMap<String, String>,
    /// Traces are exported where this is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

/// Objects of another operator.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum WhenServed {
    /// Made where their kind is served; looked at again every few minutes.
    #[default]
    Auto,
    /// Not made.
    Disabled,
}

/// Traces by OTLP over gRPC.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tracing {
    /// `http://collector.observability:4317`, or `https://…`
    #[schemars(length(min = 8, max = 512))]
    #[x_kube(validation = Rule::new("self.startsWith('http://') || self.startsWith('https://')")
        .message("observability.tracing.endpoint begins with http:// or https://"))]
    pub endpoint: String,
    /// Of the publishes, in percent; a trace is one publish.
    #[serde(default = "Tracing::sample_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: i32,
}

impl Tracing {
    fn sample_percent() -> i32 {
        10
    }
}

/// What the processes log.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Logging {
    /// A level, or directives such as `info,edge=debug`. Changes restart nothing.
    #[serde(default = "Logging::filter")]
    #[schemars(length(min = 1, max = 512))]
    pub filter: String,
    /// How lines look.
    #[serde(default)]
    pub format: LogFormat,
}

impl Logging {
    fn filter() -> String {
        "info".to_owned()
    }
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            filter: Self::filter(),
            format: LogFormat::default(),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum LogFormat {
    /// One object a line.
    #[default]
    Json,
    /// For people.
    Text,
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
