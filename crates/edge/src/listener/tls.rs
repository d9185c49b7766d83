//! The TLS handshake, and what else people point at an RTMPS port.

use std::{io, net::SocketAddr};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, error, info, warn};

use crate::{Context, metrics::Outcome};

/// Why a connection never became TLS.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptError {
    /// Our certificate cannot be used.
    #[error("the certificate cannot be used")]
    Certificate(#[source] runtime::tls::TlsError),
    /// The peer left before the handshake was done.
    #[error("the connection broke inside the TLS handshake")]
    Broken(#[source] io::Error),
    /// The handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// An HTTP request.
    #[error("HTTP on an RTMPS port")]
    Http,
    /// RTMP without TLS.
    #[error("rtmp:// used on an rtmps:// port")]
    PlainRtmp,
    /// Connected and left without a byte: a health check.
    #[error("no byte was sent")]
    Silent,
    /// Slow.
    #[error("the TLS handshake took too long")]
    Timeout,
    /// Neither TLS nor anything else that is known.
    #[error("the first byte {0:#04x} begins no TLS handshake")]
    Unknown(u8),
}

/// Accepts TLS; the stream and the server name that the encoder asked for.
pub(super) async fn accept(
    stream: TcpStream,
    context: &Context,
) -> Result<(TlsStream<TcpStream>, String), AcceptError> {
    let started = Instant::now();
    let deadline = started + context.config.connections.tls_handshake_timeout;
    let accepted = timeout_at(deadline, sniff_and_accept(stream, context))
        .await
        .unwrap_or(Err(AcceptError::Timeout));
    let outcome = match &accepted {
        Ok(_) => "ok",
        Err(error) => error.reason(),
    };
    context
        .metrics
        .tls_handshake_seconds
        .get_or_create(&Outcome { outcome })
        .observe(started.elapsed().as_secs_f64());
    let stream = accepted?;
    let server_name = stream.get_ref().1.server_name().unwrap_or_default();
    let server_name = server_name.to_owned();
    Ok((stream, server_name))
}

async fn sniff_and_accept(
    stream: TcpStream,
    context: &Context,
) -> Result<TlsStream<TcpStream>, AcceptError> {
    let mut first = [0; 1];
    let peeked = stream.peek(&mut first).await.map_err(AcceptError::Broken)?;
    match first {
        _ if peeked == 0 => return Err(AcceptError::Silent),
        // A handshake record (RFC 8446 §5.1).
        [0x16] => {}
        // C0 (RTMP 1.0 §5.2.2).
        [0x03] => return Err(AcceptError::PlainRtmp),
        [b'G' | b'H' | b'P'] => return Err(AcceptError::Http),
        [other] => return Err(AcceptError::Unknown(other)),
    }
    let config = context
        .certificate
        .server_config()
        .map_err(AcceptError::Certificate)?;
    TlsAcceptor::from(config)
        .accept(stream)
        .await
        .map_err(|error| {
            // How tokio-rustls hands rustls's errors on.
            if error.kind() == io::ErrorKind::InvalidData {
                AcceptError::Handshake(error)
            } else {
                AcceptError::Broken(error)
            }
        })
}

impl AcceptError {
    /// A stable word for metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Broken(_) => "tls_broken",
            Self::Certificate(_) => "certificate",
            Self::Handshake(error) => handshake_reason(error),
            Self::Http => "http",
            Self::PlainRtmp => "plain_rtmp",
            Self::Silent => "silent",
            Self::Timeout => "tls_timeout",
            Self::Unknown(_) => "not_tls",
        }
    }

    pub(super) fn log(&self, client_address: SocketAddr) {
        let reason = self.reason();
        match self {
            Self::Certificate(source) => {
                error!(%client_address, reason, error = %source, "{self}");
            }
            Self::Broken(source) | Self::Handshake(source) => {
                info!(%client_address, reason, error = %source, "{self}");
            }
            // The commonest support question.
            Self::PlainRtmp => warn!(%client_address, reason, "{self}"),
            Self::Silent => debug!(%client_address, reason, "{self}"),
            Self::Http | Self::Timeout | Self::Unknown(_) => {
                info!(%client_address, reason, "{self}");
            }
        }
    }
}

/// Whose fault a failed handshake was, as rustls tells it.
fn handshake_reason(error: &io::Error) -> &'static str {
    let rustls = error
        .get_ref()
        .and_then(|source| source.downcast_ref::<rustls::Error>());
    match rustls {
        Some(rustls::Error::AlertReceived(_)) => "tls_alert",
        Some(rustls::Error::PeerIncompatible(_)) => "tls_incompatible",
        Some(rustls::Error::PeerMisbehaved(_)) => "tls_misbehaved",
        _ => "tls_malformed",
    }
}
