//! The origins that this edge knows, and its connections to them.
//!
//! Known are those of the configuration, overlaid by what origins announce in the registry. While the registry is down
//! the last answer stands: an address is a hint, the peer proves its role by its certificate. Behind them, for a
//! registry that tells nothing, come the addresses of a DNS name: origins whose own names are not known.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use registry::{Origin, OriginName, Registry, RegistryError, StreamId};
use runtime::{
    error::chain,
    grpc::{self, Pool, Target},
    identity::Role,
    resolve::keep_resolved,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{Context, OriginDialer, config::StaticOrigin, placement};

/// Known origins and connections to them.
pub(crate) struct Origins {
    dialer: OriginDialer,
    zone: String,
    static_origins: Vec<StaticOrigin>,
    sources: Mutex<Sources>,
    known: ArcSwap<Known>,
    connections: Pool<Destination>,
    /// Addresses that were out of reach, and until when they come last.
    avoided: Mutex<BTreeMap<String, Instant>>,
    /// An origin was out of reach, or none was known.
    failed: Notify,
    /// The registry is to be asked before its time.
    wanted: Notify,
    /// It was asked.
    asked: watch::Sender<()>,
}

/// What each source said last.
#[derive(Default)]
struct Sources {
    announced: Vec<Origin>,
    /// Whether the registry answers.
    told: bool,
    resolved: BTreeSet<SocketAddr>,
    /// By address: who was there last, as it was announced or as it said itself.
    met: BTreeMap<String, Origin>,
}

/// What follows from the sources.
#[derive(Default)]
struct Known {
    /// Configured or announced.
    named: Vec<Origin>,
    /// Known by their addresses alone, and by the names that they had there.
    addressed: Vec<Origin>,
}

/// One to an origin; its sessions hold it.
pub(crate) type Connection = grpc::Connection<Destination>;

/// An origin that moves is another one to connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Destination {
    pub(crate) name: OriginName,
    relay_address: String,
}

/// How often the registry is asked while no origin is known, and at most where one that was not known is wanted.
const EAGER_PERIOD: Duration = Duration::from_millis(200);
/// How long an origin that was out of reach comes last.
const AVOID: Duration = Duration::from_secs(5);

impl Origins {
    pub(crate) fn new(
        dialer: OriginDialer,
        zone: String,
        static_origins: Vec<StaticOrigin>,
    ) -> Self {
        let this = Self {
            dialer,
            zone,
            static_origins,
            sources: Mutex::default(),
            known: ArcSwap::default(),
            connections: Pool::default(),
            avoided: Mutex::default(),
            failed: Notify::new(),
            wanted: Notify::new(),
            asked: watch::Sender::default(),
        };
        this.learn(|_nothing| {});
        this
    }

    /// Asks the registry once.
    async fn refresh(&self, registry: &Registry) -> Result<(), RegistryError> {
        let answer = registry.origins().await;
        let refreshed = answer.map(|announced| self.announced(announced));
        if refreshed.is_err() {
            self.learn(|sources| sources.told = false);
            self.failed.notify_one();
        }
        self.asked.send_replace(());
        refreshed
    }

    /// Until [`poll`] has asked the registry, soon and once for all who want it.
    pub(crate) async fn refreshed(&self) {
        let mut asked = self.asked.subscribe();
        self.wanted.notify_one();
        // The sender is here.
        asked.changed().await.ok();
    }

    /// Until the registry is to be asked again.
    async fn due(&self, period: Duration) {
        let soonest = period.min(EAGER_PERIOD);
        sleep(soonest).await;
        let wanted = self.wanted.notified();
        timeout(period.saturating_sub(soonest), wanted).await.ok();
    }

    /// Origins that may take a stream, best first: those to avoid come last.
    pub(crate) fn ranked(&self, stream: StreamId, avoid: Option<&Origin>) -> Vec<Origin> {
        let known = self.known.load();
        let now = Instant::now();
        let mut avoided = self.avoided.lock();
        avoided.retain(|_, until| *until > now);
        let mut ranked: Vec<Origin> = placement::rank(stream, &known.named, &self.zone)
            .into_iter()
            .chain(placement::rank(stream, &known.addressed, &self.zone))
            .cloned()
            .collect();
        ranked.sort_by_key(|origin| {
            (
                avoid.is_some_and(|avoid| same(avoid, origin)),
                avoided.contains_key(&origin.relay_address),
            )
        });
        ranked
    }

    /// Origins that take no stream any more, and are there still.
    pub(crate) fn leaving(&self) -> Vec<OriginName> {
        let known = self.known.load();
        let leaving = known.named.iter().filter(|origin| origin.draining);
        leaving.map(|origin| origin.name.clone()).collect()
    }

    /// A connection with room for one more session.
    pub(crate) fn connect(&self, origin: &Origin) -> Arc<Connection> {
        let destination = Destination {
            name: origin.name.clone(),
            relay_address: origin.relay_address.clone(),
        };
        self.connections
            .connection(&destination, || match &self.dialer {
                OriginDialer::InProcess(target) => Target::InProcess(target.clone()),
                OriginDialer::Internal(tls) => {
                    Target::Internal(origin.relay_address.clone(), tls.clone(), Role::Origin)
                }
            })
    }

    /// The connection was of no use: new sessions get another one, and the origin comes last for a while.
    pub(crate) fn avoid(&self, connection: &Arc<Connection>) {
        let address = connection.destination().relay_address.clone();
        self.avoided.lock().insert(address, Instant::now() + AVOID);
        self.failed.notify_one();
        self.connections.give_up(connection);
    }

