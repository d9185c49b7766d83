//! The two Services that users shape.

use super::problems::{Problems, is_subdomain};
use crate::api::{EdgeService, IngestClusterSpec, ServiceType, TerminatedTls};

/// Where a Service of type LoadBalancer or NodePort is on every node, unless an API server was told otherwise.
const NODE_PORTS: (i64, i64) = (1, 65_535);

pub(super) fn check(spec: &IngestClusterSpec, problems: &mut Problems) {
    check_edge(&spec.edge.service, problems);
    let control = &spec.control.service;
    check_annotations(
        "spec.control.service.annotations",
        &control.annotations,
        problems,
    );
    for (index, name) in control.dns_names.iter().enumerate() {
        problems.dns_name(&format!("spec.control.service.dnsNames[{index}]"), name);
    }
    problems.unique(
        "spec.control.service.dnsNames",
        control.dns_names.iter().map(String::as_str),
    );
}

fn check_edge(service: &EdgeService, problems: &mut Problems) {
    const PATH: &str = "spec.edge.service";
    problems.port(&format!("{PATH}.port"), service.port);
    check_rtmp(service, problems);
    if let Some(port) = service.node_port {
        problems.range(
            &format!("{PATH}.nodePort"),
            port,
            NODE_PORTS.0,
            NODE_PORTS.1,
        );
        if service.service_type == ServiceType::ClusterIp {
            problems.add(
                format!("{PATH}.nodePort"),
                "needs type NodePort or LoadBalancer",
            );
        }
    }
    if service.service_type != ServiceType::LoadBalancer {
        for (field, given) in [
            ("loadBalancerClass", service.load_balancer_class.is_some()),
            (
                "loadBalancerSourceRanges",
                service.load_balancer_source_ranges.is_some(),
            ),
        ] {
            if given {
                problems.add(format!("{PATH}.{field}"), "needs type LoadBalancer");
            }
        }
    }
    if let Some(class) = &service.load_balancer_class
        && !is_qualified_name(class)
    {
        problems.add(
            format!("{PATH}.loadBalancerClass"),
            format!("{class:?} is not a class (such as example.com/internal)"),
        );
    }
    for (index, range) in service
        .load_balancer_source_ranges
        .iter()
        .flatten()
        .enumerate()
    {
        problems.cidr(&format!("{PATH}.loadBalancerSourceRanges[{index}]"), range);
    }
    for (index, range) in service.trusted_cidrs.iter().enumerate() {
        problems.cidr(&format!("{PATH}.trustedCidrs[{index}]"), range);
    }
    if service.proxy_protocol && service.trusted_cidrs.is_empty() {
        problems.add(
            format!("{PATH}.trustedCidrs"),
            "is empty, which proxyProtocol needs: anybody could claim any address",
        );
    }
    check_annotations(
        &format!("{PATH}.annotations"),
        &service.annotations,
        problems,
    );
}

fn check_rtmp(service: &EdgeService, problems: &mut Problems) {
    const PATH: &str = "spec.edge.service";
    if service.rtmp_port != 0 {
        problems.port(&format!("{PATH}.rtmpPort"), service.rtmp_port);
    }
    if !service.proxy_protocol && service.terminated_tls != TerminatedTls::Refuse {
        problems.add(
            format!("{PATH}.terminatedTls"),
            "needs proxyProtocol: nobody else is trusted to have ended TLS",
        );
    }
}

pub(super) fn check_annotations<'a>(
    path: &str,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
    problems: &mut Problems,
) {
    for (key, _value) in annotations {
        if !is_qualified_name(key) {
            problems.add(path, format!("{key:?} is not a key of an annotation"));
        }
    }
}

/// `name`, or `prefix.example.com/name`, as labels, annotations and classes have it.
pub(super) fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let alphanumeric = |character: char| character.is_ascii_alphanumeric();
    prefix.is_none_or(is_subdomain)
        && (1..=63).contains(&name.len())
        && name.bytes().all(inner)
        && name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric)
}
