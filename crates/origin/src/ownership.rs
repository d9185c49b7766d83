//! What this origin tells the registry, and what it asks: announcements, and who owns the streams held here.
//!
//! No frame waits for any of this.

use std::{sync::Arc, time::Duration};

use registry::{Origin, Owner, Registry, RegistryError};
use runtime::shutdown::Shutdown;
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

    /// A stream's publisher is gone: it may have gone elsewhere, it may come back, or it was the end.
    pub(crate) async fn publisher_lost(&self, stream: Arc<Stream>, grace: Duration) {
        let Some(lost) = stream.lost() else {
            return;
        };
        // An unanswered question is asked again by the recheck.
        self.check(std::slice::from_ref(&stream)).await.ok();
        tokio::select! {
            () = tokio::time::sleep(grace) => {
                let reason = "publisher lost".to_owned();
                stream.end_if_lost(lost, End::Ended { reason });
            }
            () = self.shutdown.draining() => {
                let origin = String::new();
                stream.end_if_lost(lost, End::Moved { origin });
            }
            // Waiting on would hold the stream's memory for nothing.
            () = stream.found_again(lost) => {}
        }
    }

    async fn check(&self, streams: &[Arc<Stream>]) -> Result<(), String> {
        for streams in streams.chunks(RECHECK_STREAMS) {
            let places: Vec<_> = streams.iter().map(|stream| stream.place).collect();
            let owners = answer(self.registry.owners(&places)).await?;
            for (stream, owner) in streams.iter().zip(owners) {
                self.judge(stream, &owner);
            }
        }
        Ok(())
    }

    /// Does what the registry's word makes of the stream.
    pub(crate) fn judge(&self, stream: &Arc<Stream>, owner: &Owner) {
        match fencing::judge(owner, stream.token(), &self.config.name) {
            Verdict::Fenced(token) => stream.dismiss_publisher(token),
            Verdict::Moved(origin) => {
                let origin = origin.to_string();
                stream.end(End::Moved { origin });
            }
            Verdict::Stays => {}
        }
    }
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
