//! Who owns a stream, as the registry has it.
//!
//! All who ask at a time are asked for in one round, one round after the other: a dead or frozen owner of thousands of streams
//! costs the registry no more than one that owns a few. A round is a few questions beside each other, each with an answer of its
//! own: where the registry is many servers, one that is down says nothing of the others' streams.

use std::{collections::BTreeMap, iter, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use parking_lot::Mutex;
use registry::{Origin, OriginName, Owner, Registry, RegistryError, Slot, StreamId};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use crate::{
    config::Config,
    metrics::{OpenLabels, OriginMetrics},
};

/// Asks the registry.
pub(super) struct Directory {
    config: Arc<Config>,
    metrics: OriginMetrics,
    questions: mpsc::Sender<Question>,
    announced: Arc<Mutex<Announced>>,
}

/// Who may have a stream's log.
#[derive(Debug)]
pub(super) struct Whereabouts {
    /// Other origins to ask.
    pub(super) candidates: Vec<Origin>,
    pub(super) told: Told,
}

/// What the registry says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It was not asked: too many others are asked about.
    Busy,
    Nobody,
    /// Somebody owns it.
    Owned,
    /// It does not answer.
    Unavailable,
}

/// Who owns a stream?
struct Question {
    id: StreamId,
    /// The primary's origin, then the backup's; `None`: the registry does not answer.
    answer: oneshot::Sender<Option<Vec<OriginName>>>,
}

/// The origins that were announced last.
type Announced = BTreeMap<OriginName, Origin>;

/// Asks for all who wait.
struct Asker {
    registry: Registry,
    wait: Duration,
    questions: mpsc::Receiver<Question>,
    announced: Arc<Mutex<Announced>>,
    announced_asked: Option<Instant>,
}

/// Streams that are asked about in one round, and how many more wait for the next one.
const ASKED_MAX: usize = 256;
/// Of those, in one question to a registry that is one server: two places each, which it takes in one pipeline.
const ASKED_TOGETHER: usize = 128;
/// Between two rounds, for each stream of the first: the registry is asked about 10 000 streams a second at most.
const PAUSE_PER_STREAM: Duration = Duration::from_micros(100);
/// How soon it is asked again who owns a stream whose owner is silent.
pub(super) const ASK_PAUSE: Duration = Duration::from_millis(100);
/// How long one more waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(1);
/// How long the list of origins stands.
const ANNOUNCED_PERIOD: Duration = Duration::from_secs(1);
/// Origins that are asked for one stream while the registry does not tell who owns it.
const CANDIDATES_MAX: usize = 8;

impl Directory {
    /// Needs a tokio runtime.
    pub(super) fn new(config: &Arc<Config>, registry: &Registry, metrics: &OriginMetrics) -> Self {
        let (directory, asker) = Self::parts(config, registry, metrics);
        tokio::spawn(asker.run());
        directory
    }

    fn parts(config: &Arc<Config>, registry: &Registry, metrics: &OriginMetrics) -> (Self, Asker) {
        let (sender, questions) = mpsc::channel(ASKED_MAX);
        let announced = Arc::<Mutex<Announced>>::default();
        let directory = Self {
            config: Arc::clone(config),
            metrics: metrics.clone(),
            questions: sender,
            announced: Arc::clone(&announced),
        };
        let asker = Asker {
            registry: registry.clone(),
            wait: config.timing.registry_wait,
            questions,
            announced,
            announced_asked: None,
        };
        (directory, asker)
    }

    /// Where the stream may be: with its primary, else with its backup. While the registry does not answer, that is any
    /// origin that it told last.
    pub(super) async fn whereabouts(&self, id: StreamId) -> Whereabouts {
        let (answer, told) = oneshot::channel();
        let asked = self.questions.send(Question { id, answer });
        if timeout(TURN_WAIT, asked).await.is_err() {
            // A registry that is asked much is not one that does not answer.
            self.count("busy");
            return Whereabouts::nowhere(Told::Busy);
        }
        let Ok(Some(mut owners)) = told.await else {
            self.count("unavailable");
            return self.anywhere();
        };
        if owners.is_empty() {
            self.count("nobody");
            return Whereabouts::nowhere(Told::Nobody);
        }
        // Both are at one origin, save for a moment after it has died.
        owners.dedup();
        owners.retain(|origin| *origin != self.config.name);
        if owners.is_empty() {
            self.count("here");
            return Whereabouts::nowhere(Told::Owned);
        }
        self.count("elsewhere");
        let announced = self.announced.lock();
        let known = |origin| announced.get(origin).cloned();
        Whereabouts {
            candidates: owners.iter().filter_map(known).collect(),
            told: Told::Owned,
        }
    }

