//! Bytes as a client sends them, and a server that takes them.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "shared by several test binaries"
)]

mod script;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtmp::amf0::{Decoder, Value};
use rtmp::chunk::{Bounds, ChunkReader};
use rtmp::limits::Limits;
use rtmp::{Message, ProtocolError, ServerConfig, ServerEvent, ServerSession, message_type};

pub use script::{Script, call};

/// The only place where a test reads the clock: a start to count from.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way; from here on time is moved by hand"
)]
pub fn start() -> Instant {
    Instant::now()
}

/// A server that accepts every publish, and all that came of it.
pub struct Server {
    pub session: ServerSession,
    pub now: Instant,
    pub events: Vec<ServerEvent>,
    pub output: BytesMut,
    pub accepts: bool,
    /// Whether a publish was accepted and has not ended.
    pub publishes: bool,
    input: BytesMut,
    /// Reads the output.
    reader: ChunkReader,
}

impl Server {
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    pub fn with_limits(limits: Limits) -> Self {
        let now = start();
        let config = ServerConfig {
            limits,
            offers_adobe: true,
            ..ServerConfig::default()
        };
        Self {
            session: ServerSession::new(config, &[0x51; 1528], now),
            now,
            events: Vec::new(),
            output: BytesMut::new(),
            accepts: true,
            publishes: false,
            input: BytesMut::new(),
            reader: ChunkReader::new(Bounds::publishing(&Limits::default())),
        }
    }

    /// A server that has taken the script up to an accepted publish.
    pub fn publishing() -> Self {
        let mut server = Self::new();
        server.feed(&Script::published().bytes).unwrap();
        server.events.clear();
        server.replies();
        server
    }

    pub fn pass(&mut self, duration: Duration) {
        self.now += duration;
    }

    /// One read of the driver.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.input.extend_from_slice(bytes);
        let mut outcome = self.session.handle_input(&mut self.input, self.now);
        while outcome.is_ok() && self.drain() && self.accepts {
            self.session.accept_publish(self.now);
            self.publishes = true;
            outcome = self.session.handle_input(&mut self.input, self.now);
        }
        self.drain();
        outcome
    }

    pub fn media(&self) -> Vec<rtmp::MediaMessage> {
        let media = |event: &ServerEvent| match event {
            ServerEvent::Media(message) => Some(message.clone()),
            ServerEvent::AdobeChallengeRequested { .. }
            | ServerEvent::Ponged(_)
            | ServerEvent::PublishEnded(_)
            | ServerEvent::PublishRequested(_) => None,
        };
        self.events.iter().filter_map(media).collect()
    }

    /// The messages that it sent, its half of the handshake left out.
    pub fn replies(&mut self) -> Vec<Message> {
        let mut output = self.output.split();
        if output.first() == Some(&3) && output.len() >= 3073 {
            drop(output.split_to(3073));
        }
        let mut messages = Vec::new();
        while let Some(message) = self.reader.read(&mut output).unwrap() {
            if message.type_id == message_type::SET_CHUNK_SIZE {
                let bytes = <[u8; 4]>::try_from(&message.body[..]).unwrap();
                self.reader.set_chunk_bytes(u32::from_be_bytes(bytes));
            }
            messages.push(message);
        }
        assert!(output.is_empty(), "only whole messages are sent");
        messages
    }

    /// Commands among the replies as `msid name transaction code-or-value`.
    pub fn replied_commands(&mut self) -> Vec<String> {
        let is_command = |message: &Message| message.type_id == message_type::COMMAND_AMF0;
        let replies = self.replies();
        replies
            .iter()
            .filter(|m| is_command(m))
            .map(summary)
            .collect()
    }

    /// Whether a publish waits for an answer.
    fn drain(&mut self) -> bool {
        while let Some(bytes) = self.session.poll_transmit() {
            self.output.extend_from_slice(&bytes);
        }
        let mut requested = false;
        while let Some(event) = self.session.poll_event() {
            requested |= matches!(event, ServerEvent::PublishRequested(_));
            self.publishes &= !matches!(event, ServerEvent::PublishEnded(_));
            self.events.push(event);
        }
        requested
    }
}

fn summary(message: &Message) -> String {
    let mut decoder = Decoder::command(&message.body, 4096);
    let name = decoder.value().unwrap();
    let name = String::from_utf8_lossy(name.as_bytes().unwrap()).into_owned();
    let transaction = decoder.value().unwrap().as_number().unwrap();
    let object = decoder.value().unwrap();
    assert!(matches!(object, Value::Null | Value::Object(_)));
    let text = |info: &Value<'_>, key| {
        let bytes = info.property(key).and_then(Value::as_bytes);
        bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    };
    let info = decoder.value().unwrap();
    let said = if let Some(number) = info.as_number() {
        number.to_string()
    } else if let Some(code) = text(&info, "code") {
        assert!(text(&info, "description").is_some(), "always described");
        code
    } else {
        format!("{info:?}").to_lowercase()
    };
    format!("{} {name} {transaction} {said}", message.message_stream_id)
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
