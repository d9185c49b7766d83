//! Where Redis is, and how to be let in.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, TlsCertificates,
};

use super::error::ConnectError;
use crate::{EdgeName, RegistryError};

/// How to reach Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is.
    pub servers: RedisServers,
    /// How the servers let in.
    pub access: RedisAccess,
    /// Number of the database; Redis Cluster has 0 alone.
    pub database: i64,
    /// In front of every key.
    pub prefix: String,
    /// Per command, and per attempt to connect.
    pub timeout: Duration,
}

/// The forms in which Redis is run. Addresses are `host:port`.
#[derive(Clone, Debug)]
pub enum RedisServers {
    /// One server, or one stable address behind which a primary is.
    One(String),
    /// A primary and its replicas, watched over by sentinels, who know where the primary is.
    Sentinel(RedisSentinels),
    /// Redis Cluster: some of its nodes, which know the others.
    Cluster(Vec<String>),
}

/// Who knows where the primary is.
#[derive(Clone, Debug)]
pub struct RedisSentinels {
    /// What they call it.
    pub master_name: String,
    /// All of them.
    pub addresses: Vec<String>,
    /// How the sentinels let in.
    pub access: RedisAccess,
}

/// How servers let in, and how they prove themselves. Files are read again at each reconnect.
#[derive(Clone, Debug, Default)]
pub struct RedisAccess {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// ACL user; `None`: the default user.
    pub username: Option<String>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authorities that may sign the server's certificate; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Shown to a server that asks for it.
    pub certificate: Option<RedisCertificate>,
}

/// A client's certificate, as PEM files.
#[derive(Clone, Debug)]
pub struct RedisCertificate {
    /// Leaf first, then intermediates.
    pub certificate: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
}

/// `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    host: String,
    port: u16,
}

impl RedisConfig {
    /// Without TLS, user or password.
    pub fn new(servers: RedisServers) -> Self {
        Self {
            servers,
            access: RedisAccess::default(),
            database: 0,
            prefix: "hw".to_owned(),
            timeout: Duration::from_secs(1),
        }
    }

    /// One server, as `redis://` or `rediss://` (TLS) with host, port and perhaps a database. Credentials have no place
    /// in it: it is logged.
    pub fn from_url(url: &str) -> Result<Self, RegistryError> {
        let invalid = |error: ConnectError| RegistryError::InvalidConfig(error.into());
        let info = url
            .into_connection_info()
            .map_err(|error| invalid(ConnectError::Url(error)))?;
        let settings = info.redis_settings();
        if settings.password().is_some() || settings.username().is_some() {
            return Err(invalid(ConnectError::UrlCredentials));
        }
        let (address, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (Address::new(host, *port), false),
            ConnectionAddr::TcpTls { host, port, .. } => (Address::new(host, *port), true),
            ConnectionAddr::Unix(_) | _ => return Err(invalid(ConnectError::UrlScheme)),
        };
        let mut config = Self::new(RedisServers::One(address.to_string()));
        (config.access.tls, config.database) = (tls, settings.db());
        Ok(config)
    }

    /// Reads the files once, so that a mistake shows at the start.
    pub(super) fn check(&self) -> Result<(), ConnectError> {
        // A brace would move the hash tag.
        if EdgeName::new(&self.prefix).is_err() {
            return Err(ConnectError::KeyPrefix {
                prefix: self.prefix.clone(),
            });
        }
        if matches!(self.servers, RedisServers::Cluster(_)) && self.database != 0 {
            return Err(ConnectError::ClusterDatabase);
        }
        if let RedisServers::Sentinel(sentinels) = &self.servers {
            if sentinels.master_name.is_empty() {
                return Err(ConnectError::MasterName);
            }
            for address in addresses(&sentinels.addresses)? {
                sentinels.access.client(&address, 0)?;
            }
        }
        // Where the sentinels will point, nobody knows yet: any address does.
        for address in self.servers.addresses()? {
            self.access.client(&address, self.database)?;
        }
        Ok(())
    }
}

