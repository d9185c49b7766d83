//! X.509 as the operator needs it: a CA per cluster, what it issues, and what a certificate says. Pure but for the
//! randomness of keys: the time is always the caller's.

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Of a CA's certificate.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(365 * DAY);
/// Of everything that a CA of ours issues; renewed when two thirds of it are over.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * DAY);
/// Of a self-signed certificate. Long: whoever trusts it has pinned it.
pub const SELF_SIGNED_LIFETIME: Duration = Duration::from_secs(365 * DAY);
/// Certificates begin this long ago, so that a clock that is behind does not matter.
const BACKDATED: Duration = Duration::from_secs(3600);
const DAY: u64 = 24 * 3600;

/// A certificate and its private key, as PEM. Prints nothing of the key.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// PKCS#8.
    pub private_key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").finish_non_exhaustive()
    }
}

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Both sides of mutual TLS between the roles: the URI is who it is.
    Role(String),
    /// A server's DNS names and addresses.
    Server(Vec<String>),
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its first moment.
    pub not_before: Timestamp,
    /// Its end.
    pub not_after: Timestamp,
    /// URI names.
    pub uris: Vec<String>,
    /// DNS names and addresses, sorted.
    pub names: Vec<String>,
    /// It may issue others.
    pub authority: bool,
}

/// A certificate is not one, or cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CertificateError(String);

impl Facts {
    /// Of the first certificate in PEM text.
    pub fn read(pem: &str) -> Result<Self, CertificateError> {
        with_certificate(pem, |certificate| {
            let validity = certificate.validity();
            let time = |seconds: i64| Timestamp::from_second(seconds).map_err(malformed);
            let names = certificate.subject_alternative_name().map_err(malformed)?;
            let names = names.map(|names| names.value.general_names.as_slice());
            let mut facts = Self {
                not_before: time(validity.not_before.timestamp())?,
                not_after: time(validity.not_after.timestamp())?,
                uris: Vec::new(),
                names: Vec::new(),
                authority: certificate.is_ca(),
            };
            for name in names.unwrap_or_default() {
                if let GeneralName::URI(uri) = name {
                    facts.uris.push((*uri).to_owned());
                } else if let GeneralName::DNSName(name) = name {
                    facts.names.push((*name).to_owned());
                } else if let GeneralName::IPAddress(octets) = name {
                    facts.names.extend(address(octets));
                }
            }
            facts.names.sort();
            facts.names.dedup();
            Ok(facts)
        })
    }

    /// When two thirds of its life are over.
    pub fn renew_at(&self) -> Timestamp {
        let (begin, end) = (self.not_before.as_second(), self.not_after.as_second());
        Timestamp::from_second(end - (end - begin) / 3).unwrap_or(self.not_before)
    }

    /// Whether it says this subject, and no other.
    pub fn is_of(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Role(uri) => self.uris == [uri.clone()] && self.names.is_empty(),
            Subject::Server(names) => {
                let mut names = names.clone();
                names.sort();
                names.dedup();
                self.uris.is_empty() && self.names == names
            }
        }
    }
}

impl Pair {
    /// A new CA. The name holds its moment, so that an old and a new one can be told apart by a reader.
    pub fn new_authority(cluster: &str, now: Timestamp) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        let moment = now.strftime("%Y-%m-%dT%H:%M:%SZ");
        params.distinguished_name = common_name(&format!("Headwater CA of {cluster} {moment}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, end(now, AUTHORITY_LIFETIME));
        self_signed(&params)
    }

    /// A self-signed server certificate.
    pub fn new_self_signed(names: &[String], now: Timestamp) -> Result<Self, CertificateError> {
        let subject = Subject::Server(names.to_vec());
        let params = leaf(&subject, now, end(now, SELF_SIGNED_LIFETIME))?;
        self_signed(&params)
    }

    /// A new certificate that this CA issues. It ends with its issuer at the latest.
    pub fn issue(&self, subject: &Subject, now: Timestamp) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(&self.private_key).map_err(malformed)?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, key).map_err(malformed)?;
        let until = end(now, LEAF_LIFETIME).min(Facts::read(&self.certificate)?.not_after);
        let mut params = leaf(subject, now, until)?;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(malformed)?;
        let certificate = params.signed_by(&key, &issuer).map_err(malformed)?;
        Ok(Self {
            certificate: certificate.pem(),
            private_key: key.serialize_pem(),
        })
    }

    /// Fails where the key is not the certificate's.
    pub fn check(&self) -> Result<Facts, CertificateError> {
        let key = KeyPair::from_pem(&self.private_key)
            .map_err(|_detail| CertificateError("the private key cannot be read".to_owned()))?;
        let key = key.subject_public_key_info();
        let matches = with_certificate(&self.certificate, |certificate| {
            Ok(certificate.public_key().raw == key)
        })?;
        if matches {
            Facts::read(&self.certificate)
        } else {
            let reason = "the private key is not the certificate's";
            Err(CertificateError(reason.to_owned()))
        }
    }
}

