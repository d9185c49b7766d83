//! The Services of the tiers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use super::{
    metadata::{object_meta, selector},
    ports::Port,
};
use crate::{
    api::{ServiceType, TrafficPolicy},
    names::Component,
    validate::ValidatedCluster,
};

pub(super) fn services(cluster: &ValidatedCluster) -> Vec<Service> {
    vec![
        edge(cluster),
        control(cluster),
        control_internal(cluster),
        origin(cluster),
        playback(cluster),
    ]
}

/// What encoders reach, over every revision. No session affinity: a session is one connection.
fn edge(cluster: &ValidatedCluster) -> Service {
    let wanted = &cluster.spec.edge.service;
    let policy = match wanted.external_traffic_policy {
        TrafficPolicy::Cluster => "Cluster",
        // Keeps the encoder's address for limits and logs.
        TrafficPolicy::Local => "Local",
    };
    let mut ports = vec![ServicePort {
        port: wanted.port,
        node_port: wanted.node_port,
        ..Port::Rtmps.of_service()
    }];
    if wanted.rtmp_port != 0 && wanted.rtmp_port != wanted.port {
        ports.push(ServicePort {
            port: wanted.rtmp_port,
            ..Port::Rtmp.of_service()
        });
    }
    let outside = wanted.service_type != ServiceType::ClusterIp;
    let spec = ServiceSpec {
        type_: Some(service_type(wanted.service_type)),
        ports: Some(ports),
        external_traffic_policy: outside.then(|| policy.to_owned()),
        load_balancer_class: wanted.load_balancer_class.clone(),
        load_balancer_source_ranges: wanted.load_balancer_source_ranges.clone(),
        ..ServiceSpec::default()
    };
    let name = cluster.names.tier(Component::Edge);
    service(cluster, Component::Edge, name, &wanted.annotations, spec)
}

/// What product backends reach.
fn control(cluster: &ValidatedCluster) -> Service {
    let wanted = &cluster.spec.control.service;
    let spec = ServiceSpec {
        type_: Some(service_type(wanted.service_type)),
        ports: Some(vec![Port::Api.of_service()]),
        ..ServiceSpec::default()
    };
    let name = cluster.names.tier(Component::Control);
    service(cluster, Component::Control, name, &wanted.annotations, spec)
}

/// Headless: a gRPC connection would stay with one control behind a Service's address; edges balance by themselves.
fn control_internal(cluster: &ValidatedCluster) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        ports: Some(vec![Port::Internal.of_service()]),
        publish_not_ready_addresses: Some(false),
        ..ServiceSpec::default()
    };
    let name = cluster.names.control_internal();
    service(cluster, Component::Control, name, &BTreeMap::new(), spec)
}

/// What readers reach: any origin that is ready, and that serves the streams of all.
fn playback(cluster: &ValidatedCluster) -> Service {
    let ports = Port::of_players(cluster);
    let spec = ServiceSpec {
        ports: Some(ports.into_iter().map(Port::of_service).collect()),
        ..ServiceSpec::default()
    };
    let name = cluster.names.playback();
    service(cluster, Component::Origin, name, &BTreeMap::new(), spec)
}

/// Headless: edges and other origins reach each of them by its name.
fn origin(cluster: &ValidatedCluster) -> Service {
    let spec = ServiceSpec {
        cluster_ip: Some("None".to_owned()),
        ports: Some(
            std::iter::once(Port::Relay)
                .chain(Port::of_players(cluster))
                .map(Port::of_service)
                .collect(),
        ),
        // A draining origin is not ready, and still serves the subscribers of its streams: its name must go on to
        // resolve. Edges find out by themselves which origins take sessions, from what these announce.
        publish_not_ready_addresses: Some(true),
        ..ServiceSpec::default()
    };
    let name = cluster.names.tier(Component::Origin);
    service(cluster, Component::Origin, name, &BTreeMap::new(), spec)
}

fn service(
    cluster: &ValidatedCluster,
    component: Component,
    name: String,
    annotations: &BTreeMap<String, String>,
    spec: ServiceSpec,
) -> Service {
    let mut metadata = object_meta(cluster, Some(component), name);
    if !annotations.is_empty() {
        metadata.annotations = Some(annotations.clone());
    }
    Service {
        metadata,
        spec: Some(ServiceSpec {
            selector: Some(selector(cluster, component)),
            ..spec
        }),
        ..Service::default()
    }
}

fn service_type(service_type: ServiceType) -> String {
    let name = match service_type {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::NodePort => "NodePort",
    };
    name.to_owned()
}
