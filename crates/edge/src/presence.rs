//! What this edge tells the registry of itself. Nothing waits for it: it is for those who look after edges.

use std::{sync::Arc, time::Duration};

use registry::{ANNOUNCE_PERIOD, Edge, RegistryError};
use runtime::error::chain;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::{Context, HOUSEKEEPING_PERIOD, drain::Phase, unix_ms};

/// For the announcement to be taken back.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);

/// Says that this edge is there, and how far on its way to be empty, for as long as it runs.
pub(crate) async fn announce(context: Arc<Context>) {
    let mut phases = context.drain.phases();
    let mut failing = false;
    loop {
        let phase = *phases.borrow_and_update();
        let stopping = context.shutdown.is_leaving();
        let edge = edge(&context, phase);
        let announced = context.registry.announce_edge(&edge).await;
        said_once(&mut failing, announced);
        tokio::select! {
            () = sleep(ANNOUNCE_PERIOD) => {}
            () = other_sessions(&context, edge.sessions) => {}
            // Who ordered it looks at what becomes of it. The sender is in the context.
            _ = phases.changed() => {}
            () = context.shutdown.leaving(), if !stopping => {}
        }
    }
}

/// Until there are not as many as that, looked at now and then.
async fn other_sessions(context: &Context, announced: u32) {
    loop {
        sleep(HOUSEKEEPING_PERIOD).await;
        if sessions(context) != announced {
            return;
        }
    }
}

fn sessions(context: &Context) -> u32 {
    u32::try_from(context.live.count()).unwrap_or(u32::MAX)
}

/// Takes the announcement back.
pub(crate) async fn withdraw(context: &Context) {
    let withdrawn = context.registry.withdraw_edge(&context.edge);
    if !matches!(timeout(WITHDRAW_TIMEOUT, withdrawn).await, Ok(Ok(()))) {
        info!("the announcement could not be withdrawn; it expires");
    }
}

fn edge(context: &Context, phase: Phase) -> Edge {
    let until = match phase {
        Phase::Draining(until) => Some(until),
        Phase::Serving | Phase::Noticed | Phase::Empty => None,
    };
    let drain_until_ms = until.map(|until| {
        let left = until.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        unix_ms().saturating_add(left_ms)
    });
    Edge {
        name: context.edge.clone(),
        host: context.config.host.clone(),
        zone: context.config.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        phase: phase.announced(),
        stopping: context.shutdown.is_leaving(),
        sessions: sessions(context),
        drain_until_ms,
        drain_reason: context.drain.reason().unwrap_or_default(),
        heard: context.heard.highest(),
    }
}

/// Warns when announcements begin to fail, and says when they work again.
fn said_once(failing: &mut bool, announced: Result<(), RegistryError>) {
    match announced {
        Ok(()) => {
            if std::mem::take(failing) {
                info!("this edge is announced again");
            }
        }
        Err(error) => {
            if !std::mem::replace(failing, true) {
                warn!(reason = chain(&error), "this edge could not be announced");
            }
        }
    }
}
