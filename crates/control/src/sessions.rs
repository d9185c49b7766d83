//! `SessionService`: live publishing sessions, as their leases in the registry show them.

mod live;
mod watch;

use std::{sync::Arc, time::Duration};

use proto::{
    error::status,
    v1::{
        FrameKind, GetSessionRequest, ListSessionsRequest, ListSessionsResponse, Session,
        TerminateSessionRequest, TerminateSessionResponse, Track, WatchSessionsRequest,
        WatchSessionsResponse, session_service_server::SessionService,
    },
};
use registry::{Lease, LeaseTrack, RegistryError};
use runtime::{error::chain, shutdown::Shutdown};
use tonic::{Code, Request, Response, Status};

pub(crate) use self::live::LiveSessions;
use self::watch::SessionWatch;
use crate::{
    Shared,
    caller::{Caller, Scope},
    database::Termination,
    field::{self, Violations, now_ms, timestamp},
    page_token::{self, Cursor, Page},
    watches::{Answers, PUBLIC_WATCHES_MAX, Watches},
};

/// Serves the sessions of the whole cluster.
pub(crate) struct Sessions {
    shared: Arc<Shared>,
    watches: Watches,
}

/// Which sessions a request is about.
struct Filter {
    /// Empty: every app.
    app: String,
    /// Empty: every stream.
    stream: String,
    /// `None`: every tenant.
    tenant: Option<Arc<str>>,
}

#[tonic::async_trait]
impl SessionService for Sessions {
    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        self.shared
            .metrics
            .timed("ListSessions", self.list(request))
            .await
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<Session>, Status> {
        self.shared
            .metrics
            .timed("GetSession", self.get(request))
            .await
    }

    async fn terminate_session(
        &self,
        request: Request<TerminateSessionRequest>,
    ) -> Result<Response<TerminateSessionResponse>, Status> {
        self.shared
            .metrics
            .timed("TerminateSession", self.terminate(request))
            .await
    }

    type WatchSessionsStream = Answers<WatchSessionsResponse>;

    async fn watch_sessions(
        &self,
        request: Request<WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchSessionsStream>, Status> {
        let caller = self.shared.caller(&request, Scope::SessionsRead).await?;
        let request = request.into_inner();
        let mut violations = Violations::default();
        let filter = Filter::of(
            &caller,
            (request.app, request.stream, &request.tenant),
            &mut violations,
        );
        violations.finish()?;
        let room = self.watches.room(caller.own_tenant())?;
        let watch = SessionWatch::new(self.shared.live_sessions.subscribe(), filter);
        let end = caller.ended(self.shared.clone());
        Ok(self.watches.serve(watch, end, room))
    }
}

impl Sessions {
    pub(crate) fn new(shared: Arc<Shared>, shutdown: Shutdown) -> Self {
        Self {
            shared,
            watches: Watches::new(PUBLIC_WATCHES_MAX, ANSWERS_QUEUED_MAX, shutdown),
        }
    }

