//! Hop 3 of a frame's life: a message body becomes a [`Frame`]; and the few bytes around a body in an FLV file.
//!
//! | specification | where |
//! |---|---|
//! | FLV 10.1 §E.4.2, §E.4.3 legacy audio and video tags | [`parse`] |
//! | Enhanced RTMP v2, ExVideoTagHeader and ExAudioTagHeader | [`parse`] |
//! | FLV 10.1 §E.4.4 script data | [`metadata`], [`player_body`] |
//! | FLV 10.1 §E.2, §E.3 file header, tags | [`file_header`], [`tag_header`], [`previous_tag_size`] |
//!
//! Bodies are indexed, not rewritten, and codec payloads are not looked into. One thing is set right where it comes in, because
//! a body with it is no FLV: an ADTS header before raw AAC ([`without_adts`]).

mod enhanced;
mod legacy;
mod reader;

use bytes::Bytes;

use crate::{BODY_BYTES_MAX, FourCc, Frame, FrameKind, Part, PartType, codec::adts};
use reader::Reader;

/// Most ModEx prefixes of one message; a longer chain is an attack.
pub const MOD_EX_CHAIN_MAX: usize = 8;
/// Most nanoseconds of a ModEx timestamp offset.
pub const TIMESTAMP_OFFSET_NS_MAX: u32 = 999_999;
/// Most tracks in one message.
pub const TRACKS_PER_MESSAGE_MAX: usize = 32;
/// Longest script data body that is kept for late joiners, in bytes.
pub const METADATA_BYTES_MAX: usize = 64 * 1024;

/// The body contradicts itself, or holds what nobody has defined.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlvError {
    /// Longer than an FLV tag can be.
    #[error("the body has {length} bytes, more than {BODY_BYTES_MAX}")]
    BodyTooLarge {
        /// In bytes.
        length: usize,
    },
    /// Multitrack or ModEx inside Multitrack.
    #[error("a multitrack body holds packet type {packet_type}")]
    Nested {
        /// The inner packet type.
        packet_type: u8,
    },
    /// More than [`MOD_EX_CHAIN_MAX`] ModEx prefixes.
    #[error("more than {MOD_EX_CHAIN_MAX} ModEx prefixes")]
    TooManyModEx,
    /// More than [`TRACKS_PER_MESSAGE_MAX`] tracks.
    #[error("more than {TRACKS_PER_MESSAGE_MAX} tracks in a message")]
    TooManyTracks,
    /// A field or a declared size reaches behind the end of the body.
    #[error("the body ends inside its header")]
    Truncated,
    /// Not one of Enhanced RTMP's.
    #[error("the codec {codec} is not known")]
    UnknownCodec {
        /// As sent.
        codec: FourCc,
    },
    /// Not one of FLV's.
    #[error("the codec number {number} is not known")]
    UnknownCodecNumber {
        /// As sent.
        number: u8,
    },
    /// Not one of Enhanced RTMP's.
    #[error("the multitrack type {multitrack_type} is not known")]
    UnknownMultitrackType {
        /// As sent.
        multitrack_type: u8,
    },
    /// Not one of the codec's.
    #[error("the packet type {packet_type} is not known")]
    UnknownPacketType {
        /// As sent.
        packet_type: u8,
    },
}

impl FlvError {
    /// A stable word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::Nested { .. } => "nested",
            Self::TooManyModEx => "mod_ex",
            Self::TooManyTracks => "tracks",
            Self::Truncated => "truncated",
            Self::UnknownCodec { .. } | Self::UnknownCodecNumber { .. } => "unknown_codec",
            Self::UnknownMultitrackType { .. } | Self::UnknownPacketType { .. } => {
                "unknown_packet_type"
            }
        }
    }
}

/// Reads a message's body.
///
/// An empty audio body is silence, and has no parts; nor have script data and video commands.
pub fn parse(kind: FrameKind, timestamp_ms: i64, body: Bytes) -> Result<Frame, FlvError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(FlvError::BodyTooLarge { length: body.len() });
    }
    let parts = match kind {
        FrameKind::Audio if body.is_empty() => Vec::new(),
        FrameKind::Audio => audio(&body)?,
        FrameKind::Script => Vec::new(),
        FrameKind::Video => video(&body)?,
    };
    Ok(Frame {
        kind,
        timestamp_ms,
        body,
        parts,
    })
}

/// As [`parse`]; a body that cannot be read passes through without parts.
pub fn parse_or_opaque(kind: FrameKind, timestamp_ms: i64, body: Bytes) -> Frame {
    parse(kind, timestamp_ms, body.clone())
        .unwrap_or_else(|_malformed| Frame::opaque(kind, timestamp_ms, body))
}

fn video(body: &[u8]) -> Result<Vec<Part>, FlvError> {
    let mut reader = Reader::new(body);
    let first = reader.u8()?;
    if first & ENHANCED_VIDEO == 0 {
        legacy::video(first, reader)
    } else {
        enhanced::video(first, reader)
    }
}

