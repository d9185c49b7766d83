//! Media that this harness makes up: bodies that a server takes for H.264 and AAC, of any size, each one different.

use crate::flv::{Kind, Tag};

/// Time between two video frames, in milliseconds.
pub const FRAME_MS: i64 = 40;

/// AVCDecoderConfigurationRecord of a 320×180 baseline stream.
const AVC_CONFIGURATION: &[u8] = &[
    0x01, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0x00, 0x09, 0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x06, 0x7e,
    0x74, 0x01, 0x00, 0x04, 0x68, 0xce, 0x3c, 0x80,
];

/// The sequence header of the video.
pub fn video_header() -> Tag {
    let body = [&[0x17, 0, 0, 0, 0], AVC_CONFIGURATION].concat();
    Tag {
        kind: Kind::Video,
        timestamp_ms: 0,
        body,
    }
}

/// A video frame of this many payload bytes; its number decides its content.
pub fn video(number: u32, keyframe: bool, size: usize) -> Tag {
    let (flags, unit) = if keyframe { (0x17, 0x65) } else { (0x27, 0x41) };
    let mut body = vec![flags, 1, 0, 0, 0];
    // One NAL unit: its length, its type, then bytes that differ from frame to frame.
    let unit_bytes = size.max(12) - 4;
    body.extend(u32::try_from(unit_bytes).unwrap().to_be_bytes());
    body.push(unit);
    body.extend(number.to_be_bytes());
    let filler = (0..).map(|index: u32| (index.wrapping_mul(31) ^ number) as u8 | 0x10);
    body.extend(filler.take(unit_bytes - 5));
    Tag {
        kind: Kind::Video,
        timestamp_ms: i64::from(number) * FRAME_MS,
        body,
    }
}

/// A GOP of `length` frames, the first of them frame `number`.
pub fn gop(number: u32, length: u32) -> Vec<Tag> {
    (number..number + length)
        .map(|index| video(index, index == number, 400))
        .collect()
}
