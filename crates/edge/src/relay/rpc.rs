//! One Publish RPC at one origin.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use proto::{
    error,
    frames::{self, Parts},
    internal::v1::{
        PublishAccepted, PublishAck, PublishGoodbye, PublishOpen, PublishRequest, PublishResponse,
        publish_request::Request, publish_response::Response,
        relay_service_client::RelayServiceClient,
    },
};
use registry::{Origin, OriginName, SessionId, Slot, StreamId};
use runtime::telemetry;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use tracing::info;

use crate::{origins::Connection, replay_ring::Replay};

/// What a session tells every origin.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) signed_grant: Vec<u8>,
    pub(crate) stream: StreamId,
    pub(crate) slot: Slot,
    pub(crate) session: SessionId,
    pub(crate) epoch: u64,
    pub(crate) broadcast_id: String,
    /// As the origin said last, at first in its acceptance.
    pub(crate) timeline_offset_ms: Option<i64>,
    /// Readers have the frames of the stream's other slot.
    pub(crate) standby: bool,
    /// Until a first acceptance: origins that may have what readers had of the stream before.
    pub(crate) origins_before: Vec<OriginName>,
    /// The publish, which later attempts are linked to.
    pub(crate) traceparent: String,
}

/// An accepted Publish RPC.
pub(crate) struct Rpc {
    pub(super) origin: Origin,
    pub(super) connection: Arc<Connection>,
    /// `None` once nothing more is to be sent.
    pub(super) requests: Option<mpsc::Sender<PublishRequest>>,
    pub(super) responses: Streaming<PublishResponse>,
    /// The next frame to send.
    pub(super) next_sequence: u64,
    /// How the origin wants to be left, once it does.
    goodbye: Option<Goodbye>,
}

/// The origin wants to be left.
struct Goodbye {
    /// For this one; empty: for any other, because it goes.
    to: String,
    /// Until then, unless it is said again.
    until: Instant,
}

/// An origin that wants a session elsewhere says so again every few seconds, for as long as that holds.
const ELSEWHERE_TTL: Duration = Duration::from_secs(15);

/// An origin does not take the session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// No origin was asked: too many others look for one.
    #[error("too many sessions look for an origin")]
    Busy,
    /// A higher token was seen there.
    #[error("a publisher with a higher epoch ({epoch}) was there")]
    Fenced {
        /// Its epoch.
        epoch: u64,
    },
    /// The answer makes no sense.
    #[error("the origin's answer is not valid: {0}")]
    Malformed(&'static str),
    /// It said no, or could not be reached.
    #[error("{}", .0.message())]
    Refused(Status),
    /// No answer.
    #[error("no answer in time")]
    Timeout,
}

/// Requests that wait for the transport: the next batch is cut when the last one is on its way.
const REQUESTS_WAITING: usize = 1;

impl Rpc {
    /// Opens, and waits for the acceptance.
    pub(super) async fn open(
        terms: &Terms,
        attempt: u32,
        origin: &Origin,
        connection: Arc<Connection>,
        replay: &Replay,
    ) -> Result<(Self, PublishAccepted), OpenError> {
        let open = PublishOpen {
            signed_grant: terms.signed_grant.clone(),
            stream_id: terms.stream.as_bytes().to_vec(),
            slot: u32::from(terms.slot.number()),
            session_id: terms.session.to_string(),
            epoch: terms.epoch,
            attempt,
            broadcast_id: terms.broadcast_id.clone(),
            first_sequence: replay.first_sequence,
            timeline_offset_ms: terms.timeline_offset_ms,
            traceparent: telemetry::traceparent(),
            gap_before: replay.gap,
            standby: terms.standby,
            origins_before: terms
                .origins_before
                .iter()
                .map(OriginName::to_string)
                .collect(),
        };
        let headers = replay
            .headers
            .iter()
            .map(|(sequence, frame)| (*sequence, frame));
        let first = std::iter::once(Request::Open(open))
            .chain(
                frames::batches(headers, Parts::Omitted)
                    .into_iter()
                    .map(Request::Headers),
            )
            .map(|request| PublishRequest {
                request: Some(request),
            });
        let (requests, waiting) = mpsc::channel(REQUESTS_WAITING);
        let stream = tokio_stream::iter(first).chain(ReceiverStream::new(waiting));
        let mut responses = RelayServiceClient::new(connection.channel())
            .publish(stream)
            .await
            .map_err(OpenError::from_status)?
            .into_inner();
        let response = responses
            .message()
            .await
            .map_err(OpenError::from_status)?
            .and_then(|response| response.response);
        let accepted = match response {
            Some(Response::Accepted(accepted)) => accepted,
            Some(Response::Goodbye(goodbye)) => {
                return Err(OpenError::Refused(Status::unavailable(goodbye.reason)));
            }
            Some(Response::Ack(_)) => return Err(OpenError::Malformed("no acceptance")),
            None => return Err(OpenError::Malformed("no answer")),
        };
        let rpc = Self {
            origin: named(origin, &accepted.origin)?,
            connection,
            requests: Some(requests),
            responses,
            next_sequence: accepted.next_sequence,
            goodbye: None,
        };
        Ok((rpc, accepted))
    }

