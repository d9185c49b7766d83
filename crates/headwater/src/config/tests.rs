//! What a wrong file gets told, and that the files in `deploy/` are right.

use std::{fs, path::PathBuf, time::Duration};

use ::edge::{PlainRtmp, ProxyProtocol, TerminatedTls};
use registry::RedisServers;
use runtime::tls::{ClientCertificateFiles, ClientCertificates, MinimumVersion};
use tempfile::TempDir;

use super::*;
use crate::bootstrap;

type Loaded<T> = Result<(Shared, T), ConfigError>;

fn load_edge(file: &Path, environment: &[(&str, &str)]) -> Loaded<EdgeConfig> {
    load("edge", file, owned(environment), |sections, check| {
        check.required("edge", sections.edge.take())?.finish(check)
    })
}

fn load_control(file: &Path, environment: &[(&str, &str)]) -> Loaded<ControlConfig> {
    load("control", file, owned(environment), |sections, check| {
        check
            .required("control", sections.control.take())?
            .finish(check)
    })
}

fn load_origin(file: &Path, environment: &[(&str, &str)]) -> Loaded<OriginConfig> {
    load("origin", file, owned(environment), |sections, check| {
        check
            .required("origin", sections.origin.take())?
            .finish(check)
    })
}

fn owned(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// What `headwater bootstrap` writes: the files in `deploy/`, with everything that they name.
fn bootstrapped() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    bootstrap::write(directory.path()).unwrap();
    directory
}

fn write(directory: &TempDir, text: &str) -> PathBuf {
    let file = directory.path().join("test.yaml");
    fs::write(&file, text).unwrap();
    file
}

fn mistakes<T>(loaded: Loaded<T>) -> Vec<String> {
    match loaded {
        Ok(_) => panic!("no mistake was found"),
        Err(error) => error
            .to_string()
            .lines()
            .skip(1)
            .map(|line| line.trim().to_owned())
            .collect(),
    }
}