    /// What comes of asking those who may have a stream. Where the registry names others meanwhile, those are asked instead:
    /// an origin that is frozen is named until the edge has left it, and says nothing.
    pub(super) async fn ask<T, F: Future<Output = T>>(
        &self,
        id: StreamId,
        ask: impl Fn(Vec<Origin>) -> F,
    ) -> (T, Told) {
        let mut named = self.whereabouts(id).await;
        loop {
            tokio::select! {
                biased;
                answer = ask(named.candidates.clone()) => return (answer, named.told),
                others = self.others(id, &named.candidates) => named = others,
            }
        }
    }

    /// Where the stream may be, once the registry names an origin that is none of these.
    async fn others(&self, id: StreamId, named: &[Origin]) -> Whereabouts {
        let is_other = |origin: &Origin| {
            let same = |named: &Origin| {
                (&named.name, &named.relay_address) == (&origin.name, &origin.relay_address)
            };
            !named.iter().any(same)
        };
        loop {
            sleep(ASK_PAUSE).await;
            let whereabouts = self.whereabouts(id).await;
            if whereabouts.told == Told::Owned && whereabouts.candidates.iter().any(is_other) {
                return whereabouts;
            }
        }
    }

    /// Those of these origins that are announced.
    pub(super) async fn announced(&self, id: StreamId, names: &[OriginName]) -> Vec<Origin> {
        // Learns who is announced.
        self.whereabouts(id).await;
        let announced = self.announced.lock();
        let known = names.iter().filter(|name| **name != self.config.name);
        known
            .filter_map(|name| announced.get(name).cloned())
            .collect()
    }

    fn anywhere(&self) -> Whereabouts {
        let announced = self.announced.lock();
        let others = announced
            .values()
            .filter(|origin| origin.name != self.config.name);
        Whereabouts {
            candidates: others.take(CANDIDATES_MAX).cloned().collect(),
            told: Told::Unavailable,
        }
    }

    fn count(&self, outcome: &'static str) {
        let lookups = &self.metrics.owner_lookups;
        lookups.get_or_create(&OpenLabels { outcome }).inc();
    }
}

impl Asker {
    /// For as long as there is a directory.
    async fn run(mut self) {
        let mut asked = Vec::new();
        let (registry, wait) = (self.registry.clone(), self.wait);
        let together = if registry.is_spread() {
            1
        } else {
            ASKED_TOGETHER
        };
        while self.questions.recv_many(&mut asked, ASKED_MAX).await > 0 {
            let streams = u32::try_from(asked.len()).unwrap_or(u32::MAX);
            // At once: whoever asks waits for one answer alone.
            let announced = self.learn_announced().shared();
            let mut asked = asked.drain(..);
            let questions = iter::from_fn(|| {
                let questions: Vec<_> = asked.by_ref().take(together).collect();
                (!questions.is_empty()).then_some(questions)
            });
            join_all(questions.map(|asked| ask(&registry, wait, asked, announced.clone()))).await;
            sleep(PAUSE_PER_STREAM.saturating_mul(streams)).await;
        }
    }

    /// The list of origins is at most a moment old where the registry answers.
    async fn learn_announced(&mut self) {
        let now = Instant::now();
        let stands = |asked| now.duration_since(asked) < ANNOUNCED_PERIOD;
        if self.announced_asked.is_some_and(stands) {
            return;
        }
        self.announced_asked = Some(now);
        if let Some(origins) = told(self.wait, self.registry.origins()).await {
            let named = origins
                .into_iter()
                .map(|origin| (origin.name.clone(), origin));
            *self.announced.lock() = named.collect();
        }
    }
}

