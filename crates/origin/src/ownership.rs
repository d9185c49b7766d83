//! What this origin tells the registry, and what it asks: announcements, and who owns the streams held here.
//!
//! No frame waits for any of this.

use std::{sync::Arc, time::Duration};

use registry::{Origin, Owner, Registry, RegistryError, Slot};
use runtime::shutdown::Shutdown;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    config::Config,
    fencing::{self, Verdict},
    stream::{End, Stream, Streams},
};

/// Announces and rechecks. A cheap handle.
#[derive(Clone)]
pub(crate) struct Ownership {
    pub(crate) config: Arc<Config>,
    pub(crate) registry: Registry,
    pub(crate) shutdown: Shutdown,
    pub(crate) streams: Streams,
}

/// Streams that are asked about in one go.
const RECHECK_STREAMS: usize = 256;
/// How long an origin that leaves keeps what readers have of a stream whose publisher is about to connect again. Encoders wait
/// two seconds before they do.
const RETURN_ELSEWHERE: Duration = Duration::from_secs(5);
/// How often it asks meanwhile, about each of them.
const LEAVING_CHECK_PERIOD: Duration = Duration::from_millis(50);
/// About how many streams it asks in a second at most, where an edge is lost with all of its publishers.
const LEAVING_CHECKS_PER_SECOND: u32 = 2000;
/// How long one exchange with the registry may take.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(2);

impl Ownership {
    /// Tells edges that this origin is there, for as long as it runs.
    pub(crate) async fn announce(&self) {
        let mut failing = false;
        loop {
            let draining = self.shutdown.is_leaving();
            let origin = Origin {
                name: self.config.name.clone(),
                relay_address: self.config.relay_address.clone(),
                zone: self.config.zone.clone(),
                draining,
                streams: u32::try_from(self.streams.count()).unwrap_or(u32::MAX),
                budget_percent: self.streams.budget().percent(),
            };
            let announced = answer(self.registry.announce(&origin)).await;
            said_once(
                &mut failing,
                announced,
                "this origin could not be announced",
            );
            tokio::select! {
                () = tokio::time::sleep(self.config.timing.announce_period) => {}
                // Told at once: new sessions go elsewhere.
                () = self.shutdown.leaving(), if !draining => {}
            }
        }
    }

    /// Takes the announcement back.
    pub(crate) async fn withdraw(&self) {
        if let Err(reason) = answer(self.registry.withdraw(&self.config.name)).await {
            info!(
                reason,
                "the announcement could not be withdrawn; it expires"
            );
        }
    }

    /// Asks again and again who owns the streams held here.
    pub(crate) async fn recheck(&self) {
        let mut failing = false;
        loop {
            tokio::time::sleep(self.config.timing.recheck_period).await;
            let checked = self.check(&self.streams.all_owned()).await;
            said_once(&mut failing, checked, "ownership could not be rechecked");
        }
    }

    /// A slot's publisher is gone: it may have gone elsewhere, it may come back, or it was the end.
    pub(crate) async fn publisher_lost(&self, stream: Arc<Stream>, slot: Slot, grace: Duration) {
        let Some(lost) = stream.lost(slot) else {
            return;
        };
        if self.shutdown.is_draining() {
            stream.hold();
        }
        // An unanswered question is asked again by the recheck.
        self.check(std::slice::from_ref(&stream)).await.ok();
        let moved = End::Moved {
            origin: String::new(),
        };
        tokio::select! {
            () = tokio::time::sleep(grace) => {
                let reason = "publisher lost".to_owned();
                // It may have come back elsewhere.
                let leaves = self.shutdown.is_draining();
                let end = if leaves { moved } else { End::Ended { reason } };
                stream.depart_if_lost(slot, lost, end);
            }
            () = self.leaves(&stream) => stream.depart_if_lost(slot, lost, moved),
            // Waiting on would hold the stream's memory for nothing.
            () = stream.found_again(slot, lost) => {}
        }
    }

    /// Until readers need not wait at an origin that leaves for a publisher that comes back elsewhere: where it does, they are
    /// sent there, by way of [`check`](Self::check).
    async fn leaves(&self, stream: &Arc<Stream>) {
        self.shutdown.draining().await;
        stream.hold();
        let by = Instant::now() + RETURN_ELSEWHERE;
        while Instant::now() < by && self.check(std::slice::from_ref(stream)).await.is_ok() {
            let held = u32::try_from(self.streams.count()).unwrap_or(u32::MAX);
            let paced = Duration::from_secs(held.into()) / LEAVING_CHECKS_PER_SECOND;
            tokio::time::sleep(paced.max(LEAVING_CHECK_PERIOD)).await;
        }
    }

    async fn check(&self, streams: &[Arc<Stream>]) -> Result<(), String> {
        for streams in streams.chunks(RECHECK_STREAMS) {
            let asked: Vec<_> = streams.iter().flat_map(asked_about).collect();
            let places: Vec<_> = asked
                .iter()
                .map(|(stream, slot)| (stream.id, *slot))
                .collect();
            let owners = answer(self.registry.owners(&places)).await?;
            for ((stream, slot), owner) in asked.into_iter().zip(owners) {
                self.judge(stream, slot, &owner);
            }
        }
        Ok(())
    }

    /// Does what the registry's word makes of one of the stream's publishers.
    pub(crate) fn judge(&self, stream: &Arc<Stream>, slot: Slot, owner: &Owner) {
        if stream.is_present(slot) {
            let seen = *stream.tokens().of(slot);
            match fencing::judge(owner, seen, &self.config.name) {
                Verdict::Fenced(token) => stream.dismiss_publisher(slot, token),
                Verdict::Moved(origin) => {
                    let origin = origin.to_string();
                    stream.depart(slot, End::Moved { origin });
                }
                Verdict::Stays => {}
            }
        } else if let Some(lease) = &owner.lease
            && lease.origin != self.config.name
            && slot == Slot::PRIMARY
        {
            // Readers find the stream where its primary is.
            stream.ask_to_leave(slot.other(), lease.origin.clone());
        }
    }
}

/// Of a stream with a backup alone it is asked too where the primary is.
fn asked_about(stream: &Arc<Stream>) -> impl Iterator<Item = (&Arc<Stream>, Slot)> {
    let mut slots = stream.slots();
    if slots == [Slot::BACKUP] {
        slots.push(Slot::PRIMARY);
    }
    slots.into_iter().map(move |slot| (stream, slot))
}

async fn answer<T>(asked: impl Future<Output = Result<T, RegistryError>>) -> Result<T, String> {
    match tokio::time::timeout(REGISTRY_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err("no answer in time".to_owned()),
    }
}

/// Warns when something begins to fail, and says when it works again.
fn said_once(failing: &mut bool, outcome: Result<(), String>, what: &'static str) {
    match (&outcome, *failing) {
        (Err(reason), false) => warn!(reason, "{what}"),
        (Err(reason), true) => tracing::debug!(reason, "{what}"),
        (Ok(()), true) => info!("over: {what}"),
        (Ok(()), false) => {}
    }
    *failing = outcome.is_err();
}
