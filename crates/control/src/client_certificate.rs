//! The client certificate that a stream key is bound to: one name of its subjectAltName, or its fingerprint.

use data_encoding::HEXLOWER;
use proto::internal::v1::ClientCertificate;

/// What a certificate must have, in the one form that is stored: `dns:…`, `uri:…`, `email:…` or `sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificateBinding(String);

/// Whether people mean a name in a certificate, or its fingerprint.
pub fn check_name(text: &str) -> Result<(), &'static str> {
    CertificateBinding::parse(text).map(|_| ())
}

/// Of a binding. No name in a certificate that anybody uses is longer.
const BYTES_MAX: usize = 512;
const KINDS: [&str; 4] = ["dns:", "uri:", "email:", "sha256:"];
const WRONG: &str = "a DNS name, a URI, an email address or a SHA-256 fingerprint of a certificate, such as \
                     encoder-7.example.com or sha256: and 64 hexadecimal digits";

impl CertificateBinding {
    /// As people write it. Without a kind, what it looks like decides.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim_ascii();
        if text.len() > BYTES_MAX {
            return Err("at most 512 bytes");
        }
        let kind = KINDS.into_iter().find(|kind| text.starts_with(kind));
        let (kind, value) = match kind {
            Some(kind) => (kind, text.strip_prefix(kind).unwrap_or_default()),
            None if fingerprint(text).is_some() => ("sha256:", text),
            None if text.contains("://") => ("uri:", text),
            None if text.contains('@') => ("email:", text),
            None => ("dns:", text),
        };
        let value = match kind {
            "sha256:" => fingerprint(value).ok_or(WRONG)?,
            "dns:" => host(value).ok_or(WRONG)?,
            _ => value.to_owned(),
        };
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(WRONG);
        }
        Ok(Self(format!("{kind}{value}")))
    }

    /// As it was stored.
    pub(crate) fn stored(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a certificate that an edge has verified is the one. No part of a name and no wildcard counts, and nor
    /// does the common name: anybody may have the same.
    pub(crate) fn is_of(&self, certificate: &ClientCertificate) -> bool {
        self.names(&certificate.sans, &certificate.sha256)
    }

    /// The same, of one that this process has verified itself.
    pub(crate) fn names(&self, sans: &[String], sha256: &[u8]) -> bool {
        match self.0.strip_prefix("sha256:") {
            Some(fingerprint) => HEXLOWER.encode(sha256) == fingerprint,
            None => sans.contains(&self.0),
        }
    }
}

/// 64 hexadecimal digits, with the colons of `openssl x509 -fingerprint` or without.
fn fingerprint(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|character| *character != ':').collect();
    let digits = digits.to_ascii_lowercase();
    HEXLOWER
        .decode(digits.as_bytes())
        .is_ok_and(|bytes| bytes.len() == 32)
        .then_some(digits)
}

fn host(text: &str) -> Option<String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._*".contains(&byte);
    (!text.is_empty() && text.bytes().all(inner)).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binding_is_taken_as_it_is_meant() {
        let hex = "0a".repeat(32);
        let colons = ["0A"; 32].join(":");
        for (text, stored) in [
            ("Encoder-7.example.com", "dns:encoder-7.example.com"),
            (" dns:a.example ", "dns:a.example"),
            ("spiffe://x/camera", "uri:spiffe://x/camera"),
            ("uri:urn:camera:7", "uri:urn:camera:7"),
            ("camera@example.com", "email:camera@example.com"),
            (&hex, &*format!("sha256:{hex}")),
            (&colons, &*format!("sha256:{hex}")),
            (&*format!("sha256:{colons}"), &*format!("sha256:{hex}")),
        ] {
            let parsed = CertificateBinding::parse(text).unwrap();
            assert_eq!(parsed.as_str(), stored, "{text}");
        }
        for wrong in [
            "",
            "dns:",
            "a b",
            "sha256:12",
            "a/b",
            "uri:",
            "email:ü",
            &"a".repeat(513),
        ] {
            assert!(CertificateBinding::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_certificate_has_the_name_exactly_or_is_another() {
        let certificate = ClientCertificate {
            subject: "camera".to_owned(),
            sans: vec!["dns:camera.example".to_owned(), "uri:urn:7".to_owned()],
            sha256: vec![0x0a; 32],
        };
        let is_of = |text: &str| CertificateBinding::parse(text).unwrap().is_of(&certificate);
        assert!(is_of("camera.example") && is_of("uri:urn:7") && is_of(&"0a".repeat(32)));
        for other in [
            "camera",
            "a.camera.example",
            "*.example",
            "uri:camera.example",
            &"0b".repeat(32),
        ] {
            assert!(!is_of(other), "{other}");
        }
    }
}
