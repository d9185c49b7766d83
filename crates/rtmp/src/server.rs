//! The server side of one connection.
//!
//! The driver reads the socket into a buffer and calls [`handle_input`](ServerSession::handle_input), wakes at
//! [`poll_timeout`](ServerSession::poll_timeout) and calls [`handle_timeout`](ServerSession::handle_timeout), then
//! drains [`poll_transmit`](ServerSession::poll_transmit) and [`poll_event`](ServerSession::poll_event), in this order.
//!
//! While [`wants_input`](ServerSession::wants_input) is false the driver does not read; after
//! [`accept_publish`](ServerSession::accept_publish) it calls `handle_input` once with what is left in its buffer, even
//! if nothing new came. When `handle_input` or `handle_timeout` fail, or [`is_closing`](ServerSession::is_closing), it
//! sends what `poll_transmit` still has, shuts its writing half down, reads and discards for a moment, and closes.

mod commands;
mod connect;
mod deadlines;
pub(crate) mod play;
mod replies;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use self::commands::PublishedName;
use self::deadlines::Deadlines;
use crate::amf0::Value;
use crate::chunk::Bounds;
use crate::handshake::ServerHandshake;
use crate::limits::UNPUBLISHED_MEDIA_BYTES;
use crate::link::Link;
use crate::message::message_type;
use crate::{
    AdobeResponse, Capabilities, MediaKind, MediaMessage, Message, ProtocolError, aggregate,
};

/// What the server announces and allows.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Chunk size that is announced once, before connect's `_result`, in bytes.
    pub chunk_bytes_out: u32,
    /// Window acknowledgement size that is announced, in bytes.
    pub window_bytes: u32,
    /// Whether user and password may be asked for (Adobe authentication): only where TLS is beneath.
    pub offers_adobe: bool,
    /// Deadlines and limits.
    pub limits: crate::limits::Limits,
    /// Given, every `connect` is refused with it.
    pub refusal: Option<Rejection>,
}

/// One publishing connection.
pub struct ServerSession {
    config: ServerConfig,
    link: Link,
    phase: Phase,
    deadlines: Deadlines,
    events: VecDeque<ServerEvent>,
    connect: ConnectRequest,
    message_streams: MessageStreams,
    closing: Option<Rejection>,
    received_bytes: u64,
    /// Bytes that the last call left in the driver's buffer.
    left_bytes: usize,
    /// Since the last publish ended, or ever.
    unwanted_media_bytes: usize,
}

/// What happened.
#[derive(Debug, PartialEq)]
pub enum ServerEvent {
    /// An encoder wants to log in with a password. Answer with [`ServerSession::challenge`] or
    /// [`ServerSession::reject`]; until then no input is taken.
    AdobeChallengeRequested {
        /// As it calls itself: letters, digits, and some of `+/=_-.@`.
        user: String,
    },
    /// Media of the accepted publish.
    Media(MediaMessage),
    /// The answer to a [`ping`](ServerSession::ping) came after this long.
    Ponged(Duration),
    /// The publish is over, in band: FCUnpublish, deleteStream or closeStream.
    PublishEnded(EndCause),
    /// An encoder wants to publish. Answer with [`ServerSession::accept_publish`] or
    /// [`ServerSession::reject`]; until then no input is taken.
    PublishRequested(Box<PublishRequest>),
}

/// How a publish ended in band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndCause {
    /// `closeStream`
    CloseStream,
    /// `deleteStream`
    DeleteStream,
    /// `FCUnpublish`
    FcUnpublish,
}

/// What `connect` said.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectRequest {
    /// Lossily decoded, without what belongs to Adobe authentication; may hold a query. A secret may be in it: for
    /// splitting, not for logs.
    pub app: String,
    /// The same, without quotes. A secret may be in it.
    pub tc_url: String,
    /// What the encoder calls itself: printable ASCII.
    pub flash_ver: String,
    /// What it can do, as it says.
    pub capabilities: Capabilities,
    /// User and password, if it has them.
    pub adobe: Option<AdobeResponse>,
}

