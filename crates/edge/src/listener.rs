//! Hop 1 of a frame's life: accept, limits, PROXY protocol, TLS. What comes out is a socket whose bytes should be RTMP.

mod permits;
mod proxy;
mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, error, info, warn};

pub use self::permits::ConnectionPermits;
pub(crate) use self::permits::counted_as;
use crate::{
    Context, ProxyProtocol,
    session::{self, Client},
};

/// A failing accept (most likely: no file descriptors) is repeated after this, doubling up to the maximum.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts until a drain, then waits for the connections to end.
pub(crate) async fn run(listener: TcpListener, permits: ConnectionPermits, context: Arc<Context>) {
    let mut connections = JoinSet::new();
    let mut pause = ACCEPT_PAUSE;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                report_panic(ended);
                continue;
            }
            () = context.shutdown.draining() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = ACCEPT_PAUSE;
                context.metrics.connections_accepted.inc();
                connections.spawn(serve(stream, peer, permits.clone(), context.clone()));
            }
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                warn!(%error, ?pause, "cannot accept connections");
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
    // From here on the kernel refuses newcomers.
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        report_panic(ended);
    }
}

/// One connection; whatever it does costs itself alone.
async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    permits: ConnectionPermits,
    context: Arc<Context>,
) {
    let Some(_permit) = permits.connection() else {
        warn!(client_address = %peer, "too many connections");
        return context.metrics.rejected("connections_max");
    };
    let _active = Active::new(&context);
    if let Err(error) = prepare(&stream, &context) {
        debug!(client_address = %peer, %error, "the connection was gone at once");
        return;
    }
    let mut stream = stream;
    let address = match announced_address(&mut stream, peer, &context).await {
        Ok(address) => address,
        Err(error) => {
            warn!(client_address = %peer, reason = error.reason(), %error, "no PROXY header, closing the connection");
            return context.metrics.rejected(error.reason());
        }
    };
    let Some(_address_permit) = permits.address(address.ip()) else {
        info!(client_address = %address, "too many connections of one address");
        return context.metrics.rejected("connections_per_address_max");
    };
    let accepting = tokio::select! {
        accepted = tls::accept(stream, &context) => accepted,
        () = context.shutdown.stopping() => return,
    };
    let (stream, server_name) = match accepting {
        Ok(accepted) => accepted,
        Err(error) => {
            error.log(address);
            return context.metrics.rejected(error.reason());
        }
    };
    let client = Client {
        address,
        server_name,
        encrypted: true,
    };
    session::run(stream, client, context.clone()).await;
}

fn prepare(stream: &TcpStream, context: &Context) -> io::Result<()> {
    let limits = &context.config.connections;
    // Nagle and delayed acknowledgements cost an encoder 40 ms per command.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(limits.keepalive_idle)
            .with_interval(limits.keepalive_interval)
            .with_retries(limits.keepalive_probes),
    )?;
    socket.set_tcp_user_timeout(Some(limits.tcp_user_timeout))
}

/// The encoder's address: the peer's, or what a trusted load balancer says.
async fn announced_address(
    stream: &mut TcpStream,
    peer: SocketAddr,
    context: &Context,
) -> Result<SocketAddr, proxy::ProxyError> {
    let ProxyProtocol::Require { trusted } = &context.config.proxy_protocol else {
        return Ok(peer);
    };
    let peer_ip = peer.ip().to_canonical();
    if !trusted.iter().any(|network| network.contains(&peer_ip)) {
        return Err(proxy::ProxyError::Untrusted);
    }
    let patience = context.config.connections.proxy_header_timeout;
    let source = timeout(patience, proxy::read(stream))
        .await
        .map_err(|_elapsed| proxy::ProxyError::Timeout)??;
    // The load balancer's own connections (health checks) have no other address.
    Ok(source.unwrap_or(peer))
}

/// Faults of the connection that was to be accepted, not of the listener (accept(2)).
fn of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    )
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a connection's task failed; the others go on");
    }
}

/// Counts a connection while it is there.
struct Active {
    context: Arc<Context>,
}

impl Active {
    fn new(context: &Arc<Context>) -> Self {
        context.metrics.connections_active.inc();
        Self {
            context: context.clone(),
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.context.metrics.connections_active.dec();
    }
}
