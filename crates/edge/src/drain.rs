//! How an edge gets empty: serving → noticed → draining → empty.
//!
//! The process's end makes it leave, or an order that can be taken back. Noticed, it is not ready and takes everything
//! in as before. Draining, it refuses new publishes; encoders that said that they follow a request to connect elsewhere
//! get one, and go on here until they leave; the others go on until shortly before the end, when each is closed at a
//! keyframe. Both are paced: another edge has to take them in.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::info;

use crate::{
    Context, HOUSEKEEPING_PERIOD, end::End, leases, live::Farewell, revocations::jittered,
};

/// Where the edge is on its way to be empty. A cheap handle.
#[derive(Clone)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    order: watch::Sender<Option<Order>>,
}

/// An order to get empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// From the end of the notice to the end of the last session; `None`: as configured.
    pub(crate) timeout: Option<Duration>,
}

/// How far the edge is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Noticed,
    /// The last session is closed at this time.
    Draining(Instant),
    Empty,
}

/// Why it leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The process ends; there is no way back.
    Shutdown,
    Order(Order),
}

/// What came first.
enum Step {
    Done,
    TakenBack,
    Shutdown,
}

/// The readiness condition: new publishers are wanted.
const READY: &str = "edge-drain";

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            order: watch::Sender::new(None),
        }
    }

    /// Asks the edge to get empty, or takes that back. Whether anything changed.
    pub(crate) fn order(&self, order: Option<Order>) -> bool {
        self.order.send_if_modified(|current| {
            let news = *current != order;
            *current = order;
            news
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether new publishes are refused.
    pub(crate) fn is_begun(&self) -> bool {
        self.phase() > Phase::Noticed
    }

    async fn ordered(&self) -> Order {
        let mut orders = self.order.subscribe();
        match orders.wait_for(Option::is_some).await.map(|order| *order) {
            Ok(Some(order)) => order,
            // The sender is `self`.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Ends when the order is no longer this one.
    async fn taken_back(&self, order: Order) {
        let mut orders = self.order.subscribe();
        let changed = orders.wait_for(|current| *current != Some(order)).await;
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Phase {
    /// As the metric has it.
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Serving => 0,
            Self::Noticed => 1,
            Self::Draining(_) => 2,
            Self::Empty => 3,
        }
    }

    /// For `/readyz`; `None`: ready.
    fn told(self, sessions: usize) -> Option<String> {
        match self {
            Self::Serving => None,
            Self::Noticed => Some("leaving: still taking publishers in".to_owned()),
            Self::Draining(until) => {
                let left = until.saturating_duration_since(Instant::now()).as_secs();
                Some(format!(
                    "draining: {sessions} sessions, the last ends in {left} s"
                ))
            }
            Self::Empty => Some("empty".to_owned()),
        }
    }
}

/// Follows shutdown and orders for as long as the edge runs.
pub(crate) async fn run(context: Arc<Context>) {
    loop {
        let cause = tokio::select! {
            biased;
            () = context.shutdown.leaving() => Cause::Shutdown,
            order = context.drain.ordered() => Cause::Order(order),
        };
        match leave(&context, cause).await {
            Step::Done => return std::future::pending().await,
            Step::Shutdown => {}
            Step::TakenBack => {
                stay(&context);
                enter(&context, Phase::Serving);
            }
        }
    }
}

/// Notice, drain, and the time behind it.
async fn leave(context: &Context, cause: Cause) -> Step {
    let times = context.config.drain_times;
    // A process that ends while it drains by an order takes nothing in again.
    if !context.drain.is_begun() {
        enter(context, Phase::Noticed);
        let notice = async {
            match cause {
                Cause::Shutdown => context.shutdown.draining().await,
                Cause::Order(_) => sleep(times.notice).await,
            }
        };
        match unless_changed(context, cause, notice).await {
            Step::Done => {}
            step @ (Step::TakenBack | Step::Shutdown) => return step,
        }
    }
    let ordered = match cause {
        Cause::Shutdown => context.shutdown.stops_at(),
        Cause::Order(order) => order.timeout.map(|timeout| Instant::now() + timeout),
    };
    let until = ordered.unwrap_or_else(|| Instant::now() + times.timeout);
    enter(context, Phase::Draining(until));
    let step = unless_changed(context, cause, empty(context, until)).await;
    if !matches!(step, Step::Done) {
        return step;
    }
    enter(context, Phase::Empty);
    unless_changed(context, cause, std::future::pending()).await
}

/// Does this as long as the cause holds.
async fn unless_changed(context: &Context, cause: Cause, act: impl Future<Output = ()>) -> Step {
    let changed = async {
        match cause {
            Cause::Shutdown => std::future::pending().await,
            Cause::Order(order) => tokio::select! {
                () = context.drain.taken_back(order) => Step::TakenBack,
                () = context.shutdown.leaving() => Step::Shutdown,
            },
        }
    };
    tokio::select! {
        () = act => Step::Done,
        step = changed => step,
    }
}

fn enter(context: &Context, phase: Phase) {
    let sessions = context.live.count();
    info!(?phase, sessions, "the edge's drain");
    context.drain.phase.send_replace(phase);
    tell(context);
}

/// Shows how far the edge is.
pub(crate) fn tell(context: &Context) {
    let (phase, sessions) = (context.drain.phase(), context.live.count());
    match phase.told(sessions) {
        None => context.readiness.met(READY),
        Some(reason) => context.readiness.unmet(READY, reason),
    }
    let remaining = if phase > Phase::Noticed { sessions } else { 0 };
    let metrics = &context.metrics;
    metrics.drain_phase.set(phase.number());
    metrics
        .drain_remaining_sessions
        .set(i64::try_from(remaining).unwrap_or(i64::MAX));
}

/// Nobody has to go any more; who was asked may still do so.
fn stay(context: &Context) {
    for session in context.live.all() {
        session.bid(Farewell::Stay);
    }
}

/// Ends when there is no session any more.
async fn empty(context: &Context, until: Instant) {
    let limits = &context.config.drain;
    let left = until.saturating_duration_since(Instant::now());
    let spread = limits.close_spread.min(left / 2);
    let close_from = until
        .checked_sub(spread + limits.keyframe_wait.min(left / 4))
        .unwrap_or(until);
    let asking = async {
        ask(context, limits.reconnect_jitter.min(left / 2)).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = emptied(context) => return,
        () = asking => {}
        () = sleep_until(close_from) => {}
    }
    close(context, spread, until).await;
    emptied(context).await;
}

async fn emptied(context: &Context) {
    while context.live.count() > 0 {
        sleep(HOUSEKEEPING_PERIOD / 10).await;
    }
}

/// Asks encoders that can to connect elsewhere, in random order over this time. Their leases say so first: they may be
/// back at another edge at once.
async fn ask(context: &Context, over: Duration) {
    if !context.config.drain.reconnect_request {
        return;
    }
    let mut sessions = context.live.all();
    sessions.retain(|session| session.reconnects);
    let pause = pause(context, over, sessions.len());
    // Session ids are times: neighbours came together.
    sessions.sort_by_key(|session| session.stream);
    for session in sessions {
        sleep(jittered(pause)).await;
        session.note_leaving().await;
        leases::renew_now(context, std::slice::from_ref(&session)).await;
        session.bid(Farewell::Ask);
    }
}

/// Closes the sessions that are left, each at its next keyframe; at the end, those that had none.
async fn close(context: &Context, over: Duration, until: Instant) {
    let sessions = context.live.all();
    let pause = pause(context, over, sessions.len());
    let closing = async {
        for session in sessions {
            sleep(jittered(pause)).await;
            session.bid(Farewell::Close);
        }
        emptied(context).await;
    };
    if timeout_at(until, closing).await.is_err() {
        for session in context.live.all() {
            session.ending().end(End::Drain);
        }
    }
}

/// Between two departures.
fn pause(context: &Context, over: Duration, sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX).max(1);
    let fastest = Duration::from_secs(1) / context.config.drain.departures_per_second_max.max(1);
    (over / sessions).max(fastest.min(over))
}
