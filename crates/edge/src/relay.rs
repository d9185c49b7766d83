//! Hop 4 of a frame's life: the replay ring, and from there the Publish RPC.
//!
//! A session has one RPC at a time, at one origin. Where that breaks or stalls, the relay raises the attempt, opens at
//! another origin and replays from the ring: the encoder notices nothing. While no origin has the session the ring
//! fills, and a full ring stops the reading of the socket. An origin that says goodbye is served until another one has
//! the session.

mod change;
mod feed;
mod rpc;
mod stall;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use proto::{
    frames::{self, Parts},
    internal::v1::{
        PublishAccepted, PublishClose, PublishRequest, PublishResponse, PublisherLost,
        publish_request::Request, publish_response::Response,
    },
    v1::EventType,
};
use registry::{Origin, OriginName};
use runtime::telemetry;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout_at},
};
use tonic::{Code, Status};
use tracing::{Instrument as _, Span, debug, info, info_span, warn};

use crate::{
    Context,
    end::{End, Leaves},
    leases,
    live::LiveSession,
    metrics::ReopenLabels,
    origins::Connection,
    revocations::jittered,
};

use self::{
    change::Change,
    stall::{Stall, TICK},
};
pub(crate) use self::{
    feed::Feed,
    rpc::{OpenError, Rpc, Terms},
};

/// The way of one session to its origins.
pub(crate) struct Relay {
    context: Arc<Context>,
    live: Arc<LiveSession>,
    feed: Feed,
    terms: Terms,
    attempt: u32,
    /// What control was told of `terms.standby`.
    told_standby: bool,
}

/// Why an origin does not have the session any more.
enum Lost {
    Broken(Status),
    Stalled,
}

/// How the time with one origin ended.
enum Outcome {
    Fenced,
    /// The session is over and the origin has all of it.
    Finished,
    Lost(Lost),
    /// Another origin has it.
    Moved(Box<Rpc>),
}

/// How an attempt went.
struct Opened {
    /// Of what was offered.
    first_sequence: u64,
    connection: Arc<Connection>,
    attempt: u32,
    opened: Result<(Rpc, PublishAccepted), OpenError>,
}

/// Pauses between rounds over all origins, doubling, half of each random.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(1);
/// For a turn to ask the origins, before it is looked whether the session is still there.
const TURN_WAIT_MAX: Duration = Duration::from_secs(2);
/// What each session of an edge adds to the time over which they look for another origin.
const SPREAD_OF_ONE: Duration = Duration::from_micros(100);
const SPREAD_MAX: Duration = Duration::from_millis(500);

impl Relay {
    pub(crate) fn new(
        context: &Arc<Context>,
        live: &Arc<LiveSession>,
        feed: &Feed,
        terms: Terms,
    ) -> Self {
        Self {
            context: context.clone(),
            live: live.clone(),
            feed: feed.clone(),
            terms,
            attempt: 0,
            told_standby: false,
        }
    }

    /// Opens a session's first RPC at this origin, if its turn comes by then. Epoch 0 asks the origin for one. `before`:
    /// origins that may have the stream's log.
    pub(crate) async fn open(
        &mut self,
        origin: &Origin,
        epoch: u64,
        broadcast_id: String,
        before: Vec<OriginName>,
        turn_by: Instant,
    ) -> Result<Rpc, OpenError> {
        self.terms.epoch = epoch;
        self.terms.broadcast_id = broadcast_id;
        self.terms.origins_before = before;
        let _turn = self.turn(turn_by).await.ok_or(OpenError::Busy)?;
        let open_timeout = self.context.config.relay.open_timeout;
        let rpc = self.open_at(origin, Instant::now() + open_timeout).await?;
        if rpc.origin.name != origin.name {
            // Readers look for it under the name that was claimed.
            leases::renew_now(&self.context, &self.live);
        }
        Ok(rpc)
    }

