//! How an edge gets empty: serving → noticed → draining → empty, and back where its process was not told to stop.
//!
//! Noticed, it is not ready and takes everything in as before. Draining, it refuses new publishes; encoders that said that
//! they follow a request to connect elsewhere get one, and go on here until they leave; the others go on until shortly
//! before the end, when each is closed at a keyframe. Both are paced: another edge has to take them in.
//!
//! Two may want it: the process that ends ([`runtime::shutdown`]), and somebody who orders it ([`crate::commands`]). An
//! order leaves the listener open and can be taken back; where both want it, the earlier end counts.

use std::{collections::VecDeque, future::pending, sync::Arc, time::Duration};

use registry::{CommandId, DrainOrder, EdgePhase};
use runtime::shutdown::{DrainState, DrainTimes, Shutdown};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::info;

use crate::{
    Context, HOUSEKEEPING_PERIOD, commands::By, end::End, leases, live::Farewell,
    revocations::jittered,
};

/// Where the edge is on its way to be empty.
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    ordered: watch::Sender<Ordered>,
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

/// What was ordered last.
#[derive(Clone, Debug, Default)]
struct Ordered {
    /// Of the order.
    by: CommandId,
    /// What the registry said last, news or not.
    by_registry: CommandId,
    /// The latest that were heeded, in this order.
    done: VecDeque<CommandId>,
    /// `None`: to serve.
    drain: Option<Order>,
}

#[derive(Clone, Debug)]
struct Order {
    /// New publishes are refused from then on.
    from: Instant,
    until: Instant,
    reconnect: bool,
    reason: String,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// New publishes are refused from then on; `None`: once the process says so.
    from: Option<Instant>,
    until: Instant,
    reconnect: bool,
}

