//! The stamp on every frame of `bench publish`: who sent it, as which, when, how long it is, and a checksum over all of it.
//!
//! ```text
//! offset  0  magic      8 bytes
//!         8  publisher  u32
//!        12  sequence   u64, counts every stamped frame of the publisher, audio and video together
//!        20  sent       u64, microseconds since the Unix epoch
//!        28  length     u32, of the stamped payload, this header included
//!        32  checksum   u32, CRC-32 over everything before and behind it
//!        36  filler     up to the length
//! ```
//! Big-endian. In video it lies behind the five bytes of FLV's header, one NAL unit's length and its type; in audio behind
//! the two bytes of FLV's header.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use media::FrameKind;

/// Shortest payload: the stamp without filler, in bytes.
pub(super) const STAMP_BYTES: usize = 36;

const MAGIC: &[u8; 8] = b"HWbench1";
/// FLV header of AVC (frame type and codec, packet type, composition time), NAL unit length, NAL unit type.
const VIDEO_PREFIX_BYTES: usize = 5 + 4 + 1;
/// FLV header of AAC.
const AUDIO_PREFIX_BYTES: usize = 2;

/// What a stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) publisher: u32,
    pub(super) sequence: u64,
    /// Microseconds since the Unix epoch.
    pub(super) sent_us: u64,
}

/// What is found in a frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// A stamp whose length or checksum is wrong.
    Corrupted,
    /// Media without a stamp.
    Foreign,
    /// A header or metadata, which are never stamped.
    NotMedia,
    /// As it was sent.
    Stamped(Stamp),
}

/// Microseconds since the Unix epoch.
pub(super) fn now_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| since.as_micros().try_into().ok())
        .unwrap_or_default()
}

/// The body of a stamped AVC frame with one NAL unit.
pub(super) fn video_body(stamp: Stamp, keyframe: bool, filler: &[u8]) -> Bytes {
    let (flags, unit) = if keyframe { (0x17, 0x65) } else { (0x27, 0x41) };
    let mut body = BytesMut::with_capacity(VIDEO_PREFIX_BYTES + STAMP_BYTES + filler.len());
    body.put_slice(&[flags, 1, 0, 0, 0]);
    body.put_u32(length(1 + STAMP_BYTES + filler.len()));
    body.put_u8(unit);
    put(&mut body, stamp, filler);
    body.freeze()
}

/// The body of a stamped AAC frame.
pub(super) fn audio_body(stamp: Stamp, filler: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(AUDIO_PREFIX_BYTES + STAMP_BYTES + filler.len());
    body.put_slice(&[0xaf, 1]);
    put(&mut body, stamp, filler);
    body.freeze()
}

/// Reads a body, whoever made it.
pub(super) fn read(kind: FrameKind, body: &[u8]) -> Payload {
    let (prefix, packet_type) = match kind {
        FrameKind::Audio => (AUDIO_PREFIX_BYTES, body.get(1)),
        FrameKind::Script => return Payload::NotMedia,
        FrameKind::Video => (VIDEO_PREFIX_BYTES, body.get(1)),
    };
    // Both AVC and AAC have 0 for the sequence header; an empty body is silence.
    let Some(1) = packet_type else {
        return match packet_type {
            Some(0) | None => Payload::NotMedia,
            Some(_) => Payload::Foreign,
        };
    };
    let Some(payload) = body.get(prefix..) else {
        return Payload::Foreign;
    };
    if !payload.starts_with(MAGIC) {
        return Payload::Foreign;
    }
    parse(payload).map_or(Payload::Corrupted, Payload::Stamped)
}

fn put(body: &mut BytesMut, stamp: Stamp, filler: &[u8]) {
    let start = body.len();
    body.put_slice(MAGIC);
    body.put_u32(stamp.publisher);
    body.put_u64(stamp.sequence);
    body.put_u64(stamp.sent_us);
    body.put_u32(length(STAMP_BYTES + filler.len()));
    let checksum = checksum(body.get(start..).unwrap_or_default(), filler);
    body.put_u32(checksum);
    body.put_slice(filler);
}

fn parse(payload: &[u8]) -> Option<Stamp> {
    let (head, rest) = payload.split_at_checked(STAMP_BYTES - 4)?;
    let (expected, filler) = rest.split_first_chunk::<4>()?;
    let (_, fields) = head.split_first_chunk::<8>()?;
    let (publisher, fields) = fields.split_first_chunk::<4>()?;
    let (sequence, fields) = fields.split_first_chunk::<8>()?;
    let (sent_us, fields) = fields.split_first_chunk::<8>()?;
    let (length_field, _) = fields.split_first_chunk::<4>()?;
    let intact = u32::from_be_bytes(*length_field) == length(payload.len())
        && u32::from_be_bytes(*expected) == checksum(head, filler);
    intact.then(|| Stamp {
        publisher: u32::from_be_bytes(*publisher),
        sequence: u64::from_be_bytes(*sequence),
        sent_us: u64::from_be_bytes(*sent_us),
    })
}

fn checksum(head: &[u8], filler: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(filler);
    hasher.finalize()
}

/// No body is near 4 GiB: FLV has 24 bits for its length.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        publisher: 7,
        sequence: 1 << 40,
        sent_us: 1_700_000_000_000_000,
    };

    #[test]
    fn what_was_stamped_is_read_back() {
        for filler in [&b""[..], b"x", &[7; 5000]] {
            let video = video_body(STAMP, true, filler);
            assert_eq!(read(FrameKind::Video, &video), Payload::Stamped(STAMP));
            let audio = audio_body(STAMP, filler);
            assert_eq!(read(FrameKind::Audio, &audio), Payload::Stamped(STAMP));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let body = video_body(STAMP, false, &[9; 64]);
        // What lies before the stamp is FLV's; the two bytes of frame type and packet type decide how it is read.
        for index in VIDEO_PREFIX_BYTES..body.len() {
            for bit in 0..8 {
                let mut flipped = body.to_vec();
                flipped[index] ^= 1 << bit;
                let found = read(FrameKind::Video, &flipped);
                let in_magic = index < VIDEO_PREFIX_BYTES + MAGIC.len();
                let expected = if in_magic {
                    Payload::Foreign
                } else {
                    Payload::Corrupted
                };
                assert_eq!(found, expected, "byte {index}, bit {bit}");
            }
        }
        for length in VIDEO_PREFIX_BYTES + MAGIC.len()..body.len() {
            assert_eq!(
                read(FrameKind::Video, &body[..length]),
                Payload::Corrupted,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn headers_are_not_media_and_other_media_is_foreign() {
        assert_eq!(
            read(FrameKind::Video, &[0x17, 0, 0, 0, 0, 1, 2]),
            Payload::NotMedia
        );
        assert_eq!(read(FrameKind::Audio, &[0xaf, 0, 0x11]), Payload::NotMedia);
        assert_eq!(read(FrameKind::Audio, &[]), Payload::NotMedia);
        assert_eq!(read(FrameKind::Script, &[2, 0, 1]), Payload::NotMedia);
        assert_eq!(
            read(FrameKind::Video, &[0x27, 1, 0, 0, 0, 9]),
            Payload::Foreign
        );
    }

    #[test]
    fn our_bodies_are_what_the_cluster_takes_for_h264_and_aac() {
        let video = media::flv::parse(FrameKind::Video, 0, video_body(STAMP, true, b"x")).unwrap();
        assert!(video.keyframe() && video.coded());
        let audio = media::flv::parse(FrameKind::Audio, 0, audio_body(STAMP, b"x")).unwrap();
        assert!(audio.coded());
    }
}
