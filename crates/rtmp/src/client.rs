//! The client side of one publishing or playing connection: what the load generator, the probe and the tests speak.
//!
//! The driver is that of [`server`](crate::server), without deadlines: it keeps its own.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use crate::amf0::{Value, encode};
use crate::capabilities::RECONNECT_REQUEST;
use crate::chunk::{Bounds, MessageHeader};
use crate::command::{self, Command};
use crate::limits::{AMF_NODES, Limits};
use crate::link::Link;
use crate::message::message_type;
use crate::{MediaKind, MediaMessage, Message, ProtocolError, StreamKeyText, handshake};

/// What to publish or to play.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// What the connection is for.
    pub purpose: Purpose,
    /// connect's app.
    pub app: String,
    /// connect's tcUrl.
    pub tc_url: String,
    /// publish's or play's name.
    pub name: StreamKeyText,
    /// connect's flashVer.
    pub flash_ver: String,
    /// Chunk size to send with, in bytes.
    pub chunk_bytes_out: u32,
    /// connect's capsEx: bits of [`caps_ex`](crate::caps_ex). 0: it is left out.
    pub caps_ex: u32,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To play a stream.
    Play,
    /// To publish one.
    Publish,
}

/// One publishing or playing connection.
pub struct ClientSession {
    config: ClientConfig,
    link: Link,
    phase: Phase,
    events: VecDeque<ClientEvent>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Media of the stream that plays.
    Media(MediaMessage),
    /// NetStream.Play.UnpublishNotify: the stream that plays is over.
    PlayEnded,
    /// NetStream.Play.Start: media follow.
    PlayStarted,
    /// NetStream.Publish.Start: media may be sent.
    PublishStarted,
    /// NetConnection.Connect.ReconnectRequest: the server wants the client to go on over another connection.
    ReconnectRequested {
        /// Where; empty: at the same address.
        tc_url: String,
    },
    /// The server refused, or ended a live publish.
    Rejected {
        /// `NetStream.Publish.BadName` and the like.
        code: String,
        /// What it said.
        description: String,
    },
}

/// What the client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaits {
    /// S0, S1 and S2.
    Handshake,
    /// The answer to connect.
    Connect,
    /// The answer to createStream, publish or play.
    Stream,
    /// It publishes or plays, or all is over.
    Nothing,
}

/// What is awaited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// S0, S1 and S2.
    Handshake,
    /// `_result` to connect.
    Connect,
    /// `_result` to createStream.
    CreateStream,
    /// NetStream.Publish.Start.
    Publish { message_stream_id: u32 },
    /// NetStream.Play.Start.
    Play,
    /// Media, until the stream ends.
    Playing,
    /// Nothing: media may be sent.
    Publishing { message_stream_id: u32 },
    /// Nothing any more.
    Over,
}

/// Transaction ids, in the order of the calls.
mod transaction {
    pub(super) const CONNECT: f64 = 1.0;
    pub(super) const RELEASE_STREAM: f64 = 2.0;
    pub(super) const FC_PUBLISH: f64 = 3.0;
    pub(super) const CREATE_STREAM: f64 = 4.0;
    pub(super) const PLAY: f64 = 5.0;
    pub(super) const PUBLISH: f64 = 5.0;
    pub(super) const FC_UNPUBLISH: f64 = 6.0;
    pub(super) const DELETE_STREAM: f64 = 7.0;
}

/// Chunk streams, as FFmpeg uses them.
mod chunk_stream {
    pub(super) const COMMAND: u32 = 3;
    pub(super) const AUDIO_AND_SCRIPT: u32 = 4;
    pub(super) const VIDEO: u32 = 6;
    pub(super) const PLAY_OR_PUBLISH: u32 = 8;
}

impl ClientSession {
    /// `random` fills C1.
    pub fn new(config: ClientConfig, random: &[u8; 1528], now: Instant) -> Self {
        let limits = Limits {
            chunk_bytes_in_min: 1,
            ..Limits::default()
        };
        let mut link = Link::new(Bounds::publishing(&limits), &limits, now);
        link.output()
            .extend_from_slice(&handshake::client_opening(random));
        Self {
            config,
            link,
            phase: Phase::Handshake,
            events: VecDeque::new(),
        }
    }

