//! One player: socket ⇄ [`PlaySession`].

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::rand;
use bytes::BytesMut;
use media::{Frame, FrameKind, flv, log::Event};
use rtmp::{
    MediaKind, PlayEvent, PlayRefusal, PlayRequest, PlaySession, ProtocolError, Rejection,
    ServerConfig, limits::Limits,
};
use runtime::{
    connections::{self, Socket, WriteDeadline},
    tls::ReloadingCertificate,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::super::{
    READ_BYTES,
    pieces::Pieces,
    players::{Players, Unavailable},
    timeline::Timeline,
};
use crate::{
    metrics::OutputLabels,
    stream::{Next, Subscription},
};

/// Nothing but one stream goes to a player: its frames need no small chunks, and most fit one.
const CHUNK_BYTES_OUT: u32 = 65_536;
/// A player says little.
const INPUT_BYTES: usize = 4 * 1024;
/// After the last word: an answer that is still unread must not be lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// One connection whose bytes are RTMP.
pub(super) struct Connection {
    client_address: SocketAddr,
    input: BytesMut,
    players: Players,
    session: PlaySession,
    socket: WriteDeadline<Box<dyn Socket>>,
}

/// Why a connection ends without a last word.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the player left")]
    Left,
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl Connection {
    /// One connection; whatever it does costs itself alone.
    pub(super) async fn serve(
        socket: TcpStream,
        client_address: SocketAddr,
        certificate: Option<Arc<ReloadingCertificate>>,
        players: Players,
    ) {
        // Nagle and delayed acknowledgements cost a player 40 ms per command.
        socket.set_nodelay(true).ok();
        let timing = &players.config.timing;
        let securing = secure(socket, client_address, certificate.as_deref());
        let socket = match timeout(timing.rtmp_handshake_timeout, securing).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => {
                debug!(%client_address, %error, "no player");
                return;
            }
            Err(_elapsed) => {
                debug!(%client_address, "no player: nothing came in time");
                return;
            }
        };
        let mut connection = Self {
            client_address,
            input: BytesMut::new(),
            session: session(&players),
            socket: WriteDeadline::new(socket, timing.rtmp_write_timeout),
            players,
        };
        match connection.drive().await {
            Ok(()) => connection.linger().await,
            Err(end) => debug!(%client_address, %end, "a player's connection ended"),
        }
    }

    /// To the last word.
    async fn drive(&mut self) -> Result<(), End> {
        let Some(request) = self.request().await? else {
            return Ok(());
        };
        match self.attach(&request).await? {
            Ok(subscription) => {
                debug!(client_address = %self.client_address, player = request.player, "a player is attached");
                self.session.accept_play();
                self.play(subscription).await
            }
            Err((refusal, description)) => {
                info!(
                    client_address = %self.client_address,
                    player = request.player,
                    reason = description,
                    "a player was refused"
                );
                let description = description.to_owned();
                self.session.reject(refusal, Rejection { description });
                self.transmit().await
            }
        }
    }

    /// What the player wants; `None`: it was refused already.
    async fn request(&mut self) -> Result<Option<PlayRequest>, End> {
        loop {
            let event = self.session.poll_event();
            self.transmit().await?;
            if let Some(PlayEvent::PlayRequested(request)) = event {
                return Ok(Some(request));
            }
            if self.session.is_closing() {
                return Ok(None);
            }
            let deadline = self.session.poll_timeout();
            let shutdown = self.players.shutdown.clone();
            tokio::select! {
                read = self.read() => read?,
                () = until(deadline) => self.session.handle_timeout(std_now())?,
                () = shutdown.draining() => return Err(End::Left),
            }
        }
    }

    /// The stream, or the player's answer. Reads meanwhile: a player that leaves waits no longer.
    async fn attach(
        &mut self,
        request: &PlayRequest,
    ) -> Result<Result<Subscription, (PlayRefusal, &'static str)>, End> {
        let parameter = |name: &str| {
            let mut query = request.query.iter();
            let found = query.find(|(parameter, _)| parameter == name);
            found.map_or("", |(_, value)| value.expose())
        };
        // Missing and wrong sound the same.
        if self.players.credentials.check(parameter("token")).is_err() {
            return Ok(Err((
                PlayRefusal::Failed,
                // In ASCII: GStreamer shows nothing else.
                "A valid token is required: rtmp://host/application/stream?token=TOKEN",
            )));
        }
        let wait = Duration::from_secs(parameter("wait").parse().unwrap_or_default());
        let players = self.players.clone();
        let attaching = players.attach(&request.app, &request.stream, wait, OutputLabels::RTMP);
        tokio::pin!(attaching);
        let attached = loop {
            tokio::select! {
                attached = &mut attaching => break attached,
                read = self.read() => read?,
            }
            self.transmit().await?;
            if self.session.is_closing() {
                return Err(End::Left);
            }
        };
        Ok(attached.map_err(|unavailable| match unavailable {
            Unavailable::Full => (PlayRefusal::Failed, "This origin takes no more players."),
            Unavailable::Leaving => (PlayRefusal::Failed, "This origin is leaving."),
            Unavailable::NotLive => (PlayRefusal::StreamNotFound, "No such stream is live."),
            Unavailable::Unnamed => (
                PlayRefusal::StreamNotFound,
                "A stream is at rtmp://host/application/stream.",
            ),
        }))
    }

    /// Until the stream ends or the player leaves. What waits for a slow player is one step of the log, by reference.
    async fn play(&mut self, mut subscription: Subscription) -> Result<(), End> {
        let mut timeline = Timeline::default();
        loop {
            self.transmit().await?;
            if self.session.is_closing() {
                return Ok(());
            }
            tokio::select! {
                next = subscription.next(READ_BYTES) => match next {
                    Ok(Next::Event(Event::Frames(entries))) => {
                        let session = &mut self.session;
                        timeline.lay(&entries, |frame, at_ms| send(session, frame, at_ms));
                    }
                    Ok(Next::Event(Event::Gap(_))) => {}
                    Ok(Next::Event(Event::Header(header))) => timeline.header(header),
                    // A live reader does not fail for lagging.
                    Ok(Next::End(_)) | Err(_) => self.session.finish(),
                },
                read = self.read() => read?,
            }
        }
    }

    /// One read.
    async fn read(&mut self) -> Result<(), End> {
        self.input.reserve(INPUT_BYTES);
        if self.socket.read_buf(&mut self.input).await? == 0 {
            return Err(End::Left);
        }
        Ok(self.session.handle_input(&mut self.input, std_now())?)
    }

    async fn transmit(&mut self) -> Result<(), End> {
        let mut pieces = Pieces::default();
        while let Some(piece) = self.session.poll_transmit() {
            pieces.push(piece);
        }
        if !pieces.is_empty() {
            self.socket.write_all_buf(&mut pieces).await?;
            self.socket.flush().await?;
        }
        Ok(())
    }

    /// Ends in order.
    async fn linger(mut self) {
        let ending = async {
            if self.socket.shutdown().await.is_ok() {
                self.input.clear();
                while matches!(self.socket.read_buf(&mut self.input).await, Ok(1..)) {
                    self.input.clear();
                }
            }
        };
        // However it ends, all was said.
        timeout(LINGER, ending).await.ok();
    }
}

