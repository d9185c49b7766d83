//! Players, message by message: what FFmpeg, rtmpdump and GStreamer send, and what they get.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

#[path = "support/wire.rs"]
mod wire;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtmp::amf0::{Decoder, Value, encode};
use rtmp::chunk::{Bounds, ChunkReader};
use rtmp::limits::{Limits, UNPUBLISHED_MEDIA_BYTES};
use rtmp::{
    ClientConfig, ClientEvent, ClientSession, MediaKind, MediaMessage, Message, PlayEvent,
    PlayRefusal, PlayRequest, PlaySession, ProtocolError, Purpose, Rejection, ServerConfig,
    StreamKeyText, message_type,
};
use wire::{Script, call, start};

/// A server for one player, and what it said.
struct Server {
    session: PlaySession,
    now: Instant,
    input: BytesMut,
    output: BytesMut,
    reader: ChunkReader,
    answered: bool,
}

impl Server {
    fn new() -> Self {
        let config = ServerConfig {
            chunk_bytes_out: 65_536,
            ..ServerConfig::default()
        };
        let now = start();
        Self {
            session: PlaySession::new(config, &[0x51; 1528], now),
            now,
            input: BytesMut::new(),
            output: BytesMut::new(),
            reader: ChunkReader::new(Bounds::publishing(&Limits::default())),
            answered: false,
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.input.extend_from_slice(bytes);
        self.session.handle_input(&mut self.input, self.now)
    }

    /// Feeds, and the play that is asked for.
    fn requested(&mut self, bytes: &[u8]) -> PlayRequest {
        self.feed(bytes).unwrap();
        let Some(PlayEvent::PlayRequested(request)) = self.session.poll_event() else {
            panic!("no play was asked for");
        };
        request
    }

    fn replies(&mut self) -> Vec<Message> {
        while let Some(bytes) = self.session.poll_transmit() {
            self.output.extend_from_slice(&bytes);
        }
        if !std::mem::replace(&mut self.answered, true) {
            drop(self.output.split_to(3073));
        }
        let mut messages = Vec::new();
        while let Some(message) = self.reader.read(&mut self.output).unwrap() {
            if message.type_id == message_type::SET_CHUNK_SIZE {
                let bytes = <[u8; 4]>::try_from(&message.body[..]).unwrap();
                self.reader.set_chunk_bytes(u32::from_be_bytes(bytes));
            }
            messages.push(message);
        }
        assert!(self.output.is_empty(), "only whole messages are sent");
        messages
    }

    /// The replies as `msid type` or, for commands, `msid name code`.
    fn said(&mut self) -> Vec<String> {
        self.replies().iter().map(line).collect()
    }
}

fn line(message: &Message) -> String {
    let msid = message.message_stream_id;
    let text = |value: &Value<'_>| {
        let bytes = value.as_bytes().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    match message.type_id {
        message_type::USER_CONTROL => format!("event {}", message.body[1]),
        message_type::COMMAND_AMF0 => {
            let mut decoder = Decoder::command(&message.body, 4096);
            let name = text(&decoder.value().unwrap());
            decoder.value().unwrap();
            decoder.value().unwrap();
            let info = decoder.value().unwrap();
            let code = info.property("code").map(text).unwrap_or_default();
            format!("{msid} {name} {code}").trim_end().to_owned()
        }
        message_type::DATA_AMF0 => {
            let mut decoder = Decoder::command(&message.body, 4096);
            format!("{msid} data {}", text(&decoder.value().unwrap()))
        }
        other => format!("{msid} type {other}"),
    }
}

fn rejection(description: &str) -> Rejection {
    Rejection {
        description: description.to_owned(),
    }
}

/// Window size, peer bandwidth, chunk size and `_result`.
const CONNECTED: [&str; 4] = [
    "0 type 5",
    "0 type 6",
    "0 type 1",
    "0 _result NetConnection.Connect.Success",
];
const STARTED: [&str; 4] = [
    "event 0",
    "1 onStatus NetStream.Play.Reset",
    "1 onStatus NetStream.Play.Start",
    "1 data |RtmpSampleAccess",
];

fn connected() -> Script {
    let mut script = Script::new();
    script.control(
        message_type::WINDOW_ACKNOWLEDGEMENT_SIZE,
        &2_500_000_u32.to_be_bytes(),
    );
    script.connect("live");
    script
}

/// An event with a stream and a time: SetBufferLength.
fn user_control(event: u16, stream: u32, milliseconds: u32) -> Vec<u8> {
    [
        &event.to_be_bytes()[..],
        &stream.to_be_bytes(),
        &milliseconds.to_be_bytes(),
    ]
    .concat()
}

fn ffmpeg(name: &str) -> Script {
    let mut script = connected();
    script.command(3, 0, &call("createStream", 2.0, &[]));
    script.command(8, 0, &call("getStreamLength", 3.0, &[Value::text(name)]));
    let play = [Value::text(name), Value::Number(-2000.0)];
    script.command(8, 1, &call("play", 4.0, &play));
    script.control(message_type::USER_CONTROL, &user_control(3, 1, 3000));
    script
}

#[test]
fn ffmpeg_plays() {
    let mut server = Server::new();
    let request = server.requested(&ffmpeg("main?token=secret&wait=5").bytes);
    assert_eq!(
        (request.app.as_str(), request.stream.as_str()),
        ("live", "main")
    );
    let query: Vec<_> = request
        .query
        .iter()
        .map(|(name, value)| (name.as_str(), value.expose()))
        .collect();
    assert_eq!(query, [("token", "secret"), ("wait", "5")]);
    assert!(!format!("{request:?}").contains("secret"));
    assert_eq!(
        server.said(),
        [&CONNECTED[..], &["0 _result", "0 _result"]].concat()
    );
    assert_eq!(server.session.poll_timeout(), None);
    server.session.accept_play();
    assert_eq!(server.said(), STARTED);
    server.session.finish();
    assert_eq!(
        server.said(),
        [
            // Not the last of the media: GStreamer may lose what comes right before the event.
            "1 data |RtmpSampleAccess",
            "1 onStatus NetStream.Play.UnpublishNotify",
            "event 1",
        ]
    );
    assert!(server.session.is_closing());
}

#[test]
fn rtmpdump_plays_with_its_odd_sequence() {
    let mut script = connected();
    // A buffer for stream 0 before there is one, FCSubscribe, and a length behind the start.
    script.control(message_type::USER_CONTROL, &user_control(3, 0, 300));
    script.command(3, 0, &call("createStream", 2.0, &[]));
    script.command(3, 0, &call("FCSubscribe", 3.0, &[Value::text("main")]));
    let play = [
        Value::text("main"),
        Value::Number(-1000.0),
        Value::Number(1000.0),
    ];
    script.command(8, 1, &call("play", 0.0, &play));
    let mut server = Server::new();
    server.requested(&script.bytes);
    assert_eq!(
        server.said(),
        [
            &CONNECTED[..],
            &[
                "0 _result",
                "0 _result",
                "0 onFCSubscribe NetStream.Play.Start"
            ]
        ]
        .concat()
    );
}

#[test]
fn gstreamer_plays_with_its_window_twice() {
    let mut script = connected();
    script.control(
        message_type::WINDOW_ACKNOWLEDGEMENT_SIZE,
        &2_500_000_u32.to_be_bytes(),
    );
    script.control(message_type::USER_CONTROL, &user_control(3, 0, 300));
    script.command(3, 0, &call("createStream", 2.0, &[]));
    let play = [Value::text("main"), Value::Number(-2.0)];
    script.command(4, 1, &call("play", 0.0, &play));
    script.control(message_type::USER_CONTROL, &user_control(3, 1, 30_000));
    let mut server = Server::new();
    assert_eq!(server.requested(&script.bytes).stream, "main");
    server.session.accept_play();
    assert_eq!(
        server.said(),
        [&CONNECTED[..], &["0 _result"], &STARTED].concat()
    );
}

#[test]
fn a_refusal_has_a_code_and_a_sentence_and_closes() {
    for (refusal, said) in [
        (PlayRefusal::Failed, "1 onStatus NetStream.Play.Failed"),
        (
            PlayRefusal::StreamNotFound,
            "1 onStatus NetStream.Play.StreamNotFound",
        ),
    ] {
        let mut server = Server::new();
        server.requested(&ffmpeg("main").bytes);
        server.replies();
        server.session.reject(refusal, rejection("No."));
        assert_eq!(server.said(), [said]);
        assert!(server.session.is_closing());
        server
            .session
            .send(MediaKind::Audio, 0, &Bytes::from_static(&[0xaf, 1]));
        server.session.finish();
        assert!(server.replies().is_empty(), "nothing comes after it");
    }
}

#[test]
fn a_url_without_a_stream_is_not_asked_for() {
    let mut script = Script::new();
    script.connect("main");
    script.command(3, 0, &call("createStream", 2.0, &[]));
    script.command(8, 1, &call("play", 4.0, &[Value::text("")]));
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.session.poll_event(), None);
    let said = server.said();
    assert_eq!(
        said.last().unwrap(),
        "1 onStatus NetStream.Play.StreamNotFound"
    );
    assert!(server.session.is_closing());
}

