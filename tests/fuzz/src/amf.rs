//! AMF values.

use rtmp::{
    amf0::{Decoder, Value, encode},
    amf3,
    limits::UNPUBLISHED_AMF_NODES,
};

/// As a command and as data.
pub(crate) fn amf0(data: &[u8]) {
    for read in [command, data_message] {
        let values = read(data);
        let written = encode(&values);
        let again = read(&written);
        // Not the values: a number that is none is unequal to itself.
        assert_eq!(encode(&again), written);
        for value in &values {
            value.property("code");
        }
    }
}

fn command(bytes: &[u8]) -> Vec<Value<'_>> {
    values(Decoder::command(bytes, UNPUBLISHED_AMF_NODES))
}

fn data_message(bytes: &[u8]) -> Vec<Value<'_>> {
    values(Decoder::data(bytes, UNPUBLISHED_AMF_NODES))
}

/// Those before the first fault.
fn values<'a>(mut decoder: Decoder<'a>) -> Vec<Value<'a>> {
    let mut values = Vec::new();
    while !decoder.is_empty()
        && let Ok(value) = decoder.value()
    {
        values.push(value);
    }
    values
}

/// What is read becomes AMF0 values, which can be written.
pub(crate) fn amf3(data: &[u8]) {
    let mut decoder = amf3::Decoder::new(data, UNPUBLISHED_AMF_NODES);
    let mut values = Vec::new();
    while !decoder.is_empty()
        && let Ok(value) = decoder.value()
    {
        values.push(value);
    }
    let written = encode(&values);
    assert_eq!(encode(&data_message(&written)), written);
}
