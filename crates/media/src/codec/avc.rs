//! H.264: the record, and its first sequence parameter set.

use super::{
    CodecConfiguration, CodecError, Colour, Dimensions, FrameRate,
    bits::{BitReader, rbsp},
};

const NALU_TYPE_SPS: u8 = 7;

/// Reads an AVCDecoderConfigurationRecord.
pub fn parse(record: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let mut reader = BitReader::new(record);
    if reader.u8()? != 1 {
        return Err(CodecError::Invalid {
            field: "configurationVersion",
        });
    }
    let [profile, compatibility, level] = [reader.u8()?, reader.u8()?, reader.u8()?];
    let nalu_length_bytes = nalu_length_bytes(reader.u8()? & 0x03)?;
    let sequence_sets = reader.u8()? & 0x1f;
    let mut sps = None;
    for _ in 0..sequence_sets {
        let length = usize::from(reader.u16()?);
        let set = reader.take(length)?;
        sps = sps.or(Some(set));
    }
    let picture_sets = reader.u8()?;
    for _ in 0..picture_sets {
        let length = usize::from(reader.u16()?);
        reader.take(length)?;
    }
    let sps = sps.ok_or(CodecError::Invalid {
        field: "numOfSequenceParameterSets",
    })?;
    let sps = Sps::parse(sps)?;
    Ok(CodecConfiguration {
        codec_string: format!("avc1.{profile:02X}{compatibility:02X}{level:02X}"),
        profile: Some(profile),
        level: Some(level),
        bit_depth: Some(sps.bit_depth),
        dimensions: Some(sps.dimensions),
        frame_rate: sps.vui.frame_rate,
        transfer_characteristics: sps.vui.transfer_characteristics,
        nalu_length_bytes: Some(nalu_length_bytes),
        ..CodecConfiguration::default()
    })
}

/// `lengthSizeMinusOne`, in all records of this family.
pub(super) fn nalu_length_bytes(minus_one: u8) -> Result<u8, CodecError> {
    match minus_one {
        0 | 1 | 3 => Ok(minus_one + 1),
        _ => Err(CodecError::Invalid {
            field: "lengthSizeMinusOne",
        }),
    }
}

struct Sps {
    bit_depth: u8,
    dimensions: Dimensions,
    vui: Vui,
}

#[derive(Default)]
struct Vui {
    frame_rate: Option<FrameRate>,
    transfer_characteristics: Option<u8>,
}

/// What the chroma of a sequence is.
struct Chroma {
    /// `ChromaArrayType`.
    array_type: u32,
    bit_depth_luma: u8,
}

impl Sps {
    fn parse(nalu: &[u8]) -> Result<Self, CodecError> {
        let payload = rbsp(nalu);
        let mut reader = BitReader::new(&payload);
        if reader.u8()? & 0x1f != NALU_TYPE_SPS {
            return Err(CodecError::Invalid {
                field: "nal_unit_type",
            });
        }
        let profile = reader.u8()?;
        reader.skip(16)?;
        reader.ue_up_to(31, "seq_parameter_set_id")?;
        let chroma = chroma(&mut reader, profile)?;
        reader.ue_up_to(12, "log2_max_frame_num_minus4")?;
        picture_order_count(&mut reader)?;
        reader.ue_up_to(16, "max_num_ref_frames")?;
        reader.flag()?;
        let dimensions = dimensions(&mut reader, chroma.array_type)?;
        let vui = if reader.flag()? {
            vui(&mut reader)?
        } else {
            Vui::default()
        };
        Ok(Self {
            bit_depth: chroma.bit_depth_luma,
            dimensions,
            vui,
        })
    }
}

