//! The process's memory for replay rings: one counter, and each session's share of it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that all rings may hold together. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
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
            used: Arc::default(),
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
        self.used.load(Ordering::Relaxed)
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
        if bytes > self.charged {
            self.budget
                .used
                .fetch_add(bytes - self.charged, Ordering::Relaxed);
        } else {
            self.budget
                .used
                .fetch_sub(self.charged - bytes, Ordering::Relaxed);
        }
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
