//! Percentiles of durations in fixed memory, with an error below 4 %.

use std::time::Duration;

use serde::Serialize;

/// Buckets for each doubling.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();

/// Counts of microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max_us: u64,
}

/// In milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl Histogram {
    pub(super) fn record(&mut self, duration: Duration) {
        self.record_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn record_us(&mut self, us: u64) {
        let bucket = bucket(us);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        Percentiles {
            count: self.count,
            p50: self.quantile(500),
            p90: self.quantile(900),
            p99: self.quantile(990),
            p999: self.quantile(999),
            max: milliseconds(self.max_us),
        }
    }

    /// The upper end of the bucket in which this many of a thousand lie.
    fn quantile(&self, per_mille: u64) -> f64 {
        let rank = (self.count * per_mille).div_ceil(1000);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return milliseconds(upper_end(bucket).min(self.max_us));
            }
        }
        0.0
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.count == 0 {
            return f.write_str("none");
        }
        write!(
            f,
            "p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
            self.p50, self.p90, self.p99, self.p999, self.max
        )
    }
}

/// Exact below [`STEPS`], then [`STEPS`] buckets for each power of two.
fn bucket(us: u64) -> usize {
    let bucket = match us.checked_ilog2() {
        Some(power) if power >= STEP_BITS => {
            let shift = power - STEP_BITS;
            (u64::from(shift) + 1) * STEPS + ((us >> shift) - STEPS)
        }
        Some(_) | None => us,
    };
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    (((STEPS + bucket % STEPS + 1) as u128) << shift)
        .saturating_sub(1)
        .try_into()
        .unwrap_or(u64::MAX)
}

fn milliseconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_four_percent() {
        let mut histogram = Histogram::default();
        for us in 1..=100_000 {
            histogram.record_us(us);
        }
        let percentiles = histogram.percentiles();
        for (found, expected) in [
            (percentiles.p50, 50.0),
            (percentiles.p90, 90.0),
            (percentiles.p99, 99.0),
        ] {
            assert!((found / expected - 1.0).abs() < 0.04, "{percentiles}");
        }
        assert_eq!((percentiles.count, percentiles.max), (100_000, 100.0));
    }

    #[test]
    fn every_duration_has_a_bucket_that_holds_it() {
        for us in [
            0,
            1,
            31,
            32,
            33,
            63,
            64,
            1000,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let bucket = bucket(us);
            assert!(us <= upper_end(bucket), "{us}");
            assert!(bucket == 0 || us > upper_end(bucket - 1), "{us}");
        }
    }

    #[test]
    fn merging_is_as_recording_in_one() {
        let (mut one, mut two, mut both) = <(Histogram, Histogram, Histogram)>::default();
        for us in 0..1000 {
            if us % 3 == 0 { &mut one } else { &mut two }.record_us(us * 7);
            both.record_us(us * 7);
        }
        one.merge(&two);
        assert_eq!(one.percentiles(), both.percentiles());
    }

    #[test]
    fn nothing_recorded_is_no_time() {
        assert_eq!(Histogram::default().percentiles(), Percentiles::default());
    }
}
