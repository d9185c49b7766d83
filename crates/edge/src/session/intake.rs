//! What of an encoder's media goes on: what nobody could decode is dropped and counted, what no encoder does in good
//! faith ends the session. Bytes are never changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use media::{
    Frame, FrameKind, Part, PartType, Track, TrackId, Tracks,
    codec::{
        self,
        nalu::{self, NaluError},
    },
    flv::{self, METADATA_BYTES_MAX},
};
use registry::{LeaseStats, LeaseTrack};
use tokio::time::Instant;

/// How long coded media may come without the sequence header that it needs.
const HEADER_WAIT: Duration = Duration::from_secs(10);
/// In what time changes are counted.
const CHANGE_PERIOD: Duration = Duration::from_secs(10);
/// Most headers and codecs of one track in that time.
const TRACK_CHANGES_MAX: u32 = 10;
/// Most metadata of a session in that time, colour and channel layouts of all tracks included.
const METADATA_MAX: u32 = 100;

/// One session's media.
#[derive(Default)]
pub(super) struct Intake {
    tracks: Tracks,
    changes: BTreeMap<TrackId, Counted>,
    metadata: Counted,
    /// Since when coded media of a track waits for its sequence header.
    waiting: BTreeMap<TrackId, Instant>,
    /// Why frames were dropped or set right so far.
    noted: BTreeSet<&'static str>,
}

/// Why a frame does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The session goes on without it.
    Dropped(&'static str),
    /// The session is over.
    Fault(MediaFault),
}

/// What is wrong with an encoder's media as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaFault {
    /// Start codes where RTMP has lengths.
    AnnexB,
    /// A track's headers or codecs change all the time.
    HeaderRate,
    /// Coded media whose sequence header does not come.
    NoSequenceHeader,
}

impl MediaFault {
    /// A stable word for metrics and logs.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::AnnexB => "annex_b",
            Self::HeaderRate => "header_rate",
            Self::NoSequenceHeader => "no_sequence_header",
        }
    }

    /// What the encoder is told.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::AnnexB => {
                "The video has Annex B start codes (00 00 00 01); RTMP takes NAL units with a length before each"
            }
            Self::HeaderRate => "The codec configuration changes more than 10 times in 10 seconds",
            Self::NoSequenceHeader => {
                "Media came for 10 seconds without the sequence header that its codec needs"
            }
        }
    }
}

impl Intake {
    pub(super) fn tracks(&self) -> &Tracks {
        &self.tracks
    }

    /// Takes a frame, or says why it does not go on. The tracks that began, changed or ended with it.
    pub(super) fn take(&mut self, frame: &Frame, now: Instant) -> Result<Vec<TrackId>, Refused> {
        if frame.kind == FrameKind::Script {
            return self.take_script(frame, now);
        }
        if !self.tracks.has_room_for(frame) {
            return Err(Refused::Dropped("tracks"));
        }
        for part in &frame.parts {
            if part.part_type == PartType::Coded {
                self.check_coded(frame, part, now)?;
            }
        }
        // The usual frame ends here.
        if !self.tracks.changed_by(frame) {
            return Ok(Vec::new());
        }
        let metadata = |part: &Part| part.part_type == PartType::Metadata;
        if frame.parts.iter().any(metadata) {
            self.count_metadata(now)?;
        }
        let changed = self.tracks.update(frame);
        for id in &changed {
            let Some(track) = self.tracks.get(*id) else {
                continue;
            };
            if frame.parts.iter().any(metadata) {
                continue;
            }
            let changes = self.changes.entry(*id).or_default();
            if changes.count(now) > TRACK_CHANGES_MAX {
                return Err(Refused::Fault(MediaFault::HeaderRate));
            }
            if start_codes(track) {
                return Err(Refused::Fault(MediaFault::AnnexB));
            }
        }
        Ok(changed)
    }

    /// Whether this is the first frame that was dropped or set right for this reason: the log tells of one, metrics count the
    /// rest.
    pub(super) fn is_first(&mut self, reason: &'static str) -> bool {
        self.noted.insert(reason)
    }

    /// Whether any coded part of a frame lacks the sequence header that it needs.
    pub(super) fn awaits_header(&self, frame: &Frame) -> bool {
        let coded = |part: &&Part| part.part_type == PartType::Coded;
        let mut parts = frame.parts.iter().filter(coded);
        parts.any(|part| !self.is_decodable(frame.kind, part))
    }

    fn is_decodable(&self, kind: FrameKind, part: &Part) -> bool {
        match self.track(kind, part) {
            Some(track) => track.decodable(),
            None => !codec::needs_header(part.codec),
        }
    }

