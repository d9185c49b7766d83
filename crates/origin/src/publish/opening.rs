//! A Publish RPC's first message: what must hold before a frame is taken.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::{
    error::{status, status_with},
    internal::v1::{Grant, PublishOpen, PublishRequest, publish_request::Request as Message},
};
use registry::{EPOCH_AHEAD_MS_MAX, FencingToken, SessionId, Slot, StreamId};
use runtime::telemetry;
use tonic::{Code, Status, Streaming};
use tracing::{Instrument as _, Span, field::Empty, info, info_span, warn};

use super::{
    DRAINING, ELSEWHERE, EPOCH_IN_FUTURE, GRANT_INVALID, OPEN_INVALID, PROCESS_BUDGET,
    REGISTRY_UNAVAILABLE, Relay, fenced, refusal_reason,
};
use crate::{
    fencing::{self, Refused},
    stream::{AttachError, Attached, Opening, Place},
};

/// An open that was taken.
pub(super) struct Accepted {
    pub(super) attached: Attached,
    pub(super) token: FencingToken,
    /// For the session's log lines.
    pub(super) span: Span,
}

/// Longest broadcast id, in bytes.
const BROADCAST_ID_BYTES_MAX: usize = 64;

impl Relay {
    /// Reads the first message and decides.
    pub(super) async fn open(
        &self,
        requests: &mut Streaming<PublishRequest>,
    ) -> Result<Accepted, Status> {
        let first = tokio::time::timeout(self.config.timing.open_timeout, requests.message())
            .await
            .map_err(|_elapsed| invalid("no open came in time"))??;
        let Some(PublishRequest {
            request: Some(Message::Open(open)),
        }) = first
        else {
            return Err(invalid("the first message must be an open"));
        };
        let session_id =
            SessionId::new(&open.session_id).map_err(|_| invalid("not a session id"))?;
        let span = open_span(session_id.as_str(), &open.traceparent);
        let answer = self.accept(open).instrument(span.clone()).await;
        if let Err(refusal) = &answer {
            telemetry::fail(&span, refusal_reason(refusal));
        }
        answer
    }

    async fn accept(&self, open: PublishOpen) -> Result<Accepted, Status> {
        let span = Span::current();
        if self.shutdown.is_draining() {
            return Err(status(Code::Unavailable, DRAINING, "the origin is leaving"));
        }
        let now_ms = unix_ms();
        let (grant, place) = self.check_grant(&open, now_ms)?;
        span.record("stream_id", place.0.to_string());
        span.record("app", &grant.app);
        let presented = presented_token(&open)?;
        let (stream_id, slot) = place;
        // A new session goes on behind what readers had. A backup that is alone begins anew.
        if open.timeline_offset_ms.is_none() && slot == Slot::PRIMARY {
            let before = &open.origins_before;
            self.follower.take_in(stream_id, before).await;
        }
        let held = self.streams.owned(stream_id);
        // Publishers that this origin has go on, whatever its memory.
        let present = held.filter(|stream| stream.is_present(slot));
        if present.is_none() && !self.streams.budget().admits() {
            return Err(status(
                Code::ResourceExhausted,
                PROCESS_BUDGET,
                "the origin's memory for media is in use",
            ));
        }
        let seen = match present {
            Some(stream) => *stream.tokens().of(slot),
            None => {
                let known = self.streams.find(stream_id);
                let known = known.map(|stream| *stream.tokens().of(slot));
                let registered = self.registered_token(place).await;
                let policy = self.config.outage_policy;
                fencing::known(known, registered, policy).map_err(token_refusal)?
            }
        };
        let token = fencing::admit(presented, seen, self.config.outage_policy, now_ms)
            .map_err(token_refusal)?;
        span.record("epoch", token.epoch);
        span.record("attempt", token.attempt);
        let session = session_span(&open.session_id, &grant.app, stream_id, token);
        let opening = Opening {
            place,
            session_id: open.session_id,
            broadcast_id: open.broadcast_id,
            token,
            first_sequence: open.first_sequence,
            gap_before: open.gap_before,
            timeline_offset_ms: open.timeline_offset_ms,
            standby: open.standby,
            window: grant.reconnect_window_ms.map(millis),
        };
        let attached = self.streams.attach(&opening).map_err(attach_refusal)?;
        info!(
            slot = slot.number(),
            attempt = token.attempt,
            epoch = token.epoch,
            broadcast_id = attached.publication.stream().broadcast_id,
            first_sequence = opening.first_sequence,
            trace_id = telemetry::trace_id(&span),
            "publish accepted"
        );
        Ok(Accepted {
            attached,
            token,
            span: session,
        })
    }