#[test]
fn the_deployed_configuration_is_right() {
    let directory = bootstrapped();
    let file = |name| directory.path().join(name);

    let (shared, edge) = load_edge(&file("edge.yaml"), &[]).unwrap();
    assert_eq!(edge.listen, ["127.0.0.1:8443".parse().unwrap()]);
    assert_eq!(edge.control, ["127.0.0.1:7445"]);
    assert_eq!(edge.tls.default.certificate, file("public.pem"));
    assert_eq!(shared.registry.access.username.as_deref(), Some("edge"));
    assert_eq!(shared.process.drain.timeout, Duration::from_secs(30));

    let (_, control) = load_control(&file("control.yaml"), &[]).unwrap();
    assert_eq!(
        control.control.applications,
        [::control::Application::managed("live")]
    );
    assert_eq!(control.control.pepper_file, file("pepper"));

    let (_, a) = load_origin(&file("origin-a.yaml"), &[]).unwrap();
    let (_, b) = load_origin(&file("origin-b.yaml"), &[]).unwrap();
    assert_ne!(a.origin.name, b.origin.name);
    assert_ne!(a.relay_listen, b.relay_listen);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(
        &directory,
        r#"
log: { format: xml, filter: "edge=loud" }
admin: { listen: 9090 }
drain_timeout: soon
cluster: { name: dev, namespace: "a/b", trust_domain: headwater.local }
internal_tls: { certificate: missing.pem, private_key: missing.key, ca: missing-ca.pem }
registry: { redis: { url: "redis://user:hunter2@localhost" } }
edge:
  lisen: 127.0.0.1:8443
  listen: [127.0.0.1:1, foo, 127.0.0.1:2, bar]
  control: control
  certificate: .
  connections: { connections_max: 0, tls_handshake_timeout: 10 }
  relay: { ring_bytes_max: 1MB }
  outage_policy: hope
  proxy_protocol: { mode: require, trusted: [10.0.0.0/33] }
  certificates: missing-directory
  client_address: half
  client_certificates: { mode: required, crls: [missing.crl] }
  plain_rtmp: maybe
  tls_minimum: tls1.1
  origins: [{ name: "a b" }]
"#,
    );
    let base = directory.path().display();
    let expected = [
        r#"admin.listen: invalid type: integer `9090`, expected a string"#.to_owned(),
        r#"cluster.namespace: "a/b" has more than letters, digits, . and -"#.to_owned(),
        r#"drain_timeout: "soon" is not a length of time (such as 15s or 250ms)"#.to_owned(),
        format!("edge.certificate: {base}/. is not a file"),
        format!("edge.certificates: {base}/missing-directory: No such file or directory (os error 2)"),
        "edge.client_address: unknown variant `half`, expected one of `full`, `none`, `prefix`"
            .to_owned(),
        "edge.client_certificates.ca: is required".to_owned(),
        format!("edge.client_certificates.crls[0]: {base}/missing.crl: No such file or directory (os error 2)"),
        "edge.connections.connections_max: 0 is not a number in the range allowed".to_owned(),
        "edge.connections.tls_handshake_timeout: invalid type: integer `10`, expected a string"
            .to_owned(),
        r#"edge.control: "control" is not a host and a port (such as control:7445)"#.to_owned(),
        "edge.lisen: is not a known field".to_owned(),
        r#"edge.listen[1]: "foo" is not an address (such as 127.0.0.1:8443)"#.to_owned(),
        r#"edge.listen[3]: "bar" is not an address (such as 127.0.0.1:8443)"#.to_owned(),
        r#"edge.origins[0].name: "a b" is not a name (letters, digits, and . _ : -)"#.to_owned(),
        "edge.origins[0].relay_address: is required".to_owned(),
        "edge.outage_policy: unknown variant `hope`, expected `fail_closed` or `keep`".to_owned(),
        "edge.plain_rtmp: unknown variant `maybe`, expected `allow` or `refuse`".to_owned(),
        "edge.private_key: is required".to_owned(),
        "edge.proxy_protocol.trusted: is required where mode is require: anybody could claim any address".to_owned(),
        r#"edge.proxy_protocol.trusted[0]: "10.0.0.0/33" is not a network (such as 10.0.0.0/8)"#.to_owned(),
        r#"edge.relay.ring_bytes_max: invalid value: string "1MB", expected a number of bytes (such as 65536 or 64KiB)"#.to_owned(),
        "edge.tls_minimum: unknown variant `tls1.1`, expected `tls1.2` or `tls1.3`".to_owned(),
        format!("internal_tls.ca: {base}/missing-ca.pem: No such file or directory (os error 2)"),
        format!("internal_tls.certificate: {base}/missing.pem: No such file or directory (os error 2)"),
        format!("internal_tls.private_key: {base}/missing.key: No such file or directory (os error 2)"),
        r#"log.filter: the log filter "edge=loud" is not valid"#.to_owned(),
        "log.format: unknown variant `xml`, expected `json` or `text`".to_owned(),
        "registry.redis.url: holds credentials; they belong in username and password_file".to_owned(),
    ];
    assert_eq!(mistakes(load_edge(&file, &[])), expected);
}

#[test]
fn leases_tell_of_media_before_a_publisher_counts_as_silent() {
    let directory = bootstrapped();
    let file = directory.path().join("edge.yaml");
    let renewed_every =
        |period| load_edge(&file, &[("HEADWATER__EDGE__RELAY__RENEW_PERIOD", period)]);
    assert!(renewed_every("2s").is_ok());
    let expected = [
        "edge.relay.stale_after: is less than a second above edge.relay.renew_period: publishers that are well would look silent"
            .to_owned(),
    ];
    assert_eq!(mistakes(renewed_every("2001ms")), expected);
}

