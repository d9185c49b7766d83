//! The gRPC transport between processes: accept with certificates that reload, connect to peers that prove their role,
//! HTTP/2 windows that fit media, and the plaintext in-process form of the standalone process.

mod accept;
mod endpoints;
mod pool;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Server};

pub use self::{
    endpoints::{ATTEMPT_TIMEOUT, Endpoints},
    pool::{Connection, Pool, SESSIONS_PER_CONNECTION},
};
use crate::{
    identity::Role,
    shutdown::Shutdown,
    tls::{self, ClientCertificate, InternalTls, ReloadingCertificate},
};

/// HTTP/2 flow-control window of one RPC, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// HTTP/2 flow-control window of one connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// HTTP/2 frame size, in bytes.
pub const HTTP2_FRAME_BYTES: u32 = 256 * 1024;
/// To reach a peer, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// RPCs that a server takes on one connection at a time: far more than [`SESSIONS_PER_CONNECTION`], so that no client
/// of ours ever queues behind the limit.
pub const STREAMS_PER_CONNECTION: u32 = 1024;
/// Both sides ask a silent peer this often whether it lives …
pub const KEEPALIVE_PERIOD: Duration = Duration::from_secs(10);
/// … and give it up when it has not answered for this long.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// What one peer may send as headers, in bytes.
const HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Buffer of each direction of an in-process connection, in bytes.
const IN_PROCESS_BUFFER_BYTES: usize = 256 * 1024;
/// In-process connections that wait to be accepted.
const IN_PROCESS_BACKLOG: usize = 16;

/// Where a gRPC server accepts.
pub enum Listener {
    /// Inside the standalone process.
    InProcess(InProcessListener),
    /// A port that checks role certificates.
    Internal(TcpListener, InternalTls, Vec<Role>),
    /// A loopback port without TLS (standalone only).
    Plaintext(TcpListener),
    /// A port for API clients.
    Public(TcpListener, ReloadingCertificate),
}

/// Where a gRPC client connects.
#[derive(Clone)]
pub enum Target {
    /// Inside the standalone process.
    InProcess(InProcessTarget),
    /// `host:port`, resolved at each connect; the peer must prove this role.
    Internal(String, InternalTls, Role),
}

/// The accepting end of an in-process transport.
pub struct InProcessListener {
    connections: mpsc::Receiver<(DuplexStream, Role)>,
}

/// The connecting end of an in-process transport. A cheap handle.
#[derive(Clone)]
pub struct InProcessTarget {
    connections: mpsc::Sender<(DuplexStream, Role)>,
    role: Role,
}

impl InProcessTarget {
    /// The same server, for a caller of another role.
    #[must_use]
    pub fn as_role(&self, role: Role) -> Self {
        Self {
            role,
            ..self.clone()
        }
    }
}

/// An accepted connection, as request extension (`tonic::Request::extensions().get::<Peer>()`).
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// `None` in process.
    pub address: Option<SocketAddr>,
    /// The certificate's role; `None` on public and plaintext ports, the trusted caller's in process.
    pub role: Option<Role>,
    /// Of a client of a public port that asks for certificates; verified.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// The role that a request's connection proved; `None` where its port asks for none.
pub fn caller_role<T>(request: &tonic::Request<T>) -> Option<Role> {
    request
        .extensions()
        .get::<Peer>()
        .and_then(|peer| peer.role)
}

/// An in-process transport; `role` is what the connecting side counts as.
pub fn in_process(role: Role) -> (InProcessListener, InProcessTarget) {
    let (sender, receiver) = mpsc::channel(IN_PROCESS_BACKLOG);
    (
        InProcessListener {
            connections: receiver,
        },
        InProcessTarget {
            connections: sender,
            role,
        },
    )
}

/// A server with windows and limits for media; add services with `.add_service(…)`, then [`serve`].
pub fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_PERIOD))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Serves a router on a listener until `shutdown` drains: then no connection is accepted any more, and open RPCs get
/// until `shutdown`'s stop to finish. TLS handshakes run aside and are bounded in number and time.
pub async fn serve(
    router: tonic::transport::server::Router,
    listener: Listener,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let incoming = accept::incoming(listener, &shutdown);
    let (drain, stop) = (shutdown.clone(), shutdown);
    let serving =
        router.serve_with_incoming_shutdown(incoming, async move { drain.draining().await });
    tokio::select! {
        ended = serving => ended,
        // Every connection ends by itself at this moment: see `accept::Connection`.
        () = stop.stopping() => Ok(()),
    }
}

/// A channel (one HTTP/2 connection, connected at first use and again after a loss).
pub fn channel(target: &Target) -> Channel {
    let target = target.clone();
    let connector = tower::service_fn(move |_: http::Uri| {
        let target = target.clone();
        async move { connect(target).await.map(TokioIo::new) }
    });
    // The connector knows the peer, and the peer's certificate is its name; the authority is a formality.
    Endpoint::from_static("http://headwater.internal")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_PERIOD)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .connect_with_connector_lazy(connector)
}

/// What HTTP/2 runs over.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

async fn connect(target: Target) -> io::Result<Box<dyn Transport>> {
    match target {
        Target::InProcess(InProcessTarget { connections, role }) => {
            let (ours, theirs) = tokio::io::duplex(IN_PROCESS_BUFFER_BYTES);
            connections
                .send((theirs, role))
                .await
                .map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(ours))
        }
        Target::Internal(address, identity, role) => {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let connector = TlsConnector::from(identity.client_config(role));
            // Only sent as SNI: who the peer is stands in its certificate.
            let name = ServerName::try_from(role.as_str()).map_err(io::Error::other)?;
            let stream = connector.connect(name, stream).await.map_err(|error| {
                let reason = tls::refusal(&error).unwrap_or_else(|| error.to_string());
                io::Error::new(error.kind(), format!("{address}: {reason}"))
            })?;
            Ok(Box::new(stream))
        }
    }
}

#[cfg(test)]
mod tests;
