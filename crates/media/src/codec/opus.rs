//! Opus: the identification header.

use super::{CodecConfiguration, CodecError, bits::BitReader};

/// Opus decodes to this, whatever was recorded.
const SAMPLE_RATE: u32 = 48_000;

/// Reads an OpusHead; an empty one says nothing but what is true for every stream.
pub fn parse(head: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let mut configuration = CodecConfiguration {
        codec_string: "opus".to_owned(),
        sample_rate: Some(SAMPLE_RATE),
        ..CodecConfiguration::default()
    };
    if head.is_empty() {
        return Ok(configuration);
    }
    let fields = head.strip_prefix(b"OpusHead").ok_or(CodecError::Invalid {
        field: "magic signature",
    })?;
    let mut reader = BitReader::new(fields);
    // The upper half is the major version.
    if reader.u8()? >> 4 != 0 {
        return Err(CodecError::Invalid { field: "version" });
    }
    let channels = reader.u8()?;
    // Pre-skip, input sample rate, output gain.
    reader.skip(16 + 32 + 16)?;
    let family = reader.u8()?;
    if channels == 0 || (family == 0 && channels > 2) {
        return Err(CodecError::Invalid {
            field: "channel count",
        });
    }
    if family != 0 {
        let [streams, coupled] = [reader.u8()?, reader.u8()?];
        if streams == 0 || coupled > streams {
            return Err(CodecError::Invalid {
                field: "stream count",
            });
        }
        reader.take(channels.into())?;
    }
    configuration.channels = Some(channels);
    Ok(configuration)
}
