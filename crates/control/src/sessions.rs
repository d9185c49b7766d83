//! `SessionService`: live publishing sessions, as their leases in the registry show them.

use std::sync::Arc;

use proto::{
    error::status,
    v1::{
        FrameKind, GetSessionRequest, ListSessionsRequest, ListSessionsResponse, Session,
        TerminateSessionRequest, TerminateSessionResponse, Track,
        session_service_server::SessionService,
    },
};
use registry::{Lease, LeaseTrack, RegistryError};
use runtime::error::chain;
use tonic::{Code, Request, Response, Status};

use crate::{
    Shared,
    caller::{Caller, Scope},
    database::Termination,
    field::{self, Violations, now_ms, timestamp},
    page_token::{Cursor, Page},
};

/// Serves the sessions of the whole cluster.
pub(crate) struct Sessions(pub(crate) Arc<Shared>);

#[tonic::async_trait]
impl SessionService for Sessions {
    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        self.0
            .metrics
            .timed("ListSessions", self.list(request))
            .await
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        self.0.metrics.timed("GetSession", self.get(request)).await
    }

    async fn terminate_session(
        &self,
        request: Request<TerminateSessionRequest>,
    ) -> Result<Response<TerminateSessionResponse>, Status> {
        self.0
            .metrics
            .timed("TerminateSession", self.terminate(request))
            .await
    }

    type WatchSessionsStream =
        tokio_stream::Pending<Result<proto::v1::WatchSessionsResponse, Status>>;

    async fn watch_sessions(
        &self,
        request: Request<proto::v1::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        self.0.caller(&request, Scope::SessionsRead).await?;
        Err(Status::unimplemented("watch_sessions"))
    }
}

