//! Hop 6 of a frame's life: one log per stream. A publisher holds a [`Publication`], a subscriber a [`Subscription`].
//! Where another origin owns the stream, what that one's log tells is written by a [`Feed`], until a publisher comes here.
//!
//! One origin accepts one fencing token at a time per stream and slot, the highest it has seen. A publisher never waits
//! for a subscriber: subscribers are cursors into the log that are woken.
//!
//! A stream has two inputs, primary and backup, and its log is the programme: one input at a time is on air and writes
//! there. The other one's latest GOP is kept warm until `selection` says that it comes on air.
//!
//! | file | what |
//! |---|---|
//! | `feed` | what another origin's log tells |
//! | `programme` | which log an input writes to, and the cut from one input to the other |
//! | `publication` | a publisher's side |
//! | `selection` | which input is on air; pure |
//! | `subscription` | a reader's side |
//! | `table` | the streams of this origin |

mod feed;
mod programme;
mod publication;
mod selection;
mod slots;
mod subscription;
mod table;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use media::log::{Log, SequenceError, Token};
use parking_lot::Mutex;
use registry::{FencingToken, OriginName, Slot, StreamId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

pub(crate) use self::{
    feed::{Feed, FeedError, Position, SessionHeader, Superseded},
    publication::{Progress, Publication},
    slots::Slots,
    subscription::{Next, Subscription, SubscriptionStart},
    table::Streams,
};
use self::{programme::Standby, selection::Selection};
use crate::fencing;
use runtime::budget::Share;

/// A stream's publisher's place: fencing is per (stream, slot).
pub(crate) type Place = (StreamId, Slot);

/// What readers of a followed stream are told whose owner has gone on to another one.
pub(crate) const ANOTHER_BROADCAST: &str = "another broadcast began";

/// One published media stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) broadcast_id: String,
    state: Mutex<State>,
    /// Says that there is something new to read.
    changed: watch::Sender<()>,
    /// Says that another input came on air.
    switched: watch::Sender<()>,
    streams: Streams,
    /// Other origins that follow this one.
    followers: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    /// What readers get: the frames of the input that is on air.
    log: Log,
    share: Share,
    inputs: Slots<Input>,
    selection: Selection,
    /// The log's current session has had no frame: its place in time is not known.
    unplaced: bool,
    /// The input on air stays there, until it has been silent for a while: this origin is being left by both.
    held: bool,
    /// Counted as one with two publishers.
    backed_up: bool,
    /// Another origin owns the stream.
    followed: Option<Followed>,
    /// Nothing is appended any more.
    end: Option<End>,
}

/// One of the two publishers that a stream may have.
#[derive(Debug)]
struct Input {
    /// The highest seen.
    token: FencingToken,
    /// Of the latest session, where its grant has one.
    window: Option<Duration>,
    publisher: Option<Publisher>,
    /// Since when it has been waited for.
    lost: Option<Instant>,
    /// Where it is not on air.
    standby: Option<Standby>,
}

/// The RPC that may write.
#[derive(Debug)]
struct Publisher {
    token: FencingToken,
    dismiss: oneshot::Sender<Dismissal>,
    /// Asks it to go on at another origin.
    leave: watch::Sender<Option<OriginName>>,
}

/// Where the log of a followed stream comes from.
#[derive(Debug)]
struct Followed {
    owner: OriginName,
    /// What the owner has added to the timestamps of the session's frames.
    timeline_offset_ms: i64,
    /// When frames came last.
    fed: Option<Instant>,
    /// Nothing more comes from that owner.
    dry: bool,
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
    /// No decoder can start at that.
    pub(crate) gap_before: bool,
    pub(crate) timeline_offset_ms: Option<i64>,
    /// Readers had the other slot's frames at the origin before.
    pub(crate) standby: bool,
    /// How long the session's publisher may be away; `None`: as long as the origin has it.
    pub(crate) window: Option<Duration>,
}

