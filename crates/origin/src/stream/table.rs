//! The streams that this origin holds.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

use media::log::LogLimits;
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use registry::StreamId;
use runtime::{budget::Budget, metrics::Metrics};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::sleep,
};

use super::{AttachError, Attached, Feed, Opening, Stream};
use crate::{
    config::{Backup, Config},
    metrics::OriginMetrics,
};

/// Of the process budget: from here on streams of other origins are not taken, so that readers leave publishers room.
const ADMIT_FOLLOWED_PERCENT: u8 = 80;

/// The streams that this origin holds. A cheap handle.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    backup: Backup,
    log_limits: LogLimits,
    publisher_lost_grace: Duration,
    streams_max: usize,
    followed_max: usize,
    /// Room for streams that other origins own, from before the first byte of one.
    followed: Arc<Semaphore>,
    followers_per_stream_max: usize,
    budget: Budget,
    metrics: OriginMetrics,
    /// Locked before a stream's own state, never after it.
    streams: RwLock<BTreeMap<StreamId, Arc<Stream>>>,
    /// Streams owned here.
    count: watch::Sender<usize>,
    /// Streams that were owned here, and moved because this origin leaves: others take in what it had of them.
    departed: watch::Sender<BTreeMap<StreamId, Arc<Stream>>>,
    /// Says that a stream was opened.
    opened: watch::Sender<()>,
    subscribers: Arc<Semaphore>,
}

/// How long another origin may begin to take in what this one had of a stream: its publisher is there already.
const DEPARTED_FOR: Duration = Duration::from_secs(2);

impl Streams {
    pub(crate) fn new(config: &Config, metrics: &Metrics) -> Self {
        let budget = Budget::new(config.limits.process_bytes_max);
        let metrics = OriginMetrics::register(metrics, &budget);
        Self {
            shared: Arc::new(Shared {
                backup: config.backup,
                log_limits: config.log,
                publisher_lost_grace: config.timing.publisher_lost_grace,
                streams_max: config.limits.streams_max,
                followed_max: config.limits.followed_streams_max,
                followed: Arc::new(Semaphore::new(config.limits.followed_streams_max)),
                followers_per_stream_max: config.limits.followers_per_stream_max,
                budget,
                metrics,
                streams: RwLock::default(),
                count: watch::Sender::default(),
                departed: watch::Sender::default(),
                opened: watch::Sender::new(()),
                subscribers: Arc::new(Semaphore::new(config.limits.subscribers_max)),
            }),
        }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.shared.budget
    }

    /// When readers get a stream's other publisher.
    pub(super) fn backup(&self) -> Backup {
        self.shared.backup
    }

    pub(super) fn log_limits(&self) -> LogLimits {
        self.shared.log_limits
    }

    /// How long a stream waits for a publisher, where the grant does not say so.
    pub(super) fn publisher_lost_grace(&self) -> Duration {
        self.shared.publisher_lost_grace
    }

    /// How far back a log reaches.
    pub(super) fn age_max(&self) -> Duration {
        self.shared.log_limits.age_max
    }

    pub(super) fn followers_per_stream_max(&self) -> usize {
        self.shared.followers_per_stream_max
    }

    pub(crate) fn metrics(&self) -> &OriginMetrics {
        &self.shared.metrics
    }

    /// Streams owned here.
    pub(crate) fn count(&self) -> usize {
        *self.shared.count.borrow()
    }

    /// Until no stream is owned here, and none that was is to be taken in elsewhere.
    pub(crate) async fn none(&self) {
        let mut count = self.shared.count.subscribe();
        let mut departed = self.shared.departed.subscribe();
        // The senders are here.
        count.wait_for(|count| *count == 0).await.ok();
        departed.wait_for(BTreeMap::is_empty).await.ok();
    }

    /// A stream that has just left this origin, which leaves too.
    pub(crate) fn departed(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.shared.departed.borrow().get(&id).cloned()
    }

    fn depart(&self, stream: &Arc<Stream>) {
        let (id, departed) = (stream.id, Arc::clone(stream));
        self.shared.departed.send_modify(|streams| {
            streams.insert(id, departed);
        });
        let streams = self.clone();
        tokio::spawn(async move {
            sleep(DEPARTED_FOR).await;
            streams.shared.departed.send_modify(|streams| {
                streams.remove(&id);
            });
        });
    }

    /// Logs that are here, whoever owns their streams, and whether or not readers find them yet: of a stream with two
    /// publishers, two.
    pub(super) fn held(&self) -> usize {
        let shared = &self.shared;
        let room = shared.followed.available_permits();
        let followed = shared.followed_max.saturating_sub(room);
        let standbys = self.metrics().backed_up_streams.get();
        let standbys = usize::try_from(standbys).unwrap_or_default();
        self.count()
            .saturating_add(followed)
            .saturating_add(standbys)
    }

