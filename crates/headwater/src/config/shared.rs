//! Sections that every role has.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use registry::RedisConfig;
use runtime::{
    identity::Cluster,
    shutdown::DrainTimes,
    telemetry::{self, LogFormat},
    tls::{CertificateFiles, InternalTlsFiles},
};
use serde::Deserialize;

use super::{
    Sections, check::Check, live::LiveFile, redis::RedisSection, scalar::Address,
    telemetry::TelemetryConfig,
};

/// What every role needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) process: ProcessConfig,
    pub(crate) cluster: Cluster,
    pub(crate) internal_tls: InternalTlsFiles,
    pub(crate) live: Option<LiveFile>,
    pub(crate) registry: RedisConfig,
}

/// What every process needs.
#[derive(Debug)]
pub(crate) struct ProcessConfig {
    pub(crate) admin: SocketAddr,
    pub(crate) drain: DrainTimes,
    pub(crate) log_filter: String,
    pub(crate) log_format: LogFormat,
    /// `service.name` of its spans.
    pub(crate) service: String,
    pub(crate) telemetry: Option<TelemetryConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AdminSection {
    listen: Option<Address>,
}

/// Part of the identity in every internal certificate.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClusterSection {
    name: Option<String>,
    namespace: Option<String>,
    trust_domain: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct InternalTlsSection {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    private_key: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LogSection {
    filter: Option<String>,
    format: Option<Format>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Json,
    Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RegistrySection {
    redis: Option<RedisSection>,
}

impl Shared {
    /// Leaves the roles' sections alone.
    pub(super) fn finish(role: &str, sections: Sections, check: &mut Check) -> Option<Self> {
        let admin = sections.admin.unwrap_or_default().listen;
        let admin = check.required("admin.listen", admin);
        let log = sections.log.unwrap_or_default();
        let log_filter = log.filter.unwrap_or_else(|| "info".to_owned());
        if let Err(error) = telemetry::check_filter(&log_filter) {
            check.mistake("log.filter", error);
        }
        let telemetry = sections.telemetry.and_then(|section| section.finish(check));
        let cluster = check.required("cluster", sections.cluster);
        let cluster = cluster.and_then(|section| section.finish(check));
        let internal_tls = check.required("internal_tls", sections.internal_tls);
        let internal_tls = internal_tls.and_then(|section| section.finish(check));
        let live = LiveFile::open(sections.live_file, sections.live_poll_period, check);
        let redis = sections.registry.and_then(|registry| registry.redis);
        let redis = check.required("registry.redis", redis);
        let redis = redis.and_then(|section| section.finish(check));
        Some(Self {
            process: ProcessConfig {
                admin: admin?.0,
                drain: DrainTimes {
                    notice: sections.drain_notice.map_or(Duration::ZERO, |time| time.0),
                    timeout: sections
                        .drain_timeout
                        .map_or(Duration::from_secs(30), |time| time.0),
                },
                log_filter,
                log_format: match log.format {
                    Some(Format::Json) => LogFormat::Json,
                    Some(Format::Text) | None => LogFormat::Text,
                },
                service: format!("headwater-{role}"),
                telemetry,
            },
            cluster: cluster?,
            internal_tls: internal_tls?,
            live,
            registry: redis?,
        })
    }
}

impl ClusterSection {
    fn finish(self, check: &mut Check) -> Option<Cluster> {
        let mut part = |path: &str, value: Option<String>| {
            let value = check.required(path, value)?;
            // It becomes part of a URI.
            let valid = !value.is_empty()
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
            if !valid {
                check.mistake(
                    path,
                    format_args!("{value:?} has more than letters, digits, . and -"),
                );
            }
            valid.then_some(value)
        };
        let trust_domain = part("cluster.trust_domain", self.trust_domain);
        let namespace = part("cluster.namespace", self.namespace);
        let name = part("cluster.name", self.name);
        Some(Cluster {
            trust_domain: trust_domain?,
            namespace: namespace?,
            name: name?,
        })
    }
}

impl InternalTlsSection {
    fn finish(self, check: &mut Check) -> Option<InternalTlsFiles> {
        let identity = certificate("internal_tls", self.certificate, self.private_key, check);
        let ca = check.file("internal_tls.ca", self.ca);
        Some(InternalTlsFiles {
            identity: identity?,
            ca: ca?,
        })
    }
}

/// A certificate and its private key, both required.
pub(super) fn certificate(
    section: &str,
    certificate: Option<PathBuf>,
    private_key: Option<PathBuf>,
    check: &mut Check,
) -> Option<CertificateFiles> {
    let certificate = check.file(&format!("{section}.certificate"), certificate);
    let private_key = check.file(&format!("{section}.private_key"), private_key);
    Some(CertificateFiles {
        certificate: certificate?,
        private_key: private_key?,
    })
}
