//! How an edge gets empty: serving → noticed → draining → empty.
//!
//! Noticed, it is not ready and takes everything in as before. Draining, it refuses new publishes; encoders that said that
//! they follow a request to connect elsewhere get one, and go on here until they leave; the others go on until shortly
//! before the end, when each is closed at a keyframe. Both are paced: another edge has to take them in.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use runtime::shutdown::DrainTimes;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::{
    Context, HOUSEKEEPING_PERIOD, end::End, leases, live::Farewell, revocations::jittered,
};

/// Where the edge is on its way to be empty.
pub(crate) struct Drain {
    phase: Mutex<Phase>,
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

/// The readiness condition: new publishers are wanted.
const READY: &str = "edge-drain";

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            phase: Mutex::new(Phase::Serving),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.lock()
    }

    /// Whether new publishes are refused.
    pub(crate) fn is_begun(&self) -> bool {
        self.phase() > Phase::Noticed
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

/// Follows the process's shutdown; never returns.
pub(crate) async fn run(context: Arc<Context>) {
    enter(&context, Phase::Serving);
    context.shutdown.leaving().await;
    enter(&context, Phase::Noticed);
    context.shutdown.draining().await;
    let default = || Instant::now() + DrainTimes::default().timeout;
    let until = context.shutdown.stops_at().unwrap_or_else(default);
    enter(&context, Phase::Draining(until));
    empty(&context, until).await;
    enter(&context, Phase::Empty);
    std::future::pending().await
}

fn enter(context: &Context, phase: Phase) {
    *context.drain.phase.lock() = phase;
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

/// Ends when there is no session any more, and none to come.
async fn empty(context: &Arc<Context>, until: Instant) {
    let limits = &context.config.drain;
    let left = until.saturating_duration_since(Instant::now());
    let spread = limits.close_spread.min(left / 2);
    let close_from = until
        .checked_sub(spread + limits.keyframe_wait.min(left / 4))
        .unwrap_or(until);
    let before_close = close_from.saturating_duration_since(Instant::now());
    tokio::select! {
        () = emptied(context) => return,
        () = ask(context, limits.reconnect_jitter.min(before_close / 2)) => {}
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
        if !context.config.drain.reconnect_request || sessions.is_empty() {
            sleep(HOUSEKEEPING_PERIOD).await;
            continue;
        }
        // Stream ids are hashes: who came together does not go together.
        sessions.sort_by_key(|session| session.stream);
        let pause = pause(context, over, sessions.len());
        over = Duration::ZERO;
        for session in sessions {
            sleep(jittered(pause)).await;
            session.note_leaving();
            // Without the registry its key's policy decides about its successor.
            leases::renew_now(context, &session).await.ok();
            session.bid(Farewell::Ask);
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