/// A publisher that was taken, and what it is told.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) publication: Publication,
    pub(crate) dismissed: oneshot::Receiver<Dismissal>,
    /// Another origin, where it is to go on.
    pub(crate) leave: watch::Receiver<Option<OriginName>>,
    /// Changes with the input that is on air.
    pub(crate) switched: watch::Receiver<()>,
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
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum AttachError {
    #[error("the stream's other publisher is at another origin")]
    Elsewhere(OriginName),
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

impl Stream {
    fn new(id: StreamId, broadcast_id: String, on_air: Slot, streams: Streams) -> Self {
        let log = Log::new(streams.log_limits());
        Self {
            id,
            broadcast_id,
            state: Mutex::new(State {
                log,
                share: streams.budget().share(),
                inputs: Slots::from_fn(|_slot| Input::absent()),
                selection: Selection::new(streams.backup(), on_air, Instant::now()),
                unplaced: false,
                held: false,
                backed_up: false,
                followed: None,
                end: None,
            }),
            changed: watch::Sender::new(()),
            switched: watch::Sender::new(()),
            followers: Arc::new(Semaphore::new(streams.followers_per_stream_max())),
            streams,
        }
    }

    /// Takes a publisher, whose token must be higher than any before of its slot. The one before it is dismissed.
    fn attach(self: &Arc<Self>, opening: &Opening, now: Instant) -> Result<Attached, AttachError> {
        let mut state = self.state.lock();
        let (token, slot) = (opening.token, opening.place.1);
        let seen = state.inputs.of(slot).token;
        if token <= seen {
            return Err(AttachError::Fenced(seen));
        }
        let on_air = state.selection.on_air() == slot;
        if !on_air && let Some(owner) = state.fed_by(self.streams.backup(), now) {
            return Err(AttachError::Elsewhere(owner));
        }
        if state.followed.take().is_some() {
            // Whom readers have may be on the way here too.
            let on_air = state.selection.on_air();
            state.selection.told(on_air, now);
        }
        let timeline_offset_ms = state.open_session(opening, now, &self.streams);
        let (dismiss, dismissed) = oneshot::channel();
        let (ask_to_leave, leave) = watch::channel(None);
        let input = state.inputs.of_mut(slot);
        input.token = token;
        let replaced = input.publisher.replace(Publisher {
            token,
            dismiss,
            leave: ask_to_leave,
        });
        if let Some(replaced) = replaced {
            replaced.dismiss(Dismissal::Fenced(token));
        }
        if let Some(lost) = input.lost.take() {
            let gap = now.saturating_duration_since(lost);
            let metrics = self.streams.metrics();
            metrics.splice_gap_seconds.observe(gap.as_secs_f64());
        }
        state.inputs.of_mut(slot).window = opening.window;
        state.selection.joined(slot, now);
        state.count_backup(self.streams.metrics());
        drop(state);
        // Who waits for a lost publisher does not any more.
        self.changed.send_replace(());
        let publication = Publication::new(self, slot, token, timeline_offset_ms);
        Ok(Attached {
            publication,
            dismissed,
            leave,
            switched: self.switched.subscribe(),
        })
    }

    /// Ends a followed stream for another broadcast, whose token must be higher than any of this one.
    fn replaced_by(self: &Arc<Self>, slot: Slot, token: FencingToken) -> Result<(), AttachError> {
        let mut state = self.state.lock();
        let seen = state.inputs.of(slot).token;
        if token <= seen {
            return Err(AttachError::Fenced(seen));
        }
        let owner = state.fed_by(self.streams.backup(), Instant::now());
        if let Some(owner) = owner.filter(|_| slot != state.selection.on_air()) {
            return Err(AttachError::Elsewhere(owner));
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

    /// The highest token seen of each slot.
    pub(crate) fn tokens(&self) -> Slots<FencingToken> {
        let state = self.state.lock();
        Slots::from_fn(|slot| state.inputs.of(slot).token)
    }

    /// How long it waits for the publisher of a slot to come back.
    pub(crate) fn patience(&self, slot: Slot) -> Patience {
        let grace = self.streams.publisher_lost_grace();
        let lost = self.state.lock().inputs.of(slot).window;
        let lost = lost.unwrap_or(grace);
        Patience {
            broken: lost.max(grace),
            lost,
        }
    }

    /// Whose frames readers get.
    pub(crate) fn on_air(&self) -> Slot {
        self.state.lock().selection.on_air()
    }

    /// The reconnect window of that publisher's latest grant, where it has one.
    pub(crate) fn window(&self) -> Option<Duration> {
        let state = self.state.lock();
        state.inputs.of(state.selection.on_air()).window
    }

    /// Whether a slot has a publisher, or waits for one.
    pub(crate) fn is_present(&self, slot: Slot) -> bool {
        self.state.lock().inputs.of(slot).is_present()
    }

    /// The slots that have a publisher, or wait for one.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let state = self.state.lock();
        let present = |(slot, input): (Slot, &Input)| input.is_present().then_some(slot);
        state.inputs.iter().filter_map(present).collect()
    }

    /// Whether readers have something to begin with.
    pub(crate) fn is_readable(&self) -> bool {
        self.state.lock().log.session().is_some()
    }

    /// Since when a slot's publisher has been waited for; `None`: there is one, or the stream has ended.
    pub(crate) fn lost(&self, slot: Slot) -> Option<Instant> {
        let state = self.state.lock();
        let lost = state.inputs.of(slot).lost;
        lost.filter(|_| state.end.is_none())
    }

    /// Until a publisher came back since it was `lost`, or the stream ended.
    pub(crate) async fn found_again(&self, slot: Slot, lost: Instant) {
        let mut changed = self.changed.subscribe();
        while self.lost(slot) == Some(lost) && changed.changed().await.is_ok() {}
    }

    /// Whether its publishers have left this origin, which leaves too.
    pub(super) fn has_gone_on(&self) -> bool {
        let state = self.state.lock();
        match &state.end {
            Some(End::Moved { .. }) => state.held,
            Some(End::Ended { .. }) | None => false,
        }
    }

    /// Until everything is here that the origin has which this stream is followed from.
    pub(crate) async fn taken_in(&self) {
        let mut changed = self.changed.subscribe();
        let is_fed = || {
            let state = self.state.lock();
            let followed = state.followed.as_ref();
            state.end.is_none() && followed.is_some_and(|followed| !followed.dry)
        };
        while is_fed() && changed.changed().await.is_ok() {}
    }

    /// The publisher must not go on: the registry knows of a higher token.
    pub(crate) fn dismiss_publisher(&self, slot: Slot, token: FencingToken) {
        let mut state = self.state.lock();
        let input = state.inputs.of_mut(slot);
        input.token = input.token.max(token);
        if let Some(publisher) = input.publisher.take() {
            publisher.dismiss(Dismissal::Fenced(token));
            self.publisher_lost(&mut state, slot);
        }
    }

    /// Asks a slot's publisher to go on at another origin. To be repeated for as long as that holds.
    pub(crate) fn ask_to_leave(&self, slot: Slot, origin: OriginName) {
        let state = self.state.lock();
        if let Some(publisher) = &state.inputs.of(slot).publisher {
            publisher.leave.send_replace(Some(origin));
        }
    }

    /// Leaves the input on air where it is, as long as it is heard: this origin is being left by both.
    pub(crate) fn hold(&self) {
        self.state.lock().held = true;
    }

    /// Its place is kept for a while.
    fn publisher_lost(&self, state: &mut State, slot: Slot) {
        let now = Instant::now();
        state.lose(slot);
        state.inputs.of_mut(slot).lost = Some(now);
        state.count_backup(self.streams.metrics());
        self.select(state, now);
    }

    /// A slot has a better right elsewhere: the stream goes on with the other one, or ends.
    pub(crate) fn depart(self: &Arc<Self>, slot: Slot, end: End) {
        self.depart_if(slot, end, Input::is_present);
    }

    /// No publisher of a slot came since it was `lost`: the stream goes on with the other one, or ends.
    pub(crate) fn depart_if_lost(self: &Arc<Self>, slot: Slot, lost: Instant, end: End) {
        self.depart_if(slot, end, |input| input.lost == Some(lost));
    }

    fn depart_if(self: &Arc<Self>, slot: Slot, end: End, departs: impl FnOnce(&Input) -> bool) {
        let (mut remains, is_over) = (false, matches!(end, End::Ended { .. }));
        self.end_if(end, |stream, state| {
            if !departs(state.inputs.of(slot)) {
                return false;
            }
            remains = state.inputs.of(slot.other()).is_present();
            if remains {
                let now = Instant::now();
                state.lose(slot);
                let input = state.inputs.of_mut(slot);
                (input.lost, input.standby) = (None, None);
                if let Some(publisher) = input.publisher.take() {
                    publisher.dismiss(Dismissal::Fenced(input.token));
                }
                state.count_backup(stream.streams.metrics());
                // It goes on nowhere.
                if is_over && slot == state.selection.on_air() {
                    state.held = false;
                }
                stream.select(state, now);
            }
            !remains
        });
        if remains {
            // Who waits for that publisher does not any more.
            self.changed.send_replace(());
        }
    }

    /// Ends the stream for everybody. Subscribers still get what is in the log.
    fn end_if(self: &Arc<Self>, end: End, condition: impl FnOnce(&Self, &mut State) -> bool) {
        self.streams.take_out(self, || {
            let mut state = self.state.lock();
            let ends = state.end.is_none() && condition(self, &mut state);
            if ends {
                self.close(&mut state, end);
            }
            ends
        });
    }

    /// Nothing is appended any more. To be followed by leaving the table.
    fn close(self: &Arc<Self>, state: &mut State, end: End) {
        tracing::info!(stream_id = %self.id, ?end, "stream ended");
        state.end = Some(end);
        for slot in Slot::ALL {
            let input = state.inputs.of_mut(slot);
            (input.lost, input.standby) = (None, None);
            if let Some(publisher) = input.publisher.take() {
                publisher.dismiss(Dismissal::Fenced(input.token));
            }
        }
        state.count_backup(self.streams.metrics());
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

impl Input {
    fn absent() -> Self {
        Self {
            token: fencing::NONE,
            window: None,
            publisher: None,
            lost: None,
            standby: None,
        }
    }

    fn is_present(&self) -> bool {
        self.publisher.is_some() || self.lost.is_some()
    }

    fn published_by(&self, token: FencingToken) -> bool {
        let publisher = self.publisher.as_ref();
        publisher.is_some_and(|publisher| publisher.token == token)
    }
}

pub(crate) fn log_token(slot: Slot, token: FencingToken) -> Token {
    Token {
        slot: slot.number(),
        epoch: token.epoch,
        attempt: token.attempt,
    }
}

#[cfg(test)]
mod tests;
