//! The tracks of a session: which there are, and what their headers say. One table for the edge and the origin's log.
//!
//! A legacy body, an Enhanced RTMP body without multitrack, and multitrack id 0 are the same track 0.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    FourCc, Frame, FrameKind, Part, PartType,
    codec::{
        self, CodecConfiguration, CodecError, channels, colour,
        random_access::{self, AccessUnit},
    },
    log::HEADER_BYTES_MAX,
    timestamp::COMPOSITION_OFFSET_MS_MAX,
};

/// Most tracks of audio, and most of video.
pub const TRACKS_MAX: usize = 16;

/// Audio and video track ids are separate namespaces.
pub type TrackId = (FrameKind, u8);

/// One track, as far as its headers have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Track {
    /// The codec; another one on the same id is another track.
    pub codec: FourCc,
    /// The timestamp of the frame that it began with, in milliseconds.
    pub since_ms: i64,
    /// Payload of the latest sequence header; an empty one is none.
    pub header: Option<Bytes>,
    /// Payload of the latest colour information or channel layout.
    pub metadata: Option<Bytes>,
    /// What header, metadata and, where the codec's header does not say it, coded media tell.
    pub configuration: Option<CodecConfiguration>,
    /// Why the header tells nothing.
    pub malformed: Option<CodecError>,
    /// What header or coded media told.
    declared: Option<CodecConfiguration>,
}

/// What was set right in a frame's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Correction {
    /// A composition time beyond [`COMPOSITION_OFFSET_MS_MAX`].
    CompositionTime,
    /// A keyframe that is none, or one that is not flagged.
    Keyframe,
}

impl Correction {
    /// A stable word for metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::CompositionTime => "composition_time",
            Self::Keyframe => "keyframe",
        }
    }
}

/// All tracks of a session that have begun and not ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracks {
    tracks: BTreeMap<TrackId, Track>,
}

impl Tracks {
    /// By kind and id.
    pub fn iter(&self) -> impl Iterator<Item = (TrackId, &Track)> {
        self.tracks.iter().map(|(id, track)| (*id, track))
    }

    /// One of them.
    pub fn get(&self, id: TrackId) -> Option<&Track> {
        self.tracks.get(&id)
    }

    /// Whether a frame's tracks are known, or may begin.
    pub fn has_room_for(&self, frame: &Frame) -> bool {
        let begins = |part: &&Part| {
            part.part_type != PartType::SequenceEnd
                && !self.tracks.contains_key(&(frame.kind, part.track))
        };
        let mut fresh: Vec<_> = frame.parts.iter().filter(begins).map(|p| p.track).collect();
        fresh.sort_unstable();
        fresh.dedup();
        fresh.is_empty() || self.count(frame.kind).saturating_add(fresh.len()) <= TRACKS_MAX
    }

    fn count(&self, kind: FrameKind) -> usize {
        self.tracks.keys().filter(|(of, _)| *of == kind).count()
    }

    /// Sets right what a frame's index says against all sense or against its access units. The body stays as it came: whoever
    /// plays it reads it as the encoder wrote it.
    pub fn correct(&self, frame: &mut Frame) -> Vec<Correction> {
        let mut corrections = Vec::new();
        for part in &mut frame.parts {
            if part.part_type != PartType::Coded || frame.kind != FrameKind::Video {
                continue;
            }
            let believed = part
                .composition_offset_ms
                .clamp(-COMPOSITION_OFFSET_MS_MAX, COMPOSITION_OFFSET_MS_MAX);
            if believed != part.composition_offset_ms {
                part.composition_offset_ms = believed;
                corrections.push(Correction::CompositionTime);
            }
            let track = self.get((frame.kind, part.track));
            let configuration = track
                .filter(|track| track.codec == part.codec)
                .and_then(|track| track.configuration.as_ref());
            let nalu_length_bytes = configuration.and_then(|known| known.nalu_length_bytes);
            let payload = part.payload(&frame.body);
            let keyframe = match random_access::look(part.codec, payload, nalu_length_bytes) {
                AccessUnit::Dependent => false,
                AccessUnit::RandomAccess => true,
                AccessUnit::Undecided => part.keyframe,
            };
            if keyframe != part.keyframe {
                part.keyframe = keyframe;
                corrections.push(Correction::Keyframe);
            }
        }
        corrections
    }

    /// Whether [`update`](Self::update) would change anything: cheap where it would not.
    pub fn changed_by(&self, frame: &Frame) -> bool {
        frame
            .parts
            .iter()
            .any(|part| self.changed_by_part(frame, part))
    }

