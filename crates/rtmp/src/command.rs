//! A command message (RTMP 1.0 §7.1.1), taken apart.

use crate::amf0::{Decoder, Value};
use crate::message::{message_type, without_selector};
use crate::{AmfError, Message};

/// Name, transaction id, command object, arguments. The id may be anything: it is only ever sent back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Command<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) transaction: f64,
    pub(crate) object: Value<'a>,
    pub(crate) arguments: Vec<Value<'a>>,
}

impl<'a> Command<'a> {
    /// `body` as of [`body`].
    pub(crate) fn read(body: &'a [u8], nodes: usize) -> Result<Self, AmfError> {
        let mut decoder = Decoder::command(body, nodes);
        let name = decoder.value()?.as_bytes().ok_or(AmfError::NoCommandName)?;
        let mut values = Vec::new();
        while !decoder.is_empty() {
            values.push(decoder.value()?);
        }
        let mut values = values.into_iter();
        Ok(Self {
            name,
            transaction: values
                .next()
                .and_then(|value| value.as_number())
                .unwrap_or_default(),
            object: values.next().unwrap_or(Value::Null),
            arguments: values.collect(),
        })
    }

    pub(crate) fn argument(&self, index: usize) -> Option<&Value<'a>> {
        self.arguments.get(index)
    }

    /// Whether the peer waits for an answer. NaN is no id.
    pub(crate) fn wants_answer(&self) -> bool {
        self.transaction > 0.0
    }
}

/// The AMF0 part of a command message's body.
pub(crate) fn body(message: &Message) -> bytes::Bytes {
    if message.type_id == message_type::COMMAND_AMF3 {
        without_selector(message.body.clone())
    } else {
        message.body.clone()
    }
}

/// A number that should be a small integer; 0 if it is not.
pub(crate) fn integer(number: f64) -> u32 {
    if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an integer within the range, as just checked"
        )]
        let integer = number as u32;
        integer
    } else {
        0
    }
}
