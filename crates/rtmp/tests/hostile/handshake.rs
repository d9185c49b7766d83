//! The handshake, and what comes with it.

use rtmp::limits::UNPUBLISHED_MESSAGE_BYTES;

use super::wire::{Script, Server};
use super::{Fails, HELD_BYTES, Lives, fate, feed};

#[test]
fn hostile_05_other_versions_are_closed_at_their_first_byte() {
    for (byte, reason) in [
        (6, "rtmpe"),
        (0, "unknown_protocol"),
        (255, "unknown_protocol"),
        (0x16, "tls_on_plain_port"),
        (b'G', "http"),
    ] {
        let came = fate(Script::new, |s| {
            s.bytes.clear();
            s.raw(&[byte]);
        });
        assert_eq!(came, Fails(reason));
    }
}

#[test]
fn hostile_06_a_version_and_an_invalid_digest_in_c1_get_the_simple_handshake() {
    let mut script = Script::connected();
    for (position, byte) in script.bytes[1..1537].iter_mut().enumerate() {
        *byte = (position * 7 % 251) as u8;
    }
    script.bytes[5..9].copy_from_slice(&[0x80, 0, 7, 2]);
    let c1 = script.bytes[1..1537].to_vec();
    let mut server = Server::new();
    feed(&mut server, &script.bytes).unwrap();
    assert_eq!(server.output[5..9], [0; 4], "no version in S1");
    assert_eq!(server.output[1537..3073], c1, "S2 is C1");
    assert_eq!(
        server.replied_commands().len(),
        2,
        "connect and createStream"
    );
}

#[test]
fn hostile_07_a_wrong_echo_is_accepted() {
    let wrong = |s: &mut Script| s.bytes[1537..3073].fill(0xEE);
    assert_eq!(fate(Script::published, wrong), Lives);
}

#[test]
fn hostile_08_a_burst_waits_for_the_decision_in_the_drivers_buffer() {
    let mut script = Script::published();
    script.chunk_bytes(65_536);
    script.message(6, 9, 0, 1, &vec![0x17; 1 << 20]);
    let mut server = Server::new();
    server.accepts = false;
    server.feed(&script.bytes).unwrap();
    assert!(!server.session.wants_input());
    assert!(server.session.held_bytes() <= HELD_BYTES);
    server.accepts = true;
    server.session.accept_publish(server.now);
    server.feed(&[]).unwrap();
    assert_eq!(server.media().len(), 1);

    // Nobody asked to publish: nothing waits for a decision, and what is too much ends the connection.
    let early = |s: &mut Script| {
        s.chunk_bytes(65_536);
        s.message(6, 9, 0, 1, &vec![0x17; UNPUBLISHED_MESSAGE_BYTES + 1]);
    };
    assert_eq!(fate(Script::connected, early), Fails("message_too_large"));
}
