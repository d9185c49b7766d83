//! An FLV file as a list of messages.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::{Buf, Bytes};
use rtmp::MediaKind;

/// Largest file that is taken into memory, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024 * 1024;
const TAG_HEADER_BYTES: usize = 11;
const PREVIOUS_TAG_SIZE_BYTES: usize = 4;
/// AMF0 of the name in front of `onMetaData` when an encoder publishes.
const SET_DATA_FRAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
const ON_METADATA: &[u8] = b"\x02\x00\x0aonMetaData";

/// One tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(super) kind: MediaKind,
    pub(super) timestamp_ms: u32,
    pub(super) body: Bytes,
}

/// Reads the whole file; the tags share its memory.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Tag>> {
    let context = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(context)?.len();
    if length > FILE_BYTES_MAX {
        bail!("{} is longer than {FILE_BYTES_MAX} bytes", path.display());
    }
    let file = Bytes::from(std::fs::read(path).with_context(context)?);
    let tags = parse(file).with_context(|| format!("{} is no FLV file", path.display()))?;
    if tags.is_empty() {
        bail!("{} has no media", path.display());
    }
    Ok(tags)
}

/// A last tag that was cut off is left out, as players do.
fn parse(mut file: Bytes) -> anyhow::Result<Vec<Tag>> {
    if !file.starts_with(b"FLV\x01") || file.len() < 13 {
        bail!("it does not begin with FLV version 1");
    }
    let header = file.slice(5..9).get_u32();
    let start = usize::try_from(header)? + PREVIOUS_TAG_SIZE_BYTES;
    if file.len() < start {
        bail!("its header is longer than the file");
    }
    file.advance(start);
    let mut tags = Vec::new();
    while file.len() >= TAG_HEADER_BYTES {
        let tag_type = file.get_u8();
        let length = usize::try_from(file.get_uint(3))?;
        let low = file.get_uint(3);
        let timestamp_ms = u32::try_from(u64::from(file.get_u8()) << 24 | low)?;
        file.advance(3);
        if file.len() < length {
            break;
        }
        let body = file.split_to(length);
        file.advance(PREVIOUS_TAG_SIZE_BYTES.min(file.len()));
        let (kind, body) = match tag_type {
            8 => (MediaKind::Audio, body),
            9 => (MediaKind::Video, body),
            18 => (MediaKind::Script, as_published(body)),
            _ => continue,
        };
        tags.push(Tag {
            kind,
            timestamp_ms,
            body,
        });
    }
    Ok(tags)
}

/// A file has `onMetaData` alone.
fn as_published(body: Bytes) -> Bytes {
    if body.starts_with(ON_METADATA) {
        [SET_DATA_FRAME, &body].concat().into()
    } else {
        body
    }
}

#[cfg(test)]
mod tests {
    use media::{FrameKind, flv};

    use super::*;

    fn file(tags: &[(FrameKind, i64, &[u8])]) -> Vec<u8> {
        let mut file = flv::file_header(true, true).to_vec();
        for (kind, timestamp_ms, body) in tags {
            file.extend(flv::tag_header(*kind, *timestamp_ms, body.len()).unwrap());
            file.extend(*body);
            file.extend(flv::previous_tag_size(body.len()));
        }
        file
    }

    #[test]
    fn tags_come_out_as_they_went_in_and_metadata_as_encoders_send_it() {
        let metadata = [ON_METADATA, b"\x05"].concat();
        let bytes = file(&[
            (FrameKind::Script, 0, &metadata),
            (FrameKind::Video, 0x0102_0304, b"video"),
            (FrameKind::Audio, 7, b""),
        ]);
        let tags = parse(bytes.clone().into()).unwrap();
        assert_eq!(tags.len(), 3);
        assert!(tags[0].body.starts_with(SET_DATA_FRAME) && tags[0].body.ends_with(&metadata));
        assert_eq!(
            (tags[1].kind, tags[1].timestamp_ms, &tags[1].body[..]),
            (MediaKind::Video, 0x0102_0304, &b"video"[..])
        );
        assert_eq!((tags[2].kind, tags[2].body.len()), (MediaKind::Audio, 0));

        // Cut anywhere, it is shorter or refused; it never panics.
        for length in 0..bytes.len() {
            if let Ok(cut) = parse(bytes[..length].to_vec().into()) {
                assert!(tags.starts_with(&cut), "{length}");
            }
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert!(parse(Bytes::from_static(b"RIFF....WAVE....")).is_err());
        assert!(parse(Bytes::from_static(b"FLV\x01\x05\xff\xff\xff\xff\0\0\0\0")).is_err());
    }
}