fn chroma(reader: &mut BitReader<'_>, profile: u8) -> Result<Chroma, CodecError> {
    // The profiles whose sets say it (H.264 §7.3.2.1.1); 4:2:0 of 8 bits otherwise.
    if !matches!(
        profile,
        44 | 83 | 86 | 100 | 110 | 118 | 122 | 128 | 134 | 135 | 138 | 139 | 244
    ) {
        return Ok(Chroma {
            array_type: 1,
            bit_depth_luma: 8,
        });
    }
    let format = reader.ue_up_to(3, "chroma_format_idc")?;
    let separate_planes = format == 3 && reader.flag()?;
    let luma = reader.ue_up_to(6, "bit_depth_luma_minus8")?;
    reader.ue_up_to(6, "bit_depth_chroma_minus8")?;
    reader.flag()?;
    if reader.flag()? {
        for list in 0..if format == 3 { 12 } else { 8 } {
            if reader.flag()? {
                scaling_list(reader, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Ok(Chroma {
        array_type: if separate_planes { 0 } else { format },
        // At most 14.
        bit_depth_luma: 8 + luma as u8,
    })
}

fn scaling_list(reader: &mut BitReader<'_>, coefficients: u32) -> Result<(), CodecError> {
    let (mut last, mut next) = (8_i64, 8_i64);
    for _ in 0..coefficients {
        if next != 0 {
            next = (last + reader.se()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Ok(())
}

fn picture_order_count(reader: &mut BitReader<'_>) -> Result<(), CodecError> {
    match reader.ue_up_to(2, "pic_order_cnt_type")? {
        0 => {
            reader.ue_up_to(12, "log2_max_pic_order_cnt_lsb_minus4")?;
        }
        1 => {
            reader.flag()?;
            reader.skip_ue(2)?;
            let frames = reader.ue_up_to(255, "num_ref_frames_in_pic_order_cnt_cycle")?;
            reader.skip_ue(frames)?;
        }
        _ => {}
    }
    Ok(())
}

fn dimensions(
    reader: &mut BitReader<'_>,
    chroma_array_type: u32,
) -> Result<Dimensions, CodecError> {
    let width_macroblocks = u64::from(reader.ue()?) + 1;
    let height_map_units = u64::from(reader.ue()?) + 1;
    let frames_only = reader.flag()?;
    if !frames_only {
        reader.flag()?;
    }
    reader.flag()?;
    let fields: u64 = if frames_only { 1 } else { 2 };
    let coded = [width_macroblocks * 16, height_map_units * 16 * fields];
    let (horizontal, vertical): (u64, u64) = match chroma_array_type {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1),
    };
    cropped(coded, [horizontal, vertical * fields], reader)
}

/// Applies the cropping window that comes next, if one does: in all specifications of this family.
pub(super) fn cropped(
    coded: [u64; 2],
    units: [u64; 2],
    reader: &mut BitReader<'_>,
) -> Result<Dimensions, CodecError> {
    let [mut width, mut height] = coded;
    if reader.flag()? {
        let [left, right] = [reader.ue()?, reader.ue()?].map(u64::from);
        let [top, bottom] = [reader.ue()?, reader.ue()?].map(u64::from);
        let [horizontal, vertical] = units;
        width = width.saturating_sub((left + right) * horizontal);
        height = height.saturating_sub((top + bottom) * vertical);
    }
    let pixels = |length: u64| u32::try_from(length).unwrap_or(u32::MAX);
    Dimensions::new(pixels(width), pixels(height))
}

/// Up to its timing; what is behind it is not read.
fn vui(reader: &mut BitReader<'_>) -> Result<Vui, CodecError> {
    let transfer_characteristics = vui_colour(reader)?.and_then(Colour::transfer);
    let timing = timing(reader)?;
    Ok(Vui {
        transfer_characteristics,
        // Two fields make a frame.
        frame_rate: timing.and_then(|(ticks, scale)| FrameRate::new(scale, ticks * 2)),
    })
}

/// Aspect ratio, overscan, colour and chroma location: the beginning of H.264's and H.265's VUI alike.
pub(super) fn vui_colour(reader: &mut BitReader<'_>) -> Result<Option<Colour>, CodecError> {
    const EXTENDED_SAR: u8 = 255;
    if reader.flag()? && reader.u8()? == EXTENDED_SAR {
        reader.skip(32)?;
    }
    if reader.flag()? {
        reader.flag()?;
    }
    let mut colour = None;
    if reader.flag()? {
        reader.skip(4)?;
        if reader.flag()? {
            colour = Some(Colour {
                primaries: reader.u8()?,
                transfer: reader.u8()?,
                matrix: reader.u8()?,
            });
        }
    }
    if reader.flag()? {
        reader.skip_ue(2)?;
    }
    Ok(colour)
}

/// `num_units_in_tick` and `time_scale`, where they are declared.
pub(super) fn timing(reader: &mut BitReader<'_>) -> Result<Option<(u64, u64)>, CodecError> {
    if !reader.flag()? {
        return Ok(None);
    }
    let [ticks, scale] = [reader.u32()?, reader.u32()?].map(u64::from);
    Ok(Some((ticks, scale)))
}
