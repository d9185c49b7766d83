//! What a connection begins with: TLS, RTMP without it, or something that people point at an RTMPS port.

use std::{io, net::SocketAddr, time::Duration};

use runtime::tls::{NameMatch, client_certificate_reason};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, info, warn};

use super::proxy::Announced;
use crate::{
    Context, PlainRtmp, ProxyProtocol, TerminatedTls,
    metrics::{Handshake, Outcome},
};

/// A connection that somebody can be answered on.
#[derive(Debug)]
pub(super) enum Front {
    /// An HTTP request.
    Http(TcpStream),
    /// RTMP without TLS, which is allowed.
    Plain(TcpStream),
    /// RTMP without TLS, which is not.
    RefusedPlain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Why a connection is closed without a word.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptError {
    /// The peer left before the handshake was done.
    #[error("the connection broke inside the TLS handshake")]
    Broken(#[source] io::Error),
    /// The handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// Of a load balancer that is not in the configuration.
    #[error("a PROXY header, and edge.proxy_protocol does not expect one")]
    ProxyHeader,
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

/// What an HTTP client is told.
const HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 45\r\nConnection: close\r\n\r\nThis port takes RTMPS (rtmps://), not HTTP.\r\n";
/// What is read of an HTTP request that was answered, in bytes.
const HTTP_REQUEST_BYTES_MAX: u64 = 64 * 1024;

/// Looks at the first byte, and accepts TLS where it is that.
pub(super) async fn accept(
    stream: TcpStream,
    announced: &Announced,
    context: &Context,
) -> Result<Front, AcceptError> {
    let started = Instant::now();
    let deadline = started + context.config.connections.tls_handshake_timeout;
    let accepted = timeout_at(deadline, sniff(stream, announced, context))
        .await
        .unwrap_or(Err(AcceptError::Timeout));
    let outcome = match &accepted {
        Ok(Front::Http(_)) => "http",
        Ok(Front::Plain(_) | Front::RefusedPlain(_)) => "plain_rtmp",
        Ok(Front::Tls(stream)) => {
            count(stream, context);
            "ok"
        }
        Err(error) => error.reason(),
    };
    context
        .metrics
        .tls_handshake_seconds
        .get_or_create(&Outcome { outcome })
        .observe(started.elapsed().as_secs_f64());
    accepted
}

async fn sniff(
    stream: TcpStream,
    announced: &Announced,
    context: &Context,
) -> Result<Front, AcceptError> {
    let mut first = [0; 5];
    let peeked = stream.peek(&mut first).await.map_err(AcceptError::Broken)?;
    match first.get(..peeked).unwrap_or_default() {
        [] => Err(AcceptError::Silent),
        // A handshake record (RFC 8446 §5.1).
        [0x16, ..] => {
            let acceptor = TlsAcceptor::from(context.tls.server_config());
            let accepted = acceptor.accept(stream).await;
            accepted
                .map(|stream| Front::Tls(Box::new(stream)))
                .map_err(AcceptError::of)
        }
        // C0 (RTMP 1.0 §5.2.2).
        [0x03, ..] if takes_plain(announced, context) => Ok(Front::Plain(stream)),
        [0x03, ..] => Ok(Front::RefusedPlain(stream)),
        b"PROXY" | [b'\r', b'\n', ..] => Err(AcceptError::ProxyHeader),
        // Methods (RFC 9110 §9.3).
        [b'C' | b'D' | b'G' | b'H' | b'O' | b'P' | b'T', ..] => Ok(Front::Http(stream)),
        [other, ..] => Err(AcceptError::Unknown(*other)),
    }
}

fn takes_plain(announced: &Announced, context: &Context) -> bool {
    let terminated = match &context.config.proxy_protocol {
        ProxyProtocol::Off => TerminatedTls::Refuse,
        ProxyProtocol::Require { terminated_tls, .. } => *terminated_tls,
    };
    context.config.plain_rtmp == PlainRtmp::Allow
        || match terminated {
            TerminatedTls::Announced => announced.tls.is_some(),
            TerminatedTls::Assumed => true,
            TerminatedTls::Refuse => false,
        }
}

/// What was agreed on, for whoever wants to know which old clients are left, and which names have no certificate.
fn count(stream: &TlsStream<TcpStream>, context: &Context) {
    let connection = &stream.get_ref().1;
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "1.2",
        _ => "unknown",
    };
    let cipher = connection.negotiated_cipher_suite();
    let server_name = connection.server_name();
    let name_match = context.tls.name_match(server_name);
    if name_match == NameMatch::Unknown {
        debug!(
            server_name,
            "no certificate has the server name: the default was served"
        );
    }
    let handshake = Handshake {
        version,
        cipher: cipher
            .and_then(|cipher| cipher.suite().as_str())
            .unwrap_or("unknown"),
        server_name: name_match.as_str(),
        client_certificate: if connection.peer_certificates().is_some() {
            "verified"
        } else {
            "none"
        },
    };
    context
        .metrics
        .tls_handshakes
        .get_or_create(&handshake)
        .inc();
}

/// Says in HTTP's words what this port is.
pub(super) async fn answer_http(mut stream: TcpStream, linger: Duration) {
    let answer = async {
        stream.write_all(HTTP_ANSWER).await?;
        stream.shutdown().await?;
        // Unread bytes would turn our close into a reset, and that may overtake the answer.
        let mut rest = stream.take(HTTP_REQUEST_BYTES_MAX);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
    };
    // However that goes, there is nothing more to say.
    timeout(linger, answer).await.ok();
}

impl AcceptError {
    /// How tokio-rustls hands rustls's errors on.
    fn of(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::InvalidData {
            Self::Handshake(error)
        } else {
            Self::Broken(error)
        }
    }

    /// A stable word for metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Broken(_) => "tls_broken",
            Self::Handshake(error) => handshake_reason(error),
            Self::ProxyHeader => "proxy_unexpected",
            Self::Silent => "silent",
            Self::Timeout => "tls_timeout",
            Self::Unknown(_) => "not_tls",
        }
    }

    pub(super) fn log(&self, client_address: SocketAddr) {
        let reason = self.reason();
        match self {
            Self::Broken(source) | Self::Handshake(source) => {
                info!(%client_address, reason, error = %source, "{self}");
            }
            // A mistake in the configuration: nobody gets in.
            Self::ProxyHeader => warn!(%client_address, reason, "{self}"),
            Self::Silent => debug!(%client_address, reason, "{self}"),
            Self::Timeout | Self::Unknown(_) => {
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
    if let Some(reason) = rustls.and_then(client_certificate_reason) {
        return reason;
    }
    match rustls {
        Some(rustls::Error::AlertReceived(_)) => "tls_alert",
        Some(rustls::Error::PeerIncompatible(_)) => "tls_incompatible",
        Some(rustls::Error::PeerMisbehaved(_)) => "tls_misbehaved",
        _ => "tls_malformed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_http_is_as_long_as_it_says() {
        let text = std::str::from_utf8(HTTP_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    }
}
