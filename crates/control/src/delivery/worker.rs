//! One webhook's deliveries, for as long as this process holds it.
//!
//! A delivery that fails is tried again later, and those of the same stream behind it wait; others do not. A receiver that
//! takes nothing at all is asked seldom, one event at a time.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use runtime::{egress, error::chain};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    Context,
    attempt::{Outcome, Receiver, attempt},
    metrics::Share,
};
use crate::{
    database::{
        Database, DatabaseError, Delivery, EventEntry, Settled, Settlement, Subject, WebhookRecord,
    },
    field::now_ms,
    log_tail::LogTail,
    standard_webhooks::Secret,
};

pub(super) struct Worker {
    context: Arc<Context>,
    webhook: WebhookRecord,
    receiver: Arc<Receiver>,
    tail: watch::Receiver<LogTail<EventEntry>>,
    until: watch::Receiver<Instant>,
    /// Every event up to here was looked at; the webhook's own position may lie behind where it wanted none of them.
    position: u64,
    /// In order of the log.
    pending: BTreeMap<u64, Delivery>,
    under_way: JoinSet<(u64, Outcome)>,
    busy_lanes: HashSet<i64>,
    /// What the database does not know yet.
    settled: Vec<(u64, Settled)>,
    last_success_ms: Option<i64>,
    last_error: Option<String>,
    gone: bool,
    /// Of the receiver, in a row.
    failures: u32,
    not_before: Instant,
    share: Share,
    /// What is due has to wait: there is no room, or the hold is nearly over.
    held_up: bool,
}

impl Worker {
    /// `None` where the webhook cannot be delivered to from here.
    pub(super) fn new(
        context: Arc<Context>,
        webhook: WebhookRecord,
        until: watch::Receiver<Instant>,
    ) -> Option<Self> {
        let peppers = context.shared.peppers.load_full();
        let secret =
            peppers.open_webhook(webhook.pepper_version, &webhook.id, &webhook.secret_sealed);
        let secret = secret
            .and_then(|secret| Secret::parse(str::from_utf8(&secret).ok()?))
            .zip(webhook.url.parse().ok());
        let Some((secret, url)) = secret else {
            tracing::error!(
                webhook_id = webhook.id,
                pepper_version = webhook.pepper_version,
                "the webhook's secret cannot be read: the pepper file lacks its version"
            );
            return None;
        };
        Some(Self {
            tail: context.shared.events.clone(),
            share: context.metrics.share(),
            context,
            position: webhook.position,
            webhook,
            receiver: Arc::new(Receiver { url, secret }),
            until,
            pending: BTreeMap::new(),
            under_way: JoinSet::new(),
            busy_lanes: HashSet::new(),
            settled: Vec::new(),
            last_success_ms: None,
            last_error: None,
            gone: false,
            failures: 0,
            not_before: Instant::now(),
            held_up: false,
        })
    }

    /// Until the webhook is another's, or nobody's.
    pub(super) async fn run(mut self) {
        let id = self.webhook.id.clone();
        let pending = loop {
            match self.database().deliveries(&id, PENDING_MAX).await {
                Ok(pending) => break pending,
                Err(error) => self.rest(&error).await,
            }
        };
        self.pending.extend(
            pending
                .into_iter()
                .map(|delivery| (delivery.position, delivery)),
        );
        loop {
            match self.step().await {
                Ok(true) => self.wait().await,
                Ok(false) => return,
                Err(error) => self.rest(&error).await,
            }
        }
    }

    fn database(&self) -> &Database {
        &self.context.shared.database
    }

    async fn rest(&self, error: &DatabaseError) {
        tracing::info!(
            webhook_id = self.webhook.id,
            reason = chain(error),
            "deliveries wait for the database"
        );
        sleep(DATABASE_PAUSE).await;
    }

