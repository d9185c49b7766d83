//! What the peer has to do by when.

use std::time::{Duration, Instant};

use crate::ProtocolError;
use crate::limits::Limits;

/// Knows the one thing that is awaited.
pub(super) struct Deadlines {
    limits: Limits,
    awaited: Awaited,
    is_paused: bool,
}

enum Awaited {
    /// One step of the way to a publish, in total: single bytes do not prolong it.
    Step { phase: &'static str, until: Instant },
    /// The driver's decision.
    Decision,
    /// Media, again and again.
    Media(MediaWatch),
}

struct MediaWatch {
    /// None once it came.
    first_media_until: Option<Instant>,
    last_bytes: Instant,
    /// Bytes come, but no message is complete.
    drip: Option<Drip>,
}

struct Drip {
    since: Instant,
    bytes: u64,
}

impl Deadlines {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            awaited: Awaited::Step {
                phase: "the handshake",
                until: now + limits.handshake_deadline,
            },
            limits: limits.clone(),
            is_paused: false,
        }
    }

    pub(super) fn handshake_done(&mut self, now: Instant) {
        self.awaited = Awaited::Step {
            phase: "connect",
            until: now + self.limits.connect_deadline,
        };
    }

    /// connect came, or a publish ended.
    pub(super) fn connected(&mut self, now: Instant) {
        self.awaited = Awaited::Step {
            phase: "publish",
            until: now + self.limits.publish_deadline,
        };
    }

    pub(super) fn decision_asked(&mut self) {
        self.awaited = Awaited::Decision;
    }

    pub(super) fn publishing(&mut self, now: Instant) {
        self.awaited = Awaited::Media(MediaWatch {
            first_media_until: Some(now + self.limits.first_media_deadline),
            last_bytes: now,
            drip: None,
        });
    }

    pub(super) fn media_came(&mut self) {
        if let Awaited::Media(watch) = &mut self.awaited {
            watch.first_media_until = None;
        }
    }

    pub(super) fn message_came(&mut self) {
        if let Awaited::Media(watch) = &mut self.awaited {
            watch.drip = None;
        }
    }

    pub(super) fn bytes_came(&mut self, bytes: usize, now: Instant) {
        if let Awaited::Media(watch) = &mut self.awaited {
            watch.last_bytes = now;
            let drip = watch.drip.get_or_insert(Drip {
                since: now,
                bytes: 0,
            });
            drip.bytes = drip
                .bytes
                .saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    pub(super) fn pause(&mut self) {
        self.is_paused = true;
    }

    /// Silence counts from now on.
    pub(super) fn resume(&mut self, now: Instant) {
        if !std::mem::take(&mut self.is_paused) {
            return;
        }
        if let Awaited::Media(watch) = &mut self.awaited {
            watch.last_bytes = now;
            watch.drip = None;
            if let Some(until) = &mut watch.first_media_until {
                *until = now + self.limits.first_media_deadline;
            }
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        match &self.awaited {
            Awaited::Step { until, .. } => Some(*until),
            Awaited::Decision => None,
            Awaited::Media(_) if self.is_paused => None,
            Awaited::Media(watch) => {
                let idle = watch.last_bytes + self.limits.idle_deadline;
                let drip = watch
                    .drip
                    .as_ref()
                    .map(|drip| drip.since + self.limits.slow_drip_deadline);
                [Some(idle), watch.first_media_until, drip]
                    .into_iter()
                    .flatten()
                    .min()
            }
        }
    }

    pub(super) fn check(&mut self, now: Instant) -> Result<(), ProtocolError> {
        match &mut self.awaited {
            Awaited::Step { phase, until } if now >= *until => {
                Err(ProtocolError::Deadline { phase })
            }
            Awaited::Media(watch) if !self.is_paused => watch.check(&self.limits, now),
            Awaited::Step { .. } | Awaited::Decision | Awaited::Media(_) => Ok(()),
        }
    }
}

impl MediaWatch {
    fn check(&mut self, limits: &Limits, now: Instant) -> Result<(), ProtocolError> {
        if now >= self.last_bytes + limits.idle_deadline {
            return Err(ProtocolError::Deadline { phase: "any data" });
        }
        if self.first_media_until.is_some_and(|until| now >= until) {
            return Err(ProtocolError::Deadline {
                phase: "the first media",
            });
        }
        if let Some(drip) = &mut self.drip
            && now >= drip.since + limits.slow_drip_deadline
        {
            let window = now.saturating_duration_since(drip.since);
            if drip.bytes < bytes_at(limits.slow_drip_bytes_per_second, window) {
                return Err(ProtocolError::Deadline {
                    phase: "a complete message",
                });
            }
            // A large message on its way: judged again by the next stretch.
            *drip = Drip {
                since: now,
                bytes: 0,
            };
        }
        Ok(())
    }
}

fn bytes_at(per_second: u32, duration: Duration) -> u64 {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    u64::from(per_second).saturating_mul(milliseconds) / 1000
}
