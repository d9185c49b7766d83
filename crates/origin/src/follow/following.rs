//! One followed stream, from owner to owner, for as long as somebody here reads it.

use std::{pin::pin, sync::Arc, time::Duration};

use proto::{
    frames::{Assembler, FrameError, Parts},
    internal::v1::{FollowHeader, follow_response::Response},
    v1::FrameBatch,
};
use registry::{FencingToken, Origin, Slot, StreamId};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout},
};
use tonic::Status;
use tracing::info;

use super::{
    Elsewhere, Follower, NOT_THERE_PAUSE, NOT_THERE_PAUSE_MAX,
    directory::{ASK_PAUSE, Told, Whereabouts},
    upstream::Upstream,
};
use crate::{
    fencing,
    stream::{ANOTHER_BROADCAST, End, Feed, FeedError, SessionHeader, Slots, Superseded},
};

/// A stream that another origin owns.
pub(super) struct Following {
    follower: Follower,
    id: StreamId,
    feed: Feed,
    upstream: Upstream,
    /// Since when nobody reads it.
    unread: Option<Instant>,
    /// An owner was lost, and no frame has come since.
    loss: Option<Loss>,
}

/// The search for an owner that has frames.
#[derive(Clone, Copy)]
struct Loss {
    since: Instant,
    /// Before the next try.
    pause: Duration,
}

/// Why a stream is not followed any more.
enum Over {
    /// Its readers are told this.
    Ended(End),
    /// A publisher came here, or nobody reads it: nothing is left to do.
    Released,
}

