//! FLV as a reader of streams sees it: the tests' own parser, independent of the product's.

use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

use crate::amf::{self, Value};

/// What a tag (or an RTMP message, or a gRPC frame) carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Audio,
    Script,
    Video,
}

/// One FLV tag: kind, time, and the body that must come out as it went in.
#[derive(Clone, PartialEq, Eq)]
pub struct Tag {
    pub kind: Kind,
    /// Decode time in milliseconds.
    pub timestamp_ms: i64,
    pub body: Vec<u8>,
}

/// One coded packet, in the terms in which source and output are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    pub track: Kind,
    pub dts_ms: i64,
    pub pts_ms: i64,
    /// The body's first byte: frame type and codec, or codec, rate, size and channels.
    pub flags: u8,
    pub size: usize,
    /// SHA-256 of the payload behind the tag's own header.
    pub hash: String,
}

/// AVC and AAC tags: what the byte behind the flags says.
const SEQUENCE_HEADER: u8 = 0;
const CODED: u8 = 1;

impl Tag {
    /// The packet, where the tag holds coded media.
    pub fn packet(&self) -> Option<Packet> {
        let (composition_offset_ms, payload) = match (self.kind, self.body.get(1)) {
            (Kind::Video, Some(&CODED)) => {
                let offset = &self.body[2..5];
                // Signed, 24 bits.
                let offset = i32::from_be_bytes([offset[0], offset[1], offset[2], 0]) >> 8;
                (offset, &self.body[5..])
            }
            (Kind::Audio, Some(&CODED)) => (0, &self.body[2..]),
            _ => return None,
        };
        Some(Packet {
            track: self.kind,
            dts_ms: self.timestamp_ms,
            pts_ms: self.timestamp_ms + i64::from(composition_offset_ms),
            flags: self.body[0],
            size: payload.len(),
            hash: sha256(payload),
        })
    }

    pub fn is_keyframe(&self) -> bool {
        self.kind == Kind::Video && self.packet().is_some() && self.body[0] >> 4 == 1
    }

    pub fn is_sequence_header(&self) -> bool {
        self.kind != Kind::Script && self.body.get(1) == Some(&SEQUENCE_HEADER)
    }

    /// The object of an onMetaData tag.
    pub fn metadata(&self) -> Option<Value> {
        if self.kind != Kind::Script {
            return None;
        }
        let values = amf::decode(&self.body);
        // As published over RTMP it can still have the command in front.
        let start = usize::from(values.first().and_then(Value::text) == Some("@setDataFrame"));
        match values.get(start..) {
            Some([Value::String(name), object, ..]) if name == "onMetaData" => Some(object.clone()),
            _ => None,
        }
    }
}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            timestamp_ms,
            body,
        } = self;
        write!(f, "{kind:?} {timestamp_ms} ms {} bytes", body.len())
    }
}

/// Hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, bytes).as_ref())
}

/// The coded packets of tags, in order.
pub fn packets<'a>(tags: impl IntoIterator<Item = &'a Tag>) -> Vec<Packet> {
    tags.into_iter().filter_map(Tag::packet).collect()
}

/// Bodies of the sequence headers, each once.
pub fn sequence_headers<'a>(tags: impl IntoIterator<Item = &'a Tag>) -> Vec<(Kind, Vec<u8>)> {
    let mut headers: Vec<_> = tags
        .into_iter()
        .filter(|tag| tag.is_sequence_header())
        .map(|tag| (tag.kind, tag.body.clone()))
        .collect();
    headers.sort();
    headers.dedup();
    headers
}

/// What a metadata object says of the media, less what a live publisher cannot know (duration, file size) or names after
/// itself (encoder).
pub fn described_media<'a>(tags: impl IntoIterator<Item = &'a Tag>) -> Vec<(String, Value)> {
    let object = tags
        .into_iter()
        .find_map(Tag::metadata)
        .expect("no onMetaData");
    let Value::Object(mut members) = object else {
        panic!("onMetaData holds no object");
    };
    members.retain(|(name, _)| !["duration", "filesize", "encoder"].contains(&name.as_str()));
    members.sort_by(|one, other| one.0.cmp(&other.0));
    members
}

