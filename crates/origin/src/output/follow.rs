//! RelayService.Follow: an owned stream's log, for the readers of another origin.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures_util::Stream;
use media::log::{Class, Event, Header, Log, Start, Token};
use proto::{
    error::{status, status_with},
    frames::{Parts, batches},
    internal::v1::{
        FollowAccepted, FollowCaughtUp, FollowHeader, FollowRequest, FollowResponse,
        follow_response::Response as Answer,
    },
    v1::subscribe_event,
};
use registry::{FencingToken, Slot, StreamId};
use tonic::{Code, Status};

use super::{
    READ_BYTES,
    grpc::{gap_message, lag_refusal},
};
use crate::{
    metrics::OutputLabels,
    stream::{self, End, Next, Slots, Streams, Subscription, SubscriptionStart},
};

/// What a follower reads.
pub(crate) type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowResponse, Status>> + Send>>;

/// Longest session id that is looked up, in bytes.
const SESSION_ID_BYTES_MAX: usize = registry::ID_BYTES_MAX;

/// Follows a stream that this origin owns.
pub(crate) fn follow(streams: &Streams, request: &FollowRequest) -> Result<FollowStream, Status> {
    let stream = owned(streams, request)?;
    let admitted = stream.admit_follower().ok_or_else(|| {
        status(
            Code::ResourceExhausted,
            "FOLLOWERS_EXCEEDED",
            "no more origins may follow this stream",
        )
    })?;
    let tokens = stream.tokens();
    let (primary, backup) = (tokens.of(Slot::PRIMARY), tokens.of(Slot::BACKUP));
    let accepted = Answer::Accepted(FollowAccepted {
        broadcast_id: stream.broadcast_id.clone(),
        epoch: primary.epoch,
        attempt: primary.attempt,
        backup_epoch: backup.epoch,
        backup_attempt: backup.attempt,
    });
    let session_id = Some(request.session_id.as_str()).filter(|id| !id.is_empty());
    let seen = seen(request);
    let seen = Slot::ALL.map(|slot| stream::log_token(slot, *seen.of(slot)));
    let start = Start::Follow {
        position: session_id.map(|session_id| (session_id, request.next_sequence)),
        seen: &seen,
    };
    let answers = Answers {
        subscription: stream.subscribe(SubscriptionStart {
            admitted,
            class: Class::Lossless,
            start,
            labels: OutputLabels::FOLLOW,
        }),
        ready: VecDeque::from([accepted]),
        seen,
        caught_up: false,
        over: false,
    };
    Ok(Box::pin(futures_util::stream::unfold(
        answers,
        |mut answers| async move {
            let answer = answers.next().await?;
            Some((answer, answers))
        },
    )))
}

/// The stream, where no origin is known to have a better right to it.
fn owned(streams: &Streams, request: &FollowRequest) -> Result<Arc<stream::Stream>, Status> {
    let invalid = |why: &str| status(Code::InvalidArgument, "FOLLOW_INVALID", why);
    let stream_id = StreamId::from_bytes(&request.stream_id)
        .map_err(|_| invalid("a stream id has 16 bytes"))?;
    if request.session_id.len() > SESSION_ID_BYTES_MAX {
        return Err(invalid("not a session id"));
    }
    let seen = seen(request);
    let held = streams.readable(stream_id);
    let owner = held.as_ref().and_then(|stream| stream.owner());
    let departed = || {
        let departed = streams.departed(stream_id);
        departed.filter(|stream| may_follow(stream, &Slot::ALL, &seen))
    };
    held.filter(|stream| owner.is_none() && may_follow(stream, &stream.slots(), &seen))
        .or_else(departed)
        .ok_or_else(|| {
            status_with(
                Code::FailedPrecondition,
                "NOT_OWNER",
                "this origin does not own the stream",
                [(
                    "origin",
                    owner.map_or_else(String::new, |owner| owner.to_string()),
                )],
            )
        })
}

fn seen(request: &FollowRequest) -> Slots<FencingToken> {
    let FollowRequest {
        epoch,
        attempt,
        backup_epoch,
        backup_attempt,
        ..
    } = *request;
    let token = |epoch, attempt| FencingToken { epoch, attempt };
    Slots::new(token(epoch, attempt), token(backup_epoch, backup_attempt))
}

/// Whether no origin is known to have a better right to these slots: those whose publisher is here. One that is elsewhere, or
/// gone, says nothing.
fn may_follow(stream: &stream::Stream, slots: &[Slot], seen: &Slots<FencingToken>) -> bool {
    let here = stream.tokens();
    !slots.is_empty() && slots.iter().all(|slot| here.of(*slot) >= seen.of(*slot))
}

/// A subscription as messages.
struct Answers {
    subscription: Subscription,
    ready: VecDeque<Answer>,
    /// The highest tokens that the follower had seen.
    seen: [Token; 2],
    caught_up: bool,
    over: bool,
}

impl Answers {
    async fn next(&mut self) -> Option<Result<FollowResponse, Status>> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                let response = Some(answer);
                return Some(Ok(FollowResponse { response }));
            }
            if self.over {
                return None;
            }
            let next = if self.caught_up {
                self.subscription.next(READ_BYTES).await.map(Ok)
            } else {
                self.subscription.next_or(READ_BYTES, Log::next_header)
            };
            match next {
                Ok(Ok(Next::Event(event))) => self.handle(event),
                Ok(Ok(Next::End(end))) => {
                    self.over = true;
                    self.ready.push_back(match end {
                        End::Ended { reason } => Answer::End(subscribe_event::End { reason }),
                        End::Moved { origin } => Answer::Moved(subscribe_event::Moved { origin }),
                    });
                }
                Ok(Err(header)) => {
                    self.caught_up = true;
                    // A session is known before its first frame: a cursor may be of it.
                    let header = header.filter(|header| !header.token.is_below(&self.seen));
                    let header = header.map(|header| self.header(&header));
                    self.ready.extend(header);
                    self.ready.push_back(Answer::CaughtUp(FollowCaughtUp {}));
                }
                Err(lag) => {
                    self.over = true;
                    return Some(Err(lag_refusal(lag)));
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Frames(entries) => {
                let frames = entries.iter().map(|entry| (entry.sequence, &entry.frame));
                // The follower reads bodies itself, as this origin did.
                let batches = batches(frames, Parts::Omitted);
                self.ready.extend(batches.into_iter().map(Answer::Batch));
            }
            Event::Gap(gap) => self.ready.push_back(Answer::Gap(gap_message(&gap))),
            Event::Header(header) => {
                let answer = self.header(&header);
                self.ready.push_back(answer);
            }
        }
    }

    /// Also of an older session: the latest one's window counts.
    fn header(&self, header: &Header) -> Answer {
        let frames = header.headers.iter().map(|(s, frame)| (*s, frame));
        let window = self.subscription.window();
        Answer::Header(FollowHeader {
            session_id: header.session_id.to_string(),
            epoch: header.token.epoch,
            attempt: header.token.attempt,
            timeline_offset_ms: header.timeline_offset_ms,
            sequence: header.sequence,
            // The log keeps less than a batch of headers.
            headers: batches(frames, Parts::Omitted).into_iter().next(),
            slot: header.token.slot.into(),
            reconnect_window_ms: window
                .map(|window| u32::try_from(window.as_millis()).unwrap_or(u32::MAX)),
        })
    }
}
