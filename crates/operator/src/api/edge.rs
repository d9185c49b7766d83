//! The edges: how many, how they end, and the Service in front of them.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PodTemplate;

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
    /// What becomes of RTMP without TLS, on the same ports.
    #[serde(default)]
    pub plain_rtmp: PlainRtmp,
    /// What sessions and events tell of encoders' addresses.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// Against floods. Changes restart nothing.
    #[serde(default)]
    pub limits: EdgeLimits,
    /// Changes to the pods.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// What becomes of RTMP without TLS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PlainRtmp {
    /// Taken in: stream keys travel in the clear.
    Allow,
    /// Told to come over RTMPS, and closed.
    #[default]
    Refuse,
}

/// What lists of sessions and events tell of an encoder's address. Control is always asked with the whole of it, and the
/// log of an edge has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ClientAddress {
    /// Address and port.
    #[default]
    Full,
    /// Nothing.
    None,
    /// Its network: /24 of IPv4, /48 of IPv6.
    Prefix,
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
    /// Encoders that follow a request to connect elsewhere get one when the drain begins, and lose nothing.
    #[serde(default = "Drain::reconnect_request")]
    pub reconnect_request: bool,
    /// They are asked spread over this time, in seconds; over half of the time before the others are closed at most.
    #[serde(default = "Drain::spread_seconds")]
    #[schemars(range(min = 0, max = 3_600))]
    pub reconnect_jitter_seconds: i64,
    /// The others are closed spread over this time before the timeout, each at a keyframe, in seconds; over half of the
    /// timeout at most.
    #[serde(default = "Drain::spread_seconds")]
    #[schemars(range(min = 0, max = 3_600))]
    pub close_spread_seconds: i64,
}

impl Drain {
    fn timeout_seconds() -> i64 {
        14_400
    }

    fn notice_seconds() -> i64 {
        15
    }

    fn reconnect_request() -> bool {
        true
    }

    fn spread_seconds() -> i64 {
        60
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            timeout_seconds: Self::timeout_seconds(),
            notice_seconds: Self::notice_seconds(),
            reconnect_request: Self::reconnect_request(),
            reconnect_jitter_seconds: Self::spread_seconds(),
            close_spread_seconds: Self::spread_seconds(),
        }
    }
}

/// The Service in front of the edges.
#[derive(Clone, Debug, Deserialize, KubeSchema, PartialEq, Serialize)]
#[x_kube(validation = Rule::new("!self.proxyProtocol || self.trustedCidrs.size() > 0")
    .message("edge.service.proxyProtocol needs trustedCidrs: anybody could claim any address"))]
#[x_kube(validation = Rule::new("self.proxyProtocol || self.terminatedTls == 'Refuse'")
    .message("edge.service.terminatedTls needs proxyProtocol"))]
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
    /// A second port of the Service for the same: encoders that know no other than RTMP's own. 0, or the same as `port`:
    /// none.
    #[serde(default = "EdgeService::rtmp_port")]
    #[schemars(range(min = 0, max = 65535))]
    pub rtmp_port: i32,
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
    /// RTMP without TLS from the load balancer, where the encoder's TLS ends: needs proxyProtocol.
    #[serde(default)]
    pub terminated_tls: TerminatedTls,
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

    fn rtmp_port() -> i32 {
        1935
    }
}

impl Default for EdgeService {
    fn default() -> Self {
        Self {
            service_type: ServiceType::default(),
            port: Self::port(),
            rtmp_port: Self::rtmp_port(),
            node_port: None,
            external_traffic_policy: TrafficPolicy::default(),
            load_balancer_class: None,
            load_balancer_source_ranges: None,
            annotations: BTreeMap::new(),
            proxy_protocol: false,
            terminated_tls: TerminatedTls::default(),
            trusted_cidrs: Vec::new(),
        }
    }
}

/// Whether the encoder's TLS may end at the load balancer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum TerminatedTls {
    /// Where the PROXY header says that the encoder came over TLS.
    Announced,
    /// Whatever the header says: the load balancer takes nothing but TLS.
    Assumed,
    /// No: as edge.plainRtmp has it.
    #[default]
    Refuse,
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
