//! Hop 6 of a frame's life: one log per stream. A publisher holds a [`Publication`], a subscriber a [`Subscription`].
//! Where another origin owns the stream, what that one's log tells is written by a [`Feed`], until a publisher comes here.
//!
//! One origin accepts one fencing token at a time per stream and slot, the highest it has seen. A publisher never waits
//! for a subscriber: subscribers are cursors into the log that are woken.

mod feed;
mod subscription;
mod table;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use media::{
    Frame,
    log::{Appended, Log, SequenceError, Token},
};
use parking_lot::Mutex;
use registry::{FencingToken, OriginName, Slot, StreamId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

pub(crate) use self::{
    feed::{Feed, FeedError, Position, SessionHeader, Superseded},
    subscription::{Next, Subscription, SubscriptionStart},
    table::Streams,
};
use runtime::budget::{Budget, Share};

/// A stream's publisher's place: fencing is per (stream, slot).
pub(crate) type Place = (StreamId, Slot);

/// What readers of a followed stream are told whose owner has gone on to another one.
pub(crate) const ANOTHER_BROADCAST: &str = "another broadcast began";

/// One published media stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) place: Place,
    pub(crate) broadcast_id: String,
    state: Mutex<State>,
    /// Says that there is something new to read.
    changed: watch::Sender<()>,
    streams: Streams,
    /// Other origins that follow this one.
    followers: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    log: Log,
    share: Share,
    /// The highest seen.
    token: FencingToken,
    /// Of the latest session, where its grant has one.
    window: Option<Duration>,
    publisher: Option<Publisher>,
    /// Another origin owns the stream.
    followed: Option<Followed>,
    /// Since when there is no publisher.
    lost: Option<Instant>,
    /// Nothing is appended any more.
    end: Option<End>,
}

/// The RPC that may write.
#[derive(Debug)]
struct Publisher {
    token: FencingToken,
    dismiss: oneshot::Sender<Dismissal>,
}

/// Where the log of a followed stream comes from.
#[derive(Debug)]
struct Followed {
    owner: OriginName,
    /// What the owner has added to the timestamps of the session's frames.
    timeline_offset_ms: i64,
    /// The session has had no frame: its place in time is not known.
    unplaced: bool,
    /// Dropped when a publisher comes here.
    _superseded: oneshot::Sender<()>,
}

/// Why a publisher must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dismissal {
    /// A higher token was seen, here or in the registry.
    Fenced(FencingToken),
}

/// How a stream ended for its subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its publisher finished, or did not come back.
    Ended { reason: String },
    /// Another origin has it; empty where its name is not known.
    Moved { origin: String },
}

/// What a Publish RPC wants, its grant and token checked against everything but the stream itself.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub(crate) place: Place,
    pub(crate) session_id: String,
    pub(crate) broadcast_id: String,
    /// Epoch 0 asks for one.
    pub(crate) token: FencingToken,
    pub(crate) first_sequence: u64,
    pub(crate) timeline_offset_ms: Option<i64>,
    /// How long the session's publisher may be away; `None`: as long as the origin has it.
    pub(crate) window: Option<Duration>,
}

/// How long a stream waits for a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// Where the way to it broke, which is not its fault.
    pub(crate) broken: Duration,
    /// Where it was lost.
    pub(crate) lost: Duration,
}

/// Why a stream did not take a publisher.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum AttachError {
    #[error("a higher fencing token was seen")]
    Fenced(FencingToken),
    #[error("no more streams are taken")]
    StreamsExceeded,
}

/// Why frames were not taken.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum AppendError {
    #[error("the process has no memory left for media")]
    Budget,
    #[error("another publisher took over, or the stream ended")]
    Dismissed,
    #[error(transparent)]
    Sequence(#[from] SequenceError),
}

/// The right to write to a stream, until another token takes it. Dropped without [`close`](Self::close): the publisher
/// was lost and may come back.
#[derive(Debug)]
pub(crate) struct Publication {
    stream: Arc<Stream>,
    token: FencingToken,
    /// Half-received bodies.
    partial: Share,
    pub(crate) timeline_offset_ms: i64,
}

impl Stream {
    fn new(place: Place, broadcast_id: String, log: Log, streams: Streams) -> Self {
        Self {
            place,
            broadcast_id,
            state: Mutex::new(State {
                log,
                share: streams.budget().share(),
                token: FencingToken {
                    epoch: 0,
                    attempt: 0,
                },
                window: None,
                publisher: None,
                followed: None,
                lost: None,
                end: None,
            }),
            changed: watch::Sender::new(()),
            followers: Arc::new(Semaphore::new(streams.followers_per_stream_max())),
            streams,
        }
    }

