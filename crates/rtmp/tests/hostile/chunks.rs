//! Chunks that no encoder would send.

use std::time::Duration;

use super::wire::{Script, Server};
use super::{Fails, HELD_BYTES, Lives, fate, feed, fresh};

/// The first chunk of a message of 300 bytes.
fn begun(script: &mut Script) {
    script.raw_full_header(6, 0, 300, 9);
    script.raw(&[0; 128]);
}

#[test]
fn hostile_09_a_chunk_stream_begins_with_a_header() {
    for (bytes, expected) in [
        (&[0xC7][..], Fails("unknown_chunk_stream")),
        (&[0x87, 0, 0, 0], Fails("unknown_chunk_stream")),
        // Old encoders begin csid 2 with it.
        (&[0x47, 0, 0, 0, 0, 0, 1, 9, 0xAA], Lives),
    ] {
        assert_eq!(fate(Script::published, |s| s.raw(bytes)), expected);
    }
}

#[test]
fn hostile_10_chunk_streams_without_end() {
    let many = |s: &mut Script| {
        for csid in 64..=65_599 {
            s.message(csid, 9, 0, 1, b"x");
        }
    };
    for begin in [Script::connected, Script::published] {
        assert_eq!(fate(begin, many), Fails("too_many_chunk_streams"));
    }
    let unfinished = |s: &mut Script| {
        for csid in 10..20 {
            s.raw_full_header(csid, 0, 10_000, 9);
            s.raw(&[0; 128]);
        }
    };
    assert_eq!(
        fate(Script::published, unfinished),
        Fails("too_much_unfinished")
    );
}

#[test]
fn hostile_11_a_declared_length_reserves_nothing_and_a_drip_ends() {
    let mut server = Server::publishing();
    let mut script = fresh();
    script.chunk_bytes(0x7FFF_FFFF);
    script.raw_full_header(6, 0, 0xFF_FFFF, 9);
    feed(&mut server, &script.bytes).unwrap();
    assert!(server.session.held_bytes() <= HELD_BYTES);
    let mut outcome = Ok(());
    for _ in 0..60 {
        server.feed(&[0]).unwrap();
        server.pass(Duration::from_secs(1));
        outcome = server.session.handle_timeout(server.now);
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome.unwrap_err().reason(), "deadline");
    assert!(server.session.held_bytes() <= HELD_BYTES);
}

#[test]
fn hostile_12_large_messages_in_parallel() {
    let parallel = |s: &mut Script| {
        s.chunk_bytes(15 << 20);
        for csid in 10..12 {
            s.raw_full_header(csid, 0, 0xFF_FFFF, 9);
            s.raw(&vec![0; 15 << 20]);
        }
    };
    assert_eq!(
        fate(Script::published, parallel),
        Fails("too_much_unfinished")
    );
    // A stranger has 64 KiB in all.
    let small = |s: &mut Script| {
        s.chunk_bytes(60_000);
        for csid in 10..12 {
            s.raw_full_header(csid, 0, 65_000, 9);
            s.raw(&[0; 60_000]);
        }
    };
    assert_eq!(fate(Script::connected, small), Fails("too_much_unfinished"));
}

#[test]
fn hostile_13_a_message_does_not_change_before_it_is_complete() {
    for restated in [
        // Longer, shorter, of another type.
        [0x46, 0, 0, 0, 0, 2, 0, 9],
        [0x46, 0, 0, 0, 0, 0, 1, 9],
        [0x46, 0, 0, 0, 0, 1, 44, 8],
    ] {
        let changed = |s: &mut Script| {
            begun(s);
            s.raw(&restated);
        };
        assert_eq!(
            fate(Script::published, changed),
            Fails("message_interrupted")
        );
    }
    let same_again = |s: &mut Script| {
        begun(s);
        s.raw(&[0x46, 0, 0, 0, 0, 1, 44, 9]);
        s.raw(&[0; 128]);
        s.raw(&[0x86, 0, 0, 0]);
        s.raw(&[0; 44]);
    };
    assert_eq!(fate(Script::published, same_again), Lives);
}

#[test]
fn hostile_14_a_full_header_in_the_middle_of_a_message() {
    let interrupted = |s: &mut Script| {
        begun(s);
        begun(s);
    };
    assert_eq!(
        fate(Script::published, interrupted),
        Fails("message_interrupted")
    );
}
