//! Mutual TLS between the roles of one cluster. Who a peer is stands in its certificate's URI SAN; addresses and host
//! names prove nothing and are not looked at.

use std::{fmt, io, path::PathBuf, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, RootCertStore, ServerConfig, SignatureScheme, WantsVerifier,
    client::{
        ResolvesClientCert, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use super::{
    CertificateFiles, TlsError,
    identity_files::{Identity, error, roots},
    provider, refuse_resumption,
};
use crate::{
    identity::{Cluster, IdentityError, Role},
    reload::{Content, Reloading},
};

/// Mutual TLS between the roles of one cluster: TLS 1.3 only, one CA, both sides check the other's role. Certificate,
/// key and CA reload. A cheap handle.
#[derive(Clone)]
pub struct InternalTls {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: Arc<Cluster>,
    material: Reloading<Material>,
    provider: Arc<CryptoProvider>,
    server: ConfigBuilder<ServerConfig, WantsVerifier>,
    client: ConfigBuilder<ClientConfig, WantsVerifier>,
}

/// Where a role's internal identity is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalTlsFiles {
    /// This process's certificate; its URI SAN names its role.
    pub identity: CertificateFiles,
    /// The cluster's CA.
    pub ca: PathBuf,
}

/// What the three files say together.
struct Material {
    certified_key: Arc<CertifiedKey>,
    not_after: i64,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl InternalTls {
    /// Loads the files now and watches them. Must be called inside a tokio runtime.
    pub fn load(files: &InternalTlsFiles, cluster: Cluster) -> Result<Self, TlsError> {
        let provider = provider();
        let cluster = Arc::new(cluster);
        let paths = vec![
            files.identity.certificate.clone(),
            files.identity.private_key.clone(),
            files.ca.clone(),
        ];
        let material = Reloading::watch("internal certificate", paths, {
            let (provider, cluster) = (provider.clone(), cluster.clone());
            move |contents| match contents {
                [certificate, private_key, ca] => {
                    Material::parse(certificate, private_key, ca, &cluster, &provider)
                }
                _ => unreachable!("three files were named"),
            }
        })?;
        Self::with(cluster, material, provider)
    }

    /// Of PEM texts, which stay as they are: for a caller that makes another one when they change.
    pub fn from_pem(
        certificate: &str,
        private_key: &str,
        ca: &str,
        cluster: Cluster,
    ) -> Result<Self, TlsError> {
        let provider = provider();
        let cluster = Arc::new(cluster);
        let [certificate, private_key, ca] = [
            ("the certificate", certificate),
            ("the private key", private_key),
            ("the CA", ca),
        ]
        .map(|(name, text)| Content::named(name, text));
        let material = Material::parse(&certificate, &private_key, &ca, &cluster, &provider)?;
        Self::with(cluster, Reloading::fixed(material), provider)
    }

    fn with(
        cluster: Arc<Cluster>,
        material: Reloading<Material>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let shared = Shared {
            cluster,
            material,
            server: ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?,
            client: ClientConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&rustls::version::TLS13])?,
            provider,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Admits peers with one of these roles. The config is to be asked for per connection: it changes with the files.
    pub fn server_config(&self, admit: &[Role]) -> Arc<ServerConfig> {
        let shared = &self.shared;
        let material = shared.material.load();
        let mut config = shared
            .server
            .clone()
            .with_client_cert_verifier(Arc::new(AdmittedClients {
                chain: material.clients.clone(),
                cluster: shared.cluster.clone(),
                admit: admit.to_vec(),
            }))
            .with_cert_resolver(Arc::new(OwnCertificate(material.certified_key.clone())));
        refuse_resumption(&mut config);
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// Talks to a peer that proves this role; its address and host name do not count. To be asked for per connection,
    /// like [`server_config`](Self::server_config).
    pub fn client_config(&self, peer: Role) -> Arc<ClientConfig> {
        let shared = &self.shared;
        let material = shared.material.load();
        let mut config = shared
            .client
            .clone()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerOfRole {
                roots: material.roots.clone(),
                cluster: shared.cluster.clone(),
                role: peer,
                provider: shared.provider.clone(),
            }))
            .with_client_cert_resolver(Arc::new(OwnCertificate(material.certified_key.clone())));
        // A resumed session would not look at the certificate again.
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// The role that a peer's certificate names.
    pub fn role_of(&self, certificate: &[u8]) -> Result<Role, IdentityError> {
        self.shared.cluster.role_of(certificate)
    }

    /// `notAfter` of the leaf in service, in seconds since the Unix epoch.
    pub fn not_after(&self) -> i64 {
        self.shared.material.load().not_after
    }
}

impl fmt::Debug for InternalTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InternalTls")
            .field("cluster", &self.shared.cluster)
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

impl Material {
    fn parse(
        certificate: &Content,
        private_key: &Content,
        ca: &Content,
        cluster: &Cluster,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let identity = Identity::parse(certificate, private_key)?;
        // A certificate that no peer would admit is better refused here, where the file is known.
        let leaf = identity.certified_key.end_entity_cert()?;
        cluster
            .role_of(leaf)
            .map_err(|reason| error(certificate, reason))?;
        let roots = Arc::new(roots(ca)?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|reason| error(ca, reason))?;
        Ok(Self {
            certified_key: identity.certified_key,
            not_after: identity.not_after,
            roots,
            clients,
        })
    }
}

/// The certificate's role, if it may talk to us.
fn admitted(cluster: &Cluster, admit: &[Role], certificate: &[u8]) -> Result<(), Error> {
    let role = cluster.role_of(certificate).map_err(refuse)?;
    if admit.contains(&role) {
        Ok(())
    } else {
        Err(refuse(IdentityError::WrongRole { role }))
    }
}

/// Why a handshake failed, if it was this side that did not like the peer's certificate.
pub fn refusal(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    if let Error::NoCertificatesPresented = error {
        return Some("the peer shows no certificate".to_owned());
    }
    let Error::InvalidCertificate(reason) = error else {
        return None;
    };
    Some(if let CertificateError::Other(identity) = reason {
        identity.0.to_string()
    } else {
        error.to_string()
    })
}

fn refuse(error: IdentityError) -> Error {
    CertificateError::Other(OtherError(Arc::new(error))).into()
}

/// Server side: the chain as webpki checks it, then the role.
#[derive(Debug)]
struct AdmittedClients {
    chain: Arc<dyn ClientCertVerifier>,
    cluster: Arc<Cluster>,
    admit: Vec<Role>,
}

impl ClientCertVerifier for AdmittedClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        admitted(&self.cluster, &self.admit, end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Client side: the chain to the cluster's CA, then the role, and deliberately no host name.
#[derive(Debug)]
struct ServerOfRole {
    roots: Arc<RootCertStore>,
    cluster: Arc<Cluster>,
    role: Role,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for ServerOfRole {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        admitted(&self.cluster, &[self.role], end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The certificate of this process, whatever the peer hints at.
#[derive(Debug)]
struct OwnCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