    /// Relays until the session is over and delivered, fenced, or without any origin for too long.
    pub(crate) async fn run(mut self, mut rpc: Rpc) {
        loop {
            self.tell_standby();
            let lost = match self.pump(&mut rpc).await {
                Outcome::Fenced => return self.end(End::Fenced).await,
                Outcome::Finished => return,
                Outcome::Lost(lost) => lost,
                Outcome::Moved(next) => {
                    rpc = *next;
                    continue;
                }
            };
            let left = rpc.origin.clone();
            if let Lost::Broken(status) = &lost
                && rpc::out_of_reach(status)
            {
                self.context.origins.avoid(&rpc.connection);
            }
            // The origin sees the old RPC end before the new one opens.
            drop(rpc);
            let span = info_span!("relay.reopen", session_id = %self.terms.session, stream_id = %self.terms.stream,
                reason = lost.reason());
            telemetry::link(&span, &self.terms.traceparent);
            rpc = match self.reopen(&left, &lost).instrument(span).await {
                Ok(rpc) => rpc,
                Err(end) => return self.end(end).await,
            };
        }
    }

    async fn end(&self, end: End) {
        if end == End::Fenced {
            let grace = self.context.config.relay.fenced_grace;
            self.live.fenced(grace).await;
        } else {
            self.live.ending().end(end);
        }
    }

    /// The time with one origin.
    async fn pump(&mut self, rpc: &mut Rpc) -> Outcome {
        let mut change = Change::default();
        let mut outgoing: VecDeque<PublishRequest> = VecDeque::new();
        let mut stall = Stall::new(self.context.config.relay.stall_timeout, Instant::now());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut close_sent = false;
        loop {
            if outgoing.is_empty() && !close_sent {
                // In this order: nothing is pushed behind a finish.
                let finished = self.feed.finished();
                outgoing = self.next_requests(rpc);
                if let Some(end) = finished.filter(|_| outgoing.is_empty()) {
                    if end == End::Fenced {
                        return Outcome::Finished;
                    }
                    close_sent = true;
                    outgoing.extend(close_request(end));
                }
            }
            if close_sent && outgoing.is_empty() {
                rpc.requests = None;
            }
            let idle = outgoing.is_empty();
            tokio::select! {
                sent = rpc::send_first(rpc.requests.as_ref(), &mut outgoing), if !idle => {
                    if !sent {
                        // The transport takes no requests any more, and the response tells why.
                        rpc.requests = None;
                    } else if !close_sent {
                        stall.sent(Instant::now());
                    }
                }
                () = self.feed.pushed(), if idle && !close_sent => {}
                response = rpc.responses.message() => {
                    if let Some(outcome) = self.handle(response, rpc, &mut stall, close_sent) {
                        return outcome;
                    }
                }
                opened = change.opened() => {
                    if let Some(outcome) = self.changed(opened, &mut change) {
                        return outcome;
                    }
                }
                _ = tick.tick() => {
                    if self.feed.finish_overdue(self.context.config.relay.finish_timeout) {
                        warn!(origin = %rpc.origin.name, "the origin did not confirm the session's end in time");
                        return Outcome::Finished;
                    }
                    if stall.tick(Instant::now()) {
                        return Outcome::Lost(Lost::Stalled);
                    }
                    if !close_sent && let Some(to) = rpc.to_be_left_for() {
                        self.look_for_another(&rpc.origin, to, &mut change);
                    }
                }
            }
        }
    }

    fn next_requests(&self, rpc: &mut Rpc) -> VecDeque<PublishRequest> {
        let batch = self
            .feed
            .batch(rpc.next_sequence, self.context.config.relay.batch_bytes);
        let Some((last, _)) = batch.last() else {
            return VecDeque::new();
        };
        rpc.next_sequence = last + 1;
        let bytes: usize = batch.iter().map(|(_, frame)| frame.body.len()).sum();
        self.context
            .metrics
            .forwarded_bytes
            .inc_by(u64::try_from(bytes).unwrap_or_default());
        let frames = batch.iter().map(|(sequence, frame)| (*sequence, frame));
        frames::batches(frames, Parts::Omitted)
            .into_iter()
            .map(|batch| PublishRequest {
                request: Some(Request::Batch(batch)),
            })
            .collect()
    }

