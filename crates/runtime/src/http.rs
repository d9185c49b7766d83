//! A port that speaks HTTP/1.1 without TLS: bounded connections, bounded waits.

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
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, Sleep},
};
use tracing::{debug, warn};

use crate::tls::is_misplaced;

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
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let mut connections = JoinSet::new();
    tokio::pin!(closing);
    loop {
        tokio::select! {
            accepted = accept(&listener, &room) => {
                let (socket, permit) = accepted;
                let connection = serve_connection(socket, router.clone(), limits);
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
