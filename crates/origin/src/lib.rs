//! The role `origin`: holds live streams, fences stale publishers, fans out to subscribers.
//!
//! The only place with fan-out memory. What comes in are frames over gRPC; `output::rtmp` alone knows the RTMP wire.
//!
//! | file | what |
//! |---|---|
//! | `publish` | hop 5: Publish RPC ─▶ log; grant, fencing token and sequence are checked here |
//! | `stream` | hop 6: one log per stream; a subscriber is a cursor |
//! | `follow` | logs of streams that other origins own |
//! | `output` | hop 7: cursor ─▶ gRPC, HTTP-FLV, RTMP, another origin |
//! | `ownership` | announcements, and the recheck of who owns what |
//! | `fencing` | who may write |

#![deny(missing_docs)]

mod config;
mod fencing;
mod follow;
mod grant_keys;
mod metrics;
mod output;
mod ownership;
mod publish;
mod stream;

use std::sync::Arc;

use proto::{
    grant::GrantVerifier, internal::v1::relay_service_server::RelayServiceServer,
    v1::playback_service_server::PlaybackServiceServer,
};
use registry::Registry;
use runtime::{
    admin::Readiness,
    bearer::BearerCredentials,
    grpc,
    http::{self, HttpLimits},
    metrics::Metrics,
    reload::Reloading,
    shutdown::Shutdown,
    tls::ReloadingCertificate,
};
use tokio::net::TcpListener;
use tonic_health::server::HealthReporter;

pub use config::{Backup, Config, Limits, OutagePolicy, Timing};
pub use follow::Dialer;
pub use grant_keys::watch_grant_keys;

use crate::{
    follow::Follower,
    output::{flv, grpc::Playback, players::Players, rtmp},
    ownership::Ownership,
    publish::Relay,
    stream::Streams,
};

/// One origin process's role.
pub struct Origin {
    config: Arc<Config>,
    dependencies: Dependencies,
    streams: Streams,
}

/// What an origin needs from its surroundings.
pub struct Dependencies {
    /// Where ownership lives.
    pub registry: Registry,
    /// How other origins are reached; `None`: there are none.
    pub dialer: Option<Dialer>,
    /// The process's metrics.
    pub metrics: Metrics,
    /// The process's readiness.
    pub readiness: Readiness,
    /// Control's public keys.
    pub grants: Reloading<GrantVerifier>,
    /// Who may play.
    pub playback: BearerCredentials,
}

/// Where edges and players connect.
pub struct Listeners {
    /// RelayService.
    pub relay: grpc::Listener,
    /// PlaybackService.
    pub playback: grpc::Listener,
    /// HTTP-FLV.
    pub http: TcpListener,
    /// RTMP; `None`: it is not served.
    pub rtmp: Option<RtmpListener>,
}

/// Where players connect over RTMP.
pub struct RtmpListener {
    /// Plain `rtmp://` where it is `None`, else `rtmps://` alone.
    pub certificate: Option<ReloadingCertificate>,
    /// The port.
    pub listener: TcpListener,
}

/// The origin could not go on.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// A gRPC server failed.
    #[error("a gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
}

/// The condition of this role in `/readyz`.
const SERVING: &str = "origin";

impl Origin {
    /// Ready to [`run`](Self::run).
    pub fn new(config: Config, dependencies: Dependencies) -> Self {
        dependencies.readiness.expect(SERVING, "starting");
        Self {
            streams: Streams::new(&config, &dependencies.metrics),
            config: Arc::new(config),
            dependencies,
        }
    }

