//! Hostile and malformed input, as far as it concerns this layer. Each case says what a peer sends and what must come
//! of it; none may panic.

#![expect(clippy::too_many_lines, reason = "tables of cases")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

#[path = "support/wire.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared by several test binaries")]
mod wire;

use std::time::Duration;

use rtmp::amf0::{Value, encode};
use rtmp::limits::{Limits, RATE_WINDOW};
use rtmp::{ProtocolError, ServerEvent, message_type};
use wire::{Script, Server, call};

/// What must come of it.
#[derive(Debug, PartialEq)]
enum Fate {
    /// The session goes on, and media still comes through.
    Lives,
    /// The session ends with this reason.
    Fails(&'static str),
    /// The peer is told this, and the session closes.
    Refused(&'static str),
}

use Fate::{Fails, Lives, Refused};

/// One case: what it is, what an unauthorised peer (or a publisher) sends, what comes of it.
type Case = (&'static str, fn(&mut Script), Fate);

fn check(cases: Vec<Case>, begin: fn() -> Script) {
    for (name, write, expected) in cases {
        let mut server = Server::new();
        let mut script = begin();
        write(&mut script);
        let outcome = server.feed(&script.bytes);
        let fate = match outcome {
            Err(error) => Fails(error.reason()),
            Ok(()) if server.session.is_closing() => {
                let replies = server.replied_commands();
                let code = replies.last().unwrap().split(' ').next_back().unwrap();
                let known = [
                    "NetConnection.Connect.Rejected",
                    "NetStream.Publish.BadName",
                    "NetStream.Play.Failed",
                ];
                Refused(known.into_iter().find(|known| *known == code).unwrap())
            }
            Ok(()) => {
                if is_publishing(&server) {
                    let before = server.media().len();
                    let mut after = Script::new();
                    drop(after.bytes.split());
                    after.chunk_bytes(4096);
                    after.message(40, 9, 7, 1, b"after");
                    server.feed(&after.bytes).unwrap();
                    assert_eq!(server.media().len(), before + 1, "{name}: media goes on");
                }
                Lives
            }
        };
        assert_eq!(fate, expected, "{name}");
    }
}

fn is_publishing(server: &Server) -> bool {
    let is_request = |event: &&ServerEvent| matches!(event, ServerEvent::PublishRequested(_));
    let is_end = |event: &&ServerEvent| matches!(event, ServerEvent::PublishEnded(_));
    let requests = server.events.iter().filter(is_request).count();
    requests > server.events.iter().filter(is_end).count()
}

fn nested(depth: usize) -> Vec<u8> {
    let mut body = encode(&call("x", 0.0, &[]));
    body.extend_from_slice(&[0x0A, 0, 0, 0, 1].repeat(depth));
    body.push(0x05);
    body
}

#[test]
fn case_7_8_a_wrong_echo_and_a_burst_are_fine() {
    let mut script = Script::published();
    script.bytes[1537..3073].fill(0xEE);
    script.chunk_bytes(65_536);
    script.message(6, 9, 0, 1, &vec![0x17; 1 << 20]);
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.media().len(), 1);
}

#[test]
fn cases_9_to_14_broken_chunks() {
    check(
        vec![
            (
                "9: fmt 3 on a fresh csid",
                |s| s.raw(&[0xC7]),
                Fails("unknown_chunk_stream"),
            ),
            (
                "9: fmt 2 on a fresh csid",
                |s| s.raw(&[0x87, 0, 0, 0]),
                Fails("unknown_chunk_stream"),
            ),
            (
                "9: fmt 1 on a fresh csid",
                |s| s.raw(&[0x47, 0, 0, 0, 0, 0, 1, 9, 0xAA]),
                Lives,
            ),
            (
                "10: csids without end",
                |s| {
                    for csid in 100..200 {
                        s.message(csid, 9, 0, 1, b"x");
                    }
                },
                Fails("too_many_chunk_streams"),
            ),
            (
                "10: unfinished messages without end",
                |s| {
                    for csid in 10..20 {
                        s.raw_full_header(csid, 0, 1_000, 9);
                        s.raw(&[0; 128]);
                    }
                },
                Fails("too_much_unfinished"),
            ),
            (
                "12: large unfinished messages",
                |s| {
                    s.chunk_bytes(15 << 20);
                    for csid in 10..12 {
                        s.raw_full_header(csid, 0, 0xFF_FFFF, 9);
                        s.raw(&vec![0; 15 << 20]);
                    }
                },
                Fails("too_much_unfinished"),
            ),
            (
                "13: fmt 1 changes the length",
                |s| {
                    s.raw_full_header(6, 0, 300, 9);
                    s.raw(&[0; 128]);
                    s.raw(&[0x46, 0, 0, 0, 0, 2, 0, 9]);
                },
                Fails("message_interrupted"),
            ),
            (
                "13: fmt 1 and 2 that say the same again",
                |s| {
                    s.raw_full_header(6, 0, 300, 9);
                    s.raw(&[0; 128]);
                    s.raw(&[0x46, 0, 0, 0, 0, 1, 44, 9]);
                    s.raw(&[0; 128]);
                    s.raw(&[0x86, 0, 0, 0]);
                    s.raw(&[0; 44]);
                },
                Lives,
            ),
            (
                "14: fmt 0 in the middle of a message",
                |s| {
                    s.raw_full_header(6, 0, 300, 9);
                    s.raw(&[0; 128]);
                    s.raw_full_header(6, 0, 300, 9);
                },
                Fails("message_interrupted"),
            ),
        ],
        Script::published,
    );
}

#[test]
fn cases_15_to_24_protocol_control() {
    fn set_chunk_size(script: &mut Script, bytes: u32) {
        script.control(message_type::SET_CHUNK_SIZE, &bytes.to_be_bytes());
    }
    fn half_a_message(script: &mut Script) {
        script.raw_full_header(6, 0, 200, 9);
        script.raw(&[0; 128]);
    }
    check(
        vec![
            (
                "15: chunk size 0",
                |s| set_chunk_size(s, 0),
                Fails("chunk_size"),
            ),
            (
                "15: chunk size 2^31",
                |s| set_chunk_size(s, 1 << 31),
                Fails("chunk_size"),
            ),
            (
                "15: chunk size 2^32 - 1",
                |s| set_chunk_size(s, u32::MAX),
                Fails("chunk_size"),
            ),
            (
                "15: three bytes",
                |s| s.control(1, &[0, 0, 128]),
                Fails("malformed_control"),
            ),
            (
                "16: chunk size 1",
                |s| set_chunk_size(s, 1),
                Fails("chunk_size"),
            ),
            (
                "17: chunk size 2^31 - 1",
                |s| s.chunk_bytes(0x7FFF_FFFF),
                Lives,
            ),
            (
                "17: chunk size 128 MiB",
                |s| s.chunk_bytes(134_217_728),
                Lives,
            ),
            (
                "18: flood",
                |s| (0..1_000).for_each(|_| set_chunk_size(s, 128)),
                Fails("too_many_control_messages"),
            ),
            (
                "18: between the chunks of a message",
                |s| {
                    s.raw_full_header(6, 0, 500, 9);
                    s.raw(&[0; 128]);
                    set_chunk_size(s, 300);
                    s.raw(&[0xC6]);
                    s.raw(&[0; 300]);
                    set_chunk_size(s, 128);
                    s.raw(&[0xC6]);
                    s.raw(&[0; 72]);
                },
                Lives,
            ),
            (
                "19: abort of nothing",
                |s| s.control(2, &7_u32.to_be_bytes()),
                Lives,
            ),
            ("19: short abort", |s| s.control(2, &[0]), Lives),
            (
                "19: abort, then another message",
                |s| {
                    half_a_message(s);
                    s.control(2, &6_u32.to_be_bytes());
                    half_a_message(s);
                    s.raw(&[0xC6]);
                    s.raw(&[0; 72]);
                },
                Lives,
            ),
            (
                "20: windows",
                |s| {
                    for window in [0, 1, u32::MAX] {
                        s.control(5, &u32::to_be_bytes(window));
                    }
                    s.control(5, &[1]);
                },
                Lives,
            ),
            (
                "21: peer bandwidth 0, and short",
                |s| {
                    s.control(6, &[0, 0, 0, 0, 0]);
                    s.control(6, &[0, 0]);
                },
                Lives,
            ),
            (
                "22: acknowledgements of anything",
                |s| {
                    for sequence in [u32::MAX, 0, 5] {
                        s.control(3, &u32::to_be_bytes(sequence));
                    }
                    s.control(3, &[]);
                },
                Lives,
            ),
            (
                "23: unknown and short user control",
                |s| {
                    s.control(4, &[0, 0x22, 1, 2, 3, 4]);
                    s.control(4, &[0]);
                    s.control(4, &[]);
                    s.control(4, &[0, 6, 1]);
                },
                Lives,
            ),
            (
                "24: unknown types",
                |s| {
                    for type_id in [0, 7, 16, 19, 21, 255] {
                        s.message(6, type_id, 0, 1, b"whatever");
                    }
                },
                Lives,
            ),
            (
                "24: an aggregate that overruns",
                |s| s.message(6, 22, 0, 1, &[9, 0, 0, 200]),
                Lives,
            ),
            (
                "24: an aggregate of a million empty tags",
                |s| {
                    s.chunk_bytes(16 << 20);
                    let tag = [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                    s.message(6, 22, 0, 1, &tag.repeat(1_000_000));
                },
                Fails("too_many_messages"),
            ),
        ],
        Script::published,
    );
}

#[test]
fn case_23_pings_are_answered_at_a_limited_rate() {
    let mut server = Server::publishing();
    let mut script = Script::new();
    drop(script.bytes.split());
    for time in 0..200_u32 {
        let mut body = vec![0, 6];
        body.extend_from_slice(&time.to_be_bytes());
        script.control(message_type::USER_CONTROL, &body);
    }
    server.feed(&script.bytes).unwrap();
    let replies = server.replies();
    assert_eq!(&replies[3].body[..], [0, 7, 0, 0, 0, 3]);
    assert_eq!(replies.len(), 40, "ten per second over the window");
}

#[test]
fn cases_25_to_31_malformed_commands_end_a_stranger_and_not_a_publisher() {
    fn cases(fate: impl Fn() -> Fate) -> Vec<Case> {
        vec![
            (
                "25: nesting",
                |s| s.message(3, 20, 0, 0, &nested(10_000)),
                fate(),
            ),
            (
                "25: AMF3",
                |s| s.message(3, 20, 0, 0, &[0x11, 0x0A, 0x01]),
                fate(),
            ),
            (
                "26: a lying array",
                |s| s.message(3, 20, 0, 0, &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 5]),
                fate(),
            ),
            (
                "27: a string of 4 GiB",
                |s| s.message(3, 20, 0, 0, &[0x0C, 0xFF, 0xFF, 0xFF, 0xFF]),
                fate(),
            ),
            (
                "27: a truncated number",
                |s| s.message(3, 20, 0, 0, &[0x02, 0, 1, b'x', 0, 1]),
                fate(),
            ),
            (
                "28: tiny keys",
                |s| {
                    let mut body = encode(&[Value::text("x"), Value::Number(0.0)]);
                    body.push(0x03);
                    body.extend_from_slice(&[0, 1, b'k', 5].repeat(15_000));
                    s.message(3, 20, 0, 0, &body);
                },
                fate(),
            ),
            (
                "29: a reference",
                |s| {
                    let body = encode(&[Value::text("x"), Value::Number(0.0), Value::Reference(0)]);
                    s.message(3, 20, 0, 0, &body);
                },
                fate(),
            ),
            (
                "30: no end of object",
                |s| {
                    let mut body = encode(&[Value::text("x"), Value::Number(0.0)]);
                    body.extend_from_slice(&[0x03, 0, 1, b'k', 5]);
                    s.message(3, 20, 0, 0, &body);
                },
                fate(),
            ),
            (
                "31: a number for a name",
                |s| s.command(3, 0, &[Value::Number(1.0)]),
                fate(),
            ),
            (
                "31: nothing at all",
                |s| s.message(3, 20, 0, 0, &[]),
                fate(),
            ),
            (
                "31: transactions that are no numbers",
                |s| {
                    for transaction in [f64::NAN, -1.0, 1e300, f64::INFINITY] {
                        s.command(3, 0, &call("getStreamLength", transaction, &[]));
                    }
                    let name = "n".repeat(60_000);
                    s.command(3, 0, &[Value::text(&name)]);
                    s.command(3, 0, &[Value::text("x"), Value::text("no number")]);
                },
                Lives,
            ),
        ]
    }
    check(cases(|| Fails("malformed_command")), Script::connected);
    let tolerated = cases(|| Lives);
    check(
        tolerated
            .into_iter()
            .filter(|(name, ..)| !name.starts_with("28"))
            .collect(),
        Script::published,
    );
}

#[test]
fn cases_32_33_odd_names_are_refused() {
    check(
        vec![
            (
                "32: an escape sequence",
                |s| s.publish("a\u{1b}[2J"),
                Refused("NetStream.Publish.BadName"),
            ),
            (
                "32: dots",
                |s| s.publish("../../etc"),
                Refused("NetStream.Publish.BadName"),
            ),
            (
                "32: encoded dots",
                |s| s.publish("%2e%2e/x"),
                Refused("NetStream.Publish.BadName"),
            ),
            (
                "32: 4 KB",
                |s| s.publish(&"k".repeat(4_096)),
                Refused("NetStream.Publish.BadName"),
            ),
            (
                "32: an empty name",
                |s| s.publish(""),
                Refused("NetStream.Publish.BadName"),
            ),
            (
                "32: no UTF-8",
                |s| s.command(3, 1, &call("publish", 1.0, &[Value::String(b"\xFF\xFE")])),
                Refused("NetStream.Publish.BadName"),
            ),
            (
                "32: no name",
                |s| s.command(3, 1, &call("publish", 1.0, &[])),
                Refused("NetStream.Publish.BadName"),
            ),
            (
                "33: parameters without end",
                |s| s.publish(&format!("key?{}", "a&".repeat(500))),
                Lives,
            ),
            (
                "33: different parameters without end",
                |s| {
                    let query: Vec<String> = (0..100).map(|i| format!("p{i}=1")).collect();
                    s.publish(&format!("key?{}", query.join("&")));
                },
                Refused("NetStream.Publish.BadName"),
            ),
        ],
        Script::connected,
    );
    check(
        vec![
            (
                "32: a long app",
                |s| s.connect(&"a".repeat(300)),
                Refused("NetConnection.Connect.Rejected"),
            ),
            (
                "32: odd types in connect",
                |s| {
                    let object = Value::object([
                        ("app", Value::Number(1.0)),
                        ("flashVer", Value::Null),
                        ("capsEx", Value::Number(f64::NAN)),
                    ]);
                    s.command(3, 0, &[Value::text("connect"), Value::Number(1.0), object]);
                },
                Lives,
            ),
        ],
        Script::new,
    );
}

#[test]
fn cases_34_to_37_the_wrong_order() {
    check(
        vec![
            ("34: publish", |s| s.publish("key"), Fails("unconnected")),
            (
                "34: createStream",
                |s| s.command(3, 0, &call("createStream", 1.0, &[])),
                Fails("unconnected"),
            ),
            (
                "34: media",
                |s| s.message(6, 9, 0, 1, b"x"),
                Fails("unconnected"),
            ),
            (
                "34: commands without end",
                |s| (0..40).for_each(|_| s.command(3, 0, &call("x", 0.0, &[]))),
                Fails("too_many_messages"),
            ),
        ],
        Script::new,
    );
    check(
        vec![
            (
                "34: a little media before publish",
                |s| s.message(6, 9, 0, 1, &[0; 30_000]),
                Lives,
            ),
            (
                "34: more of it",
                |s| (0..3).for_each(|_| s.message(6, 9, 0, 1, &[0; 30_000])),
                Fails("media_before_publish"),
            ),
            (
                "34: much at once",
                |s| s.message(6, 9, 0, 1, &[0; 70_000]),
                Fails("message_too_large"),
            ),
            (
                "35: connect again",
                |s| s.connect("other"),
                Refused("NetConnection.Connect.Rejected"),
            ),
            (
                "36: createStream again and again",
                |s| (0..20).for_each(|_| s.command(3, 0, &call("createStream", 1.0, &[]))),
                Fails("too_many_message_streams"),
            ),
            (
                "37: publish on an unknown stream, one is there",
                |s| s.command(3, 9, &call("publish", 1.0, &[Value::text("key")])),
                Lives,
            ),
            (
                "37: publish on an unknown stream, two are there",
                |s| {
                    s.command(3, 0, &call("createStream", 1.0, &[]));
                    s.command(3, 9, &call("publish", 1.0, &[Value::text("key")]));
                },
                Refused("NetStream.Publish.BadName"),
            ),
            (
                "play",
                |s| s.command(3, 1, &call("play", 0.0, &[Value::text("key")])),
                Refused("NetStream.Play.Failed"),
            ),
        ],
        Script::connected,
    );
}

#[test]
fn case_37_a_second_publish_is_refused_and_the_first_goes_on() {
    let mut server = Server::publishing();
    let mut script = Script::new();
    drop(script.bytes.split());
    script.publish("other");
    script.message(6, 9, 0, 1, b"x");
    server.feed(&script.bytes).unwrap();
    assert_eq!(
        server.replied_commands(),
        ["1 onStatus 0 NetStream.Publish.BadName"]
    );
    assert!(!server.session.is_closing());
    assert_eq!(server.events.len(), 1, "no second request, and the media");
}

#[test]
fn case_39_media_on_any_message_stream_belongs_to_the_one_publish() {
    let mut server = Server::publishing();
    let mut script = Script::new();
    drop(script.bytes.split());
    for msid in [0, 1, 0x0100_0000] {
        script.message(6, 9, 0, msid, b"x");
    }
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.media().len(), 3);
}

#[test]
fn case_40_commands_that_name_other_streams_change_nothing() {
    let mut server = Server::publishing();
    let mut script = Script::new();
    drop(script.bytes.split());
    script.command(3, 0, &call("createStream", 5.0, &[]));
    script.command(3, 0, &call("releaseStream", 6.0, &[Value::text("other")]));
    script.command(3, 0, &call("FCUnpublish", 7.0, &[Value::text("other")]));
    script.command(3, 0, &call("deleteStream", 8.0, &[Value::Number(2.0)]));
    script.message(6, 9, 0, 1, b"x");
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.media().len(), 1);
    assert!(is_publishing_after(&server), "{:?}", server.events);
}

