//! The server side of one playing connection (RTMP 1.0 §7.2.2.1).
//!
//! A type of its own: a port that takes publishers cannot be made to play, nor the other way round. The driver is that
//! of [`server`](super), with media going out: it hands bodies to [`send`](PlaySession::send), which copies none that is
//! large, and writes what [`poll_transmit`](PlaySession::poll_transmit) gives, in order.
//!
//! What plays is live. Where a player wants to start, pause, seek, or leave audio or video out is answered and changes
//! nothing.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::commands::name_argument;
use super::connect::URL_TOO_LONG;
use super::replies::status;
use super::{ConnectRequest, MessageStreams, Rejection, ServerConfig, StreamKeyText};
use crate::amf0::{Value, encode};
use crate::chunk::MessageHeader;
use crate::command::{self, Command};
use crate::handshake::ServerHandshake;
use crate::limits::{UNPUBLISHED_AMF_NODES, UNPUBLISHED_MEDIA_BYTES};
use crate::link::Link;
use crate::message::message_type;
use crate::{MediaKind, Message, ProtocolError, PublishPath};

/// One playing connection.
pub struct PlaySession {
    config: ServerConfig,
    link: Link,
    phase: Phase,
    /// One step of the way to a play, in total: single bytes do not prolong it.
    step: Option<Step>,
    events: VecDeque<PlayEvent>,
    connect: ConnectRequest,
    message_streams: MessageStreams,
    closing: Option<Rejection>,
    /// Goes out before what the link holds.
    ready: VecDeque<Bytes>,
    /// What a player sends that is neither control nor a command.
    unwanted_bytes: usize,
}

/// What happened.
#[derive(Debug, PartialEq)]
pub enum PlayEvent {
    /// A player wants a stream. Answer with [`PlaySession::accept_play`] or [`PlaySession::reject`]. Comes once.
    PlayRequested(PlayRequest),
}

/// A player's wish, app and name already taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct PlayRequest {
    /// Application path: everything before the last segment.
    pub app: String,
    /// The last segment.
    pub stream: String,
    /// Query parameters in order, last one of a name wins; values may be secrets.
    pub query: Vec<(String, StreamKeyText)>,
    /// What the player calls itself (connect's flashVer): printable ASCII, at most 128 characters.
    pub player: String,
}

/// How a play is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlayRefusal {
    /// `NetStream.Play.Failed`
    Failed,
    /// `NetStream.Play.StreamNotFound`
    StreamNotFound,
}

enum Phase {
    /// Until C2.
    Handshake(ServerHandshake),
    /// Until `connect`.
    Unconnected,
    /// Until `play`.
    Connected,
    /// The driver decides.
    Requested { message_stream_id: u32 },
    /// Media goes out.
    Playing {
        message_stream_id: u32,
        /// Of the latest message.
        timestamp: u32,
    },
}

struct Step {
    phase: &'static str,
    until: Instant,
}

/// Chunk streams of media, as most servers use them.
const AUDIO_CHUNK_STREAM: u32 = 4;
const SCRIPT_CHUNK_STREAM: u32 = 5;
const VIDEO_CHUNK_STREAM: u32 = 6;

impl PlaySession {
    /// `random` fills S1 (RTMP 1.0 §5.2.3).
    pub fn new(config: ServerConfig, random: &[u8; 1528], now: Instant) -> Self {
        Self {
            link: Link::to_stranger(&config.limits, now),
            phase: Phase::Handshake(ServerHandshake::new(random)),
            step: Some(Step {
                phase: "the handshake",
                until: now + config.limits.handshake_deadline,
            }),
            events: VecDeque::new(),
            connect: ConnectRequest::default(),
            message_streams: MessageStreams::default(),
            closing: None,
            ready: VecDeque::new(),
            unwanted_bytes: 0,
            config,
        }
    }

    /// Takes what it can from `input`; leaves what is incomplete, which comes first in the next call.
    ///
    /// # Errors
    /// The peer broke the protocol or a limit. The driver then closes.
    pub fn handle_input(
        &mut self,
        input: &mut BytesMut,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        if let Phase::Handshake(handshake) = &mut self.phase {
            if !handshake.read(input, self.link.output())? {
                return Ok(());
            }
            self.phase = Phase::Unconnected;
            self.await_step("connect", now + self.config.limits.connect_deadline);
        }
        while !self.is_closing()
            && let Some(message) = self.link.read(input, now)?
        {
            self.handle_message(&message, now)?;
        }
        Ok(())
    }