#[test]
fn a_second_play_is_refused_and_the_first_goes_on() {
    let mut script = ffmpeg("main");
    let mut server = Server::new();
    server.requested(&script.bytes);
    server.session.accept_play();
    server.replies();
    script.bytes.clear();
    script.command(8, 1, &call("play", 5.0, &[Value::text("other")]));
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.session.poll_event(), None);
    assert_eq!(server.said(), ["1 onStatus NetStream.Play.Failed"]);
    assert!(!server.session.is_closing());
    server
        .session
        .send(MediaKind::Audio, 0, &Bytes::from_static(&[0xaf, 1]));
    assert_eq!(server.said(), ["1 type 8"]);
}

#[test]
fn nobody_publishes_where_streams_are_played() {
    let mut server = Server::new();
    server.feed(&Script::published().bytes).unwrap();
    assert_eq!(server.session.poll_event(), None);
    let said = server.said();
    assert_eq!(said.last().unwrap(), "1 onStatus NetStream.Publish.BadName");
    assert!(server.session.is_closing());
}

#[test]
fn what_a_live_stream_cannot_do_is_answered_and_changes_nothing() {
    let mut script = ffmpeg("main");
    let mut server = Server::new();
    server.requested(&script.bytes);
    server.session.accept_play();
    server.replies();
    script.bytes.clear();
    let (yes, no) = (Value::Boolean(true), Value::Boolean(false));
    script.command(8, 1, &call("pause", 6.0, &[yes, Value::Number(0.0)]));
    script.command(8, 1, &call("seek", 7.0, &[Value::Number(5.0)]));
    script.command(8, 1, &call("receiveAudio", 0.0, std::slice::from_ref(&no)));
    script.command(8, 1, &call("receiveVideo", 0.0, &[no]));
    script.control(message_type::USER_CONTROL, &user_control(3, 1, 10));
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.said(), ["0 _result", "0 _result"]);
    for kind in [MediaKind::Audio, MediaKind::Video] {
        server
            .session
            .send(kind, 0, &Bytes::from_static(&[0x17, 1, 0, 0, 0]));
    }
    assert_eq!(server.said(), ["1 type 8", "1 type 9"]);
    script.bytes.clear();
    script.command(8, 1, &call("deleteStream", 0.0, &[Value::Number(1.0)]));
    server.feed(&script.bytes).unwrap();
    assert!(server.session.is_closing());
}