#[test]
fn the_environment_overrides_the_file() {
    let directory = bootstrapped();
    let file = directory.path().join("edge.yaml");
    let (shared, edge) = load_edge(
        &file,
        &[
            ("HEADWATER__EDGE__LISTEN", "[127.0.0.1:0, '[::1]:0']"),
            ("HEADWATER__EDGE__RELAY__STALL_TIMEOUT", "7s"),
            ("HEADWATER__EDGE__CONNECTIONS__CONNECTIONS_MAX", "17"),
            ("HEADWATER__REGISTRY__REDIS__PASSWORD_FILE", "null"),
            ("HEADWATER__DRAIN_TIMEOUT", "1m"),
            ("HEADWATER__EDGE__TLS_MINIMUM", "tls1.3"),
            ("HEADWATER__EDGE__PLAIN_RTMP", "allow"),
            (
                "HEADWATER__EDGE__CLIENT_CERTIFICATES",
                "{ mode: optional, ca: internal/ca.pem }",
            ),
            (
                "HEADWATER__EDGE__PROXY_PROTOCOL",
                "{ mode: require, trusted: 10.0.0.0/8, terminated_tls: announced }",
            ),
            ("HEADWATER_SERVER", "not a field"),
        ],
    )
    .unwrap();
    assert_eq!(edge.listen.len(), 2);
    assert_eq!(edge.edge.relay.stall_timeout, Duration::from_secs(7));
    assert_eq!(edge.edge.connections.connections_max, 17);
    assert_eq!(edge.tls.minimum_version, MinimumVersion::Tls13);
    assert_eq!(edge.edge.plain_rtmp, PlainRtmp::Allow);
    let client_certificates = ClientCertificates::Optional(ClientCertificateFiles {
        ca: directory.path().join("internal/ca.pem"),
        crls: Vec::new(),
    });
    assert_eq!(edge.tls.client_certificates, client_certificates);
    let balancer = ProxyProtocol::Require {
        trusted: vec!["10.0.0.0/8".parse().unwrap()],
        terminated_tls: TerminatedTls::Announced,
    };
    assert_eq!(edge.edge.proxy_protocol, balancer);
    assert_eq!(shared.registry.access.password_file, None);
    assert_eq!(shared.process.drain.timeout, Duration::from_secs(60));
}

#[test]
fn a_whole_section_can_come_from_the_environment() {
    let directory = bootstrapped();
    let file = directory.path().join("control.yaml");
    let (_, control) = load_control(
        &file,
        &[("HEADWATER__CONTROL__DATABASE", "{sqlite: control.db}")],
    )
    .unwrap();
    let path = directory.path().join("control.db");
    assert!(matches!(
        control.control.database,
        ::control::DatabaseConfig::Sqlite { path: found } if found == path
    ));
}

#[test]
fn a_quota_is_not_there_where_it_is_not_given() {
    let directory = bootstrapped();
    let file = directory.path().join("control.yaml");
    let quota = |environment: &[(&str, &str)]| {
        let (_, control) = load_control(&file, environment).unwrap();
        control.control.default_quota
    };
    assert_eq!(quota(&[]), ::control::Quota::default());
    let given = quota(&[(
        "HEADWATER__CONTROL__QUOTAS",
        "{max_keys: 7, max_bitrate_bps: 9000000}",
    )]);
    assert_eq!((given.max_keys, given.max_sessions), (7, 0));
    assert_eq!(given.max_bitrate_bps, 9_000_000);
    // As an IngestCluster may say it.
    let none = quota(&[("HEADWATER__CONTROL__QUOTAS", "{max_keys: 0}")]);
    assert_eq!(none, ::control::Quota::default());
}

