//! Renews the leases of all live sessions, spread over the period.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream};
use parking_lot::Mutex;
use registry::{RegistryError, Renewal, RenewalOutcome};
use runtime::error::chain;
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use crate::{Context, live::LiveSession, metrics::Outcome};

/// Parts of a period; each renews its share of the sessions.
const SLICES: u8 = 10;
/// Renewals in one pipeline.
const PIPELINE_MAX: usize = 256;
/// Pipelines of one share at once.
const PIPELINES_MAX: usize = 4;

/// Renews for as long as the edge runs.
pub(crate) async fn renew(context: Arc<Context>) {
    let down = Mutex::new(None);
    join_all((0..SLICES).map(|slice| renew_slice(&context, slice, &down))).await;
}

/// Renews one session at once, because what its lease says has changed: where it is, for readers; or that it leaves, for
/// its successor. Goes on where nobody waits for it: a renewal that begins ends.
pub(crate) fn renew_now(context: &Arc<Context>, session: &Arc<LiveSession>) -> JoinHandle<()> {
    let (context, session) = (context.clone(), session.clone());
    tokio::spawn(async move {
        if let Some(renewal) = session.renewal_behind_others().await {
            // A failure is made up for, and told, by the periodic renewals.
            renew_chunk(&context, &[(renewal, session)]).await.ok();
        }
    })
}

async fn renew_slice(context: &Arc<Context>, slice: u8, down: &Mutex<Option<Instant>>) {
    let period = context.config.relay.renew_period;
    sleep(offset(period, slice)).await;
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let sessions: Vec<_> = context
            .live
            .all()
            .into_iter()
            .filter(|session| slice_of(session) == slice)
            .filter_map(|session| Some((session.renewal()?, session)))
            .collect();
        // Several at once: what one of several servers does not answer holds up nobody else's.
        stream::iter(sessions.chunks(PIPELINE_MAX))
            .for_each_concurrent(PIPELINES_MAX, async |chunk| {
                let renewed = renew_chunk(context, chunk).await;
                say(&renewed, down, period);
            })
            .await;
    }
}

async fn renew_chunk(
    context: &Arc<Context>,
    chunk: &[(Renewal, Arc<LiveSession>)],
) -> Result<Renewed, RegistryError> {
    let renewals: Vec<Renewal> = chunk.iter().map(|(renewal, _)| renewal.clone()).collect();
    let outcomes = context.registry.renew(&renewals).await;
    for (_, session) in chunk {
        session.renewal_done();
    }
    let outcomes = outcomes.inspect_err(|_unavailable| {
        // Sessions go on: only an explicit answer fences.
        let failed = u64::try_from(renewals.len()).unwrap_or_default();
        count(context, "unavailable", failed);
    })?;
    let mut renewed = Renewed::All;
    for ((renewal, session), outcome) in chunk.iter().zip(outcomes) {
        if outcome == RenewalOutcome::Unavailable {
            renewed = Renewed::InPart;
        }
        apply(context, session, renewal.epoch, outcome);
    }
    Ok(renewed)
}

/// How much of a pipeline was answered.
enum Renewed {
    All,
    /// One of several servers does not answer.
    InPart,
}

/// Warns when renewals begin to fail, and says when all have worked again for a period. `down`: when one failed last.
fn say(renewed: &Result<Renewed, RegistryError>, down: &Mutex<Option<Instant>>, period: Duration) {
    let mut down = down.lock();
    match renewed {
        Ok(Renewed::All) => {
            if down.is_some_and(|last| last.elapsed() > period) {
                *down = None;
                info!("the registry renews leases again");
            }
        }
        Ok(Renewed::InPart) => {
            if down.replace(Instant::now()).is_none() {
                warn!("a part of the registry does not renew leases; sessions go on");
            }
        }
        Err(error) => {
            if down.replace(Instant::now()).is_none() {
                warn!(
                    error = chain(error),
                    "the registry does not renew leases; sessions go on"
                );
            }
        }
    }
}

fn apply(context: &Arc<Context>, session: &Arc<LiveSession>, shown: u64, outcome: RenewalOutcome) {
    let session_id = &session.session;
    match outcome {
        RenewalOutcome::Renewed => count(context, "renewed", 1),
        RenewalOutcome::Healed => {
            debug!(%session_id, "the lease had vanished and is back");
            count(context, "healed", 1);
        }
        RenewalOutcome::Unavailable => count(context, "unavailable", 1),
        RenewalOutcome::WonBack => {
            info!(%session_id, "an older lease had come back and was replaced");
            count(context, "won_back", 1);
        }
        RenewalOutcome::Fenced { epoch } => {
            let (context, session) = (context.clone(), session.clone());
            tokio::spawn(async move { fenced(&context, &session, shown, epoch).await });
        }
    }
}

/// Another publisher owns the stream, or this session does, with a claim that it gave up and the registry carried out later.
async fn fenced(context: &Arc<Context>, session: &Arc<LiveSession>, shown: u64, epoch: u64) {
    let session_id = &session.session;
    if raise_to_own(context, session, shown).await {
        info!(%session_id, epoch, "a claim of the session's own was carried out late");
        count(context, "won_back", 1);
        renew_now(context, session);
        return;
    }
    info!(%session_id, epoch, "another publisher owns the stream");
    count(context, "fenced", 1);
    session.fenced(context.config.relay.fenced_grace).await;
}

/// Where the registry has the stream for this session, with a higher epoch than the one that was `shown` and refused: that
/// one is its epoch.
pub(crate) async fn raise_to_own(context: &Context, session: &LiveSession, shown: u64) -> bool {
    let place = [(session.stream, session.slot)];
    let owner = context.registry.owners(&place).await;
    let lease = owner.ok().and_then(|mut owners| owners.pop()?.lease);
    let own = lease.filter(|lease| lease.session == session.session && lease.epoch > shown);
    if let Some(lease) = &own {
        session.raise_epoch(lease.epoch);
    }
    own.is_some()
}

fn count(context: &Context, outcome: &'static str, renewals: u64) {
    context
        .metrics
        .renewals
        .get_or_create(&Outcome { outcome })
        .inc_by(renewals);
}

fn offset(period: Duration, slice: u8) -> Duration {
    period / u32::from(SLICES) * u32::from(slice)
}

/// Stream ids are hashes: any byte spreads them.
fn slice_of(session: &LiveSession) -> u8 {
    let [byte, ..] = session.stream.as_bytes();
    byte % SLICES
}
