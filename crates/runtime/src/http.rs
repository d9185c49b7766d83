//! A port that speaks HTTP/1.1 without TLS: bounded connections, bounded waits.

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tracing::debug;

use crate::{
    connections::{self, WriteDeadline},
    tls::is_misplaced,
};

/// Bounds of one port.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections_max: usize,
    /// For a request's head to come.
    pub request_timeout: Duration,
    /// A peer that takes no bytes for this long is given up.
    pub write_timeout: Duration,
}

/// Takes connections until `closing`, then lets every response finish; ends at once at `stopping`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    closing: impl Future<Output = ()>,
    stopping: impl Future<Output = ()>,
) {
    let serve = |socket, address| serve_connection(socket, address, router.clone(), limits);
    connections::serve(listener, limits.connections_max, serve, closing, stopping).await;
}

async fn serve_connection(
    socket: TcpStream,
    client_address: SocketAddr,
    router: Router,
    limits: HttpLimits,
) {
    socket.set_nodelay(true).ok();
    let misplaced = is_misplaced(&socket, client_address);
    match tokio::time::timeout(limits.request_timeout, misplaced).await {
        Ok(false) => {}
        Ok(true) => return,
        Err(_elapsed) => {
            debug!(%client_address, "no HTTP request came in time");
            return;
        }
    }
    let socket = WriteDeadline::new(socket, limits.write_timeout);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request_timeout)
        // A player asks once, a scraper rarely.
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(%client_address, %error, "HTTP connection ended");
    }
}
