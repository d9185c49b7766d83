//! A client and a server on a simulated wire.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

#[path = "support/pair.rs"]
mod pair;
#[path = "support/wire.rs"]
mod wire;

use std::time::Duration;

use bytes::Bytes;
use pair::Pair;
use rtmp::limits::Limits;
use rtmp::{
    ClientEvent, EndCause, MediaKind, MediaMessage, ProtocolError, Rejection, ServerEvent, caps_ex,
};

const SECOND: Duration = Duration::from_secs(1);

fn media(kind: MediaKind, timestamp: u32, bytes: usize) -> MediaMessage {
    let body: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    MediaMessage {
        kind,
        timestamp,
        body: Bytes::from(body),
    }
}

fn received(pair: &Pair) -> Vec<&MediaMessage> {
    let mut media = Vec::new();
    for event in &pair.server_events {
        if let ServerEvent::Media(message) = event {
            media.push(message);
        }
    }
    media
}

fn rejection(description: &str) -> Rejection {
    Rejection {
        description: description.to_owned(),
    }
}

#[test]
fn media_arrives_as_it_was_sent_with_every_chunk_size() {
    for chunk_bytes in [128, 129, 4096, 65_536, 16_777_215] {
        let mut pair = Pair::new(chunk_bytes);
        pair.settle();
        assert_eq!(pair.client_events, [ClientEvent::PublishStarted]);
        let sent = [
            media(MediaKind::Script, 0, 300),
            media(MediaKind::Video, 0, 200_000),
            media(MediaKind::Audio, 0, 7),
            media(MediaKind::Video, 40, 1),
            media(MediaKind::Audio, 21, 0),
            media(MediaKind::Video, 80, 12 << 20),
            media(MediaKind::Audio, 3, 128),
            media(MediaKind::Audio, 0xFFFF_FFFF, 256),
            media(MediaKind::Audio, 2, 129),
        ];
        for message in &sent {
            pair.client.send(message);
        }
        pair.settle();
        assert_eq!(received(&pair), sent.iter().collect::<Vec<_>>());
        pair.client.finish();
        pair.settle();
        assert_eq!(
            pair.server_events.last(),
            Some(&ServerEvent::PublishEnded(EndCause::FcUnpublish))
        );
        assert_eq!(pair.server_error, None);
    }
}

#[test]
fn a_body_is_a_buffer_of_its_exact_size() {
    let mut pair = Pair::new(4096);
    pair.settle();
    pair.client.send(&media(MediaKind::Video, 0, 100_001));
    pair.settle();
    let body = received(&pair)[0].body.clone();
    pair.server_events.clear();
    let buffer = Vec::from(body);
    assert_eq!((buffer.len(), buffer.capacity()), (100_001, 100_001));
}

#[test]
fn a_publish_takes_four_round_trips() {
    let mut pair = Pair::new(4096);
    let begin = pair.now;
    pair.settle();
    // Handshake, connect, createStream, publish.
    assert_eq!(pair.now - begin, pair.latency * 8);
}

#[test]
fn a_refused_publisher_learns_why() {
    let mut pair = Pair::new(4096);
    pair.decision = Err(rejection("Stream key not accepted"));
    pair.settle();
    assert_eq!(
        pair.client_events,
        [ClientEvent::Rejected {
            code: "NetStream.Publish.BadName".to_owned(),
            description: "Stream key not accepted".to_owned(),
        }]
    );
    assert!(pair.server.is_closing());
    assert!(!pair.server.wants_input());
    assert_eq!(pair.server.poll_timeout(), None);
}

#[test]
fn a_live_publisher_is_told_before_it_is_closed() {
    let mut pair = Pair::new(4096);
    pair.settle();
    pair.server.close(rejection("The key was revoked"));
    pair.settle();
    assert_eq!(
        pair.client_events.last(),
        Some(&ClientEvent::Rejected {
            code: "NetStream.Failed".to_owned(),
            description: "The key was revoked".to_owned(),
        })
    );
    pair.client.send(&media(MediaKind::Audio, 0, 10));
    pair.settle();
    assert!(received(&pair).is_empty(), "nothing comes after the close");
}

#[test]
fn every_step_to_a_publish_has_a_deadline_in_total() {
    // One byte per second does not prolong the handshake.
    let mut server = wire::Server::new();
    for byte in &wire::Script::new().bytes[..10] {
        server.feed(&[*byte]).unwrap();
        assert!(server.session.poll_timeout().unwrap() > server.now);
        server.pass(SECOND);
    }
    assert_eq!(server.session.poll_timeout(), Some(server.now));
    let deadline = |phase| Err(ProtocolError::Deadline { phase });
    assert_eq!(
        server.session.handle_timeout(server.now),
        deadline("the handshake")
    );

    for (script, seconds, phase) in [
        (wire::Script::new(), 10, "connect"),
        (wire::Script::connected(), 20, "publish"),
        (wire::Script::published(), 20, "any data"),
    ] {
        let mut server = wire::Server::new();
        server.feed(&script.bytes).unwrap();
        server.pass(SECOND * seconds - Duration::from_millis(1));
        assert_eq!(server.session.handle_timeout(server.now), Ok(()));
        server.pass(Duration::from_millis(1));
        assert_eq!(server.session.poll_timeout(), Some(server.now));
        assert_eq!(server.session.handle_timeout(server.now), deadline(phase));
        assert!(server.session.is_closing());
    }
}

