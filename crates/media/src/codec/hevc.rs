//! H.265: the record, and its first sequence parameter set.

use super::{
    CodecConfiguration, CodecError, Colour, Dimensions, FrameRate, PARAMETER_SETS_MAX,
    avc::{cropped, nalu_length_bytes, timing, vui_colour},
    bits::{BitReader, rbsp},
};

const NALU_TYPE_SPS: u8 = 33;
/// `profile_tier_level` without its level, in bits.
const PROFILE_BITS: usize = 88;

/// Reads an HEVCDecoderConfigurationRecord.
pub fn parse(record: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let mut reader = BitReader::new(record);
    if reader.u8()? != 1 {
        return Err(CodecError::Invalid {
            field: "configurationVersion",
        });
    }
    let general = General::read(&mut reader)?;
    // min_spatial_segmentation_idc, parallelismType and chromaFormat, with their reserved bits.
    reader.skip(32)?;
    let bit_depth = 8 + (reader.u8()? & 0x07);
    reader.skip(8)?;
    // Frames in 256 seconds; 0: not declared.
    let average = FrameRate::new(reader.u16()?.into(), 256);
    let nalu_length_bytes = nalu_length_bytes(reader.u8()? & 0x03)?;
    let sps = parameter_set(&mut reader, NALU_TYPE_SPS, 0x3f, &[])?
        .map(Sps::parse)
        .transpose()?;
    let declared = sps.as_ref().and_then(|sps| sps.frame_rate);
    Ok(CodecConfiguration {
        codec_string: general.codec_string(),
        profile: Some(general.profile),
        level: Some(general.level),
        bit_depth: Some(bit_depth),
        dimensions: sps.as_ref().map(|sps| sps.dimensions),
        frame_rate: declared.or(average),
        transfer_characteristics: sps.and_then(|sps| sps.transfer_characteristics),
        nalu_length_bytes: Some(nalu_length_bytes),
        ..CodecConfiguration::default()
    })
}

/// The first NAL unit of a type among a record's arrays; all of them are walked. Those of the types `alone` have no
/// number of NAL units, but one.
pub(super) fn parameter_set<'a>(
    reader: &mut BitReader<'a>,
    wanted: u8,
    type_mask: u8,
    alone: &[u8],
) -> Result<Option<&'a [u8]>, CodecError> {
    let mut found = None;
    let mut walked = 0;
    for _ in 0..reader.u8()? {
        let nalu_type = reader.u8()? & type_mask;
        let count = if alone.contains(&nalu_type) {
            1
        } else {
            reader.u16()?
        };
        for _ in 0..count {
            walked += 1;
            if walked > PARAMETER_SETS_MAX {
                return Err(CodecError::Limit { field: "numNalus" });
            }
            let length = usize::from(reader.u16()?);
            let nalu = reader.take(length)?;
            if nalu_type == wanted {
                found = found.or(Some(nalu));
            }
        }
    }
    Ok(found)
}

/// `general_…` of the record.
struct General {
    profile_space: u8,
    high_tier: bool,
    profile: u8,
    compatibility: u32,
    constraints: [u8; 6],
    level: u8,
}

impl General {
    fn read(reader: &mut BitReader<'_>) -> Result<Self, CodecError> {
        let first = reader.u8()?;
        let compatibility = reader.u32()?;
        let constraints = reader.take(6)?;
        Ok(Self {
            profile_space: first >> 6,
            high_tier: first & 0x20 != 0,
            profile: first & 0x1f,
            compatibility,
            constraints: constraints.try_into().unwrap_or_default(),
            level: reader.u8()?,
        })
    }

    /// ISO/IEC 14496-15 §E.3.
    fn codec_string(&self) -> String {
        let space = match self.profile_space {
            0 => "",
            1 => "A",
            2 => "B",
            _ => "C",
        };
        let tier = if self.high_tier { 'H' } else { 'L' };
        let mut text = format!(
            "hvc1.{space}{}.{:X}.{tier}{}",
            self.profile,
            self.compatibility.reverse_bits(),
            self.level
        );
        let declared = self.constraints.iter().rposition(|byte| *byte != 0);
        let significant = declared.map_or(0, |last| last + 1);
        for constraint in self.constraints.iter().take(significant) {
            text.push_str(&format!(".{constraint:X}"));
        }
        text
    }
}

struct Sps {
    dimensions: Dimensions,
    frame_rate: Option<FrameRate>,
    transfer_characteristics: Option<u8>,
}

impl Sps {
    fn parse(nalu: &[u8]) -> Result<Self, CodecError> {
        let payload = rbsp(nalu);
        let mut reader = BitReader::new(&payload);
        let reader = &mut reader;
        if reader.u16()? >> 9 & 0x3f != u16::from(NALU_TYPE_SPS) {
            return Err(CodecError::Invalid {
                field: "nal_unit_type",
            });
        }
        reader.skip(4)?;
        let sub_layers_minus1 = reader.bits(3)?;
        reader.flag()?;
        profile_tier_level(reader, sub_layers_minus1)?;
        reader.ue_up_to(15, "sps_seq_parameter_set_id")?;
        let chroma_format = reader.ue_up_to(3, "chroma_format_idc")?;
        if chroma_format == 3 {
            reader.flag()?;
        }
        let coded = [reader.ue()?.into(), reader.ue()?.into()];
        let dimensions = cropped(coded, chroma_units(chroma_format), reader)?;
        coding_tools(reader, sub_layers_minus1)?;
        let mut sps = Self {
            dimensions,
            frame_rate: None,
            transfer_characteristics: None,
        };
        if reader.flag()? {
            sps.vui(reader)?;
        }
        Ok(sps)
    }

