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
use registry::{LEASE_TTL, Origin, OriginName, Registry, RegistryError, StreamId};
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
    /// Until when those stand where the registry names none.
    announced_until: Option<Instant>,
    /// Whether the registry answers, and names some.
    told: bool,
    resolved: BTreeSet<SocketAddr>,
}

/// What follows from the sources.
#[derive(Default)]
struct Known {
    /// Configured or announced.
    named: Vec<Origin>,
    /// Known by their addresses alone.
    unnamed: Vec<Origin>,
}

/// One to an origin; its sessions hold it.
pub(crate) type Connection = grpc::Connection<Destination>;

/// An origin that moves is another one to connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Destination {
    name: OriginName,
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
            .chain(placement::rank(stream, &known.unnamed, &self.zone))
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
        let now = Instant::now();
        self.learn(|sources| {
            sources.told = !announced.is_empty();
            if sources.told {
                sources.announced = announced;
                sources.announced_until = Some(now + LEASE_TTL);
            } else if sources.announced_until.is_some_and(|until| now < until) {
                // It has lost what it knew: who did not say that he leaves is announced again in a moment.
                sources.announced.retain(|origin| !origin.draining);
            } else {
                sources.announced.clear();
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
        let unnamed = sources
            .resolved
            .iter()
            .filter(|_| !sources.told)
            .filter_map(|address| unnamed(*address))
            .filter(|origin| {
                !named
                    .iter()
                    .any(|named| named.relay_address == origin.relay_address)
            })
            .collect();
        Known { named, unnamed }
    }

    pub(crate) fn any_known(&self) -> bool {
        self.known.load().all().next().is_some()
    }
}

impl Known {
    fn all(&self) -> impl Iterator<Item = &Origin> {
        self.named.iter().chain(&self.unnamed)
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

/// An origin of which the address alone is known, and serves as its name until it gives its own.
fn unnamed(address: SocketAddr) -> Option<Origin> {
    let relay_address = address.to_string();
    // IPv6 addresses are written in brackets, which no name holds.
    let name = OriginName::new(&relay_address.replace(['[', ']'], "")).ok()?;
    Some(unannounced(&StaticOrigin {
        name,
        relay_address,
        zone: String::new(),
    }))
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use runtime::grpc::in_process;

    use super::*;

    fn origin(name: &str, relay_address: &str) -> Origin {
        Origin {
            relay_address: relay_address.to_owned(),
            ..unannounced(&StaticOrigin {
                name: OriginName::new(name).unwrap(),
                relay_address: String::new(),
                zone: String::new(),
            })
        }
    }

    fn origins(static_origins: Vec<StaticOrigin>) -> Origins {
        let (_listener, target) = in_process(Role::Edge);
        Origins::new(
            OriginDialer::InProcess(target),
            String::new(),
            static_origins,
        )
    }

    fn stream() -> StreamId {
        StreamId::derive("default", "live", "main")
    }

    #[tokio::test(start_paused = true)]
    async fn an_announcement_replaces_the_configured_entry() {
        let origins = origins(vec![StaticOrigin {
            name: OriginName::new("a").unwrap(),
            relay_address: "configured:1".to_owned(),
            zone: String::new(),
        }]);
        assert_eq!(
            origins.ranked(stream(), None)[0].relay_address,
            "configured:1"
        );
        origins.announced(vec![origin("a", "announced:1"), origin("b", "b:1")]);
        let addresses: Vec<_> = origins
            .ranked(stream(), None)
            .into_iter()
            .map(|origin| origin.relay_address)
            .collect();
        assert_eq!(addresses.len(), 2);
        assert!(addresses.contains(&"announced:1".to_owned()));
        tokio::time::advance(LEASE_TTL).await;
        origins.announced(Vec::new());
        assert_eq!(
            origins.ranked(stream(), None)[0].relay_address,
            "configured:1"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_serves_is_known_by_name_while_a_registry_that_was_flushed_names_nobody() {
        let origins = origins(Vec::new());
        origins.resolved(addresses(&["10.0.0.1:7444", "10.0.0.2:7444"]));
        let leaving = Origin {
            draining: true,
            ..origin("b", "10.0.0.2:7444")
        };
        origins.announced(vec![origin("a", "10.0.0.1:7444"), leaving]);
        tokio::time::advance(LEASE_TTL - Duration::from_secs(1)).await;
        origins.announced(Vec::new());
        // Whoever comes back to the address of the one that has left is not that one.
        assert_eq!(ranked(&origins), ["a", "10.0.0.2:7444"]);
        tokio::time::advance(Duration::from_secs(1)).await;
        origins.announced(Vec::new());
        let by_addresses: BTreeSet<_> = ranked(&origins).into_iter().collect();
        let gone = ["10.0.0.1:7444", "10.0.0.2:7444"].map(str::to_owned);
        assert_eq!(by_addresses, gone.into(), "its announcement has run out");
    }

    #[tokio::test]
    async fn an_origin_is_the_same_by_its_address_and_by_its_name() {
        let origins = origins(Vec::new());
        let addressed = ["10.0.0.1:7444", "10.0.0.2:7444"];
        origins.resolved(addresses(&addressed));
        let best = origins.ranked(stream(), None)[0].clone();
        origins.avoid(&origins.connect(&best));
        let named = |address| origin(&format!("at-{address}"), address);
        origins.announced(addressed.map(named).into());
        let last = |avoid: Option<&Origin>| origins.ranked(stream(), avoid)[1].clone();
        assert_eq!(last(None).relay_address, best.relay_address, "out of reach");
        let others = addressed.into_iter().find(|at| *at != best.relay_address);
        let other = unnamed(others.unwrap().parse().unwrap()).unwrap();
        assert_eq!(last(Some(&other)).relay_address, other.relay_address);
        // It has another address by now.
        let moved = origin(&format!("at-{}", other.relay_address), "10.0.0.3:7444");
        assert_eq!(last(Some(&moved)).relay_address, other.relay_address);
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_out_of_reach_comes_last_for_a_while() {
        let origins = origins(Vec::new());
        origins.announced(vec![
            origin("a", "a:1"),
            origin("b", "b:1"),
            origin("c", "c:1"),
        ]);
        let best = origins.ranked(stream(), None)[0].clone();
        let connection = origins.connect(&best);
        origins.avoid(&connection);
        assert_eq!(origins.ranked(stream(), None)[2], best);
        assert!(
            !Arc::ptr_eq(&connection, &origins.connect(&best)),
            "a new connection"
        );
        tokio::time::advance(AVOID + Duration::from_millis(1)).await;
        assert_eq!(origins.ranked(stream(), None)[0], best);
        assert_eq!(origins.ranked(stream(), Some(&best))[2], best);
    }

    #[tokio::test(start_paused = true)]
    async fn who_wants_an_origin_that_is_not_known_asks_once_for_all_and_not_all_the_time() {
        const PERIOD: Duration = Duration::from_secs(60);
        let origins = origins(Vec::new());
        let registry = Registry::Memory(registry::MemoryRegistry::new());
        let polls = async {
            for _ in 0..5 {
                origins.due(PERIOD).await;
                origins.refresh(&registry).await.unwrap();
            }
        };
        let wants = async {
            for _ in 0..5 {
                join_all((0..100).map(|_| origins.refreshed())).await;
            }
        };
        let began = Instant::now();
        let both = async { tokio::join!(polls, wants) };
        timeout(PERIOD, both).await.expect("one poll for a hundred");
        let took = began.elapsed();
        assert!(took >= EAGER_PERIOD * 5, "{took:?}");
    }

    fn ranked(origins: &Origins) -> Vec<String> {
        let ranked = origins.ranked(stream(), None);
        ranked
            .iter()
            .map(|origin| origin.name.to_string())
            .collect()
    }

    fn addresses(addresses: &[&str]) -> BTreeSet<SocketAddr> {
        let parse = |address: &&str| address.parse().unwrap();
        addresses.iter().map(parse).collect()
    }

    #[tokio::test]
    async fn addresses_are_candidates_while_the_registry_tells_nothing() {
        let origins = origins(Vec::new());
        assert!(!origins.any_known());
        origins.resolved(addresses(&["10.0.0.1:7444", "[fd00::1]:7444"]));
        assert!(origins.any_known());
        let mut found: Vec<_> = origins
            .ranked(stream(), None)
            .into_iter()
            .map(|origin| (origin.name.to_string(), origin.relay_address))
            .collect();
        found.sort();
        let pair = |name: &str, address: &str| (name.to_owned(), address.to_owned());
        assert_eq!(
            found,
            [
                pair("10.0.0.1:7444", "10.0.0.1:7444"),
                pair("fd00::1:7444", "[fd00::1]:7444"),
            ]
        );

        origins.announced(vec![origin("a", "10.0.0.1:7444")]);
        assert_eq!(
            ranked(&origins),
            ["a"],
            "who is not announced may be leaving"
        );
        origins.announced(Vec::new());
        assert_eq!(ranked(&origins).len(), 2, "an empty registry tells nothing");
        assert_eq!(ranked(&origins)[0], "a", "it was announced a moment ago");
    }

    #[tokio::test]
    async fn an_announced_origin_replaces_its_address_and_comes_before_others() {
        let origins = origins(Vec::new());
        origins.resolved(addresses(&["10.0.0.1:7444", "10.0.0.2:7444"]));
        origins.announced(vec![origin("a", "10.0.0.1:7444")]);
        origins.learn(|sources| sources.told = false);
        assert_eq!(ranked(&origins), ["a", "10.0.0.2:7444"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_announced_origin_out_of_reach_comes_behind_an_address() {
        let origins = origins(Vec::new());
        origins.announced(vec![origin("a", "10.0.0.1:7444")]);
        origins.resolved(addresses(&["10.0.0.2:7444"]));
        origins.learn(|sources| sources.told = false);
        let connection = origins.connect(&origins.ranked(stream(), None)[0]);
        origins.avoid(&connection);
        assert_eq!(ranked(&origins), ["10.0.0.2:7444", "a"]);
    }
}
