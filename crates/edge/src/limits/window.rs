//! Sums over the last seconds of a clock, in constant time and space.

/// Over how much a rate is measured.
pub(super) const WINDOW_SECONDS: u64 = 10;
const BUCKET_MS: u64 = 500;
/// The last one is never whole: a sum is over nine and a half to ten seconds, never over more.
const BUCKETS: usize = 20;

/// One moment by both clocks, in milliseconds since the first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) arrival_ms: u64,
    pub(super) stream_ms: u64,
}

/// What came in a window of either clock.
#[derive(Default)]
pub(super) struct Meter {
    by_arrival: Window,
    by_stream: Window,
}

#[derive(Default)]
struct Window {
    buckets: [u64; BUCKETS],
    /// Which one is filled, counted from the clock's start.
    current: u64,
    sum: u64,
}

impl Meter {
    pub(super) fn add(&mut self, moment: Moment, amount: u64) {
        self.by_arrival.add(moment.arrival_ms, amount);
        self.by_stream.add(moment.stream_ms, amount);
    }

    /// The lower of the two sums.
    pub(super) fn sum(&self) -> u64 {
        self.by_arrival.sum.min(self.by_stream.sum)
    }
}

impl Window {
    /// A clock does not go back here.
    fn add(&mut self, at_ms: u64, amount: u64) {
        let bucket = at_ms / BUCKET_MS;
        let passed = bucket.saturating_sub(self.current);
        if passed >= BUCKETS as u64 {
            (self.buckets, self.sum) = ([0; BUCKETS], 0);
        } else {
            for step in 1..=passed {
                let left = std::mem::take(self.bucket(self.current.saturating_add(step)));
                self.sum = self.sum.saturating_sub(left);
            }
        }
        self.current = self.current.max(bucket);
        let filled = self.bucket(self.current);
        *filled = filled.saturating_add(amount);
        self.sum = self.sum.saturating_add(amount);
    }

    fn bucket(&mut self, number: u64) -> &mut u64 {
        // Below the array's length by the remainder.
        let index = usize::try_from(number % BUCKETS as u64).unwrap_or_default();
        &mut self.buckets[index]
    }
}