/// An encoder's wish, app and name already taken apart (rtmp facts: joined with "/", then the query cut).
/// No `Debug` of the key: see [`StreamKeyText`].
#[derive(Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// Application path: everything before the last segment. No secret.
    pub app: String,
    /// The last segment: a stream key, which is a secret; with [`adobe`](Self::adobe), perhaps the stream's name.
    pub stream_key: StreamKeyText,
    /// Query parameters in order, last one of a name wins; values may be secrets.
    pub query: Vec<(String, StreamKeyText)>,
    /// What the encoder calls itself (connect's flashVer): printable ASCII, at most 128 characters.
    pub encoder: String,
    /// What connect announced.
    pub capabilities: Capabilities,
    /// Who publishes, and how that can be checked, where user and password were asked for.
    pub adobe: Option<AdobeResponse>,
}

/// Text that may hold a secret: prints as `[redacted]`.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKeyText(String);

/// A refusal that the encoder shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// For the person at the encoder. No secret.
    pub description: String,
}

enum Phase {
    /// Until C2.
    Handshake(ServerHandshake),
    /// Until `connect`.
    Unconnected,
    /// The driver makes a challenge; then the connection ends.
    Challenging {
        /// Of `connect`.
        transaction: f64,
        user: String,
    },
    /// Until `publish`; again after a publish ended.
    Connected,
    /// The driver decides.
    Requested(Published),
    /// Media comes.
    Publishing(Published),
}

struct Published {
    message_stream_id: u32,
    name: PublishedName,
}

/// What `createStream` gave out and `deleteStream` did not take back.
#[derive(Default)]
struct MessageStreams {
    open: Vec<u32>,
    last_id: u32,
}

impl ServerSession {
    /// `random` fills S1 (RTMP 1.0 §5.2.3).
    pub fn new(config: ServerConfig, random: &[u8; 1528], now: Instant) -> Self {
        Self {
            link: Link::to_stranger(&config.limits, now),
            phase: Phase::Handshake(ServerHandshake::new(random)),
            deadlines: Deadlines::new(&config.limits, now),
            events: VecDeque::new(),
            connect: ConnectRequest::default(),
            message_streams: MessageStreams::default(),
            closing: None,
            received_bytes: 0,
            left_bytes: 0,
            unwanted_media_bytes: 0,
            config,
        }
    }

    /// Takes what it can from `input`; leaves the rest, which comes first in the next call.
    ///
    /// # Errors
    /// The peer broke the protocol or a limit. A live publisher is told (see [`poll_transmit`](Self::poll_transmit)).
    pub fn handle_input(
        &mut self,
        input: &mut BytesMut,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        if self.is_closing() {
            input.clear();
            return Ok(());
        }
        let before = input.len();
        let messages_before = self.link.completed_messages();
        let outcome = self.read(input, now);
        let new_bytes = before.saturating_sub(self.left_bytes);
        self.left_bytes = input.len();
        self.received_bytes += u64::try_from(before - input.len()).unwrap_or_default();
        if new_bytes > 0 {
            self.deadlines.bytes_came(new_bytes, now);
        }
        if self.link.completed_messages() != messages_before {
            self.deadlines.message_came();
        }
        outcome.inspect_err(|error| self.fail(error))
    }

