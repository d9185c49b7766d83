//! From a listener to connections that tonic serves.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;
use tracing::{debug, warn};

use super::{InProcessListener, Listener, Peer, Transport};
use crate::{
    identity::Role,
    shutdown::Shutdown,
    tls::{self, ClientCertificate, InternalTls, ReloadingCertificate},
};

/// Connections of one listener, handshakes included; the next ones wait in the kernel's backlog.
const CONNECTIONS_LIMIT: usize = 4096;
/// TLS handshakes of one listener at the same time.
const HANDSHAKES_LIMIT: usize = 128;
/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Accepted connections on their way to tonic.
const ACCEPTED_QUEUE: usize = 16;
/// After an accept that failed, most probably for want of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A connection with its peer, that ends by itself when the process must stop: tonic waits for open RPCs for ever.
pub(super) struct Connection {
    transport: Box<dyn Transport>,
    peer: Peer,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// How a TCP listener's connections are secured.
#[derive(Clone)]
enum Security {
    Internal(InternalTls, Arc<[Role]>),
    Plaintext,
    Public(ReloadingCertificate),
}

/// Accepts until a drain.
pub(super) fn incoming(
    listener: Listener,
    shutdown: &Shutdown,
) -> ReceiverStream<io::Result<Connection>> {
    let (accepted, incoming) = mpsc::channel(ACCEPTED_QUEUE);
    let shutdown = shutdown.clone();
    match listener {
        Listener::InProcess(listener) => {
            tokio::spawn(accept_in_process(listener, accepted, shutdown));
        }
        Listener::Internal(listener, tls, admit) => {
            let security = Security::Internal(tls, admit.into());
            tokio::spawn(accept_tcp(listener, security, accepted, shutdown));
        }
        Listener::Plaintext(listener) => {
            tokio::spawn(accept_tcp(
                listener,
                Security::Plaintext,
                accepted,
                shutdown,
            ));
        }
        Listener::Public(listener, certificate) => {
            let security = Security::Public(certificate);
            tokio::spawn(accept_tcp(listener, security, accepted, shutdown));
        }
    }
    ReceiverStream::new(incoming)
}

type Accepted = mpsc::Sender<io::Result<Connection>>;

async fn accept_in_process(
    mut listener: InProcessListener,
    accepted: Accepted,
    shutdown: Shutdown,
) {
    loop {
        let stream = tokio::select! {
            stream = listener.connections.recv() => stream,
            () = shutdown.draining() => return,
        };
        let Some((stream, role)) = stream else {
            return;
        };
        let peer = Peer {
            address: None,
            role: Some(role),
            certificate: None,
        };
        let connection = Connection::new(Box::new(stream), peer, &shutdown, None);
        if accepted.send(Ok(connection)).await.is_err() {
            return;
        }
    }
}

async fn accept_tcp(
    listener: TcpListener,
    security: Security,
    accepted: Accepted,
    shutdown: Shutdown,
) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_LIMIT));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_LIMIT));
    loop {
        let next = async {
            // Neither semaphore is ever closed.
            let connection = connections.clone().acquire_owned().await.ok()?;
            let handshake = handshakes.clone().acquire_owned().await.ok()?;
            Some((listener.accept().await, connection, handshake))
        };
        let next = tokio::select! {
            next = next => next,
            () = shutdown.draining() => return,
            () = accepted.closed() => return,
        };
        let Some((stream, connection, handshake)) = next else {
            return;
        };
        let (stream, address) = match stream {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "gRPC accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (security, accepted, shutdown) = (security.clone(), accepted.clone(), shutdown.clone());
        tokio::spawn(async move {
            let secured = timeout(HANDSHAKE_TIMEOUT, security.secure(stream, address)).await;
            drop(handshake);
            match secured {
                Ok(Ok((transport, peer))) => {
                    let connection = Connection::new(transport, peer, &shutdown, Some(connection));
                    // An error says that serving has ended.
                    accepted.send(Ok(connection)).await.ok();
                }
                Ok(Err(error)) => report(address, &error),
                Err(_) => debug!(client_address = %address, "TLS handshake timed out"),
            }
        });
    }
}

impl Security {
    async fn secure(
        self,
        stream: TcpStream,
        address: SocketAddr,
    ) -> io::Result<(Box<dyn Transport>, Peer)> {
        stream.set_nodelay(true)?;
        let mut peer = Peer {
            address: Some(address),
            role: None,
            certificate: None,
        };
        match self {
            Self::Internal(tls, admit) => {
                let stream = handshake(tls.server_config(&admit), stream).await?;
                let (_, session) = stream.get_ref();
                peer.role = session
                    .peer_certificates()
                    .and_then(<[_]>::first)
                    .and_then(|leaf| tls.role_of(leaf).ok());
                Ok((Box::new(stream), peer))
            }
            Self::Plaintext if tls::is_misplaced(&stream, address).await => {
                Err(io::ErrorKind::InvalidData.into())
            }
            Self::Plaintext => Ok((Box::new(stream), peer)),
            Self::Public(certificate) => {
                let config = certificate.server_config().map_err(io::Error::other)?;
                let mut config = ServerConfig::clone(&config);
                config.alpn_protocols = vec![b"h2".to_vec()];
                let stream = handshake(Arc::new(config), stream).await?;
                let (_, session) = stream.get_ref();
                let leaf = session.peer_certificates().and_then(<[_]>::first);
                peer.certificate = leaf.map(|leaf| Arc::new(ClientCertificate::read(leaf)));
                Ok((Box::new(stream), peer))
            }
        }
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    TlsAcceptor::from(config).accept(stream).await
}

/// A peer whose certificate we refuse is a mistake in the cluster; everything else is a probe or a scanner.
fn report(address: SocketAddr, error: &io::Error) {
    match tls::refusal(error) {
        Some(reason) => warn!(client_address = %address, reason, "peer refused"),
        None => debug!(client_address = %address, %error, "TLS handshake failed"),
    }
}

impl Connection {
    fn new(
        transport: Box<dyn Transport>,
        peer: Peer,
        shutdown: &Shutdown,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            transport,
            peer,
            stop: Box::pin(shutdown.stop_token().cancelled_owned()),
            _permit: permit,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stop.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.transport).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }
}
