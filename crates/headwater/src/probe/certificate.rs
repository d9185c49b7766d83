//! What the server shows of itself, and what is wrong with it.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use parking_lot::Mutex;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use serde_json::{Value, json};
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{
    cause,
    report::{Detail, Outcome},
};
use crate::{
    bench::{TrustArguments, tls, tls::Anyone},
    output::printable,
};

/// Whom to believe, and what to show.
pub(super) struct Trust {
    ca_file: Option<String>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    insecure: bool,
    roots: Arc<RootCertStore>,
}

/// How the check of a certificate ended.
type Seen = Arc<Mutex<Option<Result<(), rustls::Error>>>>;

impl Trust {
    pub(super) fn new(
        trust: &TrustArguments,
        identity: Option<(&Path, &Path)>,
    ) -> anyhow::Result<Self> {
        let identity = identity.map(|(certificate, private_key)| {
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect)
                .with_context(|| {
                    format!("cannot read certificates from {}", certificate.display())
                })?;
            let key = PrivateKeyDer::from_pem_file(private_key)
                .with_context(|| format!("cannot read a key from {}", private_key.display()))?;
            anyhow::Ok((chain, key))
        });
        let this = Self {
            ca_file: trust
                .ca_file
                .as_ref()
                .map(|file| file.display().to_string()),
            identity: identity.transpose()?,
            insecure: trust.insecure,
            roots: Arc::new(tls::roots(trust)?),
        };
        // A pair that does not belong together is found now.
        this.config(Seen::default())?;
        Ok(this)
    }

    /// For one connection, and what becomes of the certificate.
    pub(super) fn connector(&self) -> anyhow::Result<(TlsConnector, Seen)> {
        let seen = Seen::default();
        let config = self.config(Arc::clone(&seen))?;
        Ok((Arc::new(config).into(), seen))
    }

    fn config(&self, seen: Seen) -> anyhow::Result<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::clone(&self.roots),
            Arc::clone(&provider),
        );
        let witness = Witness {
            // None where nothing at all is trusted.
            verifier: verifier.build().ok(),
            holds_key: Anyone(Arc::clone(&provider)),
            seen,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(witness));
        let mut config = match &self.identity {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .context("--cert and --cert-key do not belong together")?,
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn whom(&self) -> String {
        match &self.ca_file {
            Some(file) => format!("those of {file}"),
            None => "this machine's".to_owned(),
        }
    }
}

/// Checks as any client does, remembers the result, and lets the handshake end: what is shown can be shown.
#[derive(Debug)]
struct Witness {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    holds_key: Anyone,
    seen: Seen,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let checked = match &self.verifier {
            Some(verifier) => verifier
                .verify_server_cert(leaf, intermediates, name, ocsp, now)
                .map(|_verified| ()),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        *self.seen.lock() = Some(checked);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.holds_key
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.holds_key
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.holds_key.supported_verify_schemes()
    }
}

/// What a handshake showed.
pub(super) struct Shown {
    chain: Vec<Certificate>,
    checked: Result<(), rustls::Error>,
    cipher: String,
    host: String,
    version: String,
}

struct Certificate {
    issuer: String,
    names: Vec<String>,
    not_after: String,
    not_before: String,
    self_signed: bool,
    subject: String,
}

impl Shown {
    pub(super) fn new(session: &ClientConnection, host: &str, seen: &Seen) -> Self {
        let version = session.protocol_version();
        let cipher = session.negotiated_cipher_suite();
        let chain = session.peer_certificates().unwrap_or_default();
        Self {
            chain: chain.iter().filter_map(Certificate::read).collect(),
            checked: seen
                .lock()
                .clone()
                .unwrap_or(Err(CertificateError::UnknownIssuer.into())),
            cipher: cipher.map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
            host: host.to_owned(),
            version: match version {
                Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3".to_owned(),
                Some(rustls::ProtocolVersion::TLSv1_2) => "TLS 1.2".to_owned(),
                other => format!("{other:?}"),
            },
        }
    }

    pub(super) fn outcome(&self, trust: &Trust) -> Outcome {
        let passed = |checked: &str| {
            Outcome::Passed(format!("{}, {}, {checked}", self.version, self.cipher))
        };
        match (&self.checked, self.chain.first()) {
            (Ok(()), _) => passed(&format!("certificate trusted ({})", trust.whom())),
            (Err(error), _) if trust.insecure => passed(&format!("NOT trusted: {error}")),
            (Err(error), None) => Outcome::Failed {
                what: error.to_string(),
                meaning: "The server shows no certificate that can be read.".to_owned(),
            },
            (Err(error), Some(leaf)) => cause::certificate(
                error,
                &cause::Certificate {
                    host: &self.host,
                    issuer: &leaf.issuer,
                    names: &leaf.names.join(", "),
                    self_signed: leaf.self_signed,
                    until: &leaf.not_after,
                },
            ),
        }
    }

    pub(super) fn detail(&self) -> Detail {
        let sni = self.host.parse::<std::net::IpAddr>().is_err();
        let sni = sni.then_some(self.host.as_str());
        let mut lines = vec![format!("SNI {}", sni.unwrap_or("none, for an address"))];
        for (index, certificate) in self.chain.iter().enumerate() {
            lines.push(certificate.line(index));
        }
        Detail {
            lines,
            json: json!({
                "version": self.version,
                "cipher": self.cipher,
                "server_name": sni,
                "trusted": self.checked.is_ok(),
                "chain": self.chain.iter().map(Certificate::to_json).collect::<Vec<_>>(),
            }),
        }
    }
}

impl Certificate {
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| names.value.general_names.iter().filter_map(name).collect());
        let (subject, issuer) = (certificate.subject(), certificate.issuer());
        let time = |time: x509_parser::time::ASN1Time| {
            jiff::Timestamp::from_second(time.timestamp())
                .map_or_else(|_error| String::new(), |time| time.to_string())
        };
        Some(Self {
            self_signed: subject == issuer,
            subject: printable(subject.to_string()),
            issuer: printable(issuer.to_string()),
            names: names.unwrap_or_default(),
            not_before: time(certificate.validity().not_before),
            not_after: time(certificate.validity().not_after),
        })
    }

    fn line(&self, index: usize) -> String {
        let Self {
            issuer,
            names,
            not_after,
            subject,
            ..
        } = self;
        let names = match names.as_slice() {
            [] => String::new(),
            names => format!(" for {}", names.join(", ")),
        };
        format!("certificate {index}: {subject}{names}; by {issuer}; until {not_after}")
    }

    fn to_json(&self) -> Value {
        json!({
            "subject": self.subject,
            "issuer": self.issuer,
            "names": self.names,
            "not_before": self.not_before,
            "not_after": self.not_after,
        })
    }
}

/// Of a host.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the other kinds name no host"
)]
fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(printable((*name).to_owned())),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(|v4| std::net::IpAddr::from(v4).to_string());
            let v6 = <[u8; 16]>::try_from(*bytes).map(|v6| std::net::IpAddr::from(v6).to_string());
            v4.or(v6).ok()
        }
        _ => None,
    }
}
