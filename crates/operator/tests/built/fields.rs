//! Every field of the specification does something. A field that is not in the table fails, and so does one whose change
//! changes nothing.

use std::collections::BTreeSet;

use operator::{
    api::IngestCluster,
    build::{control_dns_names, edge_dns_names},
    crd::{FOREIGN, crds},
};
use serde_json::{Value, json};

use crate::{
    change::merge,
    fixture::{FIXTURES, Fixture, render},
};

/// Fields that decide what is done with the objects, or what is in a Secret, and not what the objects are: the tests of the
/// controller and of the Secrets show what they do.
const DECISIONS: [&str; 2] = ["paused", ADDITIONAL_SECRETS];
const ADDITIONAL_SECRETS: &str = "tls.additionalSecrets";

/// Path, and two values that are not the same thing.
type Field = (&'static str, Value, Value);

fn base() -> Fixture {
    let mut fixture = Fixture::read(&std::path::Path::new(FIXTURES).join("cert-manager"));
    fixture.observed.pod_monitors = true;
    merge(
        &mut fixture.spec,
        &json!({
            "control": {"database": {"postgres": {"caSecretRef": {"name": "ca", "key": "ca"}}}},
            "redis": {"auth": {"shared": {"passwordSecretRef": {"name": "redis", "key": "key"}}}, "tls": {}},
        }),
    );
    fixture
}

fn fields() -> Vec<Field> {
    let mut fields = cluster_fields();
    fields.extend(edge_fields());
    fields.extend(control_fields());
    fields.extend(api_access_fields());
    fields.extend(redis_and_internal_tls_fields());
    fields.extend(redis_form_fields());
    fields.extend(public_tls_fields());
    for tier in ["edge", "origin", "control"] {
        fields.extend(pod_fields(tier));
    }
    fields
}

fn cluster_fields() -> Vec<Field> {
    let peer = json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]);
    vec![
        ("version", json!("0.1.7"), json!("0.1.8")),
        (
            "image.repository",
            json!("a.example/b"),
            json!("a.example/c"),
        ),
        ("image.tag", json!("a"), json!("b")),
        (
            "image.digest",
            json!(format!("sha256:{:064}", 1)),
            json!(null),
        ),
        ("image.pullPolicy", json!("Always"), json!("Never")),
        ("imagePullSecrets", json!([{"name": "a"}]), json!([])),
        ("origin.replicas", json!(1), json!(2)),
        ("origin.drainTimeoutSeconds", json!(1), json!(2)),
        ("origin.rtmp.enabled", json!(true), json!(false)),
        ("origin.rtmp.tls", json!(false), json!(true)),
        ("networkPolicy.enabled", json!(true), json!(false)),
        ("networkPolicy.apiFrom", peer.clone(), json!([])),
        ("networkPolicy.playbackFrom", peer.clone(), json!([])),
        ("networkPolicy.metricsFrom", peer.clone(), json!([])),
        ("networkPolicy.webhookPorts", json!([443]), json!([])),
        (
            "networkPolicy.extraEgress",
            json!([{"to": peer}]),
            json!([]),
        ),
        (
            "observability.podMonitors",
            json!("Auto"),
            json!("Disabled"),
        ),
        (
            "observability.podMonitorLabels",
            json!({"a": "b"}),
            json!({}),
        ),
        (
            "observability.tracing",
            json!({"endpoint": "http://a:1"}),
            json!(null),
        ),
        (
            "observability.tracing.endpoint",
            json!("http://a:1"),
            json!("http://a:2"),
        ),
        ("observability.tracing.samplePercent", json!(1), json!(2)),
        ("logging.filter", json!("info"), json!("debug")),
        ("logging.format", json!("Json"), json!("Text")),
        ("deletionPolicy", json!("Retain"), json!("DeleteAll")),
    ]
}