    /// Notes what is over and begins what is due. Whether there is more to come.
    async fn step(&mut self) -> Result<bool, DatabaseError> {
        if !self.settle().await? {
            return Ok(false);
        }
        if self.gone {
            self.disable().await?;
            return Ok(false);
        }
        let until = *self.until.borrow();
        if until <= Instant::now() || !self.schedule().await? {
            return Ok(false);
        }
        self.give_up();
        // Nobody else may have taken over before the last request is over.
        if until.saturating_duration_since(Instant::now()) > egress::DEADLINE {
            self.launch(until);
        } else {
            self.held_up = true;
        }
        self.show();
        Ok(true)
    }

    async fn disable(&self) -> Result<(), DatabaseError> {
        let (holder, id) = (&self.context.holder, &self.webhook.id);
        let error = "HTTP 410: the receiver is gone";
        let disabled = self.database().disable_webhook(holder, id, now_ms(), error);
        if disabled.await? {
            tracing::warn!(
                webhook_id = self.webhook.id,
                tenant = self.webhook.tenant,
                "the receiver of a webhook is gone; nothing is delivered to it any more"
            );
        }
        Ok(())
    }

    /// Tells the metrics.
    fn show(&mut self) {
        let patience_ms = i64::try_from(OVERDUE.as_millis()).unwrap_or(i64::MAX);
        let limit_ms = now_ms().saturating_sub(patience_ms);
        let waiting = self.pending.values();
        let overdue = waiting.filter(|delivery| delivery.create_ms < limit_ms);
        let overdue = overdue.count();
        self.share
            .set(self.pending.len(), overdue, self.is_failing());
    }

    /// Whether the webhook is still ours.
    async fn settle(&mut self) -> Result<bool, DatabaseError> {
        if self.settled.is_empty() {
            return Ok(true);
        }
        let settlement = Settlement {
            holder: &self.context.holder,
            webhook_id: &self.webhook.id,
            settled: &self.settled,
            last_success_ms: self.last_success_ms,
            last_error: self.last_error.as_deref(),
            now_ms: now_ms(),
        };
        let is_ours = self.database().settle_deliveries(settlement).await?;
        self.settled.clear();
        (self.last_success_ms, self.last_error) = (None, None);
        Ok(is_ours)
    }

    /// Puts what is new in the log on its way, as long as there is room. Whether the webhook is still ours, and where we
    /// left it.
    async fn schedule(&mut self) -> Result<bool, DatabaseError> {
        let room = usize::try_from(PENDING_MAX / 2).unwrap_or(usize::MAX);
        while self.pending.len() <= room {
            let tail = self.tail.borrow_and_update().clone();
            if tail.position <= self.position {
                break;
            }
            let page = tail.page_behind(self.database(), self.position).await?;
            let (last, deliveries) = match page {
                Some(page) => {
                    let last = page.last().map_or(self.position, |last| last.position);
                    (last, self.wanted(&page))
                }
                None => {
                    tracing::warn!(
                        webhook_id = self.webhook.id,
                        "events were forgotten before their delivery"
                    );
                    let start = self.database().log_start::<EventEntry>().await?;
                    (start, Vec::new())
                }
            };
            if last == self.position {
                break;
            }
            let lag = last.abs_diff(self.webhook.position);
            if !deliveries.is_empty() || lag >= POSITION_LAG_MAX {
                let from_to = (self.webhook.position, last);
                let database = &self.context.shared.database;
                let (holder, id) = (&self.context.holder, &self.webhook.id);
                let scheduled = database.schedule_deliveries(holder, id, from_to, &deliveries);
                if !scheduled.await? {
                    return Ok(false);
                }
                self.webhook.position = last;
            }
            self.position = last;
            for delivery in deliveries {
                self.pending.entry(delivery.position).or_insert(delivery);
            }
        }
        Ok(true)
    }

