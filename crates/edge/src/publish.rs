//! One publish, from the encoder's wish to the released lease: authorize, choose an origin, claim, open, relay.
//!
//! Runs beside the socket's task. Everything that can be refused is refused before the encoder hears
//! NetStream.Publish.Start; whatever happens to the socket, the lease is given back here.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::rand;
use proto::internal::v1::{AuthorizeRequest, authorize_request::Credential};
use registry::{
    Claim, ClaimOutcome, EdgeName, LeaseStats, Origin, OriginName, RegistryError, SessionId,
};
use rtmp::PublishRequest;
use runtime::telemetry;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tracing::{Instrument as _, error, info, info_span, warn};
use uuid::Uuid;

use crate::{
    Context, OutagePolicy,
    admission::{Granted, NOT_AVAILABLE, Refusal},
    live::{End, Ending, LiveSession, Registration},
    metrics::{App, Outcome, PublishAttempt, Reason},
    origins::chain,
    relay::{Feed, OpenError, Relay, Rpc, Terms},
    replay_ring::{ReplayRing, RingLimits},
    session::Client,
};

/// The socket's side of a publish. Dropping it ends the publish as a lost connection does.
pub(crate) struct Publishing {
    pub(crate) feed: Feed,
    pub(crate) ending: Ending,
    /// The decision; once.
    pub(crate) decided: oneshot::Receiver<Result<Arc<LiveSession>, Refusal>>,
}

/// The publish's own side.
struct Publication {
    context: Arc<Context>,
    client: Client,
    encoder: String,
    session: SessionId,
    feed: Feed,
    ending: Ending,
    asked: Instant,
}

/// A publish that may start.
struct Ready {
    app: String,
    live: Arc<LiveSession>,
    relay: Relay,
    rpc: Rpc,
    registration: Registration,
    session_until_ms: Option<u64>,
}

/// Where the registry lets the session go.
struct Place {
    epoch: u64,
    origin: Origin,
    broadcast_id: String,
    previous: Option<(SessionId, EdgeName)>,
}

/// Claims and origins that a new publish tries before it is refused.
const TRIES_MAX: usize = 5;
/// The home outlives the reconnect window by this.
const HOME_GRACE: Duration = Duration::from_secs(60);

/// Begins to publish.
pub(crate) fn begin(context: &Arc<Context>, request: PublishRequest, client: Client) -> Publishing {
    let relay = &context.config.relay;
    let limits = RingLimits {
        window: relay.replay_window,
        unacknowledged_bytes_max: relay.unacknowledged_bytes_max,
        bytes_max: relay.ring_bytes_max,
    };
    let feed = Feed::new(
        ReplayRing::new(limits),
        context.budget.share(),
        context.metrics.clone(),
    );
    let ending = Ending::new();
    let (decision, decided) = oneshot::channel();
    let publication = Publication {
        context: context.clone(),
        client,
        encoder: request.encoder.clone(),
        session: new_session_id(),
        feed: feed.clone(),
        ending: ending.clone(),
        asked: Instant::now(),
    };
    context
        .publications
        .spawn(publication.run(request, decision));
    Publishing {
        feed,
        ending,
        decided,
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.feed.finish(End::Disconnected);
    }
}

impl Publication {
    async fn run(
        self,
        request: PublishRequest,
        decision: oneshot::Sender<Result<Arc<LiveSession>, Refusal>>,
    ) {
        let span = info_span!("publish", session_id = %self.session);
        let ready = match self.prepare(request).instrument(span).await {
            Ok(ready) => ready,
            Err(refusal) => {
                info!(session_id = %self.session, client_address = %self.client.address, encoder = ?self.encoder,
                    reason = refusal.reason, description = ?refusal.description, "publish refused");
                self.count_attempt(String::new(), "refused", refusal.reason);
                // An encoder that left does not need it.
                decision.send(Err(refusal)).ok();
                return;
            }
        };
        self.count_attempt(ready.app.clone(), "ok", "");
        let metrics = &self.context.metrics;
        metrics
            .publish_start_seconds
            .observe(self.asked.elapsed().as_secs_f64());
        // An encoder that left in the meantime has finished the feed.
        decision.send(Ok(ready.live.clone())).ok();
        let span =
            info_span!("session", session_id = %self.session, stream_id = %ready.live.stream);
        self.relay(ready).instrument(span).await;
    }

