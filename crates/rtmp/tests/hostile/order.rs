//! The right commands at the wrong time, or about somebody else's stream.

use rtmp::amf0::Value;
use rtmp::{ServerEvent, message_type};

use super::wire::{Script, Server, call};
use super::{Fails, Lives, Refused, fate, feed, fresh};

const BAD_NAME: &str = "NetStream.Publish.BadName";

#[test]
fn hostile_34_before_connect_and_before_publish() {
    assert_eq!(
        fate(Script::new, |s| s.publish("key")),
        Fails("unconnected")
    );
    let create = |s: &mut Script| s.command(3, 0, &call("createStream", 1.0, &[]));
    assert_eq!(fate(Script::new, create), Fails("unconnected"));
    let media = |s: &mut Script| s.message(6, 9, 0, 1, b"x");
    assert_eq!(fate(Script::new, media), Fails("unconnected"));
    let commands = |s: &mut Script| (0..40).for_each(|_| s.command(3, 0, &call("x", 0.0, &[])));
    assert_eq!(fate(Script::new, commands), Fails("too_many_messages"));

    let media = |times: usize, bytes: usize| {
        fate(Script::connected, |s| {
            (0..times).for_each(|_| s.message(6, 9, 0, 1, &vec![0; bytes]));
        })
    };
    assert_eq!(media(1, 30_000), Lives);
    assert_eq!(media(3, 30_000), Fails("media_before_publish"));
    assert_eq!(media(1, 70_000), Fails("message_too_large"));
}

#[test]
fn hostile_35_a_second_connect() {
    let rejected = Refused("NetConnection.Connect.Rejected");
    assert_eq!(fate(Script::connected, |s| s.connect("other")), rejected);
    assert_eq!(fate(Script::published, |s| s.connect("other")), rejected);
    // Nor with a password, once it is connected.
    let login = |s: &mut Script| s.connect("live?authmod=adobe&user=bob");
    assert_eq!(fate(Script::published, login), rejected);
}

#[test]
fn hostile_36_message_streams_without_end() {
    let many = |count: usize| {
        fate(Script::connected, |s| {
            (0..count).for_each(|_| s.command(3, 0, &call("createStream", 1.0, &[])));
        })
    };
    assert_eq!(many(7), Lives);
    assert_eq!(many(8), Fails("too_many_message_streams"));
    let publisher = |s: &mut Script| {
        (0..100_000).for_each(|_| s.command(3, 0, &call("createStream", 1.0, &[])));
    };
    assert_eq!(
        fate(Script::published, publisher),
        Fails("too_many_message_streams")
    );
}

#[test]
fn hostile_37_publish_twice_or_on_a_stream_that_is_not_there() {
    for name in ["key", "other"] {
        for msid in [1, 9] {
            let mut server = Server::publishing();
            let mut script = fresh();
            script.command(3, msid, &call("publish", 1.0, &[Value::text(name)]));
            script.message(6, 9, 0, 1, b"x");
            feed(&mut server, &script.bytes).unwrap();
            assert_eq!(
                server.replied_commands(),
                [format!("1 onStatus 0 {BAD_NAME}")]
            );
            assert!(!server.session.is_closing());
            assert_eq!(server.events.len(), 1, "no second request, and the media");
        }
    }
    let unknown = |s: &mut Script| s.command(3, 9, &call("publish", 1.0, &[Value::text("key")]));
    assert_eq!(
        fate(Script::connected, unknown),
        Lives,
        "the only one is meant"
    );
    let one_of_two = |s: &mut Script| {
        s.command(3, 0, &call("createStream", 1.0, &[]));
        unknown(s);
    };
    assert_eq!(fate(Script::connected, one_of_two), Refused(BAD_NAME));
}

#[test]
fn hostile_39_media_on_any_message_stream_belongs_to_the_one_publish() {
    let mut server = Server::publishing();
    let mut script = fresh();
    for msid in [0, 1, 2, 0x0100_0000] {
        script.message(6, 9, 0, msid, b"x");
    }
    feed(&mut server, &script.bytes).unwrap();
    assert_eq!(server.media().len(), 4);
}

#[test]
fn hostile_40_commands_that_name_other_streams_change_nothing() {
    let mut server = Server::publishing();
    let mut script = fresh();
    let other = || [Value::text("other")];
    script.command(3, 0, &call("createStream", 5.0, &[]));
    script.command(3, 0, &call("releaseStream", 6.0, &other()));
    script.command(3, 0, &call("FCUnpublish", 7.0, &other()));
    script.command(3, 0, &call("deleteStream", 8.0, &[Value::Number(2.0)]));
    let body = [
        &[0][..],
        &rtmp::amf0::encode(&call("FCUnpublish", 9.0, &other())),
    ]
    .concat();
    script.message(3, message_type::COMMAND_AMF3, 0, 0, &body);
    script.message(6, 9, 0, 1, b"x");
    feed(&mut server, &script.bytes).unwrap();
    assert_eq!(server.media().len(), 1);
    let is_end = |event: &ServerEvent| matches!(event, ServerEvent::PublishEnded(_));
    let ended: Vec<_> = server.events.iter().filter(|event| is_end(event)).collect();
    assert!(ended.is_empty(), "{:?}", server.events);
}