    /// The grant allows this stream, slot and session, now.
    fn check_grant(&self, open: &PublishOpen, now_ms: u64) -> Result<(Grant, Place), Status> {
        let refuse = |why: &str| status(Code::PermissionDenied, GRANT_INVALID, why.to_owned());
        let grant = self
            .grants
            .load()
            .verify(&open.signed_grant)
            .map_err(|error| refuse(&error.to_string()))?;
        let stream_id = StreamId::from_bytes(&open.stream_id)
            .map_err(|_| invalid("a stream id has 16 bytes"))?;
        let slot = Slot::new(open.slot).map_err(|_| invalid("there are two slots"))?;
        let valid_broadcast_id = !open.broadcast_id.is_empty()
            && open.broadcast_id.len() <= BROADCAST_ID_BYTES_MAX
            && open.broadcast_id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !valid_broadcast_id {
            return Err(invalid("not a broadcast id"));
        }
        if stream_id != StreamId::derive(&grant.tenant, &grant.app, &grant.stream)
            || grant.stream_id != open.stream_id
        {
            return Err(refuse("the grant is for another stream"));
        }
        if grant.slot != open.slot || grant.session_id != open.session_id {
            return Err(refuse("the grant is for another slot or session"));
        }
        if grant.issued_ms > now_ms.saturating_add(EPOCH_AHEAD_MS_MAX) {
            return Err(refuse("the grant was issued in the future"));
        }
        // A session that was accepted once is ended by its edge, which hears where its key's time has changed.
        let first_open = open.timeline_offset_ms.is_none();
        if first_open && now_ms >= grant.expires_ms {
            return Err(refuse("the grant expired"));
        }
        if first_open && grant.session_until_ms > 0 && now_ms >= grant.session_until_ms {
            return Err(refuse("the time that the grant allowed is over"));
        }
        Ok((grant, (stream_id, slot)))
    }

    /// The highest token that the registry knows of a stream that is not owned here; `None`: it does not answer.
    async fn registered_token(&self, place: Place) -> Option<FencingToken> {
        let places = [place];
        let asked = self.registry.owners(&places);
        let answer = tokio::time::timeout(self.config.timing.registry_wait, asked).await;
        let reason = match answer {
            Ok(Ok(owners)) => {
                let owner = owners.into_iter().next().unwrap_or_default();
                return Some(fencing::token(&owner));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_elapsed) => "no answer in time".to_owned(),
        };
        warn!(reason, "the stream's ownership could not be checked");
        None
    }
}

/// The open, in the publisher's trace.
fn open_span(session_id: &str, traceparent: &str) -> Span {
    let span = info_span!(
        "origin.open",
        otel.kind = "server",
        session_id,
        stream_id = Empty,
        app = Empty,
        epoch = Empty,
        attempt = Empty,
    );
    if !traceparent.is_empty() {
        telemetry::set_parent(&span, traceparent);
    }
    span
}

/// The session behind the open: it may last for hours, and is no part of the trace.
fn session_span(session_id: &str, app: &str, stream: StreamId, token: FencingToken) -> Span {
    let trace_id = telemetry::trace_id(&Span::current());
    info_span!(
        parent: None,
        "origin.publish",
        log_only = Empty,
        session_id,
        stream_id = %stream,
        app,
        epoch = token.epoch,
        attempt = token.attempt,
        trace_id,
    )
}

fn presented_token(open: &PublishOpen) -> Result<FencingToken, Status> {
    if open.attempt == 0 {
        return Err(invalid("attempts count from 1"));
    }
    Ok(FencingToken {
        epoch: open.epoch,
        attempt: open.attempt,
    })
}

fn token_refusal(refused: Refused) -> Status {
    let unavailable = |why: &str| status(Code::Unavailable, REGISTRY_UNAVAILABLE, why);
    match refused {
        Refused::EpochInFuture => status(
            Code::FailedPrecondition,
            EPOCH_IN_FUTURE,
            "the epoch is ahead of the clock",
        ),
        Refused::Fenced(token) => fenced(token),
        Refused::NoEpochs => unavailable("this origin grants no epochs"),
        Refused::Unchecked => unavailable("the stream's ownership could not be checked"),
    }
}

fn attach_refusal(error: AttachError) -> Status {
    let why = error.to_string();
    match error {
        AttachError::Elsewhere(origin) => {
            let origin = origin.to_string();
            status_with(Code::Unavailable, ELSEWHERE, why, [("origin", origin)])
        }
        AttachError::Fenced(token) => fenced(token),
        AttachError::StreamsExceeded => status(Code::ResourceExhausted, PROCESS_BUDGET, why),
    }
}

fn millis(milliseconds: u32) -> Duration {
    Duration::from_millis(milliseconds.into())
}

fn invalid(why: &str) -> Status {
    status(Code::InvalidArgument, OPEN_INVALID, why)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
