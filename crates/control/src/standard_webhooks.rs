//! The signature of a webhook request by the Standard Webhooks convention (version 1, HMAC-SHA256): over the id, the time
//! and the body, so that a receiver knows that it is ours, whole and fresh.

use aws_lc_rs::{hmac, rand};
use data_encoding::BASE64;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use zeroize::Zeroizing;

use crate::stream_key::RandomError;

/// What both sides know.
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub(crate) fn generate() -> Result<Self, RandomError> {
        let mut bytes = Zeroizing::new(vec![0; GENERATED_BYTES]);
        rand::fill(&mut bytes).map_err(|_unavailable| RandomError)?;
        Ok(Self(bytes))
    }

    /// `whsec_` and base64 of 24 to 64 bytes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX)?;
        let bytes = Zeroizing::new(BASE64.decode(encoded.as_bytes()).ok()?);
        (BYTES_MIN..=BYTES_MAX)
            .contains(&bytes.len())
            .then_some(Self(bytes))
    }

    /// The text that [`parse`](Self::parse) takes.
    pub(crate) fn reveal(&self) -> Zeroizing<String> {
        let encoded = Zeroizing::new(BASE64.encode(&self.0));
        Zeroizing::new(format!("{PREFIX}{}", *encoded))
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

/// The headers of a request with this [`ID`], [`TIMESTAMP`] (seconds since the Unix epoch) and body; `None` where the id
/// cannot be in a header.
pub(crate) fn headers(
    secret: &Secret,
    id: &str,
    timestamp: i64,
    (content_type, body): (&'static str, &[u8]),
) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in [
        (ID, id),
        (TIMESTAMP, &timestamp.to_string()),
        (SIGNATURE, &sign(secret, id, timestamp, body)),
    ] {
        headers.insert(name, HeaderValue::from_str(value).ok()?);
    }
    Some(headers)
}

/// The value of [`SIGNATURE`] for a request with this [`ID`], [`TIMESTAMP`] (seconds since the Unix epoch) and body.
fn sign(secret: &Secret, id: &str, timestamp: i64, body: &[u8]) -> String {
    let tag = hmac::sign(&secret.key(), &signed(id, timestamp, body));
    format!("{VERSION},{}", BASE64.encode(tag.as_ref()))
}

/// Whether one of the signatures in a header is right.
#[cfg(test)]
pub(crate) fn verify(
    secret: &Secret,
    id: &str,
    timestamp: i64,
    body: &[u8],
    signatures: &str,
) -> bool {
    signatures.split(' ').any(|signature| {
        let tag = signature
            .strip_prefix(VERSION)
            .and_then(|rest| rest.strip_prefix(','))
            .and_then(|tag| BASE64.decode(tag.as_bytes()).ok());
        tag.is_some_and(|tag| {
            hmac::verify(&secret.key(), &signed(id, timestamp, body), &tag).is_ok()
        })
    })
}

fn signed(id: &str, timestamp: i64, body: &[u8]) -> Vec<u8> {
    let mut signed = format!("{id}.{timestamp}.").into_bytes();
    signed.extend_from_slice(body);
    signed
}

/// Header: the same in every delivery of one message.
pub(crate) const ID: &str = "webhook-id";
/// Header: when this delivery was tried.
pub(crate) const TIMESTAMP: &str = "webhook-timestamp";
/// Header: what [`sign`] makes.
pub(crate) const SIGNATURE: &str = "webhook-signature";

const PREFIX: &str = "whsec_";
const VERSION: &str = "v1";
/// As the convention bounds them.
const BYTES_MIN: usize = 24;
const BYTES_MAX: usize = 64;
const GENERATED_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the convention itself: its libraries are tested with it
    /// (github.com/standard-webhooks/standard-webhooks, `libraries/*/…test…`).
    #[test]
    fn the_published_example_is_signed_as_published() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
        let body = br#"{"test": 2432232314}"#;
        let headers = headers(&secret, id, timestamp, ("application/json", body)).unwrap();
        let signature = headers[SIGNATURE].to_str().unwrap();
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(headers[ID], id);
        assert_eq!(headers[TIMESTAMP], "1614265330");
        assert_eq!(headers[CONTENT_TYPE], "application/json");
        assert!(verify(
            &secret,
            id,
            timestamp,
            body,
            &format!("v1,AAAA {signature}")
        ));
        assert!(!verify(&secret, id, timestamp + 1, body, signature));
        assert!(!verify(&secret, "msg_other", timestamp, body, signature));
        assert!(!verify(&secret, id, timestamp, b"{}", signature));
        let other = Secret::generate().unwrap();
        assert!(!verify(&other, id, timestamp, body, signature));
    }

    #[test]
    fn a_generated_secret_survives_its_text_and_others_are_refused() {
        let secret = Secret::generate().unwrap();
        let parsed = Secret::parse(&secret.reveal()).unwrap();
        assert_eq!(sign(&parsed, "id", 1, b""), sign(&secret, "id", 1, b""));
        let encoded = |bytes: usize| format!("whsec_{}", BASE64.encode(&vec![1; bytes]));
        assert!(Secret::parse(&encoded(24)).is_some() && Secret::parse(&encoded(64)).is_some());
        for text in [
            "",
            "whsec_",
            "whsec_****",
            &encoded(23),
            &encoded(65),
            &encoded(32)[6..],
        ] {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