    async fn prepare(&self, request: PublishRequest) -> Result<Ready, Refusal> {
        if !self.context.budget.admits() {
            return Err(Refusal {
                reason: "process_budget",
                description: "The service is busy right now, please try again".to_owned(),
            });
        }
        if self.context.shutdown.is_draining() {
            return Err(Refusal::not_available("draining"));
        }
        let granted = tokio::select! {
            granted = self.authorize(request) => granted?,
            refusal = self.over() => return Err(refusal),
        };
        let live = Arc::new(self.live_session(&granted));
        let registration = self.context.live.enter(live.clone(), self.asked);
        let terms = Terms {
            signed_grant: granted.signed_grant.clone(),
            stream: granted.stream,
            slot: granted.slot,
            session: self.session.clone(),
            epoch: 0,
            broadcast_id: String::new(),
            timeline_offset_ms: None,
            traceparent: telemetry::traceparent(),
        };
        let mut relay = Relay::new(&self.context, &live, &self.feed, terms);
        let rpc = self.attach(&granted, &live, &mut relay).await?;
        Ok(Ready {
            app: granted.app,
            live,
            relay,
            rpc,
            registration,
            session_until_ms: granted.session_until_ms,
        })
    }

    async fn authorize(&self, request: PublishRequest) -> Result<Granted, Refusal> {
        let authorize_timeout = self.context.config.relay.authorize_timeout;
        let followed = self.context.revocations.followed();
        if tokio::time::timeout(authorize_timeout, followed)
            .await
            .is_err()
        {
            warn!("control does not tell revocations: no publish can start");
            return Err(Refusal::not_available("control_unavailable"));
        }
        let request = AuthorizeRequest {
            credential: Some(Credential::StreamKey(
                request.stream_key.expose().to_owned(),
            )),
            app: request.app,
            client_address: self.client.address.to_string(),
            server_name: self.client.server_name.clone(),
            encoder: request.encoder,
            session_id: self.session.to_string(),
        };
        let left = authorize_timeout.saturating_sub(self.asked.elapsed());
        self.context
            .admission
            .authorize(request, &self.session, left)
            .await
    }

    /// Finds an origin that takes the session; where none does, gives back what was claimed on the way.
    async fn attach(
        &self,
        granted: &Granted,
        live: &LiveSession,
        relay: &mut Relay,
    ) -> Result<Rpc, Refusal> {
        let mut claimed = None;
        let attached = self.try_origins(granted, live, relay, &mut claimed).await;
        if attached.is_err()
            && let Some(epoch) = claimed
        {
            self.release(live, epoch).await;
        }
        attached
    }

