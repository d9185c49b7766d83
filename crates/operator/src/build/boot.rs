//! What a process reads once, at its start. A change makes a new ConfigMap, and so new pods; what may change without
//! that is in [`super::live`].

use std::{collections::BTreeMap, net::Ipv6Addr};

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, Value, json};

use super::{
    access,
    files::{
        API_CLIENTS, ENCODERS, KUBERNETES_CA, LIVE_FILE, SQLITE_FILE, boot_key,
        certificates_directory, secret_file,
    },
    hash,
    metadata::object_meta,
    pod::{drain_seconds, log_format},
    ports::Port,
    resources::media_bytes_max,
    yaml,
};
use crate::{
    api::{
        ClientAddress, Drain, IngestClusterSpec, OutagePolicy, PlainRtmp, RedisSentinels,
        TerminatedTls, TlsVersion,
    },
    names::Component,
    validate::{ValidatedCluster, ValidatedDatabase},
};

/// The configuration of a role, named by its content.
pub(super) fn config_map(cluster: &ValidatedCluster, component: Component) -> ConfigMap {
    let mut boot = shared(cluster, component);
    let section = match component {
        Component::Control => control(cluster),
        Component::Edge => edge(cluster),
        Component::Origin => origin(cluster),
    };
    boot.insert(component.as_str().to_owned(), section);
    let text = yaml::render(&boot);
    let name = cluster.names.boot(&hash::boot(&text));
    ConfigMap {
        metadata: object_meta(cluster, Some(component), name),
        immutable: Some(true),
        data: Some(BTreeMap::from([(boot_key(component), text)])),
        ..ConfigMap::default()
    }
}

/// What every role reads.
fn shared(cluster: &ValidatedCluster, component: Component) -> Map<String, Value> {
    let spec = &cluster.spec;
    let (notice, timeout) = drain_seconds(spec, component);
    let sections = [
        ("admin", json!({"listen": Port::Admin.listen()})),
        (
            "cluster",
            json!({
                "trust_domain": cluster.trust_domain,
                "namespace": cluster.namespace,
                "name": cluster.names.cluster(),
            }),
        ),
        (
            "drain_notice",
            match component {
                Component::Control | Component::Origin => Value::Null,
                Component::Edge => json!(seconds(notice)),
            },
        ),
        ("drain_timeout", json!(seconds(timeout))),
        (
            "internal_tls",
            json!({
                "certificate": secret_file("internal/tls.crt"),
                "private_key": secret_file("internal/tls.key"),
                "ca": secret_file("internal/ca.crt"),
            }),
        ),
        ("live_file", json!(LIVE_FILE)),
        ("log", json!({"format": log_format(spec)})),
        ("registry", json!({"redis": redis(cluster, component)})),
        ("telemetry", telemetry(spec)),
    ];
    sections
        .into_iter()
        .map(|(name, section)| (name.to_owned(), section))
        .collect()
}

fn redis(cluster: &ValidatedCluster, component: Component) -> Value {
    let redis = &cluster.spec.redis;
    let addresses = redis.addresses();
    let addresses = addresses.iter().map(|(_, host, port)| {
        let address = host.parse::<Ipv6Addr>();
        address.map_or_else(
            |_| format!("{host}:{port}"),
            |address| format!("[{address}]:{port}"),
        )
    });
    let addresses: Vec<_> = addresses.collect();
    let username = redis.auth.as_ref().and_then(|auth| match &auth.shared {
        Some(shared) => shared.username.clone(),
        None => Some(component.as_str().to_owned()),
    });
    let ca = redis
        .tls
        .as_ref()
        .and_then(|tls| tls.ca_secret_ref.as_ref());
    let shown = redis
        .tls
        .as_ref()
        .and_then(|tls| tls.certificate_secret_name.as_ref());
    let tls = redis.tls.is_some();
    let scheme = if tls { "rediss" } else { "redis" };
    let one = redis.standalone.is_some();
    json!({
        "url": one.then(|| format!("{scheme}://{}", addresses.join(","))),
        "sentinel": redis.sentinel.as_ref().map(|sentinels| sentinel(sentinels, &addresses)),
        "cluster": redis.cluster.as_ref().map(|_| json!({"addresses": addresses})),
        "tls": (!one).then_some(tls),
        "username": username,
        "password_file": redis.auth.as_ref().map(|_| secret_file("redis/password")),
        "ca_file": ca.map(|_| secret_file("redis/ca.crt")),
        "certificate": shown.map(|_| secret_file("redis/tls.crt")),
        "private_key": shown.map(|_| secret_file("redis/tls.key")),
        "prefix": cluster.redis_key_prefix,
    })
}