    /// Takes what came; leaves what is incomplete, which comes first in the next call.
    ///
    /// # Errors
    /// The server broke the protocol or a limit.
    pub fn handle_input(
        &mut self,
        input: &mut BytesMut,
        now: Instant,
    ) -> Result<(), ProtocolError> {
        if self.phase == Phase::Handshake {
            let Some(c2) = handshake::client_answer(input)? else {
                return Ok(());
            };
            self.link.output().extend_from_slice(&c2);
            self.link.start_answering();
            self.connect();
        }
        while let Some(message) = self.link.read(input, now)? {
            if matches!(
                message.type_id,
                message_type::COMMAND_AMF0 | message_type::COMMAND_AMF3
            ) {
                self.handle_command(&message)?;
            } else if self.phase == Phase::Playing
                && let Some(media) = message.into_media()
            {
                self.events.push_back(ClientEvent::Media(media));
            }
        }
        Ok(())
    }

    /// Bytes to send: everything that was queued, for one write.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        self.link.take_output()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// What the client waits for.
    pub fn awaits(&self) -> Awaits {
        match self.phase {
            Phase::Handshake => Awaits::Handshake,
            Phase::Connect => Awaits::Connect,
            Phase::CreateStream | Phase::Publish { .. } | Phase::Play => Awaits::Stream,
            Phase::Playing | Phase::Publishing { .. } | Phase::Over => Awaits::Nothing,
        }
    }

    /// How many bytes the server says it has received, modulo 2^32; 0 before it says so.
    pub fn acknowledged(&self) -> u32 {
        self.link.peer_acknowledged()
    }

    /// Queues a media message; only after [`ClientEvent::PublishStarted`], otherwise it is dropped.
    pub fn send(&mut self, message: &MediaMessage) {
        let Phase::Publishing { message_stream_id } = self.phase else {
            return;
        };
        let (type_id, chunk_stream_id) = match message.kind {
            MediaKind::Audio => (message_type::AUDIO, chunk_stream::AUDIO_AND_SCRIPT),
            MediaKind::Script => (message_type::DATA_AMF0, chunk_stream::AUDIO_AND_SCRIPT),
            MediaKind::Video => (message_type::VIDEO, chunk_stream::VIDEO),
        };
        let header = MessageHeader {
            type_id,
            timestamp: message.timestamp,
            message_stream_id,
        };
        self.link.send(chunk_stream_id, header, &message.body);
    }

    /// Queues FCUnpublish and deleteStream.
    pub fn finish(&mut self) {
        if let Phase::Publish { message_stream_id } | Phase::Publishing { message_stream_id } =
            self.phase
        {
            self.call_with_name("FCUnpublish", transaction::FC_UNPUBLISH);
            self.call(&[
                Value::text("deleteStream"),
                Value::Number(transaction::DELETE_STREAM),
                Value::Null,
                Value::Number(f64::from(message_stream_id)),
            ]);
        }
        self.phase = Phase::Over;
    }

    fn connect(&mut self) {
        if self.config.chunk_bytes_out != 128 {
            self.link.send_chunk_size(self.config.chunk_bytes_out);
        }
        let config = self.config.clone();
        let mut properties = vec![
            ("app", Value::text(&config.app)),
            ("type", Value::text("nonprivate")),
            ("flashVer", Value::text(&config.flash_ver)),
            ("tcUrl", Value::text(&config.tc_url)),
        ];
        if config.caps_ex != 0 {
            properties.push(("capsEx", Value::Number(config.caps_ex.into())));
        }
        self.call(&[
            Value::text("connect"),
            Value::Number(transaction::CONNECT),
            Value::object(properties),
        ]);
        self.phase = Phase::Connect;
    }

    fn handle_command(&mut self, message: &Message) -> Result<(), ProtocolError> {
        let body = command::body(message);
        let command = Command::read(&body, AMF_NODES).map_err(ProtocolError::MalformedCommand)?;
        match command.name {
            b"_result" => self.handle_result(&command),
            b"_error" if self.awaited_transaction() == Some(command.transaction) => {
                self.reject(&command);
            }
            b"onStatus" => self.handle_status(&command),
            _ => {}
        }
        Ok(())
    }