    /// The track that a part is of.
    fn track(&self, kind: FrameKind, part: &Part) -> Option<&Track> {
        let track = self.tracks.get((kind, part.track));
        track.filter(|track| track.codec == part.codec)
    }

    fn take_script(&mut self, frame: &Frame, now: Instant) -> Result<Vec<TrackId>, Refused> {
        if flv::metadata(frame) {
            if frame.body.len() > METADATA_BYTES_MAX {
                return Err(Refused::Dropped("metadata_too_large"));
            }
            self.count_metadata(now)?;
        }
        Ok(Vec::new())
    }

    fn count_metadata(&mut self, now: Instant) -> Result<(), Refused> {
        if self.metadata.count(now) > METADATA_MAX {
            return Err(Refused::Dropped("metadata_rate"));
        }
        Ok(())
    }

    fn check_coded(&mut self, frame: &Frame, part: &Part, now: Instant) -> Result<(), Refused> {
        let id = (frame.kind, part.track);
        if !self.is_decodable(frame.kind, part) {
            let since = *self.waiting.entry(id).or_insert(now);
            return Err(if now.duration_since(since) > HEADER_WAIT {
                Refused::Fault(MediaFault::NoSequenceHeader)
            } else {
                Refused::Dropped("no_sequence_header")
            });
        }
        if !self.waiting.is_empty() {
            self.waiting.remove(&id);
        }
        // What a header that could not be read has announced is not known.
        let track = self.track(frame.kind, part);
        let configuration = track.and_then(|track| track.configuration.as_ref());
        if let Some(length_bytes) = configuration.and_then(|known| known.nalu_length_bytes) {
            nalu::check(part.payload(&frame.body), length_bytes).map_err(|error| match error {
                NaluError::AnnexB => Refused::Fault(MediaFault::AnnexB),
                NaluError::Empty | NaluError::Overrun | NaluError::TooMany => {
                    Refused::Dropped(error.reason())
                }
            })?;
        }
        Ok(())
    }

    /// What `sessions list` says of the tracks.
    pub(super) fn note(&self, stats: &mut LeaseStats) {
        stats.tracks = self.tracks.iter().map(lease_track).collect();
        let first = self.tracks.get((FrameKind::Video, 0));
        let dimensions = first
            .and_then(|track| track.configuration.as_ref())
            .and_then(|known| known.dimensions);
        (stats.width, stats.height) = dimensions.map_or((0, 0), |it| (it.width, it.height));
        for (kind, codec) in [
            (FrameKind::Audio, &mut stats.audio_codec),
            (FrameKind::Video, &mut stats.video_codec),
        ] {
            if let Some(track) = self.tracks.get((kind, 0)) {
                *codec = track.codec.to_string();
            }
        }
    }
}

/// A header that is a parameter set behind a start code, not a record.
fn start_codes(track: &Track) -> bool {
    let header = track.header.as_deref().unwrap_or_default();
    matches!(&track.codec.0, b"avc1" | b"hvc1" | b"vvc1")
        && track.malformed.is_some()
        && (header.starts_with(&[0, 0, 0, 1]) || header.starts_with(&[0, 0, 1]))
}

fn lease_track(((kind, id), track): (TrackId, &Track)) -> LeaseTrack {
    let configuration = track.configuration.clone().unwrap_or_default();
    let number = |value: Option<u8>| value.unwrap_or_default().into();
    let dimensions = configuration.dimensions;
    let frame_rate = configuration.frame_rate;
    LeaseTrack {
        video: kind == FrameKind::Video,
        id,
        codec: track.codec.to_string(),
        codec_string: configuration.codec_string,
        profile: number(configuration.profile),
        level: number(configuration.level),
        width: dimensions.map_or(0, |dimensions| dimensions.width),
        height: dimensions.map_or(0, |dimensions| dimensions.height),
        frame_rate: frame_rate.map_or((0, 0), |rate| (rate.numerator, rate.denominator)),
        bit_depth: number(configuration.bit_depth),
        transfer_characteristics: number(configuration.transfer_characteristics),
        sample_rate: configuration.sample_rate.unwrap_or_default(),
        channels: number(configuration.channels),
    }
}

/// How often something happened in the current period.
#[derive(Default)]
struct Counted {
    since: Option<Instant>,
    count: u32,
}

impl Counted {
    fn count(&mut self, now: Instant) -> u32 {
        let since = *self.since.get_or_insert(now);
        if now.duration_since(since) > CHANGE_PERIOD {
            (self.since, self.count) = (Some(now), 0);
        }
        self.count = self.count.saturating_add(1);
        self.count
    }
}

#[cfg(test)]
mod tests;
