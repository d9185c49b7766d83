//! A platform that signs keys itself: JWTs, EdDSA (Ed25519).

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

pub const ISSUER: &str = "https://platform.test";
pub const AUDIENCE: &str = "headwater";

/// Of a signed key.
const LIFETIME_SECONDS: u64 = 600;
const KID: &str = "one";

/// The private half.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    pub fn generate() -> Self {
        Self(Ed25519KeyPair::generate().unwrap())
    }

    /// The public half, as a key set.
    pub fn jwks(&self) -> String {
        let x = BASE64URL_NOPAD.encode(self.0.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": KID, "x": x}]})
            .to_string()
    }

    /// A key for a stream.
    pub fn sign(&self, stream: &str, jti: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = now.as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + LIFETIME_SECONDS, "stream": stream, "jti": jti,
        });
        let encoded = |part: Value| BASE64URL_NOPAD.encode(part.to_string().as_bytes());
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": KID});
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = BASE64URL_NOPAD.encode(self.0.sign(signed.as_bytes()).as_ref());
        format!("{signed}.{signature}")
    }
}
