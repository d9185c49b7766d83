//! The role `edge`: the only place with sockets from the internet.
//!
//! Takes RTMPS connections in, asks control once per publish, claims the stream in the registry, and relays its frames
//! to one origin at a time. Knows no stream key's meaning, keeps no stream: what it holds of one is the replay ring
//! that makes the death of an origin invisible to the encoder.
//!
//! | file | what |
//! |---|---|
//! | [`listener`] | hop 1: accept, limits, PROXY protocol, TLS |
//! | [`session`] | hop 2: socket ⇄ `rtmp::ServerSession` |
//! | [`publish`] | one publish from authorization to the released lease |
//! | [`relay`], [`replay_ring`] | hop 4: replay ring ─▶ Publish RPC, reopened where an origin is lost |
//! | [`admission`], [`revocations`] | what control says |
//! | [`challenge`] | a user and a password instead of a stream key |
//! | [`guesses`] | who is refused too often |
//! | [`placement`], [`origins`] | which origin, and the connections to it |
//! | [`live`], [`leases`] | the sessions that publish now, and their leases |
//! | [`drain`] | how an edge gets empty |
//! | [`commands`], [`presence`] | what this edge is told to do; what it tells of itself |
//! | [`limits`], [`end`] | what a grant holds the media to; why a session is over |
//! | [`reports`] | what became of sessions, for control |

#![deny(missing_docs)]

mod admission;
mod challenge;
mod commands;
mod config;
mod drain;
mod end;
mod guesses;
mod leases;
mod limits;
mod listener;
mod live;
mod metrics;
mod origins;
mod placement;
mod presence;
mod publish;
mod relay;
mod replay_ring;
mod reports;
mod revocations;
mod session;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use registry::{EdgeName, Registry};
use runtime::{
    admin::Readiness,
    budget::Budget,
    grpc::{Endpoints, InProcessTarget},
    metrics::Metrics,
    shutdown::Shutdown,
    tls::{EncoderTls, InternalTls},
};
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinSet,
    time::{interval, timeout},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::{error, info};
use uuid::Uuid;

pub use config::{
    ClientAddress, Config, ConnectionLimits, DrainLimits, OutagePolicy, PlainRtmp, ProxyProtocol,
    RENEWAL_LATE_MAX, RelayLimits, StaticOrigin, TerminatedTls,
};
pub use listener::ConnectionPermits;

/// One edge process's role.
pub struct Edge {
    config: Config,
    dependencies: Dependencies,
    permits: ConnectionPermits,
}

/// What an edge needs from its surroundings.
pub struct Dependencies {
    /// Where ownership lives.
    pub registry: Registry,
    /// The process's metrics.
    pub metrics: Metrics,
    /// The process's readiness.
    pub readiness: Readiness,
    /// Control's internal port: Authorize and WatchRevocations.
    pub control: Endpoints,
    /// How origins are reached.
    pub origins: OriginDialer,
    /// What encoders see, and whether they show certificates.
    pub tls: EncoderTls,
}

/// How an announced origin is reached.
#[derive(Clone)]
pub enum OriginDialer {
    /// Inside the standalone process, whatever address it announces.
    InProcess(InProcessTarget),
    /// At its `relay_address`; the peer must prove the role `origin`.
    Internal(InternalTls),
}

/// Where encoders connect.
pub struct Listeners {
    /// RTMPS, and RTMP as far as the configuration allows it: the first byte tells.
    pub rtmps: Vec<TcpListener>,
}

/// What every connection of this edge shares.
pub(crate) struct Context {
    admission: admission::Admission,
    budget: Budget,
    config: Config,
    drain: drain::Drain,
    edge: EdgeName,
    guesses: guesses::Guesses,
    heard: commands::Heard,
    live: live::LiveSessions,
    metrics: metrics::EdgeMetrics,
    /// A turn for each session that opens at an origin.
    openings: Arc<Semaphore>,
    origins: origins::Origins,
    readiness: Readiness,
    registry: Registry,
    reports: reports::Reports,
    revocations: revocations::Revocations,
    shutdown: Shutdown,
    tls: EncoderTls,
    /// Publications: each ends with its lease released, and `run` waits for that.
    publications: TaskTracker,
}

/// The readiness condition: encoders can connect.
const LISTENING: &str = "edge-listening";
/// How often what changes slowly is looked at.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(1);
/// For the last reports of sessions to reach a control.
const LAST_REPORTS_TIMEOUT: Duration = Duration::from_secs(3);

