//! Notices an origin that takes frames and acknowledges none. Pure: time is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// How often [`Stall::tick`] is called.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// A tick later than this was our own sleep: a paused machine or a starved process says nothing about the origin.
const JUMP: Duration = Duration::from_millis(500);

/// Watches one RPC. An origin that is slow but acknowledges is not stalled: it slows the encoder.
pub(super) struct Stall {
    timeout: Duration,
    /// When the oldest outstanding frame was sent, or the last acknowledgement behind that.
    outstanding_since: Option<Instant>,
    last_tick: Instant,
}

impl Stall {
    pub(super) fn new(timeout: Duration, now: Instant) -> Self {
        Self {
            timeout,
            outstanding_since: None,
            last_tick: now,
        }
    }

    /// A frame was sent.
    pub(super) fn sent(&mut self, now: Instant) {
        self.outstanding_since.get_or_insert(now);
    }

    /// Frames were acknowledged, and `outstanding` ones remain.
    pub(super) fn progressed(&mut self, outstanding: bool, now: Instant) {
        self.outstanding_since = outstanding.then_some(now);
    }

    /// Whether the origin is stalled.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let elapsed = now - self.last_tick;
        self.last_tick = now;
        if elapsed > TICK + JUMP {
            self.outstanding_since = self.outstanding_since.map(|_| now);
        }
        self.outstanding_since
            .is_some_and(|since| now - since >= self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    /// Ticks regularly for this long; when the stall was noticed.
    fn tick_for(stall: &mut Stall, now: &mut Instant, duration: Duration) -> Option<Duration> {
        let start = *now;
        while *now - start < duration {
            *now += TICK;
            if stall.tick(*now) {
                return Some(*now - start);
            }
        }
        None
    }

    #[test]
    fn an_origin_that_acknowledges_nothing_is_stalled() {
        let mut now = Instant::now();
        let mut stall = Stall::new(TIMEOUT, now);
        assert_eq!(
            tick_for(&mut stall, &mut now, TIMEOUT * 5),
            None,
            "nothing is outstanding"
        );
        stall.sent(now);
        stall.sent(now + TICK * 5);
        assert_eq!(tick_for(&mut stall, &mut now, TIMEOUT * 5), Some(TIMEOUT));
    }

    #[test]
    fn a_slow_origin_is_not_stalled() {
        let mut now = Instant::now();
        let mut stall = Stall::new(TIMEOUT, now);
        stall.sent(now);
        for _ in 0..10 {
            assert_eq!(tick_for(&mut stall, &mut now, TIMEOUT - TICK), None);
            stall.progressed(true, now);
        }
        stall.progressed(false, now);
        assert_eq!(tick_for(&mut stall, &mut now, TIMEOUT * 5), None);
    }

    #[test]
    fn time_in_which_this_process_slept_does_not_count() {
        let mut now = Instant::now();
        let mut stall = Stall::new(TIMEOUT, now);
        stall.sent(now);
        now += Duration::from_secs(60);
        assert!(!stall.tick(now));
        assert_eq!(tick_for(&mut stall, &mut now, TIMEOUT * 5), Some(TIMEOUT));
    }
}