    /// Room for one more subscriber, also for one that waits.
    pub(crate) fn admit_subscriber(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.subscribers)
            .try_acquire_owned()
            .ok()
    }

    pub(crate) fn find(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.shared.streams.read().get(&id).cloned()
    }

    /// The stream, where readers have something to begin with.
    pub(crate) fn readable(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.find(id).filter(|stream| stream.is_readable())
    }

    /// The stream, where this origin owns it.
    pub(crate) fn owned(&self, id: StreamId) -> Option<Arc<Stream>> {
        self.find(id).filter(|stream| stream.owner().is_none())
    }

    /// Every stream that this origin owns.
    pub(crate) fn all_owned(&self) -> Vec<Arc<Stream>> {
        let mut streams: Vec<_> = self.shared.streams.read().values().cloned().collect();
        streams.retain(|stream| stream.owner().is_none());
        streams
    }

    /// Attaches a publisher; a stream that is not held yet is made. One that was followed goes on with it.
    pub(crate) fn attach(&self, opening: &Opening) -> Result<Attached, AttachError> {
        let now = Instant::now();
        let (id, slot) = opening.place;
        let mut streams = self.shared.streams.write();
        let held = streams.get(&id).cloned();
        let owned = held.as_ref().is_some_and(|held| held.owner().is_none());
        if !owned && self.count() >= self.shared.streams_max {
            return Err(AttachError::StreamsExceeded);
        }
        let goes_on = |held: &Arc<Stream>| owned || held.broadcast_id == opening.broadcast_id;
        if let Some(held) = held.as_ref().filter(|held| goes_on(held)) {
            let unread = !held.is_readable();
            let attached = held.attach(opening, now)?;
            if !owned {
                self.metrics().followed_streams.dec();
                self.counted(1);
            }
            drop(streams);
            if unread {
                self.announce_opened();
            }
            return Ok(attached);
        }
        // Whom readers had before may be on the way here too.
        let on_air = if opening.standby { slot.other() } else { slot };
        let broadcast_id = opening.broadcast_id.clone();
        let stream = Arc::new(Stream::new(id, broadcast_id, on_air, self.clone()));
        let attached = stream.attach(opening, now)?;
        if let Some(followed) = held {
            followed.replaced_by(slot, opening.token)?;
            self.metrics().followed_streams.dec();
        }
        streams.insert(id, stream);
        self.counted(1);
        drop(streams);
        self.announce_opened();
        Ok(attached)
    }

    /// Room for one more stream of another origin.
    pub(crate) fn admit_followed(&self) -> Option<OwnedSemaphorePermit> {
        if self.budget().percent() >= ADMIT_FOLLOWED_PERCENT {
            return None;
        }
        Arc::clone(&self.shared.followed).try_acquire_owned().ok()
    }

    /// Lets readers find a followed stream, unless there is one by now. Whether they do.
    pub(crate) fn enter(&self, feed: &Feed) -> bool {
        let mut streams = self.shared.streams.write();
        let Entry::Vacant(vacant) = streams.entry(feed.stream().id) else {
            return false;
        };
        vacant.insert(Arc::clone(feed.stream()));
        self.metrics().followed_streams.inc();
        drop(streams);
        self.announce_opened();
        true
    }

    /// Tells who waits that there is a stream to read.
    pub(super) fn announce_opened(&self) {
        self.shared.opened.send_replace(());
    }

    /// Says when a stream may have come.
    pub(crate) fn opened(&self) -> watch::Receiver<()> {
        self.shared.opened.subscribe()
    }

    /// Counts a reader as one that waits, until this is dropped.
    pub(crate) fn waiting(&self) -> impl Drop {
        Waiting::new(self.shared.metrics.subscribers_waiting.clone())
    }

    /// Takes a stream out if it ends, which `ends` does under the table's lock: nobody attaches to an ended stream.
    pub(super) fn take_out(&self, stream: &Arc<Stream>, ends: impl FnOnce() -> bool) {
        let mut streams = self.shared.streams.write();
        if !ends() {
            return;
        }
        let entered = |held: &Arc<Stream>| Arc::ptr_eq(held, stream);
        if streams.get(&stream.id).is_some_and(entered) {
            streams.remove(&stream.id);
            if stream.owner().is_some() {
                self.metrics().followed_streams.dec();
            } else {
                if stream.has_gone_on() {
                    self.depart(stream);
                }
                self.counted(-1);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn locked(&self) -> bool {
        self.shared.streams.is_locked()
    }

    /// Under the table's lock.
    fn counted(&self, change: isize) {
        let count = self.count().saturating_add_signed(change);
        self.shared.count.send_replace(count);
        let gauge = &self.shared.metrics.streams;
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}

/// Counts for as long as somebody waits.
struct Waiting(Gauge);

impl Waiting {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}
