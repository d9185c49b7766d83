//! What control allowed, signed: Ed25519 over [`CONTEXT`] and a serialized [`Grant`].

use aws_lc_rs::{
    digest,
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use data_encoding::HEXLOWER_PERMISSIVE;
use prost::Message as _;

use crate::internal::v1::{Grant, SignedGrant};

/// Separates these signatures from any other use of the key.
pub const CONTEXT: &[u8] = b"headwater-grant-v1";

/// Longest serialized signed grant that is looked at, in bytes.
pub const SIGNED_GRANT_BYTES_MAX: usize = 8 * 1024;

/// Signs grants; control holds it.
pub struct GrantSigner {
    key_pair: Ed25519KeyPair,
}

/// Verifies grants; origins hold it. More than one key while control's key rotates.
#[derive(Clone, Debug)]
pub struct GrantVerifier {
    public_keys: Vec<[u8; 32]>,
}

/// Why a grant was not accepted.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrantError {
    /// Its time is over.
    #[error("the grant expired")]
    Expired,
    /// Not a signed grant.
    #[error("the grant is malformed")]
    Malformed,
    /// Not signed by a known key.
    #[error("the grant's signature is not valid")]
    Signature,
}

/// The key could not be used.
#[derive(Debug, thiserror::Error)]
#[error("not an Ed25519 key")]
pub struct KeyError;

impl GrantSigner {
    /// Reads a PKCS#8 private key (DER).
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let key_pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_rejected| KeyError)?;
        Ok(Self { key_pair })
    }

    /// A new private key as PKCS#8 DER.
    pub fn generate_pkcs8() -> Result<Vec<u8>, KeyError> {
        let key_pair = Ed25519KeyPair::generate().map_err(|_unavailable| KeyError)?;
        let document = key_pair.to_pkcs8().map_err(|_unavailable| KeyError)?;
        Ok(document.as_ref().to_vec())
    }

    /// 32 bytes: what a [`GrantVerifier`] needs.
    pub fn public_key(&self) -> [u8; 32] {
        let mut public_key = [0; 32];
        public_key.copy_from_slice(self.key_pair.public_key().as_ref());
        public_key
    }

    /// A serialized [`SignedGrant`].
    pub fn sign(&self, grant: &Grant) -> Vec<u8> {
        let grant = grant.encode_to_vec();
        let signature = self.key_pair.sign(&signed_bytes(&grant));
        SignedGrant {
            signature: signature.as_ref().to_vec(),
            key_id: key_id(&self.public_key()),
            grant,
        }
        .encode_to_vec()
    }
}

impl GrantVerifier {
    /// Verifies with any of these keys.
    pub fn new(public_keys: impl IntoIterator<Item = [u8; 32]>) -> Self {
        Self {
            public_keys: public_keys.into_iter().collect(),
        }
    }

    /// Reads public keys, 64 hex digits a line; `None` where a line is something else, or there is none.
    pub fn from_hex_lines(text: &str) -> Option<Self> {
        let public_keys = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| {
                let bytes = HEXLOWER_PERMISSIVE.decode(line.as_bytes()).ok()?;
                bytes.try_into().ok()
            })
            .collect::<Option<Vec<[u8; 32]>>>()?;
        (!public_keys.is_empty()).then_some(Self { public_keys })
    }

    /// The grant, if a known key signed it. Its times are the caller's to check.
    pub fn verify(&self, signed_grant: &[u8]) -> Result<Grant, GrantError> {
        if signed_grant.len() > SIGNED_GRANT_BYTES_MAX {
            return Err(GrantError::Malformed);
        }
        let signed =
            SignedGrant::decode(signed_grant).map_err(|_malformed| GrantError::Malformed)?;
        let public_key = self
            .public_keys
            .iter()
            .find(|public_key| key_id(public_key) == signed.key_id)
            .ok_or(GrantError::Signature)?;
        UnparsedPublicKey::new(&ED25519, public_key)
            .verify(&signed_bytes(&signed.grant), &signed.signature)
            .map_err(|_invalid| GrantError::Signature)?;
        Grant::decode(signed.grant.as_slice()).map_err(|_malformed| GrantError::Malformed)
    }
}

/// Reads a signed grant without verifying it: for the edge, which got it from control itself.
pub fn read_unverified(signed_grant: &[u8]) -> Result<Grant, GrantError> {
    let signed = SignedGrant::decode(signed_grant).map_err(|_malformed| GrantError::Malformed)?;
    Grant::decode(signed.grant.as_slice()).map_err(|_malformed| GrantError::Malformed)
}

fn signed_bytes(grant: &[u8]) -> Vec<u8> {
    [CONTEXT, grant].concat()
}

fn key_id(public_key: &[u8; 32]) -> Vec<u8> {
    let hash = digest::digest(&digest::SHA256, public_key);
    hash.as_ref().iter().take(8).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> GrantSigner {
        GrantSigner::from_pkcs8(&GrantSigner::generate_pkcs8().unwrap()).unwrap()
    }

    fn grant() -> Grant {
        Grant {
            tenant: "default".to_owned(),
            app: "live".to_owned(),
            stream: "main".to_owned(),
            ..Grant::default()
        }
    }

    #[test]
    fn a_signed_grant_verifies() {
        let signer = signer();
        let verifier = GrantVerifier::new([signer.public_key()]);
        assert_eq!(verifier.verify(&signer.sign(&grant())), Ok(grant()));
    }

    #[test]
    fn a_foreign_signature_is_refused() {
        let verifier = GrantVerifier::new([signer().public_key()]);
        assert_eq!(
            verifier.verify(&signer().sign(&grant())),
            Err(GrantError::Signature)
        );
    }

    #[test]
    fn no_changed_byte_is_accepted() {
        let signer = signer();
        let verifier = GrantVerifier::new([signer.public_key()]);
        let signed = signer.sign(&grant());
        for position in 0..signed.len() {
            let mut forged = signed.clone();
            forged[position] ^= 1;
            assert!(verifier.verify(&forged).is_err(), "byte {position}");
        }
    }

    #[test]
    fn public_keys_are_hex_a_line() {
        let key = "0a".repeat(32);
        for (text, keys) in [
            (format!("{key}\n\n {}\n", key.to_uppercase()), Some(2)),
            (String::new(), None),
            (key.replacen('0', "g", 1), None),
            (format!("{key}\n0a"), None),
        ] {
            let found = GrantVerifier::from_hex_lines(&text);
            assert_eq!(found.map(|found| found.public_keys.len()), keys, "{text}");
        }
    }

    #[test]
    fn garbage_is_malformed() {
        let verifier = GrantVerifier::new([signer().public_key()]);
        assert_eq!(verifier.verify(&[0xff; 40]), Err(GrantError::Malformed));
        assert_eq!(
            verifier.verify(&vec![0; SIGNED_GRANT_BYTES_MAX + 1]),
            Err(GrantError::Malformed)
        );
    }
}
