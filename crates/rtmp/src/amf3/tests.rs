use super::*;
use crate::amf0;

fn value(bytes: &[u8]) -> Result<Value<'_>, AmfError> {
    let mut decoder = Decoder::new(bytes, 4096);
    let value = decoder.value()?;
    assert!(decoder.is_empty(), "{value:?} and a rest");
    Ok(value)
}

/// The bytes of an array that holds these values.
fn array(values: &[&[u8]]) -> Vec<u8> {
    let count = u8::try_from(values.len()).unwrap();
    [&[0x09, count << 1 | 1, 0x01], values.concat().as_slice()].concat()
}

#[test]
fn every_kind_of_value_is_read() {
    let number = |number: f64| Ok(Value::Number(number));
    for (bytes, expected) in [
        (&[0x00][..], Ok(Value::Undefined)),
        (&[0x01], Ok(Value::Null)),
        (&[0x02], Ok(Value::Boolean(false))),
        (&[0x03], Ok(Value::Boolean(true))),
        (&[0x04, 0x7F], number(127.0)),
        (&[0x04, 0x81, 0x00], number(128.0)),
        (&[0x04, 0xFF, 0x7F], number(16_383.0)),
        (&[0x04, 0x81, 0x80, 0x00], number(16_384.0)),
        (&[0x04, 0x80, 0xC0, 0x80, 0x00], number(2_097_152.0)),
        (&[0x04, 0xBF, 0xFF, 0xFF, 0xFF], number(268_435_455.0)),
        (&[0x04, 0xFF, 0xFF, 0xFF, 0xFF], number(-1.0)),
        (&[0x04, 0xC0, 0x80, 0x80, 0x00], number(-268_435_456.0)),
        (&[0x05, 0x3F, 0xF8, 0, 0, 0, 0, 0, 0], number(1.5)),
        (&[0x06, 0x07, b'a', b'b', b'c'], Ok(Value::text("abc"))),
        (&[0x06, 0x01], Ok(Value::text(""))),
        (&[0x07, 0x03, b'<'], Ok(Value::Xml(b"<"))),
        (&[0x0B, 0x03, b'>'], Ok(Value::Xml(b">"))),
        (&[0x0C, 0x05, 1, 2], Ok(Value::ByteArray(&[1, 2]))),
        (
            &[0x08, 0x01, 0x3F, 0xF0, 0, 0, 0, 0, 0, 0],
            Ok(Value::Date {
                milliseconds: 1.0,
                time_zone: 0,
            }),
        ),
        (
            &[0x0D, 0x03, 0, 0xFF, 0xFF, 0xFF, 0xFF],
            Ok(Value::StrictArray(vec![Value::Number(-1.0)])),
        ),
        (
            &[0x0E, 0x03, 1, 0xFF, 0xFF, 0xFF, 0xFF],
            Ok(Value::StrictArray(vec![Value::Number(4_294_967_295.0)])),
        ),
        (
            &[0x0F, 0x03, 0, 0x3F, 0xF0, 0, 0, 0, 0, 0, 0],
            Ok(Value::StrictArray(vec![Value::Number(1.0)])),
        ),
        (
            &[0x10, 0x05, 0, 0x01, 0x01, 0x03],
            Ok(Value::StrictArray(vec![Value::Null, Value::Boolean(true)])),
        ),
        (
            &[0x11, 0x03, 0, 0x06, 0x03, b'k', 0x03],
            Ok(Value::Dictionary(vec![(
                Value::text("k"),
                Value::Boolean(true),
            )])),
        ),
    ] {
        assert_eq!(value(bytes), expected, "{bytes:02X?}");
    }
}

#[test]
fn arrays_have_keys_values_or_both() {
    assert_eq!(
        value(&[0x09, 0x05, 0x01, 0x01, 0x02]),
        Ok(Value::StrictArray(vec![Value::Null, Value::Boolean(false)]))
    );
    let mixed = value(&[0x09, 0x03, 0x03, b'k', 0x02, 0x01, 0x04, 0x07]).unwrap();
    assert_eq!(mixed.property("k"), Some(&Value::Boolean(false)));
    // In AMF0 indices are keys.
    assert_eq!(
        amf0::Decoder::data(&amf0::encode(&[mixed]), 10).value(),
        Ok(Value::EcmaArray(vec![
            (b"0", Value::Number(7.0)),
            (b"k", Value::Boolean(false)),
        ]))
    );
}

#[test]
fn strings_and_classes_are_referred_to_and_objects_are_not_followed() {
    // A class P with the sealed member x, dynamic; an object of it, a second by reference to the class.
    let bytes = array(&[
        &[0x0A, 0x1B, 0x03, b'P', 0x03, b'x', 0x04, 0x01],
        &[0x03, b'd', 0x06, 0x02, 0x01],
        &[0x0A, 0x01, 0x04, 0x02, 0x01],
        // The first object again, and the array that all this is in.
        &[0x0A, 0x02],
        &[0x09, 0x00],
    ]);
    // The second slice belongs to the first.
    let bytes = [&bytes[..1], &[0x09], &bytes[2..]].concat();
    let object = |properties| Value::TypedObject {
        class: b"P",
        properties,
    };
    assert_eq!(
        value(&bytes),
        Ok(Value::StrictArray(vec![
            object(vec![
                (b"x", Value::Number(1.0)),
                (b"d", Value::String(b"x")),
            ]),
            object(vec![(b"x", Value::Number(2.0))]),
            Value::Unsupported,
            Value::Unsupported,
        ]))
    );
}

