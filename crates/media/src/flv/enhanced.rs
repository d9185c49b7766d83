//! Enhanced RTMP v2 tags: a FourCC names the codec; a body may hold several tracks and be prefixed by ModEx.

use super::{
    FlvError, MOD_EX_CHAIN_MAX, TIMESTAMP_OFFSET_NS_MAX, TRACKS_PER_MESSAGE_MAX,
    legacy::{FRAME_TYPE_COMMAND, keyframe},
    reader::Reader,
};
use crate::{FourCc, FrameKind, Part, PartType};

/// The sound format that says "enhanced".
pub(super) const SOUND_FORMAT_EX_HEADER: u8 = 9;

/// The FourCCs that Enhanced RTMP v2 defines for video.
pub(super) const VIDEO_CODECS: [FourCc; 6] = [
    FourCc(*b"av01"),
    FourCc(*b"avc1"),
    FourCc(*b"hvc1"),
    FourCc(*b"vp08"),
    FourCc(*b"vp09"),
    FourCc(*b"vvc1"),
];
/// The FourCCs that Enhanced RTMP v2 defines for audio; case matters.
pub(super) const AUDIO_CODECS: [FourCc; 6] = [
    FourCc(*b".mp3"),
    FourCc(*b"Opus"),
    FourCc(*b"ac-3"),
    FourCc(*b"ec-3"),
    FourCc(*b"fLaC"),
    FourCc(*b"mp4a"),
];

/// ExVideoTagHeader.
pub(super) fn video(first: u8, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let frame_type = (first >> 4) & 0x07;
    let (packet_type, timestamp_offset_ns) = mod_ex(first & 0x0f, &mut reader)?;
    if frame_type == FRAME_TYPE_COMMAND && command(packet_type, &reader) {
        reader.u8()?;
        return Ok(Vec::new());
    }
    let tag = Tag {
        kind: FrameKind::Video,
        keyframe: keyframe(frame_type),
        timestamp_offset_ns,
    };
    if packet_type == VIDEO_MULTITRACK {
        multitrack(&tag, reader)
    } else {
        single_track(&tag, packet_type, reader)
    }
}

/// Whether the command frame type means one. FFmpeg sets it on metadata packets, so the packet type is looked at first;
/// and a command is one byte, which no multitrack body of metadata is.
fn command(packet_type: u8, reader: &Reader<'_>) -> bool {
    match packet_type {
        METADATA => false,
        VIDEO_MULTITRACK => reader.remaining() <= 1,
        _ => true,
    }
}

/// ExAudioTagHeader. Its packet types are numbered apart from video's.
pub(super) fn audio(first: u8, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let (packet_type, timestamp_offset_ns) = mod_ex(first & 0x0f, &mut reader)?;
    let tag = Tag {
        kind: FrameKind::Audio,
        keyframe: false,
        timestamp_offset_ns,
    };
    if packet_type == AUDIO_MULTITRACK {
        multitrack(&tag, reader)
    } else {
        single_track(&tag, packet_type, reader)
    }
}

/// What stands before the tracks and is true for every one.
struct Tag {
    kind: FrameKind,
    keyframe: bool,
    timestamp_offset_ns: u32,
}

const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const SEQUENCE_END: u8 = 2;
const VIDEO_CODED_FRAMES_X: u8 = 3;
/// Audio: MultichannelConfig.
const METADATA: u8 = 4;
const VIDEO_MPEG2TS_SEQUENCE_START: u8 = 5;
const VIDEO_MULTITRACK: u8 = 6;
const AUDIO_MULTITRACK: u8 = 5;
const MOD_EX: u8 = 7;
const MOD_EX_TIMESTAMP_OFFSET_NANO: u8 = 0;

/// Reads ModEx prefixes; what is not defined yet is passed over. The packet type behind them and the nanoseconds.
fn mod_ex(mut packet_type: u8, reader: &mut Reader<'_>) -> Result<(u8, u32), FlvError> {
    let mut timestamp_offset_ns = 0;
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
        let mut payload = reader.take(length)?;
        let types = reader.u8()?;
        if types >> 4 == MOD_EX_TIMESTAMP_OFFSET_NANO {
            // More than a millisecond would be another timestamp.
            timestamp_offset_ns = payload.u24()?.min(TIMESTAMP_OFFSET_NS_MAX);
        }
        packet_type = types & 0x0f;
    }
    Ok((packet_type, timestamp_offset_ns))
}

fn single_track(tag: &Tag, packet_type: u8, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let part_type = part_type(tag.kind, packet_type)?;
    let codec = codec(tag.kind, &mut reader)?;
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
    let part_type = part_type(tag.kind, packet_type)?;
    let common_codec = match multitrack_type {
        ONE_TRACK | MANY_TRACKS => Some(codec(tag.kind, &mut reader)?),
        MANY_TRACKS_MANY_CODECS => None,
        _ => return Err(FlvError::UnknownMultitrackType { multitrack_type }),
    };
    let mut parts = Vec::new();
    loop {
        if parts.len() == TRACKS_PER_MESSAGE_MAX {
            return Err(FlvError::TooManyTracks);
        }
        let codec = match common_codec {
            Some(common) => common,
            None => codec(tag.kind, &mut reader)?,
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

fn part_type(kind: FrameKind, packet_type: u8) -> Result<PartType, FlvError> {
    match (kind, packet_type) {
        (FrameKind::Video, VIDEO_MPEG2TS_SEQUENCE_START) | (_, SEQUENCE_START) => {
            Ok(PartType::SequenceHeader)
        }
        (FrameKind::Video, VIDEO_CODED_FRAMES_X) | (_, CODED_FRAMES) => Ok(PartType::Coded),
        (_, SEQUENCE_END) => Ok(PartType::SequenceEnd),
        (_, METADATA) => Ok(PartType::Metadata),
        _ => Err(FlvError::UnknownPacketType { packet_type }),
    }
}

fn codec(kind: FrameKind, reader: &mut Reader<'_>) -> Result<FourCc, FlvError> {
    let codec = reader.four_cc()?;
    let defined = match kind {
        FrameKind::Audio => AUDIO_CODECS.contains(&codec),
        FrameKind::Script | FrameKind::Video => VIDEO_CODECS.contains(&codec),
    };
    if defined {
        Ok(codec)
    } else {
        Err(FlvError::UnknownCodec { codec })
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
    let composition_offset_ms =
        if tag.kind == FrameKind::Video && packet_type == CODED_FRAMES && timed {
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
        timestamp_offset_ns: tag.timestamp_offset_ns,
        offset: payload.offset(),
        length: payload.remaining(),
    })
}
