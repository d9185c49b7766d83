//! ADTS: the header that AAC has in a stream of its own, which some encoders leave before each frame of an FLV body.

use super::bits::BitReader;

/// One frame behind its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adts {
    /// With its checksum, where it has one.
    pub header_bytes: usize,
    /// The AudioSpecificConfig that says the same; `None` where the channels are told within the frame.
    pub configuration: Option<[u8; 2]>,
}

const SYNCWORD: u32 = 0xfff;
const HEADER_BYTES: usize = 7;
const CHECKSUM_BYTES: usize = 2;

/// Reads a frame that fills the bytes exactly. `None` is the usual: raw AAC never begins with the syncword, whose first three
/// bits would end it.
pub fn parse(frame: &[u8]) -> Option<Adts> {
    let mut reader = BitReader::new(frame);
    if reader.bits(12).ok()? != SYNCWORD {
        return None;
    }
    reader.skip(1).ok()?;
    let layer = reader.bits(2).ok()?;
    let header_bytes = if reader.flag().ok()? {
        HEADER_BYTES
    } else {
        HEADER_BYTES + CHECKSUM_BYTES
    };
    // Two, four, one and three bits.
    let profile = reader.bits(2).ok()? as u8;
    let sampling_frequency_index = reader.bits(4).ok()? as u8;
    reader.skip(1).ok()?;
    let channel_configuration = reader.bits(3).ok()? as u8;
    reader.skip(4).ok()?;
    let frame_bytes = usize::try_from(reader.bits(13).ok()?).ok()?;
    reader.skip(11).ok()?;
    let more_blocks = reader.bits(2).ok()?;
    let fits = frame_bytes == frame.len() && frame_bytes > header_bytes;
    // Several blocks would be several frames, with checksums among them.
    if layer != 0 || sampling_frequency_index > 12 || !fits || more_blocks != 0 {
        return None;
    }
    let configuration = [
        (profile + 1) << 3 | sampling_frequency_index >> 1,
        sampling_frequency_index << 7 | channel_configuration << 3,
    ];
    Some(Adts {
        header_bytes,
        configuration: (channel_configuration > 0).then_some(configuration),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::aac;

    /// AAC-LC, 48 kHz, stereo, no checksum.
    fn frame(bytes: usize) -> Vec<u8> {
        let [high, low] = [(bytes >> 3) as u8, (bytes << 5) as u8];
        let header = [0xff, 0xf1, 0x4c, 0x80, high, low | 0x1f, 0xfc];
        [&header[..], &vec![0x21; bytes - 7]].concat()
    }

    #[test]
    fn a_frame_tells_its_header_and_its_configuration() {
        let adts = parse(&frame(300)).unwrap();
        assert_eq!(adts.header_bytes, 7);
        let configuration = aac::parse(&adts.configuration.unwrap()).unwrap();
        assert_eq!(configuration.to_string(), "mp4a.40.2 48000 Hz 2 ch");

        let mut checked = frame(300);
        checked[1] = 0xf0;
        assert_eq!(parse(&checked).unwrap().header_bytes, 9);
        let mut within = frame(300);
        within[3] = 0;
        assert_eq!(parse(&within).unwrap().configuration, None);
    }

    #[test]
    fn whatever_is_not_one_frame_exactly_is_none() {
        let whole = frame(300);
        assert_eq!(parse(&whole[..299]), None);
        assert_eq!(parse(&[&whole[..], &whole].concat()), None);
        assert_eq!(parse(&frame(7)), None, "no frame behind the header");
        for (at, value) in [(0, 0xfe), (1, 0xf3), (2, 0x74), (6, 0xfd)] {
            let mut wrong = whole.clone();
            wrong[at] = value;
            assert_eq!(parse(&wrong), None, "byte {at}");
        }
        for length in 0..7 {
            assert_eq!(parse(&whole[..length]), None);
        }
        assert_eq!(parse(&[0x21; 300]), None);
    }
}
