//! Hostile bytes inside of TLS, each case with a good publisher beside it that loses nothing. What comes of every variant,
//! and the memory that it costs, is in `crates/rtmp/tests/hostile`; here one of each kind meets the edge as a whole.

use registry::StreamId;
use rtmp::{
    amf0::{Value, encode},
    message_type::{COMMAND_AMF0, DATA_AMF0},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, split},
    net::TcpStream,
};

use crate::{
    encoder::{connect_tls, trusting_everyone},
    harness::{Harness, in_time, logged, until},
    neighbour::Neighbour,
    script::{Script, call},
};

/// How far the connection is when the bytes come.
#[derive(Clone, Copy)]
enum At {
    Handshake,
    Connected,
    Published,
}

/// What must come of it.
#[derive(Clone, Copy)]
enum Fate {
    /// Its own connection ends, with this reason in the log.
    Fails(&'static str),
    /// The session goes on, and its media comes through.
    Lives,
    /// It is told this.
    Refused(&'static str),
}

use At::{Connected, Handshake, Published};
use Fate::{Fails, Lives, Refused};

type Case = (At, fn(&mut Script), Fate);

/// MP3, which needs no sequence header.
const AFTER: &[u8] = b"\x2fafter";

macro_rules! beside_a_good_publisher {
    ($($name:ident: [$($case:expr),+ $(,)?])+) => {
        $(
            #[tokio::test]
            async fn $name() {
                let cases: &[Case] = &[$($case),+];
                play(stringify!($name), cases).await;
            }
        )+
    };
}

async fn play(name: &str, cases: &[Case]) {
    let harness = Harness::start(1).await;
    let neighbour = Neighbour::start(&harness, "beside").await;
    for (number, (at, write, fate)) in cases.iter().enumerate() {
        let stream = format!("{name}-{number}");
        let mut script = match at {
            Handshake => Script::new(),
            Connected | Published => Script::connected(),
        };
        if matches!(at, Published) {
            script.publish(&format!("good-{stream}"));
        }
        write(&mut script);
        if let Lives = fate {
            script.message(40, 8, 7, 1, AFTER);
        }
        meets(&harness, &stream, &script.bytes, *fate).await;
    }
    neighbour.lost_nothing(&harness).await;
}

async fn meets(harness: &Harness, stream: &str, bytes: &[u8], fate: Fate) {
    let socket = TcpStream::connect(harness.address).await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let socket = connect_tls(socket, "localhost", trusting_everyone().into()).await;
    let (mut from_server, mut to_server) = split(socket.unwrap());
    // It says much to some of these.
    let said = tokio::spawn(async move {
        let mut said = Vec::new();
        // A reset is an end too.
        from_server.read_to_end(&mut said).await.ok();
        said
    });
    // It may be ended before it has said everything.
    in_time(stream, to_server.write_all(bytes)).await.ok();
    to_server.flush().await.ok();
    match fate {
        Fails(reason) => {
            let reason = format!("reason=\"{reason}\"");
            let told = |line: &str| line.contains(&address) && line.contains(&reason);
            until(stream, || logged().lines().any(told)).await;
        }
        Lives => {
            until(stream, || came_through(harness, stream)).await;
            to_server.shutdown().await.ok();
        }
        Refused(_) => {}
    }
    let said = in_time(stream, said).await.unwrap();
    if let Refused(code) = fate {
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains(code), "{stream}: {said:?}");
    }
}

/// Whether the origin has the last message of a stream.
fn came_through(harness: &Harness, stream: &str) -> bool {
    let id = StreamId::derive("default", "live", stream);
    let origin = &harness.origins[0];
    let opens = origin.opens();
    let mut opens = opens.iter().filter(|open| open.stream_id == id.as_bytes());
    opens.any(|open| {
        let frames = origin.session(&open.session_id).frames;
        frames.last().is_some_and(|frame| frame.body == AFTER)
    })
}

/// The first chunk of a message of 300 bytes on csid 6.
fn begun(script: &mut Script) {
    script.raw_full_header(6, 0, 300, 9);
    script.raw(&[0; 128]);
}

/// A command with a value that cannot be read.
fn command(script: &mut Script, value: &[u8]) {
    let body = [&encode(&call("x", 0.0, &[])), value].concat();
    script.message(3, COMMAND_AMF0, 0, 0, &body);
}

/// The same as a publisher's data.
fn data(script: &mut Script, value: &[u8]) {
    let body = [&encode(&[Value::text("x")]), value].concat();
    script.message(4, DATA_AMF0, 0, 1, &body);
}

fn chunk_size(script: &mut Script, bytes: u32) {
    script.control(1, &bytes.to_be_bytes());
}

fn create_streams(script: &mut Script, count: usize) {
    for _ in 0..count {
        script.command(3, 0, &call("createStream", 1.0, &[]));
    }
}

const BAD_NAME: &str = "NetStream.Publish.BadName";

beside_a_good_publisher! {
    hostile_05_another_version: [
        (Handshake, |s| { s.bytes.clear(); s.raw(&[6]); }, Fails("rtmpe")),
        (Handshake, |s| { s.bytes.clear(); s.raw(&[0]); }, Fails("unknown_protocol")),
        (Handshake, |s| { s.bytes.clear(); s.raw(&[255]); }, Fails("unknown_protocol")),
    ]
    hostile_06_a_version_and_no_digest_in_c1: [
        (Published, |s| s.bytes[5..9].copy_from_slice(&[9, 0, 124, 2]), Lives),
    ]
    hostile_07_a_c2_that_echoes_nothing: [
        (Published, |s| s.bytes[1537..3073].fill(0xee), Lives),
    ]
    hostile_09_no_header_at_the_beginning: [
        (Published, |s| s.raw(&[0xC7]), Fails("unknown_chunk_stream")),
        (Published, |s| s.raw(&[0x87, 0, 0, 0]), Fails("unknown_chunk_stream")),
        (Published, |s| s.raw(&[0x47, 0, 0, 0, 0, 0, 1, 9, 0xAA]), Lives),
    ]
    hostile_13_a_message_that_changes: [
        (
            Published,
            |s| { begun(s); s.raw(&[0x46, 0, 0, 0, 0, 2, 0, 9]); },
            Fails("message_interrupted")
        ),
    ]
    hostile_14_a_header_inside_of_a_message: [
        (Published, |s| { begun(s); begun(s); }, Fails("message_interrupted")),
    ]
    hostile_15_chunk_sizes_of_nothing_and_too_much: [
        (Published, |s| chunk_size(s, 0), Fails("chunk_size")),
        (Published, |s| chunk_size(s, 1 << 31), Fails("chunk_size")),
        (Handshake, |s| chunk_size(s, u32::MAX), Fails("chunk_size")),
        (Published, |s| s.control(1, &[0, 0, 128]), Fails("malformed_control")),
    ]
    hostile_16_a_chunk_size_of_one: [
        (Published, |s| chunk_size(s, 1), Fails("chunk_size")),
    ]
    hostile_17_huge_chunk_sizes: [
        (Published, |s| s.chunk_bytes(0x7FFF_FFFF), Lives),
        (Published, |s| s.chunk_bytes(134_217_728), Lives),
    ]
    hostile_18_a_flood_of_chunk_sizes: [
        (
            Published,
            |s| (0..100_000).for_each(|_| chunk_size(s, 128)),
            Fails("too_many_control_messages")
        ),
    ]
    hostile_19_aborts: [
        (Published, |s| { s.control(2, &7_u32.to_be_bytes()); s.control(2, &[0]); }, Lives),
        (Published, |s| { begun(s); s.control(2, &6_u32.to_be_bytes()); }, Lives),
    ]
    hostile_20_windows_of_nothing_and_everything: [
        (Published, |s| s.control(5, &0_u32.to_be_bytes()), Lives),
        (Published, |s| s.control(5, &1_u32.to_be_bytes()), Lives),
        (Published, |s| s.control(5, &u32::MAX.to_be_bytes()), Lives),
    ]
    hostile_21_no_bandwidth: [
        (Published, |s| s.control(6, &[0; 5]), Lives),
    ]
    hostile_22_acknowledgements_of_more_than_was_sent: [
        (Published, |s| { s.control(3, &[0xFF; 4]); s.control(3, &[0; 4]); }, Lives),
    ]
    hostile_23_a_flood_of_pings: [
        (Published, |s| { s.control(4, &[0]); s.control(4, &[0, 0x22, 1, 2, 3, 4]); }, Lives),
        (
            Published,
            |s| (0..1000).for_each(|_| s.control(4, &[0, 6, 0, 0, 0, 0])),
            Fails("too_many_control_messages")
        ),
    ]
    hostile_24_unknown_types_and_an_aggregate_that_overruns: [
        (
            Published,
            |s| for kind in [0, 7, 16, 19, 21, 255] { s.message(6, kind, 0, 1, b"?") },
            Lives
        ),
        (Published, |s| s.message(6, 22, 0, 1, &[9, 0, 0, 200]), Lives),
    ]
    hostile_25_ten_thousand_levels: [
        (Published, |s| command(s, &[3, 0, 1, b'k'].repeat(10_000)), Lives),
        (Published, |s| data(s, &[0x0A, 0, 0, 0, 1].repeat(10_000)), Lives),
        (Connected, |s| command(s, &[0x0A, 0, 0, 0, 1].repeat(10_000)), Fails("malformed_command")),
    ]
    hostile_26_a_count_that_lies: [
        (Published, |s| data(s, &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 5]), Lives),
        (Connected, |s| command(s, &[0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 5]), Fails("malformed_command")),
    ]
    hostile_27_a_length_beyond_the_end: [
        (Published, |s| data(s, &[0x0C, 0xFF, 0xFF, 0xFF, 0xFF]), Lives),
        (Connected, |s| command(s, &[0x0C, 0xFF, 0xFF, 0xFF, 0xFF]), Fails("malformed_command")),
    ]
    hostile_28_tiny_keys: [
        (Published, |s| data(s, &[&[3][..], &[0, 0, 5].repeat(80_000)].concat()), Lives),
        (
            Connected,
            |s| command(s, &[&[3][..], &[0, 1, b'k', 5].repeat(15_000)].concat()),
            Fails("malformed_command")
        ),
    ]
    hostile_29_references: [
        (Published, |s| data(s, &[0x11, 0x09, 0x03, 0x01, 0x09, 0x00]), Lives),
        (Connected, |s| command(s, &[0x07, 0, 0]), Fails("malformed_command")),
        (Connected, |s| command(s, &[0x11, 0x0A, 0x07, 0x01]), Fails("malformed_command")),
    ]
    hostile_30_no_end_of_an_object: [
        (Published, |s| data(s, &[3, 0, 1, b'k', 5]), Lives),
        (Connected, |s| command(s, &[3, 0, 1, b'k', 5]), Fails("malformed_command")),
    ]
    hostile_31_transactions_and_names_that_are_none: [
        (
            Published,
            |s| for id in [f64::NAN, -1.0, 1e300] { s.command(3, 0, &call("x", id, &[])) },
            Lives
        ),
        (Connected, |s| s.command(3, 0, &[Value::Number(1.0)]), Fails("malformed_command")),
    ]
    hostile_32_names_with_anything_in_them: [
        (Connected, |s| s.publish("good-a\u{1b}[2J"), Refused(BAD_NAME)),
        (Connected, |s| s.publish("good-../../etc"), Refused(BAD_NAME)),
        (Connected, |s| s.publish("good-%2e%2e/x"), Refused(BAD_NAME)),
        (Connected, |s| s.publish(&"k".repeat(4096)), Refused(BAD_NAME)),
    ]
    hostile_33_parameters: [
        (Connected, |s| s.publish(&format!("good-a?{}", "p=1&".repeat(10_000))), Refused(BAD_NAME)),
    ]
    hostile_34_before_it_is_time: [
        (Handshake, |s| s.publish("good-early"), Fails("unconnected")),
        (Handshake, |s| s.message(6, 9, 0, 1, b"x"), Fails("unconnected")),
        (
            Connected,
            |s| (0..3).for_each(|_| s.message(6, 9, 0, 1, &[0; 30_000])),
            Fails("media_before_publish")
        ),
    ]
    hostile_35_a_second_connect: [
        (Connected, |s| s.connect("other"), Refused("NetConnection.Connect.Rejected")),
        (Published, |s| s.connect("other"), Refused("NetConnection.Connect.Rejected")),
    ]
    hostile_36_message_streams: [
        (Connected, |s| create_streams(s, 8), Fails("too_many_message_streams")),
        (Published, |s| create_streams(s, 100_000), Fails("too_many_message_streams")),
    ]
    hostile_37_a_second_publish: [
        (Published, |s| s.publish("good-second"), Lives),
        (
            Published,
            |s| s.command(3, 9, &call("publish", 1.0, &[Value::text("good-second")])),
            Lives
        ),
    ]
    hostile_39_media_on_any_message_stream: [
        (Published, |s| s.message(40, 8, 6, 0x0100_0000, AFTER), Lives),
    ]
    hostile_40_somebody_elses_stream: [
        (
            Published,
            |s| {
                create_streams(s, 1);
                for name in ["releaseStream", "FCUnpublish"] {
                    s.command(3, 0, &call(name, 6.0, &[Value::text("good-beside")]));
                }
                s.command(3, 0, &call("deleteStream", 8.0, &[Value::Number(2.0)]));
            },
            Lives
        ),
    ]
}
