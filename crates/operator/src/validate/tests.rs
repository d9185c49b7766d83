use serde_json::{Value, json};

use super::*;

mod access;

fn defaults() -> Defaults {
    Defaults {
        image_repository: "example/headwater".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
    }
}

fn cluster(spec: Value) -> IngestCluster {
    serde_json::from_value(json!({
        "apiVersion": "headwater.dev/v1alpha1",
        "kind": "IngestCluster",
        "metadata": {"name": "live", "namespace": "media", "uid": "u", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

fn minimal() -> Value {
    json!({
        "control": {"database": {"postgres": {
            "url": "postgres://headwater@db/headwater",
            "passwordSecretRef": {"name": "db", "key": "password"},
        }}},
        "redis": {"standalone": {"host": "redis"}},
        "tls": {"secretName": "tls"},
    })
}

/// Sets one field of the least that is needed.
fn with(path: &str, value: Value) -> Value {
    let mut spec = minimal();
    let mut target = &mut spec;
    for field in path.split('.') {
        if !target.is_object() {
            *target = json!({});
        }
        target = &mut target[field];
    }
    *target = value;
    spec
}

/// The paths of what is wrong.
fn paths(spec: Value) -> Vec<String> {
    match validate(&cluster(spec), &[], &defaults()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| problem.path).collect(),
    }
}

#[track_caller]
fn assert_refused(path: &str, value: Value, at: &str) {
    let found = paths(with(path, value.clone()));
    assert_eq!(found, [at], "{path}: {value}");
}

#[test]
fn defaults_are_filled_in() {
    let validated = validate(&cluster(minimal()), &[], &defaults()).unwrap();
    assert_eq!(validated.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(
        validated.image,
        format!("example/headwater:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(validated.redis_key_prefix, "hw-media-live");
    assert_eq!(validated.edge_memory_limit, Some(2 << 30));
    assert_eq!(validated.trace_port, None);
    assert_eq!(
        validated.database,
        ValidatedDatabase::Postgres {
            url: "postgres://headwater@db/headwater".to_owned(),
            port: 5432,
            connections: None,
        }
    );
}

#[test]
fn every_problem_is_found_at_once() {
    let mut spec = minimal();
    spec["version"] = json!("9.0.0");
    spec["tls"] = json!({});
    spec["edge"] = json!({
        "autoscaling": {"minReplicas": 5, "maxReplicas": 2},
        "drain": {"timeoutSeconds": 5, "noticeSeconds": 10},
    });
    assert_eq!(
        paths(spec),
        [
            "spec.version",
            "spec.edge.autoscaling.minReplicas",
            "spec.edge.drain.noticeSeconds",
            "spec.tls",
        ]
    );
}

#[test]
fn what_contradicts_itself_about_tls_is_refused() {
    for (path, value, at) in [
        (
            "edge.service.terminatedTls",
            json!("Assumed"),
            "spec.edge.service.terminatedTls",
        ),
        (
            "edge.service.rtmpPort",
            json!(70_000),
            "spec.edge.service.rtmpPort",
        ),
        (
            "tls.additionalSecrets",
            json!(["a", "Upper"]),
            "spec.tls.additionalSecrets[1]",
        ),
        (
            "tls.additionalSecrets",
            json!(["a", "a"]),
            "spec.tls.additionalSecrets",
        ),
        (
            "tls.clientCertificates",
            json!({"caSecretRef": {"name": "Upper", "key": "ca.crt"}}),
            "spec.tls.clientCertificates.caSecretRef.name",
        ),
    ] {
        assert_refused(path, value, at);
    }
}

#[test]
fn what_the_schema_and_its_rules_refuse_is_refused_again() {
    for (path, value, at) in [
        ("edge.replicas", json!(-1), "spec.edge.replicas"),
        ("origin.replicas", json!(101), "spec.origin.replicas"),
        (
            "edge.drain.timeoutSeconds",
            json!(604_801),
            "spec.edge.drain.timeoutSeconds",
        ),
        (
            "edge.drain.reconnectJitterSeconds",
            json!(3_601),
            "spec.edge.drain.reconnectJitterSeconds",
        ),
        (
            "edge.drain.closeSpreadSeconds",
            json!(-1),
            "spec.edge.drain.closeSpreadSeconds",
        ),
        (
            "edge.limits.maxConnections",
            json!(0),
            "spec.edge.limits.maxConnections",
        ),
        ("edge.service.port", json!(70_000), "spec.edge.service.port"),
        (
            "edge.service.proxyProtocol",
            json!(true),
            "spec.edge.service.trustedCidrs",
        ),
        (
            "edge.service.trustedCidrs",
            json!(["10.0.0.0/33"]),
            "spec.edge.service.trustedCidrs[0]",
        ),
        (
            "edge.service",
            json!({"type": "ClusterIP", "nodePort": 30_000}),
            "spec.edge.service.nodePort",
        ),
        (
            "edge.service",
            json!({"type": "NodePort", "loadBalancerClass": "a"}),
            "spec.edge.service.loadBalancerClass",
        ),
        ("redis.keyPrefix", json!("UPPER"), "spec.redis.keyPrefix"),
        ("redis.auth", json!({}), "spec.redis.auth"),
        ("redis.standalone", json!(null), "spec.redis"),
        (
            "redis.cluster",
            json!({"servers": [{"host": "a"}]}),
            "spec.redis",
        ),
        (
            "redis.standalone.port",
            json!(0),
            "spec.redis.standalone.port",
        ),
        ("tls.selfSigned", json!({}), "spec.tls"),
        ("image.tag", json!("a b"), "spec.image.tag"),
        ("image.digest", json!("sha256:12"), "spec.image.digest"),
        (
            "observability.tracing.endpoint",
            json!("collector:4317"),
            "spec.observability.tracing.endpoint",
        ),
        ("logging.filter", json!(""), "spec.logging.filter"),
        ("control.database", json!({}), "spec.control.database"),
    ] {
        assert_refused(path, value, at);
    }
}

#[test]
fn what_rules_cannot_say_is_refused() {
    for (path, value, at) in [
        (
            "redis.standalone.host",
            json!("redis:6379"),
            "spec.redis.standalone.host",
        ),
        (
            "redis.standalone.host",
            json!("redis://redis"),
            "spec.redis.standalone.host",
        ),
        (
            "image.repository",
            json!("a/b:tag"),
            "spec.image.repository",
        ),
        (
            "tls",
            json!({"selfSigned": {}, "dnsNames": ["UPPER"]}),
            "spec.tls.dnsNames[0]",
        ),
        (
            "tls",
            json!({"selfSigned": {}, "dnsNames": ["a", "a"]}),
            "spec.tls.dnsNames",
        ),
        (
            "control.service.dnsNames",
            json!(["*.*.a"]),
            "spec.control.service.dnsNames[0]",
        ),
        (
            "control.database",
            json!({"sqlite": {}}),
            "spec.control.replicas",
        ),
        (
            "networkPolicy.apiFrom",
            json!([{"ipBlock": {"cidr": "10.0.0.1/8 "}}]),
            "spec.networkPolicy.apiFrom[0].ipBlock.cidr",
        ),
        (
            "networkPolicy.metricsFrom",
            json!([{}]),
            "spec.networkPolicy.metricsFrom[0]",
        ),
    ] {
        assert_refused(path, value, at);
    }
}

#[test]
fn pods_that_could_not_run_or_would_not_be_safe_are_refused() {
    for (path, value, at) in [
        (
            "edge.podTemplate.extraEnv",
            json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
            "spec.edge.podTemplate.extraEnv",
        ),
        (
            "edge.podTemplate.resources",
            json!({"limits": {"memory": "lots"}}),
            "spec.edge.podTemplate.resources.limits.memory",
        ),
        (
            "edge.podTemplate.resources",
            json!({"limits": {"memory": "64Mi"}}),
            "spec.edge.podTemplate.resources.limits.memory",
        ),
        (
            "control.podTemplate.resources",
            json!({"limits": {"cpu": "100m"}, "requests": {"cpu": "200m"}}),
            "spec.control.podTemplate.resources.requests.cpu",
        ),
        (
            "origin.podTemplate.labels",
            json!({"app.kubernetes.io/name": "x"}),
            "spec.origin.podTemplate.labels",
        ),
        (
            "origin.podTemplate.extraVolumes",
            json!([{"name": "secrets"}]),
            "spec.origin.podTemplate.extraVolumes",
        ),
        (
            "origin.podTemplate.extraVolumeMounts",
            json!([{"name": "boot", "mountPath": "/x"}]),
            "spec.origin.podTemplate.extraVolumeMounts",
        ),
        (
            "edge.podTemplate",
            json!({
                "extraVolumes": [{"name": "v"}],
                "extraVolumeMounts": [{"name": "v", "mountPath": "/etc/headwater/secrets"}],
            }),
            "spec.edge.podTemplate.extraVolumeMounts",
        ),
        (
            "edge.podTemplate.securityContext",
            json!({"runAsUser": 0}),
            "spec.edge.podTemplate.securityContext.runAsUser",
        ),
        (
            "edge",
            json!({
                "autoscaling": {"maxReplicas": 3},
                "podTemplate": {"resources": {"requests": {"memory": "1Gi"}}},
            }),
            "spec.edge.podTemplate.resources.requests.cpu",
        ),
    ] {
        assert_refused(path, value, at);
    }
}

#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    for url in [
        "postgres://headwater:hunter2@db/headwater",
        "postgres://headwater@db/headwater?password=hunter2",
        "hunter2",
    ] {
        let spec = with("control.database.postgres.url", json!(url));
        let problems = validate(&cluster(spec), &[], &defaults()).unwrap_err();
        assert_eq!(problems[0].path, "spec.control.database.postgres.url");
        assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
    }
}

#[test]
fn with_a_ca_postgres_is_checked() {
    let resolve = |url: &str| {
        let mut spec = with("control.database.postgres.url", json!(url));
        spec["control"]["database"]["postgres"]["caSecretRef"] = json!({"name": "a", "key": "b"});
        validate(&cluster(spec), &[], &defaults())
    };
    for (url, expected) in [
        (
            "postgres://a@db:1/c",
            Some("postgres://a@db:1/c?sslmode=verify-full&sslrootcert="),
        ),
        (
            "postgres://a@db/c?x=y",
            Some("postgres://a@db/c?x=y&sslmode=verify-full&sslrootcert="),
        ),
        (
            "postgres://a@db/c?sslmode=verify-ca",
            Some("postgres://a@db/c?sslmode=verify-ca&sslrootcert="),
        ),
        ("postgres://a@db/c?sslmode=require", None),
        ("postgres://a@db/c?sslrootcert=/x", None),
    ] {
        match (resolve(url), expected) {
            (Ok(validated), Some(expected)) => {
                let ValidatedDatabase::Postgres { url, .. } = validated.database else {
                    panic!("not PostgreSQL");
                };
                assert_eq!(
                    url,
                    format!("{expected}/etc/headwater/secrets/postgres/ca.crt")
                );
            }
            (Err(_), None) => {}
            (other, _) => panic!("{url}: {other:?}"),
        }
    }
}

#[test]
fn versions_of_the_operators_own_minor_are_known() {
    let own = env!("CARGO_PKG_VERSION");
    let (minor, _) = own.rsplit_once('.').unwrap();
    assert!(version_supported(own));
    assert!(version_supported(&format!("{minor}.99")));
    assert!(version_supported(&format!("{minor}.1-rc.1")));
    for unknown in ["99.0.0", "0.99.0", "", "x", "1", "0.1", "0.1.2.3"] {
        assert!(!version_supported(unknown), "{unknown}");
    }
    let problems = validate(&cluster(with("version", json!("99.0.0"))), &[], &defaults());
    assert_eq!(problems.unwrap_err()[0].reason, Reason::UnsupportedVersion);
}

#[test]
fn names_that_services_cannot_have_are_refused() {
    for name in [
        "a.b",
        "1a",
        "a-",
        "a-name-of-more-than-forty-characters-abcd",
    ] {
        let mut cluster = cluster(minimal());
        cluster.metadata.name = Some(name.to_owned());
        let problems = validate(&cluster, &[], &defaults()).unwrap_err();
        assert_eq!(problems[0].path, "metadata.name", "{name}");
    }
}

fn application(name: &str, app: &str, created: &str) -> IngestApplication {
    serde_json::from_value(json!({
        "apiVersion": "headwater.dev/v1alpha1",
        "kind": "IngestApplication",
        "metadata": {"name": name, "namespace": "media", "creationTimestamp": created},
        "spec": {"clusterRef": {"name": "live"}, "app": app},
    }))
    .unwrap()
}

#[test]
fn the_oldest_application_has_its_app() {
    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-02T00:00:00Z";
    let mut elsewhere = application("elsewhere", "live", EARLY);
    elsewhere.metadata.namespace = Some("other".to_owned());
    let mut of_another = application("of-another", "live", EARLY);
    of_another.spec.cluster_ref.name = "another".to_owned();
    let mut leaving = application("leaving", "gone", EARLY);
    leaving.metadata.deletion_timestamp = leaving.metadata.creation_timestamp.clone();
    let applications = [
        application("younger", "live", LATE),
        application("z", "studio", EARLY),
        elsewhere,
        application("older", "live", EARLY),
        application("a", "studio", EARLY),
        of_another,
        leaving,
        application("successor", "gone", LATE),
        application("wrong", "a/b", EARLY),
    ];
    let cluster = cluster(minimal());
    let outcome: Vec<(String, Acceptance)> = accept_applications(&cluster, &applications)
        .into_iter()
        .map(|(application, acceptance)| (application.name_any(), acceptance))
        .collect();
    let conflict = |with: &str| Acceptance::Conflict {
        with: with.to_owned(),
    };
    let expected = [
        ("a", Acceptance::Accepted),
        ("older", Acceptance::Accepted),
        (
            "wrong",
            Acceptance::Invalid {
                message: "\"a/b\" is not an application: at most 63 letters, digits, . _ -, the first a letter or a digit".to_owned(),
            },
        ),
        ("z", conflict("a")),
        ("successor", Acceptance::Accepted),
        ("younger", conflict("older")),
    ];
    assert_eq!(
        outcome,
        expected.map(|(name, acceptance)| (name.to_owned(), acceptance))
    );
    let validated = validate(&cluster, &applications, &defaults()).unwrap();
    let applications: Vec<_> = validated.applications.iter().map(|one| &*one.app).collect();
    assert_eq!(applications, ["gone", "live", "studio"]);
}

#[test]
fn what_decides_on_an_application_is_checked_again() {
    let with = |auth: Value| {
        let mut one = application("one", "live", "2026-01-01T00:00:00Z");
        one.spec.auth = serde_json::from_value(auth).unwrap();
        one
    };
    let signed = |more: Value| {
        let mut signed = json!({"issuer": "i", "audience": "a"});
        let more = more.as_object().unwrap().clone();
        signed.as_object_mut().unwrap().extend(more);
        json!({"mode": "Signed", "signed": signed})
    };
    let webhook = |url: &str, timeout: i32, key: &str| {
        json!({"mode": "Webhook", "webhook": {
            "url": url, "secretRef": {"name": "hook", "key": key}, "timeoutMilliseconds": timeout,
        }})
    };
    let good = [
        json!({}),
        signed(json!({"jwksUrl": "https://platform.example/jwks.json", "tenant": "acme"})),
        signed(json!({"jwksSecretRef": {"name": "keys", "key": "jwks.json"}})),
        webhook("https://platform.example/publish", 1500, "secret"),
    ];
    let bad = [
        (json!({"mode": "Signed"}), "spec.auth"),
        (json!({"mode": "Webhook"}), "spec.auth"),
        (signed(json!({})), "spec.auth.signed"),
        (
            signed(json!({"jwksUrl": "http://platform.example"})),
            "spec.auth.signed.jwksUrl",
        ),
        (
            signed(json!({"jwksSecretRef": {"name": "A", "key": "k"}})),
            "spec.auth.signed.jwksSecretRef.name",
        ),
        (
            signed(json!({"jwksUrl": "https://a.example", "tenant": "a b"})),
            "spec.auth.signed.tenant",
        ),
        (
            webhook("https://a@platform.example", 1500, "k"),
            "spec.auth.webhook.url",
        ),
        (
            webhook("https://platform.example", 3000, "k"),
            "spec.auth.webhook.timeoutMilliseconds",
        ),
        (
            webhook("https://platform.example", 1500, "a/b"),
            "spec.auth.webhook.secretRef.key",
        ),
    ];
    let cluster = cluster(minimal());
    let accept = |auth: &Value| {
        let applications = [with(auth.clone())];
        accept_applications(&cluster, &applications).remove(0).1
    };
    for auth in good {
        assert_eq!(accept(&auth), Acceptance::Accepted, "{auth}");
    }
    for (auth, path) in bad {
        let Acceptance::Invalid { message } = accept(&auth) else {
            panic!("{auth}");
        };
        assert!(message.starts_with(&format!("{path}: ")), "{message}");
    }
}
