//! How many questions are under way at once.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Fingerprint;
use crate::shares::{Share, Shares};

/// Bounds what is asked at once, and what waits for its turn: for the application as a whole, and for each key.
pub(super) struct Gate {
    turns: Semaphore,
    /// Those that wait, and those whose turn it is.
    inside: Semaphore,
    of_keys: Shares<Fingerprint>,
}

/// A turn, for as long as it lives.
pub(super) struct Pass<'a> {
    _turn: SemaphorePermit<'a>,
    _inside: SemaphorePermit<'a>,
    _of_key: Share<Fingerprint>,
}

impl Gate {
    /// As many may wait as have their turn.
    pub(super) fn new(turns: usize) -> Self {
        Self {
            turns: Semaphore::new(turns),
            inside: Semaphore::new(turns.saturating_mul(2)),
            of_keys: Shares::new(KEY_QUESTIONS_MAX),
        }
    }

    /// A turn, after a wait where others were first. `None` where too many wait already, or the key has as many
    /// questions as it may.
    pub(super) async fn enter(&self, key: Fingerprint) -> Option<Pass<'_>> {
        let of_key = self.of_keys.take(&key)?;
        let inside = self.inside.try_acquire().ok()?;
        let turn = self.turns.acquire().await.ok()?;
        Some(Pass {
            _turn: turn,
            _inside: inside,
            _of_key: of_key,
        })
    }
}

/// Questions about one key at once, from one address: a retry while the first try hangs, and no more.
const KEY_QUESTIONS_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_and_an_application_have_as_many_turns_as_they_have() {
        let gate = Gate::new(3);
        let first = gate.enter([1; 32]).await.unwrap();
        let second = gate.enter([1; 32]).await.unwrap();
        assert!(gate.enter([1; 32]).await.is_none(), "of one key");
        let third = gate.enter([2; 32]).await.unwrap();
        let mut waiting: Vec<_> = (3..6).map(|key| Box::pin(gate.enter([key; 32]))).collect();
        for waiting in &mut waiting {
            assert!(futures_util::poll!(waiting).is_pending());
        }
        assert!(gate.enter([6; 32]).await.is_none(), "too many wait");
        drop((first, second, third));
        for waiting in waiting {
            assert!(waiting.await.is_some());
        }
        assert!(gate.of_keys.is_empty());
    }
}
