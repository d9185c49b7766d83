//! Where frames are in one player's time, and which headers it needs before them.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use media::{
    Frame, FrameKind, PartType,
    log::{Entry, Header},
};

/// One player's time.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// What stands at the player's zero, in output milliseconds; `None` before the first frame.
    base_ms: Option<i64>,
    /// Due before the next frame.
    headers: Vec<Frame>,
    /// The last frame's session, and the frame of it that comes next.
    next: Option<(Arc<str>, u64)>,
    /// The sequence headers that the player has.
    had: BTreeMap<(FrameKind, u8), Bytes>,
}

/// A stream that is this young keeps its own time: it starts near zero anyway.
const YOUNG_MS: i64 = 1000;
/// A player that joins late starts at this, not at zero: audio that belongs to the keyframe may be a little earlier.
const REBASE_MARGIN_MS: i64 = 500;

impl Timeline {
    /// What a decoder needs before the frames that follow. One that has had every frame so far has that too.
    pub(super) fn header(&mut self, header: Header) {
        let next = (header.session_id, header.sequence);
        if self.next.as_ref() == Some(&next) {
            return;
        }
        self.headers = header.headers.into_iter().map(|(_, frame)| frame).collect();
    }

    /// Headers that are due.
    pub(super) fn headers(&self) -> &[Frame] {
        &self.headers
    }

    /// Whether a frame has come.
    pub(super) fn has_begun(&self) -> bool {
        self.base_ms.is_some()
    }

    /// Gives each frame with its time to `put`, the headers that are due first.
    pub(super) fn lay(&mut self, entries: &[Entry], mut put: impl FnMut(&Frame, i64)) {
        let Some(first) = entries.first() else {
            return;
        };
        let first_ms = first.frame.timestamp_ms;
        let base_ms = *self.base_ms.get_or_insert_with(|| {
            if (0..=YOUNG_MS).contains(&first_ms) {
                0
            } else {
                first_ms.saturating_sub(REBASE_MARGIN_MS)
            }
        });
        for frame in std::mem::take(&mut self.headers) {
            if self.is_news(&frame) {
                put(&frame, first_ms.saturating_sub(base_ms));
            }
        }
        for Entry { frame, .. } in entries {
            if self.is_news(frame) {
                put(frame, frame.timestamp_ms.saturating_sub(base_ms));
            }
        }
        self.next = entries.last().map(|last| {
            let session_id = Arc::clone(&last.session_id);
            (session_id, last.sequence.saturating_add(1))
        });
    }

    /// Everything but a sequence header that the player has: a publisher that comes back begins with its own, and players
    /// set their decoders up anew with each.
    fn is_news(&mut self, frame: &Frame) -> bool {
        let track = |track| (frame.kind, track);
        let had = |part: &media::Part| {
            part.part_type == PartType::SequenceHeader
                && self.had.get(&track(part.track)) == Some(&frame.body)
        };
        if !frame.parts.is_empty() && frame.parts.iter().all(had) {
            return false;
        }
        for part in &frame.parts {
            match part.part_type {
                PartType::SequenceHeader => {
                    self.had.insert(track(part.track), frame.body.clone());
                }
                PartType::SequenceEnd => {
                    self.had.remove(&track(part.track));
                }
                PartType::Coded | PartType::Metadata => {}
            }
        }
        true
    }
}
