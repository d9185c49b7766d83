//! FLV bodies.

use bytes::Bytes;
use media::{Frame, FrameKind, flv};

use crate::script::Script;

/// The first byte says which kind of body the rest is.
pub(crate) fn flv(data: &[u8]) {
    let mut script = Script::new(data);
    let kind = match script.u8() % 3 {
        0 => FrameKind::Audio,
        1 => FrameKind::Video,
        _ => FrameKind::Script,
    };
    let body = Bytes::copy_from_slice(script.rest());
    let frame = flv::parse(kind, 0, body.clone());
    if let Ok(frame) = &frame {
        parts_lie_within_the_body(frame);
    }
    let passed = flv::parse_or_opaque(kind, 0, body.clone());
    assert_eq!(passed.body, body, "bodies are never changed");
    assert_eq!(
        passed.parts,
        frame.map(|frame| frame.parts).unwrap_or_default()
    );
    let played = flv::player_body(&passed);
    assert!(body.ends_with(&played));
    flv::metadata(&passed);
    assert!(flv::tag_header(kind, 0, body.len()).is_some());
}

fn parts_lie_within_the_body(frame: &Frame) {
    assert!(frame.parts.len() <= flv::TRACKS_PER_MESSAGE_MAX);
    let mut end = 0;
    for part in &frame.parts {
        let offset = usize::try_from(part.offset).unwrap();
        assert!(offset >= end, "parts overlap: {:?}", frame.parts);
        end = offset + usize::try_from(part.length).unwrap();
        assert!(
            end <= frame.body.len(),
            "{part:?} of {} bytes",
            frame.body.len()
        );
    }
}