    fn announced(&self, announced: Vec<Origin>) {
        self.learn(|sources| {
            let names: BTreeSet<&OriginName> =
                announced.iter().map(|origin| &origin.name).collect();
            let met = &mut sources.met;
            met.retain(|_, origin| !names.contains(&origin.name));
            let there = |origin: &Origin| (origin.relay_address.clone(), origin.clone());
            met.extend(announced.iter().map(there));
            sources.announced = announced;
            sources.told = true;
        });
    }

    /// An origin said its name itself.
    pub(crate) fn told_its_name(&self, origin: &Origin) {
        let (name, address) = (&origin.name, &origin.relay_address);
        self.learn(|sources| {
            sources.met.retain(|_, other| other.name != *name);
            sources.met.insert(address.clone(), origin.clone());
            // It is not where the registry had it last.
            let mut announced = sources.announced.iter_mut();
            if let Some(announced) = announced.find(|announced| announced.name == *name) {
                announced.relay_address.clone_from(address);
            }
        });
    }

    fn resolved(&self, addresses: BTreeSet<SocketAddr>) {
        self.learn(|sources| sources.resolved = addresses);
    }

    /// Takes in what one source said.
    fn learn(&self, change: impl FnOnce(&mut Sources)) {
        let mut sources = self.sources.lock();
        change(&mut sources);
        sources.forget();
        let known = self.known_from(&sources);
        let before = self.known.load();
        if before.names() != known.names() {
            info!(origins = ?known.names(), "known origins");
        }
        self.known.store(Arc::new(known));
    }

    fn known_from(&self, sources: &Sources) -> Known {
        let configured = self
            .static_origins
            .iter()
            .map(|origin| (origin.name.clone(), unannounced(origin)));
        let announced = sources
            .announced
            .iter()
            .map(|origin| (origin.name.clone(), origin.clone()));
        let named: BTreeMap<OriginName, Origin> = configured.chain(announced).collect();
        let named: Vec<Origin> = named.into_values().collect();
        // A registry that tells origins tells all of them: who is not among them may be leaving.
        let last_resort = !sources.told || sources.announced.is_empty();
        let addressed = sources
            .resolved
            .iter()
            .filter(|_| last_resort)
            .filter_map(|address| at(*address, &sources.met))
            .filter(|origin| {
                !named
                    .iter()
                    .any(|named| named.relay_address == origin.relay_address)
            })
            .collect();
        Known { named, addressed }
    }

    pub(crate) fn any_known(&self) -> bool {
        self.known.load().all().next().is_some()
    }
}

impl Sources {
    /// Who was at addresses where nobody is any more.
    fn forget(&mut self) {
        let announced = self.announced.iter();
        let announced = announced.map(|origin| origin.relay_address.clone());
        let resolved = self.resolved.iter().map(SocketAddr::to_string);
        let addresses: BTreeSet<String> = announced.chain(resolved).collect();
        self.met.retain(|address, _| addresses.contains(address));
    }
}

impl Known {
    fn all(&self) -> impl Iterator<Item = &Origin> {
        self.named.iter().chain(&self.addressed)
    }

    fn names(&self) -> Vec<String> {
        self.all().map(|origin| origin.name.to_string()).collect()
    }
}

/// Keeps the known origins fresh for as long as the edge runs.
pub(crate) async fn poll(context: Arc<Context>) {
    let mut down = false;
    loop {
        match context.origins.refresh(&context.registry).await {
            Ok(()) if down => {
                info!("the registry tells origins again");
                down = false;
            }
            Ok(()) => {}
            Err(error) if !down => {
                warn!(
                    error = chain(&error),
                    "the registry does not tell origins; the known ones stand"
                );
                down = true;
            }
            Err(error) => debug!(error = chain(&error), "the registry does not tell origins"),
        }
        let period = context.config.relay.origins_poll_period;
        if context.origins.any_known() {
            context.readiness.met(READY);
            context.origins.due(period).await;
        } else {
            context.readiness.unmet(READY, "no origin is known");
            context.origins.due(period.min(EAGER_PERIOD)).await;
        }
    }
}

/// Keeps the addresses of `origins_dns` fresh for as long as the edge runs.
pub(crate) async fn resolve(context: Arc<Context>) {
    let names: Vec<String> = context.config.origins_dns.iter().cloned().collect();
    let origins = &context.origins;
    keep_resolved(&names, &origins.failed, |_index, addresses| {
        origins.resolved(addresses);
    })
    .await;
}

/// The readiness condition: there is an origin to publish to.
pub(crate) const READY: &str = "edge-origins";

fn unannounced(origin: &StaticOrigin) -> Origin {
    Origin {
        name: origin.name.clone(),
        relay_address: origin.relay_address.clone(),
        zone: origin.zone.clone(),
        draining: false,
        streams: 0,
        budget_percent: 0,
    }
}

/// Whether the two are one origin: it may be known by its address alone, and at another one later.
pub(crate) fn same(one: &Origin, other: &Origin) -> bool {
    one.name == other.name || one.relay_address == other.relay_address
}

/// The origin at an address: who was met there, or one whose address serves as its name until it says its own.
fn at(address: SocketAddr, met: &BTreeMap<String, Origin>) -> Option<Origin> {
    let relay_address = address.to_string();
    if let Some(origin) = met.get(&relay_address) {
        // If it leaves still, it says so.
        let draining = false;
        return Some(Origin {
            draining,
            ..origin.clone()
        });
    }
    // IPv6 addresses are written in brackets, which no name holds.
    let name = OriginName::new(&relay_address.replace(['[', ']'], "")).ok()?;
    Some(unannounced(&StaticOrigin {
        name,
        relay_address,
        zone: String::new(),
    }))
}

#[cfg(test)]
mod tests;
