//! Hop 1 of a frame's life: accept, limits, PROXY protocol, TLS. What comes out is a socket whose bytes should be RTMP.

mod front;
mod permits;
mod proxy;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use runtime::tls::ClientCertificate;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, error, info, warn};

pub use self::permits::ConnectionPermits;
use self::{front::Front, proxy::Announced};
use crate::{
    ConnectionLimits, Context, ProxyProtocol,
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
    if let Err(error) = prepare(&stream, &context.config.connections) {
        debug!(client_address = %peer, %error, "the connection was gone at once");
        return;
    }
    let mut stream = stream;
    let announced = match announcement(&mut stream, peer, &context).await {
        Ok(announced) => announced,
        Err(error) => {
            warn!(client_address = %peer, reason = error.reason(), %error, "no PROXY header, closing the connection");
            return context.metrics.rejected(error.reason());
        }
    };
    // The load balancer's own connections (health checks) have no other address.
    let address = announced.source.unwrap_or(peer);
    let Some(_address_permit) = permits.address(address.ip()) else {
        info!(client_address = %address, "too many connections of one address");
        return context.metrics.rejected("connections_per_address_max");
    };
    let accepting = tokio::select! {
        accepted = front::accept(stream, &announced, &context) => accepted,
        () = context.shutdown.stopping() => return,
    };
    match accepting {
        Ok(front) => answer(front, announced, address, &context).await,
        Err(error) => {
            error.log(address);
            context.metrics.rejected(error.reason());
        }
    }
}

/// Everything that follows from what a connection begins with.
async fn answer(front: Front, announced: Announced, address: SocketAddr, context: &Arc<Context>) {
    match front {
        Front::Http(stream) => {
            info!(client_address = %address, reason = "http", "HTTP on an RTMPS port");
            context.metrics.rejected("http");
            front::answer_http(stream, context.config.connections.linger).await;
        }
        Front::Plain(stream) => {
            if let Some(tls) = &announced.tls {
                debug!(client_address = %address, version = tls.version, cipher = tls.cipher,
                    common_name = tls.common_name, "the encoder's TLS ends at the load balancer");
            }
            context.metrics.plain_connections.inc();
            let client = Client {
                address,
                server_name: announced.server_name.unwrap_or_default(),
                // Whatever the header says: nothing was proved to us.
                certificate: None,
                encrypted: announced.tls.is_some(),
            };
            session::run(stream, client, context.clone()).await;
        }
        Front::RefusedPlain(stream) => {
            // The commonest support question.
            warn!(client_address = %address, reason = "plain_rtmp", "rtmp:// used on an rtmps:// port");
            context.metrics.rejected("plain_rtmp");
            let client = Client {
                address,
                server_name: String::new(),
                certificate: None,
                encrypted: false,
            };
            session::refuse_plain(stream, client, context.clone()).await;
        }
        Front::Tls(stream) => {
            let connection = &stream.get_ref().1;
            let certificates = connection.peer_certificates().unwrap_or_default();
            let client = Client {
                address,
                server_name: connection.server_name().unwrap_or_default().to_owned(),
                certificate: certificates.first().map(ClientCertificate::read),
                encrypted: true,
            };
            session::run(*stream, client, context.clone()).await;
        }
    }
}

fn prepare(stream: &TcpStream, limits: &ConnectionLimits) -> io::Result<()> {
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

/// What a trusted load balancer says of the connection; nothing where none is expected.
async fn announcement(
    stream: &mut TcpStream,
    peer: SocketAddr,
    context: &Context,
) -> Result<Announced, proxy::ProxyError> {
    let ProxyProtocol::Require { trusted, .. } = &context.config.proxy_protocol else {
        return Ok(Announced::default());
    };
    let peer_ip = peer.ip().to_canonical();
    if !trusted.iter().any(|network| network.contains(&peer_ip)) {
        return Err(proxy::ProxyError::Untrusted);
    }
    let patience = context.config.connections.proxy_header_timeout;
    timeout(patience, proxy::read(stream))
        .await
        .map_err(|_elapsed| proxy::ProxyError::Timeout)?
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_has_every_timeout_that_was_configured() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_near, accepted) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        let (stream, _) = accepted.unwrap();
        let limits = ConnectionLimits {
            keepalive_idle: Duration::from_secs(11),
            keepalive_interval: Duration::from_secs(7),
            keepalive_probes: 5,
            tcp_user_timeout: Duration::from_millis(13_500),
            ..ConnectionLimits::default()
        };
        prepare(&stream, &limits).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), limits.keepalive_idle);
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            limits.keepalive_interval
        );
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 5);
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(limits.tcp_user_timeout)
        );
    }
}
