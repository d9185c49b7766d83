//! Starts and ends that no edge told: of an edge that died, or of one that does not report. The registry says who is live;
//! what the event log tells otherwise for long enough is put right. Every replica does this, and the log takes each start
//! and end once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use proto::v1::{EventType, SessionEvent};
use registry::Lease;
use runtime::error::chain;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::text;
use crate::{
    Shared,
    database::{NewEvent, Subject, ToldSession},
    field::now_ms,
};

/// Compares the event log with the registry.
pub(crate) struct Reconciler {
    shared: Arc<Shared>,
    /// Sessions that the log and the registry disagree on.
    disagreed: HashMap<String, Disagreement>,
    /// For how long they must.
    patience: Duration,
}

#[derive(Clone, Copy)]
enum Disagreement {
    /// Without interruption.
    Since(Instant),
    /// Told once: where the log does not take it, as of a session that was given up and goes on, it never will.
    Told,
}

impl Reconciler {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            disagreed: HashMap::new(),
            patience: PATIENCE,
        }
    }

    /// For a test that does not wait.
    #[cfg(test)]
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut look = interval(PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            self.look().await;
        }
    }

    pub(crate) async fn look(&mut self) {
        if let Err(reason) = self.compare().await {
            // Who is live was not known for a while: nothing that was seen before counts.
            self.disagreed.clear();
            tracing::debug!(reason, "sessions and their events are not compared");
        }
    }

    async fn compare(&mut self) -> Result<(), String> {
        // The log first: a session that starts in between has no lease too many.
        let told = self.told().await.map_err(|error| chain(&error))?;
        let leases = self.shared.leases.at_most(LEASES_AGE).await;
        let leases = leases.map_err(|error| chain(&error))?;
        let leases: HashMap<&str, &Lease> = leases
            .iter()
            .map(|lease| (lease.session.as_str(), lease))
            .collect();
        let lost = told.iter().map(String::as_str);
        let lost = lost.filter(|id| !leases.contains_key(id));
        let untold = leases.keys().copied().filter(|id| !told.contains(*id));
        let now = Instant::now();
        let mut disagreed: HashMap<String, Disagreement> = lost
            .chain(untold)
            .map(|id| {
                let before = self.disagreed.get(id).copied();
                (id.to_owned(), before.unwrap_or(Disagreement::Since(now)))
            })
            .collect();
        let mut events = Vec::new();
        for (id, disagreement) in &mut disagreed {
            let Disagreement::Since(since) = *disagreement else {
                continue;
            };
            if now.duration_since(since) < self.patience {
                continue;
            }
            *disagreement = Disagreement::Told;
            match leases.get(id.as_str()) {
                Some(lease) => events.push(started(lease)),
                None => {
                    let told = self.shared.database.told_session(id).await;
                    let told = told.map_err(|error| chain(&error))?;
                    events.extend(told.map(|told| ended(&told, now_ms())));
                }
            }
        }
        let written = self.shared.database.tell_sessions(&events).await;
        let written = written.map_err(|error| chain(&error))?;
        if written > 0 {
            tracing::info!(
                written,
                "sessions that no edge told of are in the event log"
            );
        }
        self.disagreed = disagreed;
        Ok(())
    }

    async fn told(&self) -> Result<BTreeSet<String>, crate::DatabaseError> {
        let mut told = BTreeSet::new();
        let mut after = String::new();
        loop {
            let database = &self.shared.database;
            let page = database.told_ids(&after, SESSIONS_PER_PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(told);
            };
            after.clone_from(last);
            told.extend(page);
        }
    }
}

fn ended(told: &ToldSession, now_ms: i64) -> NewEvent {
    let duration_ms = now_ms.saturating_sub(told.start_ms).max(0).unsigned_abs();
    let event = SessionEvent {
        reason: "edge_lost".to_owned(),
        description: "The edge is gone, or cannot reach the registry".to_owned(),
        duration_ms,
        ..told.event.clone()
    };
    of(EventType::SessionEnded, now_ms, event)
}

fn started(lease: &Lease) -> NewEvent {
    let event = SessionEvent {
        session_id: lease.session.to_string(),
        tenant: lease.stats.tenant.clone(),
        app: lease.stats.app.clone(),
        stream: lease.stats.name.clone(),
        stream_key_id: text(&lease.stats.stream_key_id),
        edge: lease.edge.to_string(),
        client_address: text(&lease.stats.client_address),
        encoder: text(&lease.stats.encoder),
        slot: Some(lease.slot.number().into()),
        ..SessionEvent::default()
    };
    let since_ms = i64::try_from(lease.since_ms).unwrap_or(i64::MAX);
    of(EventType::SessionStarted, since_ms.min(now_ms()), event)
}

fn of(event_type: EventType, create_ms: i64, event: SessionEvent) -> NewEvent {
    NewEvent {
        id: uuid::Uuid::now_v7().to_string(),
        create_ms,
        tenant: event.tenant.clone(),
        event_type,
        subject: Subject::Session(Box::new(event)),
    }
}

const PERIOD: Duration = Duration::from_secs(5);
/// A lease lives for 15 s, and an edge that lost control for a moment reports within seconds after that.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of what the registry told; far below the patience.
const LEASES_AGE: Duration = Duration::from_secs(1);
const SESSIONS_PER_PAGE: u32 = 1000;
