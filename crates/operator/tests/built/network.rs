//! Who reaches whom, by the NetworkPolicies that are built: evaluated as Kubernetes defines them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use operator::{build::selector, names::Component};

use crate::fixture::{FIXTURES, Fixture};

/// One end of a flow.
#[derive(Clone, Debug)]
struct End {
    address: IpAddr,
    /// Namespace, its labels and the pod's; nothing is outside of the Kubernetes cluster.
    pod: Option<(String, BTreeMap<String, String>)>,
}

struct Net {
    fixture: Fixture,
    policies: Vec<NetworkPolicy>,
}

impl Net {
    fn of(fixture: &str) -> Self {
        let fixture = Fixture::read(&std::path::Path::new(FIXTURES).join(fixture));
        let policies = fixture.objects().network_policies;
        Self { fixture, policies }
    }

    fn end(&self, name: &str) -> End {
        let cluster = self.fixture.validated();
        let tier = |component| ("media".to_owned(), selector(&cluster, component));
        let pod = |namespace: &str, name: &str| {
            let labels = BTreeMap::from([("app.kubernetes.io/name".to_owned(), name.to_owned())]);
            (namespace.to_owned(), labels)
        };
        let mut address: IpAddr = "10.200.0.1".parse().unwrap();
        let pod = match name {
            "edge" => Some(tier(Component::Edge)),
            "origin" => Some(tier(Component::Origin)),
            "control" => Some(tier(Component::Control)),
            "operator" => Some(pod("headwater-system", "headwater-operator")),
            "prometheus" => Some(pod("monitoring", "prometheus")),
            "backend" => Some(pod("backend", "shop")),
            "neighbour" => Some(pod("media", "packager")),
            "stranger" => Some(pod("elsewhere", "shell")),
            "store" => Some(pod("data", "store")),
            "other-edge" => {
                let (namespace, mut labels) = tier(Component::Edge);
                labels.insert("app.kubernetes.io/instance".to_owned(), "other".to_owned());
                Some((namespace, labels))
            }
            outside => {
                address = outside.parse().unwrap();
                None
            }
        };
        End { address, pod }
    }

    /// Both ends have to allow it.
    fn allows(&self, from: &str, to: &str, protocol: &str, port: i32) -> bool {
        let (from, to) = (self.end(from), self.end(to));
        self.egress(&from, &to, protocol, port) && self.ingress(&from, &to, protocol, port)
    }

    fn egress(&self, from: &End, to: &End, protocol: &str, port: i32) -> bool {
        let mut policies = self.of_pod(from).peekable();
        policies.peek().is_none()
            || policies.any(|policy| {
                let rules = policy.spec.as_ref().unwrap().egress.iter().flatten();
                rules.into_iter().any(|rule| {
                    matches_peers(rule.to.as_deref(), to)
                        && matches_port(rule.ports.as_deref(), protocol, port)
                })
            })
    }

    fn ingress(&self, from: &End, to: &End, protocol: &str, port: i32) -> bool {
        let mut policies = self.of_pod(to).peekable();
        policies.peek().is_none()
            || policies.any(|policy| {
                let rules = policy.spec.as_ref().unwrap().ingress.iter().flatten();
                rules.into_iter().any(|rule| {
                    matches_peers(rule.from.as_deref(), from)
                        && matches_port(rule.ports.as_deref(), protocol, port)
                })
            })
    }

    fn of_pod<'a>(&'a self, end: &'a End) -> impl Iterator<Item = &'a NetworkPolicy> {
        self.policies.iter().filter(move |policy| {
            let spec = policy.spec.as_ref().unwrap();
            assert_eq!(
                spec.policy_types.as_ref().unwrap().len(),
                2,
                "both directions"
            );
            end.pod.as_ref().is_some_and(|(namespace, labels)| {
                policy.metadata.namespace.as_ref() == Some(namespace)
                    && matches(spec.pod_selector.as_ref().unwrap(), labels)
            })
        })
    }
}

/// No list is everybody; the policies are all of the namespace `media`.
fn matches_peers(peers: Option<&[NetworkPolicyPeer]>, end: &End) -> bool {
    peers.is_none_or(|peers| peers.iter().any(|peer| matches_peer(peer, end)))
}

fn matches_peer(peer: &NetworkPolicyPeer, end: &End) -> bool {
    if let Some(block) = &peer.ip_block {
        let network: IpNet = block.cidr.parse().unwrap();
        return network.contains(&end.address);
    }
    let Some((namespace, labels)) = &end.pod else {
        return false;
    };
    let namespace_labels =
        BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), namespace.clone())]);
    let of_namespace = match &peer.namespace_selector {
        Some(selector) => matches(selector, &namespace_labels),
        None => namespace == "media",
    };
    let pods = peer.pod_selector.as_ref();
    of_namespace && pods.is_none_or(|selector| matches(selector, labels))
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    assert!(selector.match_expressions.is_none(), "not evaluated here");
    let mut wanted = selector.match_labels.iter().flatten();
    wanted.all(|(key, value)| labels.get(key) == Some(value))
}

fn matches_port(ports: Option<&[NetworkPolicyPort]>, protocol: &str, number: i32) -> bool {
    ports.is_none_or(|ports| {
        ports.iter().any(|port| {
            port.protocol.as_deref() == Some(protocol)
                && port.port == Some(IntOrString::Int(number))
        })
    })
}

#[track_caller]
fn check(net: &Net, flows: &[(&str, &str, i32, bool)]) {
    for (from, to, port, allowed) in flows {
        let (protocol, port) = match *port {
            port @ ..0 => ("UDP", -port),
            port => ("TCP", port),
        };
        assert_eq!(
            net.allows(from, to, protocol, port),
            *allowed,
            "{from} -> {to}:{port}/{protocol}"
        );
    }
}