fn is_publishing_after(server: &Server) -> bool {
    let is_end = |event: &ServerEvent| matches!(event, ServerEvent::PublishEnded(_));
    !server.events.iter().any(is_end)
}

#[test]
fn case_51_message_floods_end_the_connection_and_a_burst_does_not() {
    let limits = Limits {
        messages_per_second: 100,
        ..Limits::default()
    };
    let mut server = Server::with_limits(limits);
    server.feed(&Script::published().bytes).unwrap();
    let mut script = Script::new();
    drop(script.bytes.split());
    for timestamp in 0..350 {
        script.message(4, 8, timestamp, 1, b"x");
    }
    let burst = script.bytes.split();
    server.feed(&burst).unwrap();
    for _ in 0..10 {
        server.pass(RATE_WINDOW);
        server.feed(&burst).unwrap();
    }
    server.pass(Duration::from_millis(100));
    assert_eq!(server.feed(&burst), Err(ProtocolError::TooManyMessages));
}

#[test]
fn messages_beyond_the_limit_of_their_type_are_refused_and_the_encoder_is_told() {
    for (type_id, bytes, limit) in [
        (8, (1 << 20) + 1, 1 << 20),
        (18, (256 << 10) + 1, 256 << 10),
    ] {
        let mut server = Server::publishing();
        let mut script = Script::new();
        drop(script.bytes.split());
        script.raw_full_header(6, 0, bytes, type_id);
        let error = ProtocolError::MessageTooLarge { bytes, limit };
        assert_eq!(server.feed(&script.bytes), Err(error));
        assert_eq!(server.replied_commands(), ["1 onStatus 0 NetStream.Failed"]);
        let said = server.session.closing().unwrap().description.clone();
        assert!(said.contains("larger than the allowed"), "{said}");
    }
}
