//! FLAC: the marker and the STREAMINFO block.

use super::{CodecConfiguration, CodecError, bits::BitReader};

const STREAMINFO: u32 = 0;
const STREAMINFO_BYTES: u32 = 34;

/// Reads `fLaC` and STREAMINFO, as Enhanced RTMP has it, or STREAMINFO alone without its block header, as FFmpeg 9 sends
/// it; blocks behind it are not looked at.
pub fn parse(header: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let marked = header.strip_prefix(b"fLaC");
    let mut reader = BitReader::new(marked.unwrap_or(header));
    if marked.is_some() {
        reader.flag()?;
        if reader.bits(7)? != STREAMINFO || reader.bits(24)? != STREAMINFO_BYTES {
            return Err(CodecError::Invalid {
                field: "STREAMINFO",
            });
        }
    }
    // Block and frame sizes.
    reader.skip(16 + 16 + 24 + 24)?;
    let sample_rate = reader.bits(20)?;
    // Three and five bits.
    let channels = reader.bits(3)? as u8 + 1;
    let bit_depth = reader.bits(5)? as u8 + 1;
    // The number of samples and their checksum.
    reader.skip(36 + 128)?;
    if sample_rate == 0 {
        return Err(CodecError::Invalid {
            field: "sample rate",
        });
    }
    Ok(CodecConfiguration {
        codec_string: "flac".to_owned(),
        bit_depth: Some(bit_depth),
        sample_rate: Some(sample_rate),
        channels: Some(channels),
        ..CodecConfiguration::default()
    })
}