impl RedisServers {
    pub(super) fn addresses(&self) -> Result<Vec<Address>, ConnectError> {
        match self {
            Self::One(address) => addresses(std::slice::from_ref(address)),
            Self::Sentinel(sentinels) => addresses(&sentinels.addresses),
            Self::Cluster(nodes) => addresses(nodes),
        }
    }
}

pub(super) fn addresses(given: &[String]) -> Result<Vec<Address>, ConnectError> {
    if given.is_empty() || given.len() > ADDRESSES_MAX {
        return Err(ConnectError::AddressCount);
    }
    given.iter().map(|address| address.parse()).collect()
}

impl RedisAccess {
    /// Reads the files: passwords and authorities rotate.
    pub(super) fn client(&self, address: &Address, database: i64) -> Result<Client, ConnectError> {
        let mut settings = RedisConnectionInfo::default()
            .set_db(database)
            // Only there is a closed connection told to us without a command that finds it.
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(username) = &self.username {
            settings = settings.set_username(username);
        }
        if let Some(path) = &self.password_file {
            settings = settings.set_password(read(path)?.trim_end());
        }
        let (host, port) = (address.host.clone(), address.port);
        if !self.tls {
            let info = ConnectionAddr::Tcp(host, port).into_connection_info();
            let info = info.map_err(ConnectError::Url)?;
            return Client::open(info.set_redis_settings(settings)).map_err(ConnectError::Url);
        }
        let address = ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        };
        let info = address.into_connection_info().map_err(ConnectError::Url)?;
        let certificates = TlsCertificates {
            client_tls: self.certificate.as_ref().map(show).transpose()?,
            root_cert: self.ca_file.as_deref().map(certificates).transpose()?,
        };
        Client::build_with_tls(info.set_redis_settings(settings), certificates)
            .map_err(ConnectError::Url)
    }
}

fn show(certificate: &RedisCertificate) -> Result<ClientTlsConfig, ConnectError> {
    Ok(ClientTlsConfig {
        client_cert: certificates(&certificate.certificate)?,
        client_key: pem(&certificate.private_key, "PRIVATE KEY-----", "private key")?,
    })
}

fn certificates(path: &Path) -> Result<Vec<u8>, ConnectError> {
    pem(path, "-----BEGIN CERTIFICATE-----", "certificate")
}

/// The crate's own error would tell of no file.
fn pem(path: &Path, label: &str, what: &'static str) -> Result<Vec<u8>, ConnectError> {
    let pem = read(path)?;
    if !pem.contains(label) {
        let path = path.to_owned();
        return Err(ConnectError::NoPem { what, path });
    }
    Ok(pem.into_bytes())
}

fn read(path: &Path) -> Result<String, ConnectError> {
    std::fs::read_to_string(path).map_err(|source| ConnectError::File {
        path: path.to_owned(),
        source,
    })
}

impl Address {
    pub(super) fn new(host: &str, port: u16) -> Self {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Self {
            host: host.to_owned(),
            port,
        }
    }

    /// As a node of a cluster names another one: nothing, where it does not know its host, is who was asked; `?` is
    /// nobody.
    pub(super) fn of_node(host: &str, port: u16, asked: &Self) -> Option<Self> {
        match host {
            "?" => None,
            "" => Some(Self::new(&asked.host, port)),
            host => Some(Self::new(host, port)),
        }
    }
}

impl FromStr for Address {
    type Err = ConnectError;

    fn from_str(text: &str) -> Result<Self, ConnectError> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| {
            let usable = !host.is_empty() && !host.contains(['/', '@', ' ']);
            usable.then_some(())?;
            Some((host, port.parse().ok()?))
        });
        let (host, port) = parts.ok_or(ConnectError::Address)?;
        Ok(Self::new(host, port))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Servers that a configuration may name.
const ADDRESSES_MAX: usize = 32;
