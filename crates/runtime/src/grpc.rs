//! The gRPC transport between processes: accept with certificates that reload, connect to peers that prove their role,
//! HTTP/2 windows that fit media, and the plaintext in-process form of the standalone process.

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpListener;
use tonic::transport::{Channel, Server};

use crate::{
    identity::Role,
    tls::{InternalTls, ReloadingCertificate},
};

/// HTTP/2 flow-control window of one RPC, in bytes.
pub const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// HTTP/2 flow-control window of one connection, in bytes.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// HTTP/2 frame size, in bytes.
pub const HTTP2_FRAME_BYTES: u32 = 256 * 1024;
/// To reach a peer, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Sessions (long-lived RPCs) on one HTTP/2 connection; hyper's own limit of 200 would hang the 201st.
pub const SESSIONS_PER_CONNECTION: usize = 64;

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
pub struct InProcessListener {}

/// The connecting end of an in-process transport. A cheap handle.
#[derive(Clone)]
pub struct InProcessTarget {}

/// An accepted connection, as request extension (`tonic::Request::extensions().get::<Peer>()`).
#[derive(Clone, Debug)]
pub struct Peer {
    /// `None` in process.
    pub address: Option<SocketAddr>,
    /// The certificate's role; `None` on public and plaintext ports, the trusted caller's in process.
    pub role: Option<Role>,
}

/// An in-process transport; `role` is what the connecting side counts as.
pub fn in_process(_role: Role) -> (InProcessListener, InProcessTarget) {
    todo!()
}

/// A server with windows and limits for media; add services with `.add_service(…)`, then [`serve`].
pub fn server() -> Server {
    todo!()
}

/// Serves a router on a listener until `shutdown` resolves; TLS handshakes run aside and are bounded in time.
/// `open RPCs` get until `shutdown`'s stop to finish.
pub async fn serve(
    _router: tonic::transport::server::Router,
    _listener: Listener,
    _shutdown: crate::shutdown::Shutdown,
) -> Result<(), tonic::transport::Error> {
    todo!()
}

/// A channel (one HTTP/2 connection, connected at first use and again after a loss).
pub fn channel(_target: &Target) -> Channel {
    todo!()
}

/// Several equal endpoints of one service: resolved every 10 s and on failure, tried in turn.
#[derive(Clone)]
pub struct Endpoints {}

impl Endpoints {
    /// From `host:port` entries, each of which may resolve to many addresses. Must be called inside a tokio runtime.
    pub fn new(_targets: Vec<Target>) -> Self {
        todo!()
    }

    /// Calls with a channel; once more at another endpoint where the first answers UNAVAILABLE or cannot be reached.
    pub async fn call<T, F>(&self, _call: impl Fn(Channel) -> F) -> Result<T, tonic::Status>
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        todo!()
    }

    /// One channel for a long-lived RPC; another one each time where there are several.
    pub fn pick(&self) -> Channel {
        todo!()
    }
}
