//! A subscriber: a cursor into a stream's log that waits for more.

use std::sync::Arc;

use media::log::{Class, Event, LagError, Log, Reader, Start};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{End, Stream};
use crate::metrics::OutputLabels;

/// A subscriber's place in a stream.
pub(crate) struct Subscription {
    stream: Arc<Stream>,
    reader: Reader,
    changed: watch::Receiver<()>,
    labels: OutputLabels,
    _admitted: OwnedSemaphorePermit,
}

/// Where a subscriber begins.
#[derive(Debug)]
pub(crate) struct SubscriptionStart<'a> {
    /// From [`Streams::admit_subscriber`](super::Streams::admit_subscriber).
    pub(crate) admitted: OwnedSemaphorePermit,
    pub(crate) class: Class,
    pub(crate) start: Start<'a>,
    pub(crate) labels: OutputLabels,
}

/// What a subscriber gets next.
#[derive(Debug)]
pub(crate) enum Next {
    End(End),
    Event(Event),
}

impl Stream {
    pub(crate) fn subscribe(self: &Arc<Self>, start: SubscriptionStart<'_>) -> Subscription {
        let SubscriptionStart {
            admitted,
            class,
            start,
            labels,
        } = start;
        let metrics = self.streams.metrics();
        metrics.subscribers.get_or_create(&labels).inc();
        Subscription {
            stream: Arc::clone(self),
            reader: self.state.lock().log.reader(class, start),
            changed: self.changed.subscribe(),
            labels,
            _admitted: admitted,
        }
    }
}

impl Subscription {
    pub(crate) fn broadcast_id(&self) -> &str {
        &self.stream.broadcast_id
    }

    /// The reconnect window of the stream's latest session, where its grant has one.
    pub(crate) fn window(&self) -> Option<std::time::Duration> {
        self.stream.window()
    }

    /// What comes next, as soon as it is there: frames of up to `bytes_max`, or one frame.
    pub(crate) async fn next(&mut self, bytes_max: usize) -> Result<Next, LagError> {
        loop {
            if let Ok(next) = self.next_or(bytes_max, |_log| ())? {
                return Ok(next);
            }
            if self.changed.changed().await.is_err() {
                // The stream holds the sender and this holds the stream.
                return Ok(Next::End(End::Ended {
                    reason: String::new(),
                }));
            }
        }
    }

    /// What comes next, or, where that is not there yet, what the log says of it.
    pub(crate) fn next_or<T>(
        &mut self,
        bytes_max: usize,
        of_nothing: impl FnOnce(&Log) -> T,
    ) -> Result<Result<Next, T>, LagError> {
        self.changed.borrow_and_update();
        let state = self.stream.state.lock();
        let event = state.log.read(&mut self.reader, bytes_max)?;
        let end = || state.end.clone().map(Next::End);
        let next = event.map(Next::Event).or_else(end);
        let next = next.ok_or_else(|| of_nothing(&state.log));
        drop(state);
        let metrics = self.stream.streams.metrics();
        match &next {
            Ok(Next::Event(Event::Frames(frames))) => {
                let bytes: usize = frames.iter().map(|entry| entry.frame.body.len()).sum();
                let sent = metrics.sent_bytes.get_or_create(&self.labels);
                sent.inc_by(bytes as u64);
            }
            Ok(Next::Event(Event::Gap(_))) => {
                metrics.gaps.get_or_create(&self.labels).inc();
            }
            Ok(Next::Event(Event::Header(_)) | Next::End(_)) | Err(_) => {}
        }
        Ok(next)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let metrics = self.stream.streams.metrics();
        metrics.subscribers.get_or_create(&self.labels).dec();
    }
}
