//! One publish, from the encoder's wish to the released lease: authorize, choose an origin, claim, open, relay.
//!
//! Runs beside the socket's task. Everything that can be refused is refused before the encoder hears
//! NetStream.Publish.Start; whatever happens to the socket, the lease is given back here.

mod attach;

use std::{borrow::Cow, sync::Arc, time::Duration};

use proto::{
    internal::v1::{
        AdobeCredential, AdobeResponse, AuthorizeRequest, Capabilities,
        authorize_request::Credential,
    },
    v1::{EventType, SessionEvent},
};
use registry::{LeaseStats, SessionId, Standing};
use rtmp::PublishRequest;
use runtime::{error::chain, telemetry, tls::ClientCertificate};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tracing::{Instrument as _, Span, field::Empty, info, info_span, warn};

use crate::{
    Context,
    admission::{Granted, NOT_AVAILABLE, Refusal, new_session_id},
    end::{End, Ending},
    live::{LiveSession, Registration},
    metrics::{App, PublishAttempt, Reason},
    relay::{Feed, Relay, Rpc, Terms},
    replay_ring::{ReplayRing, RingLimits},
    session::Client,
    unix_ms,
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
    /// As the encoder announced them.
    capabilities: rtmp::Capabilities,
    session: SessionId,
    feed: Feed,
    ending: Ending,
    /// By the encoder; where its address takes turns, when it was its turn.
    asked: Instant,
}

/// A publish that may start.
struct Ready {
    app: String,
    live: Arc<LiveSession>,
    relay: Relay,
    rpc: Rpc,
    registration: Registration,
}

