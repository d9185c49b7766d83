//! Where Redis is, in one of the forms in which it is run.

use std::{path::PathBuf, time::Duration};

use registry::{RedisAccess, RedisCertificate, RedisConfig, RedisSentinels, RedisServers};
use serde::Deserialize;

use super::{check::Check, scalar::Time, shared};

/// One of `url`, `sentinel` and `cluster`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RedisSection {
    ca_file: Option<PathBuf>,
    certificate: Option<PathBuf>,
    cluster: Option<ClusterSection>,
    password_file: Option<PathBuf>,
    prefix: Option<String>,
    private_key: Option<PathBuf>,
    sentinel: Option<SentinelSection>,
    timeout: Option<Time>,
    /// Of what sentinels and nodes name; a URL says it by itself.
    tls: Option<bool>,
    url: Option<String>,
    username: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ClusterSection {
    addresses: Option<Vec<String>>,
}

/// User and password are the sentinels' own. TLS, authorities and the certificate are by default those of the servers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SentinelSection {
    addresses: Option<Vec<String>>,
    ca_file: Option<PathBuf>,
    certificate: Option<PathBuf>,
    master_name: Option<String>,
    password_file: Option<PathBuf>,
    private_key: Option<PathBuf>,
    tls: Option<bool>,
    username: Option<String>,
}

impl RedisSection {
    pub(super) fn finish(self, check: &mut Check) -> Option<RedisConfig> {
        let password_file = check.optional_file("registry.redis.password_file", self.password_file);
        let ca_file = check.optional_file("registry.redis.ca_file", self.ca_file);
        let certificate = certificate("registry.redis", self.certificate, self.private_key, check);
        let access = RedisAccess {
            tls: self.tls.unwrap_or(false),
            username: self.username,
            password_file,
            ca_file,
            certificate,
        };
        let mut config = match (self.url, self.sentinel, self.cluster) {
            (Some(url), None, None) => {
                if self.tls.is_some() {
                    check.mistake("registry.redis.tls", "a URL says it: rediss:// or redis://");
                }
                let mut config = from_url(&url, check)?;
                let tls = config.access.tls;
                config.access = RedisAccess { tls, ..access };
                config
            }
            (None, Some(sentinel), None) => {
                let sentinels = sentinel.finish(&access, check)?;
                with_access(RedisServers::Sentinel(sentinels), access)
            }
            (None, None, Some(cluster)) => {
                let addresses = addresses("cluster", cluster.addresses, check)?;
                with_access(RedisServers::Cluster(addresses), access)
            }
            (None, None, None) => check.required("registry.redis.url", None)?,
            (_, _, _) => {
                check.mistake(
                    "registry.redis",
                    "has more than one of url, sentinel and cluster",
                );
                return None;
            }
        };
        nothing_in_clear("registry.redis", &config.access, check);
        if let Some(prefix) = self.prefix {
            config.prefix = prefix;
        }
        config.timeout = self.timeout.map_or(Duration::from_secs(1), |time| time.0);
        Some(config)
    }
}

impl SentinelSection {
    fn finish(self, servers: &RedisAccess, check: &mut Check) -> Option<RedisSentinels> {
        let master_name = check.required("registry.redis.sentinel.master_name", self.master_name);
        let addresses = addresses("sentinel", self.addresses, check);
        let path = "registry.redis.sentinel.password_file";
        let password_file = check.optional_file(path, self.password_file);
        let ca_file = check.optional_file("registry.redis.sentinel.ca_file", self.ca_file);
        let section = "registry.redis.sentinel";
        let certificate = certificate(section, self.certificate, self.private_key, check);
        let own = RedisAccess {
            tls: self.tls.unwrap_or(servers.tls),
            username: self.username,
            password_file,
            ca_file,
            certificate,
        };
        nothing_in_clear(section, &own, check);
        Some(RedisSentinels {
            master_name: master_name?,
            addresses: addresses?,
            access: RedisAccess {
                ca_file: own.ca_file.or_else(|| servers.ca_file.clone()),
                certificate: own.certificate.or_else(|| servers.certificate.clone()),
                ..own
            },
        })
    }
}

/// Who names an authority or a certificate means TLS.
fn nothing_in_clear(section: &str, access: &RedisAccess, check: &mut Check) {
    for (field, is_given) in [
        ("ca_file", access.ca_file.is_some()),
        ("certificate", access.certificate.is_some()),
    ] {
        if is_given && !access.tls {
            let path = format!("{section}.{field}");
            check.mistake(path, "is for TLS, and the connection is in clear");
        }
    }
}

/// Both of its files, or none.
fn certificate(
    section: &str,
    certificate: Option<PathBuf>,
    private_key: Option<PathBuf>,
    check: &mut Check,
) -> Option<RedisCertificate> {
    if certificate.is_none() && private_key.is_none() {
        return None;
    }
    let files = shared::certificate(section, certificate, private_key, check)?;
    Some(RedisCertificate {
        certificate: files.certificate,
        private_key: files.private_key,
    })
}

fn with_access(servers: RedisServers, access: RedisAccess) -> RedisConfig {
    let mut config = RedisConfig::new(servers);
    config.access = access;
    config
}

/// What is wrong with the URL is not printed: it may hold a password.
fn from_url(url: &str, check: &mut Check) -> Option<RedisConfig> {
    let rest = url
        .strip_prefix("rediss://")
        .or_else(|| url.strip_prefix("redis://"));
    let mistake = match rest {
        Some(rest) if rest.contains('@') => {
            "holds credentials; they belong in username and password_file"
        }
        Some(_) => match RedisConfig::from_url(url) {
            Ok(config) => return Some(config),
            Err(_) => "is no URL of a server",
        },
        None => "begins with neither rediss:// nor redis://",
    };
    check.mistake("registry.redis.url", mistake);
    None
}

fn addresses(section: &str, given: Option<Vec<String>>, check: &mut Check) -> Option<Vec<String>> {
    let path = format!("registry.redis.{section}.addresses");
    let given = check.required(&path, given)?;
    let wrong = given.iter().any(|address| !is_address(address));
    if given.is_empty() || wrong {
        check.mistake(&path, "is no list of host:port");
        return None;
    }
    Some(given)
}

/// No URL, and no credentials: those would be logged.
fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok()
    })
}
