//! An encoder: [`rtmp::ClientSession`] over TLS, and the media that it sends.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use rtmp::{
    ClientConfig, ClientEvent, ClientSession, MediaKind, MediaMessage, StreamKeyText, caps_ex,
};
use rustls::{
    ClientConfig as TlsConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// One publishing connection.
pub(crate) struct Encoder {
    socket: Box<dyn Connection>,
    session: ClientSession,
    input: BytesMut,
}

/// Bytes both ways, encrypted or not.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// What the server said to a publish, or in the middle of one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    AskedToReconnect,
    Closed,
    Rejected(String),
    Started,
}

impl Encoder {
    /// Connects and asks to publish.
    pub(crate) async fn connect(address: SocketAddr, app: &str, stream_key: &str) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), app, stream_key).await
    }

    /// The same over a connection that is there.
    pub(crate) async fn over(socket: TcpStream, app: &str, stream_key: &str) -> Self {
        let socket = connect_tls(socket, "localhost", trusting_everyone().into()).await;
        Self::speaking(socket.unwrap(), app, stream_key)
    }

    /// One that follows requests to connect elsewhere.
    pub(crate) async fn mobile(address: SocketAddr, app: &str, stream_key: &str) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let socket = connect_tls(socket, "localhost", trusting_everyone().into()).await;
        Self::announcing(socket.unwrap(), app, stream_key, caps_ex::RECONNECT)
    }

    /// RTMP over bytes of any kind.
    pub(crate) fn speaking(socket: impl Connection + 'static, app: &str, stream_key: &str) -> Self {
        Self::announcing(socket, app, stream_key, 0)
    }

    fn announcing(
        socket: impl Connection + 'static,
        app: &str,
        stream_key: &str,
        caps_ex: u32,
    ) -> Self {
        let config = ClientConfig {
            purpose: rtmp::Purpose::Publish,
            app: app.to_owned(),
            tc_url: format!("rtmps://localhost/{app}"),
            name: StreamKeyText::new(stream_key.to_owned()),
            flash_ver: "test".to_owned(),
            chunk_bytes_out: 4096,
            caps_ex,
        };
        Self {
            socket: Box::new(socket),
            session: ClientSession::new(config, &[7; 1528], Instant::now()),
            input: BytesMut::new(),
        }
    }

    /// Connects and publishes.
    pub(crate) async fn publish(address: SocketAddr, app: &str, stream_key: &str) -> Self {
        let mut encoder = Self::connect(address, app, stream_key).await;
        assert_eq!(encoder.said().await, Said::Started);
        encoder
    }

    /// Waits for the server's next word.
    pub(crate) async fn said(&mut self) -> Said {
        loop {
            self.flush().await;
            if let Some(event) = self.session.poll_event() {
                return match event {
                    ClientEvent::PublishStarted => Said::Started,
                    ClientEvent::ReconnectRequested { .. } => Said::AskedToReconnect,
                    ClientEvent::Rejected { description, .. } => Said::Rejected(description),
                    event @ (ClientEvent::Media(_)
                    | ClientEvent::PlayEnded
                    | ClientEvent::PlayStarted) => panic!("{event:?} to a publisher"),
                };
            }
            match self.socket.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return Said::Closed,
                Ok(_) => self
                    .session
                    .handle_input(&mut self.input, Instant::now())
                    .unwrap(),
            }
        }
    }

    pub(crate) async fn send(&mut self, message: &MediaMessage) {
        self.session.send(message);
        self.flush().await;
    }

    pub(crate) async fn send_all(&mut self, messages: &[MediaMessage]) {
        for message in messages {
            self.send(message).await;
        }
    }

    /// Bytes that no session would send.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        self.try_send_raw(bytes).await.unwrap();
    }

    /// The same to a server that may have closed.
    pub(crate) async fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.socket.write_all(bytes).await?;
        self.socket.flush().await
    }

    /// The first half of a farewell.
    pub(crate) async fn send_fc_unpublish(&mut self, stream_key: &str) {
        // FCUnpublish, transaction 6, null, name.
        let mut body =
            b"\x02\x00\x0bFCUnpublish\x00\x40\x18\x00\x00\x00\x00\x00\x00\x05\x02\x00".to_vec();
        body.push(u8::try_from(stream_key.len()).unwrap());
        body.extend(stream_key.as_bytes());
        // On a chunk stream of its own, so that headers of others do not change.
        let mut chunk = vec![0x3f, 0, 0, 0, 0, 0];
        chunk.extend([u8::try_from(body.len()).unwrap(), 20, 0, 0, 0, 0]);
        chunk.extend(body);
        self.send_raw(&chunk).await;
    }

    /// Stops as an encoder does, and waits for the server to close.
    pub(crate) async fn finish(mut self) {
        self.session.finish();
        self.flush().await;
        self.socket.shutdown().await.ok();
        while self.said().await != Said::Closed {}
    }

    async fn flush(&mut self) {
        while let Some(transmit) = self.session.poll_transmit() {
            if self.socket.write_all(&transmit).await.is_err() {
                return;
            }
        }
        self.socket.flush().await.ok();
    }
}

/// Media until something is true, one frame at a time, as an encoder in real time.
pub(crate) async fn send_until(
    encoder: &mut Encoder,
    sent: &mut Vec<MediaMessage>,
    what: &str,
    mut condition: impl FnMut() -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        let number = u32::try_from(sent.len().saturating_sub(3) / 2).unwrap();
        let more = media(number..number + 1, 1000);
        encoder.send_all(&more).await;
        sent.extend(more);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Metadata, sequence headers, then frames of 40 ms: a keyframe every ten, audio beside each.
pub(crate) fn media(range: std::ops::Range<u32>, bytes: usize) -> Vec<MediaMessage> {
    let mut messages = Vec::new();
    if range.start == 0 {
        let metadata =
            b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x08\x00\x00\x00\x00\x00\x00\x09";
        messages.push(message(MediaKind::Script, 0, metadata, 0));
        messages.push(message(
            MediaKind::Video,
            0,
            &[0x17, 0, 0, 0, 0, 1, 2, 3],
            0,
        ));
        messages.push(message(MediaKind::Audio, 0, &[0xaf, 0, 0x12, 0x10], 0));
    }
    for number in range {
        let first = if number % 10 == 0 { 0x17 } else { 0x27 };
        let [a, b, c, d] = number.to_be_bytes();
        let video = [first, 1, 0, 0, 0, a, b, c, d];
        messages.push(message(MediaKind::Video, number * 40, &video, bytes));
        messages.push(message(
            MediaKind::Audio,
            number * 40,
            &[0xaf, 1, a, b, c, d],
            0,
        ));
    }
    messages
}

fn message(kind: MediaKind, timestamp: u32, start: &[u8], padding: usize) -> MediaMessage {
    let mut body = start.to_vec();
    body.resize(start.len() + padding, 0x55);
    MediaMessage {
        kind,
        timestamp,
        body: Bytes::from(body),
    }
}

/// A TLS handshake as the client of a server of this name.
pub(crate) async fn connect_tls<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    server_name: &str,
    config: Arc<TlsConfig>,
) -> std::io::Result<TlsStream<S>> {
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    TlsConnector::from(config).connect(name, socket).await
}

/// A client that takes any certificate and shows none.
pub(crate) fn trusting_everyone() -> TlsConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    TlsConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustEveryone))
        .with_no_client_auth()
}

#[derive(Debug)]
struct TrustEveryone;

impl ServerCertVerifier for TrustEveryone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
