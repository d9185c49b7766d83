//! Reading.

use super::{Property, Value, marker};
use crate::AmfError;
use crate::amf3;
use crate::cursor::Cursor;
use crate::limits::{AMF_DEPTH, AMF_STRING_BYTES};

/// Reads the values of one message, one after the other.
pub struct Decoder<'a> {
    cursor: Cursor<'a>,
    nodes_left: usize,
    is_command: bool,
    /// What AMF3 values of this message may refer to.
    tables: amf3::Tables<'a>,
    holds_amf3: bool,
}

impl<'a> Decoder<'a> {
    /// For a command: references are refused, every object must end.
    pub fn command(bytes: &'a [u8], nodes: usize) -> Self {
        Self::new(bytes, nodes, true)
    }

    /// For a data message: some encoders leave out the end marker of the outermost array at the message's end.
    pub fn data(bytes: &'a [u8], nodes: usize) -> Self {
        Self::new(bytes, nodes, false)
    }

    fn new(bytes: &'a [u8], nodes: usize, is_command: bool) -> Self {
        Self {
            cursor: Cursor::new(bytes),
            nodes_left: nodes,
            is_command,
            tables: amf3::Tables::default(),
            holds_amf3: false,
        }
    }

    /// Whether a value so far was AMF3.
    pub fn holds_amf3(&self) -> bool {
        self.holds_amf3
    }

    /// Whether all was read.
    pub fn is_empty(&self) -> bool {
        self.cursor.is_empty()
    }

    /// The next value.
    ///
    /// # Errors
    /// [`AmfError`]; nothing after it can be read.
    pub fn value(&mut self) -> Result<Value<'a>, AmfError> {
        self.nested_value(0)
    }

    /// `depth` containers are around this value.
    fn nested_value(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        self.nodes_left = self
            .nodes_left
            .checked_sub(1)
            .ok_or(AmfError::TooManyValues)?;
        let marker = self.cursor.u8().ok_or(AmfError::Truncated)?;
        Ok(match marker {
            marker::NUMBER => Value::Number(self.cursor.f64().ok_or(AmfError::Truncated)?),
            marker::BOOLEAN => Value::Boolean(self.cursor.u8().ok_or(AmfError::Truncated)? != 0),
            marker::STRING => Value::String(self.short_string()?),
            marker::OBJECT => Value::Object(self.properties(depth)?),
            marker::NULL => Value::Null,
            marker::UNDEFINED => Value::Undefined,
            marker::REFERENCE if self.is_command => return Err(AmfError::Reference),
            marker::REFERENCE => Value::Reference(self.cursor.u16().ok_or(AmfError::Truncated)?),
            marker::ECMA_ARRAY => {
                self.cursor.u32().ok_or(AmfError::Truncated)?;
                Value::EcmaArray(self.properties(depth)?)
            }
            marker::STRICT_ARRAY => Value::StrictArray(self.strict_array(depth)?),
            marker::DATE => Value::Date {
                milliseconds: self.cursor.f64().ok_or(AmfError::Truncated)?,
                time_zone: self
                    .cursor
                    .array()
                    .map(i16::from_be_bytes)
                    .ok_or(AmfError::Truncated)?,
            },
            marker::LONG_STRING => Value::String(self.long_string()?),
            marker::UNSUPPORTED => Value::Unsupported,
            marker::XML => Value::Xml(self.long_string()?),
            marker::TYPED_OBJECT => Value::TypedObject {
                class: self.short_string()?,
                properties: self.properties(depth)?,
            },
            marker::AVM_PLUS => self.amf3_value(depth)?,
            unknown => return Err(AmfError::UnknownMarker(unknown)),
        })
    }

    /// The switch is for this one value, with all that is in it.
    fn amf3_value(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        self.holds_amf3 = true;
        let reader = amf3::Reader {
            cursor: &mut self.cursor,
            nodes_left: &mut self.nodes_left,
            tables: &mut self.tables,
            is_command: self.is_command,
        };
        reader.read(depth)
    }

    fn properties(&mut self, depth: usize) -> Result<Vec<Property<'a>>, AmfError> {
        let depth = deeper(depth)?;
        let mut properties = Vec::new();
        loop {
            if self.cursor.is_empty() && depth == 1 && !self.is_command {
                return Ok(properties);
            }
            let key = self.short_string()?;
            if key.is_empty() && self.cursor.rest().first() == Some(&marker::OBJECT_END) {
                self.cursor.u8();
                return Ok(properties);
            }
            properties.push((key, self.nested_value(depth)?));
        }
    }

    /// Every element costs at least a byte, so a count beyond what is left is a lie; and the count reserves nothing.
    fn strict_array(&mut self, depth: usize) -> Result<Vec<Value<'a>>, AmfError> {
        let depth = deeper(depth)?;
        let count = self.long_length()?;
        if count > self.cursor.rest().len() {
            return Err(AmfError::Truncated);
        }
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.nested_value(depth)?);
        }
        Ok(values)
    }

    fn short_string(&mut self) -> Result<&'a [u8], AmfError> {
        let bytes = self.cursor.u16().ok_or(AmfError::Truncated)?;
        self.cursor
            .take(usize::from(bytes))
            .ok_or(AmfError::Truncated)
    }

    fn long_string(&mut self) -> Result<&'a [u8], AmfError> {
        let bytes = self.long_length()?;
        if bytes > AMF_STRING_BYTES {
            return Err(AmfError::StringTooLong);
        }
        self.cursor.take(bytes).ok_or(AmfError::Truncated)
    }

    fn long_length(&mut self) -> Result<usize, AmfError> {
        let length = self.cursor.u32().ok_or(AmfError::Truncated)?;
        usize::try_from(length).map_err(|_| AmfError::Truncated)
    }
}

