//! `headwater edge`.

use anyhow::Context as _;
use edge::{Dependencies, Edge, Listeners, OriginDialer};
use runtime::{
    grpc::{Endpoints, Target},
    identity::Role,
    tls::EncoderTls,
};
use serde_json::json;

use super::Wiring;
use crate::{
    cli::RoleArguments,
    config,
    process::{bind, host},
    ready::ReadyFile,
};

pub(crate) async fn run(arguments: &RoleArguments) -> anyhow::Result<()> {
    let (shared, config) = config::edge(&arguments.config)?;
    let Wiring {
        internal_tls,
        live,
        process,
        registry,
    } = Wiring::start(shared).await?;

    let mut rtmps = Vec::new();
    let mut addresses = Vec::new();
    for address in &config.listen {
        let listener = bind(*address, "edge.listen").await?;
        addresses.push(listener.local_addr()?.to_string());
        rtmps.push(listener);
    }
    // Not before the ports are ours: the file may be that of a process that has them.
    let ready_file = ReadyFile::new(arguments.ready_file.as_deref())?;
    let control = config
        .control
        .iter()
        .map(|address| Target::Internal(address.clone(), internal_tls.clone(), Role::Control))
        .collect();
    let tls =
        EncoderTls::load(config.tls).context("the certificates for encoders cannot be used")?;
    let shown = tls.clone();
    process.own_metrics.certificates(move || shown.ends());
    let shown = tls.clone();
    process
        .own_metrics
        .revocation_lists(move || shown.next_updates());
    let dependencies = Dependencies {
        registry,
        metrics: process.metrics.clone(),
        readiness: process.readiness.clone(),
        control: Endpoints::new(control),
        origins: OriginDialer::Internal(internal_tls),
        tls,
    };
    let own_limits = config.edge.connections.clone();
    let edge_config = edge::Config {
        host: host(),
        drain_times: process.drain,
        ..config.edge
    };
    let edge = Edge::new(edge_config, dependencies);
    let permits = edge.connection_permits();
    live.follow(move |version| {
        let all = version.connections_max;
        let of_one_address = version.connections_per_address_max;
        permits.limit(
            all.unwrap_or(own_limits.connections_max),
            of_one_address.unwrap_or(own_limits.connections_per_address_max),
        );
        Ok(())
    })?;
    let ready = json!({
        "role": "edge",
        "rtmps": addresses,
        "admin_url": process.admin_url(),
    });
    process.started();
    ready_file.write(&ready)?;
    let shutdown = process.shutdown.clone();
    process
        .run(async {
            edge.run(Listeners { rtmps }, shutdown).await;
            Ok(())
        })
        .await
}
