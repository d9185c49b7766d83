//! What is around the pods: who may reach them, and what they report.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicyEgressRule, NetworkPolicyPeer};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Where controls may deliver events: webhooks are made at run time, and no policy can know their URLs. Empty: to the
    /// ports of applications alone.
    #[serde(default = "NetworkPolicies::webhook_ports")]
    #[schemars(length(max = 32), inner(range(min = 1, max = 65535)))]
    pub webhook_ports: Vec<i32>,
    /// Added for every tier, beside DNS, the other tiers, Redis, PostgreSQL and the trace collector.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub extra_egress: Vec<NetworkPolicyEgressRule>,
}

impl NetworkPolicies {
    fn enabled() -> bool {
        true
    }

    /// That of https.
    fn webhook_ports() -> Vec<i32> {
        vec![443]
    }
}

impl Default for NetworkPolicies {
    fn default() -> Self {
        Self {
            enabled: Self::enabled(),
            api_from: Vec::new(),
            playback_from: Vec::new(),
            metrics_from: Vec::new(),
            webhook_ports: Self::webhook_ports(),
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
