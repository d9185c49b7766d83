//! The origins that this edge knows, and its connections to them.
//!
//! Known are those of the configuration, overlaid by what origins announce in the registry. While the registry is down
//! the last answer stands: an address is a hint, the peer proves its role by its certificate.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use registry::{Origin, OriginName, Registry, RegistryError, StreamId};
use runtime::{
    grpc::{SESSIONS_PER_CONNECTION, Target, channel},
    identity::Role,
};
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tracing::{debug, info, warn};

use crate::{Context, OriginDialer, config::StaticOrigin, placement};

/// Known origins and connections to them.
pub(crate) struct Origins {
    dialer: OriginDialer,
    zone: String,
    static_origins: Vec<StaticOrigin>,
    known: ArcSwap<Vec<Origin>>,
    pools: Mutex<BTreeMap<Destination, Vec<Arc<Connection>>>>,
    /// Origins that were out of reach, and until when they come last.
    avoided: Mutex<BTreeMap<OriginName, Instant>>,
}

/// One HTTP/2 connection to an origin; its sessions hold it.
pub(crate) struct Connection {
    destination: Destination,
    channel: Channel,
}

/// An origin that moves is another one to connect to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Destination {
    name: OriginName,
    relay_address: String,
}

/// How often the registry is asked while no origin is known.
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
            known: ArcSwap::default(),
            pools: Mutex::default(),
            avoided: Mutex::default(),
        };
        this.learn(Vec::new());
        this
    }

    /// Asks the registry once.
    pub(crate) async fn refresh(&self, registry: &Registry) -> Result<(), RegistryError> {
        self.learn(registry.origins().await?);
        Ok(())
    }

    /// Origins that may take a stream, best first: those to avoid come last.
    pub(crate) fn ranked(&self, stream: StreamId, avoid: Option<&OriginName>) -> Vec<Origin> {
        let known = self.known.load();
        let now = Instant::now();
        let mut avoided = self.avoided.lock();
        avoided.retain(|_, until| *until > now);
        let mut ranked: Vec<Origin> = placement::rank(stream, &known, &self.zone)
            .into_iter()
            .cloned()
            .collect();
        ranked.sort_by_key(|origin| {
            (
                avoid == Some(&origin.name),
                avoided.contains_key(&origin.name),
            )
        });
        ranked
    }

    /// A connection with room for one more session.
    pub(crate) fn connect(&self, origin: &Origin) -> Arc<Connection> {
        let destination = Destination {
            name: origin.name.clone(),
            relay_address: origin.relay_address.clone(),
        };
        let mut pools = self.pools.lock();
        let pool = pools.entry(destination.clone()).or_default();
        // Each session holds its connection, and so does the pool.
        if let Some(connection) = pool
            .iter()
            .find(|connection| Arc::strong_count(connection) <= SESSIONS_PER_CONNECTION)
        {
            return connection.clone();
        }
        let target = match &self.dialer {
            OriginDialer::InProcess(target) => Target::InProcess(target.clone()),
            OriginDialer::Internal(tls) => {
                Target::Internal(origin.relay_address.clone(), tls.clone(), Role::Origin)
            }
        };
        let connection = Arc::new(Connection {
            destination,
            channel: channel(&target),
        });
        pool.push(connection.clone());
        connection
    }

    /// The connection was of no use: new sessions get another one, and the origin comes last for a while.
    pub(crate) fn avoid(&self, connection: &Arc<Connection>) {
        self.avoided
            .lock()
            .insert(connection.destination.name.clone(), Instant::now() + AVOID);
        if let Some(pool) = self.pools.lock().get_mut(&connection.destination) {
            pool.retain(|pooled| !Arc::ptr_eq(pooled, connection));
        }
    }

    fn learn(&self, announced: Vec<Origin>) {
        let mut known: BTreeMap<OriginName, Origin> = self
            .static_origins
            .iter()
            .map(|origin| (origin.name.clone(), unannounced(origin)))
            .collect();
        known.extend(
            announced
                .into_iter()
                .map(|origin| (origin.name.clone(), origin)),
        );
        let known: Vec<Origin> = known.into_values().collect();
        let before = self.known.load();
        let names = |origins: &[Origin]| -> Vec<String> {
            origins
                .iter()
                .map(|origin| origin.name.to_string())
                .collect()
        };
        if names(&before) != names(&known) {
            info!(origins = ?names(&known), "known origins");
        }
        self.pools.lock().retain(|destination, pool| {
            let current = known.iter().any(|origin| {
                origin.name == destination.name && origin.relay_address == destination.relay_address
            });
            // One idle connection may stay.
            let mut idle = 0;
            pool.retain(|connection| {
                let in_use = Arc::strong_count(connection) > 1;
                idle += usize::from(!in_use);
                in_use || (current && idle == 1)
            });
            !pool.is_empty()
        });
        self.known.store(Arc::new(known));
    }

    pub(crate) fn any_known(&self) -> bool {
        !self.known.load().is_empty()
    }
}

impl Connection {
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
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
            sleep(period).await;
        } else {
            context.readiness.unmet(READY, "no origin is known");
            sleep(period.min(EAGER_PERIOD)).await;
        }
    }
}

/// The readiness condition: there is an origin to publish to.
pub(crate) const READY: &str = "edge-origins";

/// An error with its sources, for logs.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

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

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn no_connection_carries_more_sessions_than_it_should() {
        let origins = origins(Vec::new());
        let origin = origin("a", "a:1");
        let sessions: Vec<_> = (0..SESSIONS_PER_CONNECTION * 2 + 1)
            .map(|_| origins.connect(&origin))
            .collect();
        let pooled = |origins: &Origins| origins.pools.lock().values().map(Vec::len).sum::<usize>();
        assert_eq!(pooled(&origins), 3);
        for pool in origins.pools.lock().values() {
            for connection in pool {
                assert!(Arc::strong_count(connection) <= SESSIONS_PER_CONNECTION + 1);
            }
        }
        drop(sessions);
        origins.learn(vec![origin]);
        assert_eq!(pooled(&origins), 1, "one idle connection stays");
        origins.learn(Vec::new());
        assert_eq!(pooled(&origins), 0);
    }

    #[tokio::test]
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
        origins.learn(vec![origin("a", "announced:1"), origin("b", "b:1")]);
        let addresses: Vec<_> = origins
            .ranked(stream(), None)
            .into_iter()
            .map(|origin| origin.relay_address)
            .collect();
        assert_eq!(addresses.len(), 2);
        assert!(addresses.contains(&"announced:1".to_owned()));
        origins.learn(Vec::new());
        assert_eq!(
            origins.ranked(stream(), None)[0].relay_address,
            "configured:1"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_out_of_reach_comes_last_for_a_while() {
        let origins = origins(Vec::new());
        origins.learn(vec![
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
        assert_eq!(origins.ranked(stream(), Some(&best.name))[2], best);
    }
}