/// The readiness condition: new publishers are wanted.
const READY: &str = runtime::admin::DRAIN;
/// Orders that are remembered: more than anybody gives while the registry is behind control.
const ORDERS_DONE_MAX: usize = 64;

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Serving),
            ordered: watch::Sender::default(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// The phase, as it changes.
    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Whether new publishes are refused.
    pub(crate) fn is_begun(&self) -> bool {
        self.phase() > Phase::Noticed
    }

    /// Why an order in effect was given.
    pub(crate) fn reason(&self) -> Option<String> {
        let ordered = self.ordered.borrow();
        ordered.drain.as_ref().map(|order| order.reason.clone())
    }

    /// Whether the order is news.
    pub(crate) fn order(&self, by: (CommandId, By), order: &DrainOrder, times: DrainTimes) -> bool {
        let now = Instant::now();
        let whole = times.notice.saturating_add(times.timeout);
        let whole = order.timeout.unwrap_or(whole);
        // Who refuses new publishes already goes on with that.
        let notice = if self.is_begun() {
            Duration::ZERO
        } else {
            times.notice.min(whole / 2)
        };
        let drain = Order {
            from: now + notice,
            until: now.checked_add(whole).unwrap_or(now),
            reconnect: order.reconnect,
            reason: order.reason.clone(),
        };
        self.told(by, Some(drain))
    }

    /// Takes an order back; whether that is news.
    pub(crate) fn take_back(&self, by: (CommandId, By)) -> bool {
        self.told(by, None)
    }

    /// An older one that comes late says nothing, by either way: the registry may be slower than control. It says everything
    /// in the order in which it was given, though: where its own numbers go back, they begin lower behind a failover to a clock
    /// that is behind, and its last word counts.
    fn told(&self, (by, way): (CommandId, By), drain: Option<Order>) -> bool {
        self.ordered.send_if_modified(|ordered| {
            let done = ordered.done.contains(&by);
            let news = match way {
                By::Control => !done && by > ordered.by,
                By::Registry => by > ordered.by || (by < ordered.by_registry && !done),
            };
            if way == By::Registry {
                ordered.by_registry = by;
            }
            if news {
                (ordered.by, ordered.drain) = (by, drain);
                if ordered.done.len() == ORDERS_DONE_MAX {
                    ordered.done.pop_front();
                }
                ordered.done.push_back(by);
            }
            news
        })
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

    /// As an announcement has it.
    pub(crate) fn announced(self) -> EdgePhase {
        match self {
            Self::Serving => EdgePhase::Serving,
            Self::Noticed => EdgePhase::Noticed,
            Self::Draining(_) => EdgePhase::Draining,
            Self::Empty => EdgePhase::Empty,
        }
    }

    /// For `/readyz`; `None`: ready.
    fn told(self, sessions: usize, reason: Option<&str>) -> Option<String> {
        let ordered = match reason {
            None => String::new(),
            Some("") => " on order".to_owned(),
            Some(reason) => format!(" on order ({reason})"),
        };
        match self {
            Self::Serving => None,
            Self::Noticed => Some(format!("leaving{ordered}: still taking publishers in")),
            Self::Draining(until) => {
                let left = until.saturating_duration_since(Instant::now()).as_secs();
                Some(format!(
                    "draining{ordered}: {sessions} sessions, the last ends in {left} s"
                ))
            }
            Self::Empty => Some(format!("empty{ordered}: no session is left")),
        }
    }
}

impl Plan {
    /// `None`: to serve.
    fn of(shutdown: &Shutdown, state: DrainState, order: Option<&Order>) -> Option<Self> {
        let process = match state {
            DrainState::Serving => None,
            // The process's own end is not known yet: nothing is closed before it is.
            DrainState::Noticed => Some((None, far_away())),
            DrainState::Draining | DrainState::Stopping => {
                let default = || Instant::now() + DrainTimes::default().timeout;
                let until = shutdown.stops_at().unwrap_or_else(default);
                Some((Some(Instant::now()), until))
            }
        };
        match (process, order) {
            (None, None) => None,
            (Some((from, until)), None) => Some(Self {
                from,
                until,
                reconnect: true,
            }),
            (process, Some(order)) => {
                let (from, until) = process.unwrap_or((None, order.until));
                Some(Self {
                    from: from.or(Some(order.from)),
                    until: until.min(order.until),
                    reconnect: order.reconnect,
                })
            }
        }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 60 * 60)
}

/// Does what the process and orders want; never returns.
pub(crate) async fn run(context: Arc<Context>) {
    let mut ordered = context.drain.ordered.subscribe();
    loop {
        let state = context.shutdown.state();
        let order = ordered.borrow_and_update().drain.clone();
        let plan = Plan::of(&context.shutdown, state, order.as_ref());
        tokio::select! {
            () = follow(&context, plan) => {}
            // The sender is in the context.
            _ = ordered.changed() => {}
            () = behind(&context.shutdown, state) => {}
        }
    }
}

/// Until the process is further than that.
async fn behind(shutdown: &Shutdown, state: DrainState) {
    match state {
        DrainState::Serving => shutdown.leaving().await,
        DrainState::Noticed => shutdown.draining().await,
        DrainState::Draining | DrainState::Stopping => pending().await,
    }
}

/// Never returns: something else is wanted sooner or later. What is left undone then, is.
async fn follow(context: &Arc<Context>, plan: Option<Plan>) {
    let Some(plan) = plan else {
        enter(context, Phase::Serving);
        stay(context);
        return pending().await;
    };
    if plan.from.is_none_or(|from| from > Instant::now()) {
        enter(context, Phase::Noticed);
    }
    match plan.from {
        Some(from) => sleep_until(from).await,
        None => pending().await,
    }
    enter(context, Phase::Draining(plan.until));
    empty(context, plan).await;
    enter(context, Phase::Empty);
    pending().await
}

fn enter(context: &Context, phase: Phase) {
    let news = context.drain.phase.send_if_modified(|before| {
        let news = *before != phase;
        *before = phase;
        news
    });
    if news {
        let sessions = context.live.count();
        let phase = phase.announced().as_str();
        info!(
            phase,
            sessions, "how far the edge is on its way to be empty"
        );
    }
    tell(context);
}

/// Shows how far the edge is.
pub(crate) fn tell(context: &Context) {
    let (phase, sessions) = (context.drain.phase(), context.live.count());
    match phase.told(sessions, context.drain.reason().as_deref()) {
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

/// Nobody is asked or closed any more. Who was asked may be about to leave: what its lease says of that is taken back
/// once it has had the time.
fn stay(context: &Arc<Context>) {
    let sessions = context.live.all();
    for session in &sessions {
        session.bid(Farewell::Stay);
    }
    let context = context.clone();
    // Goes on where another drain begins meanwhile: who is not asked by that one is still no successor's.
    tokio::spawn(async move {
        sleep(context.config.drain.keyframe_wait).await;
        for session in sessions {
            if session.note_staying() {
                leases::renew_now(&context, &session).await.ok();
            }
        }
    });
}

/// Ends when there is no session any more, and none to come.
async fn empty(context: &Arc<Context>, plan: Plan) {
    let (until, limits) = (plan.until, &context.config.drain);
    let left = until.saturating_duration_since(Instant::now());
    let spread = limits.close_spread.min(left / 2);
    let close_from = until
        .checked_sub(spread + limits.keyframe_wait.min(left / 4))
        .unwrap_or(until);
    let before_close = close_from.saturating_duration_since(Instant::now());
    let over = limits.reconnect_jitter.min(before_close / 2);
    tokio::select! {
        () = emptied(context) => return,
        () = ask(context, over), if plan.reconnect && limits.reconnect_request => {}
        () = sleep_until(close_from) => {}
    }
    close(context, spread, until).await;
    emptied(context).await;
}

async fn emptied(context: &Context) {
    // Publishes that are being decided on, and leases that are being given back, count.
    while !context.publications.is_empty() {
        sleep(HOUSEKEEPING_PERIOD / 10).await;
    }
}

/// Asks encoders that can to connect elsewhere, in random order over this time, and later on those whose publish was
/// being decided on; never returns. Their leases say so first: they may be back at another edge at once.
async fn ask(context: &Arc<Context>, over: Duration) {
    let mut over = over;
    loop {
        let mut sessions = context.live.all();
        sessions.retain(|session| session.reconnects && session.stays());
        if sessions.is_empty() {
            sleep(HOUSEKEEPING_PERIOD).await;
            continue;
        }
        // Stream ids are hashes: who came together does not go together.
        sessions.sort_by_key(|session| session.stream);
        let pause = pause(context, over, sessions.len());
        over = Duration::ZERO;
        for session in sessions {
            sleep(jittered(pause)).await;
            loop {
                session.note_leaving();
                // Without the registry its key's policy decides about its successor.
                leases::renew_now(context, &session).await.ok();
                // An order that was taken back before may take back this as well.
                if session.ask_to_leave() {
                    break;
                }
            }
        }
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
        // Also those that were let in at the last moment.
        while !context.publications.is_empty() {
            for session in context.live.all() {
                session.ending().end(End::Drain);
            }
            sleep(HOUSEKEEPING_PERIOD).await;
        }
    }
}

/// Between two departures.
fn pause(context: &Context, over: Duration, sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX).max(1);
    let fastest = Duration::from_secs(1) / context.config.drain.departures_per_second_max.max(1);
    (over / sessions).max(fastest.min(over))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(at_ms: u64) -> CommandId {
        CommandId { at_ms, number: 0 }
    }

    fn drains(drain: &Drain, at_ms: u64, way: By) -> bool {
        let order = DrainOrder {
            timeout: Some(Duration::ZERO),
            reconnect: true,
            reason: String::new(),
        };
        drain.order((id(at_ms), way), &order, DrainTimes::default())
    }

    fn serves(drain: &Drain, at_ms: u64, way: By) -> bool {
        drain.take_back((id(at_ms), way))
    }

    #[tokio::test]
    async fn what_the_registry_tells_behind_control_is_not_done_again() {
        let drain = Drain::new();
        assert!(drains(&drain, 100, By::Control));
        assert!(serves(&drain, 101, By::Control));
        assert!(!drains(&drain, 100, By::Registry), "all would be closed");
        assert!(!serves(&drain, 101, By::Registry));
        assert_eq!(drain.reason(), None);
    }

    #[tokio::test]
    async fn what_comes_late_by_the_registry_is_not_done() {
        let drain = Drain::new();
        assert!(serves(&drain, 101, By::Control));
        assert!(!drains(&drain, 100, By::Registry), "all would be closed");
        assert_eq!(drain.reason(), None);
        assert!(!serves(&drain, 101, By::Registry));
        assert!(drains(&drain, 102, By::Registry));
    }

    #[tokio::test]
    async fn the_last_word_is_the_registrys() {
        let drain = Drain::new();
        assert!(serves(&drain, 101, By::Control));
        assert!(!drains(&drain, 100, By::Control), "it comes late");
        assert!(!serves(&drain, 101, By::Registry), "it was done");
        assert_eq!(drain.reason(), None);
        // Behind a failover: control may tell the old ones late.
        assert!(!drains(&drain, 90, By::Control));
        assert!(drains(&drain, 90, By::Registry));
        assert!(!serves(&drain, 101, By::Control));
        assert!(drain.reason().is_some());
    }
}
