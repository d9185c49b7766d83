//! The conversations of real encoders, as captured, and what each of them waits for.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

#[path = "support/wire.rs"]
mod wire;

use rtmp::amf0::{Value, encode};
use rtmp::{MediaKind, PublishRequest, ServerEvent, message_type};
use wire::{Script, Server, call};

/// AVC sequence header, keyframe, AAC header, in short.
const VIDEO_HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1F];
const VIDEO_EOS: &[u8] = &[0x17, 2, 0, 0, 0];
const AUDIO_HEADER: &[u8] = &[0xAF, 0, 0x11, 0x90];

fn metadata() -> Vec<u8> {
    encode(&[
        Value::text("@setDataFrame"),
        Value::text("onMetaData"),
        Value::EcmaArray(vec![
            (b"duration", Value::Number(0.0)),
            (b"width", Value::Number(1280.0)),
        ]),
    ])
}

fn requested(server: &Server) -> &PublishRequest {
    let Some(ServerEvent::PublishRequested(request)) = server.events.first() else {
        panic!("no publish was requested: {:?}", server.events);
    };
    request
}

/// Kinds and timestamps of the media, and how it ended.
fn outline(server: &Server) -> Vec<String> {
    let line = |event: &ServerEvent| match event {
        ServerEvent::Media(media) => format!("{:?} {}", media.kind, media.timestamp),
        ServerEvent::Ponged(_) => "ponged".to_owned(),
        ServerEvent::PublishEnded(cause) => format!("{cause:?}"),
        ServerEvent::PublishRequested(_) => "requested".to_owned(),
        ServerEvent::AdobeChallengeRequested { user } => format!("challenge for {user}"),
    };
    server.events.iter().map(line).collect()
}

const CONNECTED: &str = "0 _result 1 NetConnection.Connect.Success";
const STARTED: &str = "1 onStatus 0 NetStream.Publish.Start";

#[expect(
    clippy::too_many_lines,
    reason = "a conversation reads best in one piece"
)]
#[test]
fn ffmpeg_publishes() {
    let mut server = Server::new();
    let mut ffmpeg = Script::new();
    let connect = [
        Value::text("connect"),
        Value::Number(1.0),
        Value::object([
            ("app", Value::text("live/inst")),
            (
                "fourCcList",
                Value::StrictArray(vec![Value::text("hvc1"), Value::text("Opus")]),
            ),
            ("type", Value::text("nonprivate")),
            (
                "flashVer",
                Value::text("FMLE/3.0 (compatible; Lavf63.1.102)"),
            ),
            ("tcUrl", Value::text("rtmp://localhost:1935/live/inst")),
        ]),
    ];
    ffmpeg.command(3, 0, &connect);
    server.feed(&ffmpeg.bytes.split()).unwrap();
    let types: Vec<u8> = server.replies().iter().map(|m| m.type_id).collect();
    assert_eq!(
        types,
        [5, 6, 1, 20],
        "the chunk size is set once, before the _result"
    );

    ffmpeg.chunk_bytes(4096);
    ffmpeg.command(3, 0, &call("releaseStream", 2.0, &[Value::text("key")]));
    ffmpeg.command(3, 0, &call("FCPublish", 3.0, &[Value::text("key")]));
    ffmpeg.command(3, 0, &call("createStream", 4.0, &[]));
    ffmpeg.command(3, 0, &call("_checkbw", 5.0, &[]));
    server.feed(&ffmpeg.bytes.split()).unwrap();
    assert_eq!(
        server.replied_commands(),
        [
            "0 _result 2 undefined",
            "0 _result 3 undefined",
            "0 onFCPublish 0 NetStream.Publish.Start",
            "0 _result 4 1",
            "0 _result 5 null",
        ]
    );

    ffmpeg.command(
        8,
        1,
        &call(
            "publish",
            6.0,
            &[Value::text("key?t=1"), Value::text("live")],
        ),
    );
    server.feed(&ffmpeg.bytes.split()).unwrap();
    let replies = server.replies();
    assert_eq!(replies[0].type_id, message_type::USER_CONTROL);
    assert_eq!(&replies[0].body[..], [0, 0, 0, 0, 0, 1], "StreamBegin(1)");
    assert_eq!(replies[1].message_stream_id, 1);
    let request = requested(&server);
    assert_eq!(request.app, "live/inst");
    assert_eq!(request.stream_key.expose(), "key");
    assert_eq!(request.query[0].0, "t");
    assert_eq!(request.encoder, "FMLE/3.0 (compatible; Lavf63.1.102)");

    ffmpeg.message(4, 18, 0, 1, &metadata());
    ffmpeg.message(6, 9, 0, 1, VIDEO_HEADER);
    ffmpeg.message(4, 8, 0, 1, AUDIO_HEADER);
    ffmpeg.message(6, 9, 40, 1, &[0x27; 9_000]);
    ffmpeg.message(6, 9, 80, 1, VIDEO_EOS);
    ffmpeg.command(3, 0, &call("FCUnpublish", 7.0, &[Value::text("key")]));
    ffmpeg.command(3, 0, &call("deleteStream", 8.0, &[Value::Number(1.0)]));
    server.feed(&ffmpeg.bytes.split()).unwrap();
    assert_eq!(
        outline(&server),
        [
            "requested",
            "Script 0",
            "Video 0",
            "Audio 0",
            "Video 40",
            "Video 80",
            "FcUnpublish"
        ]
    );
    let media = server.media();
    assert_eq!(media[0].kind, MediaKind::Script);
    assert_eq!(media[0].body, metadata(), "the body is untouched");
    assert_eq!(
        server.replied_commands(),
        [
            "0 _result 7 undefined",
            "0 onFCUnpublish 0 NetStream.Unpublish.Success",
            "1 onStatus 0 NetStream.Unpublish.Success",
        ]
    );
}