    /// Checks deadlines.
    ///
    /// # Errors
    /// [`ProtocolError::Deadline`]. A live publisher is told.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if self.is_closing() {
            return Ok(());
        }
        let outcome = self.deadlines.check(now);
        outcome.inspect_err(|error| self.fail(error))
    }

    /// Bytes to send: a whole reply at a time, for one write.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.link.take_output()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). Idle and slow-drip deadlines stop while
    /// [`pause`](Self::pause)d. `None` while a publish is undecided and when closing: those deadlines are the driver's.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_closing() {
            return None;
        }
        self.deadlines.next()
    }

    /// Whether the driver should read the socket: no while a publish or a challenge is undecided (beyond a small buffer), no when
    /// closing.
    pub fn wants_input(&self) -> bool {
        let is_undecided = matches!(self.phase, Phase::Requested(_) | Phase::Challenging { .. });
        !self.is_closing() && !is_undecided
    }

    /// Whether the driver should send what is left, shut down and close.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Why the session closes itself or was closed: what the encoder was told. For the log line.
    pub fn closing(&self) -> Option<&Rejection> {
        self.closing.as_ref()
    }

    /// The driver stops reading because of backpressure: silence is not the encoder's fault.
    pub fn pause(&mut self) {
        self.deadlines.pause();
    }

    /// The driver reads again.
    pub fn resume(&mut self, now: Instant) {
        self.deadlines.resume(now);
    }

    /// Answers the requested publish with StreamBegin and NetStream.Publish.Start. Without a requested publish: nothing.
    pub fn accept_publish(&mut self, now: Instant) {
        if self.is_closing() {
            return;
        }
        self.phase = match std::mem::replace(&mut self.phase, Phase::Connected) {
            Phase::Requested(published) => {
                self.link
                    .set_bounds(Bounds::publishing(&self.config.limits));
                self.link.set_messages_left(None);
                self.unwanted_media_bytes = 0;
                self.deadlines.publishing(now);
                self.send_publish_start(published.message_stream_id);
                Phase::Publishing(published)
            }
            phase @ (Phase::Handshake(_)
            | Phase::Unconnected
            | Phase::Challenging { .. }
            | Phase::Connected
            | Phase::Publishing(_)) => phase,
        };
    }

    /// Refuses the requested publish (NetStream.Publish.BadName with a description) or challenge; the driver then
    /// flushes and closes.
    pub fn reject(&mut self, rejection: Rejection) {
        self.close(rejection);
    }

    /// Ends a live publish from our side with a status that FFmpeg shows; the driver then flushes and closes.
    pub fn close(&mut self, rejection: Rejection) {
        if self.is_closing() {
            return;
        }
        match self.phase {
            Phase::Requested(ref published) => {
                self.refuse_publish(published.message_stream_id, rejection);
            }
            Phase::Publishing(ref published) => {
                self.send_failure(published.message_stream_id, &rejection.description);
                self.closing = Some(rejection);
            }
            Phase::Challenging { transaction, .. } => {
                self.refuse_connect(transaction, &rejection.description);
            }
            Phase::Handshake(_) | Phase::Unconnected | Phase::Connected => {
                self.closing = Some(rejection);
            }
        }
    }

    /// Asks a live publisher to connect again, elsewhere (E-RTMP v2, "Reconnect Request"), at the address that it has:
    /// a load balancer then finds it another server. It goes on sending here until it leaves. Whether it was asked: it
    /// must have said in `connect` that it follows such a request.
    pub fn request_reconnect(&mut self, description: &str) -> bool {
        let asked = matches!(self.phase, Phase::Publishing(_))
            && !self.is_closing()
            && self.connect.capabilities.reconnects();
        if asked {
            self.send_reconnect_request(description);
        }
        asked
    }

    /// Asks a live publisher for a sign of life (RTMP 1.0 §7.1.7). Nothing depends on the answer: some never give it.
    pub fn ping(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Publishing(_)) && !self.is_closing() {
            self.link.ping(now);
        }
    }

    /// Bytes of memory that the peer makes the session hold: unfinished messages, messages that
    /// [`poll_event`](Self::poll_event) has not given out, and what waits to be sent. The driver's buffer is not in it.
    pub fn held_bytes(&self) -> usize {
        let events = self.events.iter().map(|event| match event {
            ServerEvent::Media(media) => media.body.len(),
            ServerEvent::AdobeChallengeRequested { .. }
            | ServerEvent::Ponged(_)
            | ServerEvent::PublishEnded(_)
            | ServerEvent::PublishRequested(_) => 0,
        });
        self.link.held_bytes() + events.sum::<usize>()
    }

    /// Bytes received so far, for statistics.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    fn read(&mut self, input: &mut BytesMut, now: Instant) -> Result<(), ProtocolError> {
        while self.wants_input() {
            if let Phase::Handshake(handshake) = &mut self.phase {
                if !handshake.read(input, self.link.output())? {
                    return Ok(());
                }
                self.phase = Phase::Unconnected;
                self.deadlines.handshake_done(now);
            }
            let message = self.link.read(input, now)?;
            if let Some(round_trip) = self.link.take_round_trip() {
                self.events.push_back(ServerEvent::Ponged(round_trip));
            }
            let Some(message) = message else {
                return Ok(());
            };
            self.handle_message(message, now)?;
        }
        Ok(())
    }

    fn handle_message(&mut self, message: Message, now: Instant) -> Result<(), ProtocolError> {
        match message.type_id {
            message_type::COMMAND_AMF0 | message_type::COMMAND_AMF3 => {
                self.handle_command(&message, now)
            }
            message_type::AGGREGATE => {
                for message in aggregate::messages(&message) {
                    self.link.count_message(now)?;
                    self.handle_media(message)?;
                }
                Ok(())
            }
            _ => self.handle_media(message),
        }
    }

    /// Shared objects and unknown types are ignored.
    fn handle_media(&mut self, message: Message) -> Result<(), ProtocolError> {
        let Some(media) = message.into_media() else {
            return Ok(());
        };
        match self.phase {
            Phase::Publishing(_) => {
                if media.kind != MediaKind::Script {
                    self.deadlines.media_came();
                }
                self.events.push_back(ServerEvent::Media(media));
                Ok(())
            }
            Phase::Handshake(_) | Phase::Unconnected | Phase::Challenging { .. } => {
                Err(ProtocolError::Unconnected { what: "media" })
            }
            Phase::Connected | Phase::Requested(_) => {
                self.unwanted_media_bytes =
                    self.unwanted_media_bytes.saturating_add(media.body.len());
                if self.unwanted_media_bytes > UNPUBLISHED_MEDIA_BYTES {
                    return Err(ProtocolError::MediaBeforePublish);
                }
                Ok(())
            }
        }
    }

    /// Tells a live publisher why its connection ends.
    fn fail(&mut self, error: &ProtocolError) {
        self.close(Rejection {
            description: error.to_string(),
        });
    }
}

