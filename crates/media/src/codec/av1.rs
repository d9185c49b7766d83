//! AV1: the record, and the sequence header OBU, wherever it stands.

use super::{
    CodecConfiguration, CodecError, Colour, Dimensions, FrameRate, bits::BitReader,
    random_access::AccessUnit,
};

const OBU_SEQUENCE_HEADER: u32 = 1;
const OBU_FRAME_HEADER: u32 = 3;
const OBU_FRAME: u32 = 6;
/// Most OBUs that are looked through for a sequence header, or for a frame.
const OBUS_MAX: usize = 32;
/// `descriptor_tag` of the AV1 video descriptor, which MPEG2TSSequenceStart carries.
const VIDEO_DESCRIPTOR: u8 = 0x80;

/// Reads an AV1CodecConfigurationRecord, or the AV1 video descriptor of MPEG-2 transport streams.
pub fn parse(record: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let mut reader = BitReader::new(record);
    if record.first() == Some(&VIDEO_DESCRIPTOR) {
        reader.skip(16)?;
    }
    // The marker bit and version 1.
    if reader.u8()? != 0x81 {
        return Err(CodecError::Invalid { field: "version" });
    }
    let sequence = Sequence {
        // Three and five bits.
        profile: reader.bits(3)? as u8,
        level: reader.bits(5)? as u8,
        high_tier: reader.flag()?,
        bit_depth: match (reader.flag()?, reader.flag()?) {
            (false, _) => 8,
            (true, false) => 10,
            (true, true) => 12,
        },
        chroma: Chroma {
            monochrome: reader.flag()?,
            subsampled: [reader.flag()?, reader.flag()?],
            // Two bits.
            position: reader.bits(2)? as u8,
        },
        colour: None,
        full_range: false,
        dimensions: None,
        frame_rate: None,
    };
    reader.skip(8)?;
    // The OBU says the same, and more.
    let found = sequence_header(reader.rest())?;
    Ok(found.unwrap_or(sequence).configuration())
}

/// Reads the sequence header OBU that a keyframe's temporal unit begins with.
pub fn temporal_unit(obus: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let found = sequence_header(obus)?;
    found
        .map(|sequence| sequence.configuration())
        .ok_or(CodecError::Invalid {
            field: "OBU_SEQUENCE_HEADER",
        })
}

/// What the codec string needs, and what the header tells beside it.
struct Sequence {
    profile: u8,
    level: u8,
    high_tier: bool,
    bit_depth: u8,
    chroma: Chroma,
    /// Where it is declared.
    colour: Option<Colour>,
    full_range: bool,
    dimensions: Option<Dimensions>,
    frame_rate: Option<FrameRate>,
}

struct Chroma {
    monochrome: bool,
    subsampled: [bool; 2],
    position: u8,
}

impl Sequence {
    fn configuration(&self) -> CodecConfiguration {
        CodecConfiguration {
            codec_string: self.codec_string(),
            profile: Some(self.profile),
            level: Some(self.level),
            bit_depth: Some(self.bit_depth),
            dimensions: self.dimensions,
            frame_rate: self.frame_rate,
            transfer_characteristics: self.colour.and_then(Colour::transfer),
            ..CodecConfiguration::default()
        }
    }

    /// AV1 in ISOBMFF §5: short where all that could follow has its default or is not declared.
    fn codec_string(&self) -> String {
        let tier = if self.high_tier { 'H' } else { 'M' };
        let (profile, level, bit_depth) = (self.profile, self.level, self.bit_depth);
        let mut text = format!("av01.{profile}.{level:02}{tier}.{bit_depth:02}");
        let Chroma {
            monochrome,
            subsampled,
            position,
        } = self.chroma;
        let usual = !monochrome && subsampled == [true, true] && !self.full_range;
        if usual && self.colour.is_none() {
            return text;
        }
        let [horizontal, vertical] = subsampled.map(u8::from);
        let Colour {
            primaries,
            transfer,
            matrix,
        } = self.colour.unwrap_or(BT_709);
        let full_range = u8::from(self.full_range);
        let monochrome = u8::from(monochrome);
        text.push_str(&format!(
            ".{monochrome}.{horizontal}{vertical}{position}.{primaries:02}.{transfer:02}.{matrix:02}.{full_range}"
        ));
        text
    }
}

