//! The process's memory for replay rings: one counter, and each session's share of it.

use prometheus_client::metrics::gauge::Gauge;

/// Bytes that all rings may hold together. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Gauge,
    bytes_max: usize,
}

/// What one session holds of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    charged: usize,
}

/// From here on new publishes are refused, in percent.
const ADMIT_PERCENT: usize = 90;

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            used: Gauge::default(),
            bytes_max,
        }
    }

    /// Whether a new publish is taken.
    pub(crate) fn admits(&self) -> bool {
        self.used() < self.bytes_max / 100 * ADMIT_PERCENT
    }

    /// Whether sessions have to give up what they can.
    pub(crate) fn exhausted(&self) -> bool {
        self.used() >= self.bytes_max
    }

    pub(crate) fn used(&self) -> usize {
        usize::try_from(self.used.get()).unwrap_or_default()
    }

    /// Bytes in use, as a metric.
    pub(crate) fn gauge(&self) -> Gauge {
        self.used.clone()
    }

    pub(crate) fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            charged: 0,
        }
    }
}

impl Share {
    /// The session holds this many bytes now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let bytes_i64 = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.budget
            .used
            .inc_by(bytes_i64(bytes) - bytes_i64(self.charged));
        self.charged = bytes;
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_share_is_given_back() {
        let budget = Budget::new(1000);
        let (mut one, mut other) = (budget.share(), budget.share());
        one.set(500);
        other.set(399);
        assert!(budget.admits());
        other.set(400);
        assert!(!budget.admits() && !budget.exhausted());
        one.set(600);
        assert!(budget.exhausted());
        drop(one);
        other.set(100);
        assert_eq!(budget.used(), 100);
    }
}
