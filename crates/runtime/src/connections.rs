//! What ports have in common: how many connections there may be, and how long a peer may take nothing.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, Sleep},
};
use tokio_rustls::TlsAcceptor;
use tracing::warn;

use crate::tls::{ReloadingCertificate, is_misplaced};

/// A connection, secured or not.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Takes connections until `closing`, and then lets every one of them finish; ends at once at `stopping`.
/// `connections_max` at a time; more wait in the kernel's queue.
pub async fn serve<C>(
    listener: TcpListener,
    connections_max: usize,
    serve: impl Fn(TcpStream, SocketAddr) -> C,
    closing: impl Future<Output = ()>,
    stopping: impl Future<Output = ()>,
) where
    C: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    tokio::pin!(closing);
    loop {
        tokio::select! {
            (socket, address, permit) = accept(&listener, &room) => {
                let connection = serve(socket, address);
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Some(_ended) = connections.join_next() => {}
            () = &mut closing => break,
        }
    }
    drop(listener);
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = stopping => {}
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    loop {
        // The semaphore is never closed; a full house leaves new connections in the kernel's queue.
        let Ok(permit) = Arc::clone(room).acquire_owned().await else {
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((socket, address)) => return (socket, address, permit),
            Err(error) => {
                // Out of file descriptors, most likely: others have to finish first.
                warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// With a certificate, the TLS handshake, without a deadline of its own. Without one, what speaks TLS all the same is an
/// error, and in the log.
pub async fn secure(
    socket: TcpStream,
    client_address: SocketAddr,
    certificate: Option<&ReloadingCertificate>,
) -> io::Result<Box<dyn Socket>> {
    let Some(certificate) = certificate else {
        return if is_misplaced(&socket, client_address).await {
            Err(io::ErrorKind::InvalidData.into())
        } else {
            Ok(Box::new(socket))
        };
    };
    let config = certificate.server_config().map_err(io::Error::other)?;
    Ok(Box::new(TlsAcceptor::from(config).accept(socket).await?))
}

/// A socket whose peer must take bytes: one that takes none for `timeout` is an error.
#[derive(Debug)]
pub struct WriteDeadline<S> {
    socket: S,
    timeout: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteDeadline<S> {
    /// Of this socket.
    pub fn new(socket: S, timeout: Duration) -> Self {
        Self {
            socket,
            timeout,
            waiting: None,
        }
    }

    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let deadline = Instant::now() + self.timeout;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.bounded(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        self.bounded(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_flush(cx);
        self.bounded(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.socket).poll_shutdown(cx);
        self.bounded(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_no_bytes_is_given_up() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let mut socket = WriteDeadline::new(ours, Duration::from_millis(50));
        let begun = Instant::now();
        let error = socket.write_all(&[0; 9]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }
}