impl Sessions {
    async fn list(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<ListSessionsResponse, Status> {
        let caller = self.0.caller(&request, Scope::SessionsRead).await?;
        let request = request.into_inner();
        let page = Page::of(&request.app, request.page_size, &request.page_token)?;
        let page_len = usize::try_from(page.size).unwrap_or(usize::MAX);

        let mut leases = self.leases(&caller).await?;
        leases.retain(|(cursor, lease)| {
            *cursor > page.after && (request.app.is_empty() || lease.stats.app == request.app)
        });
        // By their start: a session that begins while somebody pages comes last.
        leases.sort_by(|(one, _), (other, _)| one.cmp(other));
        let more = leases.len() > page_len;
        leases.truncate(page_len);
        let last = leases.last().filter(|_| more);
        Ok(ListSessionsResponse {
            next_page_token: last.map(|(cursor, _)| cursor.encode()).unwrap_or_default(),
            sessions: leases
                .into_iter()
                .map(|(_, lease)| message(lease))
                .collect(),
        })
    }

    async fn get(&self, request: Request<GetSessionRequest>) -> Result<Session, Status> {
        let caller = self.0.caller(&request, Scope::SessionsRead).await?;
        self.find(&caller, &request.into_inner().id)
            .await
            .map(message)
    }

    async fn terminate(
        &self,
        request: Request<TerminateSessionRequest>,
    ) -> Result<TerminateSessionResponse, Status> {
        let caller = self.0.caller(&request, Scope::SessionsWrite).await?;
        let request = request.into_inner();
        let mut violations = Violations::default();
        violations.check("reason", field::reason(&request.reason));
        violations.finish()?;
        let lease = self.find(&caller, &request.id).await?;
        let now_ms = now_ms();
        let hold_off_ms = i64::try_from(self.0.hold_off.as_millis()).unwrap_or(i64::MAX);
        // The log first: it reaches the edge even where the registry fails us now.
        let termination = Termination {
            tenant: &lease.stats.tenant,
            session_id: lease.session.as_str(),
            stream_key_id: &lease.stats.stream_key_id,
            reason: &request.reason,
            held_off_until_ms: now_ms.saturating_add(hold_off_ms),
        };
        self.0
            .database
            .terminate_session(&termination, now_ms)
            .await?;
        if let Err(error) = self
            .0
            .registry
            .kick(lease.stream, lease.slot, Some(&lease.session))
            .await
        {
            tracing::warn!(session_id = %lease.session, reason = chain(&error), "the lease goes with its session");
        }
        self.0.metrics.admin_action("terminate_session");
        tracing::info!(
            action = "terminate_session",
            actor = caller.name,
            tenant = lease.stats.tenant,
            session_id = %lease.session,
            stream_id = %lease.stream,
            stream_key_id = lease.stats.stream_key_id,
            app = lease.stats.app,
            edge = %lease.edge,
            client_address = caller.address,
            reason = request.reason,
            "session terminated"
        );
        Ok(TerminateSessionResponse {})
    }

    /// What another tenant owns is not there.
    async fn find(&self, caller: &Caller, id: &str) -> Result<Lease, Status> {
        let leases = self.leases(caller).await?;
        let found = leases
            .into_iter()
            .find(|(_, lease)| lease.session.as_str() == id);
        let (_, lease) =
            found.ok_or_else(|| status(Code::NotFound, "SESSION_NOT_FOUND", "no such session"))?;
        Ok(lease)
    }

    async fn leases(&self, caller: &Caller) -> Result<Vec<(Cursor, Lease)>, Status> {
        let leases = self
            .0
            .registry
            .leases()
            .await
            .map_err(|error| unavailable(&error))?;
        let own = leases
            .into_iter()
            .filter(|lease| caller.sees(&lease.stats.tenant));
        Ok(own.map(|lease| (cursor(&lease), lease)).collect())
    }
}

fn cursor(lease: &Lease) -> Cursor {
    Cursor {
        time_ms: i64::try_from(lease.since_ms).unwrap_or(i64::MAX),
        id: lease.session.to_string(),
    }
}

fn unavailable(error: &RegistryError) -> Status {
    tracing::warn!(reason = chain(error), "the registry does not answer");
    registry_unavailable()
}

/// Without the registry nobody knows what is live.
pub(crate) fn registry_unavailable() -> Status {
    status(
        Code::Unavailable,
        "REGISTRY_UNAVAILABLE",
        "the registry does not answer",
    )
}

fn message(lease: Lease) -> Session {
    Session {
        id: lease.session.to_string(),
        tenant: lease.stats.tenant,
        app: lease.stats.app,
        stream: lease.stats.name,
        slot: lease.slot.number().into(),
        stream_key_id: lease.stats.stream_key_id,
        edge: lease.edge.to_string(),
        origin: lease.origin.to_string(),
        epoch: lease.epoch,
        attempt: lease.attempt,
        start_time: Some(timestamp(i64::try_from(lease.since_ms).unwrap_or(i64::MAX))),
        media_age_ms: u64::try_from(lease.media_age.as_millis()).unwrap_or(u64::MAX),
        client_address: lease.stats.client_address,
        encoder: lease.stats.encoder,
        bitrate_bps: lease.stats.bitrate_bps,
        received_bytes: lease.stats.received_bytes,
        video_codec: lease.stats.video_codec,
        audio_codec: lease.stats.audio_codec,
        tracks: lease.stats.tracks.into_iter().map(track).collect(),
        frame_rate_millihertz: lease.stats.frame_rate_millihertz,
        width: lease.stats.width,
        height: lease.stats.height,
    }
}

fn track(track: LeaseTrack) -> Track {
    let (frame_rate_numerator, frame_rate_denominator) = track.frame_rate;
    let kind = if track.video {
        FrameKind::Video
    } else {
        FrameKind::Audio
    };
    Track {
        kind: kind.into(),
        id: track.id.into(),
        codec: track.codec,
        codec_string: track.codec_string,
        profile: track.profile,
        level: track.level,
        width: track.width,
        height: track.height,
        frame_rate_numerator,
        frame_rate_denominator,
        bit_depth: track.bit_depth,
        transfer_characteristics: track.transfer_characteristics,
        sample_rate: track.sample_rate,
        channels: track.channels,
    }
}
