//! Fields of a cluster beside its Services and pods.

use http::Uri;
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use kube::ResourceExt as _;

use super::problems::{Problems, is_label};
use crate::api::{
    Autoscaling, Drain, Edge, Egress, Image, IngestCluster, IngestClusterSpec, IssuerReference,
    KeyReference, Observability, PublicTls, Redis, SharedAuth,
};

/// Names of objects are made from a cluster's: with their suffixes they stay below 63 characters.
const NAME_BYTES_MAX: usize = 40;
/// A week.
const DRAIN_SECONDS_MAX: i64 = 604_800;
/// Within a drain, for sessions to be asked or closed one after another: an hour.
const DRAIN_SPREAD_SECONDS_MAX: i64 = 3_600;

pub(super) fn check(cluster: &IngestCluster, problems: &mut Problems) {
    let spec = &cluster.spec;
    check_name(&cluster.name_any(), problems);
    check_image(&spec.image, problems);
    for (index, secret) in spec.image_pull_secrets.iter().enumerate() {
        problems.object_name(
            &format!("spec.imagePullSecrets[{index}].name"),
            &secret.name,
        );
    }
    check_edge(&spec.edge, problems);
    problems.range("spec.origin.replicas", spec.origin.replicas, 0, 100);
    problems.range(
        "spec.origin.drainTimeoutSeconds",
        spec.origin.drain_timeout_seconds,
        0,
        DRAIN_SECONDS_MAX,
    );
    problems.range("spec.control.replicas", spec.control.replicas, 0, 50);
    check_redis(&spec.redis, problems);
    check_tls(&spec.tls, problems);
    for (path, issuer) in [
        ("spec.control.tls", &spec.control.tls),
        ("spec.internalTls.issuerRef", &spec.internal_tls.issuer_ref),
    ] {
        if let Some(issuer) = issuer {
            check_issuer(path, issuer, problems);
        }
    }
    check_network_policy(spec, problems);
    check_egress(spec.control.egress.as_ref(), problems);
    problems.text("spec.logging.filter", &spec.logging.filter, 512);
}

/// Whom controls call.
fn check_egress(egress: Option<&Egress>, problems: &mut Problems) {
    const PATH: &str = "spec.control.egress";
    let Some(egress) = egress else {
        return;
    };
    for (index, network) in egress.allow.iter().enumerate() {
        problems.cidr(&format!("{PATH}.allow[{index}]"), network);
    }
    if let Some(ca) = &egress.ca_secret_ref {
        check_key(&format!("{PATH}.caSecretRef"), ca, problems);
    }
}

/// Services are named by it: RFC 1035 has them begin with a letter.
fn check_name(name: &str, problems: &mut Problems) {
    const PATH: &str = "metadata.name";
    if name.len() > NAME_BYTES_MAX {
        problems.add(
            PATH,
            format!(
                "is longer than {NAME_BYTES_MAX} characters; the names of its objects are made from it"
            ),
        );
    }
    if !is_label(name) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        problems.add(
            PATH,
            "has more than lower-case letters, digits and -, or begins with no letter; Services are named by it",
        );
    }
}

fn check_image(image: &Image, problems: &mut Problems) {
    if let Some(repository) = &image.repository {
        problems.text("spec.image.repository", repository, 512);
        let path = repository.rsplit('/').next().unwrap_or_default();
        if repository.contains('@') || path.contains(':') {
            problems.add(
                "spec.image.repository",
                "holds a tag or a digest; they belong in image.tag and image.digest",
            );
        } else if repository.contains(char::is_whitespace) {
            problems.add("spec.image.repository", "holds white space");
        }
    }
    if let Some(tag) = &image.tag {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if tag.is_empty()
            || tag.len() > 128
            || tag.starts_with(['.', '-'])
            || !tag.bytes().all(inner)
        {
            problems.add("spec.image.tag", format!("{tag:?} is not a tag"));
        }
    }
    if let Some(digest) = &image.digest {
        let hexadecimal = digest.strip_prefix("sha256:").is_some_and(|digits| {
            digits.len() == 64
                && digits
                    .bytes()
                    .all(|digit| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit))
        });
        if !hexadecimal {
            problems.add(
                "spec.image.digest",
                "is not sha256: and 64 hexadecimal digits",
            );
        }
    }
}

