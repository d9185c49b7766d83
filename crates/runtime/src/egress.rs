//! The one client for calls to addresses that a tenant or an operator configures (webhooks, key sets): https, no
//! redirects, no proxy, one deadline, a short answer, and no way into the cluster's own network.
//!
//! A name is resolved once for each request; every address is checked, and one of the checked addresses is dialled, with
//! the URL's name in SNI and `Host`. What a name resolves to a moment later (DNS rebinding) is never dialled.

mod address;
mod url;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::task::AbortOnDropHandle;

pub use self::{
    address::is_public,
    url::{HttpsUrl, UrlError},
};
use crate::{
    reload::Reloading,
    tls::{self, TlsError},
};

/// For everything: names, connection, handshake, request and answer.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// Of an answer's body, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Of an answer's head, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Of an answer.
const HEADERS_MAX: usize = 64;
/// One address that does not answer leaves time for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses of one name that are looked at.
const ADDRESSES_MAX: usize = 16;
const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("headwater/", env!("CARGO_PKG_VERSION")));

/// What the client is told.
#[derive(Clone, Debug, Default)]
pub struct EgressConfig {
    /// Addresses that may be called although they are not public.
    pub allow: Vec<IpNet>,
    /// Whose certificates are trusted.
    pub roots: Vec<CertificateDer<'static>>,
    /// More of them, as PEM: a private PKI. The files are followed.
    pub ca_files: Vec<PathBuf>,
}

/// The client. A cheap handle.
#[derive(Clone)]
pub struct Egress {
    allow: Arc<[IpNet]>,
    tls: Reloading<ClientConfig>,
    resolver: Resolver,
}

/// What a name resolves to; a test puts its own in place of the system's.
pub type Resolver = Arc<dyn Fn(String) -> Resolving + Send + Sync>;
/// A look-up under way.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// What was answered, whatever the status: a redirect is an answer like any other.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body: at most [`BODY_BYTES_MAX`].
    pub body: Bytes,
}

/// No answer. Names the host, never the path, which may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The body is longer than anything that is expected.
    #[error("{host}: the answer is longer than {BODY_BYTES_MAX} bytes")]
    BodyTooLong {
        /// Of the URL.
        host: String,
    },
    /// No address could be reached.
    #[error("{host}: cannot be reached")]
    Connect {
        /// Of the URL.
        host: String,
        /// Of the last address.
        source: io::Error,
    },
    /// Not over in time.
    #[error("{host}: no answer within {} s", DEADLINE.as_secs())]
    Deadline {
        /// Of the URL.
        host: String,
    },
    /// Every address is in a network that is not called.
    #[error("{host}: the address {address} is not public, and `egress.allow` does not name it")]
    Forbidden {
        /// Of the URL.
        host: String,
        /// One of them.
        address: IpAddr,
    },
    /// The peer broke off, or does not speak HTTP.
    #[error("{host}: no HTTP answer")]
    Http {
        /// Of the URL.
        host: String,
        /// Why.
        source: hyper::Error,
    },
    /// The name stands for nothing.
    #[error("{host}: does not resolve")]
    Resolve {
        /// Of the URL.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// No TLS, or not with that name.
    #[error("{host}: TLS failed")]
    Tls {
        /// Of the URL.
        host: String,
        /// Why.
        source: io::Error,
    },
}

impl Egress {
    /// Reads the CA files, and follows them. Must be called inside a tokio runtime.
    pub fn new(config: EgressConfig) -> Result<Self, TlsError> {
        let EgressConfig {
            allow,
            roots,
            ca_files,
        } = config;
        let tls = if ca_files.is_empty() {
            Reloading::fixed(client_config(&roots, RootCertStore::empty())?)
        } else {
            Reloading::watch("egress CAs", ca_files, move |contents| {
                let mut more = RootCertStore::empty();
                for content in contents {
                    more.extend(tls::roots(content)?.roots);
                }
                client_config(&roots, more)
            })?
        };
        Ok(Self {
            allow: allow.into(),
            tls,
            resolver: Arc::new(|host| Box::pin(look_up(host))),
        })
    }

    /// With another source of addresses, which are checked all the same.
    pub fn with_resolver(self, resolver: Resolver) -> Self {
        Self { resolver, ..self }
    }