#[test]
fn names_that_control_would_not_take_are_mistakes() {
    let directory = bootstrapped();
    let file = directory.path().join("control.yaml");
    let found = mistakes(load_control(
        &file,
        &[
            ("HEADWATER__CONTROL__APPLICATIONS", "[live, 'a b']"),
            ("HEADWATER__CONTROL__TENANT", "a/b"),
        ],
    ));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(
        found[0].starts_with(r#"control.applications: "a b" is not an application"#),
        "{found:#?}"
    );
    assert!(
        found[1].starts_with(r#"control.tenant: "a/b" is not a tenant"#),
        "{found:#?}"
    );
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let directory = bootstrapped();
    let file = directory.path().join("edge.yaml");
    let found = mistakes(load_edge(
        &file,
        &[
            ("HEADWATER__EDGE__LISTEN", "foo"),
            ("HEADWATER__EDGE__ZOME", "a"),
            ("HEADWATER__EDGE__LISTEN__PORT", "1"),
            ("HEADWATER__LOG__FILTER", "{"),
        ],
    ));
    assert_eq!(found.len(), 4, "{found:#?}");
    assert_eq!(
        found[0],
        r#"edge.listen: "foo" is not an address (such as 127.0.0.1:8443) (from HEADWATER__EDGE__LISTEN)"#
    );
    assert_eq!(
        found[1],
        "edge.listen.port: is not a field of a section (from HEADWATER__EDGE__LISTEN__PORT)"
    );
    assert_eq!(
        found[2],
        "edge.zome: is not a known field (from HEADWATER__EDGE__ZOME)"
    );
    assert!(
        found[3].starts_with("log.filter: is not YAML"),
        "{found:#?}"
    );
}

#[test]
fn another_roles_section_is_checked_but_its_files_are_not() {
    let directory = bootstrapped();
    let edge = fs::read_to_string(directory.path().join("edge.yaml")).unwrap();
    let file = write(
        &directory,
        &format!("{edge}\ncontrol: {{ pepper_file: elsewhere, hold_off: 20s }}\n"),
    );
    load_edge(&file, &[]).unwrap();

    let file = write(
        &directory,
        &format!("{edge}\ncontrol: {{ hold_off: 20 }}\n"),
    );
    assert_eq!(
        mistakes(load_edge(&file, &[])),
        ["control.hold_off: invalid type: integer `20`, expected a string"]
    );
}

#[test]
fn what_cannot_be_read_is_one_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(&directory, "edge: [");
    let found = mistakes(load_edge(&file, &[]));
    assert!(found[0].starts_with("is not YAML"), "{found:#?}");
    assert_eq!(found.len(), 1, "{found:#?}");

    let found = mistakes(load_edge(Path::new("/nowhere.yaml"), &[]));
    assert!(found[0].starts_with("cannot be read"), "{found:#?}");
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn a_field_that_comes_twice_is_a_mistake() {
    let directory = bootstrapped();
    let edge = fs::read_to_string(directory.path().join("edge.yaml")).unwrap();
    let file = write(&directory, &format!("{edge}\nlog: {{}}\n"));
    let found = mistakes(load_edge(&file, &[]));
    assert!(found[0].contains("duplicate"), "{found:#?}");
}

#[test]
fn a_password_in_an_address_is_refused_and_not_repeated() {
    let directory = bootstrapped();
    let file = directory.path().join("control.yaml");
    let found = mistakes(load_control(
        &file,
        &[
            (
                "HEADWATER__CONTROL__DATABASE__POSTGRES__URL",
                "postgres://headwater:hunter2@localhost/headwater",
            ),
            (
                "HEADWATER__REGISTRY__REDIS__URL",
                "rediss://headwater:hunter2@localhost",
            ),
        ],
    ));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(!found.join("").contains("hunter2"), "{found:#?}");
}

#[test]
fn redis_is_in_one_of_its_forms() {
    let directory = bootstrapped();
    let file = directory.path().join("edge.yaml");
    let load = |redis: &str| load_edge(&file, &[("HEADWATER__REGISTRY__REDIS", redis)]);
    let registry = |redis: &str| load(redis).unwrap().0.registry;

    let one = registry("{ url: 'rediss://redis/2', username: edge, timeout: 3s, prefix: x }");
    assert!(matches!(&one.servers, RedisServers::One(at) if at == "redis:6379"));
    assert_eq!((one.access.tls, one.database), (true, 2));
    assert_eq!(one.access.username.as_deref(), Some("edge"));
    assert_eq!((&*one.prefix, one.timeout), ("x", Duration::from_secs(3)));

    let cluster = registry("{ cluster: { addresses: ['a:6379', '[::1]:6380'] }, tls: true }");
    assert!(matches!(&cluster.servers, RedisServers::Cluster(at) if at.len() == 2));
    assert!(cluster.access.tls);

    let sentinel = "sentinel: { master_name: main, addresses: ['s:26379'], username: watcher }";
    let found = registry(&format!(
        "{{ {sentinel}, tls: true, ca_file: internal/ca.pem, username: edge, \
         certificate: public.pem, private_key: public.key }}"
    ));
    let RedisServers::Sentinel(sentinels) = &found.servers else {
        panic!("{found:?}");
    };
    assert_eq!(sentinels.master_name, "main");
    assert_eq!(found.access.username.as_deref(), Some("edge"));
    assert_eq!(sentinels.access.username.as_deref(), Some("watcher"));
    assert!(sentinels.access.tls, "as the servers");
    assert_eq!(sentinels.access.ca_file, found.access.ca_file);
    for access in [&sentinels.access, &found.access] {
        let certificate = access.certificate.as_ref().unwrap();
        assert!(certificate.certificate.ends_with("public.pem"));
        assert!(certificate.private_key.ends_with("public.key"));
    }

    // Sentinels without TLS are no mistake where they have nothing of their own that is for TLS.
    let in_clear = sentinel.replace("username", "tls: false, username");
    let found = registry(&format!(
        "{{ {in_clear}, tls: true, ca_file: internal/ca.pem }}"
    ));
    assert!(found.access.tls);
}

#[test]
fn what_is_wrong_with_the_place_of_redis_is_told() {
    let directory = bootstrapped();
    let file = directory.path().join("edge.yaml");
    let load = |redis: &str| load_edge(&file, &[("HEADWATER__REGISTRY__REDIS", redis)]);
    for (redis, expected) in [
        (
            "{ url: 'redis://a', cluster: { addresses: ['b:1'] } }",
            "registry.redis: has more than one",
        ),
        ("{ prefix: x }", "registry.redis.url: is required"),
        (
            "{ url: 'redis://a', tls: true }",
            "registry.redis.tls: a URL says it",
        ),
        (
            "{ url: 'rediss://a', certificate: internal/ca.pem }",
            "registry.redis.private_key: is required",
        ),
        (
            "{ url: 'redis://a', ca_file: internal/ca.pem }",
            "registry.redis.ca_file: is for TLS, and the connection is in clear",
        ),
        (
            "{ url: 'redis://a', certificate: public.pem, private_key: public.key }",
            "registry.redis.certificate: is for TLS",
        ),
        (
            "{ cluster: { addresses: ['a:1'] }, ca_file: internal/ca.pem }",
            "registry.redis.ca_file: is for TLS",
        ),
        (
            "{ sentinel: { master_name: a, addresses: ['a:1'], tls: false, ca_file: internal/ca.pem }, tls: true }",
            "registry.redis.sentinel.ca_file: is for TLS",
        ),
        (
            "{ cluster: { addresses: [] } }",
            "registry.redis.cluster.addresses: is no list",
        ),
        (
            "{ cluster: { addresses: ['u:hunter2@a:1'] } }",
            "registry.redis.cluster.addresses: is no list",
        ),
        (
            "{ sentinel: { addresses: ['a:1'] } }",
            "registry.redis.sentinel.master_name: is required",
        ),
        (
            "{ sentinel: { master_name: a } }",
            "registry.redis.sentinel.addresses: is required",
        ),
    ] {
        let found = mistakes(load(redis)).join("\n");
        assert!(
            found.contains(expected) && !found.contains("hunter2"),
            "{redis}: {found}"
        );
    }
}

#[test]
fn connections_to_postgres_are_bounded() {
    let directory = bootstrapped();
    let file = directory.path().join("control.yaml");
    let connections = |count| {
        let postgres = "HEADWATER__CONTROL__DATABASE__POSTGRES__CONNECTIONS";
        let url = "HEADWATER__CONTROL__DATABASE__POSTGRES__URL";
        let found = mistakes(load_control(
            &file,
            &[(postgres, count), (url, "redis://elsewhere")],
        ));
        found.join("\n")
    };
    for count in ["1", "65"] {
        let found = connections(count);
        let said = "control.database.postgres.connections: is not between 2 and 64";
        assert!(found.contains(said), "{found}");
    }
    assert!(!connections("64").contains("postgres.connections:"));
}

#[test]
fn an_origin_that_listens_everywhere_says_where_it_is() {
    let directory = bootstrapped();
    let file = directory.path().join("origin-a.yaml");
    let everywhere = ("HEADWATER__ORIGIN__RELAY__LISTEN", "0.0.0.0:7444");
    let found = mistakes(load_origin(&file, &[everywhere]));
    assert!(
        found[0].starts_with("origin.relay.advertise: is required"),
        "{found:#?}"
    );

    let advertise = ("HEADWATER__ORIGIN__RELAY__ADVERTISE", "origin-a:7444");
    let (_, origin) = load_origin(&file, &[everywhere, advertise]).unwrap();
    assert_eq!(origin.relay_advertise.as_deref(), Some("origin-a:7444"));
}

const COLLECTOR: &str = "telemetry: { otlp_endpoint: https://collector:4317, sample_ratio: 0.25, \
     resource_attributes: { k8s.namespace.name: media, k8s.node.name: file } }\n";

/// `headwater bootstrap`'s file of a role, with more in it.
fn extended(directory: &TempDir, role: &str, more: &str) -> PathBuf {
    let file = directory.path().join(format!("{role}.yaml"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}\n{more}")).unwrap();
    file
}

#[test]
fn what_a_pod_knows_of_itself_is_added_to_what_its_file_says() {
    let directory = bootstrapped();
    let file = extended(&directory, "edge", COLLECTOR);
    let pod = "{k8s.pod.name: edge-0, k8s.node.name: 10, k8s.zone: }";
    let environment = [("HEADWATER__TELEMETRY__RESOURCE_ATTRIBUTES", pod)];
    let (shared, _) = load_edge(&file, &environment).unwrap();
    let attributes = [
        ("k8s.namespace.name", "media"),
        ("k8s.node.name", "10"),
        ("k8s.pod.name", "edge-0"),
    ];
    let expected = TelemetryConfig {
        otlp_endpoint: "https://collector:4317".to_owned(),
        ca_file: None,
        sample_ratio: 0.25,
        resource_attributes: owned(&attributes).into_iter().collect(),
    };
    assert_eq!(shared.process.service, "headwater-edge");
    assert_eq!(shared.process.telemetry, Some(expected));
}

#[test]
fn without_a_collector_nothing_is_exported() {
    let directory = bootstrapped();
    let file = directory.path().join("control.yaml");
    let environment = [("HEADWATER__TELEMETRY__RESOURCE_ATTRIBUTES", "{a: b}")];
    let (shared, _) = load_control(&file, &environment).unwrap();
    assert_eq!(shared.process.telemetry, None);
}

#[test]
fn a_collector_is_named_by_a_url() {
    let directory = bootstrapped();
    let more = "telemetry: { otlp_endpoint: collector:4317, sample_ratio: 2, resource_attributes: { a: [b] } }";
    let file = extended(&directory, "origin-a", more);
    assert_eq!(
        mistakes(load_origin(&file, &[])),
        [
            r#"telemetry.otlp_endpoint: "collector:4317" is not a URL (such as http://collector:4317)"#,
            "telemetry.resource_attributes.a: is not a text",
            "telemetry.sample_ratio: 2 is not between 0 and 1",
        ]
    );
    let directory = bootstrapped();
    let more = "telemetry: { otlp_endpoint: http://collector:4317, ca_file: public.pem }";
    let file = extended(&directory, "origin-a", more);
    assert_eq!(
        mistakes(load_origin(&file, &[])),
        ["telemetry.ca_file: is of no use where telemetry.otlp_endpoint is not https://"]
    );
}

#[test]
fn the_live_file_is_checked_at_the_start_with_the_others() {
    let directory = bootstrapped();
    let live = directory.path().join("live.yaml");
    let text = "live_file: live.yaml\nlive_poll_period: 0s\ndrain_notice: 10s\n";
    let file = extended(&directory, "edge", text);
    fs::write(
        &live,
        "log: { level: info }\ncontrol: { applications: ['a b'] }\n",
    )
    .unwrap();
    let found = mistakes(load_edge(&file, &[]));
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found[0].starts_with("live_file: control.applications: "));
    assert_eq!(found[1], "live_file: log.level: is not a known field");
    assert!(found[2].starts_with("live_poll_period: "), "{found:#?}");

    let period = ("HEADWATER__LIVE_POLL_PERIOD", "1s");
    fs::write(&live, "control: { applications: [] }\n").unwrap();
    let (shared, _) = load_edge(&file, &[period]).unwrap();
    assert_eq!(shared.process.drain.notice, Duration::from_secs(10));
    let live_file = shared.live.unwrap();
    assert_eq!(live_file.poll_period, Duration::from_secs(1));
    assert_eq!(live_file.start.applications, Some(Vec::new()));

    fs::remove_file(&live).unwrap();
    let found = mistakes(load_edge(&file, &[period]));
    assert!(found[0].starts_with("live_file: "), "{found:#?}");
    assert_eq!(found.len(), 1, "{found:#?}");
}

#[test]
fn who_may_call_the_api_is_checked_with_the_rest() {
    let directory = bootstrapped();
    let file = directory.path().join("control.yaml");
    let oidc = "HEADWATER__CONTROL__OIDC";
    let load = |yaml: &str| load_control(&file, &[(oidc, yaml)]);
    let (_, control) = load(
        "[{issuer: https://a.test, audience: headwater, jwks_url: https://a.test/keys, tenant_claim: t, scopes: 'keys:read'}]",
    )
    .unwrap();
    let issuers = control.control.api_access.issuers;
    assert_eq!(
        (issuers.len(), issuers[0].issuer.as_str()),
        (1, "https://a.test")
    );
    for wrong in [
        "[{}]",
        "[{issuer: a, audience: b, jwks_url: http://a.test/keys, tenant: t, scopes: 'keys:read'}]",
        "[{issuer: a, audience: b, jwks_url: https://a.test/, tenant: t, tenant_claim: t, scopes: 'keys:read'}]",
        "[{issuer: a, audience: b, jwks_url: https://a.test/, tenant: t, scopes: keys}]",
        "[{issuer: a, audience: b, jwks_url: https://a.test/, tenant: t, subjects: []}]",
        "[{issuer: a, audience: b, token_review_url: https://a.test/, tenant: t, scopes: 'keys:read'}]",
    ] {
        let found = mistakes(load(wrong));
        assert!(
            found
                .iter()
                .all(|mistake| mistake.starts_with("control.oidc")),
            "{wrong}: {found:#?}"
        );
    }
    let named = "[{name: backend.test, tenant: acme, scopes: ['*']}]";
    let unasked = load_control(&file, &[("HEADWATER__CONTROL__CLIENT_CERTIFICATES", named)]);
    let found = mistakes(unasked);
    assert!(
        found[0].starts_with("control.client_certificates: needs"),
        "{found:#?}"
    );
}
