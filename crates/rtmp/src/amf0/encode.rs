//! Writing.

use super::{Property, Value, marker};

/// The values one after the other. Strings beyond 65 535 bytes become long strings; keys and class names, which have
/// no long form, are cut there. What AMF0 has no form for (byte arrays, dictionaries) is written as unsupported.
pub fn encode(values: &[Value<'_>]) -> Vec<u8> {
    let mut output = Vec::with_capacity(256);
    for value in values {
        put_value(value, &mut output);
    }
    output
}

/// What [`encode`] makes of a value at most, in bytes: AMF3 says a thing once and refers to it from then on.
pub(crate) fn encoded_bytes(value: &Value<'_>) -> usize {
    /// Marker and a long length; or an end marker behind.
    const FRAME: usize = 5;
    let sum = |values: &[Value<'_>]| values.iter().map(encoded_bytes).sum::<usize>();
    let properties = |properties: &[Property<'_>]| {
        let each = |(key, value): &Property<'_>| 2 + key.len() + encoded_bytes(value);
        properties.iter().map(each).sum::<usize>() + 3
    };
    match value {
        Value::Boolean(_) | Value::Null | Value::Reference(_) | Value::Undefined => 3,
        Value::ByteArray(_) | Value::Dictionary(_) | Value::Unsupported => 1,
        Value::Date { .. } | Value::Number(_) => 11,
        Value::EcmaArray(list) | Value::Object(list) => FRAME + properties(list),
        // An index is a key of at most six digits.
        Value::MixedArray { keyed, values } => {
            FRAME + properties(keyed) + sum(values) + 8 * values.len()
        }
        Value::StrictArray(values) => FRAME + sum(values),
        Value::String(bytes) | Value::Xml(bytes) => FRAME + bytes.len(),
        Value::TypedObject {
            class,
            properties: list,
        } => FRAME + class.len() + properties(list),
    }
}

fn put_value(value: &Value<'_>, output: &mut Vec<u8>) {
    match value {
        Value::Boolean(boolean) => output.extend_from_slice(&[marker::BOOLEAN, (*boolean).into()]),
        Value::ByteArray(_) | Value::Dictionary(_) | Value::Unsupported => {
            output.push(marker::UNSUPPORTED);
        }
        Value::Date {
            milliseconds,
            time_zone,
        } => {
            output.push(marker::DATE);
            output.extend_from_slice(&milliseconds.to_be_bytes());
            output.extend_from_slice(&time_zone.to_be_bytes());
        }
        Value::EcmaArray(properties) => {
            output.push(marker::ECMA_ARRAY);
            put_long_length(properties.len(), output);
            put_properties(properties, output);
        }
        Value::MixedArray { keyed, values } => put_mixed_array(keyed, values, output),
        Value::Null => output.push(marker::NULL),
        Value::Number(number) => {
            output.push(marker::NUMBER);
            output.extend_from_slice(&number.to_be_bytes());
        }
        Value::Object(properties) => {
            output.push(marker::OBJECT);
            put_properties(properties, output);
        }
        Value::Reference(index) => {
            output.push(marker::REFERENCE);
            output.extend_from_slice(&index.to_be_bytes());
        }
        Value::StrictArray(values) => {
            output.push(marker::STRICT_ARRAY);
            put_long_length(values.len(), output);
            for value in values {
                put_value(value, output);
            }
        }
        Value::String(bytes) if bytes.len() > usize::from(u16::MAX) => {
            output.push(marker::LONG_STRING);
            put_long_string(bytes, output);
        }
        Value::String(bytes) => {
            output.push(marker::STRING);
            put_short_string(bytes, output);
        }
        Value::TypedObject { class, properties } => {
            output.push(marker::TYPED_OBJECT);
            put_short_string(class, output);
            put_properties(properties, output);
        }
        Value::Undefined => output.push(marker::UNDEFINED),
        Value::Xml(bytes) => {
            output.push(marker::XML);
            put_long_string(bytes, output);
        }
    }
}

/// As an ECMA array: indices are keys like others.
fn put_mixed_array(keyed: &[Property<'_>], values: &[Value<'_>], output: &mut Vec<u8>) {
    output.push(marker::ECMA_ARRAY);
    put_long_length(keyed.len() + values.len(), output);
    for (index, value) in values.iter().enumerate() {
        put_short_string(index.to_string().as_bytes(), output);
        put_value(value, output);
    }
    put_properties(keyed, output);
}

fn put_properties(properties: &[Property<'_>], output: &mut Vec<u8>) {
    for (key, value) in properties {
        put_short_string(key, output);
        put_value(value, output);
    }
    output.extend_from_slice(&[0, 0, marker::OBJECT_END]);
}

fn put_short_string(bytes: &[u8], output: &mut Vec<u8>) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or(bytes));
}

fn put_long_string(bytes: &[u8], output: &mut Vec<u8>) {
    put_long_length(bytes.len(), output);
    output.extend_from_slice(bytes);
}

/// No value of ours comes near 4 GiB.
fn put_long_length(length: usize, output: &mut Vec<u8>) {
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    output.extend_from_slice(&length.to_be_bytes());
}
