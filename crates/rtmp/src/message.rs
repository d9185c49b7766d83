//! What the chunk layer carries.

use bytes::Bytes;

use crate::script;

/// A publisher's media message, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaMessage {
    /// Which message type.
    pub kind: MediaKind,
    /// Milliseconds, wrapping at 2^32.
    pub timestamp: u32,
    /// The message's body in a buffer of its exact size.
    pub body: Bytes,
}

/// RTMP message types 8, 18 (or 15, made type 18) and 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// Type 8.
    Audio,
    /// Type 18 or 15, AMF0 in either case: AMF3 values are translated, as no player of FLV reads them.
    Script,
    /// Type 9.
    Video,
}

/// Any message (RTMP 1.0 §6).
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// One of [`message_type`], or something unknown.
    pub type_id: u8,
    /// Milliseconds, wrapping at 2^32.
    pub timestamp: u32,
    /// What `createStream` returned; 0 for the connection itself.
    pub message_stream_id: u32,
    /// In a buffer of its exact size.
    pub body: Bytes,
}

/// Commands hold stream keys: the body is not printed.
impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Message")
            .field("type_id", &self.type_id)
            .field("timestamp", &self.timestamp)
            .field("message_stream_id", &self.message_stream_id)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

impl Message {
    /// The media in it; `None` for every other type, and for data beyond the limits of AMF.
    pub(crate) fn into_media(self) -> Option<MediaMessage> {
        let kind = match self.type_id {
            message_type::AUDIO => MediaKind::Audio,
            message_type::VIDEO => MediaKind::Video,
            message_type::DATA_AMF0 | message_type::DATA_AMF3 => MediaKind::Script,
            _ => return None,
        };
        Some(MediaMessage {
            kind,
            timestamp: self.timestamp,
            body: match self.type_id {
                message_type::DATA_AMF0 => script::as_amf0(self.body)?,
                message_type::DATA_AMF3 => script::as_amf0(without_selector(self.body))?,
                _ => self.body,
            },
        })
    }
}

/// Types 15 and 17 begin with a format selector, 0, and go on in AMF0. Some encoders leave it out.
pub(crate) fn without_selector(body: Bytes) -> Bytes {
    match body.first() {
        Some(0) => body.slice(1..),
        _ => body,
    }
}

/// RTMP 1.0 §5.4, §6.2, §7.1.
pub mod message_type {
    #![expect(missing_docs, reason = "the names are the specification's")]
    pub const SET_CHUNK_SIZE: u8 = 1;
    pub const ABORT: u8 = 2;
    pub const ACKNOWLEDGEMENT: u8 = 3;
    pub const USER_CONTROL: u8 = 4;
    pub const WINDOW_ACKNOWLEDGEMENT_SIZE: u8 = 5;
    pub const SET_PEER_BANDWIDTH: u8 = 6;
    pub const AUDIO: u8 = 8;
    pub const VIDEO: u8 = 9;
    pub const DATA_AMF3: u8 = 15;
    pub const COMMAND_AMF3: u8 = 17;
    pub const DATA_AMF0: u8 = 18;
    pub const COMMAND_AMF0: u8 = 20;
    pub const AGGREGATE: u8 = 22;
}
