//! Hop 5 of a frame's life: the Publish RPC. Grant, fencing token and sequence are checked here, then
//! [`Publication::append`].
//!
//! The RPC's window is always drained: a frame is taken into budgeted memory or the RPC is reset, so that one stream
//! never slows the others on its connection.

mod opening;

use std::{pin::pin, sync::Arc, time::Duration};

use proto::{
    error::{role_not_admitted, status, status_with},
    frames::{Assembler, FrameError, Parts},
    grant::GrantVerifier,
    internal::v1::{
        FollowRequest, PublishAccepted, PublishAck, PublishGoodbye, PublishRequest,
        PublishResponse, publish_request::Request as Message, publish_response::Response as Answer,
        relay_service_server::RelayService,
    },
    v1::FrameBatch,
};
use registry::{FencingToken, OriginName, Registry};
use runtime::{grpc::caller_role, identity::Role, reload::Reloading, shutdown::Shutdown};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{Instrument as _, info};

use self::opening::Accepted;
use crate::{
    config::Config,
    follow::Follower,
    metrics::OpenLabels,
    output::follow::{self, FollowStream},
    ownership::Ownership,
    stream::{AppendError, Attached, Dismissal, Progress, Publication, Streams},
};

/// RelayService. A cheap handle.
#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) config: Arc<Config>,
    pub(crate) follower: Follower,
    pub(crate) grants: Reloading<GrantVerifier>,
    pub(crate) ownership: Ownership,
    pub(crate) registry: Registry,
    pub(crate) shutdown: Shutdown,
    pub(crate) streams: Streams,
}

/// Answers that wait to be sent; acknowledgements that find no room are made up for by the next one.
const ANSWERS_MAX: usize = 8;
/// An acknowledgement goes out at once when it is for this many bytes.
const ACK_BYTES: usize = 256 * 1024;
/// How long a peer may take to read why its RPC ended.
const LAST_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest reason of a close that subscribers are told, in characters.
const REASON_CHARS_MAX: usize = 100;

#[tonic::async_trait]
impl RelayService for Relay {
    type FollowStream = FollowStream;
    type PublishStream = ReceiverStream<Result<PublishResponse, Status>>;

    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> Result<Response<FollowStream>, Status> {
        require_role(&request, Role::Origin)?;
        follow::follow(&self.streams, request.get_ref()).map(Response::new)
    }

