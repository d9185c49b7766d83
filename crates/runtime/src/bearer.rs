//! Bearer credentials of the public API and of playback URLs.

use std::sync::Arc;

/// Accepted credentials, as SHA-256 hashes; compared in constant time. A cheap handle; prints nothing of them.
#[derive(Clone)]
pub struct BearerCredentials {
    hashes: Arc<[[u8; 32]]>,
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
    /// Accepts each of these; surrounding white space does not count.
    pub fn new<'a>(_credentials: impl IntoIterator<Item = &'a str>) -> Self {
        let _ = &Self {
            hashes: Arc::new([]),
        }
        .hashes;
        todo!()
    }

    /// Checks a bare credential.
    pub fn check(&self, _credential: &str) -> Result<(), BearerError> {
        todo!()
    }

    /// Checks an `authorization` header's value (`Bearer …`).
    pub fn check_header(&self, _authorization: Option<&[u8]>) -> Result<(), BearerError> {
        todo!()
    }

    /// Checks a gRPC request. The status carries no reason detail: `proto` is not known here.
    pub fn check_metadata(
        &self,
        metadata: &tonic::metadata::MetadataMap,
    ) -> Result<(), BearerError> {
        self.check_header(metadata.get("authorization").map(|value| value.as_bytes()))
    }
}
