//! How fast a publisher may send.

use std::time::Duration;

use tokio::time::Instant;

/// Spreads what is read over time: a second's worth may come at once.
pub(super) struct Bitrate {
    bytes_per_second: u32,
    patience: Duration,
    /// When what was read would have come at the allowed rate.
    paid_until: Instant,
    held_since: Option<Instant>,
}

/// What may come at once.
const BURST: Duration = Duration::from_secs(1);

impl Bitrate {
    pub(super) fn new(bytes_per_second: u32, patience: Duration) -> Self {
        Self {
            bytes_per_second: bytes_per_second.max(1),
            patience,
            paid_until: Instant::now(),
            held_since: None,
        }
    }

    pub(super) fn received(&mut self, bytes: u64) {
        let now = Instant::now();
        let microseconds = bytes.saturating_mul(1_000_000) / u64::from(self.bytes_per_second);
        self.paid_until = self.paid_until.max(now) + Duration::from_micros(microseconds);
        let ahead = self.paid_until - now;
        if ahead > BURST {
            self.held_since.get_or_insert(now);
        } else if ahead < BURST / 2 {
            self.held_since = None;
        }
    }

    /// Before then nothing more is read: TCP slows the encoder.
    pub(super) fn read_at(&self) -> Instant {
        self.paid_until
            .checked_sub(BURST)
            .unwrap_or(self.paid_until)
    }

    /// Whether holding it back has not helped.
    pub(super) fn is_exceeded(&self) -> bool {
        self.held_since
            .is_some_and(|since| since.elapsed() > self.patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes per second that came through, and whether it was exceeded in a minute.
    async fn send(bytes_per_second: u64) -> (u64, bool) {
        let mut bitrate = Bitrate::new(1_000_000, Duration::from_secs(10));
        let started = Instant::now();
        let mut came = 0;
        while started.elapsed() < Duration::from_secs(60) {
            let bytes = bytes_per_second / 100;
            bitrate.received(bytes);
            came += bytes;
            if bitrate.is_exceeded() {
                return (came / started.elapsed().as_secs().max(1), true);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            tokio::time::sleep_until(bitrate.read_at()).await;
        }
        (came / 60, false)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_fast_is_slowed_and_then_ended() {
        assert!(!send(900_000).await.1);
        let (came, is_exceeded) = send(20_000_000).await;
        assert!(is_exceeded && came < 1_200_000, "{came} bytes per second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_forgiven() {
        let mut bitrate = Bitrate::new(1_000_000, Duration::from_secs(10));
        bitrate.received(2_000_000);
        assert!(bitrate.read_at() > Instant::now());
        for _ in 0..1_000 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bitrate.received(50_000);
            assert!(!bitrate.is_exceeded());
        }
        assert!(bitrate.read_at() <= Instant::now());
    }
}