#[test]
fn an_undecided_publish_has_no_deadline_and_takes_no_input() {
    let mut server = wire::Server::new();
    server.accepts = false;
    let mut script = wire::Script::published();
    script.message(6, 9, 0, 1, &[0x17; 1_000_000]);
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.events.len(), 1);
    assert!(!server.session.wants_input());
    assert_eq!(server.session.poll_timeout(), None);

    server.accepts = true;
    server.session.accept_publish(server.now);
    server.feed(&[]).unwrap();
    assert_eq!(server.media().len(), 1, "what was sent too early waits");
}

#[test]
fn a_publisher_without_media_or_any_byte_is_closed() {
    let mut pair = Pair::new(4096);
    pair.settle();
    for _ in 0..3 {
        pair.client.send(&media(MediaKind::Script, 0, 10));
        pair.pass(SECOND * 9);
    }
    let phase = "the first media";
    assert_eq!(pair.server_error, Some(ProtocolError::Deadline { phase }));

    let mut pair = Pair::new(4096);
    pair.settle();
    for second in 0..100 {
        pair.client
            .send(&media(MediaKind::Audio, second * 1000, 10));
        pair.pass(SECOND);
    }
    assert_eq!(pair.server_error, None);
    pair.pass(SECOND * 21);
    let phase = "any data";
    assert_eq!(pair.server_error, Some(ProtocolError::Deadline { phase }));
    assert!(matches!(
        pair.client_events.last(),
        Some(ClientEvent::Rejected { description, .. }) if description == "any data took too long"
    ));
}

#[test]
fn a_message_that_drips_ends_the_connection_and_a_large_one_does_not() {
    for (bytes_per_second, is_closed) in [(1_000, true), (3_000, false)] {
        let mut server = wire::Server::publishing();
        let mut script = wire::Script::published();
        drop(script.bytes.split());
        script.message(6, 9, 0, 1, &[0x17; 100]);
        server.feed(&script.bytes.split()).unwrap();
        script.chunk_bytes(1 << 20);
        script.message(6, 9, 40, 1, &[0x27; 1 << 20]);
        let mut outcome = Ok(());
        for piece in script.bytes.chunks(bytes_per_second).take(60) {
            outcome = server
                .feed(piece)
                .and_then(|()| server.session.handle_timeout(server.now));
            server.pass(SECOND);
            if outcome.is_err() {
                break;
            }
        }
        let phase = "a complete message";
        let expected = if is_closed {
            Err(ProtocolError::Deadline { phase })
        } else {
            Ok(())
        };
        assert_eq!(outcome, expected, "{bytes_per_second} bytes per second");
    }
}

#[test]
fn silence_that_backpressure_caused_is_forgiven() {
    let mut server = wire::Server::publishing();
    server.session.pause();
    assert_eq!(server.session.poll_timeout(), None);
    server.pass(SECOND * 3600);
    assert_eq!(server.session.handle_timeout(server.now), Ok(()));
    server.session.resume(server.now);
    server.pass(SECOND * 19);
    assert_eq!(server.session.handle_timeout(server.now), Ok(()));
    server.pass(SECOND);
    assert!(server.session.handle_timeout(server.now).is_err());
}

#[test]
fn acknowledgements_follow_the_window_but_never_storm() {
    for (window, expected) in [(1_u32, 15..=16), (400_000, 4..=5), (u32::MAX, 0..=0)] {
        let mut server = wire::Server::publishing();
        let mut script = wire::Script::published();
        drop(script.bytes.split());
        script.control(5, &window.to_be_bytes());
        script.chunk_bytes(65_536);
        for timestamp in 0..1_000 {
            script.message(6, 9, timestamp, 1, &[0x27; 1_000]);
        }
        for piece in script.bytes.chunks(1_500) {
            server.feed(piece).unwrap();
        }
        let replies = server.replies();
        let sequences: Vec<u32> = replies
            .iter()
            .filter(|reply| reply.type_id == 3)
            .map(|reply| u32::from_be_bytes(<[u8; 4]>::try_from(&reply.body[..]).unwrap()))
            .collect();
        assert!(
            expected.contains(&sequences.len()),
            "{window}: {sequences:?}"
        );
        assert!(sequences.is_sorted());
    }
}

#[test]
fn the_client_speaks_to_a_server_with_other_limits() {
    let limits = Limits {
        chunk_bytes_in_min: 4096,
        ..Limits::default()
    };
    let mut pair = Pair::with(128, limits.clone());
    pair.settle();
    assert_eq!(pair.client_events, [ClientEvent::PublishStarted]);

    let mut pair = Pair::with(1024, limits);
    pair.settle();
    let error = ProtocolError::ChunkSize { bytes: 1024 };
    assert_eq!(pair.server_error, Some(error));
}

#[test]
fn a_publisher_that_said_it_can_is_asked_to_reconnect_and_goes_on_until_it_leaves() {
    let mut pair = Pair::announcing(caps_ex::RECONNECT | caps_ex::MOD_EX);
    assert!(!pair.server.request_reconnect("Too early"));
    pair.settle();
    assert!(pair.server.request_reconnect("The server is restarting"));
    pair.settle();
    let asked = ClientEvent::ReconnectRequested {
        tc_url: String::new(),
    };
    assert_eq!(pair.client_events, [ClientEvent::PublishStarted, asked]);
    pair.client.send(&media(MediaKind::Video, 40, 1_000));
    pair.client.finish();
    pair.settle();
    assert_eq!(received(&pair).len(), 1);
    assert!(!pair.server.is_closing());
    assert!(!pair.server.request_reconnect("It has left"));
}

#[test]
fn a_publisher_that_did_not_say_so_is_not_asked_to_reconnect() {
    let mut pair = Pair::announcing(caps_ex::MULTITRACK);
    pair.settle();
    assert!(!pair.server.request_reconnect("The server is restarting"));
    pair.settle();
    assert_eq!(pair.client_events, [ClientEvent::PublishStarted]);
}
