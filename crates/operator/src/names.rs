//! Names of a cluster's objects, made in one place.

use crate::api::IngestCluster;
use kube::ResourceExt as _;

/// A tier of a cluster.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Component {
    /// Issues stream keys.
    Control,
    /// Takes publishers in.
    Edge,
    /// Holds streams.
    Origin,
}

impl Component {
    /// In the order in which they are brought up.
    pub const ALL: [Self; 3] = [Self::Origin, Self::Control, Self::Edge];

    /// As in names, labels and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Edge => "edge",
            Self::Origin => "origin",
        }
    }
}

impl std::fmt::Display for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names of the objects of one cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Names(String);

impl Names {
    /// Of a cluster's.
    pub fn new(cluster: &IngestCluster) -> Self {
        Self(cluster.name_any())
    }

    /// Of the cluster of this name.
    pub fn of(cluster: &str) -> Self {
        Self(cluster.to_owned())
    }

    /// The IngestCluster itself.
    pub fn cluster(&self) -> &str {
        &self.0
    }

    /// Workload, Service, ServiceAccount, PodDisruptionBudget, NetworkPolicy and PodMonitor of a tier. The edges' Deployment has its revision
    /// appended.
    pub fn tier(&self, component: Component) -> String {
        format!("{}-{component}", self.0)
    }

    /// The edges' Deployment of one revision.
    pub fn edge_deployment(&self, revision: &str) -> String {
        format!("{}-edge-{revision}", self.0)
    }

    /// Immutable configuration of a role; `hash` is of its content.
    pub fn boot(&self, hash: &str) -> String {
        format!("{}-boot-{hash}", self.0)
    }

    /// Configuration that reaches running processes.
    pub fn live(&self) -> String {
        format!("{}-live", self.0)
    }

    /// Headless Service by which edges find control's internal port.
    pub fn control_internal(&self) -> String {
        format!("{}-control-internal", self.0)
    }

    /// What readers reach: any origin.
    pub fn playback(&self) -> String {
        format!("{}-playback", self.0)
    }

    /// Volume of SQLite.
    pub fn control_data(&self) -> String {
        format!("{}-control-data", self.0)
    }

    /// Secret `tls.crt`, `tls.key`, `ca.crt` by which a role proves itself (`edge`, `origin`, `control`, `operator`).
    pub fn internal_certificate(&self, role: &str) -> String {
        format!("{}-internal-{role}", self.0)
    }

    /// Secret of the operator's CA for a cluster.
    pub fn internal_ca(&self) -> String {
        format!("{}-internal-ca", self.0)
    }

    /// Secret `tls.crt`, `tls.key` that clients of a tier see: encoders (edge; unless the user brings one), API clients
    /// (control), readers (origin).
    pub fn public_certificate(&self, component: Component) -> String {
        format!("{}-{component}-tls", self.0)
    }

    /// Secret of what is in `tls.additionalSecrets`: `NAME.crt` and `NAME.key` of each.
    pub fn edge_certificates(&self) -> String {
        format!("{}-edge-certificates", self.0)
    }

    /// Secret `pepper`.
    pub fn pepper(&self) -> String {
        format!("{}-pepper", self.0)
    }

    /// Secret `grant.key`, `grant.pub`.
    pub fn grant(&self) -> String {
        format!("{}-grant", self.0)
    }

    /// Secret `token`: one bearer token of the gRPC API a line.
    pub fn api_token(&self) -> String {
        format!("{}-api-token", self.0)
    }

    /// Secret `token`: one bearer token of playback a line.
    pub fn playback_token(&self) -> String {
        format!("{}-playback-token", self.0)
    }
}