    /// Serves until a drain has let the last publisher and the last subscriber go, or until the stop.
    pub async fn run(self, listeners: Listeners, shutdown: Shutdown) -> Result<(), OriginError> {
        let readiness = self.dependencies.readiness.clone();
        let Services {
            config,
            ownership,
            playback,
            players,
            relay,
        } = self.services(&shutdown);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<RelayServiceServer<Relay>>().await;
        health
            .set_serving::<PlaybackServiceServer<Playback>>()
            .await;
        let relay = grpc::server()
            .add_service(health_service.clone())
            .add_service(RelayServiceServer::new(relay));
        let playback = grpc::server()
            .add_service(health_service)
            .add_service(PlaybackServiceServer::new(playback));
        readiness.met(SERVING);

        let streams = ownership.streams.clone();
        let relay_shutdown = Shutdown::default();
        let serving = async {
            tokio::try_join!(
                grpc::serve(relay, listeners.relay, relay_shutdown.clone()),
                grpc::serve(playback, listeners.playback, shutdown.clone()),
                async {
                    serve_players(players, &config, listeners.http, listeners.rtmp).await;
                    Ok(())
                },
            )
        };
        let served = tokio::select! {
            served = serving => served,
            // These last as long as the process.
            () = ownership.announce() => Ok(((), (), ())),
            () = ownership.recheck() => Ok(((), (), ())),
            () = close_relay(&relay_shutdown, &streams, &shutdown) => Ok(((), (), ())),
            () = say_draining(&health, &readiness, &shutdown) => Ok(((), (), ())),
        };
        readiness.unmet(SERVING, "stopped");
        ownership.withdraw().await;
        served?;
        Ok(())
    }

    fn services(self, shutdown: &Shutdown) -> Services {
        let Self {
            config,
            dependencies,
            streams,
        } = self;
        let ownership = Ownership {
            config: Arc::clone(&config),
            registry: dependencies.registry.clone(),
            shutdown: shutdown.clone(),
            streams: streams.clone(),
        };
        let follower = Follower::new(
            &config,
            &dependencies.registry,
            dependencies.dialer,
            shutdown,
            &streams,
        );
        Services {
            relay: Relay {
                config: Arc::clone(&config),
                follower: follower.clone(),
                grants: dependencies.grants,
                ownership: ownership.clone(),
                registry: dependencies.registry,
                shutdown: shutdown.clone(),
                streams: streams.clone(),
            },
            playback: Playback {
                config: Arc::clone(&config),
                credentials: dependencies.playback.clone(),
                follower: follower.clone(),
                shutdown: shutdown.clone(),
                streams: streams.clone(),
            },
            players: Players {
                config: Arc::clone(&config),
                credentials: dependencies.playback,
                follower,
                shutdown: shutdown.clone(),
                streams,
            },
            config,
            ownership,
        }
    }
}

/// What runs, wired.
struct Services {
    config: Arc<Config>,
    ownership: Ownership,
    playback: Playback,
    players: Players,
    relay: Relay,
}

/// HTTP-FLV and RTMP.
async fn serve_players(
    players: Players,
    config: &Config,
    http: TcpListener,
    rtmp: Option<RtmpListener>,
) {
    let limits = HttpLimits {
        connections_max: config.limits.http_connections_max,
        request_timeout: config.timing.http_request_timeout,
        write_timeout: config.timing.http_write_timeout,
    };
    let shutdown = players.shutdown.clone();
    let (closing, stopping) = (shutdown.draining(), shutdown.stopping());
    let router = flv::router(players.clone());
    let http = http::serve(http, router, limits, closing, stopping);
    let rtmp = async {
        if let Some(listener) = rtmp {
            rtmp::serve(listener, players).await;
        }
    };
    tokio::join!(http, rtmp);
}

/// A drain closes the port of edges and other origins once every stream is elsewhere: who goes on with one takes in what is
/// here first. Lasts until the end.
async fn close_relay(relay: &Shutdown, streams: &Streams, shutdown: &Shutdown) {
    let left = async {
        shutdown.draining().await;
        streams.none().await;
        relay.drain();
        std::future::pending().await
    };
    tokio::select! {
        () = left => {}
        () = shutdown.stopping() => relay.stop(),
    }
    std::future::pending().await
}

/// Tells who asks that new work goes elsewhere; lasts until the end.
async fn say_draining(health: &HealthReporter, readiness: &Readiness, shutdown: &Shutdown) {
    shutdown.leaving().await;
    readiness.unmet(SERVING, "draining");
    health.set_not_serving::<RelayServiceServer<Relay>>().await;
    health
        .set_not_serving::<PlaybackServiceServer<Playback>>()
        .await;
    std::future::pending().await
}

#[cfg(test)]
mod tests;
