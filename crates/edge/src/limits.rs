//! What a grant holds the media to, from the compressed stream alone: nothing is decoded, no clock is read.
//!
//! Two clocks are kept, since neither is enough. By *arrival* alone a publisher that catches up behind a stall of the
//! network would seem too fast; by its own *timestamps* alone one could send whatever it likes and say that it took
//! hours. The stream's clock is the timestamps', held between [`LAG_MAX`] behind and [`LEAD_MAX`] ahead of the arrival;
//! a rate is too high where it is so by both clocks.
//!
//! Encoders are not exact, and their limits are what a person was told to set: [`BITRATE_TOLERANCE_PERCENT`],
//! [`FRAME_RATE_TOLERANCE_PERCENT`] and [`KEYFRAME_TOLERANCE_MS`] lie between a limit and the end of a session. Size,
//! codecs and containers have none.

mod window;

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    time::Duration,
};

use media::{
    FourCc, Frame, FrameKind, Part, PartType, Track, TrackId, Tracks,
    codec::{CodecConfiguration, Dimensions, FrameRate},
    flv,
};
use proto::v1::{Container, MediaLimits};
use tokio::time::Instant;

use self::window::{Meter, Moment, WINDOW_SECONDS};

/// Variable bitrate and the buffer that encoders may overdraw (a VBV of two seconds) within a window; protocol headers
/// are not counted.
const BITRATE_TOLERANCE_PERCENT: u64 = 25;
/// Frames that come a little early, over a window.
const FRAME_RATE_TOLERANCE_PERCENT: u64 = 10;
/// Encoders count an interval in frames, and round.
const KEYFRAME_TOLERANCE_MS: u64 = 500;
/// A step between two frames counts as this much of a keyframe interval at most: what the network or the encoder dropped
/// in between is no longer group of pictures.
const KEYFRAME_STEP_MS_MAX: u64 = 1_000;
/// 29.97 is declared as 30000/1001: in thousandths, what rounding may add.
const DECLARED_RATE_ROUNDING: u64 = 1;
/// What is declared beyond this is a time base (1000/1 where frames come as they like), not a rate.
const DECLARED_RATE_MAX: u64 = 300_000;
/// How far the stream's clock may stay behind: what a publisher can catch up behind a stall.
const LAG_MAX: Duration = Duration::from_secs(30);
/// How far it may be ahead: a relay begins with a group of pictures that it had in store.
const LEAD_MAX: Duration = Duration::from_secs(5);

/// One session's media, held to a grant.
pub(crate) struct Limits {
    terms: MediaLimits,
    /// The terms are new: what is known of the tracks has not been judged by them.
    unjudged: bool,
    clock: Clock,
    bytes: Meter,
    video: BTreeMap<u8, Pace>,
}

/// The limit that a session broke: what it is, and where it helps what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitFault {
    Bitrate {
        max_bps: u64,
    },
    Codec {
        codec: FourCc,
    },
    /// What it came in.
    Container {
        enhanced: bool,
    },
    FrameRate {
        max_millihertz: u32,
    },
    KeyframeInterval {
        max_ms: u32,
    },
    /// `None`: nothing that can be read tells it.
    Size {
        shown: Option<Dimensions>,
        max_width: u32,
        max_height: u32,
    },
}

/// One video track over time.
#[derive(Default)]
struct Pace {
    frames: Meter,
    last_ms: Option<i64>,
    since_keyframe_ms: u64,
}

impl Limits {
    pub(crate) fn new(terms: MediaLimits) -> Self {
        Self {
            terms,
            unjudged: false,
            clock: Clock::default(),
            bytes: Meter::default(),
            video: BTreeMap::new(),
        }
    }

    /// Other terms from now on; the next frame is judged by them, and so is everything that is known by then.
    pub(crate) fn change(&mut self, terms: MediaLimits) {
        self.terms = terms;
        self.unjudged = true;
    }

    /// A message came that goes no further: its bytes came all the same.
    pub(crate) fn dropped(&mut self, bytes: usize, now: Instant) -> Result<(), LimitFault> {
        let moment = self.clock.read(None, now);
        self.count_bytes(bytes, moment)
    }

