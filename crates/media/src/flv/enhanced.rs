//! Enhanced RTMP v2 tags: a FourCC names the codec; a body may hold several tracks and be prefixed by ModEx.

use super::{
    FlvError, MOD_EX_CHAIN_MAX, TRACKS_PER_MESSAGE_MAX,
    legacy::{FRAME_TYPE_COMMAND, keyframe},
    reader::Reader,
};
use crate::{FourCc, FrameKind, Part, PartType};

/// The sound format that says "enhanced".
pub(super) const SOUND_FORMAT_EX_HEADER: u8 = 9;

/// ExVideoTagHeader.
pub(super) fn video(first: u8, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let frame_type = (first >> 4) & 0x07;
    let packet_type = skip_mod_ex(first & 0x0f, &mut reader)?;
    // FFmpeg sets the command frame type on metadata packets, so the packet type is looked at first.
    if frame_type == FRAME_TYPE_COMMAND && packet_type != VIDEO_METADATA {
        return Ok(Vec::new());
    }
    let tag = Tag {
        kind: FrameKind::Video,
        keyframe: keyframe(frame_type),
    };
    if packet_type == VIDEO_MULTITRACK {
        multitrack(&tag, reader)
    } else {
        single_track(&tag, packet_type, reader)
    }
}

/// ExAudioTagHeader. Its packet types are numbered apart from video's.
pub(super) fn audio(first: u8, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let packet_type = skip_mod_ex(first & 0x0f, &mut reader)?;
    let tag = Tag {
        kind: FrameKind::Audio,
        keyframe: false,
    };
    if packet_type == AUDIO_MULTITRACK {
        multitrack(&tag, reader)
    } else {
        single_track(&tag, packet_type, reader)
    }
}

/// What the first byte says of every track.
struct Tag {
    kind: FrameKind,
    keyframe: bool,
}

const VIDEO_METADATA: u8 = 4;
const VIDEO_MULTITRACK: u8 = 6;
const AUDIO_MULTITRACK: u8 = 5;
const MOD_EX: u8 = 7;

/// Passes over ModEx prefixes (nanosecond offsets and what is not defined yet); the packet type behind them.
fn skip_mod_ex(mut packet_type: u8, reader: &mut Reader<'_>) -> Result<u8, FlvError> {
    let mut prefixes = 0;
    while packet_type == MOD_EX {
        prefixes += 1;
        if prefixes > MOD_EX_CHAIN_MAX {
            return Err(FlvError::TooManyModEx);
        }
        let mut length = usize::from(reader.u8()?) + 1;
        if length == 256 {
            length = usize::from(reader.u16()?) + 1;
        }
        reader.skip(length)?;
        packet_type = reader.u8()? & 0x0f;
    }
    Ok(packet_type)
}

fn single_track(tag: &Tag, packet_type: u8, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let Some(part_type) = part_type(tag.kind, packet_type) else {
        return Ok(Vec::new());
    };
    let codec = reader.four_cc()?;
    Ok(vec![part(tag, 0, codec, packet_type, part_type, reader)?])
}

const ONE_TRACK: u8 = 0;
const MANY_TRACKS: u8 = 1;
const MANY_TRACKS_MANY_CODECS: u8 = 2;

fn multitrack(tag: &Tag, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let types = reader.u8()?;
    let (multitrack_type, packet_type) = (types >> 4, types & 0x0f);
    let nested = match tag.kind {
        FrameKind::Audio => AUDIO_MULTITRACK,
        FrameKind::Script | FrameKind::Video => VIDEO_MULTITRACK,
    };
    if packet_type == nested || packet_type == MOD_EX {
        return Err(FlvError::Nested { packet_type });
    }
    let (Some(part_type), ONE_TRACK..=MANY_TRACKS_MANY_CODECS) =
        (part_type(tag.kind, packet_type), multitrack_type)
    else {
        return Ok(Vec::new());
    };
    let common_codec = match multitrack_type {
        ONE_TRACK | MANY_TRACKS => Some(reader.four_cc()?),
        _ => None,
    };
    let mut parts = Vec::new();
    loop {
        if parts.len() == TRACKS_PER_MESSAGE_MAX {
            return Err(FlvError::TooManyTracks);
        }
        let codec = match common_codec {
            Some(codec) => codec,
            None => reader.four_cc()?,
        };
        let track = reader.u8()?;
        let payload = if multitrack_type == ONE_TRACK {
            reader.take(reader.remaining() as usize)?
        } else {
            let size = reader.u24()?;
            reader.take(size as usize)?
        };
        parts.push(part(tag, track, codec, packet_type, part_type, payload)?);
        if reader.remaining() == 0 {
            return Ok(parts);
        }
    }
}

/// `None` for packet types that nobody defined.
fn part_type(kind: FrameKind, packet_type: u8) -> Option<PartType> {
    match (kind, packet_type) {
        // Video 5 is MPEG2TSSequenceStart.
        (FrameKind::Video, 0 | 5) | (FrameKind::Audio, 0) => Some(PartType::SequenceHeader),
        // Video 3 is CodedFramesX.
        (FrameKind::Video, 1 | 3) | (FrameKind::Audio, 1) => Some(PartType::Coded),
        (FrameKind::Video | FrameKind::Audio, 2) => Some(PartType::SequenceEnd),
        // Audio 4 is MultichannelConfig.
        (FrameKind::Video | FrameKind::Audio, 4) => Some(PartType::Metadata),
        _ => None,
    }
}

fn part(
    tag: &Tag,
    track: u8,
    codec: FourCc,
    packet_type: u8,
    part_type: PartType,
    mut payload: Reader<'_>,
) -> Result<Part, FlvError> {
    let timed = matches!(&codec.0, b"avc1" | b"hvc1" | b"vvc1");
    // CodedFrames of these codecs carry a composition time; CodedFramesX stands for zero.
    let composition_offset_ms = if tag.kind == FrameKind::Video && packet_type == 1 && timed {
        payload.i24()?
    } else {
        0
    };
    Ok(Part {
        track,
        codec,
        part_type,
        keyframe: tag.keyframe && part_type == PartType::Coded,
        composition_offset_ms,
        offset: payload.offset(),
        length: payload.remaining(),
    })
}