fn edge_fields() -> Vec<Field> {
    vec![
        ("edge.replicas", json!(4), json!(5)),
        ("edge.autoscaling", json!({"maxReplicas": 9}), json!(null)),
        ("edge.autoscaling.minReplicas", json!(4), json!(5)),
        ("edge.autoscaling.maxReplicas", json!(8), json!(9)),
        ("edge.autoscaling.targetCpuPercent", json!(50), json!(60)),
        (
            "edge.autoscaling.scaleDownWindowSeconds",
            json!(1),
            json!(2),
        ),
        ("edge.drain.timeoutSeconds", json!(50), json!(60)),
        ("edge.drain.noticeSeconds", json!(1), json!(2)),
        ("edge.drain.reconnectRequest", json!(true), json!(false)),
        ("edge.drain.reconnectJitterSeconds", json!(1), json!(2)),
        ("edge.drain.closeSpreadSeconds", json!(1), json!(2)),
        (
            "edge.service.type",
            json!("LoadBalancer"),
            json!("ClusterIP"),
        ),
        ("edge.service.port", json!(1), json!(2)),
        ("edge.service.nodePort", json!(30_001), json!(30_002)),
        (
            "edge.service.externalTrafficPolicy",
            json!("Local"),
            json!("Cluster"),
        ),
        ("edge.service.loadBalancerClass", json!("a"), json!("b")),
        (
            "edge.service.loadBalancerSourceRanges",
            json!(["10.0.0.0/8"]),
            json!(["10.0.0.0/9"]),
        ),
        ("edge.service.annotations", json!({"a": "b"}), json!({})),
        ("edge.service.proxyProtocol", json!(true), json!(false)),
        (
            "edge.service.terminatedTls",
            json!("Announced"),
            json!("Assumed"),
        ),
        ("edge.service.rtmpPort", json!(0), json!(1936)),
        ("edge.clientAddress", json!("Full"), json!("None")),
        ("edge.plainRtmp", json!("Allow"), json!("Refuse")),
        (
            "edge.service.trustedCidrs",
            json!(["10.0.0.0/8"]),
            json!(["10.0.0.0/9"]),
        ),
        ("edge.limits.maxConnections", json!(1), json!(2)),
        ("edge.limits.maxConnectionsPerIp", json!(1), json!(2)),
    ]
}

fn control_fields() -> Vec<Field> {
    vec![
        ("control.replicas", json!(4), json!(5)),
        ("control.database.sqlite", json!({}), json!({"size": "2Gi"})),
        ("control.database.sqlite.size", json!("1Gi"), json!("2Gi")),
        (
            "control.database.sqlite.storageClassName",
            json!("a"),
            json!("b"),
        ),
        (
            "control.database.postgres.url",
            json!("postgres://a@b/c"),
            json!("postgres://a@b/d"),
        ),
        (
            "control.database.postgres.passwordSecretRef.name",
            json!("a"),
            json!("b"),
        ),
        (
            "control.database.postgres.passwordSecretRef.key",
            json!("a"),
            json!("b"),
        ),
        (
            "control.database.postgres.caSecretRef",
            json!({"name": "a", "key": "b"}),
            json!(null),
        ),
        (
            "control.database.postgres.caSecretRef.name",
            json!("a"),
            json!("b"),
        ),
        (
            "control.database.postgres.caSecretRef.key",
            json!("a"),
            json!("b"),
        ),
        ("control.database.postgres.connections", json!(2), json!(64)),
        ("control.egress.allow", json!(["10.0.0.0/8"]), json!([])),
        ("control.egress.caSecretRef.name", json!("a"), json!("b")),
        ("control.egress.caSecretRef.key", json!("a"), json!("b")),
        (
            "control.service.type",
            json!("NodePort"),
            json!("ClusterIP"),
        ),
        ("control.service.annotations", json!({"a": "b"}), json!({})),
        (
            "control.service.dnsNames",
            json!(["a.example"]),
            json!(["b.example"]),
        ),
        ("control.tls", json!({"name": "a"}), json!(null)),
        ("control.tls.name", json!("a"), json!("b")),
        ("control.tls.kind", json!("Issuer"), json!("ClusterIssuer")),
        ("control.tls.group", json!("a.example"), json!("b.example")),
    ]
}

