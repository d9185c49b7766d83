//! What a client says in `connect` that it can do (E-RTMP v2, "Enhancing NetConnection connect Command").
//!
//! It is for information: nobody is refused for what is missing here, and what comes decides, because most encoders
//! send Enhanced RTMP without announcing it.

use crate::amf0::{Property, Value};
use crate::command::integer;
use crate::limits::FOUR_CCS;

/// As announced; empty where nothing was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `capsEx`: bits of [`caps_ex`].
    pub caps_ex: u32,
    /// `videoFunction`: 1 seek, 2 HDR, 4 metadata packets, 8 large-scale tile.
    pub video_function: u32,
    /// `objectEncoding`: 0, or 3 for a client that may send AMF3.
    pub object_encoding: u32,
    /// `fourCcList`: FourCCs, or `*` for all. At most [`FOUR_CCS`] are kept, here and below.
    pub four_cc_list: Vec<String>,
    /// `videoFourCcInfoMap`: FourCC (or `*`) and what can be done with it: 1 decode, 2 encode, 4 forward.
    pub video_four_cc_info: Vec<(String, u32)>,
    /// `audioFourCcInfoMap`.
    pub audio_four_cc_info: Vec<(String, u32)>,
}

/// Bits of `capsEx`.
pub mod caps_ex {
    /// Follows a request to connect elsewhere.
    pub const RECONNECT: u32 = 1;
    /// Several tracks in one stream.
    pub const MULTITRACK: u32 = 2;
    /// Understands ModEx, whatever it modifies.
    pub const MOD_EX: u32 = 4;
    /// Understands timestamp offsets in nanoseconds.
    pub const TIMESTAMP_NANO_OFFSET: u32 = 8;
}

/// The status of a request to connect elsewhere (E-RTMP v2, "Reconnect Request").
pub(crate) const RECONNECT_REQUEST: &str = "NetConnection.Connect.ReconnectRequest";

/// What this server answers: the bits that hold for it.
pub(crate) const CAPS_EX: u32 =
    caps_ex::RECONNECT | caps_ex::MULTITRACK | caps_ex::MOD_EX | caps_ex::TIMESTAMP_NANO_OFFSET;

impl Capabilities {
    /// Whether the client follows a request to connect elsewhere.
    pub fn reconnects(&self) -> bool {
        self.caps_ex & caps_ex::RECONNECT != 0
    }

    /// Out of `connect`'s command object. What is of another type is not there.
    pub(crate) fn read(object: &Value<'_>) -> Self {
        let number = |key| {
            let number = object.property(key).and_then(Value::as_number);
            number.map(integer).unwrap_or_default()
        };
        let map = |key| {
            let map = object.property(key).map(Value::properties);
            let entries = map.unwrap_or_default().iter().filter_map(map_entry);
            entries.take(FOUR_CCS).collect()
        };
        let list = match object.property("fourCcList") {
            Some(Value::StrictArray(values) | Value::MixedArray { values, .. }) => {
                values.as_slice()
            }
            _ => &[],
        };
        let list = list.iter().filter_map(Value::as_bytes).filter_map(four_cc);
        Self {
            caps_ex: number("capsEx"),
            video_function: number("videoFunction"),
            object_encoding: number("objectEncoding"),
            four_cc_list: list.take(FOUR_CCS).collect(),
            video_four_cc_info: map("videoFourCcInfoMap"),
            audio_four_cc_info: map("audioFourCcInfoMap"),
        }
    }
}

fn map_entry((key, value): &Property<'_>) -> Option<(String, u32)> {
    Some((four_cc(key)?, integer(value.as_number()?)))
}

/// Four printable characters, or `*`.
fn four_cc(bytes: &[u8]) -> Option<String> {
    let is_four_cc =
        bytes == b"*" || bytes.len() == 4 && bytes.iter().all(|byte| (b' '..=b'~').contains(byte));
    is_four_cc.then(|| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::amf0::{Decoder, encode};

    /// As a client writes it.
    fn connect_object(capabilities: &Capabilities) -> Value<'_> {
        fn map(entries: &[(String, u32)]) -> Vec<Property<'_>> {
            let properties = entries.iter();
            properties
                .map(|(key, mask)| (key.as_bytes(), Value::Number((*mask).into())))
                .collect()
        }
        let list = capabilities.four_cc_list.iter();
        Value::object([
            ("capsEx", Value::Number(capabilities.caps_ex.into())),
            (
                "videoFunction",
                Value::Number(capabilities.video_function.into()),
            ),
            (
                "objectEncoding",
                Value::Number(capabilities.object_encoding.into()),
            ),
            (
                "fourCcList",
                Value::StrictArray(list.map(|text| Value::text(text)).collect()),
            ),
            (
                "videoFourCcInfoMap",
                Value::Object(map(&capabilities.video_four_cc_info)),
            ),
            (
                "audioFourCcInfoMap",
                Value::EcmaArray(map(&capabilities.audio_four_cc_info)),
            ),
        ])
    }

    fn capabilities() -> impl Strategy<Value = Capabilities> {
        let four_cc = || prop_oneof![Just("*".to_owned()), "[ -~]{4}"];
        let map = || prop::collection::vec((four_cc(), any::<u32>()), 0..FOUR_CCS);
        let list = prop::collection::vec(four_cc(), 0..FOUR_CCS);
        (any::<[u32; 3]>(), list, map(), map()).prop_map(|(numbers, list, video, audio)| {
            Capabilities {
                caps_ex: numbers[0],
                video_function: numbers[1],
                object_encoding: numbers[2],
                four_cc_list: list,
                video_four_cc_info: video,
                audio_four_cc_info: audio,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_announced_is_read(capabilities in capabilities()) {
            let bytes = encode(&[connect_object(&capabilities)]);
            let object = Decoder::command(&bytes, 4_096).value().unwrap();
            prop_assert_eq!(Capabilities::read(&object), capabilities);
        }
    }

    #[test]
    fn what_is_odd_is_left_out() {
        let many: Vec<Value<'_>> = (0..100).map(|_| Value::text("hvc1")).collect();
        let object = Value::object([
            ("capsEx", Value::Number(f64::NAN)),
            ("videoFunction", Value::text("4")),
            ("fourCcList", Value::StrictArray(many)),
            (
                "videoFourCcInfoMap",
                Value::object([
                    ("toolong", Value::Number(1.0)),
                    ("av01", Value::Null),
                    ("\u{1b}[2J", Value::Number(1.0)),
                    ("vp09", Value::Number(7.0)),
                ]),
            ),
            ("audioFourCcInfoMap", Value::text("*")),
        ]);
        let expected = Capabilities {
            four_cc_list: vec!["hvc1".to_owned(); FOUR_CCS],
            video_four_cc_info: vec![("vp09".to_owned(), 7)],
            ..Capabilities::default()
        };
        assert_eq!(Capabilities::read(&object), expected);
    }
}