/// A client of ours that plays from a server of ours; what it got.
fn play(media: &[MediaMessage]) -> Vec<ClientEvent> {
    let mut server = Server::new();
    let config = ClientConfig {
        purpose: Purpose::Play,
        app: "live".to_owned(),
        tc_url: "rtmp://localhost/live".to_owned(),
        name: StreamKeyText::new("main".to_owned()),
        flash_ver: "test".to_owned(),
        chunk_bytes_out: 128,
        caps_ex: 0,
    };
    let mut client = ClientSession::new(config, &[1; 1528], server.now);
    let (mut input, mut events) = (BytesMut::new(), Vec::new());
    let mut waiting = Some(media);
    loop {
        let mut moved = false;
        while let Some(bytes) = client.poll_transmit() {
            moved = true;
            server.feed(&bytes).unwrap();
        }
        if server.session.poll_event().is_some() {
            server.session.accept_play();
            for message in waiting.take().unwrap() {
                server
                    .session
                    .send(message.kind, message.timestamp, &message.body);
            }
            server.session.finish();
        }
        while let Some(bytes) = server.session.poll_transmit() {
            moved = true;
            input.extend_from_slice(&bytes);
        }
        client.handle_input(&mut input, server.now).unwrap();
        while let Some(event) = client.poll_event() {
            events.push(event);
        }
        if !moved {
            return events;
        }
    }
}

fn media(kind: MediaKind, timestamp: u32, bytes: usize) -> MediaMessage {
    let body: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    MediaMessage {
        kind,
        timestamp,
        body: body.into(),
    }
}