    fn handle_result(&mut self, command: &Command<'_>) {
        if self.awaited_transaction() != Some(command.transaction) {
            return;
        }
        if self.phase == Phase::Connect {
            if self.config.purpose == Purpose::Publish {
                self.call_with_name("releaseStream", transaction::RELEASE_STREAM);
                self.call_with_name("FCPublish", transaction::FC_PUBLISH);
            }
            self.call(&[
                Value::text("createStream"),
                Value::Number(transaction::CREATE_STREAM),
                Value::Null,
            ]);
            self.phase = Phase::CreateStream;
        } else {
            let id = command.argument(0).and_then(Value::as_number);
            let message_stream_id = id.map(command::integer).unwrap_or_default();
            self.phase = match self.config.purpose {
                Purpose::Play => {
                    self.play(message_stream_id);
                    Phase::Play
                }
                Purpose::Publish => {
                    self.publish(message_stream_id);
                    Phase::Publish { message_stream_id }
                }
            };
        }
    }

    fn handle_status(&mut self, command: &Command<'_>) {
        let field = |key| command.argument(0).and_then(|info| info.property(key));
        let is_error = field("level").and_then(Value::as_bytes) == Some(b"error");
        let code = field("code").and_then(Value::as_bytes);
        if is_error {
            self.reject(command);
        } else if code == Some(RECONNECT_REQUEST.as_bytes()) {
            let tc_url = text(command, "tcUrl");
            self.events
                .push_back(ClientEvent::ReconnectRequested { tc_url });
        } else if code == Some(b"NetStream.Publish.Start")
            && let Phase::Publish { message_stream_id } = self.phase
        {
            self.phase = Phase::Publishing { message_stream_id };
            self.events.push_back(ClientEvent::PublishStarted);
        } else if code == Some(b"NetStream.Play.Start") && self.phase == Phase::Play {
            self.phase = Phase::Playing;
            self.events.push_back(ClientEvent::PlayStarted);
        } else if code == Some(b"NetStream.Play.UnpublishNotify") && self.phase == Phase::Playing {
            self.phase = Phase::Over;
            self.events.push_back(ClientEvent::PlayEnded);
        }
    }

    fn reject(&mut self, command: &Command<'_>) {
        self.phase = Phase::Over;
        self.events.push_back(ClientEvent::Rejected {
            code: text(command, "code"),
            description: text(command, "description"),
        });
    }

    fn awaited_transaction(&self) -> Option<f64> {
        match self.phase {
            Phase::Connect => Some(transaction::CONNECT),
            Phase::CreateStream => Some(transaction::CREATE_STREAM),
            Phase::Handshake
            | Phase::Publish { .. }
            | Phase::Play
            | Phase::Playing
            | Phase::Publishing { .. }
            | Phase::Over => None,
        }
    }

    fn publish(&mut self, message_stream_id: u32) {
        let body = encode(&[
            Value::text("publish"),
            Value::Number(transaction::PUBLISH),
            Value::Null,
            Value::text(self.config.name.expose()),
            Value::text("live"),
        ]);
        self.send_command(chunk_stream::PLAY_OR_PUBLISH, message_stream_id, &body);
    }

    fn play(&mut self, message_stream_id: u32) {
        let body = encode(&[
            Value::text("play"),
            Value::Number(transaction::PLAY),
            Value::Null,
            Value::text(self.config.name.expose()),
            // Live or recorded.
            Value::Number(-2000.0),
        ]);
        self.send_command(chunk_stream::PLAY_OR_PUBLISH, message_stream_id, &body);
    }

    fn call_with_name(&mut self, name: &str, transaction: f64) {
        let body = encode(&[
            Value::text(name),
            Value::Number(transaction),
            Value::Null,
            Value::text(self.config.name.expose()),
        ]);
        self.send_command(chunk_stream::COMMAND, 0, &body);
    }

    fn call(&mut self, values: &[Value<'_>]) {
        self.send_command(chunk_stream::COMMAND, 0, &encode(values));
    }

    fn send_command(&mut self, chunk_stream_id: u32, message_stream_id: u32, body: &[u8]) {
        let header = MessageHeader {
            type_id: message_type::COMMAND_AMF0,
            timestamp: 0,
            message_stream_id,
        };
        self.link.send(chunk_stream_id, header, body);
    }
}

/// Of a status; empty where it has none.
fn text(command: &Command<'_>, key: &str) -> String {
    let value = command.argument(0).and_then(|info| info.property(key));
    let bytes = value.and_then(Value::as_bytes).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}
