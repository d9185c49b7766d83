//! [`media::Tracks`] as messages.

use media::{
    Track, TrackId, Tracks,
    codec::{CodecConfiguration, Dimensions, FrameRate},
};

use crate::{frames::kind_to_proto, v1};

/// All of them, by kind and id.
pub fn tracks_to_proto(tracks: &Tracks) -> Vec<v1::Track> {
    tracks.iter().map(track_to_proto).collect()
}

fn track_to_proto(((kind, id), track): (TrackId, &Track)) -> v1::Track {
    let configuration = track.configuration.clone().unwrap_or_default();
    let number = |value: Option<u8>| value.unwrap_or_default().into();
    let (width, height) = configuration
        .dimensions
        .map_or((0, 0), |dimensions| (dimensions.width, dimensions.height));
    let (frame_rate_numerator, frame_rate_denominator) = configuration
        .frame_rate
        .map_or((0, 0), |rate| (rate.numerator, rate.denominator));
    v1::Track {
        kind: kind_to_proto(kind).into(),
        id: id.into(),
        codec: track.codec.to_string(),
        codec_string: configuration.codec_string,
        profile: number(configuration.profile),
        level: number(configuration.level),
        width,
        height,
        frame_rate_numerator,
        frame_rate_denominator,
        bit_depth: number(configuration.bit_depth),
        transfer_characteristics: number(configuration.transfer_characteristics),
        sample_rate: configuration.sample_rate.unwrap_or_default(),
        channels: number(configuration.channels),
    }
}

/// As people write it: `avc1.64001F 1920x1080@29.97`; the id stands before it where it is not 0.
pub fn describe(track: &v1::Track) -> String {
    let codec_string = if track.codec_string.is_empty() {
        &track.codec
    } else {
        &track.codec_string
    };
    let configuration = CodecConfiguration {
        codec_string: codec_string.clone(),
        dimensions: Dimensions::new(track.width, track.height).ok(),
        frame_rate: FrameRate::new(
            track.frame_rate_numerator.into(),
            track.frame_rate_denominator.into(),
        ),
        sample_rate: Some(track.sample_rate).filter(|rate| *rate > 0),
        channels: u8::try_from(track.channels).ok().filter(|count| *count > 0),
        ..CodecConfiguration::default()
    };
    match track.id {
        0 => configuration.to_string(),
        id => format!("{id}:{configuration}"),
    }
}

#[cfg(test)]
mod tests {
    use media::{FrameKind, flv};

    use super::*;

    #[test]
    fn a_track_is_told_and_described() {
        let mut tracks = Tracks::default();
        for (kind, body) in [
            (FrameKind::Audio, &[0xaf, 0, 0x11, 0x90][..]),
            (FrameKind::Audio, b"\x95\x01ac-3\x03x"),
            (
                FrameKind::Video,
                b"\x90av01\x81\0\x0c\0\x0a\x0b\x02\0\0\x05\x61\xe7\xf6\x60\x17\xc0\x02",
            ),
        ] {
            let frame = flv::parse(kind, 0, body.to_vec().into()).unwrap();
            tracks.update(&frame);
        }
        let told = tracks_to_proto(&tracks);
        let described: Vec<_> = told.iter().map(describe).collect();
        assert_eq!(
            described,
            ["mp4a.40.2 48000 Hz 2 ch", "3:ac-3", "av01.0.00M.08 320x180"]
        );
        let [aac, ac3, av1] = told.try_into().unwrap();
        assert_eq!(
            (aac.kind(), aac.id, aac.profile),
            (v1::FrameKind::Audio, 0, 2)
        );
        assert_eq!((&*ac3.codec, ac3.id, &*ac3.codec_string), ("ac-3", 3, ""));
        assert_eq!((av1.kind(), av1.bit_depth), (v1::FrameKind::Video, 8));
    }
}
