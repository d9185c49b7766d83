//! Control: its database and the Service of its API.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ApiClientCertificates, IssuerReference, KeyReference, PodTemplate, Quotas, ServiceType,
    TokenIssuer,
};

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
    /// Whose tokens the API takes beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub oidc: Vec<TokenIssuer>,
    /// Certificates that callers of the API show. By default none is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificates: Option<ApiClientCertificates>,
    /// Of tenants that have no quota of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Quotas>,
    /// Whom controls may call: backends of applications and servers of key sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Changes to the pods.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// Calls to the outside: https, to public addresses.
#[derive(Clone, Debug, Default, Deserialize, KubeSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Networks that may be called although they are not public, such as that of the cluster's Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 43)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c))")
        .message("control.egress.allow: networks such as 10.96.0.0/12"))]
    pub allow: Vec<String>,
    /// Certificates (PEM) that those called may have theirs from, beside the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<KeyReference>,
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
    /// Of each control at once, by default 8; one more listens for revocations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 64))]
    pub connections: Option<i32>,
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
