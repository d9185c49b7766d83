//! Certificates from files that reload when they change.

use std::{path::PathBuf, sync::Arc};

use rustls::{ClientConfig, ServerConfig};

use crate::identity::{Cluster, Role};

/// A PEM certificate chain and its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Leaf first, then intermediates.
    pub certificate: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
}

/// A certificate that follows its files: looked at every few seconds, and a broken pair of files leaves the last good
/// one in service (with a warning). A cheap handle.
#[derive(Clone)]
pub struct ReloadingCertificate {}

/// Certificates could not be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or parsed.
    #[error("{path}: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// rustls refused.
    #[error("TLS configuration")]
    Rustls(#[from] rustls::Error),
}

impl ReloadingCertificate {
    /// Loads the files now and watches them for as long as the handle lives. Must be called inside a tokio runtime.
    pub fn load(_files: &CertificateFiles) -> Result<Self, TlsError> {
        todo!()
    }

    /// For a listener that faces encoders or API clients: TLS 1.2 and 1.3, no client certificates, **no TLS 1.3
    /// tickets** (librtmp-family clients die on them), no session storage.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        todo!()
    }

    /// `notAfter` of the leaf in service, in seconds since the Unix epoch.
    pub fn not_after(&self) -> i64 {
        todo!()
    }
}

/// Mutual TLS between the roles of one cluster: TLS 1.3 only, one CA, both sides check the other's role. Certificate,
/// key and CA reload. A cheap handle.
#[derive(Clone)]
pub struct InternalTls {}

/// Where a role's internal identity is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalTlsFiles {
    /// This process's certificate; its URI SAN names its role.
    pub identity: CertificateFiles,
    /// The cluster's CA.
    pub ca: PathBuf,
}

impl InternalTls {
    /// Loads the files now and watches them. Must be called inside a tokio runtime.
    pub fn load(_files: &InternalTlsFiles, _cluster: Cluster) -> Result<Self, TlsError> {
        todo!()
    }

    /// Admits peers with one of these roles. The config is to be asked for per connection: it changes with the files.
    pub fn server_config(&self, _admit: &[Role]) -> Arc<ServerConfig> {
        todo!()
    }

    /// Talks to a peer that proves this role; its address and host name do not count.
    pub fn client_config(&self, _peer: Role) -> Arc<ClientConfig> {
        todo!()
    }
}

/// Writes a self-signed certificate for these names (DNS names or addresses) where the files do not exist yet; the key
/// gets mode 0600. For the standalone process and for development.
pub fn ensure_self_signed(_files: &CertificateFiles, _names: &[String]) -> Result<(), TlsError> {
    todo!()
}

/// Writes a CA and one certificate per role into a directory (`ca.pem`, `ca.key`, `<role>.pem`, `<role>.key`) where they
/// do not exist yet. For development and tests; on Kubernetes the operator does this.
pub fn ensure_internal_ca(
    _directory: &std::path::Path,
    _cluster: &Cluster,
    _roles: &[Role],
) -> Result<(), TlsError> {
    todo!()
}
