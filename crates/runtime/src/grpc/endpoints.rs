//! Several equal endpoints of one service. tonic's own balancer neither resolves names again nor avoids dead endpoints.

use std::{
    collections::BTreeSet,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, transport::Channel};
use tracing::debug;

use super::{Target, channel};
use crate::{error::chain, resolve::keep_resolved};

/// One attempt of a call; two of them fit into an encoder's patience (Authorize has 2.5 s).
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1200);
/// How long an endpoint that failed is tried last.
const PENALTY: Duration = Duration::from_secs(5);

/// Several equal endpoints of one service: resolved every 10 s and on failure, tried in turn. A cheap handle; the
/// resolving ends with the last one.
#[derive(Clone)]
pub struct Endpoints {
    shared: Arc<Shared>,
    _resolving: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    targets: Vec<Target>,
    endpoints: ArcSwap<Vec<Arc<Endpoint>>>,
    turn: AtomicUsize,
    failed: Notify,
}

/// One address (or a name that is not resolved yet) and its connection.
struct Endpoint {
    address: Option<SocketAddr>,
    target: usize,
    channel: Channel,
    penalty_until: Mutex<Option<Instant>>,
}

impl Endpoints {
    /// From `host:port` entries, each of which may resolve to many addresses. Must be called inside a tokio runtime.
    pub fn new(targets: Vec<Target>) -> Self {
        // Names connect too, so that the first call need not wait for the first resolution.
        let endpoints = targets
            .iter()
            .enumerate()
            .map(|(index, target)| Endpoint::new(index, None, channel(target)))
            .collect();
        let shared = Arc::new(Shared {
            targets,
            endpoints: ArcSwap::from_pointee(endpoints),
            turn: AtomicUsize::new(0),
            failed: Notify::new(),
        });
        let resolving = tokio::spawn(resolve(shared.clone()));
        Self {
            shared,
            _resolving: Arc::new(AbortOnDropHandle::new(resolving)),
        }
    }

    /// Calls with a channel; once more, at another endpoint where there is one, when the first answers UNAVAILABLE,
    /// cannot be reached or does not answer within [`ATTEMPT_TIMEOUT`]. For calls that may be made twice.
    pub async fn call<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let first = self.next(None)?;
        match first.attempt(&call).await {
            Err(status) if is_unreachable(&status) => {
                first.fail(&status);
                self.shared.failed.notify_one();
                let second = self.next(Some(&first))?;
                let outcome = second.attempt(&call).await;
                if let Err(status) = &outcome
                    && is_unreachable(status)
                {
                    second.fail(status);
                }
                outcome
            }
            outcome => outcome,
        }
    }

    /// One channel for a long-lived RPC; another one each time where there are several. Without any target, a channel
    /// that never connects.
    pub fn pick(&self) -> Channel {
        self.next(None).map_or_else(
            |_| tonic::transport::Endpoint::from_static("http://0.0.0.0:0").connect_lazy(),
            |endpoint| endpoint.channel.clone(),
        )
    }

    /// The next one in turn: rather one without a fresh failure, rather not `except`.
    fn next(&self, except: Option<&Arc<Endpoint>>) -> Result<Arc<Endpoint>, Status> {
        let endpoints = self.shared.endpoints.load();
        let now = Instant::now();
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        let start = turn.checked_rem(endpoints.len()).unwrap_or(0);
        endpoints
            .iter()
            .cycle()
            .skip(start)
            .take(endpoints.len())
            .min_by_key(|endpoint| {
                let excepted = except.is_some_and(|other| Arc::ptr_eq(endpoint, other));
                (excepted, endpoint.is_penalized(now))
            })
            .cloned()
            .ok_or_else(|| Status::unavailable("no endpoint is configured"))
    }
}

impl Target {
    /// The same peer, at one of its addresses.
    fn at(&self, address: SocketAddr) -> Self {
        match self {
            Self::InProcess(target) => Self::InProcess(target.clone()),
            Self::Internal(_, tls, role) => Self::Internal(address.to_string(), tls.clone(), *role),
        }
    }
}

impl Endpoint {
    fn new(target: usize, address: Option<SocketAddr>, channel: Channel) -> Arc<Self> {
        Arc::new(Self {
            address,
            target,
            channel,
            penalty_until: Mutex::new(None),
        })
    }

    async fn attempt<T, F>(&self, call: impl Fn(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        timeout(ATTEMPT_TIMEOUT, call(self.channel.clone()))
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("no answer in time")))
    }

    fn fail(&self, status: &Status) {
        debug!(address = ?self.address, reason = %chain(status), "endpoint does not answer");
        *self.penalty_until.lock() = Some(Instant::now() + PENALTY);
    }

    fn is_penalized(&self, now: Instant) -> bool {
        self.penalty_until.lock().is_some_and(|until| now < until)
    }
}

/// A status with a source was made on this side: the connection failed, the peer said nothing.
fn is_unreachable(status: &Status) -> bool {
    status.code() == Code::Unavailable || status.source().is_some()
}

async fn resolve(shared: Arc<Shared>) {
    let named: Vec<(usize, &Target, &String)> = shared
        .targets
        .iter()
        .enumerate()
        .filter_map(|(index, target)| match target {
            Target::Internal(name, ..) => Some((index, target, name)),
            Target::InProcess(_) => None,
        })
        .collect();
    let names: Vec<String> = named.iter().map(|(_, _, name)| (*name).clone()).collect();
    keep_resolved(&names, &shared.failed, |position, addresses| {
        let Some((index, target, _)) = named.get(position) else {
            return;
        };
        shared.replace(*index, addresses, |address| target.at(address));
    })
    .await;
}

impl Shared {
    /// Sets one target's addresses; those that stay keep their connections.
    fn replace(
        &self,
        index: usize,
        addresses: BTreeSet<SocketAddr>,
        resolved: impl Fn(SocketAddr) -> Target,
    ) {
        let old = self.endpoints.load();
        let known: BTreeSet<SocketAddr> = old
            .iter()
            .filter(|endpoint| endpoint.target == index)
            .filter_map(|endpoint| endpoint.address)
            .collect();
        if addresses == known {
            return;
        }
        let mut new: Vec<_> = old
            .iter()
            .filter(|endpoint| {
                endpoint.target != index
                    || endpoint
                        .address
                        .is_some_and(|address| addresses.contains(&address))
            })
            .cloned()
            .collect();
        new.extend(
            addresses
                .difference(&known)
                .map(|address| Endpoint::new(index, Some(*address), channel(&resolved(*address)))),
        );
        self.endpoints.store(Arc::new(new));
    }
}
