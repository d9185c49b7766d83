//! What is agreed in `connect`: capabilities, object encodings, and who it is (Adobe authentication).

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

#[path = "support/wire.rs"]
mod wire;

use rtmp::amf0::{Decoder, Value, encode};
use rtmp::{
    AdobeChallenge, MediaKind, Message, PublishRequest, Rejection, ServerConfig, ServerEvent,
    ServerSession, caps_ex, message_type,
};
use wire::{Script, Server, call};

fn connect<'a>(object: Vec<(&'a str, Value<'a>)>) -> Vec<Value<'a>> {
    let properties = object.into_iter();
    let properties = properties.map(|(key, value)| (key.as_bytes(), value));
    vec![
        Value::text("connect"),
        Value::Number(1.0),
        Value::Object(properties.collect()),
    ]
}

/// A server that has seen a `connect` with these properties, and the information object of its answer.
fn connected(object: Vec<(&str, Value<'_>)>) -> (Server, Vec<u8>) {
    let mut script = Script::new();
    script.command(3, 0, &connect(object));
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    let answer = server.replies().pop().unwrap();
    (server, answer.body.to_vec())
}

/// The value that a command carries at this place behind its name.
fn argument(body: &[u8], index: usize) -> Value<'_> {
    let mut decoder = Decoder::command(body, 1_000);
    for _ in 0..=index {
        decoder.value().unwrap();
    }
    decoder.value().unwrap()
}

fn requested(server: &Server) -> &PublishRequest {
    let request = |event: &ServerEvent| matches!(event, ServerEvent::PublishRequested(_));
    let index = server.events.iter().position(request).unwrap();
    let ServerEvent::PublishRequested(request) = &server.events[index] else {
        unreachable!("as just found");
    };
    request
}

fn script() -> Script {
    let mut script = Script::new();
    drop(script.bytes.split());
    script
}

#[test]
fn capabilities_are_answered_and_told_to_whoever_decides() {
    let list = vec![Value::text("hvc1"), Value::text("Opus")];
    let map = Value::object([("hvc1", Value::Number(3.0)), ("*", Value::Number(4.0))]);
    let (mut server, answer) = connected(vec![
        ("app", Value::text("live")),
        ("tcurl", Value::text("\"rtmps://h/live?token=a\"")),
        ("fourCcList", Value::StrictArray(list)),
        ("videoFourCcInfoMap", map),
        ("capsEx", Value::Number(3.0)),
        ("videoFunction", Value::Number(7.0)),
        ("objectEncoding", Value::Number(3.0)),
    ]);
    let information = argument(&answer, 2);
    let number = |key| information.property(key).and_then(Value::as_number);
    let expected =
        caps_ex::RECONNECT | caps_ex::MULTITRACK | caps_ex::MOD_EX | caps_ex::TIMESTAMP_NANO_OFFSET;
    assert_eq!(number("capsEx"), Some(expected.into()));
    assert_eq!(number("objectEncoding"), Some(0.0));
    for key in ["videoFourCcInfoMap", "audioFourCcInfoMap"] {
        let map = information.property(key).unwrap();
        assert_eq!(map.property("*"), Some(&Value::Number(4.0)));
    }
    let list = Value::StrictArray(vec![Value::text("*")]);
    assert_eq!(information.property("fourCcList"), Some(&list));

    let mut script = script();
    script.command(3, 0, &call("createStream", 4.0, &[]));
    script.publish("key");
    server.feed(&script.bytes).unwrap();
    let request = requested(&server);
    let told = &request.capabilities;
    assert_eq!((told.caps_ex, told.video_function), (3, 7));
    assert_eq!(told.object_encoding, 3);
    assert_eq!(told.four_cc_list, ["hvc1", "Opus"]);
    let expected = [("hvc1".to_owned(), 3), ("*".to_owned(), 4)];
    assert_eq!(told.video_four_cc_info, expected);
    assert_eq!(
        request.query.len(),
        1,
        "of a tcUrl in small letters and quotes"
    );
}

#[test]
fn an_encoder_that_announces_nothing_is_answered_the_same() {
    let (_, answer) = connected(vec![("app", Value::text("live"))]);
    let information = argument(&answer, 2);
    assert!(information.property("capsEx").is_some());
    assert!(information.property("videoFourCcInfoMap").is_some());
    assert_eq!(information.property("fourCcList"), None);
}

