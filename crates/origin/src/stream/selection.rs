//! Which of a stream's two publishers readers get. Pure: the time comes in, a decision goes out.
//!
//! The one on air is left
//! - at once where it is **lost**, or **starved**: silent for `starve_after`;
//! - where its health is **worse** than the other's by more than `worse_by_percent`;
//! - for the **preferred** one, the primary.
//!
//! The last two wait until `clear_time` has passed since the last switch, and until whom they are for has been well for that
//! long. A primary that fails within its clear time after
//! its return has to be well for twice as long the next time, up to [`RELAPSES_MAX`] times: one that comes and goes causes
//! one switch per clear time at most. Nobody is left for somebody who is silent.
//!
//! **Health** is the share of the media that should have come which came, over about the last [`HEALTH_PERIOD`]: the
//! timestamps of video, or of audio where there is no video, against the clock. What a publisher holds back or leaves out
//! is missing there, whatever its bitrate.

use std::time::{Duration, Instant};

use media::FrameKind;
use registry::Slot;

use super::slots::Slots;
use crate::config::Backup;

/// Who is on air, and what is known of both.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    policy: Backup,
    on_air: Slot,
    conditions: Slots<Condition>,
    switched: Option<Instant>,
    /// When the primary came on air last, behind the backup.
    returned: Option<Instant>,
    /// How often it failed soon after that, in a row.
    relapses: u32,
}

/// What is known of one publisher.
#[derive(Clone, Copy, Debug)]
struct Condition {
    presence: Presence,
    /// When media came; before the first, when it was expected.
    heard: Instant,
    /// Since when it could be returned to.
    well: Instant,
    /// Milliseconds of media of the last [`HEALTH_PERIOD`], older ones counting less and less.
    received_ms: f64,
    /// The latest timestamps of video and audio.
    video_ms: Option<i64>,
    audio_ms: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    /// It may be about to come.
    Expected,
    Lost,
    Publishing,
}

/// Why another publisher came on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Lost,
    Preferred,
    Starved,
    Worse,
}

/// What health is about.
const HEALTH_PERIOD: Duration = Duration::from_secs(5);
/// A longer step from one timestamp to the next is a hole, which does not count as media.
const STEP_MS_MAX: i64 = 250;
/// Once nothing has been put out for this long, the other publisher's latest keyframe is taken even where readers have
/// seen what it shows: before, one that came since then.
const REPEAT_AFTER: Duration = Duration::from_millis(500);
/// How often the time that the primary has to be well doubles.
const RELAPSES_MAX: u32 = 5;

impl Selection {
    /// Nobody publishes yet; this one is waited for.
    pub(super) fn new(policy: Backup, on_air: Slot, now: Instant) -> Self {
        Self {
            policy,
            on_air,
            conditions: Slots::from_fn(|_| Condition::new(now)),
            switched: None,
            returned: None,
            relapses: 0,
        }
    }

    pub(super) fn on_air(&self) -> Slot {
        self.on_air
    }

    /// What readers get was told by another origin.
    pub(super) fn told(&mut self, on_air: Slot, now: Instant) {
        self.on_air = on_air;
        self.conditions.of_mut(on_air).heard = now;
    }

    pub(super) fn joined(&mut self, slot: Slot, now: Instant) {
        *self.conditions.of_mut(slot) = Condition {
            presence: Presence::Publishing,
            ..Condition::new(now)
        };
    }

    pub(super) fn lost(&mut self, slot: Slot) {
        self.conditions.of_mut(slot).presence = Presence::Lost;
    }

    /// Media came.
    pub(super) fn heard(&mut self, slot: Slot, kind: FrameKind, timestamp_ms: i64, now: Instant) {
        let starve_after = self.policy.starve_after;
        let condition = self.conditions.of_mut(slot);
        if now.saturating_duration_since(condition.heard) >= starve_after {
            condition.well = now;
        }
        condition.take(kind, timestamp_ms, now);
    }

    /// Whether whoever is on air has given media within this time.
    pub(super) fn is_heard(&self, within: Duration, now: Instant) -> bool {
        self.conditions.of(self.on_air).gives_or_may(now, within)
    }

