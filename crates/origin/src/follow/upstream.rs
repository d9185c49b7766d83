//! One Follow RPC, and the connections that they share.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use media::Frame;
use proto::{
    frames::{Assembler, FrameError, Parts},
    internal::v1::{
        FollowAccepted, FollowRequest, FollowResponse, follow_response::Response,
        relay_service_client::RelayServiceClient,
    },
    v1::FrameBatch,
};
use registry::{FencingToken, Origin, OriginName, Slot, StreamId};
use runtime::grpc::{Connection, Pool};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};
use tracing::debug;

use super::Dialer;
use crate::{
    metrics::{OpenLabels, OriginMetrics},
    stream::{Position, Slots},
};

/// Connections to other origins.
pub(super) struct Upstreams {
    dialer: Dialer,
    metrics: OriginMetrics,
    connections: Pool<Destination>,
}

/// An origin that moves is another one to connect to.
type Destination = (OriginName, String);

/// A log as its owner tells it.
pub(super) struct Upstream {
    pub(super) origin: OriginName,
    pub(super) broadcast_id: String,
    /// The owner's.
    pub(super) tokens: Slots<FencingToken>,
    responses: Streaming<FollowResponse>,
    assembler: Assembler,
    /// Held for as long as the RPC lasts.
    _connection: Arc<Connection<Destination>>,
}

/// To reach an origin and have it accept.
const OPEN_TIMEOUT: Duration = Duration::from_millis(500);

impl Upstreams {
    pub(super) fn new(dialer: Dialer, metrics: &OriginMetrics) -> Self {
        Self {
            dialer,
            metrics: metrics.clone(),
            connections: Pool::default(),
        }
    }

    /// Follows a stream behind a position: at the origin of these that has the highest tokens, and none lower than these.
    pub(super) async fn open(
        &self,
        origins: &[Origin],
        id: StreamId,
        position: Option<&Position>,
        seen: &Slots<FencingToken>,
    ) -> Option<Upstream> {
        let open = |origin| self.open_at(origin, id, position.cloned(), *seen);
        let opened = join_all(origins.iter().map(open)).await;
        let rank = |upstream: &Upstream| Slot::ALL.map(|slot| *upstream.tokens.of(slot));
        opened.into_iter().flatten().max_by_key(rank)
    }

    async fn open_at(
        &self,
        origin: &Origin,
        id: StreamId,
        position: Option<Position>,
        seen: Slots<FencingToken>,
    ) -> Option<Upstream> {
        let destination = (origin.name.clone(), origin.relay_address.clone());
        let connection = self
            .connections
            .connection(&destination, || (self.dialer)(origin));
        let opening = Upstream::open(origin, connection.clone(), id, position, seen);
        let opened = timeout(OPEN_TIMEOUT, opening).await;
        let opened =
            opened.unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no answer in time")));
        let outcome = match &opened {
            Ok(_) => "accepted",
            Err(refusal) => refusal_outcome(refusal),
        };
        let opens = &self.metrics.follow_opens;
        opens.get_or_create(&OpenLabels { outcome }).inc();
        opened
            .inspect_err(|refusal| {
                debug!(stream_id = %id, origin = %origin.name, outcome, reason = refusal.message(),
                    "an origin does not give a stream");
                if outcome == UNREACHABLE {
                    self.connections.give_up(&connection);
                }
            })
            .ok()
    }
}

impl Upstream {
    async fn open(
        origin: &Origin,
        connection: Arc<Connection<Destination>>,
        stream_id: StreamId,
        position: Option<Position>,
        seen: Slots<FencingToken>,
    ) -> Result<Self, Status> {
        let (session_id, next_sequence) =
            position.map_or_else(Default::default, |p| (p.session_id, p.next_sequence));
        let (primary, backup) = (seen.of(Slot::PRIMARY), seen.of(Slot::BACKUP));
        let request = FollowRequest {
            stream_id: stream_id.as_bytes().to_vec(),
            session_id,
            next_sequence,
            epoch: primary.epoch,
            attempt: primary.attempt,
            backup_epoch: backup.epoch,
            backup_attempt: backup.attempt,
        };
        let mut client = RelayServiceClient::new(connection.channel());
        let mut responses = client.follow(request).await?.into_inner();
        let first = responses.message().await?;
        let Some(Response::Accepted(FollowAccepted {
            broadcast_id,
            epoch,
            attempt,
            backup_epoch,
            backup_attempt,
        })) = first.and_then(|first| first.response)
        else {
            return Err(Status::internal("the first response is no acceptance"));
        };
        Ok(Self {
            origin: origin.name.clone(),
            broadcast_id,
            tokens: Slots::new(
                FencingToken { epoch, attempt },
                FencingToken {
                    epoch: backup_epoch,
                    attempt: backup_attempt,
                },
            ),
            responses,
            assembler: Assembler::new(Parts::Omitted),
            _connection: connection,
        })
    }

    /// Whether its owner has a higher token than these.
    pub(super) fn is_above(&self, seen: &Slots<FencingToken>) -> bool {
        self.tokens
            .iter()
            .any(|(slot, token)| token > seen.of(slot))
    }

    /// What comes next.
    pub(super) async fn next(&mut self) -> Result<Response, Status> {
        let response = self.responses.message().await?;
        let response = response.ok_or_else(|| Status::unavailable("the origin ended the RPC"))?;
        response
            .response
            .ok_or_else(|| Status::internal("an empty response"))
    }

    /// The frames that a batch completes.
    pub(super) fn frames(&mut self, batch: FrameBatch) -> Result<Vec<(u64, Frame)>, FrameError> {
        self.assembler.push(batch)
    }

    /// What a begun body holds, in bytes.
    pub(super) fn partial_bytes(&self) -> usize {
        self.assembler.partial_bytes()
    }
}

const UNREACHABLE: &str = "UNREACHABLE";

/// The refusal's reason as a metric's label.
fn refusal_outcome(refusal: &Status) -> &'static str {
    let reason = proto::error::reason(refusal);
    let known = ["FOLLOWERS_EXCEEDED", "NOT_OWNER"];
    match known
        .into_iter()
        .find(|known| reason.as_deref() == Some(known))
    {
        Some(known) => known,
        None if matches!(refusal.code(), Code::Unavailable | Code::DeadlineExceeded) => UNREACHABLE,
        None => "OTHER",
    }
}
