//! Certificates from files that reload when they change: the one that encoders and API clients see, and the mutual TLS
//! between the roles of a cluster.
//!
//! Everything here names its crypto provider (aws-lc-rs), so that nothing depends on the process default.

mod certificate_set;
mod client_certificates;
mod encoders;
mod generate;
mod identity_files;
mod internal;
mod misplaced;

use std::{fmt, path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, danger::ClientCertVerifier},
    sign::CertifiedKey,
};

use crate::reload::{FileError, Reloading};

use self::identity_files::Identity;
pub(crate) use self::identity_files::roots;
pub use self::{
    certificate_set::NameMatch,
    client_certificates::{
        ClientCertificate, ClientCertificateFiles, ClientCertificates, client_certificate_reason,
    },
    encoders::{CERTIFICATES_MAX, EncoderTls, EncoderTlsFiles, LOOK_PERIOD, MinimumVersion},
    generate::{ensure_internal_ca, ensure_self_signed},
    internal::{InternalTls, InternalTlsFiles, refusal},
    misplaced::is_misplaced,
};

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
pub struct ReloadingCertificate {
    current: Reloading<Identity>,
    /// Of the other side's certificates; without one, none is asked for.
    clients: Option<Reloading<Option<Arc<dyn ClientCertVerifier>>>>,
}

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
    #[error("TLS configuration: {0}")]
    Rustls(#[from] rustls::Error),
}

impl From<FileError> for TlsError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Content { path, expected } => Self::File {
                path,
                reason: format!("expected {expected}"),
            },
            FileError::Unreadable { path, source } => Self::File {
                path,
                reason: source.to_string(),
            },
        }
    }
}

impl ReloadingCertificate {
    /// Loads the files now and watches them for as long as the handle lives. Must be called inside a tokio runtime.
    pub fn load(files: &CertificateFiles) -> Result<Self, TlsError> {
        let paths = vec![files.certificate.clone(), files.private_key.clone()];
        let current = Reloading::watch("certificate", paths, |contents| match contents {
            [certificate, private_key] => Identity::parse(certificate, private_key),
            _ => unreachable!("two files were named"),
        })?;
        Ok(Self {
            current,
            clients: None,
        })
    }

    /// Asks clients for certificates. CAs and revocation lists are followed; a connection that is there stays.
    pub fn with_client_certificates(self, asked: ClientCertificates) -> Result<Self, TlsError> {
        let Some(files) = asked.files() else {
            return Ok(self);
        };
        let paths = std::iter::once(&files.ca).chain(&files.crls);
        let paths = paths.cloned().collect();
        let clients = Reloading::watch("CAs of API clients", paths, move |contents| {
            let trust = asked.trust(contents, &provider())?;
            Ok::<_, TlsError>(trust.map(|trust| trust.verifier))
        })?;
        Ok(Self {
            clients: Some(clients),
            ..self
        })
    }

    /// For a listener that faces API clients: TLS 1.2 and 1.3, no resumption. The certificate is
    /// the same for every server name and for none.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = self
            .clients
            .as_ref()
            .and_then(|clients| clients.load().as_ref().clone());
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.clone()));
        refuse_resumption(&mut config);
        Ok(Arc::new(config))
    }

    /// `notAfter` of the leaf in service, in seconds since the Unix epoch.
    pub fn not_after(&self) -> i64 {
        self.current.load().not_after
    }
}

impl fmt::Debug for ReloadingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadingCertificate")
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().certified_key.clone())
    }
}

/// Makes aws-lc-rs the process default, for libraries that ask for one (redis, sqlx). Call once, at the start of `main`.
pub fn install_crypto_provider() {
    // An error says that somebody installed one before; there is only one in this binary.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Connections live for hours: resumption saves nothing, and tickets break librtmp on TLS 1.3.
fn refuse_resumption(config: &mut ServerConfig) {
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
}

#[cfg(test)]
mod tests;
