//! When a delivery that failed is tried again.

use std::time::Duration;

use aws_lc_rs::rand;

use super::{HOLD, HOLD_PERIOD};

/// How patient deliveries are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pacing {
    /// The longest pause behind the first failure; doubles with each.
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
    /// Between tries at a receiver that takes nothing at all.
    pub(crate) outage_longest: Duration,
    /// A delivery that fails after this is given up.
    pub(crate) give_up: Duration,
    pub(crate) hold: Duration,
    pub(crate) hold_period: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60 * 60),
            outage_longest: Duration::from_secs(30),
            give_up: Duration::from_secs(24 * 60 * 60),
            hold: HOLD,
            hold_period: HOLD_PERIOD,
        }
    }
}

impl Pacing {
    /// The pause behind the n-th failure of a delivery.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        full_jitter(self.ceiling(failures, self.longest))
    }

    /// The pause behind the n-th failure in a row of a receiver.
    pub(super) fn outage_pause(&self, failures: u32) -> Duration {
        full_jitter(self.ceiling(failures, self.outage_longest))
    }

    fn ceiling(&self, failures: u32, longest: Duration) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let ceiling = self
            .first
            .checked_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
        ceiling.unwrap_or(longest).min(longest)
    }
}

/// Anything up to the ceiling: what failed together does not come back together.
fn full_jitter(ceiling: Duration) -> Duration {
    let mut random = [0; 4];
    if rand::fill(&mut random).is_err() {
        return ceiling;
    }
    let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    ceiling.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        let pacing = Pacing::default();
        let ceilings: Vec<u64> = [1, 2, 3, 12, 13, 40, u32::MAX]
            .map(|failures| pacing.ceiling(failures, pacing.longest).as_secs())
            .into();
        assert_eq!(ceilings, [1, 2, 4, 2048, 3600, 3600, 3600]);
        for failures in 1..50 {
            assert!(pacing.pause(failures) <= pacing.longest);
            assert!(pacing.outage_pause(failures) <= pacing.outage_longest);
        }
    }
}
