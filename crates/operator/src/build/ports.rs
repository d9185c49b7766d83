//! The ports of the processes.

use k8s_openapi::{
    api::core::v1::{ContainerPort, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use crate::{names::Component, validate::ValidatedCluster};

/// A port of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Port {
    /// Of every tier: metrics and probes.
    Admin,
    /// Of control: gRPC for product backends.
    Api,
    /// Of an origin: HTTP-FLV.
    HttpFlv,
    /// Of control: for edges and the operator.
    Internal,
    /// Of an origin: gRPC for readers.
    Playback,
    /// Of an origin: for edges.
    Relay,
    /// Of an edge: for encoders, on RTMP's own number; the same as the other one.
    Rtmp,
    /// Of an origin: RTMP for players.
    RtmpPull,
    /// Of an edge: for encoders.
    Rtmps,
}

impl Port {
    /// Those of a tier.
    pub fn of(cluster: &ValidatedCluster, component: Component) -> Vec<Self> {
        let own = match component {
            Component::Control => vec![Self::Api, Self::Internal],
            Component::Edge => vec![Self::Rtmps, Self::Rtmp],
            Component::Origin => [vec![Self::Relay], Self::of_players(cluster)].concat(),
        };
        [own, vec![Self::Admin]].concat()
    }

    /// Those by which players and backends read.
    pub(super) fn of_players(cluster: &ValidatedCluster) -> Vec<Self> {
        let rtmp = cluster.spec.origin.rtmp.enabled.then_some(Self::RtmpPull);
        [Self::Playback, Self::HttpFlv]
            .into_iter()
            .chain(rtmp)
            .collect()
    }

    /// In pods and Services.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Api => "api",
            Self::HttpFlv => "http-flv",
            Self::Internal => "internal",
            Self::Playback => "playback",
            Self::Relay => "relay",
            Self::Rtmp => "rtmp",
            Self::RtmpPull => "rtmp-pull",
            Self::Rtmps => "rtmps",
        }
    }

    /// Where the process listens.
    pub fn number(self) -> u16 {
        match self {
            Self::Admin => 9090,
            Self::Api => 7443,
            Self::HttpFlv => 8080,
            Self::Internal => 7445,
            Self::Playback => 7446,
            Self::Relay => 7444,
            Self::Rtmp => 1935,
            Self::RtmpPull => 1936,
            Self::Rtmps => 8443,
        }
    }

    /// As a process is told to listen: every address of its pod.
    pub(super) fn listen(self) -> String {
        format!("0.0.0.0:{}", self.number())
    }

    pub(super) fn of_container(self) -> ContainerPort {
        ContainerPort {
            name: Some(self.name().to_owned()),
            container_port: self.number().into(),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }
    }

    /// On the same number.
    pub(super) fn of_service(self) -> ServicePort {
        ServicePort {
            name: Some(self.name().to_owned()),
            port: self.number().into(),
            target_port: Some(IntOrString::String(self.name().to_owned())),
            protocol: Some("TCP".to_owned()),
            ..ServicePort::default()
        }
    }
}