/// Everything on csid 4, Set Chunk Size before connect, the query in the key but not in releaseStream.
#[test]
fn obs_publishes() {
    let mut server = Server::new();
    let mut obs = Script::new();
    obs.chunk_bytes(4096);
    let url = Value::text("rtmp://localhost:1935/live/inst");
    let connect = [
        Value::text("connect"),
        Value::Number(1.0),
        Value::object([
            ("app", Value::text("live/inst")),
            ("type", Value::text("nonprivate")),
            ("supportsGoAway", Value::Boolean(true)),
            ("flashVer", Value::text("FMLE/3.0 (compatible; FMSc/1.0)")),
            ("swfUrl", url.clone()),
            ("tcUrl", url),
        ]),
    ];
    obs.command(3, 0, &connect);
    server.feed(&obs.bytes.split()).unwrap();
    obs.command(3, 0, &call("releaseStream", 2.0, &[Value::text("key")]));
    obs.command(3, 0, &call("FCPublish", 3.0, &[Value::text("key")]));
    obs.command(3, 0, &call("createStream", 4.0, &[]));
    server.feed(&obs.bytes.split()).unwrap();
    let name = Value::text("key?token=a&backup=1");
    obs.command(4, 1, &call("publish", 5.0, &[name, Value::text("live")]));
    server.feed(&obs.bytes.split()).unwrap();
    let replies = server.replied_commands();
    assert_eq!(replies.first().map(String::as_str), Some(CONNECTED));
    assert_eq!(replies.last().map(String::as_str), Some(STARTED));
    assert_eq!(requested(&server).stream_key.expose(), "key");
    assert_eq!(requested(&server).query.len(), 2);

    obs.message(4, 18, 0, 1, &metadata());
    obs.message(4, 8, 0, 1, AUDIO_HEADER);
    obs.message(4, 9, 0, 1, VIDEO_HEADER);
    obs.message(4, 9, 33, 1, &[0x17; 20_000]);
    obs.message(4, 8, 23, 1, &[0xAF, 1, 2]);
    obs.command(3, 0, &call("FCUnpublish", 6.0, &[Value::text("key")]));
    obs.command(3, 0, &call("deleteStream", 7.0, &[Value::Number(1.0)]));
    server.feed(&obs.bytes.split()).unwrap();
    assert_eq!(
        outline(&server),
        [
            "requested",
            "Script 0",
            "Audio 0",
            "Video 0",
            "Video 33",
            "Audio 23",
            "FcUnpublish"
        ]
    );
}

