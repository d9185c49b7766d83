//! Who a process is inside its cluster: `spiffe://<trust-domain>/ns/<ns>/cluster/<name>/role/<role>` in its certificate.

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Decides who may publish.
    Control,
    /// Takes publishers in.
    Edge,
    /// Reconciles Kubernetes objects.
    Operator,
    /// Holds streams.
    Origin,
}

/// The cluster that a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name of the IngestCluster.
    pub name: String,
}

/// The peer's certificate does not name a role of this cluster.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdentityError {
    /// Another cluster's certificate.
    #[error("the certificate is of another cluster: {uri}")]
    ForeignCluster {
        /// Its URI SAN.
        uri: String,
    },
    /// No URI SAN of ours.
    #[error("the certificate has no role identity")]
    Missing,
    /// A role that may not do this.
    #[error("role {role} is not admitted here")]
    WrongRole {
        /// The certificate's role.
        role: Role,
    },
}

impl Role {
    /// As in the URI and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Edge => "edge",
            Self::Operator => "operator",
            Self::Origin => "origin",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Cluster {
    /// The URI SAN of a role's certificate.
    pub fn uri(&self, role: Role) -> String {
        format!(
            "spiffe://{}/ns/{}/cluster/{}/role/{role}",
            self.trust_domain, self.namespace, self.name
        )
    }

    /// The role that a certificate (DER) names.
    pub fn role_of(&self, _certificate: &[u8]) -> Result<Role, IdentityError> {
        todo!()
    }
}