#[test]
fn commands_of_type_17_are_understood_with_their_selector_and_without() {
    for selector in [&[0][..], &[]] {
        let mut script = Script::new();
        let command = |script: &mut Script, msid, body: Vec<u8>| {
            let body = [selector, &body].concat();
            script.message(3, message_type::COMMAND_AMF3, 0, msid, &body);
        };
        let object = vec![
            ("app", Value::text("live")),
            ("objectEncoding", Value::Number(3.0)),
        ];
        command(&mut script, 0, encode(&connect(object)));
        command(&mut script, 0, encode(&call("createStream", 2.0, &[])));
        // publish, whose arguments are AMF3 strings.
        let mut publish = encode(&call("publish", 3.0, &[]));
        publish.extend(b"\x11\x06\x07key\x11\x06\x09live");
        command(&mut script, 1, publish);
        script.message(
            4,
            message_type::DATA_AMF3,
            0,
            1,
            &[selector, &metadata()].concat(),
        );
        script.message(4, message_type::AUDIO, 0, 1, &[0xAF, 1, 2]);
        // A shared object, in either encoding, is nothing to us.
        script.message(4, 16, 0, 1, &[0, 1, 2]);
        script.message(4, 19, 0, 1, &[0, 1, 2]);
        let mut server = Server::new();
        server.feed(&script.bytes).unwrap();
        assert_eq!(requested(&server).stream_key.expose(), "key");
        let media = server.media();
        assert_eq!(media.len(), 2);
        assert_eq!(media[0].kind, MediaKind::Script);
        assert_eq!(&media[0].body[..], metadata(), "as type 18 would be");
        let replies = server.replies();
        let is_amf3 = |reply: &Message| reply.type_id == message_type::COMMAND_AMF3;
        assert!(!replies.iter().any(is_amf3), "answers are AMF0");
    }
}

fn metadata() -> Vec<u8> {
    let values = Value::EcmaArray(vec![(b"width", Value::Number(1280.0))]);
    encode(&[
        Value::text("@setDataFrame"),
        Value::text("onMetaData"),
        values,
    ])
}

#[test]
fn the_vod_track_of_obs_does_not_disturb_the_stream() {
    let mut script = script();
    let expected = Value::object([
        (
            "processingIntents",
            Value::StrictArray(vec![Value::text("org.twitch.vod")]),
        ),
        ("additionalMedia", Value::object([("stream0", Value::Null)])),
    ]);
    let announced = encode(&[
        Value::text("@setDataFrame"),
        Value::text("onExpectAdditionalMedia"),
        expected,
    ]);
    let sound = vec![0xAF; 300];
    // The audio frame is an AMF3 ByteArray of 300 bytes.
    let mut additional = encode(&[Value::text("additionalMedia")]);
    additional.extend(b"\x03\x00\x02id\x02\x00\x07stream0\x00\x05media\x11\x0C\x84\x59");
    additional.extend(&sound);
    additional.extend(b"\x00\x00\x09");
    script.message(4, message_type::DATA_AMF0, 0, 1, &announced);
    for timestamp in 0..20 {
        script.message(4, message_type::DATA_AMF0, timestamp, 1, &additional);
        script.message(4, message_type::AUDIO, timestamp, 1, &[0xAF, 1, 2]);
    }
    let mut server = Server::publishing();
    server.feed(&script.bytes).unwrap();
    let media = server.media();
    assert_eq!(media.len(), 41);
    assert_eq!(&media[0].body[..], announced);
    let translated = encode(&[
        Value::text("additionalMedia"),
        Value::object([
            ("id", Value::text("stream0")),
            ("media", Value::Unsupported),
        ]),
    ]);
    assert_eq!(&media[1].body[..], translated);
    assert_eq!(&media[2].body[..], [0xAF, 1, 2]);
}

const NEED_AUTH: &str = "[ AccessManager.Reject ] : [ code=403 need auth; authmod=adobe ] : ";

/// `connect` to this application, and the description of the `_error` that came back, if one did.
fn connect_to(app: &str) -> (Server, Option<String>) {
    let mut script = Script::new();
    script.connect(app);
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    let told = error_of(&mut server);
    (server, told)
}

