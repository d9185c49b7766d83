//! Events to webhooks: at least once, in the order of each stream, by whichever control process holds the webhook.
//!
//! The event log is the outbox. A webhook has a position in it, and a row for each event that is on its way; both move in
//! one transaction, and a row goes when its event arrived. So a process may die at any point: another one takes the webhook
//! over when its hold has run out, and goes on from the rows.

mod attempt;
mod metrics;
mod pacing;
mod room;
mod worker;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use runtime::{egress::Egress, error::chain, shutdown::Shutdown};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::task::AbortOnDropHandle;

#[cfg(test)]
pub(crate) use self::room::TENANT_REQUESTS_MAX;
pub(crate) use self::{metrics::DeliveryMetrics, pacing::Pacing};
use self::{metrics::Share, room::Room, worker::Worker};
use crate::{Shared, field::now_ms};

/// Delivers to the webhooks that this process holds.
pub(crate) struct Deliverer {
    context: Arc<Context>,
    held: HashMap<String, Held>,
    /// Of webhooks that are held and cannot be delivered to.
    unusable: Vec<Share>,
}

/// What all deliveries of a process have in common.
pub(crate) struct Context {
    shared: Arc<Shared>,
    egress: Egress,
    metrics: DeliveryMetrics,
    pacing: Pacing,
    /// The name of this process beside others.
    holder: String,
    room: Room,
}

struct Held {
    /// Until when nobody else delivers.
    until: watch::Sender<Instant>,
    worker: AbortOnDropHandle<()>,
}

impl Deliverer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        egress: Egress,
        metrics: DeliveryMetrics,
        pacing: Pacing,
    ) -> Self {
        let context = Context {
            shared,
            egress,
            metrics,
            pacing,
            holder: uuid::Uuid::now_v7().to_string(),
            room: Room::new(),
        };
        Self {
            context: Arc::new(context),
            held: HashMap::new(),
            unusable: Vec::new(),
        }
    }

    /// For a test that does not wait.
    #[cfg(test)]
    pub(crate) fn paced(mut self, pacing: Pacing) -> Self {
        if let Some(context) = Arc::get_mut(&mut self.context) {
            context.pacing = pacing;
        }
        self
    }

    /// Until control drains; then others take over.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut hold = interval(self.context.pacing.hold_period);
        hold.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.draining() => break,
                _ = hold.tick() => self.hold().await,
            }
        }
        self.held.clear();
        self.unusable.clear();
        let released = self
            .context
            .shared
            .database
            .release_webhooks(&self.context.holder);
        if let Err(error) = released.await {
            tracing::info!(
                reason = chain(&error),
                "webhooks are taken over when their hold runs out"
            );
        }
    }

    async fn hold(&mut self) {
        let (now, now_ms) = (Instant::now(), now_ms());
        let hold = self.context.pacing.hold;
        let hold_ms = i64::try_from(hold.as_millis()).unwrap_or(i64::MAX);
        let held = self.context.shared.database.hold_webhooks(
            &self.context.holder,
            now_ms,
            now_ms.saturating_add(hold_ms),
            HELD_MAX,
        );
        let (webhooks, acquired) = match held.await {
            Ok(held) => held,
            Err(error) => {
                // Workers find out by themselves when their time is over.
                tracing::info!(reason = chain(&error), "webhooks cannot be held");
                return;
            }
        };
        let ids: HashSet<&str> = webhooks.iter().map(|webhook| webhook.id.as_str()).collect();
        self.held.retain(|id, held| {
            ids.contains(id.as_str()) && !acquired.contains(id) && !held.worker.is_finished()
        });
        let until = now.checked_add(hold).unwrap_or(now);
        self.unusable.clear();
        for webhook in webhooks {
            if let Some(held) = self.held.get(&webhook.id) {
                held.until.send_replace(until);
                continue;
            }
            let (sender, receiver) = watch::channel(until);
            let id = webhook.id.clone();
            let Some(worker) = Worker::new(self.context.clone(), webhook, receiver) else {
                let mut share = self.context.metrics.share();
                share.set(0, 0, true);
                self.unusable.push(share);
                continue;
            };
            let worker = AbortOnDropHandle::new(tokio::spawn(worker.run()));
            self.held.insert(
                id,
                Held {
                    until: sender,
                    worker,
                },
            );
        }
    }
}

/// Webhooks that one process delivers to: as many as there may be.
const HELD_MAX: u32 = 1000;
/// Until a webhook whose process died is taken over, at most; longer than any request.
const HOLD: Duration = Duration::from_secs(15);
const HOLD_PERIOD: Duration = Duration::from_secs(3);