/// Fails unless both hold the same packets in the same order per track, times equal less one constant for all. Returns
/// the constant in milliseconds.
///
/// Order is compared per track: how audio and video interleave is the muxer's business, and the constant holds them
/// together.
pub fn assert_same_packets(got: &[Packet], expected: &[Packet]) -> i64 {
    let (Some(first_got), Some(first_expected)) = (earliest(got), earliest(expected)) else {
        panic!("{} packets, {} expected", got.len(), expected.len());
    };
    let offset = first_got - first_expected;
    for track in [Kind::Video, Kind::Audio] {
        let got: Vec<_> = got.iter().filter(|packet| packet.track == track).collect();
        let expected: Vec<_> = expected
            .iter()
            .filter(|packet| packet.track == track)
            .collect();
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let shifted = Packet {
                dts_ms: expected.dts_ms + offset,
                pts_ms: expected.pts_ms + offset,
                ..(*expected).clone()
            };
            assert_eq!(**got, shifted, "{track:?} packet {index} (offset {offset})");
        }
        assert_eq!(got.len(), expected.len(), "number of {track:?} packets");
    }
    assert_eq!(got.len(), expected.len());
    offset
}

fn earliest(packets: &[Packet]) -> Option<i64> {
    packets.iter().map(|packet| packet.dts_ms).min()
}

/// A file of these tags.
pub fn file(tags: &[Tag]) -> Vec<u8> {
    let mut file = b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec();
    for tag in tags {
        let kind = match tag.kind {
            Kind::Audio => 8,
            Kind::Script => 18,
            Kind::Video => 9,
        };
        let length = u32::try_from(tag.body.len()).unwrap();
        let [high, time @ ..] = u32::try_from(tag.timestamp_ms).unwrap().to_be_bytes();
        file.push(kind);
        file.extend(&length.to_be_bytes()[1..]);
        file.extend(time);
        file.extend([high, 0, 0, 0]);
        file.extend(&tag.body);
        file.extend((length + 11).to_be_bytes());
    }
    file
}

/// All tags of a file.
pub fn read_file(path: &Path) -> Vec<Tag> {
    let mut reader = Reader::default();
    let tags = reader.push(&std::fs::read(path).unwrap());
    assert!(reader.buffer.is_empty(), "{} is cut short", path.display());
    tags
}

/// Takes an FLV stream apart as it comes.
#[derive(Default)]
pub struct Reader {
    buffer: Vec<u8>,
    header_seen: bool,
}

/// Signature, version, flags and length, then the first (empty) back pointer.
const FILE_HEADER_BYTES: usize = 9 + 4;
const TAG_HEADER_BYTES: usize = 11;
const BACK_POINTER_BYTES: usize = 4;

impl Reader {
    /// Takes bytes and returns the tags that are complete; panics on what is not FLV.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Tag> {
        self.buffer.extend_from_slice(bytes);
        let mut tags = Vec::new();
        let mut position = 0;
        if !self.header_seen && self.buffer.len() >= FILE_HEADER_BYTES {
            assert_eq!(self.buffer[..4], *b"FLV\x01");
            assert_eq!(self.buffer[5..FILE_HEADER_BYTES], [0, 0, 0, 9, 0, 0, 0, 0]);
            self.header_seen = true;
            position = FILE_HEADER_BYTES;
        }
        while self.header_seen
            && let Some((tag, length)) = tag(&self.buffer[position..])
        {
            tags.push(tag);
            position += length;
        }
        self.buffer.drain(..position);
        tags
    }
}

/// The first tag and the bytes that it takes, where it is complete.
fn tag(input: &[u8]) -> Option<(Tag, usize)> {
    let header = input.get(..TAG_HEADER_BYTES)?;
    let size = usize::try_from(u32::from_be_bytes([0, header[1], header[2], header[3]])).unwrap();
    let end = TAG_HEADER_BYTES + size;
    let back_pointer = input.get(end..end + BACK_POINTER_BYTES)?;
    assert_eq!(
        usize::try_from(u32::from_be_bytes(back_pointer.try_into().unwrap())).unwrap(),
        end,
        "back pointer"
    );
    let kind = match header[0] {
        8 => Kind::Audio,
        9 => Kind::Video,
        18 => Kind::Script,
        other => panic!("FLV tag type {other}"),
    };
    let timestamp = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
    let tag = Tag {
        kind,
        timestamp_ms: timestamp.into(),
        body: input[TAG_HEADER_BYTES..end].to_vec(),
    };
    Some((tag, end + BACK_POINTER_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixture_reads_the_same_in_any_cut() {
        let bytes = std::fs::read(crate::fixture("source.flv")).unwrap();
        let whole = read_file(&crate::fixture("source.flv"));
        let mut reader = Reader::default();
        let pieces: Vec<Tag> = bytes
            .chunks(7)
            .flat_map(|chunk| reader.push(chunk))
            .collect();
        assert_eq!(pieces, whole);
        assert_eq!(whole.iter().filter(|tag| tag.is_keyframe()).count(), 10);
        let presented_later = packets(&whole)
            .into_iter()
            .filter(|packet| packet.pts_ms != packet.dts_ms);
        assert!(presented_later.count() > 100, "the fixture has B-frames");
    }
}
