//! Timestamps over their edges: 2^24 (the extended field begins), 2^31 and 2^32 (the counter wraps).

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests fail like tests"
)]

#[path = "support/wire.rs"]
mod wire;

use wire::{Script, Server};

const EDGES: [u32; 3] = [1 << 24, 1 << 31, 0];

/// A message of two chunks whose payload begins its second chunk with `second`.
fn body(second: &[u8]) -> Vec<u8> {
    let mut body = vec![0x27; 128];
    body.extend_from_slice(second);
    body.resize(200, 0xEE);
    body
}

/// Header, then the body in chunks of 128 bytes with `between` before the second.
fn raw_message(script: &mut Script, header: &[u8], between: &[u8], body: &[u8]) {
    script.raw(header);
    script.raw(&body[..128]);
    script.raw(&[0xC6]);
    script.raw(between);
    script.raw(&body[128..]);
}

#[test]
fn timestamps_pass_the_edges_through_writer_and_reader() {
    for edge in EDGES {
        let mut script = Script::published();
        let steps = (0..10).map(|step| edge.wrapping_sub(100).wrapping_add(step * 23));
        let sent: Vec<u32> = steps.collect();
        for timestamp in &sent {
            script.message(6, 9, *timestamp, 1, &body(&timestamp.to_be_bytes()));
        }
        let mut server = Server::new();
        server.feed(&script.bytes).unwrap();
        let came: Vec<u32> = server.media().iter().map(|media| media.timestamp).collect();
        assert_eq!(came, sent);
    }
}

#[test]
fn hostile_48_an_extended_timestamp_may_or_may_not_be_repeated() {
    for edge in EDGES {
        for timestamp in [
            0xFF_FFFF,
            edge.wrapping_add(0xFF_FFFF),
            edge.wrapping_sub(1),
        ] {
            if timestamp < 0xFF_FFFF {
                continue;
            }
            for repeats in [true, false] {
                let body = body(&[1, 2, 3]);
                let mut script = Script::published();
                script.raw_full_header(6, timestamp, body.len(), 9);
                let between = timestamp.to_be_bytes();
                raw_message(
                    &mut script,
                    &[],
                    if repeats { &between } else { &[] },
                    &body,
                );
                script.message(4, 8, 5, 1, b"after");
                let mut server = Server::new();
                server.feed(&script.bytes).unwrap();
                let media = server.media();
                assert_eq!(media.len(), 2, "{timestamp:#x}, repeats: {repeats}");
                assert_eq!(media[0].timestamp, timestamp);
                assert_eq!(media[0].body, body);
            }
        }
    }
}

#[test]
fn an_extended_field_on_fmt_1_and_2_is_a_delta() {
    let delta = 0x0100_0010_u32;
    for repeats in [true, false] {
        let body = body(&[9, 9]);
        let between = delta.to_be_bytes();
        let between: &[u8] = if repeats { &between } else { &[] };
        let mut script = Script::published();
        script.raw_full_header(6, 1000, body.len(), 9);
        raw_message(&mut script, &[], &[], &body);
        let mut header = vec![0x46, 0xFF, 0xFF, 0xFF, 0, 0, 200, 9];
        header.extend_from_slice(&delta.to_be_bytes());
        raw_message(&mut script, &header, between, &body);
        let mut header = vec![0x86, 0xFF, 0xFF, 0xFF];
        header.extend_from_slice(&delta.to_be_bytes());
        raw_message(&mut script, &header, between, &body);
        // A new message by fmt 3 has the field always, and adds it.
        let mut header = vec![0xC6];
        header.extend_from_slice(&delta.to_be_bytes());
        raw_message(&mut script, &header, between, &body);
        let mut server = Server::new();
        server.feed(&script.bytes).unwrap();
        let media = server.media();
        let came: Vec<u32> = media.iter().map(|media| media.timestamp).collect();
        assert_eq!(
            came,
            [1000, 1000 + delta, 1000 + 2 * delta, 1000 + 3 * delta]
        );
        assert!(media.iter().all(|media| media.body == body));
    }
}

#[test]
fn fmt_3_that_begins_a_message_adds_the_latest_field_even_an_absolute_one() {
    let mut script = Script::published();
    script.raw_full_header(6, 100, 1, 9);
    script.raw(&[0xA1]);
    script.raw(&[0xC6, 0xA2]);
    script.raw(&[0x86, 0, 0, 40, 0xA3]);
    script.raw(&[0xC6, 0xA4]);
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    let came: Vec<u32> = server.media().iter().map(|media| media.timestamp).collect();
    assert_eq!(came, [100, 200, 240, 280]);
}

#[test]
fn a_negative_delta_wraps() {
    let mut script = Script::published();
    script.raw_full_header(6, 100, 1, 9);
    script.raw(&[0xA1]);
    let delta = 0_u32.wrapping_sub(30).to_be_bytes();
    script.raw(&[0x86, 0xFF, 0xFF, 0xFF]);
    script.raw(&delta);
    script.raw(&[0xA2]);
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.media()[1].timestamp, 70);
}

#[test]
fn hostile_47_an_extended_value_below_its_range_is_accepted() {
    let mut script = Script::published();
    script.raw(&[6, 0xFF, 0xFF, 0xFF, 0, 0, 1, 9, 1, 0, 0, 0]);
    script.raw(&5_u32.to_be_bytes());
    script.raw(&[0xA1]);
    let mut server = Server::new();
    server.feed(&script.bytes).unwrap();
    assert_eq!(server.media()[0].timestamp, 5);
}
