//! MultichannelConfig: which loudspeaker an audio track's channels belong to.

use super::{CodecError, bits::BitReader};

/// A MultichannelConfig packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MultichannelConfig {
    /// How many channels there are; at least one.
    pub channels: u8,
    /// Where they belong.
    pub order: ChannelOrder,
}

/// Where channels belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelOrder {
    /// For each channel its loudspeaker: 0 to 23 as Enhanced RTMP numbers them, `0xfe` unused, `0xff` unknown.
    Custom(Vec<u8>),
    /// The loudspeakers of a mask, from its lowest bit on.
    Native(u32),
    /// Only the number of channels is known.
    Unspecified,
}

/// Reads a MultichannelConfig packet.
pub fn parse(packet: &[u8]) -> Result<MultichannelConfig, CodecError> {
    let mut reader = BitReader::new(packet);
    let [order, channels] = [reader.u8()?, reader.u8()?];
    if channels == 0 {
        return Err(CodecError::Invalid {
            field: "channelCount",
        });
    }
    let order = match order {
        0 => ChannelOrder::Unspecified,
        1 => ChannelOrder::Native(reader.u32()?),
        2 => {
            let mapping = reader.take(channels.into())?;
            if mapping.iter().any(|speaker| (24..0xfe).contains(speaker)) {
                return Err(CodecError::Invalid {
                    field: "audioChannelMapping",
                });
            }
            ChannelOrder::Custom(mapping.to_vec())
        }
        _ => {
            return Err(CodecError::Invalid {
                field: "audioChannelOrder",
            });
        }
    };
    Ok(MultichannelConfig { channels, order })
}