/// What a codec string without colour stands for.
const BT_709: Colour = Colour {
    primaries: 1,
    transfer: 1,
    matrix: 1,
};

/// Reads as far as the first frame of a temporal unit (AV1 §5.9.2). A keyframe is one to start at where the sequence header
/// comes with it, as it must.
pub(super) fn access(obus: &[u8]) -> AccessUnit {
    const KEY_FRAME: u32 = 0;
    const INTER_FRAME: u32 = 1;
    let mut sequence_came = false;
    let first_frame =
        first_obu(obus, |obu_type, payload| {
            let mut reader = BitReader::new(payload);
            match obu_type {
                OBU_SEQUENCE_HEADER => sequence_came = true,
                OBU_FRAME | OBU_FRAME_HEADER => {
                    let shown_before = reader.flag();
                    return Some(shown_before.and_then(|shown_before| {
                        Ok((shown_before, reader.bits(2)?, reader.flag()?))
                    }));
                }
                _ => {}
            }
            None
        });
    match first_frame {
        Ok(Some(Ok((false, KEY_FRAME, true)))) if sequence_came => AccessUnit::RandomAccess,
        Ok(Some(Ok((false, INTER_FRAME, _)))) => AccessUnit::Dependent,
        Ok(_) | Err(_) => AccessUnit::Undecided,
    }
}

/// The first sequence header among OBUs.
fn sequence_header(obus: &[u8]) -> Result<Option<Sequence>, CodecError> {
    let found = first_obu(obus, |obu_type, payload| {
        (obu_type == OBU_SEQUENCE_HEADER).then(|| read_sequence(&mut BitReader::new(payload)))
    })?;
    found.transpose()
}

