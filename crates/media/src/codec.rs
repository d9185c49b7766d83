//! What decoder configuration says of a track: codec string, size, frame rate, sample rate.
//!
//! | record | specification | where |
//! |---|---|---|
//! | AVCDecoderConfigurationRecord, SPS | ISO/IEC 14496-15 §5.3.3, H.264 §7.3.2.1 | [`avc`] |
//! | HEVCDecoderConfigurationRecord, SPS | ISO/IEC 14496-15 §8.3.3, H.265 §7.3.2.2 | [`hevc`] |
//! | VvcDecoderConfigurationRecord, SPS | ISO/IEC 14496-15 §11.2.4, H.266 §7.3.2.4 | [`vvc`] |
//! | AV1CodecConfigurationRecord, sequence header OBU | AV1 in ISOBMFF §2.3, AV1 §5.5 | [`av1`] |
//! | VPCodecConfigurationRecord, keyframes | VP codec in ISOBMFF, RFC 6386 §9.1, VP9 §6.2 | [`vpx`] |
//! | AudioSpecificConfig | ISO/IEC 14496-3 §1.6.2 | [`aac`] |
//! | ADTS header | ISO/IEC 13818-7 §6.2 | [`adts`] |
//! | OpusHead | RFC 7845 §5.1 | [`opus`] |
//! | STREAMINFO | RFC 9639 §8.2 | [`flac`] |
//! | AC-3 and E-AC-3 syncframe | ETSI TS 102 366 §4.4, §E.1.2 | [`ac3`] |
//! | MPEG audio frame header | ISO/IEC 11172-3 §2.4.1.3 | [`mp3`] |
//! | which pictures a decoder can start at | of each codec | [`random_access`] |
//! | MultichannelConfig, colorInfo | Enhanced RTMP v2 | [`channels`], [`colour`] |
//!
//! Bytes go out as they came in, whatever is read here: an error says that nothing is known, no more.

pub mod aac;
pub mod ac3;
pub mod adts;
pub mod av1;
pub mod avc;
mod bits;
pub mod channels;
pub mod colour;
pub mod flac;
pub mod hevc;
pub mod mp3;
pub mod nalu;
pub mod opus;
pub mod random_access;
pub mod vpx;
pub mod vvc;

use crate::FourCc;

/// Widest and highest picture, in pixels.
pub const DIMENSION_MAX: u32 = 16_384;
/// Most parameter sets of one record.
pub const PARAMETER_SETS_MAX: usize = 256;

/// What is known of a codec; nothing is guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodecConfiguration {
    /// As RFC 6381 and the codec's own specification have it.
    pub codec_string: String,
    /// The codec's own number; AAC: the audio object type.
    pub profile: Option<u8>,
    /// The codec's own number.
    pub level: Option<u8>,
    /// Of a luma sample, or of an audio sample that has one.
    pub bit_depth: Option<u8>,
    /// Video: what is shown.
    pub dimensions: Option<Dimensions>,
    /// Video, as declared.
    pub frame_rate: Option<FrameRate>,
    /// Video: as ITU-T H.273 numbers them; 16 is PQ, 18 is HLG.
    pub transfer_characteristics: Option<u8>,
    /// Video of length-prefixed NAL units: the prefix's length, in bytes.
    pub nalu_length_bytes: Option<u8>,
    /// Audio: samples per second.
    pub sample_rate: Option<u32>,
    /// Audio.
    pub channels: Option<u8>,
}

/// A picture's size in pixels; neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dimensions {
    /// Up to [`DIMENSION_MAX`].
    pub width: u32,
    /// Up to [`DIMENSION_MAX`].
    pub height: u32,
}

/// Frames per second, as a fraction in lowest terms; neither is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRate {
    /// Frames.
    pub numerator: u32,
    /// In so many seconds.
    pub denominator: u32,
}

/// The record is not what its specification says, or beyond a limit.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    /// A field has a value that it must not have.
    #[error("{field} has a value that it must not have")]
    Invalid {
        /// As its specification names it.
        field: &'static str,
    },
    /// More than this server takes.
    #[error("{field} is beyond its limit")]
    Limit {
        /// As its specification names it.
        field: &'static str,
    },
    /// The record ends too early.
    #[error("the record ends inside a field")]
    Truncated,
    /// Nothing is known of the configuration of this codec.
    #[error("the codec {codec} has no configuration that is known")]
    Unknown {
        /// As sent.
        codec: FourCc,
    },
}