impl Edge {
    /// Prepares; nothing is accepted yet.
    pub fn new(config: Config, dependencies: Dependencies) -> Self {
        let readiness = &dependencies.readiness;
        readiness.expect(LISTENING, "not listening yet");
        readiness.expect(revocations::READY, "control has not answered yet");
        readiness.expect(origins::READY, "no origin is known yet");
        let limits = &config.connections;
        let permits =
            ConnectionPermits::new(limits.connections_max, limits.connections_per_address_max);
        Self {
            config,
            dependencies,
            permits,
        }
    }

    /// How many connections there may be: what may change while the edge runs.
    pub fn connection_permits(&self) -> ConnectionPermits {
        self.permits.clone()
    }

    /// Serves until shutdown: a drain stops accepting and waits for live sessions to end, a stop ends them; either
    /// way every lease is given back before this returns.
    pub async fn run(self, listeners: Listeners, shutdown: Shutdown) {
        let (context, outbox) = Context::new(self.config, self.dependencies, shutdown);
        let context = Arc::new(context);
        let reporting = AbortOnDropHandle::new(tokio::spawn(outbox.send(context.clone())));
        // Ends with this function.
        let mut background = JoinSet::new();
        background.spawn(revocations::follow(context.clone()));
        background.spawn(origins::poll(context.clone()));
        background.spawn(origins::resolve(context.clone()));
        background.spawn(leases::renew(context.clone()));
        background.spawn(drain::run(context.clone()));
        background.spawn(commands::follow(context.clone()));
        background.spawn(presence::announce(context.clone()));

        let mut accepting = JoinSet::new();
        for listener in listeners.rtmps {
            accepting.spawn(listener::run(
                listener,
                self.permits.clone(),
                context.clone(),
            ));
        }
        context.readiness.met(LISTENING);
        info!(edge = %context.edge, "taking publishers in");

        let mut period = interval(HOUSEKEEPING_PERIOD);
        let mut draining = false;
        loop {
            tokio::select! {
                () = context.shutdown.draining(), if !draining => {
                    draining = true;
                    info!(sessions = context.live.count(), "draining: no new connections");
                }
                ended = accepting.join_next() => match ended {
                    Some(Ok(())) => {}
                    Some(Err(error)) => error!(%error, "a listener failed"),
                    None => break,
                },
                Some(ended) = background.join_next() => {
                    // None of them ends by itself, and without revocations or renewals this edge must not go on.
                    error!(?ended, "a task of the edge failed: leaving");
                    context.shutdown.drain();
                }
                _ = period.tick() => context.keep_house(),
            }
        }
        context.publications.close();
        context.publications.wait().await;
        // Who would announce it again.
        background.shutdown().await;
        presence::withdraw(&context).await;
        context.reports.close();
        if timeout(LAST_REPORTS_TIMEOUT, reporting).await.is_err() {
            context.reports.give_up();
        }
        info!(edge = %context.edge, "empty: every lease is given back");
    }
}

impl Context {
    fn new(
        config: Config,
        dependencies: Dependencies,
        shutdown: Shutdown,
    ) -> (Self, reports::Outbox) {
        let Dependencies {
            registry,
            metrics,
            readiness,
            control,
            origins,
            tls,
        } = dependencies;
        let budget = Budget::new(config.relay.process_bytes_max);
        let metrics = metrics::EdgeMetrics::register(&metrics, &budget);
        let (reports, outbox) = reports::Reports::new(metrics.clone());
        let this = Self {
            admission: admission::Admission::new(control, config.relay.stale_after),
            metrics,
            budget,
            drain: drain::Drain::new(),
            edge: new_edge_name(),
            guesses: guesses::Guesses::new(),
            heard: commands::Heard::default(),
            live: live::LiveSessions::default(),
            openings: Arc::new(Semaphore::new(config.relay.openings_max)),
            origins: origins::Origins::new(
                origins,
                config.zone.clone(),
                config.static_origins.clone(),
            ),
            readiness,
            registry,
            reports,
            revocations: revocations::Revocations::new(),
            shutdown,
            tls,
            config,
            publications: TaskTracker::new(),
        };
        (this, outbox)
    }

    fn keep_house(&self) {
        drain::tell(self);
        let unusable = i64::try_from(self.tls.unusable()).unwrap_or(i64::MAX);
        self.metrics.certificates_unusable.set(unusable);
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// New with each start: leases of a former process are nobody's.
fn new_edge_name() -> EdgeName {
    let name = format!("edge-{}", Uuid::now_v7().simple());
    // Letters, digits and a dash are an id.
    EdgeName::new(&name).unwrap_or_else(|_| unreachable!("{name} is an id"))
}
