//! Bearer credentials of the public API and of playback URLs.

use std::{fmt, path::PathBuf};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, SHA256_OUTPUT_LEN, digest},
};

use crate::reload::{FileError, Reloading};

/// Accepted credentials, as SHA-256 hashes; compared in constant time. A cheap handle; prints nothing of them.
#[derive(Clone)]
pub struct BearerCredentials {
    hashes: Reloading<Vec<[u8; SHA256_OUTPUT_LEN]>>,
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BearerError {
    /// Not one of ours.
    #[error("the bearer token is not valid")]
    Invalid,
    /// None was sent.
    #[error("a bearer token is required")]
    Missing,
}

impl BearerCredentials {
    /// Accepts each of these; surrounding white space does not count, and an empty one admits nobody.
    pub fn new<'a>(credentials: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            hashes: Reloading::fixed(hashes(credentials)),
        }
    }

    /// Accepts what a file holds, one credential a line (more than one while they rotate), and follows the file: a
    /// credential that is no longer in it is refused from then on. Must be called inside a tokio runtime.
    pub fn watch(what: &'static str, file: PathBuf) -> Result<Self, FileError> {
        let hashes = Reloading::watch_text(what, file, "a bearer token a line", |text| {
            Some(hashes(text.lines())).filter(|hashes| !hashes.is_empty())
        })?;
        Ok(Self { hashes })
    }

    /// Checks a bare credential.
    pub fn check(&self, credential: &str) -> Result<(), BearerError> {
        let credential = credential.trim();
        if credential.is_empty() {
            return Err(BearerError::Missing);
        }
        let hash = hash(credential);
        // All of them, so that the time does not tell which one it was.
        let accepted = self.hashes.load();
        let matches = accepted
            .iter()
            .filter(|accepted| verify_slices_are_equal(*accepted, &hash).is_ok())
            .count();
        if matches == 0 {
            return Err(BearerError::Invalid);
        }
        Ok(())
    }

    /// Checks an `authorization` header's value (`Bearer …`, the scheme in any case).
    pub fn check_header(&self, authorization: Option<&[u8]>) -> Result<(), BearerError> {
        self.check(credential(authorization)?)
    }

    /// Checks a gRPC request. The status carries no reason detail: `proto` is not known here.
    pub fn check_metadata(
        &self,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<(), BearerError> {
        self.check_header(metadata.get("authorization").map(|value| value.as_bytes()))
    }
}

impl fmt::Debug for BearerCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BearerCredentials({})", self.hashes.load().len())
    }
}

/// What an `authorization` header carries (`Bearer …`, the scheme in any case), unchecked.
pub fn credential(authorization: Option<&[u8]>) -> Result<&str, BearerError> {
    let header = authorization.ok_or(BearerError::Missing)?;
    let header = std::str::from_utf8(header).map_err(|_| BearerError::Invalid)?;
    match header.trim().split_once(' ') {
        Some((scheme, credential)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(credential.trim())
        }
        Some(_) | None => Err(BearerError::Invalid),
    }
}

fn hashes<'a>(credentials: impl IntoIterator<Item = &'a str>) -> Vec<[u8; SHA256_OUTPUT_LEN]> {
    credentials
        .into_iter()
        .map(str::trim)
        .filter(|credential| !credential.is_empty())
        .map(hash)
        .collect()
}

fn hash(credential: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut hash = [0; SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest(&SHA256, credential.as_bytes()).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_accepted_credential_is_let_in_and_no_other() {
        let credentials = BearerCredentials::new(["one\n", " two "]);
        assert_eq!(credentials.check("one"), Ok(()));
        assert_eq!(credentials.check("two"), Ok(()));
        assert_eq!(credentials.check("three"), Err(BearerError::Invalid));
        assert_eq!(credentials.check("on"), Err(BearerError::Invalid));
        assert_eq!(credentials.check(""), Err(BearerError::Missing));
    }

    #[test]
    fn an_empty_file_admits_nobody() {
        let credentials = BearerCredentials::new(["", "\n"]);
        assert_eq!(credentials.check("\n"), Err(BearerError::Missing));
        assert_eq!(credentials.check("x"), Err(BearerError::Invalid));
        assert_eq!(
            credentials.check_header(Some(b"Bearer ")),
            Err(BearerError::Invalid)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let credentials = BearerCredentials::watch("a token", file.clone()).unwrap();
        let accepts = |token: &str| credentials.check(token).is_ok();
        let reload = async || tokio::time::sleep(crate::reload::RELOAD_PERIOD * 2).await;
        assert!(accepts("one") && !accepts("two"));
        std::fs::write(&file, "one\ntwo\n").unwrap();
        reload().await;
        assert!(accepts("one") && accepts("two"), "both while they rotate");
        std::fs::write(&file, "two\n").unwrap();
        reload().await;
        assert!(!accepts("one") && accepts("two"));
        std::fs::write(&file, "\n").unwrap();
        reload().await;
        assert!(accepts("two"), "an empty file locks nobody out");
        assert!(BearerCredentials::watch("a token", file).is_err());
    }

    #[test]
    fn a_header_needs_the_bearer_scheme() {
        let credentials = BearerCredentials::new(["secret"]);
        assert_eq!(credentials.check_header(Some(b"Bearer secret")), Ok(()));
        assert_eq!(credentials.check_header(Some(b"bearer secret")), Ok(()));
        for wrong in [
            &b"secret"[..],
            b"Basic secret",
            b"Bearer",
            b"Bearer other",
            b"Bearer \xff",
        ] {
            assert_eq!(
                credentials.check_header(Some(wrong)),
                Err(BearerError::Invalid),
                "{wrong:?}"
            );
        }
        assert_eq!(credentials.check_header(None), Err(BearerError::Missing));
    }

    #[test]
    fn nothing_of_a_credential_is_printed() {
        let credentials = BearerCredentials::new(["secret"]);
        assert_eq!(format!("{credentials:?}"), "BearerCredentials(1)");
    }
}