    fn handle(
        &mut self,
        response: Result<Option<PublishResponse>, Status>,
        rpc: &mut Rpc,
        stall: &mut Stall,
        close_sent: bool,
    ) -> Option<Outcome> {
        let response = match response {
            Ok(Some(response)) => response.response,
            // The origin reads in order: it has what came before the close.
            Ok(None) if close_sent => return Some(Outcome::Finished),
            Ok(None) => {
                let status = Status::unavailable("the origin ended the RPC");
                return Some(Outcome::Lost(Lost::Broken(status)));
            }
            Err(status) if rpc::fenced(&status).is_some() => return Some(Outcome::Fenced),
            Err(_) if close_sent && self.feed.delivered() => return Some(Outcome::Finished),
            // An origin of a version that does not know this end: it reads in order.
            Err(status) if close_sent && status.code() == Code::InvalidArgument => {
                return Some(Outcome::Finished);
            }
            Err(status) => return Some(Outcome::Lost(Lost::Broken(status))),
        };
        match response {
            Some(Response::Ack(ack)) => {
                self.terms.acknowledged(&ack);
                self.tell_standby();
                // What was never sent cannot be acknowledged.
                let next_sequence = ack.next_sequence.min(rpc.next_sequence);
                if self.feed.acknowledge(next_sequence) {
                    stall.progressed(next_sequence < rpc.next_sequence, Instant::now());
                }
                None
            }
            Some(Response::Goodbye(goodbye)) => {
                rpc.said_goodbye(goodbye);
                None
            }
            Some(Response::Accepted(_)) | None => None,
        }
    }

