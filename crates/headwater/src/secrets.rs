//! Secrets that are made where they do not exist: for the standalone process and for development.

use std::path::Path;

use anyhow::Context as _;
use proto::grant::GrantSigner;
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};

use crate::files;

/// A bearer token: what is in the file, or a new one.
pub(crate) fn ensure_bearer_token(path: &Path) -> anyhow::Result<String> {
    let token = files::ensure_private(path, || Ok(files::random_hex()? + "\n"))?;
    let token = token.trim().to_owned();
    anyhow::ensure!(!token.is_empty(), "{} is empty", path.display());
    Ok(token)
}

/// The pepper of stream keys.
pub(crate) fn ensure_pepper(path: &Path) -> anyhow::Result<()> {
    files::ensure_private(path, || {
        let pepper = control::generate_pepper_file();
        let pepper = pepper.context("the system's random numbers are not available")?;
        Ok(pepper.to_string())
    })?;
    Ok(())
}

/// The private key that signs grants; gives its public key.
pub(crate) fn ensure_grant_key(path: &Path) -> anyhow::Result<[u8; 32]> {
    files::ensure_private(path, || {
        let pkcs8 = GrantSigner::generate_pkcs8().context("cannot make a grant key")?;
        Ok(control::encode_grant_key(&pkcs8).to_string())
    })?;
    let malformed = || format!("{} holds no grant key", path.display());
    let pkcs8 = PrivatePkcs8KeyDer::from_pem_file(path).with_context(malformed)?;
    let signer = GrantSigner::from_pkcs8(pkcs8.secret_pkcs8_der()).with_context(malformed)?;
    Ok(signer.public_key())
}

/// What this machine is called by itself.
pub(crate) fn local_names() -> Vec<String> {
    ["localhost", "127.0.0.1", "::1"]
        .map(str::to_owned)
        .to_vec()
}
