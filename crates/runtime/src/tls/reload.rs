//! Files that are looked at again and again, and what was last read from them in a valid form.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use rustls::{RootCertStore, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, provider};

/// Between two looks at the files.
const RELOAD_PERIOD: Duration = Duration::from_secs(2);
/// No certificate, key or CA file is anywhere near this size, in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;

/// A file as it was read.
pub(super) struct Content {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A certificate chain with its key.
pub(super) struct Identity {
    pub(super) certified_key: Arc<CertifiedKey>,
    /// Of the leaf, in seconds since the Unix epoch.
    pub(super) not_after: i64,
}

impl Content {
    /// A text that is in no file; errors call it by this name.
    pub(super) fn named(name: &str, text: &str) -> Self {
        Self {
            path: name.into(),
            bytes: text.as_bytes().to_vec(),
        }
    }

    pub(super) fn error(&self, reason: impl ToString) -> TlsError {
        TlsError::File {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.error(error))?;
        if certificates.is_empty() {
            return Err(self.error("no certificate in it"));
        }
        Ok(certificates)
    }

    /// Every certificate of the file as a trust anchor.
    pub(super) fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.error(error))?;
        }
        Ok(roots)
    }
}

impl Identity {
    /// Fails also when the key is not the leaf's.
    pub(super) fn parse(certificate: &Content, private_key: &Content) -> Result<Self, TlsError> {
        let chain = certificate.certificates()?;
        let not_after = match chain.first().map(|leaf| X509Certificate::from_der(leaf)) {
            Some(Ok((_, leaf))) => leaf.validity().not_after.timestamp(),
            Some(Err(error)) => return Err(certificate.error(error)),
            None => return Err(certificate.error("no certificate in it")),
        };
        let private_key = PrivateKeyDer::from_pem_slice(&private_key.bytes)
            .map_err(|error| private_key.error(error))?;
        let certified_key = CertifiedKey::from_der(chain, private_key, &provider())
            .map_err(|error| certificate.error(error))?;
        Ok(Self {
            certified_key: Arc::new(certified_key),
            not_after,
        })
    }
}

/// Reads and parses the files now, and again whenever their contents change, until the handle is dropped. A version
/// that does not parse is reported once and leaves the last good one in place.
pub(super) fn watch<T: Send + Sync + 'static>(
    paths: Vec<PathBuf>,
    parse: impl Fn(&[Content]) -> Result<T, TlsError> + Send + 'static,
) -> Result<Arc<ArcSwap<T>>, TlsError> {
    let (mut watcher, current) = Watcher::load(paths, parse)?;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(RELOAD_PERIOD).await;
            // Small local files: the read is shorter than a hop to the blocking pool.
            if watcher.look().is_none() {
                return;
            }
        }
    });
    Ok(current)
}

struct Watcher<T, P> {
    paths: Vec<PathBuf>,
    parse: P,
    current: Weak<ArcSwap<T>>,
    /// Of the version that was looked at last, valid or not; empty while the files cannot be read.
    seen: Vec<Vec<u8>>,
}

impl<T, P: Fn(&[Content]) -> Result<T, TlsError>> Watcher<T, P> {
    fn load(paths: Vec<PathBuf>, parse: P) -> Result<(Self, Arc<ArcSwap<T>>), TlsError> {
        let contents = read(&paths)?;
        let current = Arc::new(ArcSwap::from_pointee(parse(&contents)?));
        let watcher = Self {
            paths,
            parse,
            current: Arc::downgrade(&current),
            seen: fingerprint(&contents),
        };
        Ok((watcher, current))
    }

    /// Whether there was a new valid version; `None` when nobody needs it any more.
    fn look(&mut self) -> Option<bool> {
        let current = self.current.upgrade()?;
        let contents = match read(&self.paths) {
            Ok(contents) => contents,
            Err(error) => {
                if !self.seen.is_empty() {
                    warn!(%error, "certificate files cannot be read; the last good ones stay in service");
                }
                self.seen.clear();
                return Some(false);
            }
        };
        let now = fingerprint(&contents);
        if now == self.seen {
            return Some(false);
        }
        self.seen = now;
        match (self.parse)(&contents) {
            Ok(value) => {
                current.store(Arc::new(value));
                info!(files = ?self.paths, "certificate reloaded");
                Some(true)
            }
            Err(error) => {
                warn!(%error, "certificate files are not valid; the last good ones stay in service");
                Some(false)
            }
        }
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<Content>, TlsError> {
    paths
        .iter()
        .map(|path| {
            let error = |reason: String| TlsError::File {
                path: path.clone(),
                reason,
            };
            let metadata = std::fs::metadata(path).map_err(|e| error(e.to_string()))?;
            if metadata.len() > FILE_LIMIT {
                return Err(error(format!("longer than {FILE_LIMIT} bytes")));
            }
            let bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
            Ok(Content {
                path: path.clone(),
                bytes,
            })
        })
        .collect()
}

/// Contents rather than times: Kubernetes swaps a symlink, and some file systems have coarse times.
fn fingerprint(contents: &[Content]) -> Vec<Vec<u8>> {
    contents
        .iter()
        .map(|content| digest(&SHA256, &content.bytes).as_ref().to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{CertificateFiles, ensure_self_signed},
        *,
    };

    #[test]
    fn broken_files_leave_the_last_good_pair_in_service() {
        let directory = tempfile::tempdir().unwrap();
        let pair = |name: &str| {
            let files = CertificateFiles {
                certificate: directory.path().join(format!("{name}.pem")),
                private_key: directory.path().join(format!("{name}.key")),
            };
            ensure_self_signed(&files, &["localhost".to_owned()]).unwrap();
            files
        };
        let (served, next) = (pair("served"), pair("next"));
        let (mut watcher, current) = Watcher::load(
            vec![served.certificate.clone(), served.private_key.clone()],
            |contents| match contents {
                [certificate, private_key] => Identity::parse(certificate, private_key),
                _ => unreachable!("two files were named"),
            },
        )
        .unwrap();
        let leaf = || {
            current
                .load()
                .certified_key
                .end_entity_cert()
                .unwrap()
                .to_vec()
        };
        let first = leaf();
        assert_eq!(watcher.look(), Some(false));

        // A key that is not the certificate's, no PEM at all, no file.
        std::fs::copy(&next.private_key, &served.private_key).unwrap();
        assert_eq!(watcher.look(), Some(false));
        std::fs::write(&served.certificate, "nonsense").unwrap();
        assert_eq!(watcher.look(), Some(false));
        std::fs::remove_file(&served.certificate).unwrap();
        assert_eq!(watcher.look(), Some(false));
        assert_eq!(leaf(), first);

        std::fs::copy(&next.certificate, &served.certificate).unwrap();
        assert_eq!(watcher.look(), Some(true));
        assert_ne!(leaf(), first);
        assert_eq!(watcher.look(), Some(false));
        drop(current);
        assert_eq!(watcher.look(), None);
    }
}
