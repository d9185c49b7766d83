//! Names that are no names.

use rtmp::ServerEvent;
use rtmp::amf0::Value;

use super::wire::{Script, Server, call};
use super::{Lives, Refused, fate};

const BAD_NAME: &str = "NetStream.Publish.BadName";

#[test]
fn hostile_32_names_with_anything_in_them() {
    let long = "k".repeat(4_096);
    for name in [
        "a\u{1b}[2J",
        "ke\0y",
        "ke\ny",
        "../../etc",
        "%2e%2e/x",
        "..",
        "a\\b",
        "a%5Cb/../c",
        long.as_str(),
        "",
    ] {
        assert_eq!(
            fate(Script::connected, |s| s.publish(name)),
            Refused(BAD_NAME),
            "{name:?}"
        );
    }
    let no_utf8 = |s: &mut Script| {
        s.command(3, 1, &call("publish", 1.0, &[Value::String(b"\xFF\xFE")]));
    };
    assert_eq!(fate(Script::connected, no_utf8), Refused(BAD_NAME));
    let no_name = |s: &mut Script| s.command(3, 1, &call("publish", 1.0, &[]));
    assert_eq!(fate(Script::connected, no_name), Refused(BAD_NAME));

    let long_app = |s: &mut Script| s.connect(&"a".repeat(300));
    assert_eq!(
        fate(Script::new, long_app),
        Refused("NetConnection.Connect.Rejected")
    );
    for app in ["live/../etc", "li\u{1b}[1mve", "live%2Fx", "a\\b"] {
        let publish = |s: &mut Script| {
            s.connect(app);
            s.command(3, 0, &call("createStream", 4.0, &[]));
            s.publish("key");
        };
        assert_eq!(fate(Script::new, publish), Refused(BAD_NAME), "{app:?}");
    }
}

#[test]
fn hostile_32_what_is_told_of_an_encoder_is_printable_and_short() {
    let mut script = Script::new();
    let name = format!("\u{1b}[31m{}", "x".repeat(4_000));
    let object = Value::object([
        ("app", Value::text("live")),
        ("flashVer", Value::text(&name)),
        ("tcUrl", Value::Number(1.0)),
    ]);
    script.command(3, 0, &[Value::text("connect"), Value::Number(1.0), object]);
    script.command(3, 0, &call("createStream", 4.0, &[]));
    script.publish("key");
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    let Some(ServerEvent::PublishRequested(request)) = server.events.first() else {
        panic!("no publish was requested: {:?}", server.events);
    };
    assert_eq!(request.encoder.len(), 128);
    assert!(
        request.encoder.starts_with("?[31mxx"),
        "{}",
        request.encoder
    );
}

#[test]
fn hostile_33_parameters_without_end() {
    let same = |s: &mut Script| s.publish(&format!("key?{}", "a&".repeat(500)));
    assert_eq!(fate(Script::connected, same), Lives);
    let different: Vec<String> = (0..100).map(|i| format!("p{i}=1")).collect();
    let different = different.join("&");
    let many = |s: &mut Script| s.publish(&format!("key?{different}"));
    assert_eq!(fate(Script::connected, many), Refused(BAD_NAME));
    let endless = |s: &mut Script| {
        s.chunk_bytes(65_536);
        s.publish(&format!("key?{}", "p=1&".repeat(10_000)));
    };
    assert_eq!(fate(Script::connected, endless), Refused(BAD_NAME));

    let mut script = Script::connected();
    script.publish("key?token=first&token=last");
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    let Some(ServerEvent::PublishRequested(request)) = server.events.first() else {
        panic!("no publish was requested: {:?}", server.events);
    };
    assert_eq!(request.query.len(), 1);
    assert_eq!(request.query[0].1.expose(), "last");
}