    /// Within a number of tries and a time.
    async fn try_origins(
        &self,
        granted: &Granted,
        live: &LiveSession,
        relay: &mut Relay,
        claimed: &mut Option<u64>,
    ) -> Result<Rpc, Refusal> {
        let deadline = self.asked + self.context.config.relay.start_timeout;
        let mut floor = 0;
        let mut failed: Vec<OriginName> = Vec::new();
        for _ in 0..TRIES_MAX {
            let place = self.place(granted, live, floor, &failed).await?;
            *claimed = Some(place.epoch);
            // Not while a claim is under way: its answer says what to give back.
            let opened = tokio::select! {
                opened = relay.open(&place.origin, place.epoch, place.broadcast_id) => opened,
                refusal = self.over() => return Err(refusal),
            };
            let rejected = match opened {
                Ok(rpc) => {
                    self.end_previous(place.previous);
                    return Ok(rpc);
                }
                Err(rejected) => rejected,
            };
            warn!(origin = %place.origin.name, epoch = place.epoch, reason = rejected.reason(), error = %rejected,
                "an origin did not take a new session");
            match rejected {
                OpenError::Fenced { epoch } => floor = epoch,
                OpenError::Malformed(_) | OpenError::Refused(_) | OpenError::Timeout => {
                    failed.push(place.origin.name);
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(Refusal::not_available("origin_refused"))
    }

    /// Ends when nobody waits for the decision any more, or it was revoked.
    async fn over(&self) -> Refusal {
        tokio::select! {
            _ = self.feed.until_finished() => aborted(),
            end = self.ending.ended() => revoked(end),
        }
    }

    /// Chooses a candidate and claims the stream.
    async fn place(
        &self,
        granted: &Granted,
        live: &LiveSession,
        floor: u64,
        failed: &[OriginName],
    ) -> Result<Place, Refusal> {
        let candidates = self.candidates(granted, failed).await?;
        let Some(candidate) = candidates.first() else {
            return Err(Refusal::not_available("no_origin"));
        };
        let claim = Claim {
            stream: granted.stream,
            slot: granted.slot,
            session: self.session.clone(),
            edge: self.context.edge.clone(),
            candidate: candidate.name.clone(),
            announced: candidates
                .iter()
                .map(|origin| origin.name.clone())
                .collect(),
            broadcast_id: new_broadcast_id(),
            policy: granted.policy,
            floor,
            home_ttl: live.home_ttl,
            stats: self.stats(granted),
        };
        let outcome = self.context.registry.claim(&claim).await;
        self.count_claim(&outcome);
        match outcome {
            Ok(ClaimOutcome::Granted {
                epoch,
                home,
                previous,
            }) => Ok(Place {
                epoch,
                origin: candidates
                    .iter()
                    .find(|origin| origin.name == home.origin)
                    .unwrap_or(candidate)
                    .clone(),
                broadcast_id: home.broadcast_id,
                previous,
            }),
            Ok(ClaimOutcome::Refused {
                owner,
                edge,
                media_age,
            }) => {
                info!(%owner, owner_edge = %edge, ?media_age, "the stream has a publisher");
                Err(Refusal {
                    reason: "already_publishing",
                    description: "This stream is already being published".to_owned(),
                })
            }
            Ok(ClaimOutcome::EpochInFuture) => {
                error!("the registry's clock is far behind an epoch it granted");
                Err(Refusal::not_available("epoch_in_future"))
            }
            Err(error) => self.place_without_registry(&error, candidate, claim.broadcast_id),
        }
    }

    fn place_without_registry(
        &self,
        error: &RegistryError,
        candidate: &Origin,
        broadcast_id: String,
    ) -> Result<Place, Refusal> {
        let policy = self.context.config.outage_policy;
        warn!(
            error = chain(error),
            ?policy,
            "the registry did not take a claim"
        );
        match policy {
            OutagePolicy::FailClosed => Err(Refusal::not_available("registry_unavailable")),
            // The origin grants the epoch, and a later renewal heals the lease.
            OutagePolicy::Keep => Ok(Place {
                epoch: 0,
                origin: candidate.clone(),
                broadcast_id,
                previous: None,
            }),
        }
    }

    /// Origins that may take the session, best first.
    async fn candidates(
        &self,
        granted: &Granted,
        failed: &[OriginName],
    ) -> Result<Vec<Origin>, Refusal> {
        let ranked = || {
            let mut origins = self.context.origins.ranked(granted.stream, None);
            origins.retain(|origin| !failed.contains(&origin.name));
            origins
        };
        let candidates = ranked();
        if !candidates.is_empty() || !failed.is_empty() {
            return Ok(candidates);
        }
        // One may have announced itself since the last poll.
        self.context
            .origins
            .refresh(&self.context.registry)
            .await
            .map_err(|error| {
                warn!(
                    error = chain(&error),
                    "no origin is known and the registry does not tell any"
                );
                Refusal::not_available("no_origin")
            })?;
        Ok(ranked())
    }

    /// The time between Publish.Start and the released lease.
    async fn relay(&self, ready: Ready) {
        let Ready {
            app,
            live,
            relay,
            rpc,
            registration,
            session_until_ms,
        } = ready;
        info!(client_address = %self.client.address, encoder = ?self.encoder, app, edge = %self.context.edge,
            trace_id = telemetry::trace_id(&tracing::Span::current()), "session started");
        let publishers = self
            .context
            .metrics
            .publishers_active
            .get_or_create_owned(&App { app: app.clone() });
        publishers.inc();
        let started = Instant::now();
        tokio::select! {
            () = relay.run(rpc) => {}
            never = self.end_at(session_until_ms) => match never {},
        }
        let end = self
            .feed
            .finished()
            .or_else(|| self.ending.now())
            .unwrap_or(End::Internal);
        let epoch = live.leave().await;
        self.release(&live, epoch).await;
        drop(registration);
        publishers.dec();
        if end == End::Fenced {
            self.context.metrics.fenced.inc();
        }
        let metrics = &self.context.metrics;
        let reason = end.reason();
        metrics
            .sessions_ended
            .get_or_create(&Reason { reason })
            .inc();
        metrics
            .session_seconds
            .observe(started.elapsed().as_secs_f64());
        info!(reason, client_address = %self.client.address, app, bytes = live.received_bytes(),
            duration_s = started.elapsed().as_secs_f64(), "session ended");
    }

    /// Ends the session when its grant does; never returns.
    async fn end_at(&self, session_until_ms: Option<u64>) -> std::convert::Infallible {
        if let Some(until_ms) = session_until_ms {
            let until = UNIX_EPOCH + Duration::from_millis(until_ms);
            sleep(until.duration_since(SystemTime::now()).unwrap_or_default()).await;
            self.ending.end(End::Limit);
        }
        std::future::pending().await
    }

    /// The origin fences the publisher that was replaced; on this edge it can be told at once.
    fn end_previous(&self, previous: Option<(SessionId, EdgeName)>) {
        if let Some((session, edge)) = previous
            && edge == self.context.edge
            && session != self.session
        {
            self.context.live.end(&session, End::Fenced);
        }
    }

    async fn release(&self, live: &LiveSession, epoch: u64) {
        let released = self
            .context
            .registry
            .release(live.stream, live.slot, &self.session, epoch)
            .await;
        if let Err(error) = released {
            warn!(
                error = chain(&error),
                "the lease was not given back, it runs out by itself"
            );
        }
    }

    fn live_session(&self, granted: &Granted) -> LiveSession {
        LiveSession::new(
            (granted.stream, granted.slot),
            (self.session.clone(), self.context.edge.clone()),
            granted.reconnect_window + HOME_GRACE,
            self.stats(granted),
            self.ending.clone(),
        )
    }

    fn stats(&self, granted: &Granted) -> LeaseStats {
        LeaseStats {
            tenant: granted.tenant.clone(),
            app: granted.app.clone(),
            name: granted.name.clone(),
            stream_key_id: granted.stream_key_id.clone(),
            client_address: self.client.address.to_string(),
            encoder: self.encoder.clone(),
            ..LeaseStats::default()
        }
    }

    fn count_attempt(&self, app: String, outcome: &'static str, reason: &'static str) {
        self.context
            .metrics
            .publish_attempts
            .get_or_create(&PublishAttempt {
                app,
                outcome,
                reason,
            })
            .inc();
    }

    fn count_claim(&self, outcome: &Result<ClaimOutcome, RegistryError>) {
        let outcome = match outcome {
            Ok(ClaimOutcome::EpochInFuture) => "epoch_in_future",
            Ok(ClaimOutcome::Granted { previous: None, .. }) => "granted",
            Ok(ClaimOutcome::Granted { .. }) => "takeover",
            Ok(ClaimOutcome::Refused { .. }) => "refused",
            Err(_) => "unavailable",
        };
        self.context
            .metrics
            .claims
            .get_or_create(&Outcome { outcome })
            .inc();
    }
}

fn aborted() -> Refusal {
    Refusal {
        reason: "aborted",
        description: NOT_AVAILABLE.to_owned(),
    }
}

fn revoked(end: End) -> Refusal {
    Refusal {
        reason: end.reason(),
        description: end.description().unwrap_or(NOT_AVAILABLE).to_owned(),
    }
}

fn new_session_id() -> SessionId {
    let id = Uuid::now_v7().to_string();
    // Hexadecimal digits and dashes are an id.
    SessionId::new(&id).unwrap_or_else(|_| unreachable!("{id} is an id"))
}

/// 32 random hex digits.
fn new_broadcast_id() -> String {
    let mut random = [0; 16];
    match rand::fill(&mut random) {
        Ok(()) => format!("{:032x}", u128::from_be_bytes(random)),
        Err(_unavailable) => Uuid::now_v7().simple().to_string(),
    }
}