/// TLS where there is a certificate. What is most often wrong is in the log.
async fn secure(
    socket: TcpStream,
    client_address: SocketAddr,
    certificate: Option<&ReloadingCertificate>,
) -> io::Result<Box<dyn Socket>> {
    let mut first = [0];
    if certificate.is_some()
        && matches!(socket.peek(&mut first).await, Ok(1))
        && first == [rtmp::handshake::VERSION]
    {
        warn!(%client_address, reason = "plain_rtmp", "rtmp:// used on an rtmps:// port");
        return Err(io::ErrorKind::InvalidData.into());
    }
    connections::secure(socket, client_address, certificate).await
}

fn session(players: &Players) -> PlaySession {
    let timing = &players.config.timing;
    let mut random = [0; 1528];
    // Nobody checks that these bytes are random (RTMP 1.0 §5.2.3).
    rand::fill(&mut random).ok();
    let config = ServerConfig {
        chunk_bytes_out: CHUNK_BYTES_OUT,
        limits: Limits {
            handshake_deadline: timing.rtmp_handshake_timeout,
            connect_deadline: timing.rtmp_play_timeout,
            publish_deadline: timing.rtmp_play_timeout,
            ..Limits::default()
        },
        ..ServerConfig::default()
    };
    PlaySession::new(config, &random, std_now())
}

fn send(session: &mut PlaySession, frame: &Frame, at_ms: i64) {
    let kind = match frame.kind {
        FrameKind::Audio => MediaKind::Audio,
        FrameKind::Script => MediaKind::Script,
        FrameKind::Video => MediaKind::Video,
    };
    // Wraps at 2^32, as RTMP's time does.
    let timestamp = u32::try_from(at_ms.max(0) & 0xFFFF_FFFF).unwrap_or_default();
    session.send(kind, timestamp, &flv::player_body(frame));
}

async fn until(deadline: Option<std::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The protocol's clock, which tests can move.
fn std_now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