/// Reads a sequence header.
pub fn parse(codec: FourCc, header: &[u8]) -> Result<CodecConfiguration, CodecError> {
    match &codec.0 {
        b"avc1" => avc::parse(header),
        b"hvc1" => hevc::parse(header),
        b"vvc1" => vvc::parse(header),
        b"av01" => av1::parse(header),
        b"vp08" | b"vp09" => vpx::parse(codec, header),
        b"mp4a" => aac::parse(header),
        b"Opus" => opus::parse(header),
        b"fLaC" => flac::parse(header),
        // Enhanced RTMP defines no header for these; FFmpeg sends an empty one.
        _ => Err(CodecError::Unknown { codec }),
    }
}

/// Reads what coded media itself says, for the codecs whose sequence header does not say it: a keyframe of video, any
/// frame of audio. `None`: this codec's says nothing, or this frame does not.
pub fn probe(codec: FourCc, payload: &[u8]) -> Option<CodecConfiguration> {
    match &codec.0 {
        b"av01" => av1::temporal_unit(payload).ok(),
        b"vp08" => vpx::vp8_keyframe(payload).ok(),
        b"vp09" => vpx::vp9_keyframe(payload).ok(),
        b"ac-3" | b"ec-3" => ac3::parse(payload).ok(),
        b".mp3" => mp3::parse(payload).ok(),
        _ => None,
    }
}

/// Whether coded media of this codec means nothing without a sequence header.
pub fn needs_header(codec: FourCc) -> bool {
    matches!(&codec.0, b"avc1" | b"hvc1" | b"vvc1" | b"mp4a" | b"fLaC")
}

impl Dimensions {
    /// Neither 0 nor beyond [`DIMENSION_MAX`].
    pub fn new(width: u32, height: u32) -> Result<Self, CodecError> {
        if width == 0 || height == 0 {
            return Err(CodecError::Invalid { field: "size" });
        }
        if width > DIMENSION_MAX || height > DIMENSION_MAX {
            return Err(CodecError::Limit { field: "size" });
        }
        Ok(Self { width, height })
    }
}

impl FrameRate {
    /// `None` where it is no rate.
    pub fn new(numerator: u64, denominator: u64) -> Option<Self> {
        let (mut divisor, mut rest) = (numerator, denominator);
        while rest > 0 {
            (divisor, rest) = (rest, divisor % rest);
        }
        let lowest = |value: u64| u32::try_from(value.checked_div(divisor)?).ok();
        let rate = Self {
            numerator: lowest(numerator)?,
            denominator: lowest(denominator)?,
        };
        (rate.numerator > 0 && rate.denominator > 0).then_some(rate)
    }

    /// Frames per second.
    pub fn per_second(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }
}

impl std::fmt::Display for Dimensions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl std::fmt::Display for FrameRate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Thousandths tell 23.976 from 24; whole rates have none.
        let rate = format!("{:.3}", self.per_second());
        let rate = rate.trim_end_matches('0').trim_end_matches('.');
        f.write_str(rate)
    }
}

impl std::fmt::Display for CodecConfiguration {
    /// As people write it: `avc1.64001f 1920x1080@29.97`, `mp4a.40.2 48000 Hz 2 ch`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.codec_string)?;
        if let Some(dimensions) = self.dimensions {
            write!(f, " {dimensions}")?;
        }
        if let Some(frame_rate) = self.frame_rate {
            write!(f, "@{frame_rate}")?;
        }
        if let Some(sample_rate) = self.sample_rate {
            write!(f, " {sample_rate} Hz")?;
        }
        if let Some(channels) = self.channels {
            write!(f, " {channels} ch")?;
        }
        Ok(())
    }
}

/// Colour as ITU-T H.273 numbers it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Colour {
    primaries: u8,
    transfer: u8,
    matrix: u8,
}

impl Colour {
    const UNSPECIFIED: u8 = 2;

    /// `None` where it is not declared.
    fn transfer(self) -> Option<u8> {
        (self.transfer != Self::UNSPECIFIED).then_some(self.transfer)
    }
}