/// The home outlives the reconnect window by this.
const HOME_GRACE: Duration = Duration::from_secs(60);
/// How late the end of a session may be behind a jump of the wall clock.
const WALL_CLOCK_PERIOD: Duration = Duration::from_secs(5);

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
        capabilities: request.capabilities.clone(),
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
        mut self,
        request: PublishRequest,
        decision: oneshot::Sender<Result<Arc<LiveSession>, Refusal>>,
    ) {
        // The root of the publish's trace.
        let span =
            info_span!("rtmp.publish", session_id = %self.session, stream_id = Empty, app = Empty);
        let trace_id = telemetry::trace_id(&span);
        let ready = match self.prepare(request).instrument(span.clone()).await {
            Ok(ready) => ready,
            Err(refusal) => {
                info!(session_id = %self.session, client_address = %self.client.address, encoder = ?self.encoder,
                    reason = refusal.reason, description = ?refusal.description, trace_id, "publish refused");
                telemetry::fail(&span, refusal.reason);
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
        telemetry::mark(&span, "publish.start");
        let traceparent = span.in_scope(telemetry::traceparent);
        // A trace is of the publish, not of the hours behind it.
        drop(span);
        let session = info_span!("session", log_only = Empty, session_id = %self.session,
            stream_id = %ready.live.stream, trace_id);
        self.relay(ready, &traceparent).instrument(session).await;
    }

    async fn prepare(&mut self, request: PublishRequest) -> Result<Ready, Refusal> {
        // Not once its turn comes: whoever guesses on does not keep an edge from being empty.
        if self.context.drain.is_begun() {
            return Err(Refusal::not_available("draining"));
        }
        tokio::select! {
            turn = self.context.guesses.turn(self.client.address.ip()) => turn?,
            refusal = self.over() => return Err(refusal),
        }
        // Nobody else's time is what was waited.
        self.asked = Instant::now();
        if !self.context.budget.admits() {
            return Err(Refusal {
                reason: "process_budget",
                description: "The service is busy right now, please try again".to_owned(),
            });
        }
        let granted = tokio::select! {
            granted = self.authorize(request) => granted?,
            refusal = self.over() => return Err(refusal),
        };
        // A drain that has begun meanwhile sees the session from here on: it leaves with the others.
        let span = Span::current();
        span.record("stream_id", granted.stream.to_string());
        span.record("app", &granted.app);
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
            standby: false,
            origins_before: Vec::new(),
            traceparent: telemetry::traceparent(),
        };
        let mut relay = Relay::new(&self.context, &live, &self.feed, terms);
        let attached = self.attach(&granted, &live, &mut relay).await;
        let rpc = attached.inspect_err(|refusal| {
            // An encoder that left was not refused.
            if self.feed.finished().is_none() {
                self.context.reports.refused(refusal, live.event());
            }
        })?;
        Ok(Ready {
            app: granted.app,
            live,
            relay,
            rpc,
            registration,
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
        let left = authorize_timeout.saturating_sub(self.asked.elapsed());
        let (guesses, address) = (&self.context.guesses, self.client.address.ip());
        let with_password = request.adobe.is_some();
        let request = self.question(request);
        let admission = &self.context.admission;
        let granted = admission.authorize(request, &self.session, left).await;
        match &granted {
            Ok(_) if with_password => guesses.forgive(address),
            Err(refusal) if refusal.may_be_a_guess() => sleep(guesses.refused(address)).await,
            Ok(_) | Err(_) => {}
        }
        granted
    }

    /// What control is asked.
    fn question(&self, request: PublishRequest) -> AuthorizeRequest {
        let name = request.stream_key.expose().to_owned();
        let token = request.query.iter().find(|(name, _)| name == "token");
        let token = token.map(|(_, value)| value.expose().to_owned());
        let token = token.unwrap_or_default();
        // As YouTube's publishers say it.
        let mut query = request.query.iter();
        let backup = query.any(|(name, value)| name == "backup" && value.expose() == "1");
        let credential = match request.adobe {
            None => Credential::StreamKey(name),
            Some(answer) => Credential::Adobe(AdobeCredential {
                user: answer.user,
                response: Some(AdobeResponse {
                    challenge: answer.challenge,
                    response: answer.response.expose().to_owned(),
                    opaque: answer.opaque.expose().to_owned(),
                    name,
                }),
            }),
        };
        AuthorizeRequest {
            credential: Some(credential),
            app: request.app,
            client_address: self.client.address.to_string(),
            server_name: self.client.server_name.clone(),
            encoder: request.encoder,
            session_id: self.session.to_string(),
            token,
            backup,
            client_certificate: self.client.certificate.clone().map(|shown| {
                let ClientCertificate {
                    subject,
                    sans,
                    sha256,
                } = shown;
                proto::internal::v1::ClientCertificate {
                    subject,
                    sans,
                    sha256: sha256.to_vec(),
                }
            }),
            capabilities: Some(capabilities(request.capabilities)),
        }
    }

    /// Ends when nobody waits for the decision any more, or it was revoked.
    async fn over(&self) -> Refusal {
        tokio::select! {
            _ = self.feed.until_finished() => aborted(),
            end = self.ending.ended() => revoked(end),
        }
    }

    /// The time between Publish.Start and the released lease.
    async fn relay(&self, ready: Ready, traceparent: &str) {
        let Ready {
            app,
            live,
            relay,
            rpc,
            registration,
        } = ready;
        info!(client_address = %self.client.address, encoder = ?self.encoder, app, edge = %self.context.edge,
            caps_ex = self.capabilities.caps_ex, four_ccs = ?self.capabilities.four_cc_list, "session started");
        let publishers = self
            .context
            .metrics
            .publishers_active
            .get_or_create_owned(&App { app: app.clone() });
        publishers.inc();
        let started = Instant::now();
        let reports = &self.context.reports;
        reports.add(EventType::SessionStarted, live.event());
        tokio::select! {
            () = relay.run(rpc) => {}
            never = self.end_in_time(&live) => match never {},
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
        let duration = started.elapsed();
        let (bytes, duration_s) = (live.received_bytes(), duration.as_secs_f64());
        reports.add(
            EventType::SessionEnded,
            SessionEvent {
                reason: reason.to_owned(),
                description: end.description().map_or_else(String::new, Cow::into_owned),
                duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
                ..live.event()
            },
        );
        let span = info_span!("session.end", session_id = %self.session, stream_id = %live.stream, app, reason,
            bytes, duration_s);
        telemetry::link(&span, traceparent);
        info!(reason, client_address = %self.client.address, app, bytes, duration_s, "session ended");
    }

    /// Ends the session when its terms do, also where they change; never returns.
    async fn end_in_time(&self, live: &LiveSession) -> std::convert::Infallible {
        let mut until_ms = live.until_ms();
        loop {
            let until = *until_ms.borrow_and_update();
            tokio::select! {
                () = passed(until, unix_ms) => self.ending.end(End::Expired),
                // The sender is in `live`: the channel cannot close here.
                _ = until_ms.changed() => continue,
            }
            std::future::pending().await
        }
    }

    /// Gives the lease back.
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
            (
                granted.reconnect_window + HOME_GRACE,
                self.standing(granted),
            ),
            (self.stats(granted), granted.terms.clone()),
            self.capabilities.reconnects(),
            self.ending.clone(),
        )
    }

    fn standing(&self, granted: &Granted) -> Standing {
        Standing {
            priority: granted.priority,
            // The policy of whoever comes later decides whether it counts.
            address: Standing::address(granted.stream, self.client.address.ip()),
            leaving: false,
        }
    }

    fn stats(&self, granted: &Granted) -> LeaseStats {
        LeaseStats {
            tenant: granted.tenant.clone(),
            app: granted.app.clone(),
            name: granted.name.clone(),
            stream_key_id: granted.stream_key_id.clone(),
            quota_group: granted.quota_group.clone(),
            client_address: self.context.config.client_address.told(self.client.address),
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
}

fn capabilities(announced: rtmp::Capabilities) -> Capabilities {
    Capabilities {
        caps_ex: announced.caps_ex,
        video_function: announced.video_function,
        object_encoding: announced.object_encoding,
        four_cc_list: announced.four_cc_list,
        video_four_cc_info: announced.video_four_cc_info.into_iter().collect(),
        audio_four_cc_info: announced.audio_four_cc_info.into_iter().collect(),
    }
}

/// Ends at that time of the wall clock, in milliseconds since the Unix epoch: looks at that clock again and again, since it
/// may be set, and runs on where a machine is suspended and timers are not.
async fn passed(until_ms: Option<u64>, wall_ms: impl Fn() -> u64) {
    let Some(until_ms) = until_ms else {
        return std::future::pending().await;
    };
    while let left_ms @ 1.. = until_ms.saturating_sub(wall_ms()) {
        sleep(Duration::from_millis(left_ms).min(WALL_CLOCK_PERIOD)).await;
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
        description: end
            .description()
            .map_or_else(|| NOT_AVAILABLE.to_owned(), Cow::into_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_time_is_one_of_the_wall_clock_wherever_that_jumps() {
        const HOUR_MS: u64 = 3_600_000;
        let started = Instant::now();
        let set_ms = AtomicU64::new(0);
        let elapsed_ms = || u64::try_from(started.elapsed().as_millis()).unwrap();
        let wall_ms = || elapsed_ms() + set_ms.load(Ordering::Relaxed);
        tokio::join!(passed(Some(2 * HOUR_MS), wall_ms), async {
            sleep(Duration::from_secs(60)).await;
            set_ms.store(2 * HOUR_MS, Ordering::Relaxed);
        });
        let late = started.elapsed() - Duration::from_secs(60);
        assert!(late <= WALL_CLOCK_PERIOD, "{late:?}");

        // And where it does not, to the millisecond.
        let now = Instant::now();
        passed(Some(wall_ms() + HOUR_MS), wall_ms).await;
        assert_eq!(now.elapsed(), Duration::from_millis(HOUR_MS));
        passed(Some(0), wall_ms).await;
        passed(Some(wall_ms()), wall_ms).await;
        assert_eq!(now.elapsed(), Duration::from_millis(HOUR_MS));
    }
}
