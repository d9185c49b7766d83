//! AMF3, bounded, for reading alone: what stands behind marker 11 of AMF0, and nothing is ever answered in it.
//!
//! Values become those of [`amf0`](crate::amf0), so that a command means the same in either encoding: integers are
//! numbers, an array without keys is a strict array. Depth and number of values are counted together with AMF0's; each
//! of the three reference tables has a limit. Strings and traits that are referred to are resolved, which costs
//! nothing: they are slices of the message. An object that is referred to is not (it may hold itself): it is
//! [`Unsupported`](Value::Unsupported), and refused in commands.

use crate::AmfError;
use crate::amf0::{Property, Value};
use crate::cursor::Cursor;
use crate::limits::{AMF_DEPTH, AMF_REFERENCES, AMF_STRING_BYTES};

mod marker {
    pub(super) const UNDEFINED: u8 = 0x00;
    pub(super) const NULL: u8 = 0x01;
    pub(super) const FALSE: u8 = 0x02;
    pub(super) const TRUE: u8 = 0x03;
    pub(super) const INTEGER: u8 = 0x04;
    pub(super) const DOUBLE: u8 = 0x05;
    pub(super) const STRING: u8 = 0x06;
    pub(super) const XML_DOCUMENT: u8 = 0x07;
    pub(super) const DATE: u8 = 0x08;
    pub(super) const ARRAY: u8 = 0x09;
    pub(super) const OBJECT: u8 = 0x0A;
    pub(super) const XML: u8 = 0x0B;
    pub(super) const BYTE_ARRAY: u8 = 0x0C;
    pub(super) const VECTOR_INT: u8 = 0x0D;
    pub(super) const VECTOR_UINT: u8 = 0x0E;
    pub(super) const VECTOR_DOUBLE: u8 = 0x0F;
    pub(super) const VECTOR_OBJECT: u8 = 0x10;
    pub(super) const DICTIONARY: u8 = 0x11;
}

/// Reads AMF3 values that stand by themselves.
pub struct Decoder<'a> {
    cursor: Cursor<'a>,
    nodes_left: usize,
    tables: Tables<'a>,
}

impl<'a> Decoder<'a> {
    /// For at most `nodes` values.
    pub fn new(bytes: &'a [u8], nodes: usize) -> Self {
        Self {
            cursor: Cursor::new(bytes),
            nodes_left: nodes,
            tables: Tables::default(),
        }
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
        let reader = Reader {
            cursor: &mut self.cursor,
            nodes_left: &mut self.nodes_left,
            tables: &mut self.tables,
            is_command: false,
        };
        reader.read(0)
    }
}

/// What can be referred to, since the message began.
#[derive(Default)]
pub(crate) struct Tables<'a> {
    strings: Vec<&'a [u8]>,
    /// Only how many there were: references to them are checked, not followed.
    objects: usize,
    traits: Vec<Traits<'a>>,
}

/// A class: its name, and the names of the members that every object of it has.
#[derive(Clone)]
struct Traits<'a> {
    class: &'a [u8],
    is_dynamic: bool,
    /// Shared by all objects of the class.
    sealed: std::rc::Rc<[&'a [u8]]>,
}

/// One value's way through a message, in company of the AMF0 around it.
pub(crate) struct Reader<'r, 'a> {
    pub(crate) cursor: &'r mut Cursor<'a>,
    pub(crate) nodes_left: &'r mut usize,
    pub(crate) tables: &'r mut Tables<'a>,
    pub(crate) is_command: bool,
}

/// The head of most values: a reference to an earlier one, or what follows in place.
enum Head {
    Reference(usize),
    /// A length, a count or flags.
    Inline(usize),
}

