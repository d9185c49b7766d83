//! A server session under any order of what an encoder, its driver and the clock may do.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtmp::{
    MediaKind, Rejection, ServerConfig, ServerEvent, ServerSession,
    amf0::{Value, encode},
    chunk::{ChunkWriter, MessageHeader},
    handshake::{self, PACKET_BYTES},
    limits::COMMAND_BYTES,
    message_type,
};

use crate::script::Script;

/// No deadline of a session lies further ahead.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// What a session says unasked: its half of the handshake, and a word at the end.
const SAID_UNASKED_BYTES: usize = 8 << 10;
/// The shortest question has a dozen bytes, the longest answer about a kilobyte.
const SAID_PER_BYTE: usize = 100;
/// What may stay unread while input is wanted: a handshake packet that is not complete.
const UNREAD_BYTES_MAX: usize = 1 + PACKET_BYTES;

/// A session's script: operations, each with what it needs. Run twice, the second time with the input in pieces: the
/// events are the same, up to the first deadline (what trickles in and what came at once are watched differently).
pub(crate) fn session(data: &[u8]) {
    let mut script = Script::new(data);
    let piece = usize::from(script.u8()) + 1;
    let steps = script.rest();
    let whole = run(steps, usize::MAX);
    assert_eq!(whole, run(steps, piece), "pieces of {piece} bytes");
}

fn run(steps: &[u8], piece: usize) -> Vec<String> {
    let mut script = Script::new(steps);
    let mut driver = Driver::new(piece);
    while let Some(step) = script.next()
        && !driver.over
    {
        driver.step(step, &mut script);
        driver.promises();
    }
    driver.events
}

/// What the edge does with a session, and what it may rely on.
struct Driver {
    session: ServerSession,
    now: Instant,
    input: BytesMut,
    writer: ChunkWriter,
    piece: usize,
    state: State,
    /// Nothing is called any more: the driver closes.
    over: bool,
    /// A deadline came: from then on `events` says nothing more.
    woken: bool,
    events: Vec<String>,
    media_bytes: usize,
    fed_bytes: usize,
    said_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Requested,
    Publishing,
}

impl Driver {
    fn new(piece: usize) -> Self {
        let now = Instant::now();
        Self {
            session: ServerSession::new(ServerConfig::default(), &[0x51; 1528], now),
            now,
            input: BytesMut::new(),
            writer: ChunkWriter::new(),
            piece,
            state: State::Idle,
            over: false,
            woken: false,
            events: Vec::new(),
            media_bytes: 0,
            fed_bytes: 0,
            said_bytes: 0,
        }
    }

    fn step(&mut self, step: u8, script: &mut Script<'_>) {
        match step % 16 {
            0 => self.feed(script.counted()),
            1 => self.handshake(),
            2 => self.connect(script),
            3 => self.call("createStream", Value::Null),
            4 => self.call("FCPublish", Value::text("key")),
            5 => self.publish(script),
            6 => self.media(script),
            7 => self.call_one_of(script),
            8 => self.chunk_bytes(script),
            9 => self.message(script),
            10 => self.pass(Duration::from_millis(script.u16().into())),
            11 => self.wake(),
            12 => self.accept(),
            13 => self.session.reject(rejection()),
            14 => self.session.close(rejection()),
            _ => match script.u8() % 2 {
                0 => self.session.pause(),
                _ => self.session.resume(self.now),
            },
        }
        self.drain();
    }

    /// In one piece: the target `handshake` cuts it.
    fn handshake(&mut self) {
        let mut bytes = handshake::client_opening(&[0xC1; 1528]).to_vec();
        bytes.resize(bytes.len() + PACKET_BYTES, 0);
        self.fed_bytes += bytes.len();
        self.input.extend_from_slice(&bytes);
        self.offer();
    }

    fn connect(&mut self, script: &mut Script<'_>) {
        let apps: [&[u8]; 4] = [
            b"live",
            b"a/b?c=d",
            b"live?authmod=adobe&user=bob",
            script.counted(),
        ];
        let app = apps[usize::from(script.u8() % 4)];
        let body = encode(&[
            Value::text("connect"),
            Value::Number(1.0),
            Value::Object(vec![
                (b"app", Value::String(app)),
                (b"tcUrl", Value::text("rtmp://host/live")),
                (b"capsEx", Value::Number(f64::from(script.u8()))),
            ]),
        ]);
        self.send(3, message_type::COMMAND_AMF0, 0, 0, &body);
    }

    fn publish(&mut self, script: &mut Script<'_>) {
        let name = script.counted();
        let name = if name.is_empty() { b"key" } else { name };
        let body = encode(&[
            Value::text("publish"),
            Value::Number(5.0),
            Value::Null,
            Value::String(name),
            Value::text("live"),
        ]);
        self.send(8, message_type::COMMAND_AMF0, 0, 1, &body);
    }

    fn call_one_of(&mut self, script: &mut Script<'_>) {
        let names = [
            "FCUnpublish",
            "deleteStream",
            "closeStream",
            "releaseStream",
            "_checkbw",
            "play",
            "getStreamLength",
            "connect",
        ];
        let name = names[usize::from(script.u8() % 8)];
        self.call(name, Value::Number(script.u8().into()));
    }

