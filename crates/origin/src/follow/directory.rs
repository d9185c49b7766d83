//! Who owns a stream, as the registry has it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use registry::{Origin, OriginName, Registry, RegistryError, Slot, StreamId};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tracing::debug;

use crate::{
    config::Config,
    metrics::{OpenLabels, OriginMetrics},
};

/// Asks the registry.
pub(super) struct Directory {
    config: Arc<Config>,
    registry: Registry,
    metrics: OriginMetrics,
    asking: Semaphore,
    announced: Mutex<Announced>,
}

/// Who may have a stream's log.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    /// Other origins to ask.
    pub(super) candidates: Vec<Origin>,
    /// Whether somebody owns the stream.
    pub(super) live: bool,
}

/// What became of a question.
enum Answer<T> {
    Told(T),
    /// It was not asked: too many others wait for an answer.
    Busy,
    Unavailable,
}

/// The origins that were announced last.
#[derive(Default)]
struct Announced {
    origins: BTreeMap<OriginName, Origin>,
    asked: Option<Instant>,
}

/// Questions to the registry that are under way at a time.
const ASKING_MAX: usize = 32;
/// How long a question waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(1);
/// How long the list of origins stands.
const ANNOUNCED_PERIOD: Duration = Duration::from_secs(1);
/// Origins that are asked for one stream while the registry does not tell who owns it.
const CANDIDATES_MAX: usize = 8;

impl Directory {
    pub(super) fn new(config: &Arc<Config>, registry: &Registry, metrics: &OriginMetrics) -> Self {
        Self {
            config: Arc::clone(config),
            registry: registry.clone(),
            metrics: metrics.clone(),
            asking: Semaphore::new(ASKING_MAX),
            announced: Mutex::default(),
        }
    }

    /// Where the stream may be: with its primary, else with its backup. While the registry does not answer, that is any
    /// origin that it told last.
    pub(super) async fn whereabouts(&self, id: StreamId) -> Whereabouts {
        let places = Slot::ALL.map(|slot| (id, slot));
        let owners = match self.answer(self.registry.owners(&places)).await {
            Answer::Told(owners) => owners,
            Answer::Busy => {
                self.count("busy");
                return Whereabouts::not_there();
            }
            Answer::Unavailable => {
                self.count("unavailable");
                return self.anywhere().await;
            }
        };
        let mut leases = owners.into_iter().filter_map(|owner| owner.lease);
        let Some(lease) = leases.next() else {
            self.count("nobody");
            return Whereabouts::default();
        };
        // Both are at one origin, save for a moment after it has died.
        let both = [Some(lease), leases.next()].into_iter().flatten();
        let mut elsewhere: Vec<_> = both.map(|lease| lease.origin).collect();
        elsewhere.dedup();
        elsewhere.retain(|origin| *origin != self.config.name);
        if elsewhere.is_empty() {
            self.count("here");
            return Whereabouts::not_there();
        }
        self.count("elsewhere");
        let announced = self.announced().await;
        let known = |origin| announced.get(&origin).cloned();
        Whereabouts {
            candidates: elsewhere.into_iter().filter_map(known).collect(),
            live: true,
        }
    }

    async fn anywhere(&self) -> Whereabouts {
        let mut origins = self.announced().await;
        origins.remove(&self.config.name);
        Whereabouts {
            candidates: origins.into_values().take(CANDIDATES_MAX).collect(),
            live: false,
        }
    }

    /// The announced origins, at most a moment old where the registry answers. While one asks, the others make do with what
    /// was told last.
    async fn announced(&self) -> BTreeMap<OriginName, Origin> {
        if self.announced.lock().is_due(Instant::now())
            && let Answer::Told(origins) = self.answer(self.registry.origins()).await
        {
            let named = origins
                .into_iter()
                .map(|origin| (origin.name.clone(), origin));
            self.announced.lock().origins = named.collect();
        }
        self.announced.lock().origins.clone()
    }

    /// A registry that is asked much is not one that does not answer: its time begins with the question's turn.
    async fn answer<T>(
        &self,
        question: impl Future<Output = Result<T, RegistryError>>,
    ) -> Answer<T> {
        // The semaphore is never closed.
        let Ok(Ok(_turn)) = timeout(TURN_WAIT, self.asking.acquire()).await else {
            return Answer::Busy;
        };
        match timeout(self.config.timing.registry_wait, question).await {
            Ok(Ok(told)) => Answer::Told(told),
            Ok(Err(error)) => {
                debug!(%error, "the registry does not tell who owns a stream");
                Answer::Unavailable
            }
            Err(_elapsed) => Answer::Unavailable,
        }
    }

    fn count(&self, outcome: &'static str) {
        let lookups = &self.metrics.owner_lookups;
        lookups.get_or_create(&OpenLabels { outcome }).inc();
    }
}

impl Whereabouts {
    /// Somebody may own the stream, and it can be followed nowhere yet.
    fn not_there() -> Self {
        Self {
            candidates: Vec::new(),
            live: true,
        }
    }
}

impl Announced {
    /// Whether it is time to ask; who is told so asks.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self
            .asked
            .is_none_or(|asked| now.duration_since(asked) >= ANNOUNCED_PERIOD);
        if due {
            self.asked = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use registry::MemoryRegistry;
    use runtime::{budget::Budget, metrics::Metrics};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_that_gets_no_turn_does_not_say_that_the_registry_is_gone() {
        let registry = Registry::Memory(MemoryRegistry::new());
        let metrics = OriginMetrics::register(&Metrics::default(), &Budget::new(1));
        let config = Arc::new(Config::new(OriginName::new("origin-0").unwrap()));
        let directory = Directory::new(&config, &registry, &metrics);
        let id = StreamId::derive("default", "live", "main");
        let turns = u32::try_from(ASKING_MAX).unwrap();
        let all = directory.asking.acquire_many(turns).await.unwrap();
        let whereabouts = directory.whereabouts(id).await;
        assert!(whereabouts.live && whereabouts.candidates.is_empty());
        let asking = directory.whereabouts(id);
        let later = async {
            tokio::time::sleep(config.timing.registry_wait + TURN_WAIT / 4).await;
            drop(all);
        };
        let (whereabouts, ()) = tokio::join!(asking, later);
        assert!(!whereabouts.live, "it was asked, and nobody publishes it");
        let asked = OpenLabels { outcome: "nobody" };
        assert_eq!(metrics.owner_lookups.get_or_create(&asked).get(), 1);
    }
}