/// Sentinels have a user of their own, or none; authorities and the certificate are those of the servers.
fn sentinel(sentinels: &RedisSentinels, addresses: &[String]) -> Value {
    let auth = sentinels.auth.as_ref();
    json!({
        "master_name": sentinels.master_name,
        "addresses": addresses,
        "username": auth.and_then(|auth| auth.username.clone()),
        "password_file": auth.map(|_| secret_file("redis/sentinel-password")),
        "tls": sentinels.tls_enabled,
    })
}

/// What pods differ in, the environment has.
fn telemetry(spec: &IngestClusterSpec) -> Value {
    let Some(tracing) = &spec.observability.tracing else {
        return Value::Null;
    };
    json!({
        "otlp_endpoint": tracing.endpoint,
        "sample_ratio": f64::from(tracing.sample_percent) / 100.0,
    })
}

fn edge(cluster: &ValidatedCluster) -> Value {
    let service = &cluster.spec.edge.service;
    let namespace = &cluster.namespace;
    let origins = cluster.names.tier(Component::Origin);
    json!({
        "listen": [Port::Rtmps.listen(), Port::Rtmp.listen()],
        "certificate": secret_file("public/tls.crt"),
        "private_key": secret_file("public/tls.key"),
        "certificates": certificates_directory(),
        "client_certificates": cluster.spec.tls.client_certificates.as_ref().map(|clients| {
            access::asked_for(clients.mode, clients.crl_secret_ref.as_ref(), ENCODERS)
        }),
        "client_address": match cluster.spec.edge.client_address {
            // The default: edges of before the field stay as they are.
            ClientAddress::Full => None,
            ClientAddress::None => Some("none"),
            ClientAddress::Prefix => Some("prefix"),
        },
        "tls_minimum": match cluster.spec.tls.minimum_version {
            TlsVersion::Tls12 => "tls1.2",
            TlsVersion::Tls13 => "tls1.3",
        },
        "plain_rtmp": match cluster.spec.edge.plain_rtmp {
            PlainRtmp::Allow => "allow",
            PlainRtmp::Refuse => "refuse",
        },
        "control": [format!(
            "{}.{namespace}.svc:{}",
            cluster.names.control_internal(),
            Port::Internal.number()
        )],
        "origins_dns": format!("{origins}.{namespace}.svc:{}", Port::Relay.number()),
        "outage_policy": outage_policy(cluster),
        "proxy_protocol": if service.proxy_protocol {
            json!({
                "mode": "require",
                "trusted": service.trusted_cidrs,
                "terminated_tls": match service.terminated_tls {
                    TerminatedTls::Announced => "announced",
                    TerminatedTls::Assumed => "assumed",
                    TerminatedTls::Refuse => "refuse",
                },
            })
        } else {
            json!({"mode": "off"})
        },
        "drain": departure(&cluster.spec.edge.drain),
        "relay": {"process_bytes_max": cluster.edge_memory_limit.map(media_bytes_max)},
    })
}