    /// Checks deadlines.
    ///
    /// # Errors
    /// [`ProtocolError::Deadline`].
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        match &self.step {
            Some(Step { phase, until }) if now >= *until => Err(ProtocolError::Deadline { phase }),
            Some(_) | None => Ok(()),
        }
    }

    /// Bytes to send next, for a write of as many pieces as there are.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.ready.pop_front().or_else(|| self.link.take_output())
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<PlayEvent> {
        self.events.pop_front()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout). `None` once a play was requested: what a player does not
    /// take, or the stream that does not come, is the driver's to limit.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.step.as_ref().map(|step| step.until)
    }

    /// Whether the driver should send what is left, shut down and close.
    pub fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Why the session ends. For the log line.
    pub fn closing(&self) -> Option<&Rejection> {
        self.closing.as_ref()
    }

    /// Answers the requested play; [`send`](Self::send) follows. Without a requested play: nothing.
    pub fn accept_play(&mut self) {
        let Phase::Requested { message_stream_id } = self.phase else {
            return;
        };
        self.phase = Phase::Playing {
            message_stream_id,
            timestamp: 0,
        };
        // It goes on acknowledging for as long as it plays.
        self.link.set_messages_left(None);
        self.link.send_stream_begin(message_stream_id);
        let reset = status("status", "NetStream.Play.Reset", "Playing and resetting.");
        self.link.send_status(message_stream_id, reset);
        let start = status("status", "NetStream.Play.Start", "Playing.");
        self.link.send_status(message_stream_id, start);
        self.send_sample_access(0);
    }

    /// Refuses the requested play with a status that the player shows; the driver then flushes and closes.
    pub fn reject(&mut self, refusal: PlayRefusal, rejection: Rejection) {
        let code = match refusal {
            PlayRefusal::Failed => "NetStream.Play.Failed",
            PlayRefusal::StreamNotFound => "NetStream.Play.StreamNotFound",
        };
        if let Phase::Requested { message_stream_id } = self.phase {
            let status = status("error", code, &rejection.description);
            self.link.send_status(message_stream_id, status);
        }
        self.closing = Some(rejection);
    }

    /// Queues a media message; only between [`accept_play`](Self::accept_play) and [`finish`](Self::finish), otherwise
    /// it is dropped. Metadata come without `@setDataFrame`.
    pub fn send(&mut self, kind: MediaKind, timestamp: u32, body: &Bytes) {
        if self.is_closing() {
            return;
        }
        let Phase::Playing {
            message_stream_id,
            timestamp: latest,
        } = &mut self.phase
        else {
            return;
        };
        *latest = timestamp;
        let message_stream_id = *message_stream_id;
        let (type_id, chunk_stream_id) = match kind {
            MediaKind::Audio => (message_type::AUDIO, AUDIO_CHUNK_STREAM),
            MediaKind::Script => (message_type::DATA_AMF0, SCRIPT_CHUNK_STREAM),
            MediaKind::Video => (message_type::VIDEO, VIDEO_CHUNK_STREAM),
        };
        let header = MessageHeader {
            type_id,
            timestamp,
            message_stream_id,
        };
        self.link
            .send_shared(chunk_stream_id, header, body, &mut self.ready);
    }

    /// The stream is over: FFmpeg and librtmp end at the status, GStreamer at the event. The driver then flushes and
    /// closes.
    ///
    /// GStreamer's rtmp2src holds one message between its two threads, and may throw it away at the event. So that this
    /// is none of the media, one that every player knows from the beginning and that changes nothing comes in between.
    pub fn finish(&mut self) {
        if self.is_closing() {
            return;
        }
        let description = "The stream has ended.";
        if let Phase::Playing {
            message_stream_id,
            timestamp,
        } = self.phase
        {
            self.send_sample_access(timestamp);
            let status = status("status", "NetStream.Play.UnpublishNotify", description);
            self.link.send_status(message_stream_id, status);
            self.link.send_stream_eof(message_stream_id);
        }
        self.close(description);
    }

    /// The player may have the samples of audio and of video.
    fn send_sample_access(&mut self, timestamp: u32) {
        let access = encode(&[
            Value::text("|RtmpSampleAccess"),
            Value::Boolean(true),
            Value::Boolean(true),
        ]);
        self.send(MediaKind::Script, timestamp, &access.into());
    }

    fn handle_message(&mut self, message: &Message, now: Instant) -> Result<(), ProtocolError> {
        if matches!(
            message.type_id,
            message_type::COMMAND_AMF0 | message_type::COMMAND_AMF3
        ) {
            return self.handle_command(message, now);
        }
        self.unwanted_bytes = self.unwanted_bytes.saturating_add(message.body.len());
        if self.unwanted_bytes > UNPUBLISHED_MEDIA_BYTES {
            return Err(ProtocolError::MediaBeforePublish);
        }
        Ok(())
    }

    fn handle_command(&mut self, message: &Message, now: Instant) -> Result<(), ProtocolError> {
        let body = command::body(message);
        let command = match Command::read(&body, UNPUBLISHED_AMF_NODES) {
            Ok(command) => command,
            // A player is not disconnected for a command that we do not understand.
            Err(_) if matches!(self.phase, Phase::Playing { .. }) => return Ok(()),
            Err(error) => return Err(ProtocolError::MalformedCommand(error)),
        };
        match (command.name, matches!(self.phase, Phase::Unconnected)) {
            (b"connect", true) => self.connect(&command, now),
            (b"createStream", true) => {
                return Err(ProtocolError::Unconnected {
                    what: "createStream",
                });
            }
            (b"play", true) => return Err(ProtocolError::Unconnected { what: "play" }),
            (_, true) => {}
            (b"connect", false) => {
                let description = "This connection is already connected.";
                self.link
                    .send_connect_error(command.transaction, description);
                self.close(description);
            }
            (b"createStream", false) => {
                self.message_streams
                    .create(command.transaction, &mut self.link)?;
            }
            (b"play", false) => self.play(&command, message.message_stream_id),
            (b"publish", false) => {
                let description = "Streams are played here; they are published to the edges.";
                let status = status("error", "NetStream.Publish.BadName", description);
                let id = self.message_streams.only();
                let id = id.unwrap_or(message.message_stream_id);
                self.link.send_status(id, status);
                self.close(description);
            }
            (b"closeStream" | b"deleteStream", false) => self.close("The player has stopped."),
            (b"FCSubscribe", false) => {
                self.answer(&command, Value::Undefined);
                let name = name_argument(&command);
                self.link
                    .send_fc("onFCSubscribe", "NetStream.Play.Start", name);
            }
            (b"getStreamLength", false) => self.answer(&command, Value::Number(0.0)),
            (b"onStatus" | b"_result" | b"_error", false) => {}
            // An `_error` would make FFmpeg give up.
            (_, false) => self.answer(&command, Value::Null),
        }
        Ok(())
    }

    fn connect(&mut self, command: &Command<'_>, now: Instant) {
        // Players have tokens, not passwords.
        let Some((connect, _login)) = ConnectRequest::read(command) else {
            self.link
                .send_connect_error(command.transaction, URL_TOO_LONG);
            self.close(URL_TOO_LONG);
            return;
        };
        self.connect = connect;
        self.phase = Phase::Connected;
        self.await_step("play", now + self.config.limits.publish_deadline);
        let announced = &self.connect.capabilities;
        self.link
            .send_connected(command.transaction, &self.config, announced);
    }

    fn play(&mut self, command: &Command<'_>, message_stream_id: u32) {
        let Some(id) = self.message_streams.meant(message_stream_id) else {
            let description = "The play names a stream that createStream did not return.";
            self.refuse(message_stream_id, description);
            self.close(description);
            return;
        };
        if !matches!(self.phase, Phase::Connected) {
            // The first one goes on.
            self.refuse(id, "This connection already plays a stream.");
            return;
        }
        self.phase = Phase::Requested {
            message_stream_id: id,
        };
        self.step = None;
        let name = command.argument(0).and_then(Value::as_bytes);
        match PublishPath::split(&self.connect, name.unwrap_or_default()) {
            Ok(path) => self.events.push_back(PlayEvent::PlayRequested(PlayRequest {
                app: path.app,
                stream: path.stream_key.expose().to_owned(),
                query: path.query,
                player: self.connect.flash_ver.clone(),
            })),
            // Its texts are for publishers.
            Err(_) => self.reject(
                PlayRefusal::StreamNotFound,
                Rejection {
                    description: "A stream is at rtmp://host/application/stream.".to_owned(),
                },
            ),
        }
    }

    fn refuse(&mut self, message_stream_id: u32, description: &str) {
        let status = status("error", "NetStream.Play.Failed", description);
        self.link.send_status(message_stream_id, status);
    }

    fn answer(&mut self, command: &Command<'_>, result: Value<'_>) {
        if command.wants_answer() {
            self.link.send_result(command.transaction, result);
        }
    }

    fn await_step(&mut self, phase: &'static str, until: Instant) {
        self.step = Some(Step { phase, until });
    }

    fn close(&mut self, description: &str) {
        self.closing = Some(Rejection {
            description: description.to_owned(),
        });
    }
}