fn api_access_fields() -> Vec<Field> {
    let issuer = |kind: &str| {
        let subject = json!({"name": "system:serviceaccount:a:b", "tenant": "a", "scopes": ["*"]});
        json!([{"issuer": "a", "audience": "b", "kubernetes": kind, "subjects": [subject]}])
    };
    let subject = |name: &str| json!([{"name": name, "tenant": "a", "scopes": ["keys:read"]}]);
    let of_certificates =
        |field: &str| -> &'static str { format!("control.clientCertificates.{field}").leak() };
    vec![
        ("control.oidc", issuer("KeySet"), issuer("TokenReview")),
        ("control.quotas.maxKeys", json!(1), json!(null)),
        ("control.quotas.maxSessions", json!(1), json!(2)),
        ("control.quotas.maxBitrateBps", json!(1), json!(2)),
        (
            of_certificates("mode"),
            json!("Optional"),
            json!("Required"),
        ),
        (of_certificates("caSecretRef.name"), json!("a"), json!("b")),
        (of_certificates("caSecretRef.key"), json!("a"), json!("b")),
        (of_certificates("crlSecretRef.name"), json!("a"), json!("b")),
        (of_certificates("crlSecretRef.key"), json!("a"), json!("b")),
        (of_certificates("subjects"), subject("a.example"), json!([])),
    ]
}

fn public_tls_fields() -> Vec<Field> {
    vec![
        ("tls.secretName", json!("a"), json!("b")),
        ("tls.issuerRef.name", json!("a"), json!("b")),
        (
            "tls.issuerRef.kind",
            json!("Issuer"),
            json!("ClusterIssuer"),
        ),
        (
            "tls.issuerRef.group",
            json!("a.example"),
            json!("b.example"),
        ),
        ("tls.selfSigned", json!({}), json!(null)),
        ("tls.dnsNames", json!(["a.example"]), json!(["b.example"])),
        ("tls.minimumVersion", json!("1.2"), json!("1.3")),
        (
            "tls.clientCertificates.mode",
            json!("Optional"),
            json!("Required"),
        ),
        (
            "tls.clientCertificates.caSecretRef.name",
            json!("a"),
            json!("b"),
        ),
        (
            "tls.clientCertificates.caSecretRef.key",
            json!("a"),
            json!("b"),
        ),
        (
            "tls.clientCertificates.crlSecretRef.name",
            json!("a"),
            json!("b"),
        ),
        (
            "tls.clientCertificates.crlSecretRef.key",
            json!("a"),
            json!("b"),
        ),
    ]
}

fn redis_form_fields() -> Vec<Field> {
    let servers = |host: &str| json!([{"host": host}]);
    let shared = |name: &str| json!({"passwordSecretRef": {"name": name, "key": "x"}});
    vec![
        ("redis.sentinel.masterName", json!("a"), json!("b")),
        ("redis.sentinel.servers", servers("a"), servers("b")),
        ("redis.sentinel.serverPort", json!(1), json!(2)),
        ("redis.sentinel.tlsEnabled", json!(true), json!(false)),
        ("redis.sentinel.auth", shared("a"), json!(null)),
        ("redis.sentinel.auth.username", json!("a"), json!("b")),
        (
            "redis.sentinel.auth.passwordSecretRef.name",
            json!("a"),
            json!("b"),
        ),
        (
            "redis.sentinel.auth.passwordSecretRef.key",
            json!("a"),
            json!("b"),
        ),
        ("redis.cluster.servers", servers("a"), servers("b")),
    ]
}

fn redis_and_internal_tls_fields() -> Vec<Field> {
    let shared = json!({"shared": {"passwordSecretRef": {"name": "a", "key": "b"}}});
    vec![
        ("redis.standalone.host", json!("a"), json!("b")),
        ("redis.standalone.port", json!(1), json!(2)),
        ("redis.auth", shared, json!(null)),
        (
            "redis.auth.perRole",
            json!({"secretName": "a"}),
            json!({"secretName": "b"}),
        ),
        ("redis.auth.perRole.secretName", json!("a"), json!("b")),
        ("redis.auth.shared.username", json!("a"), json!("b")),
        (
            "redis.auth.shared.passwordSecretRef.name",
            json!("a"),
            json!("b"),
        ),
        (
            "redis.auth.shared.passwordSecretRef.key",
            json!("a"),
            json!("b"),
        ),
        ("redis.tls", json!({}), json!(null)),
        (
            "redis.tls.caSecretRef",
            json!({"name": "a", "key": "b"}),
            json!(null),
        ),
        ("redis.tls.caSecretRef.name", json!("a"), json!("b")),
        ("redis.tls.caSecretRef.key", json!("a"), json!("b")),
        ("redis.tls.certificateSecretName", json!("a"), json!("b")),
        ("redis.keyPrefix", json!("a"), json!("b")),
        (
            "redis.outagePolicy",
            json!("FailClosed"),
            json!("KeepExisting"),
        ),
        ("internalTls.issuerRef", json!({"name": "a"}), json!(null)),
        ("internalTls.issuerRef.name", json!("a"), json!("b")),
        (
            "internalTls.issuerRef.kind",
            json!("Issuer"),
            json!("ClusterIssuer"),
        ),
        (
            "internalTls.issuerRef.group",
            json!("a.example"),
            json!("b.example"),
        ),
    ]
}

