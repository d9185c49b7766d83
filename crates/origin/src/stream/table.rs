//! The streams that this origin holds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use media::log::{Log, LogLimits};
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use registry::{Slot, StreamId};
use runtime::{budget::Budget, metrics::Metrics};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::{AttachError, Dismissal, Opening, Place, Publication, Stream};
use crate::{config::Config, metrics::OriginMetrics};

/// The streams that this origin holds. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    log_limits: LogLimits,
    streams_max: usize,
    budget: Budget,
    metrics: OriginMetrics,
    /// Locked before a stream's own state, never after it.
    streams: RwLock<BTreeMap<Place, Arc<Stream>>>,
    count: AtomicUsize,
    /// Says that a stream was opened.
    opened: watch::Sender<()>,
    subscribers: Arc<Semaphore>,
}

impl Streams {
    pub(crate) fn new(config: &Config, metrics: &Metrics) -> Self {
        let budget = Budget::new(config.limits.process_bytes_max);
        let metrics = OriginMetrics::register(metrics, &budget);
        Self {
            shared: Arc::new(Shared {
                log_limits: config.log,
                streams_max: config.limits.streams_max,
                budget,
                metrics,
                streams: RwLock::default(),
                count: AtomicUsize::new(0),
                opened: watch::Sender::new(()),
                subscribers: Arc::new(Semaphore::new(config.limits.subscribers_max)),
            }),
        }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// How far back a log reaches.
    pub(super) fn age_max(&self) -> Duration {
        self.shared.log_limits.age_max
    }

    pub(crate) fn metrics(&self) -> &OriginMetrics {
        &self.shared.metrics
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Room for one more subscriber, also for one that waits.
    pub(crate) fn admit_subscriber(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.subscribers)
            .try_acquire_owned()
            .ok()
    }

    pub(crate) fn find(&self, place: Place) -> Option<Arc<Stream>> {
        self.shared.streams.read().get(&place).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Stream>> {
        self.shared.streams.read().values().cloned().collect()
    }

    /// Attaches a publisher; a stream that is not held yet is made.
    pub(crate) fn attach(
        &self,
        opening: &Opening,
    ) -> Result<(Publication, oneshot::Receiver<Dismissal>), AttachError> {
        let now = Instant::now();
        let mut streams = self.shared.streams.write();
        if let Some(stream) = streams.get(&opening.place) {
            return stream.attach(opening, now);
        }
        if streams.len() >= self.shared.streams_max {
            return Err(AttachError::StreamsExceeded);
        }
        let stream = Arc::new(Stream::new(
            opening.place,
            opening.broadcast_id.clone(),
            Log::new(self.shared.log_limits),
            self.clone(),
        ));
        let attached = stream.attach(opening, now)?;
        streams.insert(opening.place, stream);
        self.counted(streams.len());
        drop(streams);
        self.shared.opened.send_replace(());
        Ok(attached)
    }

    /// The stream as players see it, its primary publisher's. One that is not there is waited for until `deadline`;
    /// whether it was, too.
    pub(crate) async fn wait(
        &self,
        stream_id: StreamId,
        deadline: tokio::time::Instant,
    ) -> Option<(Arc<Stream>, bool)> {
        let place = (stream_id, Slot::PRIMARY);
        if let Some(stream) = self.find(place) {
            return Some((stream, false));
        }
        let _waiting = Waiting::new(&self.shared.metrics.subscribers_waiting);
        let mut opened = self.shared.opened.subscribe();
        loop {
            opened.borrow_and_update();
            if let Some(stream) = self.find(place) {
                return Some((stream, true));
            }
            tokio::time::timeout_at(deadline, opened.changed())
                .await
                .ok()?
                .ok()?;
        }
    }

    /// Takes a stream out if it ends, which `ends` does under the table's lock: nobody attaches to an ended stream.
    pub(super) fn take_out(&self, stream: &Stream, ends: impl FnOnce() -> bool) -> bool {
        let mut streams = self.shared.streams.write();
        let ended = ends();
        if ended {
            streams.remove(&stream.place);
            self.counted(streams.len());
        }
        ended
    }

    #[cfg(test)]
    pub(super) fn locked(&self) -> bool {
        self.shared.streams.is_locked()
    }

    fn counted(&self, streams: usize) {
        self.shared.count.store(streams, Ordering::Relaxed);
        let gauge = &self.shared.metrics.streams;
        gauge.set(i64::try_from(streams).unwrap_or(i64::MAX));
    }
}

/// Counts for as long as somebody waits.
struct Waiting<'a>(&'a Gauge);

impl<'a> Waiting<'a> {
    fn new(gauge: &'a Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
