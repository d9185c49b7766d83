//! Media made up at almost no cost: valid headers of a 1280×720 H.264 stream with AAC, then stamped frames of the sizes
//! that a constant bitrate gives. All publishers share one block of filler.

use std::time::Duration;

use bytes::Bytes;
use rtmp::{
    MediaKind,
    amf0::{Value, encode},
};

use super::{
    flv_file::Tag,
    payload::{STAMP_BYTES, Stamp, audio_body, video_body},
};

/// A keyframe is as large as so many other frames.
const KEYFRAME_WEIGHT: u64 = 6;
/// Audio takes a quarter of small bitrates, and this much of others.
const AUDIO_BITS: u64 = 128_000;
const SAMPLES_PER_SECOND: u64 = 48_000;
const SAMPLES_PER_FRAME: u64 = 1024;

/// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1): High profile, level 3.1, 1280×720.
const AVC_CONFIGURATION: &[u8] = &[
    0x01, 0x64, 0x00, 0x1f, 0xff, 0xe1, 0x00, 0x1b, 0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50,
    0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83,
    0x19, 0x60, 0x01, 0x00, 0x06, 0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0x00,
];
/// AudioSpecificConfig (ISO/IEC 14496-3 §1.6.2.1): AAC-LC, 48 kHz, stereo.
const AAC_CONFIGURATION: &[u8] = &[0x11, 0x90];

/// What every publisher of a run sends.
#[derive(Debug)]
pub(crate) struct Profile {
    fps: u64,
    frames_per_gop: u64,
    keyframe_filler: Bytes,
    frame_filler: Bytes,
    audio_filler: Bytes,
    headers: Vec<Tag>,
}

/// One publisher's place in it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    video: u64,
    audio: u64,
}

impl Profile {
    pub(crate) fn new(bits_per_second: u64, fps: u32, gop: Duration) -> Self {
        let fps = u64::from(fps.max(1));
        let gop_ms = u64::try_from(gop.as_millis()).unwrap_or(u64::MAX);
        let frames_per_gop = (gop_ms.saturating_mul(fps) / 1000).clamp(1, 1_000_000);
        let audio_bits = AUDIO_BITS.min(bits_per_second / 4);
        let gop_bytes = (bits_per_second - audio_bits) * frames_per_gop / fps / 8;
        let frame_bytes = gop_bytes / (frames_per_gop - 1 + KEYFRAME_WEIGHT);
        let keyframe_bytes = gop_bytes - frame_bytes * (frames_per_gop - 1);
        let audio_bytes = audio_bits * SAMPLES_PER_FRAME / SAMPLES_PER_SECOND / 8;
        let filler = filler(keyframe_bytes);
        let cut = |bytes: u64| filler.slice(..filler_bytes(bytes).min(filler.len()));
        Self {
            fps,
            frames_per_gop,
            keyframe_filler: cut(keyframe_bytes),
            frame_filler: cut(frame_bytes),
            audio_filler: cut(audio_bytes),
            headers: headers(bits_per_second, audio_bits, fps),
        }
    }

    /// Metadata and sequence headers.
    pub(super) fn headers(&self) -> &[Tag] {
        &self.headers
    }

    /// When the next frame is due, in milliseconds from the start.
    pub(super) fn due_ms(&self, position: Position) -> u64 {
        self.video_ms(position).min(audio_ms(position))
    }

    /// The next frame; where video and audio are due together, video first.
    pub(super) fn next(&self, position: &mut Position, stamp: Stamp) -> Tag {
        let (video_ms, audio_ms) = (self.video_ms(*position), audio_ms(*position));
        if audio_ms < video_ms {
            position.audio += 1;
            return Tag {
                kind: MediaKind::Audio,
                timestamp_ms: wrapped(audio_ms),
                body: audio_body(stamp, &self.audio_filler),
            };
        }
        let keyframe = position.video.is_multiple_of(self.frames_per_gop);
        position.video += 1;
        let filler = if keyframe {
            &self.keyframe_filler
        } else {
            &self.frame_filler
        };
        Tag {
            kind: MediaKind::Video,
            timestamp_ms: wrapped(video_ms),
            body: video_body(stamp, keyframe, filler),
        }
    }

    fn video_ms(&self, position: Position) -> u64 {
        position.video * 1000 / self.fps
    }
}

fn audio_ms(position: Position) -> u64 {
    position.audio * SAMPLES_PER_FRAME * 1000 / SAMPLES_PER_SECOND
}

/// RTMP's timestamps have 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "wrapping is meant")]
pub(super) fn wrapped(ms: u64) -> u32 {
    ms as u32
}