    /// Whether the one on standby comes on air now, and why. `keyframe`: when its latest one came.
    pub(super) fn decide(&mut self, keyframe: Option<Instant>, now: Instant) -> Option<Reason> {
        let air = *self.conditions.of(self.on_air);
        let standby = *self.conditions.of(self.on_air.other());
        let margin = f64::from(self.policy.worse_by_percent) / 100.0;
        let lead = standby.health(now) - air.health(now);
        if lead < -margin {
            self.conditions.of_mut(self.on_air.other()).well = now;
        }
        if !standby.gives(now, self.policy.starve_after) {
            return None;
        }
        let keyframe = keyframe?;
        let reason = if air.presence == Presence::Lost {
            Reason::Lost
        } else if !air.gives_or_may(now, self.policy.starve_after) {
            Reason::Starved
        } else if keyframe != now || self.is_settling(now) || !self.has_cleared(now) {
            return None;
        } else if lead > margin {
            Reason::Worse
        } else if self.on_air == Slot::BACKUP {
            Reason::Preferred
        } else {
            return None;
        };
        let unseen = keyframe >= air.heard;
        if !unseen && now.saturating_duration_since(air.heard) < REPEAT_AFTER {
            return None;
        }
        self.switch(now);
        Some(reason)
    }

    /// Whether the last switch is too young for another one that need not be.
    fn is_settling(&self, now: Instant) -> bool {
        let since = |switched| now.saturating_duration_since(switched);
        self.switched
            .is_some_and(|switched| since(switched) < self.policy.clear_time)
    }

    /// Whether the one on standby has been well for as long as it has to be.
    fn has_cleared(&self, now: Instant) -> bool {
        let standby = self.conditions.of(self.on_air.other());
        let to_clear = match self.on_air {
            Slot::PRIMARY => self.policy.clear_time,
            _ => self.time_to_clear(),
        };
        now.saturating_duration_since(standby.well) >= to_clear
    }

    /// Of the primary.
    fn time_to_clear(&self) -> Duration {
        self.policy
            .clear_time
            .saturating_mul(1 << self.relapses.min(RELAPSES_MAX))
    }

    fn switch(&mut self, now: Instant) {
        if self.on_air == Slot::BACKUP {
            self.returned = Some(now);
        } else {
            let returned = self.returned.take();
            let relapsed = returned.is_some_and(|returned| {
                now.saturating_duration_since(returned) < self.time_to_clear()
            });
            self.relapses = if relapsed {
                self.relapses.saturating_add(1).min(RELAPSES_MAX)
            } else {
                0
            };
        }
        self.on_air = self.on_air.other();
        self.switched = Some(now);
    }
}

impl Condition {
    fn new(now: Instant) -> Self {
        Self {
            presence: Presence::Expected,
            heard: now,
            well: now,
            received_ms: HEALTH_PERIOD.as_secs_f64() * 1000.0,
            video_ms: None,
            audio_ms: None,
        }
    }

    fn take(&mut self, kind: FrameKind, timestamp_ms: i64, now: Instant) {
        let last_ms = match kind {
            FrameKind::Video => self.video_ms.replace(timestamp_ms),
            FrameKind::Audio => self.audio_ms.replace(timestamp_ms),
            FrameKind::Script => return,
        };
        let full_ms = HEALTH_PERIOD.as_secs_f64() * 1000.0;
        self.received_ms = self.health(now) * full_ms;
        self.heard = now;
        // Audio of a publisher whose video does not come is no sign of health.
        let counts = kind == FrameKind::Video || self.video_ms.is_none();
        if let Some(last_ms) = last_ms.filter(|_| counts) {
            let step_ms = timestamp_ms.saturating_sub(last_ms);
            if (1..=STEP_MS_MAX).contains(&step_ms) {
                let step_ms = f64::from(u8::try_from(step_ms).unwrap_or(u8::MAX));
                self.received_ms = (self.received_ms + step_ms).min(full_ms);
            }
        }
    }

    /// From 0 to 1.
    fn health(&self, now: Instant) -> f64 {
        let silent = now.saturating_duration_since(self.heard).as_secs_f64();
        let period = HEALTH_PERIOD.as_secs_f64();
        (self.received_ms / (period * 1000.0)) * (-silent / period).exp()
    }

    fn gives(&self, now: Instant, starve_after: Duration) -> bool {
        self.presence == Presence::Publishing && self.gives_or_may(now, starve_after)
    }

    fn gives_or_may(&self, now: Instant, starve_after: Duration) -> bool {
        now.saturating_duration_since(self.heard) < starve_after
    }
}

impl Reason {
    /// A stable word for metrics and logs.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Preferred => "preferred",
            Self::Starved => "starved",
            Self::Worse => "worse",
        }
    }
}

#[cfg(test)]
mod tests;
