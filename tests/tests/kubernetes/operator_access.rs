//! Who may call the API, quotas, and what is told of encoders, from the cluster's specification to the pods.

use std::time::Duration;

use tests::wait::wait_for;

use crate::operator_harness::{CLUSTER, Installation, SOON};

const APPS: &str = "apis/apps/v1";
const CORE: &str = "api/v1";

/// Callers of the API beside those with a token of its own, quotas, and what is told of encoders' addresses.
const API_ACCESS: &str = r#"{"spec": {
    "edge": {"clientAddress": "Prefix"},
    "control": {
        "oidc": [{
            "issuer": "https://kubernetes.default.svc.cluster.local",
            "audience": "headwater",
            "kubernetes": "TokenReview",
            "subjects": [{"name": "system:serviceaccount:shop:backend", "tenant": "acme", "scopes": ["keys:write"]}]
        }],
        "clientCertificates": {
            "caSecretRef": {"name": "backends-ca", "key": "ca.crt"},
            "subjects": [{"name": "spiffe://platform.example/backend", "tenant": "acme", "scopes": ["keys:read"]}]
        },
        "quotas": {"maxKeys": 500},
        "egress": {"allow": ["10.96.0.1/32"]}
    }
}}"#;

#[tokio::test]
async fn who_may_call_the_api_reaches_new_controls_and_mistakes_reach_nobody() {
    let installation = Installation::start(Duration::from_millis(200)).await;
    installation.apply(CLUSTER).await;
    installation.settled().await;
    let patch = async |patch: &str| {
        installation
            .kubectl(&["patch", "igc/live", "--type=merge", "-p", patch])
            .await
    };
    patch(API_ACCESS).await;
    let message = installation
        .condition("ConfigAccepted", "False", "SecretMissing")
        .await;
    assert!(
        message.contains("control.clientCertificates.caSecretRef"),
        "{message}"
    );
    installation
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "backends-ca",
            "--from-literal=ca.crt=x",
        ])
        .await;
    let sources = async || {
        let control = installation.get(APPS, "deployments", "live-control").await;
        let volumes = &control.unwrap()["spec"]["template"]["spec"]["volumes"];
        volumes.to_string()
    };
    wait_for("controls with a token", SOON, async || {
        let sources = sources().await;
        (sources.contains("serviceAccountToken") && sources.contains("backends-ca")).then_some(())
    })
    .await;
    installation.settled().await;
    let maps = installation.list(CORE, "configmaps").await;
    let boot = serde_json::to_string(&maps).unwrap();
    for written in [
        "token_review_url",
        "max_keys: 500",
        "client_address: prefix",
        "spiffe://platform.example/backend",
    ] {
        assert!(boot.contains(written), "{written}: {boot}");
    }

    patch(r#"{"spec": {"control": {"egress": {"allow": null}}}}"#).await;
    let message = installation
        .condition("ConfigAccepted", "False", "InvalidConfig")
        .await;
    assert!(message.contains("spec.control.egress.allow"), "{message}");
    assert!(sources().await.contains("serviceAccountToken"));
    installation.assert_nothing_was_forbidden();
}
