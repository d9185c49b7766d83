//! Frames of one session, one after the other, through its tracks.

use bytes::Bytes;
use media::{FrameKind, Tracks, flv, timestamp::COMPOSITION_OFFSET_MS_MAX, tracks::TRACKS_MAX};

use crate::script::Script;

/// A kind and a counted body, again and again; a session's headers first, so that there is something to hold media against.
pub(crate) fn tracks(data: &[u8]) {
    let mut script = Script::new(data);
    let mut tracks = Tracks::default();
    while let Some(kind) = script.next() {
        let kind = match kind % 3 {
            0 => FrameKind::Audio,
            1 => FrameKind::Video,
            _ => FrameKind::Script,
        };
        let body = Bytes::copy_from_slice(script.counted());
        let mut frame = flv::parse_or_opaque(kind, 0, body.clone());
        tracks.correct(&mut frame);
        assert_eq!(frame.body, body, "bodies are never changed");
        for part in &frame.parts {
            let offset_ms = part.composition_offset_ms.abs();
            assert!(offset_ms <= COMPOSITION_OFFSET_MS_MAX, "{part:?}");
        }
        assert_eq!(tracks.correct(&mut frame), [], "once is enough");
        let expected = tracks.changed_by(&frame);
        let changed = tracks.update(&frame);
        assert!(expected || changed.is_empty(), "{frame:?}");
    }
    for kind in [FrameKind::Audio, FrameKind::Video] {
        let of_kind = tracks.iter().filter(|((of, _), _)| *of == kind);
        assert!(of_kind.count() <= TRACKS_MAX);
    }
    let kept = tracks.charged_bytes();
    let bound = data.len() + 2 * TRACKS_MAX * size_of::<media::Track>();
    assert!(kept <= bound, "{kept} bytes of {}", data.len());
}
