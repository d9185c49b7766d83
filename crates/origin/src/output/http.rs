//! The HTTP port: bounded connections, bounded waits, HTTP/1.1 only.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use runtime::{shutdown::Shutdown, tls::is_misplaced};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, Sleep},
};
use tracing::{debug, warn};

use crate::config::{Limits, Timing};

/// Serves until a drain has let every response finish, or until the stop.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    timing: &Timing,
    shutdown: &Shutdown,
) {
    let room = Arc::new(Semaphore::new(limits.http_connections_max));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(&listener, &room) => {
                let (socket, permit) = accepted;
                let connection = serve_connection(socket, router.clone(), *timing);
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Some(_ended) = connections.join_next() => {}
            () = shutdown.draining() => break,
        }
    }
    drop(listener);
    tokio::select! {
        () = async { while connections.join_next().await.is_some() {} } => {}
        () = shutdown.stopping() => {}
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> ((TcpStream, SocketAddr), tokio::sync::OwnedSemaphorePermit) {
    loop {
        // The semaphore is never closed; a full house leaves new connections in the kernel's queue.
        let Ok(permit) = Arc::clone(room).acquire_owned().await else {
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok(accepted) => return (accepted, permit),
            Err(error) => {
                // Out of file descriptors, most likely: others have to finish first.
                warn!(%error, "HTTP accept failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

async fn serve_connection(
    (socket, client_address): (TcpStream, SocketAddr),
    router: Router,
    timing: Timing,
) {
    socket.set_nodelay(true).ok();
    let misplaced = is_misplaced(&socket, client_address);
    match tokio::time::timeout(timing.http_request_timeout, misplaced).await {
        Ok(false) => {}
        Ok(true) => return,
        Err(_elapsed) => {
            debug!(%client_address, "no HTTP request came in time");
            return;
        }
    }
    let socket = WriteDeadline::new(socket, timing.http_write_timeout);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timing.http_request_timeout)
        // A player asks once.
        .keep_alive(false)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .await;
    if let Err(error) = served {
        debug!(%client_address, %error, "HTTP connection ended");
    }
}

/// A socket whose peer must take bytes: one that takes none for `timeout` is an error.
struct WriteDeadline<S> {
    socket: S,
    timeout: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteDeadline<S> {
    fn new(socket: S, timeout: Duration) -> Self {
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
