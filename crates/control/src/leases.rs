//! Live leases as the registry told them lately, for everybody who reads all of them. The registry is asked once for those
//! who ask at the same time, and not at all where what is known is new enough for the reader.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use registry::{Lease, Registry, RegistryError};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// Asks the registry. A cheap handle.
#[derive(Clone)]
pub(crate) struct Leases(Arc<Inner>);

/// Every live lease, or why nobody knows.
pub(crate) type Answer = Result<Arc<Vec<Lease>>, Arc<RegistryError>>;

struct Inner {
    registry: Registry,
    /// The last answer, and when it was asked for.
    known: Mutex<Option<(Instant, Answer)>>,
    asking: Semaphore,
}

impl Leases {
    pub(crate) fn new(registry: Registry) -> Self {
        Self(Arc::new(Inner {
            registry,
            known: Mutex::new(None),
            asking: Semaphore::new(1),
        }))
    }

    /// As of at most this long ago; of no time at all: as of now, or a moment later. An error is kept for as long as an
    /// answer.
    pub(crate) async fn at_most(&self, age: Duration) -> Answer {
        let since = Instant::now().checked_sub(age);
        if let Some(answer) = self.known_since(since) {
            return answer;
        }
        // In a task of its own: who gives up waiting takes nothing from those who go on.
        let leases = self.clone();
        let asked = tokio::spawn(async move { leases.ask(since).await });
        let lost = |error| Err(Arc::new(RegistryError::Unavailable(Box::new(error))));
        asked.await.unwrap_or_else(lost)
    }

    async fn ask(&self, since: Option<Instant>) -> Answer {
        // An error says that the semaphore was closed: nobody does.
        let _alone = self.0.asking.acquire().await.ok();
        if let Some(answer) = self.known_since(since) {
            return answer;
        }
        let asked = Instant::now();
        let answer = match timeout(ANSWER_TIMEOUT, self.0.registry.leases()).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(RegistryError::Unavailable(elapsed.into())),
        };
        let answer = answer.map(Arc::new).map_err(Arc::new);
        *self.0.known.lock() = Some((asked, answer.clone()));
        answer
    }

    fn known_since(&self, since: Option<Instant>) -> Option<Answer> {
        let known = self.0.known.lock();
        let (asked, answer) = known.as_ref()?;
        since
            .is_none_or(|since| *asked >= since)
            .then(|| answer.clone())
    }
}

/// For all pages of the registry's answer together; readers in a hurry wait for less.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use registry::MemoryRegistry;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_new_enough_is_the_same_for_all() {
        let leases = Leases::new(Registry::Memory(MemoryRegistry::new()));
        let second = Duration::from_secs(1);
        let first = leases.at_most(second).await.unwrap();
        tokio::time::advance(second / 2).await;
        let again = leases.at_most(second).await.unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let now = leases.at_most(Duration::ZERO).await.unwrap();
        assert!(!Arc::ptr_eq(&first, &now));
        tokio::time::advance(second / 2).await;
        assert!(Arc::ptr_eq(&now, &leases.at_most(second).await.unwrap()));
        tokio::time::advance(second).await;
        assert!(!Arc::ptr_eq(&now, &leases.at_most(second).await.unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_at_once_share_an_answer() {
        let leases = Leases::new(Registry::Memory(MemoryRegistry::new()));
        let asked = leases.0.asking.acquire().await.unwrap();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let leases = leases.clone();
            waiting.spawn(async move { leases.at_most(Duration::ZERO).await.unwrap() });
        }
        // By then all of them wait.
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(asked);
        let answers = waiting.join_all().await;
        let first = &answers[0];
        assert!(answers.iter().all(|answer| Arc::ptr_eq(first, answer)));
    }
}
