//! H.266: the record, and the beginning of its first sequence parameter set.

use super::{
    CodecConfiguration, CodecError, Dimensions, FrameRate,
    avc::{cropped, nalu_length_bytes},
    bits::{BitReader, rbsp},
    hevc::{chroma_units, parameter_set},
};

/// Most bytes of constraints; all that is defined has twelve.
const CONSTRAINT_BYTES_MAX: usize = 16;
const NALU_TYPE_OPI: u8 = 12;
const NALU_TYPE_DCI: u8 = 13;
const NALU_TYPE_SPS: u8 = 15;

/// Reads a VvcDecoderConfigurationRecord, also one with the version and flags that MP4 puts before it.
pub fn parse(record: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let record = record.strip_prefix(&[0; 4]).unwrap_or(record);
    let mut reader = BitReader::new(record);
    let reader = &mut reader;
    reader.skip(5)?;
    // Two bits.
    let nalu_length_bytes = nalu_length_bytes(reader.bits(2)? as u8)?;
    let native = if reader.flag()? {
        Some(Native::read(reader)?)
    } else {
        None
    };
    let alone = [NALU_TYPE_OPI, NALU_TYPE_DCI];
    let sps = parameter_set(reader, NALU_TYPE_SPS, 0x1f, &alone)?
        .map(Sps::parse)
        .transpose()?;
    let cropped = sps.as_ref().map(|sps| sps.dimensions);
    let declared = native.as_ref().and_then(|native| native.dimensions);
    let profile = sps.and_then(|sps| sps.profile);
    let profile = native
        .as_ref()
        .map(|native| &native.profile)
        .or(profile.as_ref());
    Ok(CodecConfiguration {
        codec_string: profile.map_or_else(|| "vvc1".to_owned(), Profile::codec_string),
        profile: profile.map(|profile| profile.profile),
        level: profile.map(|profile| profile.level),
        bit_depth: native.as_ref().map(|native| native.bit_depth),
        dimensions: cropped.or(declared),
        frame_rate: native.and_then(|native| native.frame_rate),
        nalu_length_bytes: Some(nalu_length_bytes),
        ..CodecConfiguration::default()
    })
}

/// What the record says where `ptl_present_flag` is set.
struct Native {
    profile: Profile,
    bit_depth: u8,
    dimensions: Option<Dimensions>,
    frame_rate: Option<FrameRate>,
}

/// A profile, its tier and level.
struct Profile {
    profile: u8,
    high_tier: bool,
    level: u8,
    /// From `ptl_frame_only_constraint_flag` on, without zeros behind.
    constraints: Vec<u8>,
}

impl Native {
    fn read(reader: &mut BitReader<'_>) -> Result<Self, CodecError> {
        reader.skip(9)?;
        let sub_layers = reader.bits(3)?;
        reader.skip(4)?;
        // Three bits.
        let bit_depth = 8 + reader.bits(3)? as u8;
        reader.skip(5)?;
        let profile = Self::profile(reader, sub_layers)?;
        let [width, height] = [reader.u16()?, reader.u16()?].map(u32::from);
        let average = reader.u16()?;
        Ok(Self {
            profile,
            bit_depth,
            dimensions: Dimensions::new(width, height).ok(),
            // Frames in 256 seconds; 0: not declared.
            frame_rate: FrameRate::new(average.into(), 256),
        })
    }

    /// `VvcPTLRecord`.
    fn profile(reader: &mut BitReader<'_>, sub_layers: u32) -> Result<Profile, CodecError> {
        let constraint_bytes = usize::from(reader.u8()? & 0x3f);
        if constraint_bytes > CONSTRAINT_BYTES_MAX {
            return Err(CodecError::Limit {
                field: "num_bytes_constraint_info",
            });
        }
        let first = reader.u8()?;
        let level = reader.u8()?;
        let constraints = reader.take(constraint_bytes)?;
        sub_layer_levels(reader, sub_layers.saturating_sub(1))?;
        let significant = constraints.iter().rposition(|byte| *byte != 0);
        let constraints = constraints
            .iter()
            .take(significant.map_or(0, |last| last + 1));
        Ok(Profile {
            profile: first >> 1,
            high_tier: first & 1 == 1,
            level,
            constraints: constraints.copied().collect(),
        })
    }
}

/// The levels of sub-layers and the sub-profiles: alike in the record and in parameter sets.
fn sub_layer_levels(reader: &mut BitReader<'_>, count: u32) -> Result<(), CodecError> {
    let mut present = 0;
    for _ in 0..count {
        present += usize::from(reader.flag()?);
    }
    reader.align();
    reader.skip(8 * present)?;
    let sub_profiles = usize::from(reader.u8()?);
    reader.skip(32 * sub_profiles)
}

impl Profile {
    /// ISO/IEC 14496-15 §E.6.
    fn codec_string(&self) -> String {
        let tier = if self.high_tier { 'H' } else { 'L' };
        let mut text = format!("vvc1.{}.{tier}{}", self.profile, self.level);
        if !self.constraints.is_empty() {
            text.push_str(".C");
            text.push_str(&base32(&self.constraints));
        }
        text
    }
}

/// RFC 4648 without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let padded = [bytes, &[0]].concat();
    let mut reader = BitReader::new(&padded);
    (0..(bytes.len() * 8).div_ceil(5))
        .filter_map(|_| {
            let digit = usize::try_from(reader.bits(5).ok()?).ok()?;
            ALPHABET.get(digit).copied().map(char::from)
        })
        .collect()
}

struct Sps {
    dimensions: Dimensions,
    profile: Option<Profile>,
}

impl Sps {
    fn parse(nalu: &[u8]) -> Result<Self, CodecError> {
        let payload = rbsp(nalu);
        let mut reader = BitReader::new(&payload);
        let reader = &mut reader;
        if reader.u16()? >> 3 & 0x1f != u16::from(NALU_TYPE_SPS) {
            return Err(CodecError::Invalid {
                field: "nal_unit_type",
            });
        }
        reader.skip(8)?;
        let sub_layers_minus1 = reader.bits(3)?;
        let chroma_format = reader.bits(2)?;
        reader.skip(2)?;
        let profile = if reader.flag()? {
            Some(profile_tier_level(reader, sub_layers_minus1)?)
        } else {
            None
        };
        reader.flag()?;
        if reader.flag()? {
            reader.flag()?;
        }
        let coded = [reader.ue()?.into(), reader.ue()?.into()];
        Ok(Self {
            dimensions: cropped(coded, chroma_units(chroma_format), reader)?,
            profile,
        })
    }
}

/// H.266 §7.3.3.1.
fn profile_tier_level(
    reader: &mut BitReader<'_>,
    sub_layers_minus1: u32,
) -> Result<Profile, CodecError> {
    /// What `general_constraints_info` holds before the bits of later versions.
    const CONSTRAINT_BITS: usize = 71;
    // Seven bits.
    let profile = reader.bits(7)? as u8;
    let high_tier = reader.flag()?;
    let level = reader.u8()?;
    reader.skip(2)?;
    if reader.flag()? {
        reader.skip(CONSTRAINT_BITS)?;
        let additional = usize::from(reader.u8()?);
        reader.skip(additional)?;
    }
    reader.align();
    sub_layer_levels(reader, sub_layers_minus1)?;
    Ok(Profile {
        profile,
        high_tier,
        level,
        constraints: Vec::new(),
    })
}