/// Transaction 0 for what it wants no reply to; Window Ack Size in answer to Set Peer Bandwidth; announces chunks of
/// 128 bytes after publish; deleteStream with the name.
#[test]
fn gstreamer_publishes() {
    let mut server = Server::new();
    let mut gstreamer = Script::new();
    gstreamer.connect("live");
    server.feed(&gstreamer.bytes.split()).unwrap();
    server.replies();
    gstreamer.control(
        message_type::WINDOW_ACKNOWLEDGEMENT_SIZE,
        &2_500_000_u32.to_be_bytes(),
    );
    gstreamer.command(3, 0, &call("releaseStream", 0.0, &[Value::text("key")]));
    gstreamer.command(3, 0, &call("FCPublish", 0.0, &[Value::text("key")]));
    gstreamer.command(3, 0, &call("createStream", 2.0, &[]));
    server.feed(&gstreamer.bytes.split()).unwrap();
    assert_eq!(
        server.replied_commands(),
        ["0 onFCPublish 0 NetStream.Publish.Start", "0 _result 2 1"]
    );
    gstreamer.command(
        3,
        1,
        &call("publish", 0.0, &[Value::text("key"), Value::text("live")]),
    );
    server.feed(&gstreamer.bytes.split()).unwrap();
    assert_eq!(
        server.replied_commands(),
        [STARTED],
        "on the id of createStream"
    );

    gstreamer.chunk_bytes(128);
    gstreamer.message(4, 18, 0, 1, &metadata());
    gstreamer.message(6, 9, 0, 1, &[0x17; 3_000]);
    gstreamer.message(6, 9, 33, 1, VIDEO_EOS);
    gstreamer.command(3, 0, &call("FCUnpublish", 0.0, &[Value::text("key")]));
    gstreamer.command(3, 0, &call("deleteStream", 0.0, &[Value::text("key")]));
    server.feed(&gstreamer.bytes.split()).unwrap();
    assert_eq!(
        outline(&server),
        [
            "requested",
            "Script 0",
            "Video 0",
            "Video 33",
            "FcUnpublish"
        ]
    );
}

/// No flashVer, no Set Chunk Size, all on csid 4, and deleteStream alone at the end.
#[test]
fn librtmp_publishes() {
    let mut server = Server::new();
    let mut librtmp = Script::new();
    let connect = [
        Value::text("connect"),
        Value::Number(1.0),
        Value::object([
            ("app", Value::text("live")),
            ("type", Value::text("nonprivate")),
            ("tcUrl", Value::text("rtmp://localhost:1935/live")),
        ]),
    ];
    librtmp.command(3, 0, &connect);
    librtmp.command(3, 0, &call("releaseStream", 2.0, &[Value::text("key")]));
    librtmp.command(3, 0, &call("FCPublish", 3.0, &[Value::text("key")]));
    librtmp.command(3, 0, &call("createStream", 4.0, &[]));
    librtmp.command(
        4,
        1,
        &call("publish", 5.0, &[Value::text("key"), Value::text("live")]),
    );
    librtmp.message(4, 18, 0, 1, &metadata());
    librtmp.message(4, 9, 0, 1, &[0x17; 1_000]);
    librtmp.message(4, 8, 10, 1, &[0xAF; 300]);
    librtmp.command(3, 0, &call("deleteStream", 6.0, &[Value::Number(1.0)]));
    server.feed(&librtmp.bytes.split()).unwrap();
    assert_eq!(requested(&server).encoder, "");
    assert_eq!(
        outline(&server),
        [
            "requested",
            "Script 0",
            "Video 0",
            "Audio 10",
            "DeleteStream"
        ]
    );
    assert_eq!(
        server.replied_commands().last().unwrap(),
        "1 onStatus 0 NetStream.Unpublish.Success"
    );
}

/// Commands as type 17 with and without the selector byte, data as type 15, and a data message full of AMF3.
#[test]
fn amf3_message_types_are_tolerated() {
    let mut server = Server::new();
    let mut encoder = Script::new();
    encoder.connect("live");
    let create = encode(&call("createStream", 2.0, &[]));
    encoder.message(
        3,
        message_type::COMMAND_AMF3,
        0,
        0,
        &[&[0], &create[..]].concat(),
    );
    let publish = encode(&call("publish", 3.0, &[Value::text("key")]));
    encoder.message(3, message_type::COMMAND_AMF3, 0, 1, &publish);
    let data = metadata();
    encoder.message(
        4,
        message_type::DATA_AMF3,
        0,
        1,
        &[&[0], &data[..]].concat(),
    );
    encoder.message(4, message_type::DATA_AMF0, 0, 1, &[0x11, 0x0C, 0x81]);
    encoder.message(3, message_type::COMMAND_AMF0, 0, 1, &[0x11, 0x0C, 0x81]);
    encoder.message(4, message_type::AUDIO, 7, 1, AUDIO_HEADER);
    server.feed(&encoder.bytes).unwrap();
    assert_eq!(
        outline(&server),
        ["requested", "Script 0", "Audio 7"],
        "AMF3 that cannot be read cannot be translated"
    );
    assert_eq!(server.media()[0].body, data, "without the selector byte");
}
