//! What certificate, key and CA files hold.

use std::sync::Arc;

use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{TlsError, provider};
use crate::reload::Content;

/// A certificate chain with its key.
pub(super) struct Identity {
    pub(super) certified_key: Arc<CertifiedKey>,
    /// Of the leaf, in seconds since the Unix epoch.
    pub(super) not_after: i64,
    /// Of the leaf's subjectAltName, in lower case; wildcards with their `*.`.
    pub(super) dns_names: Vec<String>,
}

/// What is wrong with a file.
pub(super) fn error(content: &Content, reason: impl ToString) -> TlsError {
    TlsError::File {
        path: content.path().to_owned(),
        reason: reason.to_string(),
    }
}

/// Every certificate of the file as a trust anchor.
pub(crate) fn roots(content: &Content) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(content)? {
        roots
            .add(certificate)
            .map_err(|reason| error(content, reason))?;
    }
    Ok(roots)
}

fn certificates(content: &Content) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(content.bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|reason| error(content, reason))?;
    if certificates.is_empty() {
        return Err(error(content, "no certificate in it"));
    }
    Ok(certificates)
}

impl Identity {
    /// Fails also when the key is not the leaf's.
    pub(super) fn parse(certificate: &Content, private_key: &Content) -> Result<Self, TlsError> {
        let chain = certificates(certificate)?;
        let (not_after, dns_names) = match chain.first().map(|leaf| X509Certificate::from_der(leaf))
        {
            Some(Ok((_, leaf))) => (leaf.validity().not_after.timestamp(), dns_names(&leaf)),
            Some(Err(reason)) => return Err(error(certificate, reason)),
            None => return Err(error(certificate, "no certificate in it")),
        };
        let private_key = PrivateKeyDer::from_pem_slice(private_key.bytes())
            .map_err(|reason| error(private_key, reason))?;
        let certified_key = CertifiedKey::from_der(chain, private_key, &provider())
            .map_err(|reason| error(certificate, reason))?;
        Ok(Self {
            certified_key: Arc::new(certified_key),
            not_after,
            dns_names,
        })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("dns_names", &self.dns_names)
            .finish_non_exhaustive()
    }
}

fn dns_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = leaf.subject_alternative_name() else {
        return Vec::new();
    };
    let names = &extension.value.general_names;
    let mut names: Vec<_> = names
        .iter()
        .filter_map(|name| {
            if let GeneralName::DNSName(name) = name {
                Some(name.to_ascii_lowercase())
            } else {
                None
            }
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::{
        super::{CertificateFiles, ensure_self_signed},
        *,
    };
    use crate::reload::Files;

    #[test]
    fn a_pair_that_does_not_belong_together_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pair = |name: &str| {
            let files = CertificateFiles {
                certificate: directory.path().join(format!("{name}.pem")),
                private_key: directory.path().join(format!("{name}.key")),
            };
            ensure_self_signed(&files, &["localhost".to_owned()]).unwrap();
            files
        };
        let (one, other) = (pair("one"), pair("other"));
        let parse = |certificate: &std::path::Path, private_key: &std::path::Path| {
            let paths = vec![certificate.to_owned(), private_key.to_owned()];
            let (_, contents) = Files::read(paths).unwrap();
            Identity::parse(&contents[0], &contents[1])
        };
        assert!(parse(&one.certificate, &one.private_key).is_ok());
        assert!(parse(&one.certificate, &other.private_key).is_err());
        assert!(parse(&one.private_key, &one.private_key).is_err());
        let nonsense = directory.path().join("nonsense");
        std::fs::write(&nonsense, "nonsense").unwrap();
        assert!(parse(&nonsense, &one.private_key).is_err());
    }
}