    fn wanted(&self, page: &[Arc<EventEntry>]) -> Vec<Delivery> {
        let now_ms = now_ms();
        let wanted = page
            .iter()
            .filter(|event| self.webhook.wants(&event.tenant, event.event_type.into()));
        wanted
            .filter_map(|event| {
                Some(Delivery {
                    position: event.position,
                    lane: lane(event.subject.as_ref()?),
                    create_ms: now_ms,
                    attempts: 0,
                    next_ms: now_ms,
                })
            })
            .collect()
    }

    /// Gives up what has waited for too long.
    fn give_up(&mut self) {
        let patience_ms =
            i64::try_from(self.context.pacing.give_up.as_millis()).unwrap_or(i64::MAX);
        let limit_ms = now_ms().saturating_sub(patience_ms);
        let is_failing = self.is_failing();
        let over: Vec<Delivery> = self
            .pending
            .values()
            .filter(|delivery| delivery.create_ms < limit_ms)
            .filter(|delivery| delivery.attempts > 0 || is_failing)
            .filter(|delivery| !self.busy_lanes.contains(&delivery.lane))
            .copied()
            .collect();
        for delivery in over {
            let error = if delivery.attempts > 0 {
                ""
            } else {
                "waited for too long"
            };
            self.bury(delivery, error.to_owned());
        }
    }

    fn bury(&mut self, delivery: Delivery, error: String) {
        self.pending.remove(&delivery.position);
        self.context.metrics.delivery("dead");
        let attempts = delivery.attempts;
        self.settled
            .push((delivery.position, Settled::Dead { attempts, error }));
    }

    /// Begins what is due: of each lane the first delivery alone.
    fn launch(&mut self, until: Instant) {
        self.held_up = false;
        let most = if self.is_failing() { 1 } else { REQUESTS_MAX };
        if Instant::now() < self.not_before {
            return;
        }
        let now_ms = now_ms();
        let mut taken = self.busy_lanes.clone();
        for delivery in self.pending.values() {
            if self.under_way.len() >= most {
                return;
            }
            if taken.insert(delivery.lane) && delivery.next_ms <= now_ms {
                let Some(place) = self.context.room.place(&self.webhook.tenant) else {
                    self.held_up = true;
                    return;
                };
                self.busy_lanes.insert(delivery.lane);
                let position = delivery.position;
                let (context, receiver) = (self.context.clone(), self.receiver.clone());
                let attempt = attempt(context, receiver, position, place, until);
                self.under_way
                    .spawn(async move { (position, attempt.await) });
            }
        }
    }

