//! Which certificate a server name gets: exact names before wildcards, then the default; of one name, what the client
//! can check.
//!
//! Of several certificates that would do, one with an ECDSA key comes before one with an RSA key (it costs a tenth),
//! and of the same kind of key the default's comes first, then the order of their names in the directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustls::{
    SignatureAlgorithm, SignatureScheme,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::identity_files::Identity;

/// A certificate under the name that metrics and logs have for it.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) identity: Arc<Identity>,
}

/// How a server name found its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameMatch {
    /// A certificate names it.
    Exact,
    /// The client sent none: the default.
    Missing,
    /// No certificate names it: the default.
    Unknown,
    /// A certificate names it by a wildcard.
    Wildcard,
}

/// One version of the whole set.
#[derive(Debug)]
pub(super) struct CertificateSet {
    default: Vec<Arc<CertifiedKey>>,
    exact: Names,
    /// Without their `*.`.
    wildcards: Names,
    /// Of every certificate, `notAfter` in seconds since the Unix epoch.
    pub(super) ends: Vec<(String, i64)>,
    /// Pairs of certificates that name the same host and have the same kind of key: the second one is not served there.
    pub(super) overlaps: BTreeSet<(String, String)>,
}

type Names = BTreeMap<String, Vec<Arc<CertifiedKey>>>;

impl NameMatch {
    /// As metrics have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Wildcard => "wildcard",
        }
    }
}

impl CertificateSet {
    /// `others` in the order of their names.
    pub(super) fn new(default: Named, others: impl IntoIterator<Item = Named>) -> Self {
        let default_names = default.identity.dns_names.clone();
        let mut all = vec![default];
        all.extend(others);
        let ends = all
            .iter()
            .map(|named| (named.name.clone(), named.identity.not_after))
            .collect();
        let mut claims: BTreeMap<(&str, &'static str), &str> = BTreeMap::new();
        let mut overlaps = BTreeSet::new();
        for named in &all {
            let kind = kind(&named.identity.certified_key);
            for name in &named.identity.dns_names {
                let first = *claims.entry((name, kind)).or_insert(&named.name);
                if first != named.name {
                    overlaps.insert((first.to_owned(), named.name.clone()));
                }
            }
        }
        let default_key = all
            .first()
            .map(|named| named.identity.certified_key.clone());
        // Stable: of the same kind, the order stays.
        all.sort_by_key(|named| kind(&named.identity.certified_key));
        let (mut exact, mut wildcards) = (Names::new(), Names::new());
        for named in &all {
            let key = &named.identity.certified_key;
            for name in &named.identity.dns_names {
                let (names, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcards, parent),
                    None => (&mut exact, name.as_str()),
                };
                names.entry(name.to_owned()).or_default().push(key.clone());
            }
        }
        // Where a client cannot check the default's key: one of its names under another kind of key.
        let twins = default_names
            .iter()
            .filter_map(|name| exact.get(name))
            .flatten()
            .cloned();
        Self {
            default: default_key.into_iter().chain(twins).collect(),
            exact,
            wildcards,
            ends,
            overlaps,
        }
    }

    pub(super) fn name_match(&self, server_name: Option<&str>) -> NameMatch {
        let Some(name) = server_name else {
            return NameMatch::Missing;
        };
        let name = name.to_ascii_lowercase();
        if self.exact.contains_key(&name) {
            NameMatch::Exact
        } else if parent(&name).is_some_and(|parent| self.wildcards.contains_key(parent)) {
            NameMatch::Wildcard
        } else {
            NameMatch::Unknown
        }
    }

    fn choose(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let name = server_name.unwrap_or_default().to_ascii_lowercase();
        let exact = self.exact.get(&name);
        let wildcard = parent(&name).and_then(|parent| self.wildcards.get(parent));
        let candidates = exact
            .into_iter()
            .flatten()
            .chain(wildcard.into_iter().flatten())
            .chain(&self.default);
        let mut candidates = candidates.peekable();
        // What the client can check of none, rustls refuses with the right words.
        let first = candidates.peek().copied().cloned();
        let mut usable = candidates.filter(|key| key.key.choose_scheme(schemes).is_some());
        usable.next().cloned().or(first)
    }
}

impl ResolvesServerCert for CertificateSet {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}

/// A wildcard stands for one label (RFC 6125 §6.4.3).
fn parent(name: &str) -> Option<&str> {
    let (label, parent) = name.split_once('.')?;
    (!label.is_empty()).then_some(parent)
}