    /// Up to its timing; what is behind it is not read.
    fn vui(&mut self, reader: &mut BitReader<'_>) -> Result<(), CodecError> {
        self.transfer_characteristics = vui_colour(reader)?.and_then(Colour::transfer);
        reader.skip(3)?;
        if reader.flag()? {
            reader.skip_ue(4)?;
        }
        let timing = timing(reader)?;
        self.frame_rate = timing.and_then(|(ticks, scale)| FrameRate::new(scale, ticks));
        Ok(())
    }
}

/// `SubWidthC` and `SubHeightC`.
pub(super) fn chroma_units(chroma_format: u32) -> [u64; 2] {
    match chroma_format {
        1 => [2, 2],
        2 => [2, 1],
        _ => [1, 1],
    }
}

fn profile_tier_level(
    reader: &mut BitReader<'_>,
    sub_layers_minus1: u32,
) -> Result<(), CodecError> {
    reader.skip(PROFILE_BITS + 8)?;
    let mut bits = 0;
    for _ in 0..sub_layers_minus1 {
        if reader.flag()? {
            bits += PROFILE_BITS;
        }
        if reader.flag()? {
            bits += 8;
        }
    }
    if sub_layers_minus1 > 0 {
        for _ in sub_layers_minus1..8 {
            reader.skip(2)?;
        }
    }
    reader.skip(bits)
}

/// From the bit depths to the VUI: nothing of it is wanted, all of it stands before what is.
fn coding_tools(reader: &mut BitReader<'_>, sub_layers_minus1: u32) -> Result<(), CodecError> {
    reader.ue_up_to(8, "bit_depth_luma_minus8")?;
    reader.ue_up_to(8, "bit_depth_chroma_minus8")?;
    let order_count_bits = 4 + reader.ue_up_to(12, "log2_max_pic_order_cnt_lsb_minus4")?;
    let every_sub_layer = reader.flag()?;
    let layers = if every_sub_layer {
        sub_layers_minus1 + 1
    } else {
        1
    };
    reader.skip_ue(3 * layers)?;
    // Block sizes and depths of transform hierarchies.
    reader.skip_ue(6)?;
    if reader.flag()? && reader.flag()? {
        scaling_list_data(reader)?;
    }
    reader.skip(2)?;
    if reader.flag()? {
        reader.skip(8)?;
        reader.skip_ue(2)?;
        reader.flag()?;
    }
    short_term_reference_picture_sets(reader)?;
    if reader.flag()? {
        for _ in 0..reader.ue_up_to(32, "num_long_term_ref_pics_sps")? {
            reader.bits(order_count_bits)?;
            reader.flag()?;
        }
    }
    reader.skip(2)
}

fn scaling_list_data(reader: &mut BitReader<'_>) -> Result<(), CodecError> {
    for size in 0..4_u32 {
        let matrices = if size == 3 { 2 } else { 6 };
        for _ in 0..matrices {
            let coded = reader.flag()?;
            let codes = match (coded, size) {
                (false, _) => 1,
                (true, 0) => 16,
                (true, 1) => 64,
                // And the DC coefficient.
                (true, _) => 65,
            };
            reader.skip_ue(codes)?;
        }
    }
    Ok(())
}

/// Distances to the pictures of a set, before and behind.
#[derive(Default)]
struct ReferencePictures {
    before: Vec<i64>,
    behind: Vec<i64>,
}

const REFERENCE_PICTURES_MAX: u32 = 16;

fn short_term_reference_picture_sets(reader: &mut BitReader<'_>) -> Result<(), CodecError> {
    let mut last = ReferencePictures::default();
    for index in 0..reader.ue_up_to(64, "num_short_term_ref_pic_sets")? {
        last = if index > 0 && reader.flag()? {
            predicted(reader, &last)?
        } else {
            let before = reader.ue_up_to(REFERENCE_PICTURES_MAX, "num_negative_pics")?;
            let behind = reader.ue_up_to(REFERENCE_PICTURES_MAX, "num_positive_pics")?;
            ReferencePictures {
                before: distances(reader, before, -1)?,
                behind: distances(reader, behind, 1)?,
            }
        };
    }
    Ok(())
}

fn distances(reader: &mut BitReader<'_>, count: u32, sign: i64) -> Result<Vec<i64>, CodecError> {
    let mut distance = 0_i64;
    let mut all = Vec::new();
    for _ in 0..count {
        distance += i64::from(reader.ue()?) + 1;
        reader.flag()?;
        all.push(sign * distance);
    }
    Ok(all)
}

/// A set that is told by its difference to the one before it (H.265 §7.4.8, equations 7-61 and 7-62).
fn predicted(
    reader: &mut BitReader<'_>,
    reference: &ReferencePictures,
) -> Result<ReferencePictures, CodecError> {
    let negative = reader.flag()?;
    let magnitude = i64::from(reader.ue()?) + 1;
    let delta = if negative { -magnitude } else { magnitude };
    let mut used = Vec::new();
    for distance in reference.before.iter().chain(&reference.behind).chain(&[0]) {
        let by_current = reader.flag()?;
        if by_current || reader.flag()? {
            used.push(distance.saturating_add(delta));
        }
    }
    // Each side is sorted by its distance, as the equations do it.
    let mut set = ReferencePictures {
        before: used.iter().copied().filter(|d| *d < 0).collect(),
        behind: used.iter().copied().filter(|d| *d > 0).collect(),
    };
    set.before.sort_unstable_by_key(|distance| -distance);
    set.behind.sort_unstable();
    if set.before.len().max(set.behind.len()) > REFERENCE_PICTURES_MAX as usize {
        return Err(CodecError::Limit {
            field: "NumDeltaPocs",
        });
    }
    Ok(set)
}
