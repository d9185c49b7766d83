//! Certificates of cert-manager, by its real controllers.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tests::wait::wait_for;

use crate::operator_harness::{CLUSTER, Installation, Plane, SOON, name};

const GROUP: &str = "apis/cert-manager.io/v1";
/// A CA of the user's own.
const ISSUER: &str = "\
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  name: root
spec:
  selfSigned: {}
---
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: ca
spec:
  isCA: true
  commonName: ca
  secretName: ca
  issuerRef:
    name: root
---
apiVersion: cert-manager.io/v1
kind: Issuer
metadata:
  name: ca
spec:
  ca:
    secretName: ca
";
/// Of the cluster: encoders, API and playback, four roles.
const CERTIFICATES: [&str; 7] = [
    "live-control-tls",
    "live-edge-tls",
    "live-internal-control",
    "live-internal-edge",
    "live-internal-operator",
    "live-internal-origin",
    "live-origin-tls",
];

#[tokio::test]
async fn an_issuers_certificates_are_used_and_renewed_without_a_restart() {
    let plane = Plane::owned("operator-issuers").await;
    plane.define_others().await;
    let mut installation = Installation::prepare(plane, Duration::from_millis(200)).await;
    installation.start_operator().await;
    let cluster = CLUSTER
        .replace(
            "  tls:\n    selfSigned: {}\n",
            "  tls:\n    issuerRef:\n      name: ca\n    dnsNames: [live.example.com]\n  \
             internalTls:\n    issuerRef:\n      name: ca\n",
        )
        .replace(
            "    database:\n",
            "    tls:\n      name: ca\n    database:\n",
        );
    installation.apply(&cluster).await;
    // Nobody issues yet, and no pod is started that could not run.
    installation
        .condition("CertificatesReady", "False", "CertificatePending")
        .await;
    let deployments = installation.list("apis/apps/v1", "deployments").await;
    assert!(deployments.is_empty(), "{deployments:#?}");

    let _cert_manager = installation
        .plane
        .start_cert_manager(&installation.namespace);
    installation.apply(ISSUER).await;
    installation.settled().await;
    let issued = certificates(&installation).await;
    assert_eq!(issued.keys().collect::<Vec<_>>(), CERTIFICATES);
    let authority = installation.get("api/v1", "secrets", "live-internal-ca");
    assert_eq!(authority.await, None, "the operator issues nothing itself");

    let pods = pods(&installation).await;
    renew(&installation).await;
    wait_for("every certificate to be renewed", SOON, async || {
        let now = certificates(&installation).await;
        let mut renewed = issued
            .iter()
            .map(|(name, old)| now.get(name)?.ne(old).then_some(()));
        renewed.all(|renewed| renewed.is_some()).then_some(())
    })
    .await;
    installation.passed(0).await;
    installation.settled().await;
    assert_eq!(self::pods(&installation).await, pods);

    // The user changes their mind: the Certificate goes, and with it whoever would renew the Secret.
    let patch = r#"{"spec":{"tls":{"issuerRef":null,"selfSigned":{}}}}"#;
    installation
        .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
        .await;
    wait_for("the Certificate to go", SOON, async || {
        let one = installation.get(GROUP, "certificates", "live-edge-tls");
        one.await.is_none().then_some(())
    })
    .await;
    installation.settled().await;
    let now = certificates(&installation).await;
    assert_ne!(now["live-edge-tls"], issued["live-edge-tls"]);
    installation.assert_nothing_was_forbidden();
}

/// As `cmctl renew` does.
async fn renew(installation: &Installation) {
    for name in CERTIFICATES {
        let patch = json!({ "status": { "conditions": [{
            "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "renew",
        }]}});
        let object = format!("certificate/{name}");
        let patch = patch.to_string();
        let arguments = [
            "patch",
            &object,
            "--subresource=status",
            "--type=merge",
            "-p",
        ];
        installation
            .kubectl(&[&arguments[..], &[&patch]].concat())
            .await;
    }
}

/// Of the cluster, by the name of their Secret.
async fn certificates(installation: &Installation) -> BTreeMap<String, String> {
    let secrets = installation.list("api/v1", "secrets").await;
    let with_certificate = secrets.iter().filter_map(|secret| {
        let certificate = secret["data"]["tls.crt"].as_str()?;
        Some((name(secret).to_owned(), certificate.to_owned()))
    });
    with_certificate
        .filter(|(name, _)| name.starts_with("live-"))
        .collect()
}

async fn pods(installation: &Installation) -> Vec<String> {
    let pods = installation.list("api/v1", "pods").await;
    let mut uids: Vec<String> = pods
        .iter()
        .map(|pod| pod["metadata"]["uid"].to_string())
        .collect();
    uids.sort();
    uids
}