#[test]
fn what_refers_to_nothing_is_refused() {
    for bytes in [
        // A string, an object, a class, one beyond the only one.
        &[0x06, 0x00][..],
        &[0x0A, 0x00],
        &[0x0A, 0x01],
        &[0x09, 0x05, 0x01, 0x06, 0x03, b'a', 0x06, 0x02],
        // The empty string is in no table.
        &[0x09, 0x05, 0x01, 0x06, 0x01, 0x06, 0x00],
    ] {
        assert_eq!(value(bytes), Err(AmfError::Reference), "{bytes:02X?}");
    }
    assert_eq!(value(&[0x0A, 0x07, 0x01]), Err(AmfError::Externalizable));
}

#[test]
fn lies_about_sizes_are_errors_and_cost_nothing() {
    for bytes in [
        &[0x09, 0xFF, 0xFF, 0xFF, 0xFF, 0x01][..],
        &[0x0A, 0xFF, 0xFF, 0xFF, 0xFB, 0x01],
        &[0x0C, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3],
        &[0x0D, 0xFF, 0xFF, 0xFF, 0xFF, 0, 1, 2, 3, 4],
        &[0x0F, 0x05, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x01],
        &[0x11, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0x01, 0x01],
        &[0x06, 0x07, b'a'],
        &[0x05, 1, 2],
        // A U29 has no fifth byte, and this one no fourth.
        &[0x04, 0xFF, 0xFF, 0xFF],
        &[],
    ] {
        assert_eq!(value(bytes), Err(AmfError::Truncated), "{bytes:02X?}");
    }
    assert_eq!(
        value(&[0x06, 0xFF, 0xFF, 0xFF, 0xFF]),
        Err(AmfError::StringTooLong)
    );
    assert_eq!(value(&[0x12]), Err(AmfError::UnknownMarker(0x12)));
}

#[test]
fn depth_values_and_tables_are_bounded() {
    let nested = |depth: usize| {
        let mut bytes = [0x09, 0x03, 0x01].repeat(depth);
        bytes.push(0x01);
        value(&bytes).map(|_| ())
    };
    assert_eq!(nested(AMF_DEPTH), Ok(()));
    assert_eq!(nested(AMF_DEPTH + 1), Err(AmfError::TooDeep));
    assert_eq!(nested(10_000), Err(AmfError::TooDeep));

    let many = |item: &[u8], count: usize| {
        // A count of two bytes.
        let head = u16::try_from(count << 1 | 1).unwrap();
        let head = [0x80 | u8::try_from(head >> 7).unwrap(), (head & 0x7F) as u8];
        let bytes = [
            &[0x09, head[0], head[1], 0x01],
            item.repeat(count).as_slice(),
        ]
        .concat();
        Decoder::new(&bytes, 4_096).value().map(|_| ())
    };
    assert_eq!(many(&[0x01], 4_000), Ok(()));
    assert_eq!(many(&[0x01], 4_096), Err(AmfError::TooManyValues));
    for item in [&[0x06, 0x03, b'a'][..], &[0x09, 0x01, 0x01], &[0x0C, 0x01]] {
        assert_eq!(many(item, AMF_REFERENCES - 1), Ok(()));
        let refused = many(item, AMF_REFERENCES + 1);
        assert_eq!(refused, Err(AmfError::TooManyReferences), "{item:02X?}");
    }
}

#[test]
fn a_switch_is_for_one_value_and_shares_depth_and_tables() {
    // "k" by AMF3, an AMF0 string, "k" by reference.
    let bytes = [0x11, 0x06, 0x03, b'k', 0x02, 0, 1, b'x', 0x11, 0x06, 0x00];
    let mut decoder = amf0::Decoder::data(&bytes, 10);
    for expected in ["k", "x", "k"] {
        assert_eq!(decoder.value(), Ok(Value::text(expected)));
    }
    assert!(decoder.is_empty() && decoder.holds_amf3());

    // AMF0 arrays around AMF3 arrays.
    let nested = |around: usize, inside: usize| {
        let mut bytes = [0x0A, 0, 0, 0, 1].repeat(around);
        bytes.push(0x11);
        bytes.extend([0x09, 0x03, 0x01].repeat(inside));
        bytes.push(0x01);
        amf0::Decoder::data(&bytes, 1_000).value().map(|_| ())
    };
    assert_eq!(nested(8, AMF_DEPTH - 8), Ok(()));
    assert_eq!(nested(8, AMF_DEPTH - 7), Err(AmfError::TooDeep));
    assert_eq!(nested(AMF_DEPTH, 0), Ok(()));
}