/// What the first OBU yields, by its type and payload, that yields anything.
fn first_obu<T>(
    obus: &[u8],
    mut look: impl FnMut(u32, &[u8]) -> Option<T>,
) -> Result<Option<T>, CodecError> {
    let mut reader = BitReader::new(obus);
    for _ in 0..OBUS_MAX {
        if reader.remaining() == 0 {
            return Ok(None);
        }
        if reader.flag()? {
            return Err(CodecError::Invalid {
                field: "obu_forbidden_bit",
            });
        }
        let obu_type = reader.bits(4)?;
        let (extended, sized) = (reader.flag()?, reader.flag()?);
        reader.flag()?;
        if extended {
            reader.u8()?;
        }
        let length = if sized {
            leb128(&mut reader)?
        } else {
            reader.rest().len()
        };
        if let Some(found) = look(obu_type, reader.take(length)?) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Of up to eight bytes (AV1 §4.10.5).
fn leb128(reader: &mut BitReader<'_>) -> Result<usize, CodecError> {
    let mut value = 0_u64;
    for index in 0..8 {
        let byte = reader.u8()?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return usize::try_from(value).map_err(|_| CodecError::Truncated);
        }
    }
    Err(CodecError::Invalid { field: "leb128" })
}

/// AV1 §5.5.1.
fn read_sequence(reader: &mut BitReader<'_>) -> Result<Sequence, CodecError> {
    // Three bits.
    let profile = reader.bits(3)? as u8;
    if profile > 2 {
        return Err(CodecError::Invalid {
            field: "seq_profile",
        });
    }
    reader.flag()?;
    let reduced = reader.flag()?;
    let point = if reduced {
        OperatingPoint {
            // Five bits.
            level: reader.bits(5)? as u8,
            high_tier: false,
            frame_rate: None,
        }
    } else {
        operating_points(reader)?
    };
    let [width_bits, height_bits] = [reader.bits(4)? + 1, reader.bits(4)? + 1];
    let [width, height] = [reader.bits(width_bits)?, reader.bits(height_bits)?];
    let dimensions = Dimensions::new(width + 1, height + 1)?;
    tools(reader, reduced)?;
    let mut sequence = Sequence {
        profile,
        level: point.level,
        high_tier: point.high_tier,
        bit_depth: 8,
        chroma: Chroma {
            monochrome: false,
            subsampled: [true, true],
            position: 0,
        },
        colour: None,
        full_range: false,
        dimensions: Some(dimensions),
        frame_rate: point.frame_rate,
    };
    sequence.read_colour(reader)?;
    Ok(sequence)
}

/// The first one, and the time that all share.
struct OperatingPoint {
    level: u8,
    high_tier: bool,
    frame_rate: Option<FrameRate>,
}

fn operating_points(reader: &mut BitReader<'_>) -> Result<OperatingPoint, CodecError> {
    let mut point = OperatingPoint {
        level: 0,
        high_tier: false,
        frame_rate: None,
    };
    let mut delay_bits = None;
    if reader.flag()? {
        let [ticks, scale] = [reader.u32()?, reader.u32()?].map(u64::from);
        if reader.flag()? {
            let ticks = ticks.saturating_mul(uvlc(reader)? + 1);
            point.frame_rate = FrameRate::new(scale, ticks);
        }
        if reader.flag()? {
            delay_bits = Some(reader.bits(5)? as usize + 1);
            reader.skip(32 + 5 + 5)?;
        }
    }
    let display_delays = reader.flag()?;
    for index in 0..=reader.bits(5)? {
        reader.skip(12)?;
        // Five bits.
        let level = reader.bits(5)? as u8;
        // Level 4.0 and above have a tier.
        let high_tier = level > 7 && reader.flag()?;
        if let Some(delay_bits) = delay_bits
            && reader.flag()?
        {
            reader.skip(2 * delay_bits + 1)?;
        }
        if display_delays && reader.flag()? {
            reader.skip(4)?;
        }
        if index == 0 {
            (point.level, point.high_tier) = (level, high_tier);
        }
    }
    Ok(point)
}

/// AV1 §4.10.3.
fn uvlc(reader: &mut BitReader<'_>) -> Result<u64, CodecError> {
    let mut zeros = 0;
    while !reader.flag()? {
        zeros += 1;
    }
    if zeros >= 32 {
        return Ok(u32::MAX.into());
    }
    Ok((1_u64 << zeros) - 1 + u64::from(reader.bits(zeros)?))
}

/// From frame ids to the restoration filter: nothing of it is wanted, all of it stands before the colour.
fn tools(reader: &mut BitReader<'_>, reduced: bool) -> Result<(), CodecError> {
    if !reduced && reader.flag()? {
        reader.skip(4 + 3)?;
    }
    reader.skip(3)?;
    if !reduced {
        reader.skip(4)?;
        let order_hint = reader.flag()?;
        if order_hint {
            reader.skip(2)?;
        }
        let choose_screen_content_tools = reader.flag()?;
        let screen_content_tools = choose_screen_content_tools || reader.flag()?;
        if screen_content_tools {
            let choose_integer_motion = reader.flag()?;
            if !choose_integer_motion {
                reader.flag()?;
            }
        }
        if order_hint {
            reader.skip(3)?;
        }
    }
    reader.skip(3)
}

impl Sequence {
    /// AV1 §5.5.2.
    fn read_colour(&mut self, reader: &mut BitReader<'_>) -> Result<(), CodecError> {
        const SRGB: Colour = Colour {
            primaries: 1,
            transfer: 13,
            matrix: 0,
        };
        let high = reader.flag()?;
        self.bit_depth = match (high, self.profile) {
            (false, _) => 8,
            (true, 2) if reader.flag()? => 12,
            (true, _) => 10,
        };
        let monochrome = self.profile != 1 && reader.flag()?;
        self.chroma.monochrome = monochrome;
        if reader.flag()? {
            self.colour = Some(Colour {
                primaries: reader.u8()?,
                transfer: reader.u8()?,
                matrix: reader.u8()?,
            });
        }
        if !monochrome && self.colour == Some(SRGB) {
            self.full_range = true;
            self.chroma.subsampled = [false, false];
            return Ok(());
        }
        self.full_range = reader.flag()?;
        if monochrome {
            return Ok(());
        }
        self.chroma.subsampled = match (self.profile, self.bit_depth) {
            (0, _) => [true, true],
            (1, _) => [false, false],
            (_, 12) => {
                let horizontal = reader.flag()?;
                [horizontal, horizontal && reader.flag()?]
            }
            _ => [true, false],
        };
        if self.chroma.subsampled == [true, true] {
            // Two bits.
            self.chroma.position = reader.bits(2)? as u8;
        }
        Ok(())
    }
}
