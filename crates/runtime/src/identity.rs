//! Who a process is inside its cluster: `spiffe://<trust-domain>/ns/<ns>/cluster/<name>/role/<role>` in its certificate.

use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

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
    /// Another cluster's certificate, or a role that does not exist.
    #[error("the certificate is not of this cluster: {uri}")]
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
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Control, Self::Edge, Self::Operator, Self::Origin];

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

    /// The role that a certificate (DER) names. Exactly one URI SAN, as SPIFFE has it.
    pub fn role_of(&self, certificate: &[u8]) -> Result<Role, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| IdentityError::Missing)?;
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => &extension.value.general_names,
            Ok(None) | Err(_) => return Err(IdentityError::Missing),
        };
        let mut uris = names.iter().filter_map(|name| {
            if let GeneralName::URI(uri) = name {
                Some(*uri)
            } else {
                None
            }
        });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            return Err(IdentityError::Missing);
        };
        Role::ALL
            .into_iter()
            .find(|role| self.uri(*role) == uri)
            .ok_or_else(|| IdentityError::ForeignCluster {
                uri: uri.to_owned(),
            })
    }
}
