//! One operator acts at a time: the holder of the Lease. Whoever loses it ends at once, so that two never act together.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tracing::{info, warn};

/// Name of the Lease.
const LEASE: &str = "headwater-operator";
/// How long a lease holds after it was renewed.
const DURATION: Duration = Duration::from_secs(15);
/// It is renewed this long before its end.
const GRACE: Duration = Duration::from_secs(5);
/// How often the holder looks whether it still is.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// For one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// For the lease to be given back.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// This process's part in the election.
pub(crate) struct Election {
    leads: watch::Receiver<bool>,
    manager: JoinHandle<Result<kube_lease_manager::LeaseManager, LeaseManagerError>>,
    leases: Api<Lease>,
    identity: String,
}

/// The Lease could not be made, or was lost.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Another operator acts now, or may.
    #[error("the Lease {LEASE} was lost: ending, so that two operators never act at a time")]
    Lost,
    /// Kubernetes does not let us.
    #[error("the Lease {LEASE} cannot be used")]
    Lease(#[from] LeaseManagerError),
}

impl Election {
    pub(crate) async fn enter(
        client: Client,
        namespace: &str,
        identity: String,
    ) -> Result<Self, LeaderError> {
        let manager = LeaseManagerBuilder::new(client.clone(), LEASE)
            .with_namespace(namespace)
            .with_parameters(kube_lease_manager::LeaseParams::new(
                identity.clone(),
                DURATION.as_secs(),
                GRACE.as_secs(),
            ))
            .build()
            .await?;
        let (leads, manager) = manager.watch().await;
        Ok(Self {
            leads,
            manager,
            leases: Api::namespaced(client, namespace),
            identity,
        })
    }

    /// Ends when this process is the one to act.
    pub(crate) async fn won(&mut self) -> Result<(), LeaderError> {
        let won = self.leads.wait_for(|leads| *leads).await;
        won.map_err(|_ended| LeaderError::Lost)?;
        info!(identity = self.identity, "this operator acts");
        Ok(())
    }

    /// Ends when this process may not be the one to act any more. Looks by itself too: the election's own task does not
    /// say so while the API server cannot be reached.
    pub(crate) async fn lost(&mut self) {
        let mut valid_until = Instant::now() + DURATION;
        let mut looks = tokio::time::interval(LOOK_PERIOD);
        loop {
            tokio::select! {
                changed = self.leads.wait_for(|leads| !leads) => {
                    drop(changed);
                    return;
                }
                () = tokio::time::sleep_until(valid_until) => {
                    warn!("the Lease was not renewed in time");
                    return;
                }
                _ = looks.tick() => match self.look().await {
                    Some(left) => valid_until = Instant::now() + left,
                    None => continue,
                },
            }
        }
    }

    /// For how long the lease still holds; zero where it is another's; nothing where that cannot be seen.
    async fn look(&self) -> Option<Duration> {
        let lease = tokio::time::timeout(LOOK_TIMEOUT, self.leases.get(LEASE)).await;
        let spec = lease.ok()?.ok()?.spec?;
        if spec.holder_identity.as_ref() != Some(&self.identity) {
            return Some(Duration::ZERO);
        }
        // Written by this process's own clock.
        let end = spec.renew_time?.0.checked_add(DURATION).ok()?;
        let left = end.duration_since(Timestamp::now());
        Some(Duration::try_from(left).unwrap_or_default())
    }

    /// Gives the lease back, so that another operator need not wait for its end.
    pub(crate) async fn leave(self) {
        drop(self.leads);
        match tokio::time::timeout(RELEASE_TIMEOUT, self.manager).await {
            Ok(Ok(Ok(_released))) => info!("the Lease was given back"),
            Ok(Ok(Err(error))) => warn!(%error, "the Lease could not be given back"),
            Ok(Err(error)) => warn!(%error, "the Lease could not be given back"),
            Err(_elapsed) => warn!("the Lease could not be given back in time"),
        }
    }
}
