//! Where a decoder can start: one rule for the edge's replay ring and the origin's log.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{Frame, FrameKind, PartType};

/// Tells the random-access points among one session's frames: keyframes of the lowest video track. Where there is no
/// video, or it has paused, any coded audio is one.
#[derive(Clone, Debug)]
pub struct RandomAccess {
    /// Without video for longer than this, audio counts.
    video_pause: Duration,
    /// Video tracks that have begun and not ended.
    video_tracks: BTreeSet<u8>,
    /// When video came last; before any came, when the session's first frame did.
    video_seen: Option<Instant>,
}

impl RandomAccess {
    /// Of a session that begins.
    pub fn new(video_pause: Duration) -> Self {
        Self {
            video_pause,
            video_tracks: BTreeSet::new(),
            video_seen: None,
        }
    }

    /// Learns the tracks of a frame that is no point to start at: a header from before the first frame here.
    pub fn note_tracks(&mut self, frame: &Frame) {
        if frame.kind != FrameKind::Video {
            return;
        }
        for part in &frame.parts {
            match part.part_type {
                PartType::Coded | PartType::SequenceHeader => {
                    self.video_tracks.insert(part.track);
                }
                PartType::SequenceEnd => {
                    self.video_tracks.remove(&part.track);
                }
                PartType::Metadata => {}
            }
        }
    }

    /// Takes the session's next frame: whether a decoder can start at it.
    pub fn opens_at(&mut self, frame: &Frame, now: Instant) -> bool {
        self.note_tracks(frame);
        if frame.kind == FrameKind::Video {
            self.video_seen = Some(now);
        }
        let silence = now.saturating_duration_since(*self.video_seen.get_or_insert(now));
        match (frame.kind, self.video_tracks.first()) {
            (FrameKind::Video, Some(lowest)) => frame
                .parts
                .iter()
                .any(|part| part.keyframe && part.track == *lowest),
            (FrameKind::Audio, lowest) if lowest.is_none() || silence > self.video_pause => {
                frame.coded()
            }
            _ => false,
        }
    }
}