fn pod_fields(tier: &str) -> Vec<Field> {
    let path = |field: &str| -> &'static str { format!("{tier}.podTemplate.{field}").leak() };
    let spread =
        json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]);
    vec![
        (path("labels"), json!({"a": "b"}), json!({})),
        (path("annotations"), json!({"a": "b"}), json!({})),
        (
            path("resources"),
            json!({"limits": {"memory": "1Gi"}}),
            json!(null),
        ),
        (path("nodeSelector"), json!({"a": "b"}), json!({})),
        (path("affinity"), json!({"nodeAffinity": {}}), json!(null)),
        (
            path("tolerations"),
            json!([{"operator": "Exists"}]),
            json!([]),
        ),
        (path("topologySpreadConstraints"), spread, json!([])),
        (path("priorityClassName"), json!("a"), json!("b")),
        (path("serviceAccountName"), json!("a"), json!(null)),
        (
            path("extraEnv"),
            json!([{"name": "A", "value": "b"}]),
            json!([]),
        ),
        (
            path("extraVolumes"),
            json!([{"name": "a", "emptyDir": {}}]),
            json!([]),
        ),
        (
            path("extraVolumeMounts"),
            json!([{"name": "v", "mountPath": "/a"}]),
            json!([{"name": "v", "mountPath": "/b"}]),
        ),
        (
            path("securityContext"),
            json!({"runAsUser": 7}),
            json!(null),
        ),
    ]
}

/// What else a field needs, or excludes.
fn surroundings(path: &str) -> Value {
    match path {
        "edge.service.proxyProtocol" => {
            json!({"edge": {"service": {"trustedCidrs": ["10.0.0.0/8"]}}})
        }
        "edge.service.terminatedTls" => json!({
            "edge": {"service": {"proxyProtocol": true, "trustedCidrs": ["10.0.0.0/8"]}}
        }),
        path if path.starts_with("tls.clientCertificates.") => {
            let reference = json!({"name": "x", "key": "x"});
            json!({"tls": {"clientCertificates": {"caSecretRef": reference, "crlSecretRef": reference}}})
        }
        path if path.starts_with("control.clientCertificates.") => {
            let reference = json!({"name": "x", "key": "x"});
            json!({"control": {"clientCertificates": {"caSecretRef": reference, "crlSecretRef": reference}}})
        }
        "control.oidc" => json!({"control": {"egress": {"allow": ["10.96.0.1/32"]}}}),
        "edge.service.trustedCidrs" => json!({"edge": {"service": {"proxyProtocol": true}}}),
        path if path.starts_with("redis.sentinel.") => {
            let mut sentinel = json!({"masterName": "x", "servers": [{"host": "x"}]});
            if path.starts_with("redis.sentinel.auth.") {
                sentinel["auth"] = json!({"passwordSecretRef": {"name": "x", "key": "x"}});
            }
            json!({"redis": {"standalone": null, "sentinel": sentinel}})
        }
        path if path.starts_with("redis.cluster.") => json!({"redis": {"standalone": null}}),
        "redis.auth.perRole" | "redis.auth.perRole.secretName" => {
            json!({"redis": {"auth": {"shared": null}}})
        }
        "tls.secretName" => json!({"tls": {"issuerRef": null}}),
        "observability.tracing.samplePercent" => {
            json!({"observability": {"tracing": {"endpoint": "http://a:1"}}})
        }
        "deletionPolicy" => sqlite(),
        path if path.starts_with("edge.autoscaling.") => {
            json!({"edge": {"autoscaling": {"maxReplicas": 10}}})
        }
        path if path.starts_with("control.database.sqlite") => sqlite(),
        path if path.starts_with("control.database.postgres.caSecretRef.")
            || path.starts_with("control.egress.caSecretRef.")
            || path.starts_with("redis.tls.caSecretRef.") =>
        {
            let reference = json!({"name": "x", "key": "x"});
            json!({
                "control": {
                    "database": {"postgres": {"caSecretRef": reference}},
                    "egress": {"caSecretRef": reference},
                },
                "redis": {"tls": {"caSecretRef": reference}},
            })
        }
        path if path.ends_with("extraVolumeMounts") => {
            let tier = path.split('.').next().unwrap();
            json!({tier: {"podTemplate": {"extraVolumes": [{"name": "v", "emptyDir": {}}]}}})
        }
        _ => json!({}),
    }
}

