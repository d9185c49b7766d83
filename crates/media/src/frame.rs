//! A frame is one RTMP message: its body untouched, and an index of what is in it.

use bytes::Bytes;

/// One RTMP message of a publisher. Cloning shares the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Audio, video or script data.
    pub kind: FrameKind,
    /// Decode timestamp in milliseconds, unwrapped.
    pub timestamp_ms: i64,
    /// The message's body as it came.
    pub body: Bytes,
    /// What the body holds, in order; empty for script data and for what is passed through unread.
    pub parts: Vec<Part>,
}

/// RTMP message types 8, 9 and 18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameKind {
    /// Message type 8.
    Audio,
    /// Message type 18 (and 15 without its selector byte).
    Script,
    /// Message type 9.
    Video,
}

/// One track's share of a frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Audio and video track ids are separate namespaces; a body without a track id is track 0.
    pub track: u8,
    /// The codec; legacy codec ids are mapped (AVC is `avc1`, AAC is `mp4a`).
    pub codec: FourCc,
    /// What the payload is.
    pub part_type: PartType,
    /// Video only: a random-access point.
    pub keyframe: bool,
    /// Presentation time less decode time, in milliseconds.
    pub composition_offset_ms: i32,
    /// To be added to the presentation time, in nanoseconds; less than a millisecond.
    pub timestamp_offset_ns: u32,
    /// The codec payload's place in the body, in bytes.
    pub offset: u32,
    /// The codec payload's length in bytes.
    pub length: u32,
}

impl Part {
    /// The codec payload, in the body that the part is of.
    pub fn payload<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let end = start.saturating_add(length);
        body.get(start..end).unwrap_or_default()
    }
}

/// What a part's payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartType {
    /// Coded media.
    Coded,
    /// Configuration beside the sequence header: colour information, channel layout.
    Metadata,
    /// End of the track's sequence.
    SequenceEnd,
    /// Decoder configuration.
    SequenceHeader,
}

/// Four bytes that name a codec, as Enhanced RTMP writes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FourCc(pub [u8; 4]);

/// Longest body, in bytes: an RTMP message's and an FLV tag's length field has 24 bits.
pub const BODY_BYTES_MAX: usize = 0xff_ffff;

impl Frame {
    /// A frame whose body is passed through unread.
    pub fn opaque(kind: FrameKind, timestamp_ms: i64, body: Bytes) -> Self {
        Self {
            kind,
            timestamp_ms,
            body,
            parts: Vec::new(),
        }
    }

    /// Whether any track has a coded keyframe. Where a decoder can start depends on the tracks:
    /// [`RandomAccess`](crate::RandomAccess) knows.
    pub fn keyframe(&self) -> bool {
        self.parts
            .iter()
            .any(|part| part.keyframe && part.part_type == PartType::Coded)
    }

    /// Whether any part is coded media.
    pub fn coded(&self) -> bool {
        self.parts
            .iter()
            .any(|part| part.part_type == PartType::Coded)
    }

    /// Whether every part is decoder configuration.
    pub fn sequence_header(&self) -> bool {
        !self.parts.is_empty()
            && self
                .parts
                .iter()
                .all(|part| part.part_type == PartType::SequenceHeader)
    }
}

impl std::fmt::Debug for FourCc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FourCc({self})")
    }
}

impl std::fmt::Display for FourCc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