#[test]
fn every_body_arrives_as_it_is_whatever_its_size_and_time() {
    // Times back and forth, and one of more than 24 bits on a message of several chunks.
    let sent = [
        media(MediaKind::Video, 500, 6),
        media(MediaKind::Audio, 490, 0),
        media(MediaKind::Audio, 511, 16 * 1024),
        media(MediaKind::Video, 500, 16 * 1024 + 1),
        media(MediaKind::Video, 540, 65_536),
        media(MediaKind::Video, 580, 65_537),
        media(MediaKind::Video, 0x0100_0000, 200_000),
        media(MediaKind::Video, 0x0100_0028, 200_000),
        media(MediaKind::Video, 20, 5_000_000),
        media(MediaKind::Video, u32::MAX, 70_000),
        media(MediaKind::Audio, 532, 1),
    ];
    let access = |timestamp| {
        let values = [
            Value::text("|RtmpSampleAccess"),
            Value::Boolean(true),
            Value::Boolean(true),
        ];
        ClientEvent::Media(MediaMessage {
            kind: MediaKind::Script,
            timestamp,
            body: encode(&values).into(),
        })
    };
    let mut expected = vec![ClientEvent::PlayStarted, access(0)];
    expected.extend(sent.iter().cloned().map(ClientEvent::Media));
    expected.extend([access(532), ClientEvent::PlayEnded]);
    assert!(play(&sent) == expected);
}

#[test]
fn a_large_body_is_not_copied() {
    let mut server = Server::new();
    server.requested(&ffmpeg("main").bytes);
    server.session.accept_play();
    server.replies();
    let body = media(MediaKind::Video, 0, 60_000).body;
    server.session.send(MediaKind::Video, 0, &body);
    let pieces: Vec<Bytes> = std::iter::from_fn(|| server.session.poll_transmit()).collect();
    assert_eq!(pieces.len(), 2, "a header and the body");
    assert_eq!(pieces[1].as_ptr(), body.as_ptr());
}

#[test]
fn hostile_22_acknowledgements_of_any_value_change_nothing() {
    let mut script = ffmpeg("main");
    let mut server = Server::new();
    server.requested(&script.bytes);
    server.session.accept_play();
    server.replies();
    script.bytes.clear();
    // More than was sent, backwards, nothing, and cut short; most players never send one.
    for value in [u32::MAX, 1, 0, 0x8000_0000] {
        script.control(message_type::ACKNOWLEDGEMENT, &value.to_be_bytes());
    }
    script.control(message_type::ACKNOWLEDGEMENT, &[1]);
    server.feed(&script.bytes).unwrap();
    assert!(server.replies().is_empty());
    let body = Bytes::from_static(&[0xaf, 1, 2]);
    for timestamp in 0..10 {
        server.session.send(MediaKind::Audio, timestamp, &body);
    }
    assert_eq!(server.said().len(), 10);
}

#[test]
fn a_flood_of_acknowledgements_or_of_media_ends_the_connection() {
    let playing = || {
        let mut server = Server::new();
        server.requested(&ffmpeg("main").bytes);
        server.session.accept_play();
        server
    };
    let mut script = ffmpeg("main");
    script.bytes.clear();
    for _ in 0..2000 {
        script.control(message_type::ACKNOWLEDGEMENT, &[0; 4]);
    }
    assert_eq!(
        playing().feed(&script.bytes),
        Err(ProtocolError::TooManyControlMessages)
    );
    let mut script = ffmpeg("main");
    script.bytes.clear();
    for _ in 0..=UNPUBLISHED_MEDIA_BYTES / 60_000 {
        script.message(6, message_type::VIDEO, 0, 1, &[0; 60_000]);
    }
    assert_eq!(
        playing().feed(&script.bytes),
        Err(ProtocolError::MediaBeforePublish)
    );
}

#[test]
fn every_step_to_a_play_has_a_deadline_in_total() {
    let limits = Limits::default();
    let deadline = |phase| Err(ProtocolError::Deadline { phase });
    let mut server = Server::new();
    let step = |server: &mut Server, within: Duration| {
        let until = server.session.poll_timeout().unwrap();
        assert_eq!(until - server.now, within);
        server
            .session
            .handle_timeout(until - Duration::from_millis(1))
            .unwrap();
        server.session.handle_timeout(until)
    };
    assert_eq!(
        step(&mut server, limits.handshake_deadline),
        deadline("the handshake")
    );
    server.feed(&Script::new().bytes).unwrap();
    assert_eq!(
        step(&mut server, limits.connect_deadline),
        deadline("connect")
    );
    let mut script = connected();
    let connect = script.bytes.split_off(Script::new().bytes.len());
    server.feed(&connect).unwrap();
    assert_eq!(step(&mut server, limits.publish_deadline), deadline("play"));
}

#[test]
fn a_play_before_connect_ends_the_connection() {
    let mut script = Script::new();
    script.command(8, 1, &call("play", 4.0, &[Value::text("main")]));
    let outcome = Server::new().feed(&script.bytes);
    assert_eq!(outcome, Err(ProtocolError::Unconnected { what: "play" }));
}