/// Why one origin is not followed any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the owner says that the stream moved")]
    Moved,
    #[error("the owner's answer cannot be read")]
    Frames(#[from] FrameError),
    #[error("the owner's frames do not follow")]
    Sequence(#[from] media::log::SequenceError),
    #[error("the RPC ended: {}", .0.message())]
    Status(#[from] Status),
}

/// What a response, or a wait for one, leads to.
enum Step {
    On,
    CaughtUp,
    /// The owner says that the stream is over.
    Ended(String),
    Lost(Lost),
    Over(Over),
}

/// What other origins were found to have.
enum Tried {
    Follows,
    Nothing(Told),
    Over(Over),
}

/// To take in what an owner's log holds before readers find it.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether anybody reads.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// The same of an owner that has said nothing since it was asked: readers come from an origin that fell silent, and its edge
/// may be on the way to another one.
const FIRST_SILENCE: Duration = Duration::from_millis(200);
/// How often it is asked who owns a stream before its end is believed, while others take the turns.
const TURNS_MAX: usize = 5;

impl Following {
    /// Takes in what one of these origins has of a stream, and lets readers find it. `None`: there is nothing.
    pub(super) async fn begin(
        follower: &Follower,
        id: StreamId,
        candidates: &[Origin],
        admitted: OwnedSemaphorePermit,
    ) -> Option<Self> {
        let elsewhere = follower.shared.elsewhere.as_ref()?;
        let streams = &follower.shared.streams;
        let lowest = Slots::new(fencing::NONE, fencing::NONE);
        let upstream = elsewhere.upstreams.open(candidates, id, None, &lowest);
        let upstream = upstream.await?;
        let owner = upstream.origin.clone();
        let broadcast_id = upstream.broadcast_id.clone();
        let mut feed = Feed::new(streams, admitted, id, broadcast_id, owner.clone());
        feed.owned_by(&owner, &upstream.tokens).ok()?;
        let mut following = Self {
            follower: follower.clone(),
            id,
            feed,
            upstream,
            unread: None,
            loss: None,
        };
        let caught_up = timeout(CATCH_UP_TIMEOUT, following.catch_up()).await;
        if !caught_up.unwrap_or_default() || !streams.enter(&following.feed) {
            return None;
        }
        info!(stream_id = %id, %owner, "following a stream");
        Some(following)
    }

    async fn catch_up(&mut self) -> bool {
        // One that freezes now has accepted, and says nothing: who waits is better off with the next one.
        let silence = self.follower.shared.config.timing.follow_silence;
        while let Ok(response) = timeout(silence, self.upstream.next()).await {
            match self.take(response) {
                Step::On => {}
                Step::CaughtUp => return true,
                // It has just left that origin: what that had is here.
                Step::Lost(Lost::Moved) => return self.feed.position().is_some(),
                Step::Ended(_) | Step::Lost(_) | Step::Over(_) => return false,
            }
        }
        false
    }

    /// Follows it to its end.
    pub(super) async fn run(mut self) {
        let over = loop {
            let lost = match self.follow().await {
                Ok(over) => break over,
                Err(lost) => lost,
            };
            info!(stream_id = %self.id, owner = %self.upstream.origin, reason = %lost, "lost a stream's owner");
            if self.feed.runs_dry().is_err() {
                break Over::Released;
            }
            if let Err(over) = self.find_again().await {
                break over;
            }
        };
        if let Over::Ended(end) = over {
            self.feed.end(end);
        }
    }

    /// The time with one owner.
    async fn follow(&mut self) -> Result<Over, Lost> {
        let silence = self.follower.shared.config.timing.follow_silence;
        let (mut heard, mut patience) = (Instant::now(), silence.min(FIRST_SILENCE));
        let mut look = pin!(sleep(patience));
        let shutdown = self.follower.shared.shutdown.clone();
        loop {
            let step = tokio::select! {
                response = self.upstream.next() => {
                    (heard, patience) = (Instant::now(), silence);
                    self.take(response)
                }
                () = self.feed.superseded() => Step::Over(Over::Released),
                () = shutdown.draining() => Step::Over(self.moved()),
                () = &mut look => {
                    let (step, pause) = self.look(&mut heard, patience).await;
                    look.as_mut().reset(Instant::now() + pause);
                    step
                }
            };
            match step {
                Step::On | Step::CaughtUp => {}
                Step::Ended(reason) => {
                    if self.feed.runs_dry().is_err() {
                        return Ok(Over::Released);
                    }
                    // One that lost the stream without knowing it ends it too, once its publisher has been away.
                    if !matches!(self.moves_on_in_turn().await, Tried::Follows) {
                        return Ok(ended(&reason));
                    }
                    self.found_again(heard);
                    heard = Instant::now();
                }
                Step::Lost(lost) => return Err(lost),
                Step::Over(over) => return Ok(over),
            }
        }
    }

    /// Whether anybody reads, and, where the owner is silent, whether another one has the stream; and how soon to look again.
    async fn look(&mut self, heard: &mut Instant, patience: Duration) -> (Step, Duration) {
        let silence = self.follower.shared.config.timing.follow_silence;
        let mut answered = true;
        let step = if self.is_unread() {
            Step::Over(Over::Released)
        } else if heard.elapsed() < patience {
            Step::On
        } else {
            // A frozen owner says nothing, least of all that another one has the stream.
            match self.moves_on().await {
                Tried::Follows => {
                    self.found_again(*heard);
                    *heard = Instant::now();
                    Step::On
                }
                Tried::Nothing(told) => {
                    answered = told.is_answer();
                    Step::On
                }
                Tried::Over(over) => Step::Over(over),
            }
        };
        (
            step,
            look_pause(heard.elapsed(), patience, silence, answered),
        )
    }

    fn take(&mut self, response: Result<Response, Status>) -> Step {
        let taken = match response {
            Ok(Response::Batch(batch)) => self.take_batch(batch),
            Ok(Response::Header(header)) => self.take_header(header),
            Ok(Response::Gap(gap)) => {
                let told = self
                    .feed
                    .gap(&gap.session_id, gap.from_sequence, gap.to_sequence);
                told.map(|()| Step::On).map_err(|Superseded| None)
            }
            Ok(Response::Accepted(_)) => Ok(Step::On),
            Ok(Response::CaughtUp(_)) => Ok(Step::CaughtUp),
            Ok(Response::Moved(_)) => Err(Some(Lost::Moved)),
            Ok(Response::End(end)) => Ok(Step::Ended(end.reason)),
            Err(status) => Err(Some(status.into())),
        };
        taken.unwrap_or_else(|lost| lost.map_or(Step::Over(Over::Released), Step::Lost))
    }

    fn take_batch(&mut self, batch: FrameBatch) -> Result<Step, Option<Lost>> {
        let frames = self
            .upstream
            .frames(batch)
            .map_err(|error| Some(error.into()))?;
        let before = self.loss.map(|_| self.feed.position());
        match self.feed.append(frames, self.upstream.partial_bytes()) {
            Ok(()) => {
                // What was here before is no sign of life.
                if before.is_some_and(|before| before != self.feed.position()) {
                    self.loss = None;
                }
                Ok(Step::On)
            }
            // They may read it at its owner.
            Err(FeedError::Budget) => Ok(Step::Over(self.moved())),
            Err(FeedError::Sequence(error)) => Err(Some(error.into())),
            Err(FeedError::Superseded(Superseded)) => Err(None),
        }
    }

    fn take_header(&self, header: FollowHeader) -> Result<Step, Option<Lost>> {
        // Headers are whole in their message.
        let headers = Assembler::new(Parts::Omitted)
            .push(header.headers.unwrap_or_default())
            .map_err(|error| Some(error.into()))?;
        let header = SessionHeader {
            session_id: &header.session_id,
            slot: Slot::new(header.slot).unwrap_or_default(),
            token: FencingToken {
                epoch: header.epoch,
                attempt: header.attempt,
            },
            timeline_offset_ms: header.timeline_offset_ms,
            sequence: header.sequence,
            headers: &headers,
            window: header
                .reconnect_window_ms
                .map(|window_ms| Duration::from_millis(window_ms.into())),
        };
        self.feed.header(&header).map_err(|Superseded| None)?;
        Ok(Step::On)
    }

    /// Goes on at another origin that has the stream, where the registry names it, or, while it does not answer, one with a
    /// higher token.
    async fn moves_on(&mut self) -> Tried {
        let shared = Arc::clone(&self.follower.shared);
        let Some(elsewhere) = &shared.elsewhere else {
            return Tried::Nothing(Told::Nobody);
        };
        let Whereabouts {
            mut candidates,
            told,
        } = elsewhere.directory.whereabouts(self.id).await;
        candidates.retain(|origin| origin.name != self.upstream.origin);
        let seen = self.feed.stream().tokens();
        match self.open(elsewhere, &candidates).await {
            // Where the registry does not say so, a higher token does.
            Some(upstream) if told.may_be_owned() || upstream.is_above(&seen) => {
                self.go_on(upstream)
            }
            Some(_) | None => Tried::Nothing(told),
        }
    }

    /// As [`moves_on`](Self::moves_on), asked again where the registry was not asked.
    async fn moves_on_in_turn(&mut self) -> Tried {
        let mut tried = self.moves_on().await;
        for _ in 1..TURNS_MAX {
            if !matches!(tried, Tried::Nothing(Told::Busy)) {
                break;
            }
            tried = self.moves_on().await;
        }
        tried
    }

    /// Another owner, in time or not at all. One that breaks off before a frame came is another try, not a find.
    async fn find_again(&mut self) -> Result<(), Over> {
        let shared = Arc::clone(&self.follower.shared);
        let Some(elsewhere) = &shared.elsewhere else {
            return Err(Over::Released);
        };
        // It is not the publisher's fault.
        let stream = self.feed.stream();
        let grace = stream.patience(stream.on_air()).broken;
        let mut again = self.loss.is_some();
        let now = Instant::now();
        let mut loss = self.loss.unwrap_or(Loss {
            since: now,
            pause: NOT_THERE_PAUSE,
        });
        loop {
            if again {
                self.pause(loss.pause).await?;
                loss.pause = (loss.pause * 2).min(NOT_THERE_PAUSE_MAX);
            }
            again = true;
            if loss.since.elapsed() >= grace {
                return Err(ended("publisher lost"));
            }
            self.loss = Some(loss);
            // Also the origin that was followed: an RPC can break without its origin.
            let open = async |candidates: Vec<Origin>| self.open(elsewhere, &candidates).await;
            let (opened, _told) = elsewhere.directory.ask(self.id, open).await;
            match opened.map(|upstream| self.go_on(upstream)) {
                Some(Tried::Follows) => {
                    self.found_again(loss.since);
                    return Ok(());
                }
                Some(Tried::Over(over)) => return Err(over),
                Some(Tried::Nothing(_)) | None => {}
            }
        }
    }

    /// Before the next try, if there is to be one.
    async fn pause(&mut self, pause: Duration) -> Result<(), Over> {
        if self.is_unread() {
            return Err(Over::Released);
        }
        let shutdown = self.follower.shared.shutdown.clone();
        tokio::select! {
            () = sleep(pause) => Ok(()),
            () = self.feed.superseded() => Err(Over::Released),
            () = shutdown.draining() => Err(self.moved()),
        }
    }

    /// The stream behind what is here, at the origin of these that has the best right to it.
    async fn open(&self, elsewhere: &Elsewhere, candidates: &[Origin]) -> Option<Upstream> {
        let (position, seen) = (self.feed.position(), self.feed.stream().tokens());
        let (upstreams, position) = (&elsewhere.upstreams, position.as_ref());
        let opened = upstreams.open(candidates, self.id, position, &seen);
        opened.await
    }

    /// Goes on there, unless another broadcast began: readers have to find that one.
    fn go_on(&mut self, upstream: Upstream) -> Tried {
        if upstream.broadcast_id != self.feed.stream().broadcast_id {
            return Tried::Over(ended(ANOTHER_BROADCAST));
        }
        match self.feed.owned_by(&upstream.origin, &upstream.tokens) {
            Ok(()) => {
                self.upstream = upstream;
                Tried::Follows
            }
            Err(Superseded) => Tried::Over(Over::Released),
        }
    }

    fn found_again(&self, since: Instant) {
        let took = since.elapsed();
        let metrics = self.follower.shared.streams.metrics();
        metrics.follow_switch_seconds.observe(took.as_secs_f64());
        info!(stream_id = %self.id, owner = %self.upstream.origin, ?took, "following a stream at another owner");
    }

    /// What readers are told by an origin that leaves.
    fn moved(&self) -> Over {
        let origin = self.upstream.origin.to_string();
        Over::Ended(End::Moved { origin })
    }

    /// Ends the stream where nobody has read it for a while. Whether it ended.
    fn is_unread(&mut self) -> bool {
        if self.feed.is_read() {
            self.unread = None;
            return false;
        }
        let since = *self.unread.get_or_insert_with(Instant::now);
        since.elapsed() >= self.follower.shared.config.timing.follow_linger
            && self.feed.end_unread()
    }
}

/// Until the next look at an owner that has been silent for so long, of which the first is nothing unusual (`patience`). Soon,
/// where its publisher is on the way to another one; not as soon, where it has been away for long, or where the registry did
/// not answer: then a look asks several origins.
fn look_pause(silent: Duration, patience: Duration, silence: Duration, answered: bool) -> Duration {
    match patience.checked_sub(silent) {
        Some(rest) if !rest.is_zero() => rest.min(LOOK_PERIOD),
        Some(_) | None if answered => (silent / 20).min(silence / 2).max(ASK_PAUSE),
        Some(_) | None => (silence / 2).max(ASK_PAUSE),
    }
}

fn ended(reason: &str) -> Over {
    let reason = reason.to_owned();
    Over::Ended(End::Ended { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_owner_is_looked_at_as_soon_as_it_is_one_and_rarely_for_long() {
        let silence = Duration::from_secs(1);
        let look_pause = |silent, silence, answered| look_pause(silent, silence, silence, answered);
        let pause = |silent_ms| look_pause(Duration::from_millis(silent_ms), silence, true);
        assert_eq!(pause(0), LOOK_PERIOD);
        assert_eq!(pause(900), Duration::from_millis(100));
        // An edge leaves a frozen origin after two seconds.
        let looks = std::iter::successors(Some(1000), |silent_ms| {
            Some(silent_ms + u64::try_from(pause(*silent_ms).as_millis()).unwrap())
        });
        let looks: Vec<_> = looks.take_while(|silent_ms| *silent_ms < 3000).collect();
        println!("after {looks:?} ms");
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] <= 150));
        assert_eq!(pause(60_000), silence / 2);
        assert_eq!(look_pause(silence, Duration::ZERO, true), ASK_PAUSE);
        // Each look asks several origins while the registry does not answer.
        assert_eq!(look_pause(silence, silence, false), silence / 2);
        assert_eq!(look_pause(silence / 2, silence, false), LOOK_PERIOD);
        // Sooner from the beginning on, and no oftener.
        let first = |silent_ms| {
            let silent = Duration::from_millis(silent_ms);
            super::look_pause(silent, FIRST_SILENCE, silence, true)
        };
        assert_eq!(
            [0, 150, 200].map(first),
            [200, 50, 100].map(Duration::from_millis)
        );
        assert_eq!(first(60_000), silence / 2);
    }
}