fn deeper(depth: usize) -> Result<usize, AmfError> {
    if depth >= AMF_DEPTH {
        return Err(AmfError::TooDeep);
    }
    Ok(depth + 1)
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::*;

    fn command(bytes: &[u8]) -> Result<Value<'_>, AmfError> {
        Decoder::command(bytes, 4096).value()
    }

    #[test]
    fn every_value_survives_encoding_and_decoding() {
        let long = vec![b'x'; 65_536];
        let values = [
            Value::Boolean(true),
            Value::Date {
                milliseconds: 1.5e12,
                time_zone: -60,
            },
            Value::EcmaArray(vec![(b"duration", Value::Number(0.0))]),
            Value::Null,
            Value::Number(-2000.0),
            Value::object([("a", Value::object([("b", Value::text("c"))]))]),
            Value::Reference(3),
            Value::StrictArray(vec![Value::text("hvc1"), Value::Null]),
            Value::String(&long),
            Value::TypedObject {
                class: b"Point",
                properties: vec![(b"x", Value::Number(1.0))],
            },
            Value::Undefined,
            Value::Unsupported,
            Value::Xml(b"<x/>"),
        ];
        let bytes = encode(&values);
        let mut decoder = Decoder::data(&bytes, 4096);
        for value in &values {
            assert_eq!(decoder.value().as_ref(), Ok(value));
        }
        assert!(decoder.is_empty());
    }

    #[test]
    fn the_count_of_an_ecma_array_is_ignored() {
        for count in [0_u32, 1, 20, u32::MAX] {
            let mut bytes = vec![marker::ECMA_ARRAY];
            bytes.extend_from_slice(&count.to_be_bytes());
            bytes.extend_from_slice(&[0, 1, b'k', marker::NULL, 0, 0, marker::OBJECT_END]);
            assert_eq!(
                command(&bytes),
                Ok(Value::EcmaArray(vec![(b"k", Value::Null)]))
            );
        }
    }

    #[test]
    fn a_missing_end_is_accepted_in_data_and_refused_in_commands() {
        let bytes = [marker::OBJECT, 0, 1, b'k', marker::NULL];
        assert_eq!(command(&bytes), Err(AmfError::Truncated));
        assert_eq!(
            Decoder::data(&bytes, 4096).value(),
            Ok(Value::Object(vec![(b"k", Value::Null)]))
        );
        let nested = [marker::OBJECT, 0, 1, b'k', marker::OBJECT];
        assert_eq!(
            Decoder::data(&nested, 4096).value(),
            Err(AmfError::Truncated)
        );
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        let value = Value::object([("app", Value::text("a")), ("app", Value::text("b"))]);
        assert_eq!(value.property("app"), Some(&Value::text("b")));
        assert_eq!(value.property("App"), None);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| {
            let mut bytes = [marker::STRICT_ARRAY, 0, 0, 0, 1].repeat(depth);
            bytes.push(marker::NULL);
            command(&bytes).map(|_| ())
        };
        assert_eq!(nested(AMF_DEPTH), Ok(()));
        assert_eq!(nested(AMF_DEPTH + 1), Err(AmfError::TooDeep));
        assert_eq!(nested(10_000), Err(AmfError::TooDeep));
        let objects = [marker::OBJECT, 0, 1, b'k'].repeat(10_000);
        assert_eq!(command(&objects), Err(AmfError::TooDeep));
    }

    #[test]
    fn lies_about_sizes_are_errors_and_cost_nothing() {
        for bytes in [
            &[marker::STRICT_ARRAY, 0xFF, 0xFF, 0xFF, 0xFF, 5, 5, 5, 5, 5][..],
            &[marker::STRING, 0xFF, 0xFF, b'a'],
            &[marker::NUMBER, 0, 0, 0],
            &[marker::DATE, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[marker::ECMA_ARRAY, 0, 0],
            &[],
        ] {
            assert_eq!(command(bytes), Err(AmfError::Truncated));
        }
        let long = [marker::LONG_STRING, 0xFF, 0xFF, 0xFF, 0xFF];
        assert_eq!(command(&long), Err(AmfError::StringTooLong));
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        let mut bytes = vec![marker::OBJECT];
        bytes.extend_from_slice(&[0, 1, b'k', marker::NULL].repeat(5_000));
        assert_eq!(command(&bytes), Err(AmfError::TooManyValues));
    }

    #[test]
    fn references_and_reserved_markers_are_refused_in_commands() {
        assert_eq!(
            command(&[marker::REFERENCE, 0, 0]),
            Err(AmfError::Reference)
        );
        for reserved in [0x04, 0x09, 0x0E, 0x12, 0xFF] {
            assert_eq!(command(&[reserved]), Err(AmfError::UnknownMarker(reserved)));
        }
    }
}