    fn changed_by_part(&self, frame: &Frame, part: &Part) -> bool {
        let payload = || part.payload(&frame.body);
        let Some(track) = self.tracks.get(&(frame.kind, part.track)) else {
            return part.part_type != PartType::SequenceEnd && self.count(frame.kind) < TRACKS_MAX;
        };
        match part.part_type {
            PartType::SequenceEnd => true,
            // FFmpeg sends the colour of every track without an id: what is another codec's is not this track's.
            PartType::Metadata => {
                track.codec == part.codec && track.metadata.as_deref() != Some(payload())
            }
            PartType::Coded | PartType::SequenceHeader if track.codec != part.codec => true,
            PartType::Coded => track.told_by(part, &frame.body).is_some(),
            PartType::SequenceHeader => {
                let payload = payload();
                !payload.is_empty() && track.header.as_deref() != Some(payload)
            }
        }
    }

    /// Takes what a frame tells. The tracks that began, changed or ended; metadata that tells nothing new is no change.
    pub fn update(&mut self, frame: &Frame) -> Vec<TrackId> {
        let mut changed = Vec::new();
        for part in &frame.parts {
            if !self.changed_by_part(frame, part) {
                continue;
            }
            let id = (frame.kind, part.track);
            if part.part_type == PartType::SequenceEnd {
                self.tracks.remove(&id);
            } else {
                if self.get(id).is_some_and(|track| track.codec != part.codec) {
                    self.tracks.remove(&id);
                }
                let began = !self.tracks.contains_key(&id);
                let track = self
                    .tracks
                    .entry(id)
                    .or_insert_with(|| Track::begin(part.codec, frame.timestamp_ms));
                let before = track.configuration.take();
                track.note(part, frame);
                let told = began || track.configuration != before;
                if part.part_type == PartType::Metadata && !told {
                    continue;
                }
            }
            changed.push(id);
        }
        changed
    }

    /// What keeping them costs, in bytes.
    pub fn charged_bytes(&self) -> usize {
        let payload = |payload: &Option<Bytes>| payload.as_ref().map_or(0, Bytes::len);
        let tracks = self.tracks.values();
        tracks
            .map(|track| {
                payload(&track.header)
                    .saturating_add(payload(&track.metadata))
                    .saturating_add(size_of::<Track>())
            })
            .sum()
    }
}

impl Track {
    fn begin(codec: FourCc, since_ms: i64) -> Self {
        Self {
            codec,
            since_ms,
            header: None,
            metadata: None,
            configuration: None,
            malformed: None,
            declared: None,
        }
    }

    /// Whether coded media means something: its header has come, or its codec does without.
    pub fn decodable(&self) -> bool {
        self.header.is_some() || !codec::needs_header(self.codec)
    }

    fn note(&mut self, part: &Part, frame: &Frame) {
        let payload = part.payload(&frame.body);
        // A buffer of its own: a slice would keep the whole body.
        let kept = || Some(Bytes::copy_from_slice(payload)).filter(|kept| !kept.is_empty());
        match part.part_type {
            PartType::Coded => {
                if let Some(told) = self.told_by(part, &frame.body) {
                    self.declared = Some(told);
                }
            }
            PartType::Metadata => self.metadata = kept(),
            PartType::SequenceEnd => {}
            // Opus alone says something without one.
            PartType::SequenceHeader if payload.is_empty() => {
                self.declared = codec::parse(self.codec, payload).ok();
            }
            PartType::SequenceHeader => {
                self.header = kept();
                let parsed = if payload.len() > HEADER_BYTES_MAX {
                    Err(CodecError::Limit {
                        field: "sequence header",
                    })
                } else {
                    codec::parse(self.codec, payload)
                };
                self.malformed = parsed.as_ref().err().copied();
                self.declared = parsed.ok();
            }
        }
        self.configuration = self.configuration();
    }

    /// What coded media tells beyond what is known.
    fn told_by(&self, part: &Part, body: &[u8]) -> Option<CodecConfiguration> {
        let known = self.declared.as_ref();
        let asked = match &self.codec.0 {
            // Their headers have no size, and every keyframe may have another.
            b"vp08" | b"vp09" => part.keyframe,
            b"av01" => part.keyframe && known.is_none_or(|known| known.dimensions.is_none()),
            _ => known.is_none(),
        };
        if !asked {
            return None;
        }
        let told = codec::probe(self.codec, part.payload(body))?;
        let told = match known {
            // The header says more of the codec.
            Some(known) => CodecConfiguration {
                dimensions: told.dimensions,
                ..known.clone()
            },
            None => told,
        };
        (known != Some(&told)).then_some(told)
    }

    /// What was declared, completed by the metadata.
    fn configuration(&self) -> Option<CodecConfiguration> {
        let mut configuration = self.declared.clone()?;
        let metadata = self.metadata.as_deref().unwrap_or_default();
        if configuration.sample_rate.is_some() {
            if configuration.channels.is_none() {
                let layout = channels::parse(metadata).ok();
                configuration.channels = layout.map(|layout| layout.channels);
            }
        } else if let Ok(Some(colour)) = colour::parse(metadata) {
            configuration.bit_depth = configuration.bit_depth.or(colour.bit_depth);
            configuration.transfer_characteristics = colour
                .transfer_characteristics
                .or(configuration.transfer_characteristics);
        }
        Some(configuration)
    }
}

#[cfg(test)]
mod tests;
