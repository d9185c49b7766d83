//! The role `origin`: holds live streams, fences stale publishers, fans out to subscribers.
//!
//! The only place with fan-out memory. Does not know the RTMP wire: what comes in are frames over gRPC.
//!
//! | file | what |
//! |---|---|
//! | `publish` | hop 5: Publish RPC ─▶ log; grant, fencing token and sequence are checked here |
//! | `stream` | hop 6: one log per stream; a subscriber is a cursor |
//! | `output` | hop 7: cursor ─▶ gRPC, HTTP-FLV |
//! | `ownership` | announcements, and the recheck of who owns what |

#![deny(missing_docs)]

mod budget;
mod config;
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
    admin::Readiness, bearer::BearerCredentials, grpc, metrics::Metrics, shutdown::Shutdown,
};
use tokio::net::TcpListener;
use tonic_health::server::HealthReporter;

pub use config::{Config, Limits, OutagePolicy, Timing};

use crate::{
    metrics::OriginMetrics,
    output::{flv, flv::FlvOutput, grpc::Playback, http},
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
    /// The process's metrics.
    pub metrics: Metrics,
    /// The process's readiness.
    pub readiness: Readiness,
    /// Control's public keys.
    pub grants: GrantVerifier,
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
        let metrics = OriginMetrics::register(&dependencies.metrics);
        dependencies.readiness.expect(SERVING, "starting");
        Self {
            streams: Streams::new(&config, metrics),
            config: Arc::new(config),
            dependencies,
        }
    }

    /// Serves until a drain has let the last publisher and the last subscriber go, or until the stop.
    pub async fn run(self, listeners: Listeners, shutdown: Shutdown) -> Result<(), OriginError> {
        let Self {
            config,
            dependencies,
            streams,
        } = self;
        let Dependencies {
            registry,
            metrics: _,
            readiness,
            grants,
            playback,
        } = dependencies;
        let ownership = Ownership {
            config: Arc::clone(&config),
            registry: registry.clone(),
            shutdown: shutdown.clone(),
            streams: streams.clone(),
        };
        let relay = Relay {
            config: Arc::clone(&config),
            grants,
            ownership: ownership.clone(),
            registry,
            shutdown: shutdown.clone(),
            streams: streams.clone(),
        };
        let players = Playback {
            config: Arc::clone(&config),
            credentials: playback.clone(),
            shutdown: shutdown.clone(),
            streams: streams.clone(),
        };
        let flv_output = FlvOutput {
            config: Arc::clone(&config),
            credentials: playback,
            shutdown: shutdown.clone(),
            streams,
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<RelayServiceServer<Relay>>().await;
        health
            .set_serving::<PlaybackServiceServer<Playback>>()
            .await;
        let relay = grpc::server()
            .add_service(health_service.clone())
            .add_service(RelayServiceServer::new(relay));
        let players = grpc::server()
            .add_service(health_service)
            .add_service(PlaybackServiceServer::new(players));
        readiness.met(SERVING);

        let serving = async {
            tokio::try_join!(
                grpc::serve(relay, listeners.relay, shutdown.clone()),
                grpc::serve(players, listeners.playback, shutdown.clone()),
                async {
                    let router = flv::router(flv_output);
                    let Config { limits, timing, .. } = &*config;
                    http::serve(listeners.http, router, limits, timing, &shutdown).await;
                    Ok(())
                },
            )
        };
        let served = tokio::select! {
            served = serving => served,
            () = ownership.announce() => Ok(((), (), ())),
            () = ownership.recheck() => Ok(((), (), ())),
            () = say_draining(&health, &readiness, &shutdown) => Ok(((), (), ())),
        };
        readiness.unmet(SERVING, "stopped");
        ownership.withdraw().await;
        served?;
        Ok(())
    }
}

/// Tells who asks that new work goes elsewhere; lasts until the end.
async fn say_draining(health: &HealthReporter, readiness: &Readiness, shutdown: &Shutdown) {
    shutdown.draining().await;
    readiness.unmet(SERVING, "draining");
    health.set_not_serving::<RelayServiceServer<Relay>>().await;
    health
        .set_not_serving::<PlaybackServiceServer<Playback>>()
        .await;
    std::future::pending().await
}

#[cfg(test)]
mod tests;