    /// Finds another origin, in time or not at all.
    async fn reopen(&mut self, left: &Origin, lost: &Lost) -> Result<Rpc, End> {
        let started = Instant::now();
        let deadline = started + self.context.config.relay.reopen_timeout;
        warn!(origin = %left.name, reason = lost.reason(), error = lost.detail(), attempt = self.attempt,
            "lost the origin, looking for another");
        let mut pause = ROUND_PAUSE;
        sleep(jittered(spread(self.context.live.count()))).await;
        let end = loop {
            match self.round(left, deadline).await {
                Ok(Some(rpc)) => {
                    info!(origin = %rpc.origin.name, attempt = self.attempt, elapsed = ?started.elapsed(),
                        next_sequence = rpc.next_sequence, "another origin has the session");
                    self.moved(lost.reason());
                    return Ok(rpc);
                }
                Ok(None) => {}
                Err(end) => break end,
            }
            if self.feed.finished() == Some(End::Fenced) {
                break End::Fenced;
            }
            let finish_timeout = self.context.config.relay.finish_timeout;
            if Instant::now() >= deadline || self.feed.finish_overdue(finish_timeout) {
                break End::OriginLost;
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(ROUND_PAUSE_MAX);
        };
        warn!(reason = end.reason(), elapsed = ?started.elapsed(), attempt = self.attempt,
            "no origin took the session");
        self.count_reopen(lost.reason(), end.reason());
        telemetry::fail(&Span::current(), end.reason());
        Err(end)
    }

    /// Asks every known origin once, the one that was left last.
    async fn round(&mut self, left: &Origin, deadline: Instant) -> Result<Option<Rpc>, End> {
        // Not for long: the session may end meanwhile.
        let turn_by = deadline.min(Instant::now() + TURN_WAIT_MAX);
        let Some(_turn) = self.turn(turn_by).await else {
            return Ok(None);
        };
        // Ranked by then: what others have found out of reach comes last.
        for origin in self.context.origins.ranked(self.live.stream, Some(left)) {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let open_by = deadline.min(now + self.context.config.relay.open_timeout);
            match self.open_at(&origin, open_by).await {
                Ok(rpc) => return Ok(Some(rpc)),
                Err(OpenError::Fenced { .. }) => {
                    let shown = self.terms.epoch;
                    if !leases::raise_to_own(&self.context, &self.live, shown).await {
                        return Err(End::Fenced);
                    }
                }
                Err(error) => {
                    info!(origin = %origin.name, reason = error.reason(), error = %error, attempt = self.attempt,
                        "an origin did not take the session");
                }
            }
        }
        Ok(None)
    }

    /// A turn to open somewhere; `None`: not by then.
    async fn turn(&self, by: Instant) -> Option<OwnedSemaphorePermit> {
        let openings = self.context.openings.clone();
        timeout_at(by, openings.acquire_owned()).await.ok()?.ok()
    }

    async fn open_at(&mut self, origin: &Origin, deadline: Instant) -> Result<Rpc, OpenError> {
        let opening = self.opening(origin, deadline);
        let opened = opening.await;
        self.adopt(opened)
    }

    /// The next attempt, at this origin. What is replayed is held from here on: to be followed by
    /// [`adopt`](Self::adopt).
    fn opening(
        &mut self,
        origin: &Origin,
        deadline: Instant,
    ) -> impl Future<Output = Opened> + Send + use<> {
        self.attempt += 1;
        let attempt = self.attempt;
        // Raised where a late claim was the session's own.
        self.terms.epoch = self.terms.epoch.max(self.live.epoch());
        let (terms, replay) = (self.terms.clone(), self.feed.hold());
        let connection = self.context.origins.connect(origin);
        let origin = origin.clone();
        let span = info_span!("relay.open", otel.kind = "client", origin = %origin.name, attempt, epoch = terms.epoch);
        async move {
            let first_sequence = replay.first_sequence;
            let opening = Rpc::open(&terms, attempt, &origin, connection.clone(), &replay);
            let opened = match timeout_at(deadline, opening).instrument(span.clone()).await {
                Ok(opened) => opened,
                Err(_elapsed) => Err(OpenError::Timeout),
            };
            if let Err(error) = &opened {
                telemetry::fail(&span, &error.reason());
            }
            Opened {
                first_sequence,
                connection,
                attempt,
                opened,
            }
        }
    }

    /// The origin has the session, if it took it.
    fn adopt(&mut self, opened: Opened) -> Result<Rpc, OpenError> {
        let Opened {
            first_sequence,
            connection,
            attempt,
            opened,
        } = opened;
        let (rpc, accepted) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                if error.out_of_reach() {
                    self.context.origins.avoid(&connection);
                }
                return Err(error);
            }
        };
        if rpc.next_sequence < first_sequence || rpc.next_sequence > self.feed.next_sequence() {
            return Err(OpenError::Malformed("next_sequence"));
        }
        self.feed.resume(rpc.next_sequence);
        self.terms.accepted(&accepted);
        if rpc.origin.name != connection.destination().name {
            self.context.origins.told_its_name(&rpc.origin);
        }
        let origin = &rpc.origin.name;
        let broadcast_id = &self.terms.broadcast_id;
        self.live
            .attached(self.terms.epoch, attempt, origin, broadcast_id);
        debug!(%origin, epoch = self.terms.epoch, attempt, "publishing");
        Ok(rpc)
    }

    /// Control hears when readers get the stream's other publisher, and when they get this one again.
    fn tell_standby(&mut self) {
        let standby = self.terms.standby;
        if std::mem::replace(&mut self.told_standby, standby) != standby {
            let change = if standby {
                EventType::SessionStandby
            } else {
                EventType::SessionOnAir
            };
            self.context.reports.add(change, self.live.event());
        }
    }

    /// Another origin has the session: readers look in the registry for where it is.
    fn moved(&self, reason: &'static str) {
        self.count_reopen(reason, "ok");
        leases::renew_now(&self.context, &self.live);
    }

    fn count_reopen(&self, reason: &'static str, outcome: &'static str) {
        self.context
            .metrics
            .relay_reopens
            .get_or_create(&ReopenLabels { reason, outcome })
            .inc();
    }
}

/// What the origin is told of the session's end.
fn close_request(end: End) -> Option<PublishRequest> {
    let request = match end.leaves() {
        Leaves::Ended => Request::Close(PublishClose {
            reason: end.reason().to_owned(),
        }),
        Leaves::Unbroken => return None,
        Leaves::WithoutPublisher => Request::Lost(PublisherLost {}),
    };
    Some(PublishRequest {
        request: Some(request),
    })
}

/// Over what time this many sessions look for another origin: each edge has its turns, and all edges lose one at once.
fn spread(sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions.saturating_sub(1)).unwrap_or(u32::MAX);
    SPREAD_OF_ONE.saturating_mul(sessions).min(SPREAD_MAX)
}

impl Lost {
    fn reason(&self) -> &'static str {
        match self {
            Self::Broken(_) => "broken",
            Self::Stalled => "stalled",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Self::Broken(status) => status.message(),
            Self::Stalled => "no acknowledgement",
        }
    }
}