    /// Until something is over, new or due.
    async fn wait(&mut self) {
        if !self.settled.is_empty() {
            return;
        }
        let due = self.next_due();
        tokio::select! {
            Some(over) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                if let Ok((position, outcome)) = over {
                    self.note(position, outcome);
                }
                while let Some(over) = self.under_way.try_join_next() {
                    if let Ok((position, outcome)) = over {
                        self.note(position, outcome);
                    }
                }
            }
            changed = self.tail.changed() => if changed.is_err() {
                sleep(DATABASE_PAUSE).await;
            },
            () = sleep(due) => {}
        }
    }

    /// How long nothing needs to be begun.
    fn next_due(&self) -> Duration {
        let now_ms = now_ms();
        let mut taken = self.busy_lanes.clone();
        let heads = self
            .pending
            .values()
            .filter(|delivery| taken.insert(delivery.lane));
        let next_ms = heads.map(|delivery| delivery.next_ms).min();
        let due = next_ms.map_or(LOOK_PERIOD, |next_ms| {
            Duration::from_millis(next_ms.saturating_sub(now_ms).max(0).unsigned_abs())
        });
        let pause = self.not_before.saturating_duration_since(Instant::now());
        let most = if self.is_failing() { 1 } else { REQUESTS_MAX };
        if self.under_way.len() >= most {
            LOOK_PERIOD
        } else if self.held_up {
            ROOM_PERIOD
        } else {
            due.max(pause).clamp(TICK, LOOK_PERIOD)
        }
    }

    fn note(&mut self, position: u64, outcome: Outcome) {
        let Some(delivery) = self.pending.get_mut(&position) else {
            return;
        };
        self.busy_lanes.remove(&delivery.lane);
        let now_ms = now_ms();
        match outcome {
            Outcome::Delivered => {
                self.pending.remove(&position);
                self.settled.push((position, Settled::Delivered));
                self.last_success_ms = Some(now_ms);
                self.last_error = None;
                self.context.metrics.delivery("delivered");
                if self.is_failing() {
                    // It is back: what waits need not wait longer.
                    for delivery in self.pending.values_mut() {
                        delivery.next_ms = now_ms;
                    }
                }
                self.failures = 0;
                self.not_before = Instant::now();
            }
            Outcome::Forgotten => {
                self.pending.remove(&position);
                self.settled.push((position, Settled::Delivered));
            }
            Outcome::Gone => {
                self.context.metrics.delivery("gone");
                self.gone = true;
            }
            Outcome::NotTried => {
                let pause_ms = i64::try_from(DATABASE_PAUSE.as_millis()).unwrap_or(i64::MAX);
                delivery.next_ms = now_ms.saturating_add(pause_ms);
            }
            Outcome::Failed(error) => self.failed(position, error),
        }
    }

    fn failed(&mut self, position: u64, error: String) {
        let pacing = self.context.pacing;
        let Some(delivery) = self.pending.get_mut(&position) else {
            return;
        };
        let now_ms = now_ms();
        self.failures = self.failures.saturating_add(1);
        delivery.attempts = delivery.attempts.saturating_add(1);
        let pause = pacing.pause(delivery.attempts).as_millis();
        delivery.next_ms = now_ms.saturating_add(i64::try_from(pause).unwrap_or(i64::MAX));
        let delivery = *delivery;
        if self.is_failing() {
            let outage = self
                .failures
                .saturating_sub(FAILING_AFTER)
                .saturating_add(1);
            let now = Instant::now();
            let pause = pacing.outage_pause(outage);
            self.not_before = now.checked_add(pause).unwrap_or(now);
        }
        self.last_error = Some(error.clone());
        let age_ms = now_ms
            .saturating_sub(delivery.create_ms)
            .max(0)
            .unsigned_abs();
        if Duration::from_millis(age_ms) > pacing.give_up {
            self.bury(delivery, error);
            return;
        }
        self.context.metrics.delivery("failed");
        let failed = Settled::Failed {
            attempts: delivery.attempts,
            next_ms: delivery.next_ms,
            error,
        };
        self.settled.push((position, failed));
    }

    fn is_failing(&self) -> bool {
        self.failures >= FAILING_AFTER
    }
}

/// Deliveries about one stream keep their order.
fn lane(subject: &Subject) -> i64 {
    let named = format!("{}\0{}", subject.app(), subject.stream());
    let digest = digest::digest(&digest::SHA256, named.as_bytes());
    let first = digest.as_ref().first_chunk().copied();
    i64::from_le_bytes(first.unwrap_or_default())
}

/// Events on their way to one webhook, some 100 bytes each; more stay in the log.
const PENDING_MAX: u32 = 4000;
/// Requests under way to one webhook.
const REQUESTS_MAX: usize = 4;
/// Failures in a row behind which a receiver takes nothing at all.
const FAILING_AFTER: u32 = 5;
/// How far a webhook's stored position may lie behind events that are none of its.
const POSITION_LAG_MAX: u64 = 500;
const DATABASE_PAUSE: Duration = Duration::from_secs(1);
/// How often a worker with nothing to do looks whether the webhook is still its own.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How often a worker that found no room looks for some; also when a request of its own is over.
const ROOM_PERIOD: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(1);
/// How long a delivery may wait before it counts as late.
const OVERDUE: Duration = Duration::from_secs(15 * 60);