impl MessageStreams {
    /// Answers a createStream.
    fn create(&mut self, transaction: f64, link: &mut Link) -> Result<(), ProtocolError> {
        const LIMIT: usize = crate::limits::MESSAGE_STREAMS;
        let next = self.last_id.checked_add(1);
        let id = next
            .filter(|_id| self.open.len() < LIMIT)
            .ok_or(ProtocolError::TooManyMessageStreams { limit: LIMIT })?;
        self.last_id = id;
        self.open.push(id);
        link.send_result(transaction, Value::Number(f64::from(id)));
        Ok(())
    }

    /// The one that a command came on, or the only one; `None`: createStream returned no such.
    fn meant(&self, message_stream_id: u32) -> Option<u32> {
        let known = Some(message_stream_id).filter(|id| self.contains(*id));
        known.or_else(|| self.only())
    }

    fn contains(&self, id: u32) -> bool {
        self.open.contains(&id)
    }

    fn delete(&mut self, id: u32) {
        self.open.retain(|open| *open != id);
    }

    /// The one that is meant if there is only one.
    fn only(&self) -> Option<u32> {
        match self.open.as_slice() {
            [id] => Some(*id),
            _ => None,
        }
    }
}

impl StreamKeyText {
    /// Wraps it.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for StreamKeyText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// app and tcUrl may hold a stream key.
impl std::fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("flash_ver", &self.flash_ver)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            chunk_bytes_out: 4096,
            window_bytes: crate::limits::WINDOW_BYTES,
            offers_adobe: false,
            limits: crate::limits::Limits::default(),
            refusal: None,
        }
    }
}