impl<'a> Reader<'_, 'a> {
    /// `depth` containers are around the value.
    pub(crate) fn read(mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        self.value(depth)
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        self.charge()?;
        let marker = self.cursor.u8().ok_or(AmfError::Truncated)?;
        Ok(match marker {
            marker::UNDEFINED => Value::Undefined,
            marker::NULL => Value::Null,
            marker::FALSE => Value::Boolean(false),
            marker::TRUE => Value::Boolean(true),
            marker::INTEGER => Value::Number(f64::from(signed(self.u29()?))),
            marker::DOUBLE => Value::Number(self.double()?),
            marker::STRING => Value::String(self.string()?),
            marker::XML_DOCUMENT | marker::XML => self.bytes_object(Value::Xml)?,
            marker::BYTE_ARRAY => self.bytes_object(Value::ByteArray)?,
            marker::DATE => self.date()?,
            marker::ARRAY => self.array(deeper(depth)?)?,
            marker::OBJECT => self.object(deeper(depth)?)?,
            marker::VECTOR_INT => {
                self.vector(4, |cursor| cursor.array().map(i32::from_be_bytes))?
            }
            marker::VECTOR_UINT => self.vector(4, Cursor::u32)?,
            marker::VECTOR_DOUBLE => self.vector(8, Cursor::f64)?,
            marker::VECTOR_OBJECT => self.object_vector(deeper(depth)?)?,
            marker::DICTIONARY => self.dictionary(deeper(depth)?)?,
            unknown => return Err(AmfError::UnknownMarker(unknown)),
        })
    }

    fn charge(&mut self) -> Result<(), AmfError> {
        let left = self.nodes_left.checked_sub(1);
        *self.nodes_left = left.ok_or(AmfError::TooManyValues)?;
        Ok(())
    }

    /// One to four bytes: seven bits each, eight in the fourth.
    fn u29(&mut self) -> Result<u32, AmfError> {
        let mut value = 0;
        for _ in 0..3 {
            let byte = self.cursor.u8().ok_or(AmfError::Truncated)?;
            value = value << 7 | u32::from(byte & 0x7F);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        let byte = self.cursor.u8().ok_or(AmfError::Truncated)?;
        Ok(value << 8 | u32::from(byte))
    }

    fn head(&mut self) -> Result<Head, AmfError> {
        let head = self.u29()?;
        let rest = usize::try_from(head >> 1).map_err(|_| AmfError::Truncated)?;
        Ok(if head & 1 == 0 {
            Head::Reference(rest)
        } else {
            Head::Inline(rest)
        })
    }

    /// The head of a value that counts as an object; `None`: it is one that came before.
    fn object_head(&mut self) -> Result<Option<usize>, AmfError> {
        match self.head()? {
            Head::Reference(_) if self.is_command => Err(AmfError::Reference),
            Head::Reference(index) if index < self.tables.objects => Ok(None),
            Head::Reference(_) => Err(AmfError::Reference),
            Head::Inline(rest) => {
                if self.tables.objects >= AMF_REFERENCES {
                    return Err(AmfError::TooManyReferences);
                }
                self.tables.objects += 1;
                Ok(Some(rest))
            }
        }
    }

    /// Every element costs at least `bytes`, so a count beyond what is left is a lie; and the count reserves nothing.
    fn check_count(&self, count: usize, bytes: usize) -> Result<(), AmfError> {
        if count > self.cursor.rest().len() / bytes {
            return Err(AmfError::Truncated);
        }
        Ok(())
    }

    fn double(&mut self) -> Result<f64, AmfError> {
        self.cursor.f64().ok_or(AmfError::Truncated)
    }

    /// The empty string is never in the table.
    fn string(&mut self) -> Result<&'a [u8], AmfError> {
        match self.head()? {
            Head::Reference(index) => {
                let string = self.tables.strings.get(index);
                string.copied().ok_or(AmfError::Reference)
            }
            Head::Inline(bytes) => {
                if bytes > AMF_STRING_BYTES {
                    return Err(AmfError::StringTooLong);
                }
                let string = self.cursor.take(bytes).ok_or(AmfError::Truncated)?;
                if !string.is_empty() {
                    push(&mut self.tables.strings, string)?;
                }
                Ok(string)
            }
        }
    }

    /// A ByteArray may be as long as its message.
    fn bytes_object(
        &mut self,
        value: impl FnOnce(&'a [u8]) -> Value<'a>,
    ) -> Result<Value<'a>, AmfError> {
        let Some(bytes) = self.object_head()? else {
            return Ok(Value::Unsupported);
        };
        let bytes = self.cursor.take(bytes).ok_or(AmfError::Truncated)?;
        Ok(value(bytes))
    }

    fn date(&mut self) -> Result<Value<'a>, AmfError> {
        if self.object_head()?.is_none() {
            return Ok(Value::Unsupported);
        }
        Ok(Value::Date {
            milliseconds: self.double()?,
            time_zone: 0,
        })
    }

    /// Keys and their values, an empty key, then as many values as the head said.
    fn array(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        let Some(count) = self.object_head()? else {
            return Ok(Value::Unsupported);
        };
        self.check_count(count, 1)?;
        let keyed = self.dynamic_members(depth)?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth)?);
        }
        Ok(if keyed.is_empty() {
            Value::StrictArray(values)
        } else {
            Value::MixedArray { keyed, values }
        })
    }

    /// Keys and values up to an empty key.
    fn dynamic_members(&mut self, depth: usize) -> Result<Vec<Property<'a>>, AmfError> {
        let mut members = Vec::new();
        loop {
            let key = self.string()?;
            if key.is_empty() {
                return Ok(members);
            }
            members.push((key, self.value(depth)?));
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        let Some(flags) = self.object_head()? else {
            return Ok(Value::Unsupported);
        };
        let Traits {
            class,
            is_dynamic,
            sealed,
        } = self.traits(flags)?;
        let mut properties = Vec::new();
        for name in sealed.iter() {
            properties.push((*name, self.value(depth)?));
        }
        if is_dynamic {
            properties.append(&mut self.dynamic_members(depth)?);
        }
        Ok(if class.is_empty() {
            Value::Object(properties)
        } else {
            Value::TypedObject { class, properties }
        })
    }

    /// `flags` is what is left of an object's head: bit 0 inline, 1 externalizable, 2 dynamic, then the number of
    /// sealed members. What an externalizable class writes, only that class can read.
    fn traits(&mut self, flags: usize) -> Result<Traits<'a>, AmfError> {
        if flags & 1 == 0 {
            let traits = self.tables.traits.get(flags >> 1);
            return traits.cloned().ok_or(AmfError::Reference);
        }
        if flags & 2 != 0 {
            return Err(AmfError::Externalizable);
        }
        let count = flags >> 3;
        self.check_count(count, 1)?;
        let class = self.string()?;
        let mut sealed = Vec::new();
        for _ in 0..count {
            self.charge()?;
            sealed.push(self.string()?);
        }
        let traits = Traits {
            class,
            is_dynamic: flags & 4 != 0,
            sealed: sealed.into(),
        };
        push(&mut self.tables.traits, traits.clone())?;
        Ok(traits)
    }

    fn vector<T: Into<f64>>(
        &mut self,
        bytes: usize,
        read: impl Fn(&mut Cursor<'a>) -> Option<T>,
    ) -> Result<Value<'a>, AmfError> {
        let Some(count) = self.vector_head(bytes)? else {
            return Ok(Value::Unsupported);
        };
        let mut values = Vec::new();
        for _ in 0..count {
            self.charge()?;
            let item = read(self.cursor).ok_or(AmfError::Truncated)?;
            values.push(Value::Number(item.into()));
        }
        Ok(Value::StrictArray(values))
    }

    fn object_vector(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        let Some(count) = self.vector_head(1)? else {
            return Ok(Value::Unsupported);
        };
        let _class = self.string()?;
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(self.value(depth)?);
        }
        Ok(Value::StrictArray(values))
    }

    /// The number of items, each of at least `bytes`; behind it a byte that says whether the vector may grow.
    fn vector_head(&mut self, bytes: usize) -> Result<Option<usize>, AmfError> {
        let Some(count) = self.object_head()? else {
            return Ok(None);
        };
        self.cursor.u8().ok_or(AmfError::Truncated)?;
        self.check_count(count, bytes)?;
        Ok(Some(count))
    }

    fn dictionary(&mut self, depth: usize) -> Result<Value<'a>, AmfError> {
        let Some(count) = self.vector_head(2)? else {
            return Ok(Value::Unsupported);
        };
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push((self.value(depth)?, self.value(depth)?));
        }
        Ok(Value::Dictionary(entries))
    }
}

/// 29 bits with a sign.
fn signed(u29: u32) -> i32 {
    (u29 << 3).cast_signed() >> 3
}

fn deeper(depth: usize) -> Result<usize, AmfError> {
    if depth >= AMF_DEPTH {
        return Err(AmfError::TooDeep);
    }
    Ok(depth + 1)
}

fn push<T>(table: &mut Vec<T>, entry: T) -> Result<(), AmfError> {
    if table.len() >= AMF_REFERENCES {
        return Err(AmfError::TooManyReferences);
    }
    table.push(entry);
    Ok(())
}

#[cfg(test)]
mod tests;