    async fn list(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<ListSessionsResponse, Status> {
        let caller = self.shared.caller(&request, Scope::SessionsRead).await?;
        let request = request.into_inner();
        let page = Page::of(&request.app, request.page_size, &request.page_token)?;
        let mut violations = Violations::default();
        let filter = Filter::of(
            &caller,
            (request.app, request.stream, &request.tenant),
            &mut violations,
        );
        violations.finish()?;

        let leases = self.leases().await?;
        let wanted = leases.iter().filter(|lease| {
            let stats = &lease.stats;
            filter.takes(&stats.app, &stats.name, &stats.tenant)
        });
        let mut leases: Vec<(Cursor, &Lease)> = wanted
            .map(|lease| (cursor(lease), lease))
            .filter(|(cursor, _)| *cursor > page.after)
            .collect();
        // By their start: a session that begins while somebody pages comes last.
        leases.sort_by(|(one, _), (other, _)| one.cmp(other));
        let last = page_token::cut(&mut leases, page.size);
        Ok(ListSessionsResponse {
            next_page_token: last.map(|(cursor, _)| cursor.encode()).unwrap_or_default(),
            sessions: leases
                .into_iter()
                .map(|(_, lease)| message(lease.clone()))
                .collect(),
        })
    }

    async fn get(&self, request: Request<GetSessionRequest>) -> Result<Session, Status> {
        let caller = self.shared.caller(&request, Scope::SessionsRead).await?;
        self.find(&caller, &request.into_inner().id)
            .await
            .map(message)
    }

    async fn terminate(
        &self,
        request: Request<TerminateSessionRequest>,
    ) -> Result<TerminateSessionResponse, Status> {
        let caller = self.shared.caller(&request, Scope::SessionsWrite).await?;
        let request = request.into_inner();
        let mut violations = Violations::default();
        violations.check("reason", field::reason(&request.reason));
        let ban = violations.check("ban", request.ban.map(field::period_ms).transpose());
        violations.finish()?;
        let lease = self.find(&caller, &request.id).await?;
        let now_ms = now_ms();
        let hold_off_ms = ban
            .flatten()
            .unwrap_or_else(|| field::millis(self.shared.hold_off));
        // The log first: it reaches the edge even where the registry fails us now.
        let termination = Termination {
            tenant: &lease.stats.tenant,
            session_id: lease.session.as_str(),
            stream_key_id: &lease.stats.stream_key_id,
            reason: &request.reason,
            held_off_until_ms: now_ms.saturating_add(hold_off_ms),
        };
        self.shared
            .database
            .terminate_session(&termination, now_ms)
            .await?;
        let registry = &self.shared.registry;
        let kick = registry.kick(lease.stream, lease.slot, Some(&lease.session));
        let (kicked, ()) = tokio::join!(kick, self.shared.tell_of_end(&lease));
        if let Err(error) = kicked {
            tracing::warn!(session_id = %lease.session, reason = chain(&error), "the lease goes with its session");
        }
        self.shared.metrics.admin_action("terminate_session");
        tracing::info!(
            action = "terminate_session",
            tenant = lease.stats.tenant,
            session_id = %lease.session,
            stream_id = %lease.stream,
            stream_key_id = lease.stats.stream_key_id,
            app = lease.stats.app,
            edge = %lease.edge,
            actor = caller.name,
            client_address = caller.address,
            refused_for_ms = hold_off_ms,
            reason = request.reason,
            "session terminated"
        );
        Ok(TerminateSessionResponse {})
    }

    /// What another tenant owns is not there.
    async fn find(&self, caller: &Caller, id: &str) -> Result<Lease, Status> {
        let leases = self.leases().await?;
        let found = leases
            .iter()
            .find(|lease| lease.session.as_str() == id && caller.sees(&lease.stats.tenant));
        found
            .cloned()
            .ok_or_else(|| status(Code::NotFound, "SESSION_NOT_FOUND", "no such session"))
    }

    async fn leases(&self) -> Result<Arc<Vec<Lease>>, Status> {
        // As of now: who has just ended a session, or heard of one, asks for it.
        let leases = self.shared.leases.at_most(Duration::ZERO).await;
        leases.map_err(|error| unavailable(&error))
    }
}

impl Filter {
    /// Of the fields `app`, `stream` and `tenant`.
    fn of(
        caller: &Caller,
        (app, stream, tenant): (String, String, &str),
        violations: &mut Violations,
    ) -> Self {
        if !app.is_empty() {
            violations.check("app", field::app(&app));
        }
        if !stream.is_empty() {
            violations.check("stream", field::stream(&stream));
        }
        let tenant = violations.check("tenant", caller.listed(tenant)).flatten();
        Self {
            app,
            stream,
            tenant,
        }
    }

    fn takes(&self, app: &str, stream: &str, tenant: &str) -> bool {
        (self.app.is_empty() || self.app == app)
            && (self.stream.is_empty() || self.stream == stream)
            && self.tenant.as_deref().is_none_or(|of| of == tenant)
    }

    fn wants(&self, session: &Session) -> bool {
        self.takes(&session.app, &session.stream, &session.tenant)
    }
}

fn cursor(lease: &Lease) -> Cursor {
    Cursor {
        time_ms: i64::try_from(lease.since_ms).unwrap_or(i64::MAX),
        id: lease.session.to_string(),
    }
}

pub(crate) fn unavailable(error: &RegistryError) -> Status {
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

/// Answers that wait for one watcher to read them.
const ANSWERS_QUEUED_MAX: usize = 64;