/// Whether the CA of this certificate (ECDSA P-256) signed the other one.
pub fn signed_by(certificate: &str, authority: &str) -> bool {
    let verified = with_certificate(authority, |authority| {
        let key = authority.public_key().subject_public_key.data.to_vec();
        with_certificate(certificate, |certificate| {
            let content = certificate.tbs_certificate.as_ref();
            let signature = &certificate.signature_value.data;
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
                .verify(content, signature)
                .map_err(|_invalid| CertificateError("another's signature".to_owned()))
        })
    });
    verified.is_ok()
}

/// Later than every real date where the sum is out of range.
pub fn end(now: Timestamp, lifetime: Duration) -> Timestamp {
    now.checked_add(lifetime).unwrap_or(Timestamp::MAX)
}

fn with_certificate<T>(
    pem: &str,
    read: impl FnOnce(&X509Certificate<'_>) -> Result<T, CertificateError>,
) -> Result<T, CertificateError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_detail| CertificateError("no certificate in PEM form".to_owned()))?;
    let (_, certificate) = X509Certificate::from_der(&der).map_err(malformed)?;
    read(&certificate)
}

fn self_signed(params: &CertificateParams) -> Result<Pair, CertificateError> {
    let key = KeyPair::generate().map_err(malformed)?;
    let certificate = params.self_signed(&key).map_err(malformed)?;
    Ok(Pair {
        certificate: certificate.pem(),
        private_key: key.serialize_pem(),
    })
}

fn leaf(
    subject: &Subject,
    now: Timestamp,
    until: Timestamp,
) -> Result<CertificateParams, CertificateError> {
    let mut params = match subject {
        Subject::Role(uri) => {
            let mut params = CertificateParams::default();
            let uri = uri.clone().try_into().map_err(malformed)?;
            params.subject_alt_names = vec![SanType::URI(uri)];
            params.distinguished_name = common_name("headwater role");
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
            params
        }
        Subject::Server(names) => {
            let mut params = CertificateParams::new(names.clone()).map_err(malformed)?;
            params.distinguished_name = common_name("headwater");
            params
        }
    };
    params
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ServerAuth);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, now, until);
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, until: Timestamp) {
    let since_epoch = |time: Timestamp| {
        let seconds = u64::try_from(time.as_second()).unwrap_or_default();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    params.not_before = since_epoch(now) - BACKDATED;
    params.not_after = since_epoch(until);
}

fn address(octets: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(octets).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

fn malformed(error: impl std::fmt::Display) -> CertificateError {
    CertificateError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn a_leaf_is_its_issuers_and_says_who_it_is() {
        let authority = Pair::new_authority("ns/one", now()).unwrap();
        let other = Pair::new_authority("ns/one", now()).unwrap();
        let role = Subject::Role("spiffe://d/ns/n/cluster/c/role/edge".to_owned());
        let leaf = authority.issue(&role, now()).unwrap();
        let facts = leaf.check().unwrap();
        assert!(facts.is_of(&role));
        assert!(!facts.authority && authority.check().unwrap().authority);
        assert!(signed_by(&leaf.certificate, &authority.certificate));
        assert!(!signed_by(&leaf.certificate, &other.certificate));
        assert_eq!(facts.not_after, end(now(), LEAF_LIFETIME));
        let renewed_after = facts.renew_at().duration_since(now()).as_hours();
        assert!(
            (19 * 24..=20 * 24).contains(&renewed_after),
            "{renewed_after}"
        );
    }

    #[test]
    fn a_leaf_does_not_outlive_its_issuer() {
        let authority = Pair::new_authority("ns/one", now()).unwrap();
        let late = end(now(), AUTHORITY_LIFETIME - Duration::from_secs(DAY));
        let names = Subject::Server(vec!["one.svc".to_owned(), "127.0.0.1".to_owned()]);
        let facts = authority.issue(&names, late).unwrap().check().unwrap();
        assert_eq!(facts.not_after, authority.check().unwrap().not_after);
        assert!(facts.is_of(&names));
        assert!(!facts.is_of(&Subject::Server(vec!["one.svc".to_owned()])));
    }

    #[test]
    fn half_a_pair_is_no_pair_and_a_key_is_never_printed() {
        let one = Pair::new_self_signed(&["localhost".to_owned()], now()).unwrap();
        let two = Pair::new_self_signed(&["localhost".to_owned()], now()).unwrap();
        let mixed = Pair {
            certificate: one.certificate.clone(),
            private_key: two.private_key,
        };
        assert!(one.check().is_ok());
        assert!(mixed.check().is_err());
        assert!(Facts::read("nonsense").is_err());
        assert_eq!(format!("{one:?}"), "Pair { .. }");
    }
}
