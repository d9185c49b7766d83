//! Data messages: metadata, captions, cue points, and what else encoders call by name.

use bytes::Bytes;

use crate::AmfError;
use crate::amf0::{Decoder, Value, encode, encoded_bytes};
use crate::limits::{AMF_NODES, COMMAND_BYTES};

/// The body of a data message in AMF0 alone; `None`: it is not passed on.
///
/// What is AMF0 stays as it came, readable or not: it is a hint to players, and some encoders write it badly. AMF3
/// values (Flash, and the audio of OBS 27 to 30.1 for "Twitch VOD track") are translated; what AMF0 has no form for,
/// byte arrays above all, becomes "unsupported". A translation may be larger than what it is of, but no larger than a
/// data message may be.
pub(crate) fn as_amf0(body: Bytes) -> Option<Bytes> {
    let mut decoder = Decoder::data(&body, AMF_NODES);
    let values = values(&mut decoder);
    match (values, decoder.holds_amf3()) {
        (Ok(values), true) => {
            let bytes: usize = values.iter().map(encoded_bytes).sum();
            (bytes <= COMMAND_BYTES).then(|| encode(&values).into())
        }
        (Ok(_), false) => Some(body),
        (Err(error), holds_amf3) => {
            let is_attack = matches!(
                error,
                AmfError::StringTooLong
                    | AmfError::TooDeep
                    | AmfError::TooManyReferences
                    | AmfError::TooManyValues
            );
            (!is_attack && !holds_amf3).then_some(body)
        }
    }
}

fn values<'a>(decoder: &mut Decoder<'a>) -> Result<Vec<Value<'a>>, AmfError> {
    let mut values = Vec::new();
    while !decoder.is_empty() {
        values.push(decoder.value()?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, rest: &[u8]) -> Bytes {
        [&encode(&[Value::text(name)]), rest].concat().into()
    }

    #[test]
    fn amf0_stays_as_it_came_even_badly_written() {
        for rest in [
            &[0x03, 0, 1, b'k', 0x05, 0, 0, 9][..],
            &[0x08, 0, 0, 0, 9, 0, 1, b'k', 0x05],
            &[0x03, 0, 1],
            &[0x1F, 0xEE],
            &[0x07, 0, 3],
        ] {
            let body = named("onMetaData", rest);
            assert_eq!(as_amf0(body.clone()), Some(body));
        }
    }

    #[test]
    fn amf3_is_translated() {
        // {media: ByteArray, codec: "x"}, in AMF3.
        let rest = b"\x11\x0A\x0B\x01\x0Bmedia\x0C\x07\x01\x02\x03\x0Bcodec\x06\x03x\x01";
        let translated = as_amf0(named("additionalMedia", rest)).unwrap();
        let object = Value::object([("media", Value::Unsupported), ("codec", Value::text("x"))]);
        let expected = encode(&[Value::text("additionalMedia"), object]);
        assert_eq!(&translated[..], expected);
    }

    #[test]
    fn what_breaks_a_limit_or_cannot_be_translated_is_dropped() {
        let deep = [0x0A, 0, 0, 0, 1].repeat(10_000);
        let many = [&[0x03][..], &[0, 1, b'k', 5].repeat(70_000)].concat();
        // A string of 1000 bytes, and 50 000 references to it.
        let mut bomb = vec![0x11, 0x09, 0x86, 0x8D, 0x23, 0x01, 0x06, 0x8F, 0x51];
        bomb.extend(vec![b'x'; 1_000]);
        bomb.extend([0x06, 0x00].repeat(50_000));
        for rest in [
            &deep[..],
            &many,
            &bomb,
            &[0x11, 0x0A, 0x07, 0x01],
            &[0x11, 0x06],
        ] {
            assert_eq!(as_amf0(named("x", rest)), None);
        }
    }
}
