//! FLV 10.1 tags: a codec number in the first byte, one track.

use super::{FlvError, reader::Reader};
use crate::{FourCc, Part, PartType};

/// FLV 10.1 §E.4.3. Codec numbers 12 and 13 are an unofficial HEVC and AV1 with AVC's header.
pub(super) fn video(first: u8, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let frame_type = first >> 4;
    if frame_type == FRAME_TYPE_COMMAND {
        reader.u8()?;
        return Ok(Vec::new());
    }
    let codec = match first & 0x0f {
        2 => FourCc(*b"FLV1"),
        3 => FourCc(*b"FSV1"),
        4 => FourCc(*b"VP6F"),
        5 => FourCc(*b"VP6A"),
        6 => FourCc(*b"FSV2"),
        7 => return avc(frame_type, FourCc(*b"avc1"), reader),
        12 => return avc(frame_type, FourCc(*b"hvc1"), reader),
        13 => return avc(frame_type, FourCc(*b"av01"), reader),
        number => return Err(FlvError::UnknownCodecNumber { number }),
    };
    if reader.remaining() == 0 {
        return Err(FlvError::Truncated);
    }
    Ok(vec![part(
        &mut reader,
        codec,
        PartType::Coded,
        keyframe(frame_type),
        0,
    )])
}

fn avc(frame_type: u8, codec: FourCc, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let part_type = match reader.u8()? {
        0 => PartType::SequenceHeader,
        1 => PartType::Coded,
        // Seen without its composition time.
        2 if reader.remaining() < 3 => {
            return Ok(vec![part(
                &mut reader,
                codec,
                PartType::SequenceEnd,
                false,
                0,
            )]);
        }
        2 => PartType::SequenceEnd,
        packet_type => return Err(FlvError::UnknownPacketType { packet_type }),
    };
    let composition_offset_ms = reader.i24()?;
    Ok(vec![part(
        &mut reader,
        codec,
        part_type,
        part_type == PartType::Coded && keyframe(frame_type),
        if part_type == PartType::Coded {
            composition_offset_ms
        } else {
            0
        },
    )])
}

/// FLV 10.1 §E.4.2. Number 13 is an unofficial Opus.
pub(super) fn audio(first: u8, mut reader: Reader<'_>) -> Result<Vec<Part>, FlvError> {
    let codec = match first >> 4 {
        0 | 3 => FourCc(*b"lpcm"),
        1 => FourCc(*b"swfa"),
        2 | 14 => FourCc(*b".mp3"),
        4..=6 => FourCc(*b"nmos"),
        7 => FourCc(*b"alaw"),
        8 => FourCc(*b"ulaw"),
        SOUND_FORMAT_AAC => {
            let part_type = match reader.u8()? {
                0 => PartType::SequenceHeader,
                1 => PartType::Coded,
                packet_type => return Err(FlvError::UnknownPacketType { packet_type }),
            };
            return Ok(vec![part(
                &mut reader,
                FourCc(*b"mp4a"),
                part_type,
                false,
                0,
            )]);
        }
        11 => FourCc(*b"spex"),
        13 => FourCc(*b"Opus"),
        number => return Err(FlvError::UnknownCodecNumber { number }),
    };
    Ok(vec![part(&mut reader, codec, PartType::Coded, false, 0)])
}

fn part(
    reader: &mut Reader<'_>,
    codec: FourCc,
    part_type: PartType,
    keyframe: bool,
    composition_offset_ms: i32,
) -> Part {
    Part {
        track: 0,
        codec,
        part_type,
        keyframe,
        composition_offset_ms,
        timestamp_offset_ns: 0,
        offset: reader.offset(),
        length: reader.remaining(),
    }
}

pub(super) const FRAME_TYPE_COMMAND: u8 = 5;
pub(super) const SOUND_FORMAT_AAC: u8 = 10;

/// Frame type 1 is a keyframe, 4 one that a server made.
pub(super) fn keyframe(frame_type: u8) -> bool {
    matches!(frame_type, 1 | 4)
}