    /// A frame came; `changed` says whether a track began, changed or ended with it.
    pub(crate) fn take(
        &mut self,
        frame: &Frame,
        (tracks, changed): (&Tracks, bool),
        now: Instant,
    ) -> Result<(), LimitFault> {
        let moment = self.clock.read(Some(frame.timestamp_ms), now);
        self.count_bytes(frame.body.len(), moment)?;
        if frame.kind == FrameKind::Script {
            return Ok(());
        }
        self.check_container(frame)?;
        if changed || std::mem::take(&mut self.unjudged) {
            self.video
                .retain(|id, _| tracks.get((FrameKind::Video, *id)).is_some());
            for (id, track) in tracks.iter() {
                self.check_track(id, track)?;
            }
        }
        if frame.kind == FrameKind::Video {
            for part in &frame.parts {
                if part.part_type == PartType::Coded {
                    self.check_video(frame, part, tracks, moment)?;
                }
            }
        }
        Ok(())
    }

    fn count_bytes(&mut self, bytes: usize, moment: Moment) -> Result<(), LimitFault> {
        let bits = u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8);
        self.bytes.add(moment, bits);
        let max_bps = self.terms.max_bitrate_bps;
        let allowed = with_tolerance(max_bps, BITRATE_TOLERANCE_PERCENT);
        if max_bps > 0 && self.bytes.sum() > allowed.saturating_mul(WINDOW_SECONDS) {
            return Err(LimitFault::Bitrate { max_bps });
        }
        Ok(())
    }

    fn check_container(&self, frame: &Frame) -> Result<(), LimitFault> {
        let allowed = &self.terms.containers;
        // Silence has no header.
        if allowed.is_empty() || frame.body.is_empty() {
            return Ok(());
        }
        let enhanced = flv::enhanced(frame);
        let container = if enhanced {
            Container::Enhanced
        } else {
            Container::Flv
        };
        if allowed.contains(&container.into()) {
            Ok(())
        } else {
            Err(LimitFault::Container { enhanced })
        }
    }

    fn check_track(&self, (kind, _): TrackId, track: &Track) -> Result<(), LimitFault> {
        let codec = track.codec;
        let allowed = match kind {
            FrameKind::Audio => &self.terms.audio_codecs,
            FrameKind::Script => return Ok(()),
            FrameKind::Video => &self.terms.video_codecs,
        };
        let name = codec.to_string();
        if !allowed.is_empty() && !allowed.iter().any(|one| one.eq_ignore_ascii_case(&name)) {
            return Err(LimitFault::Codec { codec });
        }
        match &track.configuration {
            Some(configuration) => self.check_configuration(configuration),
            None => Ok(()),
        }
    }

    fn check_configuration(&self, configuration: &CodecConfiguration) -> Result<(), LimitFault> {
        if let Some(dimensions) = configuration.dimensions {
            self.check_size(Some(dimensions))?;
        }
        let declared = configuration.frame_rate.map_or(0, millihertz);
        let max = self.terms.max_frame_rate_millihertz;
        let is_above = declared > u64::from(max).saturating_add(DECLARED_RATE_ROUNDING);
        if max > 0 && is_above && declared <= DECLARED_RATE_MAX {
            return Err(LimitFault::FrameRate {
                max_millihertz: max,
            });
        }
        Ok(())
    }

    /// `None` is what nobody can tell: more than a limit, less than none.
    fn check_size(&self, shown: Option<Dimensions>) -> Result<(), LimitFault> {
        let (max_width, max_height) = (self.terms.max_width, self.terms.max_height);
        let is_above = |length: fn(Dimensions) -> u32, max: u32| {
            max > 0 && shown.is_none_or(|shown| length(shown) > max)
        };
        if is_above(|shown| shown.width, max_width) || is_above(|shown| shown.height, max_height) {
            return Err(LimitFault::Size {
                shown,
                max_width,
                max_height,
            });
        }
        Ok(())
    }

    fn check_video(
        &mut self,
        frame: &Frame,
        part: &Part,
        tracks: &Tracks,
        moment: Moment,
    ) -> Result<(), LimitFault> {
        let pace = self.video.entry(part.track).or_default();
        pace.take(frame.timestamp_ms, part.keyframe, moment);
        let (frames, since_keyframe_ms) = (pace.frames.sum(), pace.since_keyframe_ms);
        if part.keyframe {
            // Headers and this keyframe said what they have to say.
            let track = tracks.get((FrameKind::Video, part.track));
            let configuration = track.and_then(|track| track.configuration.as_ref());
            self.check_size(configuration.and_then(|known| known.dimensions))?;
        }
        let max_millihertz = self.terms.max_frame_rate_millihertz;
        let allowed = with_tolerance(max_millihertz.into(), FRAME_RATE_TOLERANCE_PERCENT);
        if max_millihertz > 0
            && frames.saturating_mul(1000) > allowed.saturating_mul(WINDOW_SECONDS)
        {
            return Err(LimitFault::FrameRate { max_millihertz });
        }
        let max_ms = self.terms.max_keyframe_interval_ms;
        if max_ms > 0 && since_keyframe_ms > u64::from(max_ms).saturating_add(KEYFRAME_TOLERANCE_MS)
        {
            return Err(LimitFault::KeyframeInterval { max_ms });
        }
        Ok(())
    }
}