    /// Takes a publisher, whose token must be higher than any before. The one before it is dismissed.
    fn attach(
        self: &Arc<Self>,
        opening: &Opening,
        now: Instant,
    ) -> Result<(Publication, oneshot::Receiver<Dismissal>), AttachError> {
        let mut state = self.state.lock();
        let token = opening.token;
        if token <= state.token {
            return Err(AttachError::Fenced(state.token));
        }
        let unplaced = state.followed.take().is_some_and(|it| it.unplaced);
        let timeline_offset_ms = state.open_session(opening, unplaced);
        let (dismiss, dismissed) = oneshot::channel();
        let replaced = state.publisher.replace(Publisher { token, dismiss });
        if let Some(replaced) = replaced {
            replaced.dismiss(Dismissal::Fenced(token));
        }
        if let Some(lost) = state.lost.take() {
            let gap = now.saturating_duration_since(lost);
            let metrics = self.streams.metrics();
            metrics.splice_gap_seconds.observe(gap.as_secs_f64());
        }
        state.token = token;
        state.window = opening.window;
        drop(state);
        // Who waits for a lost publisher does not any more.
        self.changed.send_replace(());
        let publication = Publication {
            stream: Arc::clone(self),
            token,
            partial: self.streams.budget().share(),
            timeline_offset_ms,
        };
        Ok((publication, dismissed))
    }

    /// Ends a followed stream for another broadcast, whose token must be higher than any of this one.
    fn replaced_by(self: &Arc<Self>, token: FencingToken) -> Result<(), AttachError> {
        let mut state = self.state.lock();
        if token <= state.token {
            return Err(AttachError::Fenced(state.token));
        }
        let reason = ANOTHER_BROADCAST.to_owned();
        self.close(&mut state, End::Ended { reason });
        state.followed = None;
        Ok(())
    }

    /// The origin that owns the stream, where it is not this one.
    pub(crate) fn owner(&self) -> Option<OriginName> {
        let state = self.state.lock();
        state.followed.as_ref().map(|it| it.owner.clone())
    }

    /// Room for one more origin that follows.
    pub(crate) fn admit_follower(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.followers).try_acquire_owned().ok()
    }

    /// The highest token seen.
    pub(crate) fn token(&self) -> FencingToken {
        self.state.lock().token
    }

    /// How long it waits for its publisher to come back.
    pub(crate) fn patience(&self) -> Patience {
        let grace = self.streams.publisher_lost_grace();
        let lost = self.window().unwrap_or(grace);
        Patience {
            broken: lost.max(grace),
            lost,
        }
    }

    /// The reconnect window of the latest session's grant, where it has one.
    pub(crate) fn window(&self) -> Option<Duration> {
        self.state.lock().window
    }

    /// Since when there is no publisher; `None`: there is one, or the stream has ended.
    pub(crate) fn lost(&self) -> Option<Instant> {
        let state = self.state.lock();
        state.lost.filter(|_| state.end.is_none())
    }

    /// Until a publisher came back since it was `lost`, or the stream ended.
    pub(crate) async fn found_again(&self, lost: Instant) {
        let mut changed = self.changed.subscribe();
        while self.lost() == Some(lost) && changed.changed().await.is_ok() {}
    }

    /// The publisher must not go on: the registry knows of a higher token.
    pub(crate) fn dismiss_publisher(&self, token: FencingToken) {
        let mut state = self.state.lock();
        state.token = state.token.max(token);
        if let Some(publisher) = state.publisher.take() {
            state.lost = Some(Instant::now());
            publisher.dismiss(Dismissal::Fenced(token));
        }
    }

    /// Ends the stream for everybody. Subscribers still get what is in the log.
    pub(crate) fn end(self: &Arc<Self>, end: End) {
        self.end_if(end, |_state| true);
    }

    /// Ends the stream if no publisher came since it was `lost`.
    pub(crate) fn end_if_lost(self: &Arc<Self>, lost: Instant, end: End) {
        self.end_if(end, |state| state.lost == Some(lost));
    }

    fn end_if(self: &Arc<Self>, end: End, condition: impl FnOnce(&State) -> bool) {
        self.streams.take_out(self, || {
            let mut state = self.state.lock();
            let ends = state.end.is_none() && condition(&state);
            if ends {
                self.close(&mut state, end);
            }
            ends
        });
    }

    /// Nothing is appended any more. To be followed by leaving the table.
    fn close(self: &Arc<Self>, state: &mut State, end: End) {
        tracing::info!(stream_id = %self.place.0, ?end, "stream ended");
        state.end = Some(end);
        if let Some(publisher) = state.publisher.take() {
            publisher.dismiss(Dismissal::Fenced(state.token));
        }
        self.changed.send_replace(());
        tokio::spawn(let_go(Arc::downgrade(self), self.streams.age_max()));
    }
}

