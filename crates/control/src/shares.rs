//! So many for each, and no more.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;

/// Bounds what each of many has under way.
pub(crate) struct Shares<K> {
    max: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// One of them, until it is dropped.
pub(crate) struct Share<K: Eq + Hash> {
    of: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            taken: Arc::default(),
        }
    }

    /// `None`: it has as many as it may.
    pub(crate) fn take(&self, of: &K) -> Option<Share<K>> {
        let mut taken = self.taken.lock();
        let count = taken.entry(of.clone()).or_default();
        if *count >= self.max {
            return None;
        }
        *count = count.saturating_add(1);
        Some(Share {
            of: of.clone(),
            taken: self.taken.clone(),
        })
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.taken.lock().is_empty()
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        let Some(count) = taken.get_mut(&self.of) else {
            return;
        };
        *count = count.saturating_sub(1);
        if *count == 0 {
            taken.remove(&self.of);
        }
    }
}