/// UDP has a negative port.
#[test]
fn a_tier_is_reached_by_whom_it_serves_and_reaches_what_it_needs() {
    check(
        &Net::of("minimal"),
        &[
            ("198.51.100.9", "edge", 8443, true),
            ("stranger", "edge", 8443, true),
            ("198.51.100.9", "edge", 9090, false),
            ("prometheus", "edge", 9090, true),
            ("prometheus", "origin", 9090, true),
            ("prometheus", "control", 9090, true),
            ("198.51.100.9", "origin", 9090, false),
            ("edge", "origin", 7444, true),
            ("edge", "origin", 7446, false),
            ("edge", "origin", 8080, false),
            ("edge", "origin", 1936, false),
            ("edge", "control", 7445, true),
            ("edge", "control", 7443, false),
            ("edge", "edge", 8443, false),
            ("edge", "store", 6379, true),
            ("edge", "store", 5432, false),
            ("edge", "store", -53, true),
            ("edge", "store", 53, true),
            ("edge", "198.51.100.9", 443, false),
            ("edge", "store", 4317, false),
            ("origin", "store", 6379, true),
            ("origin", "store", -53, true),
            ("origin", "store", 5432, false),
            ("origin", "control", 7445, false),
            ("origin", "control", 7443, false),
            ("origin", "edge", 8443, false),
            ("origin", "origin", 7444, true),
            ("origin", "198.51.100.9", 443, false),
            ("control", "store", 5432, true),
            ("control", "store", 6379, true),
            ("control", "store", -53, true),
            ("control", "origin", 7444, false),
            ("control", "edge", 8443, false),
            // Webhooks of events are made at run time.
            ("control", "198.51.100.9", 443, true),
            ("control", "198.51.100.9", 8443, false),
            ("operator", "control", 7445, true),
            ("operator", "control", 7443, false),
            ("operator", "origin", 7444, false),
            ("stranger", "control", 7445, false),
            ("stranger", "control", 7443, false),
            ("stranger", "origin", 7444, false),
            ("stranger", "origin", 7446, false),
            ("neighbour", "control", 7443, true),
            ("neighbour", "control", 7445, false),
            ("neighbour", "origin", 7446, true),
            ("neighbour", "origin", 8080, true),
            ("neighbour", "origin", 1936, true),
            ("neighbour", "origin", 7444, false),
            ("backend", "control", 7443, false),
            ("198.51.100.9", "control", 7443, false),
            ("other-edge", "origin", 7444, false),
            ("other-edge", "control", 7445, false),
        ],
    );
}

#[test]
fn users_say_who_else_calls_reads_and_scrapes_and_what_else_is_reached() {
    check(
        &Net::of("network-policy-peers"),
        &[
            ("backend", "control", 7443, true),
            ("backend", "control", 7445, false),
            ("backend", "origin", 7446, false),
            ("10.1.2.3", "origin", 7446, true),
            ("10.1.2.3", "origin", 8080, true),
            ("10.1.2.3", "origin", 1936, true),
            ("10.1.2.3", "origin", 7444, false),
            ("10.2.2.3", "origin", 7446, false),
            ("neighbour", "origin", 7446, true),
            ("prometheus", "edge", 9090, true),
            ("stranger", "edge", 9090, false),
            ("edge", "192.0.2.7", 8126, true),
            ("origin", "192.0.2.7", 8126, true),
            ("control", "192.0.2.7", 8126, true),
            ("edge", "192.0.2.8", 8126, false),
            ("control", "198.51.100.9", 8443, true),
            ("control", "198.51.100.9", 443, false),
            ("edge", "198.51.100.9", 8443, false),
            ("origin", "198.51.100.9", 8443, false),
        ],
    );
}

#[test]
fn ports_are_those_of_the_specification() {
    check(
        &Net::of("redis-tls"),
        &[
            ("edge", "store", 6380, true),
            ("edge", "store", 6379, false),
        ],
    );
    check(
        &Net::of("redis-sentinel"),
        &[
            ("edge", "store", 26380, true),
            ("edge", "store", 6380, true),
            ("edge", "store", 6379, false),
        ],
    );
    check(
        &Net::of("redis-cluster"),
        &[
            ("edge", "store", 6379, true),
            ("edge", "store", 6381, true),
            ("edge", "store", 6380, false),
        ],
    );
    check(
        &Net::of("postgres-ca"),
        &[
            ("control", "store", 6432, true),
            ("control", "store", 5432, false),
            ("edge", "store", 6432, false),
        ],
    );
    check(
        &Net::of("sqlite"),
        &[
            ("control", "store", 5432, false),
            ("control", "store", 6379, true),
        ],
    );
    check(
        &Net::of("tracing"),
        &[
            ("edge", "store", 4317, true),
            ("origin", "store", 4317, true),
            ("control", "store", 4317, true),
            ("edge", "store", 4318, false),
        ],
    );
}

#[test]
fn control_reaches_issuers_and_where_it_is_told_to_the_api_server() {
    check(
        &Net::of("api-access"),
        &[
            ("control", "198.51.100.9", 8443, true),
            ("control", "198.51.100.9", 443, true),
            ("control", "198.51.100.9", 6443, true),
            ("control", "198.51.100.9", 80, false),
            ("edge", "198.51.100.9", 6443, false),
            ("origin", "198.51.100.9", 443, false),
        ],
    );
}

#[test]
fn without_policies_everything_is_allowed() {
    let net = Net::of("network-policy-off");
    assert!(net.policies.is_empty());
    check(&net, &[("stranger", "control", 7445, true)]);
}
