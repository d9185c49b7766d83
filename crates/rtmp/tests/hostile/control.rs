//! Protocol control, user control, and message types that are not for us.

use rtmp::message_type;

use super::wire::{Script, Server};
use super::{Fails, HELD_BYTES, Lives, fate, feed, fresh};

fn set_chunk_size(script: &mut Script, bytes: u32) {
    script.control(message_type::SET_CHUNK_SIZE, &bytes.to_be_bytes());
}

/// The first chunk of a message of 200 bytes.
fn half_a_message(script: &mut Script) {
    script.raw_full_header(6, 0, 200, 9);
    script.raw(&[0; 128]);
}

#[test]
fn hostile_15_chunk_sizes_that_are_none() {
    for bytes in [0, 1 << 31, u32::MAX] {
        for begin in [Script::new, Script::published] {
            let came = fate(begin, |s| set_chunk_size(s, bytes));
            assert_eq!(came, Fails("chunk_size"), "{bytes}");
        }
    }
    let short = |s: &mut Script| s.control(1, &[0, 0, 128]);
    assert_eq!(fate(Script::published, short), Fails("malformed_control"));
}

#[test]
fn hostile_16_chunks_of_one_byte() {
    for (bytes, expected) in [
        (1, Fails("chunk_size")),
        (127, Fails("chunk_size")),
        (128, Lives),
    ] {
        let came = fate(Script::published, |s| set_chunk_size(s, bytes));
        assert_eq!(came, expected, "{bytes}");
    }
}

#[test]
fn hostile_17_huge_chunk_sizes_cost_nothing() {
    for bytes in [0x7FFF_FFFF, 134_217_728] {
        let mut server = Server::publishing();
        let mut script = fresh();
        script.chunk_bytes(bytes);
        script.message(6, 9, 0, 1, &vec![0x17; 1 << 20]);
        feed(&mut server, &script.bytes).unwrap();
        assert_eq!(server.media().len(), 1);
        assert!(server.session.held_bytes() <= HELD_BYTES);
    }
}

#[test]
fn hostile_18_chunk_sizes_without_end_and_in_the_middle_of_a_message() {
    let flood = |s: &mut Script| (0..100_000).for_each(|_| set_chunk_size(s, 128));
    assert_eq!(
        fate(Script::published, flood),
        Fails("too_many_control_messages")
    );
    let between = |s: &mut Script| {
        s.raw_full_header(6, 0, 500, 9);
        s.raw(&[0; 128]);
        set_chunk_size(s, 300);
        s.raw(&[0xC6]);
        s.raw(&[0; 300]);
        set_chunk_size(s, 128);
        s.raw(&[0xC6]);
        s.raw(&[0; 72]);
    };
    assert_eq!(fate(Script::published, between), Lives);
}

#[test]
fn hostile_19_abort_of_something_and_of_nothing() {
    let nothing = |s: &mut Script| {
        s.control(2, &7_u32.to_be_bytes());
        s.control(2, &[0]);
    };
    assert_eq!(fate(Script::published, nothing), Lives);
    let mut server = Server::publishing();
    let mut script = fresh();
    half_a_message(&mut script);
    script.control(2, &6_u32.to_be_bytes());
    half_a_message(&mut script);
    script.raw(&[0xC6]);
    script.raw(&[1; 72]);
    feed(&mut server, &script.bytes).unwrap();
    let media = server.media();
    assert_eq!(media.len(), 1, "the first is gone, the second whole");
    assert_eq!((media[0].body.len(), media[0].body[199]), (200, 1));
}

#[test]
fn hostile_20_window_sizes_of_nothing_and_of_everything() {
    for window in [0, 1, u32::MAX] {
        let mut server = Server::publishing();
        let mut script = fresh();
        script.control(5, &u32::to_be_bytes(window));
        script.control(5, &[1]);
        script.chunk_bytes(65_536);
        for _ in 0..100 {
            script.message(6, 9, 0, 1, &[0; 10_000]);
        }
        feed(&mut server, &script.bytes).unwrap();
        assert_eq!(server.media().len(), 100);
        let replies = server.replies();
        let acknowledgements = replies.iter().filter(|reply| reply.type_id == 3);
        // A megabyte, and at most one per 64 KiB.
        assert!(acknowledgements.count() <= 16, "window {window}");
    }
}

#[test]
fn hostile_21_a_peer_bandwidth_of_nothing() {
    let nothing = |s: &mut Script| {
        s.control(6, &[0, 0, 0, 0, 0]);
        s.control(6, &[0, 0]);
    };
    assert_eq!(fate(Script::published, nothing), Lives);
}

#[test]
fn hostile_22_acknowledgements_of_anything() {
    let anything = |s: &mut Script| {
        for sequence in [u32::MAX, 0, 5] {
            s.control(3, &u32::to_be_bytes(sequence));
        }
        s.control(3, &[]);
    };
    assert_eq!(fate(Script::published, anything), Lives);
}

#[test]
fn hostile_23_pings_without_end_and_unknown_events() {
    let odd = |s: &mut Script| {
        s.control(4, &[0, 0x22, 1, 2, 3, 4]);
        s.control(4, &[0]);
        s.control(4, &[]);
        s.control(4, &[0, 6, 1]);
    };
    assert_eq!(fate(Script::published, odd), Lives);

    let mut server = Server::publishing();
    let mut script = fresh();
    for time in 0..200_u32 {
        let body = [&[0, 6][..], &time.to_be_bytes()].concat();
        script.control(message_type::USER_CONTROL, &body);
    }
    feed(&mut server, &script.bytes).unwrap();
    let replies = server.replies();
    assert_eq!(&replies[3].body[..], [0, 7, 0, 0, 0, 3]);
    assert_eq!(replies.len(), 40, "ten per second over the window");
    let flood = |s: &mut Script| (0..1_000).for_each(|_| s.control(4, &[0, 6, 0, 0, 0, 0]));
    assert_eq!(
        fate(Script::published, flood),
        Fails("too_many_control_messages")
    );
}

#[test]
fn hostile_24_unknown_types_and_broken_aggregates() {
    let unknown = |s: &mut Script| {
        for type_id in [0, 7, 16, 19, 21, 255] {
            s.message(6, type_id, 0, 1, b"whatever");
        }
    };
    assert_eq!(fate(Script::published, unknown), Lives);
    let overrun = |s: &mut Script| s.message(6, 22, 0, 1, &[9, 0, 0, 200]);
    assert_eq!(fate(Script::published, overrun), Lives);

    // An audio tag, an aggregate of it, and a tag that overruns.
    let tag = |type_id: u8, body: &[u8]| {
        let bytes = u8::try_from(body.len()).unwrap();
        let head = [type_id, 0, 0, bytes, 0, 0, 5, 0, 0, 0, 0];
        [&head, body, &[0; 4]].concat()
    };
    let audio = tag(8, &[0xAF, 1]);
    let overrun = [9, 0, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut server = Server::publishing();
    let mut script = fresh();
    script.message(
        6,
        22,
        1_000,
        1,
        &[&audio[..], &tag(22, &audio), &overrun].concat(),
    );
    feed(&mut server, &script.bytes).unwrap();
    let media = server.media();
    assert_eq!(
        media.len(),
        1,
        "nothing of the nested one, nor of what overruns"
    );
    assert_eq!(media[0].timestamp, 1_000);

    let million = |s: &mut Script| {
        s.chunk_bytes(16 << 20);
        let empty = [8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        s.message(6, 22, 0, 1, &empty.repeat(1_000_000));
    };
    assert_eq!(fate(Script::published, million), Fails("too_many_messages"));
}