/// What a frame of this size has behind its stamp.
fn filler_bytes(frame_bytes: u64) -> usize {
    usize::try_from(frame_bytes)
        .unwrap_or(usize::MAX)
        .saturating_sub(STAMP_BYTES)
}

/// Incompressible, the same in every run, and without zeros: no start code and nothing to escape in it.
fn filler(largest_frame_bytes: u64) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut filler = Vec::new();
    filler.resize_with(filler_bytes(largest_frame_bytes), || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [byte, ..] = state.to_le_bytes();
        byte | 1
    });
    filler.into()
}

fn headers(bits_per_second: u64, audio_bits: u64, fps: u64) -> Vec<Tag> {
    let tag = |kind, body: Vec<u8>| Tag {
        kind,
        timestamp_ms: 0,
        body: body.into(),
    };
    vec![
        tag(
            MediaKind::Script,
            metadata(bits_per_second - audio_bits, audio_bits, fps),
        ),
        tag(
            MediaKind::Video,
            [&[0x17, 0, 0, 0, 0], AVC_CONFIGURATION].concat(),
        ),
        tag(MediaKind::Audio, [&[0xaf, 0], AAC_CONFIGURATION].concat()),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "AMF0 has no other numbers")]
fn metadata(video_bits: u64, audio_bits: u64, fps: u64) -> Vec<u8> {
    let number = |value: u64| Value::Number(value as f64);
    encode(&[
        Value::text("@setDataFrame"),
        Value::text("onMetaData"),
        Value::object([
            ("width", number(1280)),
            ("height", number(720)),
            ("framerate", number(fps)),
            ("videocodecid", number(7)),
            ("videodatarate", number(video_bits / 1000)),
            ("audiocodecid", number(10)),
            ("audiodatarate", number(audio_bits / 1000)),
            ("audiosamplerate", number(SAMPLES_PER_SECOND)),
            ("encoder", Value::text("headwater bench")),
        ]),
    ])
}

#[cfg(test)]
mod tests {
    use media::{FrameKind, PartType, flv};

    use super::*;

    const STAMP: Stamp = Stamp {
        publisher: 1,
        sequence: 0,
        sent_us: 0,
    };

    #[test]
    fn a_run_has_the_bitrate_that_was_asked_for() {
        for (bits, fps) in [(2_500_000, 30), (6_000_000, 60), (400_000, 25)] {
            let profile = Profile::new(bits, fps, Duration::from_secs(2));
            let mut position = Position::default();
            let mut bytes = 0;
            while profile.due_ms(position) < 20_000 {
                bytes += profile.next(&mut position, STAMP).body.len() as u64;
            }
            let found = bytes * 8 / 20;
            assert!(
                found.abs_diff(bits) < bits / 20,
                "{found} instead of {bits} bit/s"
            );
        }
    }

    #[test]
    fn time_goes_on_and_keyframes_come_once_a_gop() {
        let profile = Profile::new(1_000_000, 30, Duration::from_secs(2));
        let mut position = Position::default();
        let mut keyframes = Vec::new();
        let mut last = 0;
        while profile.due_ms(position) < 10_000 {
            let due = profile.due_ms(position);
            let tag = profile.next(&mut position, STAMP);
            assert_eq!(u64::from(tag.timestamp_ms), due);
            assert!(tag.timestamp_ms >= last);
            last = tag.timestamp_ms;
            if tag.kind == MediaKind::Video && tag.body.starts_with(&[0x17]) {
                keyframes.push(tag.timestamp_ms);
            }
        }
        assert_eq!(keyframes, [0, 2000, 4000, 6000, 8000]);
    }

    #[test]
    fn the_smallest_frame_is_its_stamp() {
        let profile = Profile::new(1000, 240, Duration::ZERO);
        let mut position = Position::default();
        let tag = profile.next(&mut position, STAMP);
        assert_eq!(tag.body.len(), 10 + STAMP_BYTES);
    }

    #[test]
    fn headers_are_what_the_cluster_takes_for_headers() {
        let profile = Profile::new(1_000_000, 30, Duration::from_secs(2));
        let [metadata, video, audio] = profile.headers() else {
            panic!("three headers");
        };
        let script = flv::parse(FrameKind::Script, 0, metadata.body.clone()).unwrap();
        assert!(flv::metadata(&script));
        for (kind, tag) in [(FrameKind::Video, video), (FrameKind::Audio, audio)] {
            let frame = flv::parse(kind, 0, tag.body.clone()).unwrap();
            assert_eq!(frame.parts[0].part_type, PartType::SequenceHeader);
        }
    }
}