fn sqlite() -> Value {
    json!({"control": {"replicas": 1, "database": {"postgres": null, "sqlite": {}}}})
}

/// One of three: what it excludes goes with its value.
fn alternatives(path: &str, value: &Value) -> Value {
    match (path, value.is_null()) {
        ("tls.selfSigned", false) => json!({"tls": {"issuerRef": null}}),
        _ => json!({}),
    }
}

/// Everything that comes of a cluster: its objects, and the names in certificates of the operator's own.
fn outcome(path: &str, value: &Value) -> String {
    let mut fixture = base();
    merge(&mut fixture.spec, &surroundings(path));
    merge(&mut fixture.spec, &alternatives(path, value));
    let patch = path
        .rsplit('.')
        .fold(value.clone(), |inner, field| json!({field: inner}));
    merge(&mut fixture.spec, &patch);
    let cluster = fixture
        .validate()
        .unwrap_or_else(|problems| panic!("{path}: {value}: {problems:#?}"));
    format!(
        "{}{:?}{:?}",
        render(&fixture.objects()),
        edge_dns_names(&cluster),
        control_dns_names(&cluster)
    )
}

#[test]
fn every_field_of_the_specification_does_something() {
    for (path, one, another) in fields() {
        assert_ne!(
            outcome(path, &one),
            outcome(path, &another),
            "{path} does nothing"
        );
    }
}

#[test]
fn a_further_certificate_changes_no_pod() {
    let with = |secrets: Value| outcome(ADDITIONAL_SECRETS, &secrets);
    assert_eq!(with(json!([])), with(json!(["a"])));
    assert_eq!(with(json!(["a"])), with(json!(["a", "b"])));
}

#[test]
fn the_table_has_every_field_of_the_schema() {
    let crd = serde_json::to_value(&crds()[1]).unwrap();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut in_schema = BTreeSet::new();
    leaves("", spec, &mut in_schema);
    let mut in_table: BTreeSet<String> = fields()
        .into_iter()
        .map(|(path, ..)| path.to_owned())
        .collect();
    in_table.extend(DECISIONS.map(str::to_owned));
    let missing: Vec<_> = in_schema.difference(&in_table).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    for path in &in_table {
        let pointer = path.replace('.', "/properties/");
        let known = spec.pointer(&format!("/properties/{pointer}"));
        assert!(known.is_some(), "not in the schema: {path}");
    }
}

/// Every field below which there are none of ours.
fn leaves(path: &str, schema: &Value, found: &mut BTreeSet<String>) {
    let name = path.rsplit('.').next().unwrap_or_default();
    match schema["properties"].as_object() {
        Some(properties) if !FOREIGN.contains(&name) && !properties.is_empty() => {
            for (field, below) in properties {
                let path = if path.is_empty() {
                    field.clone()
                } else {
                    format!("{path}.{field}")
                };
                leaves(&path, below, found);
            }
        }
        _ => {
            found.insert(path.to_owned());
        }
    }
}

#[test]
fn an_object_of_before_a_default_is_read_as_if_it_had_it() {
    let fixture = Fixture::read(&std::path::Path::new(FIXTURES).join("minimal"));
    let cluster: IngestCluster = fixture.cluster();
    assert_eq!(cluster.spec.edge.service.port, 443);
    assert_eq!(cluster.spec.edge.limits.max_connections, 10_000);
    assert_eq!(cluster.spec.origin.replicas, 3);
}
