//! MP3 has no sequence header: every frame begins with what is to know.

use super::{CodecConfiguration, CodecError, bits::BitReader};

const SAMPLE_RATES: [u32; 3] = [44_100, 48_000, 32_000];

/// Reads the header of an MPEG audio frame of layer III.
pub fn parse(frame: &[u8]) -> Result<CodecConfiguration, CodecError> {
    const MONO: u32 = 3;
    let mut reader = BitReader::new(frame);
    if reader.bits(11)? != 0x7ff {
        return Err(CodecError::Invalid { field: "syncword" });
    }
    let halved = match reader.bits(2)? {
        0 => 4,
        2 => 2,
        3 => 1,
        _ => return Err(CodecError::Invalid { field: "version" }),
    };
    if reader.bits(2)? != 1 {
        return Err(CodecError::Invalid { field: "layer" });
    }
    reader.flag()?;
    if reader.bits(4)? == 15 {
        return Err(CodecError::Invalid {
            field: "bitrate_index",
        });
    }
    let index = usize::try_from(reader.bits(2)?).unwrap_or(usize::MAX);
    let sample_rate = SAMPLE_RATES.get(index).ok_or(CodecError::Invalid {
        field: "sampling_frequency",
    })?;
    reader.skip(2)?;
    Ok(CodecConfiguration {
        codec_string: "mp3".to_owned(),
        sample_rate: Some(sample_rate / halved),
        channels: Some(if reader.bits(2)? == MONO { 1 } else { 2 }),
        ..CodecConfiguration::default()
    })
}
