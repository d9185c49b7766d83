use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::compare::difference;

fn present(spec: Value) -> DynamicObject {
    serde_json::from_value(json!({ "metadata": { "name": "x", "uid": "1" }, "spec": spec }))
        .unwrap()
}

fn between(wanted: Value, there: Value) -> Option<String> {
    let wanted =
        json!({ "apiVersion": "v1", "kind": "X", "metadata": { "name": "x" }, "spec": wanted });
    difference(&wanted, &present(there))
}

#[test]
fn what_others_add_is_theirs_and_what_they_change_is_not() {
    let same = |wanted, there| assert_eq!(between(wanted, there), None);
    same(
        json!({ "replicas": 2 }),
        json!({ "replicas": 2, "paused": true }),
    );
    same(
        json!({ "containers": [{ "name": "a" }] }),
        json!({ "containers": [{ "name": "sidecar" }, { "name": "a", "tty": true }] }),
    );
    same(
        json!({ "memory": "1024Mi", "cpu": "1000m" }),
        json!({ "memory": "1Gi", "cpu": "1" }),
    );
    same(
        json!({ "selector": {}, "flag": false, "list": [] }),
        json!({}),
    );

    assert_eq!(
        between(json!({ "replicas": 2 }), json!({ "replicas": 3 })),
        Some("spec.replicas".to_owned())
    );
    assert_eq!(
        between(json!({ "a": { "b": "c" } }), json!({})),
        Some("spec.a.b".to_owned())
    );
    let wanted = json!({ "containers": [{ "name": "a", "args": ["x"] }] });
    let there = json!({ "containers": [{ "name": "a", "args": ["x", "y"] }] });
    assert_eq!(
        between(wanted, there),
        Some("spec.containers.0.args".to_owned())
    );
    // A rule that somebody added to a NetworkPolicy is a hole.
    let there = json!({ "ingress": [{ "ports": [] }, {}] });
    assert_eq!(
        between(json!({ "ingress": [{ "ports": [] }] }), there),
        Some("spec.ingress".to_owned())
    );
}
