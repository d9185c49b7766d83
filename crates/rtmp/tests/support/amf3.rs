//! AMF3 as Flash wrote it, with all the references that it can make. The product only reads it.

#![allow(dead_code, unreachable_pub, reason = "shared by several test binaries")]

use rtmp::amf0::Value;

/// A value that both encodings have, and that owns what it holds.
#[derive(Clone, Debug)]
pub enum Tree {
    Array(Vec<Self>),
    Boolean(bool),
    Date(f64),
    Null,
    Number(f64),
    Object {
        /// Empty: none.
        class: String,
        members: Vec<(String, Self)>,
    },
    Text(String),
    Undefined,
    Xml(Vec<u8>),
}

impl Tree {
    /// What a decoder gives.
    pub fn value(&self) -> Value<'_> {
        match self {
            Self::Array(values) => Value::StrictArray(values.iter().map(Self::value).collect()),
            Self::Boolean(boolean) => Value::Boolean(*boolean),
            Self::Date(milliseconds) => Value::Date {
                milliseconds: *milliseconds,
                time_zone: 0,
            },
            Self::Null => Value::Null,
            Self::Number(number) => Value::Number(*number),
            Self::Object { class, members } => {
                let properties = members.iter();
                let properties = properties.map(|(key, tree)| (key.as_bytes(), tree.value()));
                let properties = properties.collect();
                match class.as_bytes() {
                    b"" => Value::Object(properties),
                    class => Value::TypedObject { class, properties },
                }
            }
            Self::Text(text) => Value::text(text),
            Self::Undefined => Value::Undefined,
            Self::Xml(bytes) => Value::Xml(bytes),
        }
    }
}

/// Remembers what it may refer to.
#[derive(Default)]
pub struct Encoder {
    strings: Vec<String>,
    /// Class, and the names of sealed members.
    traits: Vec<(String, Vec<String>)>,
    output: Vec<u8>,
}

impl Encoder {
    /// The bytes of one more value of the message.
    pub fn encode(&mut self, tree: &Tree) -> Vec<u8> {
        self.put(tree);
        std::mem::take(&mut self.output)
    }

    fn put(&mut self, tree: &Tree) {
        match tree {
            Tree::Array(values) => {
                self.output.push(0x09);
                self.inline(values.len());
                self.text("");
                values.iter().for_each(|value| self.put(value));
            }
            Tree::Boolean(boolean) => self.output.push(2 + u8::from(*boolean)),
            Tree::Date(milliseconds) => {
                self.output.extend([0x08, 0x01]);
                self.output.extend(milliseconds.to_be_bytes());
            }
            Tree::Null => self.output.push(0x01),
            Tree::Number(number) => self.number(*number),
            Tree::Object { class, members } => self.object(class, members),
            Tree::Text(text) => {
                self.output.push(0x06);
                self.text(text);
            }
            Tree::Undefined => self.output.push(0x00),
            Tree::Xml(bytes) => {
                self.output.push(0x07);
                self.inline(bytes.len());
                self.output.extend(bytes);
            }
        }
    }

    /// As an integer where it is one of 29 bits.
    fn number(&mut self, number: f64) {
        let is_integer = number.fract() == 0.0
            && (-268_435_456.0..268_435_456.0).contains(&number)
            && !(number == 0.0 && number.is_sign_negative());
        if is_integer {
            self.output.push(0x04);
            #[expect(clippy::cast_possible_truncation, reason = "29 bits, as just seen")]
            let integer = number as i32;
            self.u29(integer.cast_unsigned() & 0x1FFF_FFFF);
        } else {
            self.output.push(0x05);
            self.output.extend(number.to_be_bytes());
        }
    }

    /// A class has its members sealed, an object without one has them dynamic.
    fn object(&mut self, class: &str, members: &[(String, Tree)]) {
        let is_dynamic = class.is_empty();
        let names: Vec<String> = members.iter().map(|(name, _)| name.clone()).collect();
        let sealed = if is_dynamic { Vec::new() } else { names };
        let traits = (class.to_owned(), sealed);
        self.output.push(0x0A);
        if let Some(index) = self.traits.iter().position(|known| *known == traits) {
            self.u29(u32::try_from(index << 2 | 1).unwrap());
        } else {
            let flags = traits.1.len() << 4 | usize::from(is_dynamic) << 3 | 3;
            self.u29(u32::try_from(flags).unwrap());
            self.text(class);
            traits.1.iter().for_each(|name| self.text(name));
            self.traits.push(traits);
        }
        for (name, tree) in members {
            if is_dynamic {
                self.text(name);
            }
            self.put(tree);
        }
        if is_dynamic {
            self.text("");
        }
    }

    fn text(&mut self, text: &str) {
        if let Some(index) = self.strings.iter().position(|known| known == text) {
            return self.u29(u32::try_from(index << 1).unwrap());
        }
        if !text.is_empty() {
            self.strings.push(text.to_owned());
        }
        self.inline(text.len());
        self.output.extend(text.as_bytes());
    }

    fn inline(&mut self, length: usize) {
        self.u29(u32::try_from(length << 1 | 1).unwrap());
    }

    fn u29(&mut self, value: u32) {
        let byte = |shift: u32| (value >> shift & 0x7F) as u8 | 0x80;
        match value {
            0..0x80 => self.output.push(value as u8),
            0x80..0x4000 => self.output.extend([byte(7), value as u8 & 0x7F]),
            0x4000..0x20_0000 => self.output.extend([byte(14), byte(7), value as u8 & 0x7F]),
            _ => self
                .output
                .extend([byte(22), byte(15), byte(8), value as u8]),
        }
    }
}
