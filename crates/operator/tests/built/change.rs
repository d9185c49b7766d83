//! Which change makes new pods, and which must not: sessions last for hours.

use operator::{
    build::{Objects, build},
    names::Component,
};
use serde_json::{Value, json};

use crate::fixture::{FIXTURES, Fixture};

/// Everything that a process may be given.
fn base() -> Fixture {
    let mut fixture = fixture("cert-manager");
    merge(
        &mut fixture.spec,
        &json!({"redis": {"auth": {"perRole": {"secretName": "redis"}}, "tls": {}}}),
    );
    fixture
}

fn fixture(name: &str) -> Fixture {
    Fixture::read(&std::path::Path::new(FIXTURES).join(name))
}

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Which tiers have other pods.
fn changed(before: &Objects, after: &Objects) -> Vec<Component> {
    let mut changed = Vec::new();
    let template = |objects: &Objects, component| match component {
        Component::Control => objects.control.spec.clone().unwrap().template,
        Component::Edge => objects.edge.spec.clone().unwrap().template,
        Component::Origin => objects.origin.spec.clone().unwrap().template,
    };
    for component in Component::ALL {
        if template(before, component) != template(after, component) {
            changed.push(component);
        }
    }
    assert_eq!(
        changed.contains(&Component::Edge),
        before.edge_revision() != after.edge_revision(),
        "an edge's revision is its template's"
    );
    changed
}

#[track_caller]
fn assert_changes(base: &Fixture, patch: &Value, tiers: &[Component]) -> (Objects, Objects) {
    let before = base.objects();
    let mut fixture = base.clone();
    merge(&mut fixture.spec, patch);
    let after = fixture.objects();
    assert_eq!(changed(&before, &after), tiers, "{patch}");
    assert_ne!(before, after, "{patch}");
    (before, after)
}

#[test]
fn what_is_hot_changes_no_pod_and_the_live_configuration() {
    for patch in [
        json!({"edge": {"limits": {"maxConnections": 17}}}),
        json!({"edge": {"limits": {"maxConnectionsPerIp": 17}}}),
        json!({"logging": {"filter": "debug"}}),
    ] {
        let (before, after) = assert_changes(&base(), &patch, &[]);
        assert_ne!(before.live_hash(), after.live_hash(), "{patch}");
    }
    let mut fixture = base();
    let before = fixture.objects();
    fixture.applications = vec!["another".into()];
    let after = fixture.objects();
    assert_eq!(changed(&before, &after), []);
    assert_ne!(before.live_hash(), after.live_hash());
}

#[test]
fn what_a_role_reads_at_its_start_changes_the_pods_of_that_role_alone() {
    for (patch, tiers) in [
        (
            json!({"edge": {"drain": {"timeoutSeconds": 60}}}),
            vec![Component::Edge],
        ),
        (
            json!({"edge": {"drain": {"noticeSeconds": 1}}}),
            vec![Component::Edge],
        ),
        (
            json!({"edge": {"service": {"proxyProtocol": true, "trustedCidrs": ["10.0.0.0/8"]}}}),
            vec![Component::Edge],
        ),
        (
            json!({"edge": {"podTemplate": {"resources": {"limits": {"memory": "8Gi"}}}}}),
            vec![Component::Edge],
        ),
        (
            json!({"origin": {"drainTimeoutSeconds": 61}}),
            vec![Component::Origin],
        ),
        (
            json!({"origin": {"podTemplate": {"labels": {"a": "b"}}}}),
            vec![Component::Origin],
        ),
        (
            json!({"control": {"database": {"postgres": {"url": "postgres://other@db/headwater"}}}}),
            vec![Component::Control],
        ),
        (
            json!({"redis": {"outagePolicy": "FailClosed"}}),
            vec![Component::Origin, Component::Edge],
        ),
        (json!({"image": {"tag": "other"}}), Component::ALL.to_vec()),
        (
            json!({"logging": {"format": "Text"}}),
            Component::ALL.to_vec(),
        ),
    ] {
        assert_changes(&base(), &patch, &tiers);
    }
}

#[test]
fn what_is_about_certificates_changes_no_pod_beyond_the_one_that_reads_another_secret() {
    let issuer = json!({"name": "other", "kind": "ClusterIssuer"});
    for (patch, tiers) in [
        (json!({"tls": {"issuerRef": issuer}}), vec![]),
        (json!({"tls": {"dnsNames": ["other.example.com"]}}), vec![]),
        (json!({"control": {"tls": issuer}}), vec![]),
        (
            json!({"control": {"service": {"dnsNames": ["other.example.com"]}}}),
            vec![],
        ),
        (json!({"control": {"tls": null}}), vec![]),
        (json!({"internalTls": {"issuerRef": issuer}}), vec![]),
        (json!({"internalTls": {"issuerRef": null}}), vec![]),
        (
            json!({"tls": {"issuerRef": null, "secretName": "mine", "dnsNames": []}}),
            vec![Component::Edge],
        ),
    ] {
        assert_changes(&base(), &patch, &tiers);
    }
    // What makes them is not there, or goes.
    let fixture = base();
    let mut observed = fixture.observed();
    let before = build(&fixture.validated(), &observed);
    observed.cert_manager = false;
    observed.pod_monitors = true;
    let after = build(&fixture.validated(), &observed);
    assert_eq!(changed(&before, &after), []);
    assert!(!before.certificates.is_empty() && after.certificates.is_empty());
}

#[test]
fn what_is_around_pods_changes_none() {
    for patch in [
        json!({"edge": {"replicas": 17}}),
        json!({"edge": {"autoscaling": {"maxReplicas": 17}}}),
        json!({"edge": {"service": {"port": 1935, "annotations": {"a": "b"}}}}),
        json!({"origin": {"replicas": 17}}),
        json!({"control": {"replicas": 17}}),
        json!({"control": {"service": {"type": "NodePort"}}}),
        json!({"networkPolicy": {"enabled": false}}),
    ] {
        assert_changes(&base(), &patch, &[]);
    }
}

#[test]
fn an_edge_holds_no_more_media_than_its_memory_has_room_for() {
    let mut fixture = fixture("pod-template");
    let limit = json!({"edge": {"podTemplate": {"resources": {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}}}}});
    merge(&mut fixture.spec, &limit);
    let objects = fixture.objects();
    let boot = objects
        .boot
        .iter()
        .find_map(|boot| boot.data.as_ref()?.get("edge.yaml"));
    let boot: Value = serde_saphyr::from_str(boot.unwrap()).unwrap();
    let media = boot["edge"]["relay"]["process_bytes_max"].as_u64().unwrap();
    assert!(media > (1 << 29) && media < (1 << 30) / 10 * 7, "{media}");
}
