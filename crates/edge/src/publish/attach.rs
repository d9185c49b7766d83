//! Finds a new session its origin: chooses a candidate, claims the stream, opens.

use std::time::Duration;

use aws_lc_rs::rand;
use proto::v1::{EventType, SessionEvent};
use registry::{Claim, ClaimOutcome, EdgeName, Origin, OriginName, RegistryError, SessionId};
use runtime::{error::chain, telemetry};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{Instrument as _, error, info, info_span, warn};
use uuid::Uuid;

use super::Publication;
use crate::{
    OutagePolicy,
    admission::{Granted, Refusal},
    end::End,
    live::LiveSession,
    metrics::Outcome,
    relay::{OpenError, Relay, Rpc},
};

/// Where the registry lets the session go.
struct Place {
    epoch: u64,
    origin: Origin,
    broadcast_id: String,
    previous: Option<(SessionId, EdgeName)>,
}

/// How often it is asked whether an owner that was asked to leave has left.
const LEAVING_PERIOD: Duration = Duration::from_millis(50);
/// How long a new publish waits for an origin where none that is known takes it.
const ORIGIN_WAIT: Duration = Duration::from_secs(2);
/// Claims and origins that a new publish tries before it is refused.
const TRIES_MAX: usize = 5;

impl Publication {
    /// Finds an origin that takes the session; where none does, gives back what was claimed on the way.
    pub(super) async fn attach(
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
            let mut before = self.context.origins.leaving();
            before.extend(failed.iter().cloned());
            // Not while a claim is under way: its answer says what to give back.
            let opened = tokio::select! {
                opened = relay.open(&place.origin, place.epoch, place.broadcast_id, before, deadline) => opened,
                refusal = self.over() => return Err(refusal),
            };
            let rejected = match opened {
                Ok(rpc) => {
                    if let Some((session, edge)) = place.previous {
                        self.took_over(granted, session, edge);
                    }
                    return Ok(rpc);
                }
                Err(rejected) => rejected,
            };
            warn!(origin = %place.origin.name, epoch = place.epoch, reason = rejected.reason(), error = %rejected,
                "an origin did not take a new session");
            match rejected {
                OpenError::Busy => break,
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
        let mut claim = Claim {
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
            standing: live.standing(),
            patient: true,
            floor,
            home_ttl: live.home_ttl,
            stats: self.stats(granted),
        };
        let span = info_span!(
            "registry.claim",
            otel.kind = "client",
            db.operation.name = "claim",
            db.system.name = self.context.registry.system()
        );
        let outcome = self.claim(&mut claim).instrument(span.clone()).await;
        if let Err(_unavailable) = &outcome {
            telemetry::fail(&span, "registry_unavailable");
        }
        drop(span);
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
            Ok(ClaimOutcome::Leaving) => Err(Refusal::not_available("internal")),
            Ok(ClaimOutcome::EpochInFuture) => {
                error!("the registry's clock is far behind an epoch it granted");
                Err(Refusal::not_available("epoch_in_future"))
            }
            Err(error) => self.place_without_registry(&error, candidate, claim.broadcast_id),
        }
    }

    /// Claims; where the owner was asked to leave, once it has, or after `leaving_wait`.
    async fn claim(&self, claim: &mut Claim) -> Result<ClaimOutcome, RegistryError> {
        let since = Instant::now();
        loop {
            let outcome = self.context.registry.claim(claim).await?;
            if outcome != ClaimOutcome::Leaving {
                return Ok(outcome);
            }
            sleep(LEAVING_PERIOD).await;
            claim.patient = since.elapsed() < self.context.config.relay.leaving_wait;
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
        // In a rollout one may be about to announce itself as those leave that were asked.
        let by = Instant::now() + ORIGIN_WAIT;
        loop {
            let candidates = ranked();
            if !candidates.is_empty() || Instant::now() >= by {
                return Ok(candidates);
            }
            tokio::select! {
                () = self.context.origins.refreshed() => {}
                refusal = self.over() => return Err(refusal),
                () = sleep_until(by) => {}
            }
        }
    }

    /// The origin fences the publisher that was replaced; on this edge it can be told at once. Only here both are known.
    fn took_over(&self, granted: &Granted, session: SessionId, edge: EdgeName) {
        if session == self.session {
            return;
        }
        if edge == self.context.edge {
            self.context.live.end(&session, End::Fenced);
        }
        let taken_over = SessionEvent {
            session_id: session.to_string(),
            tenant: granted.tenant.clone(),
            app: granted.app.clone(),
            stream: granted.name.clone(),
            edge: edge.to_string(),
            reason: End::Fenced.reason().to_owned(),
            successor_session_id: self.session.to_string(),
            slot: Some(granted.slot.number().into()),
            ..SessionEvent::default()
        };
        let reports = &self.context.reports;
        reports.add(EventType::SessionTakenOver, taken_over);
    }

    fn count_claim(&self, outcome: &Result<ClaimOutcome, RegistryError>) {
        let outcome = match outcome {
            Ok(ClaimOutcome::EpochInFuture) => "epoch_in_future",
            Ok(ClaimOutcome::Granted { previous: None, .. }) => "granted",
            Ok(ClaimOutcome::Granted { .. }) => "takeover",
            Ok(ClaimOutcome::Leaving) => "leaving",
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

/// 32 random hex digits.
fn new_broadcast_id() -> String {
    let mut random = [0; 16];
    match rand::fill(&mut random) {
        Ok(()) => format!("{:032x}", u128::from_be_bytes(random)),
        Err(_unavailable) => Uuid::now_v7().simple().to_string(),
    }
}
