//! Commands and data that decode badly. A stranger's connection ends; a publisher's command is passed over, and its data
//! message dropped where it breaks a limit.

use rtmp::amf0::{Value, encode};
use rtmp::message_type;

use super::wire::{Script, Server, call};
use super::{Fails, Lives, fate, feed, fresh};

/// A command `x` whose next value is this.
fn command_with(value: &[u8]) -> Vec<u8> {
    [&encode(&call("x", 0.0, &[])), value].concat()
}

fn check_command(body: &[u8]) {
    let send = |s: &mut Script| s.message(3, message_type::COMMAND_AMF0, 0, 0, body);
    let shown = body.get(..40).unwrap_or(body);
    assert_eq!(
        fate(Script::new, send),
        Fails("malformed_command"),
        "{shown:02X?}"
    );
    assert_eq!(
        fate(Script::connected, send),
        Fails("malformed_command"),
        "{shown:02X?}"
    );
    assert_eq!(fate(Script::published, send), Lives, "{shown:02X?}");
}

/// What of these data messages of a publisher is passed on.
fn passed_on(bodies: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut server = Server::publishing();
    let mut script = fresh();
    script.chunk_bytes(65_536);
    for body in bodies {
        script.message(4, message_type::DATA_AMF0, 0, 1, body);
    }
    script.message(4, message_type::AUDIO, 0, 1, &[0xAF, 1]);
    feed(&mut server, &script.bytes).unwrap();
    let mut passed: Vec<_> = server
        .media()
        .iter()
        .map(|media| media.body.to_vec())
        .collect();
    assert_eq!(
        passed.pop(),
        Some(vec![0xAF, 1]),
        "what follows is not lost"
    );
    passed
}

/// A data message `x` with this value.
fn data_with(value: &[u8]) -> Vec<u8> {
    [&encode(&[Value::text("x")]), value].concat()
}

#[test]
fn hostile_25_ten_thousand_levels() {
    let arrays = [0x0A, 0, 0, 0, 1].repeat(10_000);
    let objects = [0x03, 0, 1, b'k'].repeat(10_000);
    // AMF3 arrays, behind a switch; and a switch for each.
    let amf3 = [&[0x11][..], &[0x09, 0x03, 0x01].repeat(10_000)].concat();
    let switches = [0x11].repeat(10_000);
    for value in [&arrays, &objects, &amf3] {
        check_command(&command_with(value));
        assert!(passed_on(&[data_with(value)]).is_empty());
    }
    // 0x11 behind 0x11 is a dictionary of AMF3, which ends early.
    check_command(&command_with(&switches));
    assert!(passed_on(&[data_with(&switches)]).is_empty());
}

#[test]
fn hostile_26_counts_that_lie() {
    check_command(&command_with(&[
        0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 5, 5, 5, 5, 5,
    ]));
    check_command(&command_with(&[
        0x11, 0x09, 0xFF, 0xFF, 0xFF, 0xFF, 1, 1, 1, 1,
    ]));
    // An ECMA array's count means nothing.
    for count in [0, 1, u32::MAX] {
        let array = [&[0x08][..], &count.to_be_bytes(), &[0, 1, b'k', 5, 0, 0, 9]].concat();
        let body = command_with(&array);
        let send = |s: &mut Script| s.message(3, message_type::COMMAND_AMF0, 0, 0, &body);
        assert_eq!(fate(Script::connected, send), Lives);
        let body = data_with(&array);
        assert_eq!(passed_on(std::slice::from_ref(&body)), [body]);
    }
}

#[test]
fn hostile_27_lengths_beyond_the_end() {
    check_command(&command_with(&[0x0C, 0xFF, 0xFF, 0xFF, 0xFF]));
    check_command(&command_with(&[0x02, 0xFF, 0xFF, b'a']));
    check_command(&command_with(&[0x0F, 0, 1, 0, 0, b'<']));
    check_command(&[0x02, 0, 1, b'x', 0, 1]);
    check_command(&command_with(&[0x11, 0x06, 0x81]));
}

#[test]
fn hostile_28_tiny_keys_without_end() {
    let mut object = vec![0x03];
    object.extend_from_slice(&[0, 1, b'k', 5].repeat(15_000));
    let body = command_with(&object);
    let send = |s: &mut Script| s.message(3, message_type::COMMAND_AMF0, 0, 0, &body);
    assert_eq!(fate(Script::connected, send), Fails("malformed_command"));
    // 200 000 would be larger than a data message may be; what fits has a limit of its own.
    let mut object = vec![0x03];
    object.extend_from_slice(&[0, 0, 5].repeat(80_000));
    assert!(passed_on(&[data_with(&object)]).is_empty());
    let too_large = |s: &mut Script| {
        let body = data_with(&[0, 1, b'k', 5].repeat(200_000));
        s.message(4, message_type::DATA_AMF0, 0, 1, &body);
    };
    assert_eq!(
        fate(Script::published, too_large),
        Fails("message_too_large")
    );
}

#[test]
fn hostile_29_references_that_loop_or_lead_nowhere() {
    check_command(&command_with(&[0x07, 0, 0]));
    // AMF3: a string, an object, a class that are not there; an object that is itself; a class that reads itself.
    let amf3 = [
        &[0x11, 0x06, 0x04][..],
        &[0x11, 0x0A, 0x04],
        &[0x11, 0x0A, 0x05],
        &[0x11, 0x09, 0x03, 0x01, 0x09, 0x00],
        &[0x11, 0x0A, 0x07, 0x01],
        // A U29 of five bytes is one of four with 0xFF at its end, and then a marker that does not exist.
        &[0x11, 0x04, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
    ];
    for value in amf3 {
        check_command(&command_with(value));
    }
    for value in [amf3[0], amf3[1], amf3[2], amf3[4]] {
        assert!(passed_on(&[data_with(value)]).is_empty(), "{value:02X?}");
    }
    // In data, a loop is cut.
    let cut = encode(&[
        Value::text("x"),
        Value::StrictArray(vec![Value::Unsupported]),
    ]);
    assert_eq!(passed_on(&[data_with(amf3[3])]), [cut]);
}

#[test]
fn hostile_30_an_object_without_an_end() {
    let object = [0x03, 0, 1, b'k', 5];
    check_command(&command_with(&object));
    let body = data_with(&object);
    assert_eq!(passed_on(std::slice::from_ref(&body)), [body]);
}

#[test]
fn hostile_31_names_and_transactions_that_are_none() {
    check_command(&encode(&[Value::Number(1.0)]));
    check_command(&[]);
    let odd = |s: &mut Script| {
        for transaction in [f64::NAN, -1.0, 1e300, f64::INFINITY, 0.5] {
            s.command(3, 0, &call("getStreamLength", transaction, &[]));
        }
        let name = "n".repeat(60_000);
        s.command(3, 0, &[Value::text(&name)]);
        s.command(3, 0, &[Value::text("x"), Value::text("no number")]);
    };
    for begin in [Script::connected, Script::published] {
        assert_eq!(fate(begin, odd), Lives);
    }
}