/// Lets an ended stream's log go once a reader that reads has read it: one that takes nothing would hold it, and its
/// share of the process's memory, for ever.
async fn let_go(stream: Weak<Stream>, after: Duration) {
    tokio::time::sleep(after).await;
    if let Some(stream) = stream.upgrade() {
        let mut state = stream.state.lock();
        state.log.clear();
        state.share.set(0);
    }
}

impl Publisher {
    fn dismiss(self, dismissal: Dismissal) {
        // An error says that the RPC has ended by itself.
        self.dismiss.send(dismissal).ok();
    }
}

impl State {
    /// Continues the session that the log holds, or begins another one behind it. Its timeline offset. `unplaced`: the log
    /// holds no frame of its session, and not its place in time.
    ///
    /// Frames that the edge has no more are a gap, declared or not: where the session was at another origin in between,
    /// that one has acknowledged them.
    fn open_session(&mut self, opening: &Opening, unplaced: bool) -> i64 {
        let token = log_token(opening.token);
        let latest_ms = self.log.latest_output_ms();
        // Assigned once, at the session's first acceptance: its own clock continues behind what was put out.
        let assigned_ms = opening
            .timeline_offset_ms
            .unwrap_or_else(|| latest_ms.map_or(0, |latest_ms| latest_ms.saturating_add(1)));
        if let Some((session_id, _expected, timeline_offset_ms)) = self.log.session()
            && session_id == opening.session_id
        {
            self.log.continue_session(token, opening.first_sequence);
            if unplaced {
                self.log.move_session(assigned_ms);
                return assigned_ms;
            }
            return timeline_offset_ms;
        }
        self.log.begin_session(
            &opening.session_id,
            token,
            assigned_ms,
            opening.first_sequence,
        );
        assigned_ms
    }

    /// The budget knows what the log holds now.
    fn charge(&mut self, streams: &Streams) {
        self.share.set(self.log.bytes());
        self.give_way(streams.budget(), streams.held());
    }

    /// Lets history go where the process holds too much: down to an equal share, whoever caused it.
    fn give_way(&mut self, budget: &Budget, streams: usize) {
        if budget.exhausted() {
            self.log.shrink(budget.bytes_max() / streams.max(1));
            self.share.set(self.log.bytes());
        }
    }
}

impl Publication {
    pub(crate) fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The first frame that is wanted.
    pub(crate) fn next_sequence(&self) -> u64 {
        let state = self.stream.state.lock();
        state.log.session().map_or(0, |(_, next, _)| next)
    }

    /// Tells the session's headers from before its first frame here.
    pub(crate) fn seed(&self, headers: &[(u64, Frame)]) -> Result<(), AppendError> {
        let mut state = self.stream.state.lock();
        self.check(&state)?;
        for (sequence, frame) in headers {
            state.log.seed_header(*sequence, frame);
        }
        Ok(())
    }

    /// Takes frames; those before [`next_sequence`](Self::next_sequence) were taken before and are passed over.
    /// `partial_bytes`: of a body whose end is still to come. The next frame that is wanted.
    pub(crate) fn append(
        &mut self,
        frames: Vec<(u64, Frame)>,
        partial_bytes: usize,
    ) -> Result<u64, AppendError> {
        let budget = self.stream.streams.budget();
        self.partial.set(partial_bytes);
        let now = Instant::now();
        let (appended, next_sequence) = {
            let mut state = self.stream.state.lock();
            self.check(&state)?;
            let mut frames = frames.into_iter();
            let appended = frames.try_for_each(|(sequence, frame)| {
                if state.log.append(sequence, frame, now)? == Appended::Duplicate {
                    self.stream.streams.metrics().duplicate_frames.inc();
                }
                Ok::<_, SequenceError>(())
            });
            state.charge(&self.stream.streams);
            (appended, state.log.session().map_or(0, |(_, next, _)| next))
        };
        // Also where a frame was refused: those before it are in the log.
        self.stream.changed.send_replace(());
        appended?;
        if budget.overrun() {
            return Err(AppendError::Budget);
        }
        Ok(next_sequence)
    }

    /// The publisher finished: the stream ends.
    pub(crate) fn close(self, reason: &str) {
        let token = self.token;
        let end = End::Ended {
            reason: reason.to_owned(),
        };
        self.stream.end_if(end, |state| state.published_by(token));
    }

    fn check(&self, state: &State) -> Result<(), AppendError> {
        if state.published_by(self.token) {
            Ok(())
        } else {
            Err(AppendError::Dismissed)
        }
    }
}

impl State {
    fn published_by(&self, token: FencingToken) -> bool {
        self.publisher
            .as_ref()
            .is_some_and(|publisher| publisher.token == token)
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let mut state = self.stream.state.lock();
        if state.published_by(self.token) {
            state.publisher = None;
            state.lost = Some(Instant::now());
        }
    }
}

fn log_token(token: FencingToken) -> Token {
    Token {
        epoch: token.epoch,
        attempt: token.attempt,
    }
}

#[cfg(test)]
mod tests;