/// One question for all of these, answered once it is also known who is announced.
async fn ask(
    registry: &Registry,
    wait: Duration,
    asked: Vec<Question>,
    announced: impl Future<Output = ()>,
) {
    let places: Vec<_> = asked
        .iter()
        .flat_map(|question| Slot::ALL.map(|slot| (question.id, slot)))
        .collect();
    let (owners, ()) = tokio::join!(told(wait, registry.owners(&places)), announced);
    let owners = owners.unwrap_or_default();
    let mut each = owners.chunks(Slot::ALL.len());
    for question in asked {
        // Who does not wait any more does not mind.
        question.answer.send(each.next().map(origins)).ok();
    }
}

/// The registry's answer, where it comes in time.
async fn told<T>(
    wait: Duration,
    question: impl Future<Output = Result<T, RegistryError>>,
) -> Option<T> {
    let told = timeout(wait, question).await.ok()?;
    told.inspect_err(|error| debug!(%error, "the registry does not tell who owns a stream"))
        .ok()
}

/// Of the leases that are live.
fn origins(owners: &[Owner]) -> Vec<OriginName> {
    let leases = owners.iter().filter_map(|owner| owner.lease.as_ref());
    leases.map(|lease| lease.origin.clone()).collect()
}

impl Whereabouts {
    /// The stream can be followed nowhere, or nowhere yet.
    fn nowhere(told: Told) -> Self {
        Self {
            candidates: Vec::new(),
            told,
        }
    }
}

impl Told {
    pub(super) fn is_answer(self) -> bool {
        match self {
            Self::Busy | Self::Unavailable => false,
            Self::Nobody | Self::Owned => true,
        }
    }

    pub(super) fn may_be_owned(self) -> bool {
        match self {
            Self::Busy | Self::Owned => true,
            Self::Nobody | Self::Unavailable => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use registry::MemoryRegistry;
    use runtime::{budget::Budget, metrics::Metrics};

    use super::*;

    fn directory() -> (Directory, Asker) {
        let registry = Registry::Memory(MemoryRegistry::new());
        let metrics = OriginMetrics::register(&Metrics::default(), &Budget::new(1));
        let config = Arc::new(Config::new(OriginName::new("origin-0").unwrap()));
        Directory::parts(&config, &registry, &metrics)
    }

    fn stream_id(stream: &str) -> StreamId {
        StreamId::derive("default", "live", stream)
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_gets_no_turn_does_not_say_that_the_registry_is_gone() {
        let (directory, asker) = directory();
        let turns = directory.questions.reserve_many(ASKED_MAX).await.unwrap();
        let whereabouts = directory.whereabouts(stream_id("main")).await;
        assert_eq!(whereabouts.told, Told::Busy);
        assert!(whereabouts.candidates.is_empty());
        drop(turns);
        tokio::spawn(asker.run());
        let whereabouts = directory.whereabouts(stream_id("main")).await;
        assert_eq!(whereabouts.told, Told::Nobody, "it was asked");
        let asked = OpenLabels { outcome: "nobody" };
        assert_eq!(
            directory.metrics.owner_lookups.get_or_create(&asked).get(),
            1
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_thousands_of_streams_gets_all_answers_and_is_paced() {
        const STREAMS: u32 = 4000;
        let (directory, asker) = directory();
        tokio::spawn(asker.run());
        let began = Instant::now();
        let ids = (0..STREAMS).map(|number| stream_id(&number.to_string()));
        let asks = ids.map(|id| directory.whereabouts(id));
        let told = join_all(asks).await;
        assert!(told.iter().all(|of| of.told == Told::Nobody));
        let took = began.elapsed();
        println!("{STREAMS} streams: {took:?}");
        // Behind the last question nobody waits.
        let last = u32::try_from(ASKED_MAX).unwrap();
        assert!(took >= PAUSE_PER_STREAM * (STREAMS - last), "{took:?}");
        assert!(took < TURN_WAIT, "{took:?}");
    }
}
