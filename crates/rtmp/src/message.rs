//! What the chunk layer carries.

use bytes::Bytes;

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

/// RTMP message types 8, 18 (15 without its selector byte) and 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// Type 8.
    Audio,
    /// Type 18, or 15 without its selector byte.
    Script,
    /// Type 9.
    Video,
}