    fn call(&mut self, name: &str, argument: Value<'_>) {
        let values = [Value::text(name), Value::Number(4.0), Value::Null, argument];
        self.send(3, message_type::COMMAND_AMF0, 0, 0, &encode(&values));
    }

    fn media(&mut self, script: &mut Script<'_>) {
        let type_id = [
            message_type::AUDIO,
            message_type::VIDEO,
            message_type::DATA_AMF0,
            message_type::AGGREGATE,
        ][usize::from(script.u8() % 4)];
        let timestamp = script.u32();
        let mut body = script.counted().to_vec();
        // Large ones without large inputs.
        body.resize(body.len() + 64 * usize::from(script.u8()), 0);
        self.send(6, type_id, timestamp, 1, &body);
    }

    fn chunk_bytes(&mut self, script: &mut Script<'_>) {
        let bytes = script.u32();
        self.send(2, message_type::SET_CHUNK_SIZE, 0, 0, &bytes.to_be_bytes());
        self.writer.set_chunk_bytes(bytes);
    }

    /// Of any type.
    fn message(&mut self, script: &mut Script<'_>) {
        let (csid, type_id, msid) = (script.u8(), script.u8(), script.u8());
        let csid = 2 + u32::from(csid % 16);
        self.send(csid, type_id, 0, msid.into(), script.counted());
    }

    fn send(&mut self, csid: u32, type_id: u8, timestamp: u32, msid: u32, body: &[u8]) {
        let header = MessageHeader {
            type_id,
            timestamp,
            message_stream_id: msid,
        };
        let mut bytes = BytesMut::new();
        self.writer.write(csid, header, body, &mut bytes);
        self.feed(&bytes);
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.fed_bytes += bytes.len();
        for piece in bytes.chunks(self.piece.min(bytes.len().max(1))) {
            self.input.extend_from_slice(piece);
            self.offer();
        }
    }

    fn offer(&mut self) {
        if self.over || !self.session.wants_input() {
            return;
        }
        let outcome = self.session.handle_input(&mut self.input, self.now);
        self.drain();
        match outcome {
            Ok(()) if self.session.wants_input() => {
                let unread = self.input.len();
                assert!(unread <= UNREAD_BYTES_MAX, "{unread} bytes stay unread");
            }
            Ok(()) => {}
            Err(error) => self.end(&error.to_string()),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// At the deadline that the session named.
    fn wake(&mut self) {
        let Some(deadline) = self.session.poll_timeout() else {
            return;
        };
        self.woken = true;
        self.now = self.now.max(deadline);
        if let Err(error) = self.session.handle_timeout(self.now) {
            self.drain();
            return self.end(&error.to_string());
        }
        let next = self.session.poll_timeout();
        assert!(
            next.is_none_or(|next| next > self.now),
            "a deadline that passed is named again"
        );
    }

    fn accept(&mut self) {
        self.session.accept_publish(self.now);
        if self.state == State::Requested && !self.session.is_closing() {
            self.state = State::Publishing;
        }
        self.drain();
        self.offer();
    }

    fn end(&mut self, error: &str) {
        assert!(self.session.is_closing(), "{error}, and it goes on");
        self.note(error.to_owned());
        self.over = true;
    }

    fn drain(&mut self) {
        while let Some(bytes) = self.session.poll_transmit() {
            assert!(!bytes.is_empty());
            self.said_bytes += Bytes::len(&bytes);
        }
        while let Some(event) = self.session.poll_event() {
            self.take(&event);
            self.note(format!("{event:?}"));
        }
    }

    fn note(&mut self, event: String) {
        if !self.woken {
            self.events.push(event);
        }
    }

    fn take(&mut self, event: &ServerEvent) {
        let (from, to) = match event {
            ServerEvent::PublishRequested(_) => (State::Idle, State::Requested),
            ServerEvent::PublishEnded(_) => (State::Publishing, State::Idle),
            ServerEvent::Ponged(_) => (State::Publishing, State::Publishing),
            // Nothing offers it.
            ServerEvent::AdobeChallengeRequested { .. } => panic!("a challenge without TLS"),
            ServerEvent::Media(media) => {
                match media.kind {
                    MediaKind::Audio | MediaKind::Video => self.media_bytes += media.body.len(),
                    // A translation of AMF3 may be larger than what came.
                    MediaKind::Script => assert!(media.body.len() <= COMMAND_BYTES),
                }
                (State::Publishing, State::Publishing)
            }
        };
        assert_eq!(self.state, from, "{event:?}");
        self.state = to;
    }

    fn promises(&self) {
        if let Some(deadline) = self.session.poll_timeout() {
            assert!(deadline <= self.now + DEADLINE_MAX);
        }
        assert!(self.media_bytes <= self.fed_bytes);
        let said_max = SAID_UNASKED_BYTES + SAID_PER_BYTE * self.fed_bytes;
        assert!(
            self.said_bytes <= said_max,
            "{} bytes said",
            self.said_bytes
        );
        assert!(self.session.received_bytes() <= u64::try_from(self.fed_bytes).unwrap());
        if self.session.is_closing() {
            assert!(!self.session.wants_input() && self.session.poll_timeout().is_none());
        }
    }
}

fn rejection() -> Rejection {
    Rejection {
        description: "no".to_owned(),
    }
}
