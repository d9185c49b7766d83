//! Secrets come from files: mounted Secrets, or what the standalone process wrote on its first start. An error names
//! the file and what it should hold, never what it holds.

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use proto::grant::GrantSigner;
use runtime::bearer::BearerCredentials;
use zeroize::Zeroizing;

/// A secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// Not of the expected form.
    #[error("{}: expected {expected}", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// Not there, not readable, or not text.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

pub(crate) fn read(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(source) => Err(SecretFileError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// One credential a line; more than one while they rotate.
pub(crate) fn read_bearer_credentials(path: &Path) -> Result<BearerCredentials, SecretFileError> {
    let text = read(path)?;
    let credentials = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    if credentials().next().is_none() {
        return Err(SecretFileError::Content {
            path: path.to_owned(),
            expected: "a bearer token",
        });
    }
    Ok(BearerCredentials::new(credentials()))
}

/// One line; nothing else of it is looked at.
pub(crate) fn read_password(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let text = read(path)?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(Zeroizing::new(password.to_owned())),
        Some(_) | None => Err(SecretFileError::Content {
            path: path.to_owned(),
            expected: "a password on the first line",
        }),
    }
}

/// A file as [`encode_grant_key`] writes it.
pub(crate) fn read_grant_signer(path: &Path) -> Result<GrantSigner, SecretFileError> {
    let text = read(path)?;
    decode_grant_key(&text).ok_or_else(|| SecretFileError::Content {
        path: path.to_owned(),
        expected: "an Ed25519 private key (PKCS#8) as PEM",
    })
}

/// The content of a grant key file: PEM around a PKCS#8 private key (DER).
pub fn encode_grant_key(pkcs8: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(pkcs8));
    Zeroizing::new(format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        *body
    ))
}

fn decode_grant_key(text: &str) -> Option<GrantSigner> {
    let body: Zeroizing<String> = Zeroizing::new(
        text.lines()
            .map(str::trim)
            .filter(|line| !line.starts_with("-----"))
            .collect(),
    );
    let pkcs8 = Zeroizing::new(BASE64.decode(body.as_bytes()).ok()?);
    GrantSigner::from_pkcs8(&pkcs8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_key_survives_its_file() {
        let pkcs8 = GrantSigner::generate_pkcs8().unwrap();
        let public_key = GrantSigner::from_pkcs8(&pkcs8).unwrap().public_key();
        assert_eq!(
            decode_grant_key(&encode_grant_key(&pkcs8))
                .unwrap()
                .public_key(),
            public_key
        );
    }

    #[test]
    fn an_error_names_the_file_and_not_its_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "c2VjcmV0").unwrap();
        let error = read_grant_signer(file.path()).err().unwrap().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
        assert!(!error.contains("c2VjcmV0"), "{error}");
    }
}
