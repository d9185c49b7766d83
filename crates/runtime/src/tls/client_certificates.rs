//! Certificates of encoders: who issues them, which were revoked, and what a verified one says.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::{
    CertificateError, Error,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use x509_parser::prelude::{CertificateRevocationList, FromDer as _, GeneralName, X509Certificate};

use super::{
    TlsError,
    identity_files::{error, roots},
};
use crate::reload::Content;

/// Whether encoders show certificates, and whose are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None is asked for.
    #[default]
    Off,
    /// One is asked for; who has none may come as well.
    Optional(ClientCertificateFiles),
    /// Nobody comes without one.
    Required(ClientCertificateFiles),
}

/// Who issues encoders' certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificateFiles {
    /// The CAs, as PEM.
    pub ca: PathBuf,
    /// Revocation lists, PEM or DER. A CA without one revokes nothing; one that is past its next update still counts.
    pub crls: Vec<PathBuf>,
}

/// What a verified client certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Common name; empty where there is none.
    pub subject: String,
    /// `dns:…` (in lower case), `uri:…` and `email:…` of its subjectAltName.
    pub sans: Vec<String>,
    /// SHA-256 of the certificate.
    pub sha256: [u8; 32],
}

/// What client certificates are checked against, as the files were read.
pub(super) struct Trust {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    /// Of each file of revocation lists: its name, and the earliest `nextUpdate` in it, in seconds since the Unix epoch.
    pub(super) next_updates: BTreeMap<String, i64>,
}

/// Of one certificate; what is behind them is left out.
const SANS_MAX: usize = 64;
/// Of a name in one, in bytes; longer ones are left out.
const NAME_BYTES_MAX: usize = 512;

impl ClientCertificates {
    pub(super) fn files(&self) -> Option<&ClientCertificateFiles> {
        match self {
            Self::Off => None,
            Self::Optional(files) | Self::Required(files) => Some(files),
        }
    }

    /// `contents`: of the CA file, then of the revocation lists.
    pub(super) fn trust(
        &self,
        contents: &[Content],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Trust>, TlsError> {
        let Some((ca, crls)) = contents.split_first() else {
            return Ok(None);
        };
        let (mut lists, mut next_updates) = (Vec::new(), BTreeMap::new());
        for content in crls {
            let of_file = revocation_lists(content)?;
            if let Some(next_update) = of_file.iter().filter_map(next_update).min() {
                let earliest = next_updates.entry(name(content)).or_insert(next_update);
                *earliest = next_update.min(*earliest);
            }
            lists.extend(of_file);
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider.clone())
                .with_crls(lists)
                // Not every CA of a bundle has a list. One that is past its next update goes on to count: what it
                // revokes stays revoked, and an authority that is late with it locks nobody out.
                .allow_unknown_revocation_status();
        let builder = match self {
            Self::Optional(_) => builder.allow_unauthenticated(),
            Self::Off | Self::Required(_) => builder,
        };
        let verifier = builder.build().map_err(|reason| error(ca, reason))?;
        Ok(Some(Trust {
            verifier,
            next_updates,
        }))
    }
}

/// What metrics and logs call a file of revocation lists.
fn name(content: &Content) -> String {
    let name = content.path().file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn next_update(list: &CertificateRevocationListDer<'_>) -> Option<i64> {
    let (_, list) = CertificateRevocationList::from_der(list).ok()?;
    Some(list.next_update()?.timestamp())
}

fn revocation_lists(
    content: &Content,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    if !content.bytes().starts_with(b"-----BEGIN") {
        return Ok(vec![content.bytes().to_vec().into()]);
    }
    let lists = CertificateRevocationListDer::pem_slice_iter(content.bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reason| error(content, reason))?;
    if lists.is_empty() {
        return Err(error(content, "no revocation list in it"));
    }
    Ok(lists)
}

impl ClientCertificate {
    /// Of a certificate that was verified.
    pub fn read(certificate: &CertificateDer<'_>) -> Self {
        let mut this = Self::default();
        for (to, from) in this
            .sha256
            .iter_mut()
            .zip(digest(&SHA256, certificate).as_ref())
        {
            *to = *from;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return this;
        };
        let mut common_names = certificate.subject().iter_common_name();
        let subject = common_names.next().and_then(|name| name.as_str().ok());
        let subject = subject.filter(|subject| subject.len() <= NAME_BYTES_MAX);
        this.subject = subject.unwrap_or_default().to_owned();
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            let names = names.value.general_names.iter();
            this.sans = names.filter_map(san).take(SANS_MAX).collect();
        }
        this
    }
}

fn san(name: &GeneralName<'_>) -> Option<String> {
    let (kind, name) = if let GeneralName::DNSName(name) = name {
        ("dns", name.to_ascii_lowercase())
    } else if let GeneralName::URI(uri) = name {
        ("uri", (*uri).to_owned())
    } else if let GeneralName::RFC822Name(name) = name {
        ("email", (*name).to_owned())
    } else {
        return None;
    };
    (name.len() <= NAME_BYTES_MAX).then(|| format!("{kind}:{name}"))
}

/// Why a client certificate was not taken, as metrics have it; `None` where the handshake failed for another reason.
pub fn client_certificate_reason(error: &Error) -> Option<&'static str> {
    use CertificateError::{BadSignature, Expired, ExpiredContext, Revoked, UnknownIssuer};
    if let Error::NoCertificatesPresented = error {
        return Some("client_certificate_missing");
    }
    let Error::InvalidCertificate(error) = error else {
        return None;
    };
    Some(if matches!(error, Expired | ExpiredContext { .. }) {
        "client_certificate_expired"
    } else if matches!(error, Revoked) {
        "client_certificate_revoked"
    } else if matches!(error, UnknownIssuer | BadSignature) {
        "client_certificate_unknown_issuer"
    } else {
        "client_certificate_invalid"
    })
}
