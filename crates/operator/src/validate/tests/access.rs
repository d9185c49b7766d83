use super::*;

const ACCOUNT: &str = "system:serviceaccount:shop:backend";

/// An issuer with these fields beside the two that each has, and the problems of a cluster with it alone.
fn of_issuer(fields: Value) -> Vec<String> {
    let mut issuer = json!({"issuer": "https://login.example.com", "audience": "headwater"});
    issuer
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let mut spec = with("control.egress", json!({"allow": ["10.96.0.1/32"]}));
    spec["control"]["oidc"] = json!([issuer]);
    paths(spec)
}

fn subject(name: &str) -> Value {
    json!({"name": name, "tenant": "acme", "scopes": ["keys:write"]})
}

#[test]
fn an_issuer_has_one_source_of_keys_and_one_of_rights() {
    let url = "https://login.example.com/keys";
    let keys = json!({"name": "keys", "key": "jwks.json"});
    for good in [
        json!({"jwksUrl": url, "tenantClaim": "tenant", "scopesClaim": "scope"}),
        json!({"jwksSecretRef": keys, "tenant": "*", "scopes": ["*"]}),
        json!({"jwksUrl": url, "subjects": [subject("auth0|7")]}),
        json!({"kubernetes": "KeySet", "subjects": [subject(ACCOUNT)]}),
        json!({"kubernetes": "TokenReview", "subjects": [subject(ACCOUNT)]}),
    ] {
        assert_eq!(of_issuer(good.clone()), [] as [String; 0], "{good}");
    }
    let all = json!({"tenant": "a", "scopes": ["*"]});
    for (bad, field) in [
        (json!({}), ""),
        (json!({"jwksUrl": url, "jwksSecretRef": keys}), ""),
        (json!({"jwksUrl": "http://login.example.com"}), ".jwksUrl"),
        (
            json!({"jwksSecretRef": {"name": "Upper", "key": "a"}}),
            ".jwksSecretRef.name",
        ),
        (json!({"jwksUrl": url, "tenant": "a b"}), ".tenant"),
        (json!({"jwksUrl": url, "tenantClaim": "a"}), ""),
        (json!({"jwksUrl": url, "scopesClaim": "a"}), ""),
        (json!({"jwksUrl": url, "audience": ""}), ".audience"),
    ] {
        let mut issuer = all.clone();
        issuer
            .as_object_mut()
            .unwrap()
            .extend(bad.as_object().unwrap().clone());
        let path = format!("spec.control.oidc[0]{field}");
        assert_eq!(of_issuer(issuer), [path], "{bad}");
    }
}

#[test]
fn of_kubernetes_named_service_accounts_alone_are_admitted() {
    for (issuer, field) in [
        (json!({"tenant": "a", "scopes": ["*"]}), ".subjects"),
        (
            json!({"subjects": [subject("backend")]}),
            ".subjects[0].name",
        ),
        (
            json!({"subjects": [subject("system:serviceaccount:shop:*")]}),
            ".subjects[0].name",
        ),
        (
            json!({"subjects": [subject(ACCOUNT), subject(ACCOUNT)]}),
            ".subjects",
        ),
        (
            json!({"subjects": [{"name": ACCOUNT, "tenant": "acme", "scopes": []}]}),
            ".subjects[0].scopes",
        ),
    ] {
        let mut issuer = issuer;
        issuer["kubernetes"] = json!("KeySet");
        let path = format!("spec.control.oidc[0]{field}");
        assert_eq!(of_issuer(issuer.clone()), [path], "{issuer}");
    }
    let issuer = json!({
        "issuer": "a", "audience": "b", "kubernetes": "KeySet", "subjects": [subject(ACCOUNT)],
    });
    assert_refused("control.oidc", json!([issuer]), "spec.control.egress.allow");
}

#[test]
fn certificates_are_named_as_control_knows_them() {
    let with_name = |name: &str| {
        let clients = json!({
            "caSecretRef": {"name": "ca", "key": "ca.crt"}, "subjects": [subject(name)],
        });
        paths(with("control.clientCertificates", clients))
    };
    let fingerprint = format!("sha256:{}", ["0A"; 32].join(":"));
    for good in [
        "backend.example.com",
        "dns:backend.example.com",
        "spiffe://platform.example/backend",
        "uri:urn:backend:7",
        "backend@example.com",
        &fingerprint,
    ] {
        assert_eq!(with_name(good), [] as [String; 0], "{good}");
    }
    for bad in ["a b", "dns:", "uri:", "sha256:12", "a/b"] {
        let path = "spec.control.clientCertificates.subjects[0].name";
        assert_eq!(with_name(bad), [path], "{bad}");
    }
    let ca = json!({"caSecretRef": {"name": "ca", "key": "a/b"}});
    assert_refused(
        "control.clientCertificates",
        ca,
        "spec.control.clientCertificates.caSecretRef.key",
    );
}

#[test]
fn a_quota_is_not_below_zero() {
    for field in ["maxKeys", "maxSessions", "maxBitrateBps"] {
        let path = format!("control.quotas.{field}");
        assert_refused(&path, json!(-1), &format!("spec.{path}"));
    }
}
