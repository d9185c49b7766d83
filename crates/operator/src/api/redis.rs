//! Redis or Valkey, where session ownership is kept.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::KeyReference;

/// Redis or Valkey, in one of the forms in which it is run.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("[has(self.standalone), has(self.sentinel), has(self.cluster)].exists_one(x, x)")
    .message("redis: exactly one of standalone, sentinel and cluster"))]
#[serde(rename_all = "camelCase")]
pub struct Redis {
    /// One server, or one stable address of a managed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standalone: Option<RedisServer>,
    /// A primary and its replicas, watched over by sentinels, who know where the primary is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<RedisSentinels>,
    /// Redis Cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<RedisCluster>,
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

impl Redis {
    /// Where processes begin, with the path of each in the specification.
    pub(crate) fn addresses(&self) -> Vec<(String, &str, i32)> {
        let mut addresses = Vec::new();
        if let Some(server) = &self.standalone {
            addresses.push(("standalone".to_owned(), &*server.host, server.port));
        }
        if let Some(sentinels) = &self.sentinel {
            let servers = sentinels.servers.iter().enumerate();
            addresses.extend(servers.map(|(at, server)| {
                (
                    format!("sentinel.servers[{at}]"),
                    &*server.host,
                    server.port,
                )
            }));
        }
        if let Some(cluster) = &self.cluster {
            let servers = cluster.servers.iter().enumerate();
            addresses.extend(servers.map(|(at, server)| {
                (format!("cluster.servers[{at}]"), &*server.host, server.port)
            }));
        }
        addresses
    }
}

impl RedisServer {
    fn port() -> i32 {
        6379
    }
}

/// Sentinels.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisSentinels {
    /// What they call the primary.
    #[schemars(length(min = 1, max = 128))]
    pub master_name: String,
    /// All of them.
    #[schemars(length(min = 1, max = 16))]
    pub servers: Vec<SentinelServer>,
    /// Of the servers that the sentinels name, for the NetworkPolicy.
    #[serde(default = "RedisServer::port")]
    #[schemars(range(min = 1, max = 65535))]
    pub server_port: i32,
    /// The sentinels' own user. Without it, no password is sent to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<SharedAuth>,
    /// Whether the connection to the sentinels is encrypted; by default as that to the servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_enabled: Option<bool>,
}

/// The address of a sentinel.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SentinelServer {
    /// Name or address; with TLS, the certificate's.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// Its port.
    #[serde(default = "SentinelServer::port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

impl SentinelServer {
    fn port() -> i32 {
        26379
    }
}

/// Redis Cluster.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisCluster {
    /// Some of its nodes, which know the others.
    #[schemars(length(min = 1, max = 16))]
    pub servers: Vec<RedisServer>,
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
    /// A Secret with `tls.crt` and `tls.key`: shown to servers and sentinels that ask for a client's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub certificate_secret_name: Option<String>,
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
