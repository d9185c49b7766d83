//! As much of AMF0 as an encoder speaks. Independent of the product's own.

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(f64),
    Boolean(bool),
    String(String),
    /// An object or an ECMA array.
    Object(Vec<(String, Self)>),
    Null,
}

impl Value {
    /// A member of an object.
    pub fn member(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else {
            return None;
        };
        members
            .iter()
            .find_map(|(member, value)| (member == name).then_some(value))
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            Self::Number(_) | Self::Boolean(_) | Self::Object(_) | Self::Null => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

/// Values one behind the other, as in a command message.
pub fn encode(values: &[Value]) -> Vec<u8> {
    let mut output = Vec::new();
    for value in values {
        encode_value(value, &mut output);
    }
    output
}

fn encode_value(value: &Value, output: &mut Vec<u8>) {
    match value {
        Value::Number(number) => {
            output.push(0);
            output.extend(number.to_be_bytes());
        }
        Value::Boolean(boolean) => output.extend([1, u8::from(*boolean)]),
        Value::String(text) => {
            output.push(2);
            encode_text(text, output);
        }
        Value::Object(members) => {
            output.push(3);
            for (name, member) in members {
                encode_text(name, output);
                encode_value(member, output);
            }
            output.extend([0, 0, 9]);
        }
        Value::Null => output.push(5),
    }
}

fn encode_text(text: &str, output: &mut Vec<u8>) {
    output.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    output.extend(text.as_bytes());
}

/// All values of a message; panics on what it does not know.
pub fn decode(mut input: &[u8]) -> Vec<Value> {
    let mut values = Vec::new();
    while !input.is_empty() {
        values.push(decode_value(&mut input));
    }
    values
}

fn decode_value(input: &mut &[u8]) -> Value {
    match take(input, 1)[0] {
        0 => Value::Number(f64::from_be_bytes(take(input, 8).try_into().unwrap())),
        1 => Value::Boolean(take(input, 1)[0] != 0),
        2 => Value::String(decode_text(input)),
        3 => decode_members(input),
        // null, undefined
        5 | 6 => Value::Null,
        8 => {
            // An ECMA array: its count is a hint, the end marker counts.
            take(input, 4);
            decode_members(input)
        }
        marker => panic!("AMF0 marker {marker:#04x}"),
    }
}

fn decode_members(input: &mut &[u8]) -> Value {
    let mut members = Vec::new();
    loop {
        let name = decode_text(input);
        if name.is_empty() && input.first() == Some(&9) {
            take(input, 1);
            return Value::Object(members);
        }
        members.push((name, decode_value(input)));
    }
}

fn decode_text(input: &mut &[u8]) -> String {
    let length = u16::from_be_bytes(take(input, 2).try_into().unwrap());
    String::from_utf8_lossy(take(input, length.into())).into_owned()
}

fn take<'a>(input: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = input
        .split_at_checked(count)
        .expect("AMF0 ends in the middle of a value");
    *input = rest;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes() {
        let values = [
            Value::from("connect"),
            Value::Number(1.0),
            Value::Object(vec![
                ("app".to_owned(), Value::from("live")),
                ("fpad".to_owned(), Value::Boolean(false)),
            ]),
            Value::Null,
        ];
        assert_eq!(decode(&encode(&values)), values);
    }
}