impl Pace {
    fn take(&mut self, timestamp_ms: i64, keyframe: bool, moment: Moment) {
        self.frames.add(moment, 1);
        let last_ms = self.last_ms.replace(timestamp_ms).unwrap_or(timestamp_ms);
        // Back in time is no time.
        let step_ms = u64::try_from(timestamp_ms.saturating_sub(last_ms)).unwrap_or_default();
        self.since_keyframe_ms = if keyframe {
            0
        } else {
            self.since_keyframe_ms
                .saturating_add(step_ms.min(KEYFRAME_STEP_MS_MAX))
        };
    }
}

/// The stream's clock beside ours.
#[derive(Default)]
struct Clock {
    /// When the first message came, and the first timestamp.
    started: Option<Instant>,
    first_ms: Option<i64>,
    stream_ms: u64,
}

impl Clock {
    fn read(&mut self, timestamp_ms: Option<i64>, now: Instant) -> Moment {
        let started = *self.started.get_or_insert(now);
        let arrival_ms = milliseconds(now.saturating_duration_since(started));
        let media_ms = timestamp_ms.map_or(0, |timestamp_ms| {
            let first_ms = *self.first_ms.get_or_insert(timestamp_ms);
            u64::try_from(timestamp_ms.saturating_sub(first_ms)).unwrap_or_default()
        });
        let earliest = arrival_ms.saturating_sub(milliseconds(LAG_MAX));
        let latest = arrival_ms.saturating_add(milliseconds(LEAD_MAX));
        self.stream_ms = self.stream_ms.max(media_ms.clamp(earliest, latest));
        Moment {
            arrival_ms,
            stream_ms: self.stream_ms,
        }
    }
}

impl LimitFault {
    /// A stable word for metrics, logs and reports.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Bitrate { .. } => "limit_bitrate",
            Self::Codec { .. } => "limit_codec",
            Self::Container { .. } => "limit_container",
            Self::FrameRate { .. } => "limit_frame_rate",
            Self::KeyframeInterval { .. } => "limit_keyframe_interval",
            Self::Size { .. } => "limit_size",
        }
    }
}

/// For the person at the encoder.
impl Display for LimitFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bitrate { max_bps } => {
                write!(f, "Bitrate above this key's limit of {}", bitrate(max_bps))
            }
            Self::Codec { codec } => write!(f, "This key does not take the codec {codec}"),
            Self::Container { enhanced: true } => {
                f.write_str("This key does not take Enhanced RTMP, only FLV as Adobe defined it")
            }
            Self::Container { enhanced: false } => f.write_str("This key takes Enhanced RTMP only"),
            Self::FrameRate { max_millihertz } => write!(
                f,
                "Frame rate above this key's limit of {} fps",
                decimal(max_millihertz.into(), 1_000)
            ),
            Self::KeyframeInterval { max_ms } => write!(
                f,
                "Keyframes are further apart than this key's limit of {} s",
                decimal(max_ms.into(), 1_000)
            ),
            Self::Size {
                shown,
                max_width,
                max_height,
            } => {
                match shown {
                    Some(shown) => write!(f, "Picture of {shown} above this key's limit of ")?,
                    None => f.write_str("Picture of unknown size, and this key has a limit of ")?,
                }
                match (max_width, max_height) {
                    (width, 0) => write!(f, "{width} in width"),
                    (0, height) => write!(f, "{height} in height"),
                    (width, height) => write!(f, "{width}x{height}"),
                }
            }
        }
    }
}

fn with_tolerance(limit: u64, percent: u64) -> u64 {
    limit.saturating_add(limit.saturating_mul(percent) / 100)
}

fn millihertz(rate: FrameRate) -> u64 {
    u64::from(rate.numerator).saturating_mul(1_000) / u64::from(rate.denominator.max(1))
}

fn bitrate(bps: u64) -> String {
    match bps {
        1_000_000.. => format!("{} Mb/s", decimal(bps, 1_000_000)),
        1_000.. => format!("{} kb/s", decimal(bps, 1_000)),
        _ => format!("{bps} b/s"),
    }
}

/// A value in a larger unit, without what it does not need: 2.5, 6, 29.97.
fn decimal(value: u64, unit: u64) -> String {
    let thousandths = value.saturating_mul(1_000) / unit.max(1);
    let text = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