    /// Whether this address may be called.
    pub fn admits(&self, address: IpAddr) -> bool {
        is_public(address) || self.allow.iter().any(|network| network.contains(&address))
    }

    /// Asks for what is there.
    pub async fn get(&self, url: &HttpsUrl, headers: HeaderMap) -> Result<Response, EgressError> {
        self.send(Method::GET, url, headers, Bytes::new()).await
    }

    /// Sends a body; `headers` should say of which type.
    pub async fn post(
        &self,
        url: &HttpsUrl,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, EgressError> {
        self.send(Method::POST, url, headers, body).await
    }

    async fn send(
        &self,
        method: Method,
        url: &HttpsUrl,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, EgressError> {
        let exchange = async {
            let stream = self.connect(url).await?;
            exchange(stream, method, url, headers, body).await
        };
        let host = || url.host().to_owned();
        timeout(DEADLINE, exchange)
            .await
            .map_err(|_elapsed| EgressError::Deadline { host: host() })?
    }

    async fn connect(&self, url: &HttpsUrl) -> Result<TlsStream<TcpStream>, EgressError> {
        let host = || url.host().to_owned();
        let stream = self.dial(url).await?;
        stream.set_nodelay(true).ok();
        let connector = TlsConnector::from(self.tls.load_full());
        connector
            .connect(url.server_name(), stream)
            .await
            .map_err(|source| EgressError::Tls {
                host: host(),
                source,
            })
    }

    /// The first of the checked addresses that takes the connection.
    async fn dial(&self, url: &HttpsUrl) -> Result<TcpStream, EgressError> {
        let host = || url.host().to_owned();
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in self.addresses(url).await? {
            match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => last = error,
                Err(_elapsed) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(EgressError::Connect {
            host: host(),
            source: last,
        })
    }

    /// What may be dialled; never none.
    async fn addresses(&self, url: &HttpsUrl) -> Result<Vec<SocketAddr>, EgressError> {
        let host = || url.host().to_owned();
        let resolved = match url.address() {
            Some(address) => vec![address],
            None => (self.resolver)(host())
                .await
                .map_err(|source| EgressError::Resolve {
                    host: host(),
                    source,
                })?,
        };
        let mut admitted = Vec::new();
        let mut forbidden = None;
        for address in resolved.into_iter().take(ADDRESSES_MAX) {
            if self.admits(address) {
                admitted.push(SocketAddr::new(address, url.port()));
            } else {
                forbidden = Some(address);
            }
        }
        match forbidden {
            // A name may stand for such an address as well (DNS64): what is dialled is what counts.
            _ if !admitted.is_empty() => Ok(admitted),
            Some(address) => Err(EgressError::Forbidden {
                host: host(),
                address,
            }),
            None => Err(EgressError::Resolve {
                host: host(),
                source: io::ErrorKind::NotFound.into(),
            }),
        }
    }
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress")
            .field("allow", &self.allow)
            .finish_non_exhaustive()
    }
}

/// One request on a connection of its own.
async fn exchange(
    stream: TlsStream<TcpStream>,
    method: Method,
    url: &HttpsUrl,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, EgressError> {
    let host = || url.host().to_owned();
    let http = |source| EgressError::Http {
        host: host(),
        source,
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let _driving = AbortOnDropHandle::new(tokio::spawn(connection));
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = url.path_and_query();
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    headers.insert(header::HOST, url.authority());
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::USER_AGENT, USER_AGENT);
    let (head, body) = sender
        .send_request(request)
        .await
        .map_err(http)?
        .into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(source) => http(*source),
            Err(other) => {
                debug_assert!(other.is::<LengthLimitError>(), "{other}");
                EgressError::BodyTooLong { host: host() }
            }
        })?;
    Ok(Response {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

async fn look_up(host: String) -> io::Result<Vec<IpAddr>> {
    let addresses = lookup_host((host, 0)).await?;
    Ok(addresses.map(|address| address.ip()).collect())
}

/// HTTP/1.1, no client certificate; TLS 1.2 for the backends that have no more.
fn client_config(
    public: &[CertificateDer<'static>],
    mut roots: RootCertStore,
) -> Result<ClientConfig, TlsError> {
    // A system's store holds what rustls does not take; the others stay.
    roots.add_parsable_certificates(public.iter().cloned());
    Ok(ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

#[cfg(test)]
mod tests;