fn check_edge(edge: &Edge, problems: &mut Problems) {
    if let Some(replicas) = edge.replicas {
        problems.range("spec.edge.replicas", replicas, 0, 1_000);
    }
    if let Some(autoscaling) = &edge.autoscaling {
        check_autoscaling(autoscaling, problems);
    }
    check_drain(&edge.drain, problems);
    problems.range(
        "spec.edge.limits.maxConnections",
        edge.limits.max_connections,
        1,
        1_000_000,
    );
    problems.range(
        "spec.edge.limits.maxConnectionsPerIp",
        edge.limits.max_connections_per_ip,
        1,
        1_000_000,
    );
}

fn check_autoscaling(autoscaling: &Autoscaling, problems: &mut Problems) {
    const PATH: &str = "spec.edge.autoscaling";
    let Autoscaling {
        min_replicas,
        max_replicas,
        target_cpu_percent,
        scale_down_window_seconds,
    } = autoscaling;
    problems.range(&format!("{PATH}.minReplicas"), *min_replicas, 1, 1_000);
    problems.range(&format!("{PATH}.maxReplicas"), *max_replicas, 1, 1_000);
    if min_replicas > max_replicas {
        problems.add(format!("{PATH}.minReplicas"), "is above maxReplicas");
    }
    problems.range(
        &format!("{PATH}.targetCpuPercent"),
        *target_cpu_percent,
        1,
        100,
    );
    problems.range(
        &format!("{PATH}.scaleDownWindowSeconds"),
        *scale_down_window_seconds,
        0,
        3_600,
    );
}

fn check_drain(drain: &Drain, problems: &mut Problems) {
    let Drain {
        timeout_seconds,
        notice_seconds,
        reconnect_request: _,
        reconnect_jitter_seconds,
        close_spread_seconds,
    } = drain;
    problems.range(
        "spec.edge.drain.timeoutSeconds",
        *timeout_seconds,
        0,
        DRAIN_SECONDS_MAX,
    );
    problems.range("spec.edge.drain.noticeSeconds", *notice_seconds, 0, 600);
    problems.range(
        "spec.edge.drain.reconnectJitterSeconds",
        *reconnect_jitter_seconds,
        0,
        DRAIN_SPREAD_SECONDS_MAX,
    );
    problems.range(
        "spec.edge.drain.closeSpreadSeconds",
        *close_spread_seconds,
        0,
        DRAIN_SPREAD_SECONDS_MAX,
    );
    if notice_seconds > timeout_seconds {
        problems.add("spec.edge.drain.noticeSeconds", "is above timeoutSeconds");
    }
}

fn check_redis(redis: &Redis, problems: &mut Problems) {
    check_redis_form(redis, problems);
    if let Some(auth) = &redis.auth {
        match (&auth.per_role, &auth.shared) {
            (Some(per_role), None) => {
                problems.object_name("spec.redis.auth.perRole.secretName", &per_role.secret_name)
            }
            (None, Some(shared)) => {
                check_shared_auth("spec.redis.auth.shared", shared, problems);
            }
            (None, None) | (Some(_), Some(_)) => {
                problems.add("spec.redis.auth", "exactly one of perRole and shared");
            }
        }
    }
    let ca = redis
        .tls
        .as_ref()
        .and_then(|tls| tls.ca_secret_ref.as_ref());
    if let Some(ca) = ca {
        check_key("spec.redis.tls.caSecretRef", ca, problems);
    }
    let shown = redis
        .tls
        .as_ref()
        .and_then(|tls| tls.certificate_secret_name.as_ref());
    if let Some(secret) = shown {
        problems.object_name("spec.redis.tls.certificateSecretName", secret);
    }
    if let Some(prefix) = &redis.key_prefix {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if prefix.is_empty()
            || prefix.len() > 128
            || prefix.starts_with('-')
            || !prefix.bytes().all(inner)
        {
            problems.add(
                "spec.redis.keyPrefix",
                format!("{prefix:?} is not a prefix: at most 128 lower-case letters, digits and -"),
            );
        }
    }
}

