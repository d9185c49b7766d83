//! What must hold at every moment, whatever happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use data_encoding::BASE64;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};
use serde_json::Value;

use crate::operator_harness::{Installation, name};

/// What is never made anew: Secret and key.
const KEYS: [(&str, &str); 2] = [("live-pepper", "pepper"), ("live-grant", "grant.key")];
const AUTHORITY: &str = "live-internal-ca";

/// What was seen so far.
pub(super) struct Safety {
    keys: Vec<Value>,
    authority: Authority,
    /// Versions of what pods are made from, by tier.
    templates: BTreeMap<&'static str, BTreeSet<String>>,
}

/// The CA that issues, and the one that will.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    key: Option<String>,
    next: Option<String>,
}

impl Safety {
    pub(super) async fn new(installation: &Installation) -> Self {
        Self {
            keys: keys(installation).await,
            authority: Authority::read(installation).await,
            templates: BTreeMap::new(),
        }
    }

    /// `edges` and `others`: how many different pods of each tier were asked for so far.
    pub(super) async fn check(&mut self, installation: &Installation, edges: usize, others: usize) {
        assert_eq!(keys(installation).await, self.keys);
        self.check_authority(installation).await;
        check_trust(installation).await;
        self.check_templates(installation, edges, others).await;
        for request in installation.requests() {
            let deletes = request.verb.starts_with("delete");
            assert!(
                !deletes || !matches!(request.resource.as_str(), "secrets" | "pods"),
                "{request:?}"
            );
        }
    }

    /// An API server that has just started refuses everything for a moment: it does not know the roles yet. What the
    /// roles do not allow is never answered otherwise.
    pub(super) fn check_rights(installation: &Installation) {
        let mut refused = BTreeMap::new();
        for request in installation.requests() {
            let what = (
                request.verb.clone(),
                request.group.clone(),
                request.resource.clone(),
                request.subresource.clone(),
            );
            match request.code {
                403 => drop(refused.insert(what, request)),
                200..300 => drop(refused.remove(&what)),
                _ => {}
            }
        }
        assert!(refused.is_empty(), "{refused:#?}");
    }

    /// How often another CA took over is not limited: that none did which was not announced before is what matters.
    async fn check_authority(&mut self, installation: &Installation) {
        let now = Authority::read(installation).await;
        let before = std::mem::replace(&mut self.authority, now.clone());
        if now.key == before.key {
            assert!(
                before.next.is_none() || now.next == before.next,
                "an announced CA was made anew"
            );
        } else {
            assert!(
                before.next.is_some() && now.key == before.next,
                "the CA was made anew"
            );
        }
    }

    async fn check_templates(&mut self, installation: &Installation, edges: usize, others: usize) {
        for (group, plural) in [
            ("apis/apps/v1", "deployments"),
            ("apis/apps/v1", "statefulsets"),
        ] {
            for object in installation.list(group, plural).await {
                let tier = &object["metadata"]["labels"]["app.kubernetes.io/component"];
                let (tier, version) = match tier.as_str().unwrap() {
                    "edge" => ("edge", name(&object).to_owned()),
                    "control" => ("control", object["spec"]["template"].to_string()),
                    "origin" => ("origin", object["spec"]["template"].to_string()),
                    other => panic!("{other}"),
                };
                self.templates.entry(tier).or_default().insert(version);
            }
        }
        for (tier, seen) in &self.templates {
            let wanted = if *tier == "edge" { edges } else { others };
            assert!(
                seen.len() <= wanted,
                "pods of {tier} were replaced without need, {wanted} versions were asked for: {seen:#?}"
            );
        }
    }
}

impl Authority {
    async fn read(installation: &Installation) -> Self {
        let secret = installation.get("api/v1", "secrets", AUTHORITY).await;
        let data = &secret.expect("the CA stays")["data"];
        let key = |key: &str| data[key].as_str().map(str::to_owned);
        Self {
            key: key("ca.key"),
            next: key("next.key"),
        }
    }
}

/// Roles trust one another: whatever certificate one of them shows is of a CA that each of them knows.
async fn check_trust(installation: &Installation) {
    let secrets = installation.list("api/v1", "secrets").await;
    let of_roles = secrets.iter().filter(|secret| {
        let name = name(secret);
        name.starts_with("live-internal-") && name != AUTHORITY
    });
    let of_roles: Vec<(&str, &Value)> = of_roles
        .map(|secret| (name(secret), &secret["data"]))
        .collect();
    for (holder, data) in &of_roles {
        let mut roots = RootCertStore::empty();
        let bundle = pem(&data["ca.crt"]);
        for root in CertificateDer::pem_slice_iter(&bundle) {
            roots.add(root.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        let verifier = verifier.build().unwrap();
        for (shower, data) in &of_roles {
            let leaf = CertificateDer::from_pem_slice(&pem(&data["tls.crt"])).unwrap();
            let verified = verifier.verify_client_cert(&leaf, &[], UnixTime::now());
            assert!(
                verified.is_ok(),
                "{holder} does not trust {shower}: {verified:?}"
            );
        }
    }
}

/// A value of a Secret.
pub(super) fn pem(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

async fn keys(installation: &Installation) -> Vec<Value> {
    let mut keys = Vec::new();
    for (secret, key) in KEYS {
        let secret = installation.get("api/v1", "secrets", secret).await;
        keys.push(secret.expect("a key that is in use stays")["data"][key].clone());
    }
    keys
}
