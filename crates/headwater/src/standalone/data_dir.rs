//! What a standalone process keeps: secrets, certificate, database, and where it serves now.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use proto::grant::GrantVerifier;
use runtime::tls::{CertificateFiles, ensure_self_signed};

use crate::{files, secrets};

/// Names of the files.
pub(crate) struct DataDir {
    directory: PathBuf,
}

/// What the roles share.
pub(super) struct Secrets {
    pub(super) api_token: String,
    pub(super) grants: GrantVerifier,
    pub(super) playback_token: String,
}

impl DataDir {
    pub(crate) const DEFAULT: &str = "./data";

    pub(crate) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// What `keys` and `sessions` need to find it: nothing where it is the one that they look into unasked.
    pub(super) fn argument(&self) -> String {
        if self.directory == Path::new(Self::DEFAULT) {
            String::new()
        } else {
            format!(" --data-dir {}", self.directory.display())
        }
    }

    /// For one process at a time, for as long as the file is open.
    pub(super) fn lock(&self) -> anyhow::Result<File> {
        files::private_directory(&self.directory)?;
        let path = self.file("lock");
        let lock =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(anyhow::anyhow!(
                "another standalone process uses {}; stop it, or give this one its own --data-dir",
                self.directory.display()
            )),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Reads every secret; makes those that are missing.
    pub(super) fn secrets(&self) -> anyhow::Result<Secrets> {
        files::private_directory(&self.file("tls"))?;
        ensure_self_signed(&self.certificate(), &secrets::local_names())
            .context("cannot make a certificate")?;
        secrets::ensure_pepper(&self.file("pepper"))?;
        let public_key = secrets::ensure_grant_key(&self.file("grant.key"))?;
        Ok(Secrets {
            api_token: secrets::ensure_bearer_token(&self.api_token())?,
            grants: GrantVerifier::new([public_key]),
            playback_token: secrets::ensure_bearer_token(&self.file("playback-token"))?,
        })
    }

    pub(super) fn control_config(&self) -> control::Config {
        let mut config = control::Config::new(
            control::DatabaseConfig::Sqlite {
                path: self.database(),
            },
            self.file("pepper"),
            self.file("grant.key"),
            self.api_token(),
        );
        // Of receivers of events.
        config.egress.roots = rustls_native_certs::load_native_certs().certs;
        config
    }

    /// Stream keys, tokens and logs.
    pub(crate) fn database(&self) -> PathBuf {
        self.file("control.db")
    }

    /// Where the process serves: for the commands that follow.
    pub(crate) fn addresses(&self) -> PathBuf {
        self.file("addresses.json")
    }

    pub(crate) fn api_token(&self) -> PathBuf {
        self.file("api-token")
    }

    /// What encoders and API clients see.
    pub(crate) fn certificate(&self) -> CertificateFiles {
        CertificateFiles {
            certificate: self.file("tls/certificate.pem"),
            private_key: self.file("tls/private-key.pem"),
        }
    }

    /// Kept for convenience; may be deleted.
    pub(super) fn first_stream_key(&self) -> PathBuf {
        self.file("first-stream-key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_is_one_processs_alone() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(directory.path());
        let lock = data_dir.lock().unwrap();
        let refused = data_dir.lock().unwrap_err().to_string();
        assert!(refused.contains("another standalone process"), "{refused}");
        drop(lock);
        data_dir.lock().unwrap();
    }
}