    /// That it goes is its last word.
    pub(super) fn said_goodbye(&mut self, goodbye: PublishGoodbye) {
        let PublishGoodbye { reason, origin: to } = goodbye;
        let before = self.goodbye.as_ref().map(|before| &before.to);
        if before.is_some_and(String::is_empty) {
            return;
        }
        if before != Some(&to) {
            info!(origin = %self.origin.name, reason, to, "the origin says goodbye");
        }
        let until = Instant::now() + ELSEWHERE_TTL;
        self.goodbye = Some(Goodbye { to, until });
    }

    /// The origin that it is to be left for, empty for any other; `None`: it is not to be left.
    pub(super) fn to_be_left_for(&self) -> Option<&str> {
        let goodbye = self.goodbye.as_ref()?;
        let holds = goodbye.to.is_empty() || Instant::now() < goodbye.until;
        holds.then_some(&goodbye.to)
    }
}

/// The origin by the name that it gave itself, under which readers find it: it may be known by its address alone.
fn named(origin: &Origin, name: &str) -> Result<Origin, OpenError> {
    let mut named = origin.clone();
    // Of a version before.
    if !name.is_empty() {
        named.name = OriginName::new(name).map_err(|_invalid| OpenError::Malformed("origin"))?;
    }
    Ok(named)
}

/// Sends the first request once there is room for it; nothing is lost where this is cancelled. `false` where the
/// transport takes none any more. Never ready once nothing more is to be sent.
pub(super) async fn send_first(
    requests: Option<&mpsc::Sender<PublishRequest>>,
    outgoing: &mut VecDeque<PublishRequest>,
) -> bool {
    let Some(requests) = requests else {
        return std::future::pending().await;
    };
    let Ok(permit) = requests.reserve().await else {
        return false;
    };
    if let Some(request) = outgoing.pop_front() {
        permit.send(request);
    }
    true
}

impl Terms {
    /// What an acceptance settles for all later attempts.
    pub(super) fn accepted(&mut self, accepted: &PublishAccepted) {
        if self.epoch == 0 {
            self.epoch = accepted.epoch;
        }
        self.broadcast_id.clone_from(&accepted.broadcast_id);
        self.origins_before.clear();
        self.standby = accepted.standby;
        self.timeline_offset_ms
            .get_or_insert(accepted.timeline_offset_ms);
    }

    /// Whether readers have the session's frames, and where those are in time, can change.
    pub(super) fn acknowledged(&mut self, ack: &PublishAck) {
        self.standby = ack.standby;
        self.timeline_offset_ms = ack.timeline_offset_ms.or(self.timeline_offset_ms);
    }
}

impl OpenError {
    fn from_status(status: Status) -> Self {
        fenced(&status).map_or_else(
            || Self::Refused(status.clone()),
            |epoch| Self::Fenced { epoch },
        )
    }

    /// A stable word for logs and metrics.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Busy => "BUSY".to_owned(),
            Self::Fenced { .. } => "FENCED".to_owned(),
            Self::Malformed(_) => "MALFORMED".to_owned(),
            Self::Refused(status) => {
                error::reason(status).unwrap_or_else(|| format!("{:?}", status.code()))
            }
            Self::Timeout => "TIMEOUT".to_owned(),
        }
    }

    /// Whether other sessions should try other origins first.
    pub(super) fn out_of_reach(&self) -> bool {
        match self {
            Self::Busy | Self::Fenced { .. } | Self::Malformed(_) => false,
            Self::Refused(status) => out_of_reach(status),
            Self::Timeout => true,
        }
    }
}

/// Whether the transport broke: an origin's own word carries a reason.
pub(super) fn out_of_reach(status: &Status) -> bool {
    error::reason(status).is_none()
}

/// The epoch that a FENCED status carries.
pub(super) fn fenced(status: &Status) -> Option<u64> {
    if error::reason(status).as_deref() != Some("FENCED") {
        return None;
    }
    let epoch = error::metadata(status, "epoch").and_then(|epoch| epoch.parse().ok());
    Some(epoch.unwrap_or_default())
}
