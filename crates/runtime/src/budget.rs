//! A process's memory for media: one counter, and each holder's share of it.

use prometheus_client::metrics::gauge::Gauge;

/// Bytes that all streams or sessions of a process may hold together. A cheap handle.
#[derive(Clone, Debug)]
pub struct Budget {
    used: Gauge,
    bytes_max: usize,
}

/// What one holder has of the budget; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    charged: usize,
}

/// From here on new publishes are refused, in percent.
const ADMIT_PERCENT: u8 = 90;

impl Budget {
    /// Nothing of it is used yet.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            used: Gauge::default(),
            bytes_max: bytes_max.max(1),
        }
    }

    /// Whether a new publish is taken.
    pub fn admits(&self) -> bool {
        self.percent() < ADMIT_PERCENT
    }

    /// Whether holders have to let go what they can.
    pub fn exhausted(&self) -> bool {
        self.used() > self.bytes_max
    }

    /// Whether even that did not help: a publish has to go.
    pub fn overrun(&self) -> bool {
        self.used() > self.bytes_max.saturating_add(self.bytes_max / 4)
    }

    /// As it was made.
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        usize::try_from(self.used.get()).unwrap_or_default()
    }

    /// Bytes in use, as a metric.
    pub fn gauge(&self) -> Gauge {
        self.used.clone()
    }

    /// The share in use, 0 to 100.
    pub fn percent(&self) -> u8 {
        let percent = self.used() as u128 * 100 / self.bytes_max as u128;
        u8::try_from(percent.min(100)).unwrap_or(100)
    }

    /// A new holder's share: nothing yet.
    pub fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            charged: 0,
        }
    }
}

impl Share {
    /// The holder has this many bytes now.
    pub fn set(&mut self, bytes: usize) {
        let bytes_i64 = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.budget
            .used
            .inc_by(bytes_i64(bytes).saturating_sub(bytes_i64(self.charged)));
        self.charged = bytes;
    }

    /// What it is a share of.
    pub fn budget(&self) -> &Budget {
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
    fn new_publishes_are_refused_before_the_budget_is_spent() {
        let budget = Budget::new(1000);
        let (mut one, mut other) = (budget.share(), budget.share());
        one.set(500);
        other.set(399);
        assert!(budget.admits());
        other.set(400);
        assert!(!budget.admits() && !budget.exhausted());
        one.set(601);
        assert!(budget.exhausted() && !budget.overrun());
        one.set(900);
        assert!(budget.overrun());
        drop(one);
        other.set(100);
        assert_eq!((budget.used(), budget.percent()), (100, 10));
    }
}
