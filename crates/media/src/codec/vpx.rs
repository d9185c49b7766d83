//! VP8 and VP9: the record, which has no size, and keyframes, which have.

use super::{
    CodecConfiguration, CodecError, Colour, Dimensions, bits::BitReader, random_access::AccessUnit,
};
use crate::FourCc;

/// Reads a VPCodecConfigurationRecord, with or without the version and flags that MP4 puts before it.
pub fn parse(codec: FourCc, record: &[u8]) -> Result<CodecConfiguration, CodecError> {
    const VERSION_AND_FLAGS: &[u8] = &[1, 0, 0, 0];
    let bare = record.strip_prefix(VERSION_AND_FLAGS).unwrap_or(record);
    let mut reader = BitReader::new(bare);
    let [profile, level] = [reader.u8()?, reader.u8()?];
    if profile > 3 {
        return Err(CodecError::Invalid { field: "profile" });
    }
    // Four, three and one bits.
    let bit_depth = reader.bits(4)? as u8;
    let chroma = reader.bits(3)? as u8;
    let full_range = u8::from(reader.flag()?);
    let colour = Colour {
        primaries: reader.u8()?,
        transfer: reader.u8()?,
        matrix: reader.u8()?,
    };
    let initialization_bytes = usize::from(reader.u16()?);
    reader.take(initialization_bytes)?;
    if !matches!(bit_depth, 8 | 10 | 12) {
        return Err(CodecError::Invalid { field: "bitDepth" });
    }
    let mut codec_string = format!("{codec}.{profile:02}.{level:02}.{bit_depth:02}");
    // Short where all that could follow has its default or is not declared.
    let usual = |value| matches!(value, 1 | Colour::UNSPECIFIED);
    let Colour {
        primaries,
        transfer,
        matrix,
    } = colour;
    if chroma > 1 || full_range == 1 || ![primaries, transfer, matrix].into_iter().all(usual) {
        codec_string.push_str(&format!(
            ".{chroma:02}.{primaries:02}.{transfer:02}.{matrix:02}.{full_range:02}"
        ));
    }
    Ok(CodecConfiguration {
        codec_string,
        profile: Some(profile),
        // 0: not declared.
        level: (level > 0).then_some(level),
        bit_depth: Some(bit_depth),
        transfer_characteristics: colour.transfer(),
        ..CodecConfiguration::default()
    })
}

const VP8_START_CODE: [u8; 3] = [0x9d, 0x01, 0x2a];
const VP9_SYNC_CODE: u32 = 0x49_83_42;

/// RFC 6386 §9.1.
pub(super) fn vp8_access(frame: &[u8]) -> AccessUnit {
    match frame.first() {
        Some(tag) if tag & 1 == 1 => AccessUnit::Dependent,
        _ if frame.get(3..6) == Some(&VP8_START_CODE) => AccessUnit::RandomAccess,
        _ => AccessUnit::Undecided,
    }
}

/// VP9 §6.2. Of a superframe, its first frame.
pub(super) fn vp9_access(frame: &[u8]) -> AccessUnit {
    let mut reader = BitReader::new(frame);
    match vp9_frame(&mut reader) {
        Ok(Vp9Frame { key: false, .. }) => AccessUnit::Dependent,
        Ok(_) if reader.bits(24) == Ok(VP9_SYNC_CODE) => AccessUnit::RandomAccess,
        Ok(_) | Err(_) => AccessUnit::Undecided,
    }
}

/// Reads the header of a VP8 keyframe (RFC 6386 §9.1).
pub fn vp8_keyframe(frame: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let (header, _) = frame
        .split_first_chunk::<10>()
        .ok_or(CodecError::Truncated)?;
    let [tag, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1] = *header else {
        return Err(CodecError::Invalid {
            field: "start code",
        });
    };
    if tag & 1 == 1 {
        return Err(CodecError::Invalid {
            field: "frame type",
        });
    }
    // Fourteen bits; the two above them are a scale.
    let length = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    Ok(CodecConfiguration {
        codec_string: "vp08".to_owned(),
        profile: Some(tag >> 1 & 0x07),
        bit_depth: Some(8),
        dimensions: Some(Dimensions::new(length(w0, w1), length(h0, h1))?),
        ..CodecConfiguration::default()
    })
}

/// Reads the uncompressed header of a VP9 keyframe (VP9 §6.2).
pub fn vp9_keyframe(frame: &[u8]) -> Result<CodecConfiguration, CodecError> {
    const COLOUR_SPACE_RGB: u32 = 7;
    let mut reader = BitReader::new(frame);
    let Vp9Frame { profile, key } = vp9_frame(&mut reader)?;
    if !key || reader.bits(24)? != VP9_SYNC_CODE {
        return Err(CodecError::Invalid {
            field: "frame_sync_code",
        });
    }
    let bit_depth = match profile {
        0 | 1 => 8,
        _ if reader.flag()? => 12,
        _ => 10,
    };
    let odd = profile & 1 == 1;
    if reader.bits(3)? != COLOUR_SPACE_RGB {
        reader.skip(if odd { 4 } else { 1 })?;
    } else if odd {
        reader.flag()?;
    }
    let [width, height] = [reader.bits(16)? + 1, reader.bits(16)? + 1];
    Ok(CodecConfiguration {
        codec_string: "vp09".to_owned(),
        profile: Some(profile),
        bit_depth: Some(bit_depth),
        dimensions: Some(Dimensions::new(width, height)?),
        ..CodecConfiguration::default()
    })
}

/// How a VP9 frame begins.
struct Vp9Frame {
    profile: u8,
    key: bool,
}

fn vp9_frame(reader: &mut BitReader<'_>) -> Result<Vp9Frame, CodecError> {
    if reader.bits(2)? != 2 {
        return Err(CodecError::Invalid {
            field: "frame_marker",
        });
    }
    let [low, high] = [reader.flag()?, reader.flag()?].map(u8::from);
    let profile = high << 1 | low;
    if profile == 3 {
        reader.flag()?;
    }
    let shown_before = reader.flag()?;
    if shown_before {
        // Nothing of its own follows.
        return Ok(Vp9Frame {
            profile,
            key: false,
        });
    }
    let inter = reader.flag()?;
    reader.skip(2)?;
    Ok(Vp9Frame {
        profile,
        key: !inter,
    })
}