    async fn publish(
        &self,
        request: Request<Streaming<PublishRequest>>,
    ) -> Result<Response<Self::PublishStream>, Status> {
        require_role(&request, Role::Edge)?;
        let mut requests = request.into_inner();
        let opened = self.open(&mut requests).await;
        let outcome = match &opened {
            Ok(_) => "accepted",
            Err(refusal) => refusal_reason(refusal),
        };
        let metrics = self.streams.metrics();
        metrics.opens.get_or_create(&OpenLabels { outcome }).inc();
        if outcome == FENCED {
            metrics.epoch_rejections.inc();
        }
        let accepted = opened.inspect_err(|refusal| {
            info!(reason = outcome, "publish refused: {}", refusal.message());
        })?;

        let (answers, receiver) = mpsc::channel(ANSWERS_MAX);
        let span = accepted.span.clone();
        let session = Session::new(accepted, requests, answers, &self.config.name);
        tokio::spawn(session.run(self.clone()).instrument(span));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// The roles of the port are admitted per RPC.
fn require_role<T>(request: &Request<T>, admitted: Role) -> Result<(), Status> {
    if caller_role(request) == Some(admitted) {
        return Ok(());
    }
    Err(role_not_admitted(admitted))
}

/// One accepted Publish RPC.
struct Session {
    requests: Streaming<PublishRequest>,
    answers: mpsc::Sender<Result<PublishResponse, Status>>,
    publication: Publication,
    dismissed: oneshot::Receiver<Dismissal>,
    leave: watch::Receiver<Option<OriginName>>,
    switched: watch::Receiver<()>,
    assembler: Assembler,
    progress: Progress,
    acknowledged: Progress,
    unacknowledged_bytes: usize,
}

/// How a Publish RPC ended.
enum Ended {
    /// The RPC broke, or the edge left it: the session may go on.
    Broken,
    /// The edge finished the session.
    Closed { reason: String },
    /// The edge has lost the publisher.
    PublisherLost,
    /// This side ends it.
    Refused(Status),
}

impl Session {
    fn new(
        accepted: Accepted,
        requests: Streaming<PublishRequest>,
        answers: mpsc::Sender<Result<PublishResponse, Status>>,
        here: &OriginName,
    ) -> Self {
        let Accepted {
            attached:
                Attached {
                    publication,
                    dismissed,
                    leave,
                    switched,
                },
            token,
            span: _,
        } = accepted;
        let progress = publication.progress();
        let accepted = Answer::Accepted(PublishAccepted {
            broadcast_id: publication.stream().broadcast_id.clone(),
            timeline_offset_ms: publication.timeline_offset_ms,
            next_sequence: progress.next_sequence,
            epoch: token.epoch,
            standby: progress.on_air.is_none(),
            origin: here.to_string(),
        });
        // The channel is empty.
        answers.try_send(Ok(response(accepted))).ok();
        Self {
            requests,
            answers,
            publication,
            dismissed,
            leave,
            switched,
            assembler: Assembler::new(Parts::Omitted),
            progress,
            acknowledged: progress,
            unacknowledged_bytes: 0,
        }
    }

    async fn run(mut self, relay: Relay) {
        let publishers = &relay.streams.metrics().publishers;
        publishers.inc();
        let ended = self.take_frames(&relay).await;
        publishers.dec();
        let stream = Arc::clone(self.publication.stream());
        let patience = stream.patience(self.publication.slot());
        let mut grace = patience.broken;
        match ended {
            Ended::Closed { reason } => {
                info!(reason, "publish closed");
                self.acknowledge();
                if self.publication.close(&reason) {
                    return;
                }
                // Dismissed at the same moment: the slot is waited for.
            }
            Ended::Broken => info!("publisher lost"),
            Ended::PublisherLost => {
                info!("the edge lost the publisher");
                self.acknowledge();
                grace = patience.lost;
            }
            Ended::Refused(refusal) => {
                let reason = refusal_reason(&refusal);
                info!(reason, "publish ended: {}", refusal.message());
                if reason == FENCED {
                    relay.streams.metrics().epoch_rejections.inc();
                }
                let sent = self.answers.send(Err(refusal));
                // A peer that does not read finds a broken RPC.
                tokio::time::timeout(LAST_ANSWER_TIMEOUT, sent).await.ok();
            }
        }
        // The RPC is over before the wait for the next one.
        let slot = self.publication.slot();
        drop(self);
        relay.ownership.publisher_lost(stream, slot, grace).await;
    }

    async fn take_frames(&mut self, relay: &Relay) -> Ended {
        let mut ack_tick = tokio::time::interval(relay.config.timing.ack_period);
        ack_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut draining = pin!(relay.shutdown.draining());
        let mut goodbye_sent = false;
        loop {
            tokio::select! {
                dismissal = &mut self.dismissed => {
                    return Ended::Refused(match dismissal {
                        Ok(Dismissal::Fenced(token)) => fenced(token),
                        // The stream lets go of a publisher only with a reason.
                        Err(_) => fenced(self.token()),
                    });
                }
                () = &mut draining, if !goodbye_sent => {
                    goodbye_sent = true;
                    // Both publishers leave, and what is on air is so at the next origin.
                    self.publication.stream().hold();
                    self.say_goodbye("draining", String::new()).await;
                }
                Ok(()) = self.leave.changed() => {
                    let to = self.leave.borrow_and_update().clone();
                    if let Some(origin) = to {
                        self.say_goodbye("elsewhere", origin.to_string()).await;
                    }
                }
                // One that is silent is told too.
                Ok(()) = self.switched.changed() => {
                    self.progress.on_air = self.publication.progress().on_air;
                }
                _ = ack_tick.tick(), if self.acknowledged != self.progress => {
                    self.acknowledge();
                }
                message = self.requests.message() => {
                    let Ok(Some(PublishRequest { request })) = message else {
                        return Ended::Broken;
                    };
                    match self.take(request, relay) {
                        Ok(None) => {}
                        Ok(Some(ended)) => return ended,
                        Err(refusal) => return Ended::Refused(refusal),
                    }
                }
            }
        }
    }

    /// The session's end where the message says so.
    fn take(&mut self, message: Option<Message>, relay: &Relay) -> Result<Option<Ended>, Status> {
        match message {
            Some(Message::Batch(batch)) => self.append(batch, relay).map(|()| None),
            Some(Message::Headers(headers)) => {
                // Headers are whole in their message.
                let headers = Assembler::new(Parts::Omitted)
                    .push(headers)
                    .map_err(|error| frame_refusal(&error))?;
                self.publication
                    .seed(&headers)
                    .map_err(|error| self.append_refusal(error))?;
                Ok(None)
            }
            Some(Message::Close(close)) => {
                let reason = close.reason.chars().filter(|c| !c.is_control());
                Ok(Some(Ended::Closed {
                    reason: reason.take(REASON_CHARS_MAX).collect(),
                }))
            }
            Some(Message::Lost(_)) => Ok(Some(Ended::PublisherLost)),
            Some(Message::Open(_)) => Err(status(
                Code::InvalidArgument,
                OPEN_INVALID,
                "a second open in one RPC",
            )),
            None => Err(status(
                Code::InvalidArgument,
                OPEN_INVALID,
                "an empty request",
            )),
        }
    }

    fn append(&mut self, batch: FrameBatch, relay: &Relay) -> Result<(), Status> {
        let bytes: usize = batch.frames.iter().map(|frame| frame.body.len()).sum();
        relay.streams.metrics().received_bytes.inc_by(bytes as u64);
        let frames = self
            .assembler
            .push(batch)
            .map_err(|error| frame_refusal(&error))?;
        self.progress = self
            .publication
            .append(frames, self.assembler.partial_bytes())
            .map_err(|error| self.append_refusal(error))?;
        self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_add(bytes);
        if self.unacknowledged_bytes >= ACK_BYTES {
            self.acknowledge();
        }
        Ok(())
    }

    /// Says what is in the log, if there is room to say it; the tick tries again.
    fn acknowledge(&mut self) {
        let ack = Answer::Ack(PublishAck {
            next_sequence: self.progress.next_sequence,
            standby: self.progress.on_air.is_none(),
            timeline_offset_ms: self.progress.on_air,
        });
        if self.answers.try_send(Ok(response(ack))).is_ok() {
            self.acknowledged = self.progress;
            self.unacknowledged_bytes = 0;
        }
    }

    async fn say_goodbye(&self, reason: &str, origin: String) {
        let reason = reason.to_owned();
        let goodbye = Answer::Goodbye(PublishGoodbye { reason, origin });
        let sent = self.answers.send(Ok(response(goodbye)));
        tokio::time::timeout(LAST_ANSWER_TIMEOUT, sent).await.ok();
    }

    /// The highest that was seen in its slot.
    fn token(&self) -> FencingToken {
        let tokens = self.publication.stream().tokens();
        *tokens.of(self.publication.slot())
    }

    fn append_refusal(&self, error: AppendError) -> Status {
        match error {
            AppendError::Budget => {
                status(Code::ResourceExhausted, PROCESS_BUDGET, error.to_string())
            }
            AppendError::Dismissed => fenced(self.token()),
            AppendError::Sequence(sequence) => status(
                Code::InvalidArgument,
                SEQUENCE_INVALID,
                sequence.to_string(),
            ),
        }
    }
}

// The reasons of `relay.proto`.
const BATCH_TOO_LARGE: &str = "BATCH_TOO_LARGE";
const DRAINING: &str = "DRAINING";
const ELSEWHERE: &str = "ELSEWHERE";
const EPOCH_IN_FUTURE: &str = "EPOCH_IN_FUTURE";
const FENCED: &str = "FENCED";
const FRAME_INVALID: &str = "FRAME_INVALID";
const GRANT_INVALID: &str = "GRANT_INVALID";
const OPEN_INVALID: &str = "OPEN_INVALID";
const PROCESS_BUDGET: &str = "PROCESS_BUDGET";
const REGISTRY_UNAVAILABLE: &str = "REGISTRY_UNAVAILABLE";
const SEQUENCE_INVALID: &str = "SEQUENCE_INVALID";

/// The reason as a metric's label: one of ours, or "OTHER".
fn refusal_reason(refusal: &Status) -> &'static str {
    let reason = proto::error::reason(refusal);
    [
        BATCH_TOO_LARGE,
        DRAINING,
        ELSEWHERE,
        EPOCH_IN_FUTURE,
        FENCED,
        FRAME_INVALID,
        GRANT_INVALID,
        OPEN_INVALID,
        PROCESS_BUDGET,
        REGISTRY_UNAVAILABLE,
        SEQUENCE_INVALID,
    ]
    .into_iter()
    .find(|known| reason.as_deref() == Some(known))
    .unwrap_or("OTHER")
}

fn fenced(token: FencingToken) -> Status {
    status_with(
        Code::FailedPrecondition,
        FENCED,
        "a higher fencing token was seen",
        [
            ("epoch", token.epoch.to_string()),
            ("attempt", token.attempt.to_string()),
        ],
    )
}

fn frame_refusal(error: &FrameError) -> Status {
    let reason = match error {
        FrameError::BatchTooLarge { .. } => BATCH_TOO_LARGE,
        FrameError::BodyTooLarge { .. }
        | FrameError::FragmentMisplaced { .. }
        | FrameError::UnknownKind { .. } => FRAME_INVALID,
    };
    status(Code::InvalidArgument, reason, error.to_string())
}

fn response(answer: Answer) -> PublishResponse {
    PublishResponse {
        response: Some(answer),
    }
}
