//! PlaybackService: a stream's log over gRPC, with cursors that survive a change of origin.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures_util::Stream;
use media::log::{Class, Event, Gap, Header, LagError, Start};
use proto::{
    error::status,
    frames::{Parts, batches},
    tracks::tracks_to_proto,
    v1::{
        DeliveryClass, FrameBatch, SubscribeEvent, SubscribeRequest,
        playback_service_server::PlaybackService,
        subscribe_event::{self, Event as Message},
    },
};
use registry::StreamId;
use runtime::{
    bearer::{BearerCredentials, BearerError},
    shutdown::Shutdown,
};
use tonic::{Code, Request, Response, Status};

use super::{
    READ_BYTES,
    cursor::{Cursor, CursorError},
    valid_name,
};
use crate::{
    config::Config,
    follow::Follower,
    metrics::OutputLabels,
    stream::{End, Next, Streams, Subscription, SubscriptionStart},
};

/// PlaybackService. A cheap handle.
#[derive(Clone)]
pub(crate) struct Playback {
    pub(crate) config: Arc<Config>,
    pub(crate) credentials: BearerCredentials,
    pub(crate) follower: Follower,
    pub(crate) shutdown: Shutdown,
    pub(crate) streams: Streams,
}

#[tonic::async_trait]
impl PlaybackService for Playback {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<SubscribeEvent, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.credentials
            .check_metadata(request.metadata())
            .map_err(|error| unauthenticated(&error))?;
        let subscription = self.attach(request.into_inner()).await?;
        let events = Events {
            subscription,
            session_id: Arc::from(""),
            ready: VecDeque::new(),
            over: false,
        };
        Ok(Response::new(Box::pin(futures_util::stream::unfold(
            events,
            |mut events| async move {
                let event = events.next().await?;
                Some((event, events))
            },
        ))))
    }
}

impl Playback {
    async fn attach(&self, request: SubscribeRequest) -> Result<Subscription, Status> {
        if !valid_name(&request.app) || !valid_name(&request.stream) {
            return Err(status(
                Code::InvalidArgument,
                "STREAM_NAME_INVALID",
                "an application and a stream are required",
            ));
        }
        let cursor = match request.cursor.as_slice() {
            [] => None,
            bytes => Some(Cursor::decode(bytes).map_err(|CursorError| {
                status(Code::InvalidArgument, "CURSOR_INVALID", "not a cursor")
            })?),
        };
        let class = match request.delivery_class() {
            DeliveryClass::Lossless => Class::Lossless,
            DeliveryClass::Live | DeliveryClass::Unspecified => Class::Live,
        };
        let admitted = self.streams.admit_subscriber().ok_or_else(|| {
            status(
                Code::ResourceExhausted,
                "SUBSCRIBERS_EXCEEDED",
                "the origin takes no more subscribers",
            )
        })?;
        let timing = &self.config.timing;
        let wait = if cursor.is_some() {
            timing.resume_wait
        } else if request.wait_for_stream {
            timing.wait_for_stream_max
        } else {
            std::time::Duration::ZERO
        };
        // Another tenant's stream has another id: it is not found.
        let stream_id = StreamId::derive(&self.config.tenant, &request.app, &request.stream);
        let found = tokio::select! {
            biased;
            found = self.follower.find(stream_id, wait) => found,
            () = self.shutdown.draining() => None,
        };
        let (stream, waited) = found
            .ok_or_else(|| status(Code::NotFound, "STREAM_NOT_FOUND", "no such stream is live"))?;
        let start = match &cursor {
            Some(cursor) => Start::Resume {
                session_id: &cursor.session_id,
                next_sequence: cursor.next_sequence,
            },
            None if waited => Start::Oldest,
            None => Start::CurrentGop,
        };
        Ok(stream.subscribe(SubscriptionStart {
            admitted,
            class,
            start,
            labels: OutputLabels::GRPC,
        }))
    }
}

/// A subscription as messages.
struct Events {
    subscription: Subscription,
    /// Whose frames come now.
    session_id: Arc<str>,
    ready: VecDeque<Message>,
    over: bool,
}

impl Events {
    async fn next(&mut self) -> Option<Result<SubscribeEvent, Status>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(SubscribeEvent { event: Some(event) }));
            }
            if self.over {
                return None;
            }
            match self.subscription.next(READ_BYTES).await {
                Ok(Next::Event(event)) => self.handle(event),
                Ok(Next::End(end)) => {
                    self.over = true;
                    self.ready.push_back(end_message(end));
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
                let batches = batches(frames, Parts::Included);
                for batch in batches {
                    let message = self.batch(batch);
                    self.ready.push_back(message);
                }
            }
            Event::Gap(gap) => self.ready.push_back(Message::Gap(gap_message(&gap))),
            Event::Header(header) => {
                self.session_id = Arc::clone(&header.session_id);
                let message = header_message(&header, self.subscription.broadcast_id());
                self.ready.push_back(message);
            }
        }
    }

    fn batch(&self, batch: FrameBatch) -> Message {
        // A body whose end is in a later batch has not been had.
        let next_sequence = batch.frames.last().map_or(0, |last| {
            last.sequence.saturating_add(u64::from(last.last_fragment))
        });
        let cursor = Cursor {
            broadcast_id: self.subscription.broadcast_id().to_owned(),
            session_id: self.session_id.to_string(),
            next_sequence,
        };
        Message::Batch(subscribe_event::Batch {
            frames: Some(batch),
            cursor: cursor.encode(),
        })
    }
}

fn header_message(header: &Header, broadcast_id: &str) -> Message {
    let frames = header.headers.iter().map(|(s, frame)| (*s, frame));
    Message::Header(subscribe_event::Header {
        broadcast_id: broadcast_id.to_owned(),
        session_id: header.session_id.to_string(),
        epoch: header.token.epoch,
        attempt: header.token.attempt,
        // The log keeps less than a batch of headers.
        headers: batches(frames, Parts::Included).into_iter().next(),
        tracks: tracks_to_proto(&header.tracks),
        slot: header.token.slot.into(),
    })
}

pub(super) fn gap_message(gap: &Gap) -> subscribe_event::Gap {
    subscribe_event::Gap {
        session_id: gap.session_id.to_string(),
        from_sequence: gap.from_sequence,
        to_sequence: gap.to_sequence,
    }
}

fn end_message(end: End) -> Message {
    match end {
        End::Ended { reason } => Message::End(subscribe_event::End { reason }),
        End::Moved { origin } => Message::Moved(subscribe_event::Moved { origin }),
    }
}

/// What a lossless reader is told that fell behind.
pub(super) fn lag_refusal(lag: LagError) -> Status {
    status(
        Code::ResourceExhausted,
        "LAG_BUDGET_EXCEEDED",
        lag.to_string(),
    )
}

fn unauthenticated(error: &BearerError) -> Status {
    let reason = match error {
        BearerError::Invalid => "TOKEN_INVALID",
        BearerError::Missing => "TOKEN_MISSING",
    };
    status(Code::Unauthenticated, reason, error.to_string())
}