fn check_redis_form(redis: &Redis, problems: &mut Problems) {
    let given = [
        redis.standalone.is_some(),
        redis.sentinel.is_some(),
        redis.cluster.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() != 1 {
        problems.add(
            "spec.redis",
            "exactly one of standalone, sentinel and cluster",
        );
    }
    for (path, host, port) in redis.addresses() {
        check_redis_address(&format!("spec.redis.{path}"), host, port, problems);
    }
    if let Some(sentinels) = &redis.sentinel {
        const PATH: &str = "spec.redis.sentinel";
        problems.text(&format!("{PATH}.masterName"), &sentinels.master_name, 128);
        problems.port(&format!("{PATH}.serverPort"), sentinels.server_port);
        check_servers(
            &format!("{PATH}.servers"),
            sentinels.servers.len(),
            problems,
        );
        if let Some(auth) = &sentinels.auth {
            check_shared_auth(&format!("{PATH}.auth"), auth, problems);
        }
    }
    if let Some(cluster) = &redis.cluster {
        check_servers(
            "spec.redis.cluster.servers",
            cluster.servers.len(),
            problems,
        );
    }
}

fn check_servers(path: &str, count: usize, problems: &mut Problems) {
    if !(1..=REDIS_SERVERS_MAX).contains(&count) {
        problems.add(
            path,
            format!("is not between 1 and {REDIS_SERVERS_MAX} servers"),
        );
    }
}

fn check_redis_address(path: &str, host: &str, port: i32, problems: &mut Problems) {
    let at = format!("{path}.host");
    problems.text(&at, host, 253);
    if host.contains(|character: char| {
        !character.is_ascii_alphanumeric() && !matches!(character, '.' | '-' | '_' | ':')
    }) {
        problems.add(
            &at,
            "is neither a host name nor an address; port, TLS and credentials have fields of their own",
        );
    } else if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() {
        problems.add(
            &at,
            "is not an IPv6 address; a port belongs in the field port",
        );
    }
    problems.port(&format!("{path}.port"), port);
}

fn check_shared_auth(path: &str, auth: &SharedAuth, problems: &mut Problems) {
    if let Some(username) = &auth.username {
        problems.text(&format!("{path}.username"), username, 128);
    }
    let password = &auth.password_secret_ref;
    check_key(&format!("{path}.passwordSecretRef"), password, problems);
}

fn check_tls(tls: &PublicTls, problems: &mut Problems) {
    let given = [
        tls.secret_name.is_some(),
        tls.issuer_ref.is_some(),
        tls.self_signed.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() != 1 {
        problems.add(
            "spec.tls",
            "exactly one of secretName, issuerRef and selfSigned",
        );
    }
    if let Some(secret) = &tls.secret_name {
        problems.object_name("spec.tls.secretName", secret);
    }
    if let Some(issuer) = &tls.issuer_ref {
        check_issuer("spec.tls.issuerRef", issuer, problems);
        if tls.dns_names.is_empty() {
            problems.add("spec.tls.dnsNames", "is empty, which tls.issuerRef needs");
        }
    }
    for (index, name) in tls.dns_names.iter().enumerate() {
        problems.dns_name(&format!("spec.tls.dnsNames[{index}]"), name);
    }
    problems.unique(
        "spec.tls.dnsNames",
        tls.dns_names.iter().map(String::as_str),
    );
    check_additional_secrets(tls, problems);
    if let Some(clients) = &tls.client_certificates {
        const PATH: &str = "spec.tls.clientCertificates";
        check_key(
            &format!("{PATH}.caSecretRef"),
            &clients.ca_secret_ref,
            problems,
        );
        if let Some(crl) = &clients.crl_secret_ref {
            check_key(&format!("{PATH}.crlSecretRef"), crl, problems);
        }
    }
}

fn check_additional_secrets(tls: &PublicTls, problems: &mut Problems) {
    const PATH: &str = "spec.tls.additionalSecrets";
    for (index, name) in tls.additional_secrets.iter().enumerate() {
        let path = format!("{PATH}[{index}]");
        problems.object_name(&path, name);
        // Its keys in the Secret that edges mount have four characters more, and may have 253.
        problems.text(&path, name, 249);
        if tls.secret_name.as_ref() == Some(name) {
            problems.add(path, "is tls.secretName: the default is served anyway");
        }
    }
    problems.unique(PATH, tls.additional_secrets.iter().map(String::as_str));
}

fn check_issuer(path: &str, issuer: &IssuerReference, problems: &mut Problems) {
    problems.object_name(&format!("{path}.name"), &issuer.name);
    problems.text(&format!("{path}.kind"), &issuer.kind, 63);
    problems.object_name(&format!("{path}.group"), &issuer.group);
}

pub(super) fn check_key(path: &str, reference: &KeyReference, problems: &mut Problems) {
    problems.object_name(&format!("{path}.name"), &reference.name);
    problems.secret_key(&format!("{path}.key"), &reference.key);
}

fn check_network_policy(spec: &IngestClusterSpec, problems: &mut Problems) {
    let policy = &spec.network_policy;
    for (field, peers) in [
        ("apiFrom", &policy.api_from),
        ("playbackFrom", &policy.playback_from),
        ("metricsFrom", &policy.metrics_from),
    ] {
        check_peers(&format!("spec.networkPolicy.{field}"), peers, problems);
    }
    for (index, port) in policy.webhook_ports.iter().enumerate() {
        let path = format!("spec.networkPolicy.webhookPorts[{index}]");
        problems.port(&path, *port);
    }
    for (index, rule) in policy.extra_egress.iter().enumerate() {
        let path = format!("spec.networkPolicy.extraEgress[{index}].to");
        check_peers(&path, rule.to.as_deref().unwrap_or_default(), problems);
    }
}

fn check_peers(path: &str, peers: &[NetworkPolicyPeer], problems: &mut Problems) {
    for (index, peer) in peers.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let pods = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
        match &peer.ip_block {
            Some(_) if pods => problems.add(path, "has both ipBlock and a selector"),
            Some(block) => {
                problems.cidr(&format!("{path}.ipBlock.cidr"), &block.cidr);
                for (index, except) in block.except.iter().flatten().enumerate() {
                    problems.cidr(&format!("{path}.ipBlock.except[{index}]"), except);
                }
            }
            None if !pods => problems.add(path, "is empty; {namespaceSelector: {}} is every pod"),
            None => {}
        }
    }
}

/// The port of the trace collector, where traces are exported.
pub(super) fn trace_port(observability: &Observability, problems: &mut Problems) -> Option<u16> {
    const PATH: &str = "spec.observability.tracing";
    let labels = &observability.pod_monitor_labels;
    super::pods::check_labels("spec.observability.podMonitorLabels", labels, problems);
    let tracing = observability.tracing.as_ref()?;
    problems.range(
        &format!("{PATH}.samplePercent"),
        tracing.sample_percent,
        0,
        100,
    );
    let uri = tracing.endpoint.parse::<Uri>().ok();
    let authority = uri.as_ref().and_then(Uri::authority);
    let default_port = match uri.as_ref().and_then(Uri::scheme_str) {
        Some("http") => Some(80),
        Some("https") => Some(443),
        Some(_) | None => None,
    };
    match (authority, default_port) {
        (Some(authority), Some(_)) if authority.as_str().contains('@') => {
            problems.add(format!("{PATH}.endpoint"), "holds credentials");
            None
        }
        (Some(authority), Some(default_port)) => Some(authority.port_u16().unwrap_or(default_port)),
        (None, _) | (_, None) => {
            problems.add(
                format!("{PATH}.endpoint"),
                "is not of the form http://host:port or https://host:port",
            );
            None
        }
    }
}

/// Sentinels, or nodes of a Redis Cluster, that are named.
const REDIS_SERVERS_MAX: usize = 16;
