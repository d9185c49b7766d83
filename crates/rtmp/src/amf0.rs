//! AMF0, bounded: depth, number of values and string sizes have limits; no memory is reserved by a declared count.
//!
//! Strings are bytes: stream keys are compared as they came. References are not resolved. AMF3 values (marker 11) are
//! read by [`amf3`](crate::amf3) and become values of this module.

mod decode;
mod encode;

pub use decode::Decoder;
pub use encode::encode;
pub(crate) use encode::encoded_bytes;

/// A property: key and value.
pub type Property<'a> = (&'a [u8], Value<'a>);

/// One value. Strings may hold secrets: do not log them.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Marker 01.
    Boolean(bool),
    /// Of AMF3 alone.
    ByteArray(&'a [u8]),
    /// Marker 0B.
    Date {
        /// Since 1970.
        milliseconds: f64,
        /// Reserved, normally 0.
        time_zone: i16,
    },
    /// Of AMF3 alone.
    Dictionary(Vec<(Self, Self)>),
    /// Marker 08. The count on the wire is advisory and ignored.
    EcmaArray(Vec<Property<'a>>),
    /// Of AMF3 alone: an array that has keys too.
    MixedArray {
        /// Under keys.
        keyed: Vec<Property<'a>>,
        /// From 0 on.
        values: Vec<Self>,
    },
    /// Marker 05.
    Null,
    /// Marker 00.
    Number(f64),
    /// Marker 03.
    Object(Vec<Property<'a>>),
    /// Marker 07: an index into the message's objects; not resolved. Never in commands.
    Reference(u16),
    /// Marker 0A.
    StrictArray(Vec<Self>),
    /// Markers 02 and 0C.
    String(&'a [u8]),
    /// Marker 10.
    TypedObject {
        /// Its class.
        class: &'a [u8],
        /// As of an object.
        properties: Vec<Property<'a>>,
    },
    /// Marker 06.
    Undefined,
    /// Marker 0D; in AMF3, a reference to an object.
    Unsupported,
    /// Marker 0F. Never parsed.
    Xml(&'a [u8]),
}

impl<'a> Value<'a> {
    /// A string.
    pub fn text(text: &'a str) -> Self {
        Self::String(text.as_bytes())
    }

    /// An object.
    pub fn object(properties: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let properties = properties.into_iter();
        Self::Object(
            properties
                .map(|(key, value)| (key.as_bytes(), value))
                .collect(),
        )
    }

    /// The string, if it is one.
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        if let Self::String(bytes) = self {
            Some(bytes)
        } else {
            None
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        if let Self::Number(number) = self {
            Some(*number)
        } else {
            None
        }
    }

    /// A property of an object or ECMA array; of several with one key the last counts.
    pub fn property(&self, key: &str) -> Option<&Self> {
        self.properties()
            .iter()
            .rev()
            .find(|(name, _)| *name == key.as_bytes())
            .map(|(_, value)| value)
    }

    /// Properties of an object or ECMA array, in their order.
    pub fn properties(&self) -> &[Property<'a>] {
        match self {
            Self::EcmaArray(properties)
            | Self::MixedArray {
                keyed: properties, ..
            }
            | Self::Object(properties)
            | Self::TypedObject { properties, .. } => properties,
            Self::Boolean(_)
            | Self::ByteArray(_)
            | Self::Date { .. }
            | Self::Dictionary(_)
            | Self::Null
            | Self::Number(_)
            | Self::Reference(_)
            | Self::StrictArray(_)
            | Self::String(_)
            | Self::Undefined
            | Self::Unsupported
            | Self::Xml(_) => &[],
        }
    }
}

mod marker {
    pub(super) const NUMBER: u8 = 0x00;
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const OBJECT: u8 = 0x03;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const UNDEFINED: u8 = 0x06;
    pub(super) const REFERENCE: u8 = 0x07;
    pub(super) const ECMA_ARRAY: u8 = 0x08;
    pub(super) const OBJECT_END: u8 = 0x09;
    pub(super) const STRICT_ARRAY: u8 = 0x0A;
    pub(super) const DATE: u8 = 0x0B;
    pub(super) const LONG_STRING: u8 = 0x0C;
    pub(super) const UNSUPPORTED: u8 = 0x0D;
    pub(super) const XML: u8 = 0x0F;
    pub(super) const TYPED_OBJECT: u8 = 0x10;
    pub(super) const AVM_PLUS: u8 = 0x11;
}
