//! The process's memory for media: one counter, and each stream's share of it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that all streams may hold together. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// What one holder has of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    charged: usize,
}

/// From here on new publishes are refused, in percent.
const ADMIT_PERCENT: u8 = 90;

impl Budget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            used: Arc::default(),
            bytes_max: bytes_max.max(1),
        }
    }

    /// Whether a new publish is taken.
    pub(crate) fn admits(&self) -> bool {
        self.percent() < ADMIT_PERCENT
    }

    /// Whether streams have to let history go.
    pub(crate) fn exhausted(&self) -> bool {
        self.used() > self.bytes_max
    }

    /// Whether even that did not help: a publish has to go.
    pub(crate) fn overrun(&self) -> bool {
        self.used() > self.bytes_max.saturating_add(self.bytes_max / 4)
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// 0 to 100.
    pub(crate) fn percent(&self) -> u8 {
        let percent = self.used() as u128 * 100 / self.bytes_max as u128;
        u8::try_from(percent.min(100)).unwrap_or(100)
    }

    pub(crate) fn share(&self) -> Share {
        Share {
            budget: self.clone(),
            charged: 0,
        }
    }
}

impl Share {
    /// The holder has this many bytes now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let used = &self.budget.used;
        if bytes >= self.charged {
            used.fetch_add(bytes - self.charged, Ordering::Relaxed);
        } else {
            used.fetch_sub(self.charged - bytes, Ordering::Relaxed);
        }
        self.charged = bytes;
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
