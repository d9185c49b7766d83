//! AAC: AudioSpecificConfig, with spectral band replication and parametric stereo however they are told.

use super::{CodecConfiguration, CodecError, bits::BitReader};

const SBR: u32 = 5;
const ER_BSAC: u32 = 22;
const PARAMETRIC_STEREO: u32 = 29;
const ESCAPE: u32 = 31;
const SYNC_EXTENSION_SBR: u32 = 0x2b7;
const SYNC_EXTENSION_PARAMETRIC_STEREO: u32 = 0x548;

/// Reads an AudioSpecificConfig. What is told is what a decoder puts out: with spectral band replication, twice the
/// core's sample rate; with parametric stereo, two channels.
pub fn parse(config: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let mut reader = BitReader::new(config);
    let reader = &mut reader;
    let mut object_type = object_type(reader)?;
    let mut sample_rate = sample_rate(reader)?;
    // Four bits.
    let channel_configuration = reader.bits(4)? as u8;
    let mut explicit = None;
    if matches!(object_type, SBR | PARAMETRIC_STEREO) {
        explicit = Some(object_type);
        sample_rate = self::sample_rate(reader)?;
        object_type = self::object_type(reader)?;
        if object_type == ER_BSAC {
            reader.skip(4)?;
        }
    }
    let mut channels = channels(channel_configuration)?;
    if general_audio(object_type) {
        let elements = general_audio_config(reader, object_type, channel_configuration)?;
        channels = elements.or(channels);
    }
    let extension = match explicit {
        Some(_) => None,
        None => sync_extension(reader),
    };
    if let Some(Extension {
        sample_rate: extended,
        ..
    }) = extension
    {
        sample_rate = extended;
    }
    let implicit = extension.map(|extension| extension.object_type);
    let signalled = explicit.or(implicit);
    if signalled == Some(PARAMETRIC_STEREO) && channels == Some(1) {
        channels = Some(2);
    }
    let object_type = signalled.unwrap_or(object_type);
    Ok(CodecConfiguration {
        codec_string: format!("mp4a.40.{object_type}"),
        profile: u8::try_from(object_type).ok(),
        sample_rate: Some(sample_rate),
        channels,
        ..CodecConfiguration::default()
    })
}

fn object_type(reader: &mut BitReader<'_>) -> Result<u32, CodecError> {
    let object_type = match reader.bits(5)? {
        ESCAPE => 32 + reader.bits(6)?,
        object_type => object_type,
    };
    if object_type == 0 {
        return Err(CodecError::Invalid {
            field: "audioObjectType",
        });
    }
    Ok(object_type)
}

const SAMPLE_RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

fn sample_rate(reader: &mut BitReader<'_>) -> Result<u32, CodecError> {
    let invalid = CodecError::Invalid {
        field: "samplingFrequency",
    };
    let index = reader.bits(4)?;
    let sample_rate = if index == 15 {
        reader.bits(24)?
    } else {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        *SAMPLE_RATES.get(index).ok_or(invalid)?
    };
    if sample_rate == 0 {
        return Err(invalid);
    }
    Ok(sample_rate)
}

/// `None`: a program config element tells.
fn channels(configuration: u8) -> Result<Option<u8>, CodecError> {
    match configuration {
        0 => Ok(None),
        1..=6 => Ok(Some(configuration)),
        7 | 12 | 14 => Ok(Some(8)),
        11 => Ok(Some(7)),
        13 => Ok(Some(24)),
        _ => Err(CodecError::Invalid {
            field: "channelConfiguration",
        }),
    }
}

/// The object types that a GASpecificConfig follows.
fn general_audio(object_type: u32) -> bool {
    matches!(object_type, 1..=4 | 6 | 7 | 17 | 19..=23)
}

/// ISO/IEC 14496-3 §4.4.1. The channels of its program config element, where it has one.
fn general_audio_config(
    reader: &mut BitReader<'_>,
    object_type: u32,
    channel_configuration: u8,
) -> Result<Option<u8>, CodecError> {
    reader.flag()?;
    if reader.flag()? {
        reader.skip(14)?;
    }
    let extended = reader.flag()?;
    let channels = if channel_configuration == 0 {
        Some(program_config_element(reader)?)
    } else {
        None
    };
    if matches!(object_type, 6 | 20) {
        reader.skip(3)?;
    }
    if extended {
        if object_type == ER_BSAC {
            reader.skip(16)?;
        }
        if matches!(object_type, 17 | 19 | 20 | 23) {
            reader.skip(3)?;
        }
        reader.flag()?;
    }
    Ok(channels)
}

/// ISO/IEC 14496-3 §4.4.1.1. How many channels there are.
fn program_config_element(reader: &mut BitReader<'_>) -> Result<u8, CodecError> {
    reader.skip(4 + 2 + 4)?;
    let [front, side, back] = [reader.bits(4)?, reader.bits(4)?, reader.bits(4)?];
    let low_frequency = reader.bits(2)?;
    let [associated, coupling] = [reader.bits(3)?, reader.bits(4)?];
    for mixdown_bits in [4, 4, 3] {
        if reader.flag()? {
            reader.skip(mixdown_bits)?;
        }
    }
    let mut channels = 0;
    for _ in 0..front + side + back {
        channels += if reader.flag()? { 2 } else { 1 };
        reader.skip(4)?;
    }
    // At most 45 elements of two channels, and three.
    channels += low_frequency as u8;
    let rest = 4 * low_frequency + 4 * associated + 5 * coupling;
    reader.skip(rest as usize)?;
    reader.align();
    let comment_bytes = usize::from(reader.u8()?);
    reader.take(comment_bytes)?;
    if channels == 0 {
        return Err(CodecError::Invalid {
            field: "program_config_element",
        });
    }
    Ok(channels)
}

#[derive(Clone, Copy)]
struct Extension {
    object_type: u32,
    sample_rate: u32,
}

/// Behind the configuration of the core: how old decoders are kept from noticing. What ends too early is none.
fn sync_extension(reader: &mut BitReader<'_>) -> Option<Extension> {
    if reader.bits(11).ok()? != SYNC_EXTENSION_SBR
        || object_type(reader).ok()? != SBR
        || !reader.flag().ok()?
    {
        return None;
    }
    let sample_rate = sample_rate(reader).ok()?;
    let parametric_stereo = reader.bits(11).ok() == Some(SYNC_EXTENSION_PARAMETRIC_STEREO)
        && reader.flag().ok() == Some(true);
    Some(Extension {
        object_type: if parametric_stereo {
            PARAMETRIC_STEREO
        } else {
            SBR
        },
        sample_rate,
    })
}
