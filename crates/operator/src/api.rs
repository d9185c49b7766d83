//! What users write: the custom resources, as Rust types. Their schema, defaults and CEL rules come from here
//! (`headwater crds` prints them); what they mean is in [`crate::validate`] and [`crate::build`].

#![allow(
    unreachable_pub,
    reason = "KubeSchema makes a public copy of each type inside a function"
)]
#![allow(
    clippy::duplicated_attributes,
    reason = "several printer columns have the same type"
)]

mod access;
mod application;
mod cluster;
mod control;
mod edge;
mod pod_template;
mod redis;
mod status;
mod surroundings;
mod tls;

pub use self::{
    access::{ApiClientCertificates, KubernetesTokens, Quotas, Scope, Subject, TokenIssuer},
    application::{
        ApplicationAuth, ApplicationStatus, AuthMode, ClusterReference, IngestApplication,
        IngestApplicationSpec, SignedAuth, WebhookAuth,
    },
    cluster::{
        DeletionPolicy, Image, IngestCluster, IngestClusterSpec, KeyReference, Origin, PullPolicy,
        RtmpPull,
    },
    control::{Control, Database, Egress, Postgres, PublicService, Sqlite},
    edge::{
        Autoscaling, ClientAddress, Drain, Edge, EdgeLimits, EdgeService, PlainRtmp, ServiceType,
        TerminatedTls, TrafficPolicy,
    },
    pod_template::PodTemplate,
    redis::{
        OutagePolicy, PerRoleAuth, Redis, RedisAuth, RedisCluster, RedisSentinels, RedisServer,
        RedisTls, SentinelServer, SharedAuth,
    },
    status::{
        CertificateStatus, Certificates, ClusterStatus, Condition, ConditionType, EdgeStatus,
        Endpoint, LiveConfiguration, Reason, SessionsStatus, TierStatus,
    },
    surroundings::{LogFormat, Logging, NetworkPolicies, Observability, Tracing, WhenServed},
    tls::{
        ClientCertificates, ClientCertificatesMode, InternalTls, IssuerReference, PublicTls,
        SelfSigned, TlsVersion,
    },
};

/// API group of both kinds.
pub const GROUP: &str = "headwater.dev";
/// Their version.
pub const VERSION: &str = "v1alpha1";
/// On each CRD: the operator refuses to start on a lower one than [`CRD_REVISION`].
pub const CRD_REVISION_ANNOTATION: &str = "headwater.dev/crd-revision";
/// Raised with each change of the schema.
pub const CRD_REVISION: u32 = 7;
/// On every object of a cluster: the cluster's name.
pub const CLUSTER_LABEL: &str = "headwater.dev/cluster";
/// On the edge's Deployments and pods: which pod template they run.
pub const REVISION_LABEL: &str = "headwater.dev/revision";
/// Lets go of a cluster that is being deleted without waiting for its edges to drain.
pub const FORCE_DELETE_ANNOTATION: &str = "headwater.dev/force-delete";
/// Asks for a new value of a Secret that the operator makes (`api-token`, `playback-token`, `grant`, `internal-ca`):
/// any new value of the annotation starts one rotation.
pub const ROTATE_ANNOTATION: &str = "headwater.dev/rotate";
/// Held by an IngestCluster until its edges are drained.
pub const DRAIN_FINALIZER: &str = "headwater.dev/drain";
/// The one field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "headwater-operator";
