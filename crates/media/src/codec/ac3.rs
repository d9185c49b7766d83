//! AC-3 and E-AC-3 have no sequence header: every frame begins with what is to know.

use super::{CodecConfiguration, CodecError, bits::BitReader};

const SYNC_WORD: u16 = 0x0b77;
const SAMPLE_RATES: [u32; 3] = [48_000, 44_100, 32_000];

/// Reads the beginning of a syncframe.
pub fn parse(frame: &[u8]) -> Result<CodecConfiguration, CodecError> {
    let mut reader = BitReader::new(frame);
    let reader = &mut reader;
    if reader.u16()? != SYNC_WORD {
        return Err(CodecError::Invalid { field: "syncword" });
    }
    // `bsid` stands at the same place in both, and tells them apart.
    let mut ahead = reader.clone();
    ahead.skip(24)?;
    match ahead.bits(5)? {
        0..=10 => ac3(reader),
        11..=16 => e_ac3(reader),
        _ => Err(CodecError::Invalid { field: "bsid" }),
    }
}

fn ac3(reader: &mut BitReader<'_>) -> Result<CodecConfiguration, CodecError> {
    reader.skip(16)?;
    let rate = sample_rate(reader.bits(2)?)?;
    reader.skip(6)?;
    let bsid = reader.bits(5)?;
    reader.skip(3)?;
    let mode = reader.bits(3)?;
    // Mix levels, where the mode has them.
    if mode & 1 == 1 && mode != 1 {
        reader.skip(2)?;
    }
    if mode & 4 == 4 {
        reader.skip(2)?;
    }
    if mode == 2 {
        reader.skip(2)?;
    }
    let low_frequency = reader.flag()?;
    // 9 and 10 stand for half and a quarter of the rate.
    let rate = rate >> bsid.saturating_sub(8);
    Ok(configuration("ac-3", rate, mode, low_frequency))
}

fn e_ac3(reader: &mut BitReader<'_>) -> Result<CodecConfiguration, CodecError> {
    reader.skip(2 + 3 + 11)?;
    let code = reader.bits(2)?;
    let second = reader.bits(2)?;
    let rate = if code == 3 {
        sample_rate(second)? / 2
    } else {
        sample_rate(code)?
    };
    let mode = reader.bits(3)?;
    let low_frequency = reader.flag()?;
    Ok(configuration("ec-3", rate, mode, low_frequency))
}

fn sample_rate(code: u32) -> Result<u32, CodecError> {
    let index = usize::try_from(code).unwrap_or(usize::MAX);
    SAMPLE_RATES
        .get(index)
        .copied()
        .ok_or(CodecError::Invalid { field: "fscod" })
}

fn configuration(
    codec: &str,
    sample_rate: u32,
    mode: u32,
    low_frequency: bool,
) -> CodecConfiguration {
    let full_range = match mode {
        1 => 1,
        0 | 2 => 2,
        3 | 4 => 3,
        5 | 6 => 4,
        _ => 5,
    };
    CodecConfiguration {
        codec_string: codec.to_owned(),
        sample_rate: Some(sample_rate),
        channels: Some(full_range + u8::from(low_frequency)),
        ..CodecConfiguration::default()
    }
}
