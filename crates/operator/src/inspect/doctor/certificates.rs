//! The certificates of a cluster, as its Secrets hold them.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::Report;
use crate::{
    api::IngestCluster,
    inspect::Desk,
    names::{Component, Names},
};

/// Certificates are renewed long before.
const SOON_DAYS: i64 = 7;
const DAY_SECONDS: i64 = 24 * 60 * 60;

/// Looks at every certificate of a cluster.
pub(super) async fn examine(desk: &Desk, cluster: &IngestCluster, report: &mut Report) {
    let names = Names::new(cluster);
    let public = cluster
        .spec
        .tls
        .secret_name
        .clone()
        .unwrap_or_else(|| names.public_certificate(Component::Edge));
    one(desk, report, "RTMPS certificate", &public, true).await;
    let api = names.public_certificate(Component::Control);
    one(desk, report, "API certificate", &api, false).await;
    for role in ["control", "edge", "origin", "operator"] {
        let name = names.internal_certificate(role);
        one(desk, report, "internal certificate", &name, false).await;
    }
    let redis = cluster.spec.redis.tls.as_ref();
    if let Some(name) = redis.and_then(|tls| tls.certificate_secret_name.as_ref()) {
        one(desk, report, "certificate for Redis", name, false).await;
    }
}

async fn one(desk: &Desk, report: &mut Report, what: &'static str, name: &str, names: bool) {
    let secret = match desk.api::<Secret>().get_opt(name).await {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return report.fail(
                what,
                format!("Secret {name} does not exist"),
                "the operator makes it where it is its own; else create it, or look at the cert-manager Certificate of this name",
            );
        }
        Err(error) => return report.unknown(what, &error),
    };
    let leaf = secret
        .data
        .as_ref()
        .and_then(|data| data.get("tls.crt"))
        .ok_or_else(|| "has no tls.crt".to_owned())
        .and_then(|pem| Leaf::parse(&pem.0));
    match leaf {
        Err(reason) => report.fail(
            what,
            format!("Secret {name} {reason}"),
            "a PEM certificate chain, leaf first, and its key in tls.key",
        ),
        Ok(leaf) => {
            let left = leaf.not_after - Timestamp::now().as_second();
            let days = left / DAY_SECONDS;
            let shown = if names {
                format!("{name}: {}", leaf.names.join(", "))
            } else {
                name.to_owned()
            };
            if left <= 0 {
                report.fail(
                    what,
                    format!("{shown} ended {} days ago", -days),
                    format!("renew Secret {name}; no restart is needed"),
                );
            } else if days < SOON_DAYS {
                report.warn(
                    what,
                    format!("{shown} ends in {days} days"),
                    "it should have been renewed by now: look at the operator's log, or at cert-manager's",
                );
            } else {
                report.ok(what, format!("{shown}, {days} days left"));
            }
        }
    }
}

struct Leaf {
    /// Seconds since the Unix epoch.
    not_after: i64,
    names: Vec<String>,
}

impl Leaf {
    fn parse(pem: &[u8]) -> Result<Self, String> {
        let der = CertificateDer::from_pem_slice(pem)
            .map_err(|_| "holds no certificate in tls.crt".to_owned())?;
        let (_, certificate) = X509Certificate::from_der(&der)
            .map_err(|_| "holds a damaged certificate in tls.crt".to_owned())?;
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => extension
                .value
                .general_names
                .iter()
                .filter_map(|name| {
                    if let GeneralName::DNSName(name) = name {
                        Some((*name).to_owned())
                    } else {
                        None
                    }
                })
                .collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        Ok(Self {
            not_after: certificate.validity().not_after.timestamp(),
            names,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_tells_its_names_and_its_end() {
        let params = rcgen::CertificateParams::new(vec!["ingest.example".to_owned()]).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let leaf = Leaf::parse(pem.as_bytes()).unwrap();
        assert_eq!(leaf.names, ["ingest.example"]);
        assert!(leaf.not_after > Timestamp::now().as_second());
        assert!(Leaf::parse(b"nonsense").is_err());
    }
}
