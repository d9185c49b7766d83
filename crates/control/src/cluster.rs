//! `ClusterService`: what this replica runs with. For the operator alone.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use proto::internal::v1::{
    GetStateRequest, GetStateResponse, cluster_service_server::ClusterService,
};
use runtime::{error::chain, identity::Role};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tonic::{Request, Response, Status};

use crate::{Shared, caller::require_role};

/// Serves one control process's state.
pub(crate) struct ClusterState {
    shared: Arc<Shared>,
    counted: Mutex<Option<Counted>>,
    counting: Semaphore,
}

/// What the registry said last, and when.
#[derive(Clone, Copy)]
struct Counted {
    at: Instant,
    sessions: Option<u32>,
}

impl ClusterState {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            counted: Mutex::new(None),
            counting: Semaphore::new(1),
        }
    }

    async fn state(&self, request: Request<GetStateRequest>) -> Result<GetStateResponse, Status> {
        require_role(&request, Role::Operator)?;
        let sessions = self.sessions().await;
        let (applications, live_config_hash) = self.shared.live.applications();
        Ok(GetStateResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            live_config_hash,
            applications,
            sessions,
        })
    }

    /// Reads every lease, so at most once in [`COUNT_PERIOD`], also where that fails. Callers meanwhile wait for the same
    /// answer.
    async fn sessions(&self) -> Option<u32> {
        // An error says that the semaphore was closed: nobody does.
        let _alone = self.counting.acquire().await.ok()?;
        let last = *self.counted.lock();
        if let Some(counted) = last
            && counted.at.elapsed() < COUNT_PERIOD
        {
            return counted.sessions;
        }
        let sessions = self.count().await;
        *self.counted.lock() = Some(Counted {
            at: Instant::now(),
            sessions,
        });
        sessions
    }

    async fn count(&self) -> Option<u32> {
        match timeout(COUNT_TIMEOUT, self.shared.leases.at_most(Duration::ZERO)).await {
            Ok(Ok(leases)) => Some(u32::try_from(leases.len()).unwrap_or(u32::MAX)),
            Ok(Err(error)) => {
                tracing::debug!(
                    reason = chain(&error),
                    "sessions cannot be counted for the operator"
                );
                None
            }
            Err(_elapsed) => {
                tracing::debug!("sessions cannot be counted for the operator in time");
                None
            }
        }
    }
}

#[tonic::async_trait]
impl ClusterService for ClusterState {
    async fn get_state(
        &self,
        request: Request<GetStateRequest>,
    ) -> Result<Response<GetStateResponse>, Status> {
        self.shared
            .metrics
            .timed("GetState", self.state(request))
            .await
    }
}

/// How old the number of sessions may be.
const COUNT_PERIOD: Duration = Duration::from_secs(5);
/// Without the registry's answer by then, the rest is told without it.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);
