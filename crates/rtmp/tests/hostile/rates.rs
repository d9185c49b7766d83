//! Too much of what is allowed.

use std::time::Duration;

use rtmp::ProtocolError;
use rtmp::limits::{Limits, RATE_WINDOW};

use super::wire::{Script, Server};
use super::{Fails, fate, feed, fresh};

#[test]
fn hostile_51_message_floods_end_the_connection_and_a_burst_does_not() {
    let limits = Limits {
        messages_per_second: 100,
        ..Limits::default()
    };
    let mut server = Server::with_limits(limits);
    server.feed(&Script::published().bytes).unwrap();
    let mut script = fresh();
    for timestamp in 0..350 {
        script.message(4, 8, timestamp, 1, b"x");
    }
    let burst = script.bytes.split();
    feed(&mut server, &burst).unwrap();
    for _ in 0..10 {
        server.pass(RATE_WINDOW);
        feed(&mut server, &burst).unwrap();
    }
    server.pass(Duration::from_millis(100));
    assert_eq!(
        feed(&mut server, &burst),
        Err(ProtocolError::TooManyMessages)
    );

    // One byte per message, and messages of no byte.
    let audio = |s: &mut Script| {
        s.raw_full_header(4, 0, 1, 8);
        s.raw(&[0xAF]);
        s.raw(&[0xC4, 0xAF].repeat(100_000));
    };
    assert_eq!(fate(Script::published, audio), Fails("too_many_messages"));
    let headers = |s: &mut Script| {
        s.raw_full_header(4, 0, 0, 8);
        s.raw(&[0xC4].repeat(100_000));
    };
    assert_eq!(fate(Script::published, headers), Fails("too_many_messages"));
}

#[test]
fn messages_beyond_the_limit_of_their_type_are_refused_and_the_encoder_is_told() {
    for (type_id, bytes, limit) in [
        (8, (1 << 20) + 1, 1 << 20),
        (18, (256 << 10) + 1, 256 << 10),
    ] {
        let mut server = Server::publishing();
        let mut script = fresh();
        script.raw_full_header(6, 0, bytes, type_id);
        let error = ProtocolError::MessageTooLarge { bytes, limit };
        assert_eq!(feed(&mut server, &script.bytes), Err(error));
        assert_eq!(server.replied_commands(), ["1 onStatus 0 NetStream.Failed"]);
        let said = server.session.closing().unwrap().description.clone();
        assert!(said.contains("larger than the allowed"), "{said}");
    }
}