fn error_of(server: &mut Server) -> Option<String> {
    let answer = server.replies().pop()?;
    let name = Decoder::command(&answer.body, 10).value().unwrap();
    if name.as_bytes() != Some(b"_error") {
        return None;
    }
    let information = argument(&answer.body, 2);
    let description = information.property("description").unwrap();
    Some(String::from_utf8(description.as_bytes().unwrap().to_vec()).unwrap())
}

#[test]
fn adobe_authentication_takes_three_connections() {
    let (server, told) = connect_to("live/_adobe_");
    assert_eq!(told.as_deref(), Some(NEED_AUTH));
    assert!(server.session.is_closing());

    let (mut server, told) = connect_to("live/_adobe_?authmod=adobe&user=bob");
    assert_eq!(told, None, "the driver is asked first");
    let user = "bob".to_owned();
    let event = ServerEvent::AdobeChallengeRequested { user };
    assert_eq!(server.events, [event]);
    assert!(!server.session.wants_input());
    assert_eq!(server.session.poll_timeout(), None);
    server.session.challenge(&AdobeChallenge {
        salt: "SALT".to_owned(),
        challenge: "0a0b0c0d".to_owned(),
        opaque: "OPAQUE".to_owned(),
    });
    server.feed(&[]).unwrap();
    assert_eq!(
        error_of(&mut server).unwrap(),
        "[ AccessManager.Reject ] : [ authmod=adobe ] : \
         ?reason=needauth&user=bob&salt=SALT&challenge=0a0b0c0d&opaque=OPAQUE"
    );
    assert!(server.session.is_closing());
    let said = server.session.closing().unwrap();
    assert!(!said.description.contains("SALT"), "for our log: {said:?}");

    let answer = "authmod=adobe&user=bob&challenge=CC&response=R+/=&opaque=OPAQUE";
    let (mut server, told) = connect_to(&format!("live/_adobe_?{answer}"));
    assert_eq!(told, None);
    let mut script = script();
    script.command(3, 0, &call("createStream", 4.0, &[]));
    script.publish("name?token=a");
    server.feed(&script.bytes).unwrap();
    let request = requested(&server);
    assert_eq!(request.app, "live");
    assert_eq!(request.stream_key.expose(), "name");
    assert_eq!(request.query.len(), 1, "what is its own is no parameter");
    let response = request.adobe.clone().unwrap();
    assert_eq!(
        (response.user.as_str(), response.challenge.as_str()),
        ("bob", "CC")
    );
    assert_eq!(response.response.expose(), "R+/=");
    assert_eq!(response.opaque.expose(), "OPAQUE");
}

#[test]
fn a_challenge_that_is_refused_says_why() {
    let (mut server, _) = connect_to("live?authmod=adobe&user=bob");
    server.session.reject(Rejection {
        description: "The service is busy right now".to_owned(),
    });
    server.feed(&[]).unwrap();
    let told = error_of(&mut server);
    assert_eq!(told.as_deref(), Some("The service is busy right now"));
    assert!(server.session.is_closing());
}

#[test]
fn without_tls_no_password_is_asked_for() {
    for app in ["live/_adobe_", "live?authmod=adobe&user=bob"] {
        let mut script = Script::new();
        script.connect(app);
        let mut server = Server::new();
        let config = ServerConfig::default();
        server.session = ServerSession::new(config, &[0; 1528], server.now);
        server.feed(&script.bytes).unwrap();
        let told = error_of(&mut server).unwrap();
        assert!(
            told.contains("rtmps://") && !told.contains("authmod"),
            "{told}"
        );
        assert!(server.session.is_closing() && server.events.is_empty());
    }
}

#[test]
fn a_malformed_login_and_one_that_is_too_long_are_refused() {
    let long = "o".repeat(2_000);
    for app in [
        "live?authmod=adobe&user=b%0Ab",
        "live?authmod=adobe&response=x",
        &format!("live?authmod=adobe&user={long}"),
        &format!("{}?authmod=adobe&user=bob", "a".repeat(257)),
    ] {
        let (server, told) = connect_to(app);
        assert!(told.is_some() && server.events.is_empty(), "{app}");
        assert!(server.session.is_closing());
    }
}
