//! NetworkPolicies: a tier may be reached by whom it serves, may reach what it needs, and nothing else.
//!
//! Redis, PostgreSQL, the trace collector, and what controls call for applications, issuers of tokens and receivers of events
//! are allowed by port alone: a policy sees addresses behind Services, and which these are is known to DNS only.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use runtime::egress::HttpsUrl;

use super::{
    access,
    metadata::{object_meta, operator_pods, pods_of},
    ports::Port,
};
use crate::{
    names::Component,
    validate::{ValidatedApplication, ValidatedCluster, ValidatedDatabase},
};

const DNS_PORT: u16 = 53;
/// Of API servers, as pods reach them behind the Service.
const API_SERVER_PORTS: [u16; 2] = [443, 6443];

pub(super) fn policies(cluster: &ValidatedCluster) -> Vec<NetworkPolicy> {
    if !cluster.spec.network_policy.enabled {
        return Vec::new();
    }
    Component::ALL
        .map(|component| {
            let (mut ingress, mut egress) = match component {
                Component::Control => control(cluster),
                Component::Edge => edge(cluster),
                Component::Origin => origin(cluster),
            };
            ingress.push(metrics(cluster));
            egress.extend(everywhere(cluster));
            NetworkPolicy {
                metadata: object_meta(cluster, Some(component), cluster.names.tier(component)),
                spec: Some(NetworkPolicySpec {
                    pod_selector: Some(pods_of(cluster, component)),
                    policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
                    ingress: Some(ingress),
                    egress: Some(egress),
                }),
            }
        })
        .into()
}

type Rules = (Vec<NetworkPolicyIngressRule>, Vec<NetworkPolicyEgressRule>);

fn edge(cluster: &ValidatedCluster) -> Rules {
    let anybody = NetworkPolicyIngressRule {
        from: None,
        ports: Some(
            [Port::Rtmps, Port::Rtmp]
                .map(|port| tcp(port.number()))
                .into(),
        ),
    };
    (
        vec![anybody],
        vec![
            to(cluster, Component::Origin, Port::Relay),
            to(cluster, Component::Control, Port::Internal),
        ],
    )
}

fn origin(cluster: &ValidatedCluster) -> Rules {
    let readers = &cluster.spec.network_policy.playback_from;
    (
        vec![
            from(
                vec![
                    tier(cluster, Component::Edge),
                    tier(cluster, Component::Origin),
                ],
                &[Port::Relay],
            ),
            from(with_own_namespace(readers), &Port::of_players(cluster)),
        ],
        // Streams that other origins own.
        vec![to(cluster, Component::Origin, Port::Relay)],
    )
}

fn control(cluster: &ValidatedCluster) -> Rules {
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(operator_pods()),
        ..NetworkPolicyPeer::default()
    };
    let callers = &cluster.spec.network_policy.api_from;
    let ingress = vec![
        from(
            vec![tier(cluster, Component::Edge), operator],
            &[Port::Internal],
        ),
        from(with_own_namespace(callers), &[Port::Api]),
    ];
    let database = match cluster.database {
        ValidatedDatabase::Postgres { port, .. } => Some(port),
        ValidatedDatabase::Sqlite(_) => None,
    };
    let applications = &cluster.applications;
    let applications = applications
        .iter()
        .filter_map(ValidatedApplication::called_port);
    let receivers = cluster.spec.network_policy.webhook_ports.iter();
    let receivers = receivers.filter_map(|port| u16::try_from(*port).ok());
    let called = applications.chain(issuer_ports(cluster)).chain(receivers);
    // Each once, in order.
    let called: BTreeSet<u16> = called.filter(|port| Some(*port) != database).collect();
    let ports = database.into_iter().chain(called);
    (
        ingress,
        ports.map(|port| to_anywhere(vec![tcp(port)])).collect(),
    )
}

/// Where controls ask for keys, or whether a token is good.
fn issuer_ports(cluster: &ValidatedCluster) -> impl Iterator<Item = u16> {
    let kubernetes = access::calls_kubernetes(&cluster.spec);
    let kubernetes = kubernetes.then_some(API_SERVER_PORTS).into_iter().flatten();
    let urls = cluster.spec.control.oidc.iter();
    let urls = urls.filter_map(|issuer| issuer.jwks_url.as_ref()?.parse::<HttpsUrl>().ok());
    urls.map(|url| url.port()).chain(kubernetes)
}

/// Probes need no rule: the kubelet of a pod's own node reaches it always.
fn metrics(cluster: &ValidatedCluster) -> NetworkPolicyIngressRule {
    let peers = &cluster.spec.network_policy.metrics_from;
    let peers = if peers.is_empty() {
        vec![NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            ..NetworkPolicyPeer::default()
        }]
    } else {
        peers.clone()
    };
    from(peers, &[Port::Admin])
}

/// What every tier reaches.
fn everywhere(cluster: &ValidatedCluster) -> Vec<NetworkPolicyEgressRule> {
    let redis = &cluster.spec.redis;
    let named = redis
        .sentinel
        .as_ref()
        .map(|sentinels| sentinels.server_port);
    let addresses = redis.addresses().into_iter().map(|(_, _, port)| port);
    let ports: BTreeSet<_> = addresses.chain(named).collect();
    let mut rules = vec![
        to_anywhere(vec![port("UDP", DNS_PORT.into()), tcp(DNS_PORT)]),
        to_anywhere(
            ports
                .into_iter()
                .map(|number| port("TCP", number))
                .collect(),
        ),
    ];
    rules.extend(cluster.trace_port.map(|port| to_anywhere(vec![tcp(port)])));
    rules.extend(cluster.spec.network_policy.extra_egress.iter().cloned());
    rules
}

fn with_own_namespace(peers: &[NetworkPolicyPeer]) -> Vec<NetworkPolicyPeer> {
    let own = NetworkPolicyPeer {
        pod_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    std::iter::once(own).chain(peers.iter().cloned()).collect()
}

/// The pods of a tier of this cluster.
fn tier(cluster: &ValidatedCluster, component: Component) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(pods_of(cluster, component)),
        ..NetworkPolicyPeer::default()
    }
}

fn from(peers: Vec<NetworkPolicyPeer>, ports: &[Port]) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from: Some(peers),
        ports: Some(ports.iter().map(|port| tcp(port.number())).collect()),
    }
}

fn to(cluster: &ValidatedCluster, component: Component, port: Port) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        to: Some(vec![tier(cluster, component)]),
        ports: Some(vec![tcp(port.number())]),
    }
}

fn to_anywhere(ports: Vec<NetworkPolicyPort>) -> NetworkPolicyEgressRule {
    NetworkPolicyEgressRule {
        to: None,
        ports: Some(ports),
    }
}

fn tcp(number: u16) -> NetworkPolicyPort {
    port("TCP", number.into())
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(number)),
        ..NetworkPolicyPort::default()
    }
}
