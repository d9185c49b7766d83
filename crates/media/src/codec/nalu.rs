//! Length-prefixed NAL units: whether a coded frame of AVC, HEVC or VVC is what its header announced.

/// Most NAL units of one frame.
pub const NALUS_PER_FRAME_MAX: usize = 4096;

/// Why no decoder could read the frame.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NaluError {
    /// Start codes where lengths were announced.
    #[error(
        "the encoder sends Annex B start codes (00 00 00 01); RTMP takes NAL units with a length before each"
    )]
    AnnexB,
    /// No NAL unit has a byte.
    #[error("the frame holds no NAL unit")]
    Empty,
    /// A NAL unit reaches behind the end of the frame.
    #[error("a NAL unit is longer than its frame")]
    Overrun,
    /// More than [`NALUS_PER_FRAME_MAX`].
    #[error("the frame holds more than {NALUS_PER_FRAME_MAX} NAL units")]
    TooMany,
}

impl NaluError {
    /// A stable word for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::AnnexB => "annex_b",
            Self::Empty => "nalu_empty",
            Self::Overrun => "nalu_overrun",
            Self::TooMany => "nalus",
        }
    }
}

/// Walks a coded frame's NAL units by their lengths of `length_bytes` bytes each. Their number; NAL units without a byte
/// stand beside others in what real encoders send, and do no harm there.
pub fn check(payload: &[u8], length_bytes: u8) -> Result<usize, NaluError> {
    let mut rest = payload;
    let (mut count, mut bytes) = (0_usize, 0_usize);
    while !rest.is_empty() {
        let Some((length, behind)) = split_length(rest, length_bytes) else {
            return Err(overrun(payload));
        };
        let Some(behind) = behind.get(length..) else {
            return Err(overrun(payload));
        };
        rest = behind;
        count += 1;
        bytes = bytes.saturating_add(length);
        if count > NALUS_PER_FRAME_MAX {
            return Err(NaluError::TooMany);
        }
    }
    if bytes == 0 {
        return Err(NaluError::Empty);
    }
    Ok(count)
}

/// A coded frame's NAL units, as far as their lengths fit.
pub fn units(payload: &[u8], length_bytes: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        let (length, behind) = split_length(rest, length_bytes)?;
        let (unit, behind) = behind.split_at_checked(length)?;
        // A length of no bytes would never come to an end.
        rest = (behind.len() < rest.len()).then_some(behind)?;
        Some(unit)
    })
}

fn split_length(bytes: &[u8], length_bytes: u8) -> Option<(usize, &[u8])> {
    let (length, rest) = bytes.split_at_checked(length_bytes.into())?;
    let length = length
        .iter()
        .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    Some((length, rest))
}

/// Read as a length, a start code of four bytes is a NAL unit of one byte, and what follows does not fit.
fn overrun(payload: &[u8]) -> NaluError {
    if payload.starts_with(&[0, 0, 0, 1]) {
        NaluError::AnnexB
    } else {
        NaluError::Overrun
    }
}