fn audio(body: &[u8]) -> Result<Vec<Part>, FlvError> {
    let mut reader = Reader::new(body);
    let first = reader.u8()?;
    if first >> 4 == enhanced::SOUND_FORMAT_EX_HEADER {
        enhanced::audio(first, reader)
    } else {
        legacy::audio(first, reader)
    }
}

/// Whether a frame is `onMetaData`, as publishers send it (behind `@setDataFrame`) or bare.
pub fn metadata(frame: &Frame) -> bool {
    frame.kind == FrameKind::Script
        && amf0_string(without_set_data_frame(&frame.body)) == Some(b"onMetaData")
}

/// Whether audio or video came in a body of Enhanced RTMP.
pub fn enhanced(frame: &Frame) -> bool {
    let first = frame.body.first().copied().unwrap_or_default();
    match frame.kind {
        FrameKind::Audio => first >> 4 == enhanced::SOUND_FORMAT_EX_HEADER,
        FrameKind::Script => false,
        FrameKind::Video => first & ENHANCED_VIDEO != 0,
    }
}

/// The body that players get: script data without `@setDataFrame`, everything else unchanged.
pub fn player_body(frame: &Frame) -> Bytes {
    match frame.kind {
        FrameKind::Script => {
            let stripped = without_set_data_frame(&frame.body).len();
            frame
                .body
                .slice(frame.body.len().saturating_sub(stripped)..)
        }
        FrameKind::Audio | FrameKind::Video => frame.body.clone(),
    }
}

/// AAC as FLV has it, of an encoder that leaves an ADTS header before each raw frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bare {
    /// Without the header; the raw frame is as it came.
    pub frame: Frame,
    /// The sequence header that the ADTS header stands for, where it says enough: such an encoder may send none.
    pub sequence_header: Option<Frame>,
}

/// Takes the ADTS header out of a legacy AAC body. `None` for all others: nothing is to be done.
pub fn without_adts(frame: &Frame) -> Option<Bare> {
    const SEQUENCE_HEADER: u8 = 0;
    // Devices that do this know nothing of Enhanced RTMP.
    let [part] = frame.parts.as_slice() else {
        return None;
    };
    let (&[first, packet_type], payload) = frame.body.split_first_chunk::<2>()?;
    let legacy = frame.kind == FrameKind::Audio && first >> 4 == legacy::SOUND_FORMAT_AAC;
    if !legacy || part.part_type != PartType::Coded {
        return None;
    }
    let adts = adts::parse(payload)?;
    let raw = payload.get(adts.header_bytes..)?;
    let of = |bytes: &[&[u8]]| parse(frame.kind, frame.timestamp_ms, bytes.concat().into()).ok();
    let sequence_header = |configuration: [u8; 2]| of(&[&[first, SEQUENCE_HEADER], &configuration]);
    Some(Bare {
        frame: of(&[&[first, packet_type], raw])?,
        sequence_header: adts.configuration.and_then(sequence_header),
    })
}

/// Nine bytes of FLV header and the first (empty) previous tag size.
pub fn file_header(audio: bool, video: bool) -> [u8; 13] {
    let flags = (u8::from(audio) << 2) | u8::from(video);
    [b'F', b'L', b'V', 1, flags, 0, 0, 0, 9, 0, 0, 0, 0]
}

/// What stands before a body in a file. `None` for a body longer than [`BODY_BYTES_MAX`].
///
/// A timestamp below zero becomes zero; FLV's 32 bits are read as signed by many, so it wraps at 2^31.
pub fn tag_header(kind: FrameKind, timestamp_ms: i64, body_bytes: usize) -> Option<[u8; 11]> {
    if body_bytes > BODY_BYTES_MAX {
        return None;
    }
    let [_, l0, l1, l2] = u32::try_from(body_bytes).ok()?.to_be_bytes();
    let wrapped = u32::try_from(timestamp_ms.max(0) & 0x7fff_ffff).ok()?;
    let [extended, t0, t1, t2] = wrapped.to_be_bytes();
    let tag_type = match kind {
        FrameKind::Audio => 8,
        FrameKind::Script => 18,
        FrameKind::Video => 9,
    };
    Some([tag_type, l0, l1, l2, t0, t1, t2, extended, 0, 0, 0])
}

/// What stands behind a body in a file.
pub fn previous_tag_size(body_bytes: usize) -> [u8; 4] {
    u32::try_from(body_bytes.saturating_add(11))
        .unwrap_or(u32::MAX)
        .to_be_bytes()
}

/// IsExVideoHeader of a video body's first byte.
const ENHANCED_VIDEO: u8 = 0x80;

const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";

fn without_set_data_frame(body: &[u8]) -> &[u8] {
    body.strip_prefix(SET_DATA_FRAME).unwrap_or(body)
}

/// The AMF0 string (marker 2, 16 bits of length) that a body starts with.
fn amf0_string(body: &[u8]) -> Option<&[u8]> {
    let (length, rest) = body.strip_prefix(&[2])?.split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests;
