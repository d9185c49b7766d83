//! What was learnt a moment ago, by key: believed for so long, of so many keys.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

/// Values with the time of their being learnt.
pub(crate) struct Recent<K, V> {
    kept: Duration,
    len_max: usize,
    known: HashMap<K, (V, Instant)>,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(crate) fn new(kept: Duration, len_max: usize) -> Self {
        Self {
            kept,
            len_max,
            known: HashMap::new(),
        }
    }

    /// What is known and not too old.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let (value, since) = self.known.get(key)?;
        (since.elapsed() < self.kept).then_some(value)
    }

    /// Whether there was room: what is too old makes some.
    pub(crate) fn insert(&mut self, key: K, value: V, since: Instant) -> bool {
        if self.known.len() >= self.len_max && !self.known.contains_key(&key) {
            let kept = self.kept;
            self.known.retain(|_key, (_, since)| since.elapsed() < kept);
            if self.known.len() >= self.len_max {
                return false;
            }
        }
        self.known.insert(key, (value, since));
        true
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.known.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_not_known_and_makes_room() {
        let second = Duration::from_secs(1);
        let mut recent = Recent::new(second, 2);
        assert!(recent.insert("a", 1, Instant::now()));
        tokio::time::advance(second / 2).await;
        assert!(recent.insert("b", 2, Instant::now()));
        assert!(!recent.insert("c", 3, Instant::now()));
        assert!(recent.insert("b", 4, Instant::now()));
        assert_eq!((recent.get(&"a"), recent.get(&"b")), (Some(&1), Some(&4)));
        tokio::time::advance(second / 2).await;
        assert_eq!((recent.get(&"a"), recent.get(&"b")), (None, Some(&4)));
        assert!(recent.insert("c", 3, Instant::now()));
        recent.remove(&"b");
        assert_eq!((recent.get(&"b"), recent.get(&"c")), (None, Some(&3)));
    }
}