/// How sessions leave an edge, where it differs from what an edge does by itself.
fn departure(drain: &Drain) -> Value {
    let default = Drain::default();
    let spread = |own: i64, default: i64| (own != default).then(|| seconds(own));
    let (jitter, close) = (
        spread(
            drain.reconnect_jitter_seconds,
            default.reconnect_jitter_seconds,
        ),
        spread(drain.close_spread_seconds, default.close_spread_seconds),
    );
    let request =
        (drain.reconnect_request != default.reconnect_request).then_some(drain.reconnect_request);
    if request.is_none() && jitter.is_none() && close.is_none() {
        return Value::Null;
    }
    json!({"reconnect_request": request, "reconnect_jitter": jitter, "close_spread": close})
}

fn origin(cluster: &ValidatedCluster) -> Value {
    let rtmp = &cluster.spec.origin.rtmp;
    let of_rtmps = |name: &str| rtmp.tls.then(|| secret_file(name));
    json!({
        "relay": {"listen": Port::Relay.listen()},
        "playback": {
            "listen": Port::Playback.listen(),
            "certificate": secret_file("public/tls.crt"),
            "private_key": secret_file("public/tls.key"),
        },
        "http": {"listen": Port::HttpFlv.listen()},
        "rtmp": rtmp.enabled.then(|| json!({
            "listen": Port::RtmpPull.listen(),
            "certificate": of_rtmps("public/tls.crt"),
            "private_key": of_rtmps("public/tls.key"),
        })),
        "grant_public_key_file": secret_file("grant/grant.pub"),
        "playback_token_file": secret_file("playback/token"),
        "outage_policy": outage_policy(cluster),
        "limits": {"process_bytes_max": cluster.origin_memory_limit.map(media_bytes_max)},
    })
}

fn control(cluster: &ValidatedCluster) -> Value {
    let control = &cluster.spec.control;
    json!({
        "public": {
            "listen": Port::Api.listen(),
            "certificate": secret_file("public/tls.crt"),
            "private_key": secret_file("public/tls.key"),
            "client_certificates": control.client_certificates.as_ref().map(|clients| {
                access::asked_for(clients.mode, clients.crl_secret_ref.as_ref(), API_CLIENTS)
            }),
        },
        "internal": {"listen": Port::Internal.listen()},
        "database": match &cluster.database {
            ValidatedDatabase::Postgres { url, port: _, connections } => json!({
                "postgres": {
                    "url": url,
                    "password_file": secret_file("postgres/password"),
                    "connections": connections,
                },
            }),
            ValidatedDatabase::Sqlite(_) => json!({"sqlite": SQLITE_FILE}),
        },
        "pepper_file": secret_file("pepper"),
        "grant_key_file": secret_file("grant/grant.key"),
        "api_token_file": secret_file("api/token"),
        "oidc": access::issuers(cluster),
        "client_certificates": access::certificates(cluster),
        "quotas": access::quotas(control),
        "egress": control.egress.as_ref().map(|egress| json!({
            "allow": egress.allow,
            "ca_file": egress_cas(cluster),
        })),
    })
}

/// Certificates that those whom controls call may have theirs from: one file or several.
fn egress_cas(cluster: &ValidatedCluster) -> Value {
    let egress = cluster.spec.control.egress.as_ref();
    let own = egress.and_then(|egress| egress.ca_secret_ref.as_ref());
    let own = own.map(|_| secret_file("egress/ca.crt"));
    let kubernetes = access::calls_kubernetes(&cluster.spec).then(|| secret_file(KUBERNETES_CA));
    match (own, kubernetes) {
        (Some(own), Some(kubernetes)) => json!([own, kubernetes]),
        (own, kubernetes) => json!(own.or(kubernetes)),
    }
}

fn outage_policy(cluster: &ValidatedCluster) -> &'static str {
    match cluster.spec.redis.outage_policy {
        OutagePolicy::FailClosed => "fail_closed",
        OutagePolicy::KeepExisting => "keep",
    }
}

fn seconds(seconds: i64) -> String {
    format!("{seconds}s")
}
