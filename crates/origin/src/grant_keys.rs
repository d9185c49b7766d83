//! The keys that grants are verified with: a file that is followed.

use std::path::PathBuf;

use proto::grant::GrantVerifier;
use runtime::reload::{FileError, Reloading};

/// Control's public keys, 64 hex digits a line; more than one while the key rotates. Follows the file. Must be called
/// inside a tokio runtime.
pub fn watch_grant_keys(file: PathBuf) -> Result<Reloading<GrantVerifier>, FileError> {
    let expected = "public keys, 64 hex digits a line";
    Reloading::watch_text("grant keys", file, expected, GrantVerifier::from_hex_lines)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::{grant::GrantSigner, internal::v1::Grant};

    use super::*;

    fn signer() -> (GrantSigner, String) {
        let signer = GrantSigner::from_pkcs8(&GrantSigner::generate_pkcs8().unwrap()).unwrap();
        let digits = signer.public_key().map(|byte| format!("{byte:02x}"));
        (signer, digits.concat())
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_rotates_with_overlap() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("grant.pub");
        let ((old, old_key), (new, new_key)) = (signer(), signer());
        std::fs::write(&file, format!("{old_key}\n")).unwrap();
        let keys = watch_grant_keys(file.clone()).unwrap();
        let verifies = |signer: &GrantSigner| {
            let signed = signer.sign(&Grant::default());
            keys.load().verify(&signed).is_ok()
        };
        let reload = async || tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(verifies(&old) && !verifies(&new));
        std::fs::write(&file, format!("{new_key}\n{old_key}\n")).unwrap();
        reload().await;
        assert!(verifies(&old) && verifies(&new));
        std::fs::write(&file, "nonsense").unwrap();
        reload().await;
        assert!(verifies(&old) && verifies(&new));
        std::fs::write(&file, format!("{new_key}\n")).unwrap();
        reload().await;
        assert!(!verifies(&old) && verifies(&new));
    }
}
