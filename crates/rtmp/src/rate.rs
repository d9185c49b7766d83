//! Counts against a rate. The caller passes the time.

use std::time::Instant;

use crate::limits::RATE_WINDOW;

/// At most `per_second` on average over each window of [`RATE_WINDOW`].
pub(crate) struct Rate {
    per_window: u64,
    window_start: Instant,
    count: u64,
}

impl Rate {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            per_window: u64::from(per_second) * RATE_WINDOW.as_secs(),
            window_start: now,
            count: 0,
        }
    }

    /// Counts one; whether it is within the rate.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window_start) >= RATE_WINDOW {
            self.window_start = now;
            self.count = 0;
        }
        self.count = self.count.saturating_add(1);
        self.count <= self.per_window
    }
}