/// What clients can check differs by this alone; in the order of preference.
fn kind(key: &CertifiedKey) -> &'static str {
    let algorithm = key.key.algorithm();
    if algorithm == SignatureAlgorithm::ECDSA {
        "1 ecdsa"
    } else if algorithm == SignatureAlgorithm::ED25519 {
        "2 ed25519"
    } else {
        "3 rsa"
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

    use super::*;
    use crate::reload::Content;

    const RSA_ALONE: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
    const BOTH: &[SignatureScheme] = &[
        SignatureScheme::RSA_PSS_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256,
    ];

    fn named(
        name: &str,
        algorithm: &'static rcgen::SignatureAlgorithm,
        dns_names: &[&str],
    ) -> Named {
        let dns_names: Vec<String> = dns_names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(dns_names).unwrap();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let identity = Identity::parse(
            &Content::named("certificate", &certificate),
            &Content::named("key", &key.serialize_pem()),
        );
        Named {
            name: name.to_owned(),
            identity: Arc::new(identity.unwrap()),
        }
    }

    fn ecdsa(name: &str, dns_names: &[&str]) -> Named {
        named(name, &PKCS_ECDSA_P256_SHA256, dns_names)
    }

    #[test]
    fn a_name_gets_its_own_certificate_and_everything_else_the_default() {
        let all = [
            ecdsa("default", &["live.example"]),
            ecdsa("a", &["*.a.example", "A.example"]),
            ecdsa("b", &["one.a.example"]),
        ];
        let [default, a, b] = all.clone();
        let set = CertificateSet::new(default, [a, b]);
        let served = |server_name: Option<&str>| {
            let chosen = set.choose(server_name, BOTH).unwrap();
            let of = |named: &&Named| Arc::ptr_eq(&named.identity.certified_key, &chosen);
            let name = all.iter().find(of).unwrap().name.clone();
            (name, set.name_match(server_name).as_str())
        };
        for (server_name, name, name_match) in [
            (None, "default", "missing"),
            (Some("live.example"), "default", "exact"),
            (Some("elsewhere.example"), "default", "unknown"),
            (Some("a.example"), "a", "exact"),
            (Some("two.a.EXAMPLE"), "a", "wildcard"),
            (Some("one.a.example"), "b", "exact"),
            (Some("deep.two.a.example"), "default", "unknown"),
            (Some(".a.example"), "default", "unknown"),
        ] {
            let expected = (name.to_owned(), name_match);
            assert_eq!(served(server_name), expected, "{server_name:?}");
        }
        let names: Vec<_> = set.ends.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["default", "a", "b"]);
        assert!(set.overlaps.is_empty());
    }

    #[test]
    fn of_one_name_the_client_gets_the_key_that_it_can_check() {
        let rsa = named("rsa", &PKCS_RSA_SHA256, &["live.example", "other.example"]);
        let default = ecdsa("default", &["live.example"]);
        let (rsa_key, default_key) = (
            rsa.identity.certified_key.clone(),
            default.identity.certified_key.clone(),
        );
        let set = CertificateSet::new(default, [rsa]);
        let serves = |server_name, schemes, key: &Arc<CertifiedKey>| {
            Arc::ptr_eq(&set.choose(server_name, schemes).unwrap(), key)
        };
        assert!(serves(Some("live.example"), BOTH, &default_key));
        assert!(serves(Some("live.example"), RSA_ALONE, &rsa_key));
        assert!(serves(Some("other.example"), BOTH, &rsa_key));
        assert!(serves(None, BOTH, &default_key));
        assert!(serves(None, RSA_ALONE, &rsa_key), "the default's twin");
        let none = &[SignatureScheme::ED25519];
        assert!(
            serves(None, none, &default_key),
            "rustls says what is wrong"
        );
        assert!(set.overlaps.is_empty(), "two kinds of keys");
    }

    #[test]
    fn who_comes_first_keeps_a_name() {
        let first = ecdsa("first", &["live.example"]);
        let key = first.identity.certified_key.clone();
        let second = ecdsa("second", &["live.example", "own.example"]);
        let set = CertificateSet::new(ecdsa("default", &[]), [first, second]);
        let chosen = set.choose(Some("live.example"), BOTH).unwrap();
        assert!(Arc::ptr_eq(&chosen, &key));
        let overlap = ("first".to_owned(), "second".to_owned());
        assert_eq!(set.overlaps, BTreeSet::from([overlap]));
    }
}
