//! What a decoder needs before the first frame: latest metadata, and every track's sequence header and configuration.

use crate::{Frame, FrameKind, Part, PartType, Tracks, flv};

/// Longest sequence header that is kept for late joiners, in bytes.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Most frames that are kept for late joiners: metadata, and two per track of 16 video and 16 audio tracks.
pub const HEADERS_MAX: usize = 65;
/// Most bytes of all of them together: they fit one gRPC message.
pub const HEADERS_BYTES_MAX: usize = 512 * 1024;

/// The latest of each, in the publisher's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Headers {
    frames: Vec<Cached>,
    tracks: Tracks,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Cached {
    sequence: u64,
    frame: Frame,
    /// What this frame is the latest of; a frame that is not the latest of anything leaves.
    subjects: Vec<Subject>,
}

/// What a header is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Configuration(FrameKind, u8),
    Metadata,
    SequenceHeader(FrameKind, u8),
}

impl Headers {
    /// What keeping them costs, in bytes: bodies, which may have left the log, and bookkeeping.
    pub(super) fn charged_bytes(&self) -> usize {
        let frames: usize = self.frames.iter().map(Cached::charged_bytes).sum();
        frames.saturating_add(self.tracks.charged_bytes())
    }

    pub(super) fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    pub(super) fn to_vec(&self) -> Vec<(u64, Frame)> {
        self.frames
            .iter()
            .map(|cached| (cached.sequence, cached.frame.clone()))
            .collect()
    }

    /// Whether [`update`](Self::update) would change anything: asked first, because the headers are shared.
    pub(super) fn changed_by(&self, frame: &Frame) -> bool {
        if self.tracks.changed_by(frame) {
            return true;
        }
        let subjects = subjects(frame);
        if !subjects.is_empty() {
            // Some encoders repeat the same header with every keyframe.
            return !self
                .frames
                .iter()
                .any(|cached| cached.subjects == subjects && cached.frame.body == frame.body);
        }
        self.frames
            .iter()
            .any(|cached| cached.subjects.iter().any(|s| ended_by(s, frame)))
    }

    /// Whether a header from before the first frame is news: nothing later about the same is known.
    pub(super) fn accepts_seed(&self, sequence: u64, frame: &Frame) -> bool {
        let subjects = subjects(frame);
        !subjects.is_empty()
            && !self.frames.iter().any(|cached| {
                cached.sequence >= sequence && cached.subjects.iter().any(|s| subjects.contains(s))
            })
    }

    pub(super) fn update(&mut self, sequence: u64, frame: &Frame) {
        self.tracks.update(frame);
        let subjects = subjects(frame);
        for cached in &mut self.frames {
            cached
                .subjects
                .retain(|subject| !subjects.contains(subject) && !ended_by(subject, frame));
        }
        self.frames.retain(|cached| !cached.subjects.is_empty());
        let bytes: usize = self.frames.iter().map(|c| c.frame.body.len()).sum();
        let room = self.frames.len() < HEADERS_MAX
            && bytes.saturating_add(frame.body.len()) <= HEADERS_BYTES_MAX;
        if !subjects.is_empty() && room {
            let behind = self
                .frames
                .partition_point(|cached| cached.sequence < sequence);
            self.frames.insert(
                behind,
                Cached {
                    sequence,
                    frame: frame.clone(),
                    subjects,
                },
            );
        }
    }
}

impl Cached {
    fn charged_bytes(&self) -> usize {
        let parts = self.frame.parts.len().saturating_mul(size_of::<Part>());
        let subjects = self.subjects.len().saturating_mul(size_of::<Subject>());
        self.frame
            .body
            .len()
            .saturating_add(parts)
            .saturating_add(subjects)
            .saturating_add(size_of::<Self>())
    }
}

/// Empty for everything that is not kept.
fn subjects(frame: &Frame) -> Vec<Subject> {
    if frame.kind == FrameKind::Script {
        let kept = flv::metadata(frame) && frame.body.len() <= flv::METADATA_BYTES_MAX;
        return if kept {
            vec![Subject::Metadata]
        } else {
            Vec::new()
        };
    }
    if frame.body.len() > HEADER_BYTES_MAX {
        return Vec::new();
    }
    frame
        .parts
        .iter()
        .filter_map(|part| match part.part_type {
            PartType::Metadata => Some(Subject::Configuration(frame.kind, part.track)),
            PartType::SequenceHeader => Some(Subject::SequenceHeader(frame.kind, part.track)),
            PartType::Coded | PartType::SequenceEnd => None,
        })
        .collect()
}

/// A track's sequence end voids its headers.
fn ended_by(subject: &Subject, frame: &Frame) -> bool {
    let (Subject::Configuration(kind, track) | Subject::SequenceHeader(kind, track)) = *subject
    else {
        return false;
    };
    kind == frame.kind
        && frame
            .parts
            .iter()
            .any(|part| part.part_type == PartType::SequenceEnd && part.track == track)
}
