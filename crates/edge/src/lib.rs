//! The role `edge`: the only place with sockets from the internet.
//!
//! Takes RTMPS connections in, asks control once per publish, claims the stream in the registry, and relays its frames
//! to one origin at a time. Knows no stream key's meaning, keeps no stream: what it holds of one is the replay ring
//! that makes the death of an origin invisible to the encoder.
//!
//! | file | what |
//! |---|---|
//! | [`listener`] | hop 1: accept, limits, PROXY protocol, TLS |
//! | [`session`] | hop 2: socket ⇄ `rtmp::ServerSession` |
//! | [`publish`] | one publish from authorization to the released lease |
//! | [`relay`], [`replay_ring`] | hop 4: replay ring ─▶ Publish RPC, reopened where an origin is lost |
//! | [`admission`], [`revocations`] | what control says |
//! | [`placement`], [`origins`] | which origin, and the connections to it |
//! | [`live`], [`leases`] | the sessions that publish now, and their leases |

#![deny(missing_docs)]

mod budget;
mod config;
mod placement;
mod replay_ring;

use registry::Registry;
use runtime::{
    admin::Readiness,
    grpc::{Endpoints, InProcessTarget},
    metrics::Metrics,
    shutdown::Shutdown,
    tls::{InternalTls, ReloadingCertificate, TlsError},
};
use tokio::net::TcpListener;

pub use config::{
    Config, ConnectionLimits, OutagePolicy, ProxyProtocol, RelayLimits, StaticOrigin,
};

/// One edge process's role.
pub struct Edge {}

/// What an edge needs from its surroundings.
pub struct Dependencies {
    /// Where ownership lives.
    pub registry: Registry,
    /// The process's metrics.
    pub metrics: Metrics,
    /// The process's readiness.
    pub readiness: Readiness,
    /// Control's internal port: Authorize and WatchRevocations.
    pub control: Endpoints,
    /// How origins are reached.
    pub origins: OriginDialer,
    /// What encoders see.
    pub certificate: ReloadingCertificate,
}

/// How an announced origin is reached.
#[derive(Clone)]
pub enum OriginDialer {
    /// Inside the standalone process, whatever address it announces.
    InProcess(InProcessTarget),
    /// At its `relay_address`; the peer must prove the role `origin`.
    Internal(InternalTls),
}

/// Where encoders connect.
pub struct Listeners {
    /// RTMPS.
    pub rtmps: Vec<TcpListener>,
}

/// The edge could not start.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    /// No TLS handshake could succeed with this certificate.
    #[error("the certificate for encoders cannot be used")]
    Certificate(#[from] TlsError),
}

impl Edge {
    /// Prepares; nothing is accepted yet. Must be called inside a tokio runtime.
    pub fn new(_config: Config, _dependencies: Dependencies) -> Result<Self, EdgeError> {
        todo!()
    }

    /// Serves until shutdown: a drain stops accepting and waits for live sessions to end, a stop ends them; either
    /// way every lease is given back before this returns.
    pub async fn run(self, _listeners: Listeners, _shutdown: Shutdown) {
        todo!()
    }
}
