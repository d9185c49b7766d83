//! `headwater origin`.

use anyhow::Context as _;
use origin::{Dependencies, Listeners, Origin};
use runtime::{grpc::Listener, identity::Role, tls::ReloadingCertificate};
use serde_json::json;

use super::Wiring;
use crate::{cli::RoleArguments, config, process::bind, ready::ReadyFile};

pub(crate) async fn run(arguments: &RoleArguments) -> anyhow::Result<()> {
    let (shared, mut config) = config::origin(&arguments.config)?;
    let Wiring {
        internal_tls,
        process,
        registry,
    } = Wiring::start(&shared).await?;

    let relay = bind(config.relay_listen, "origin.relay.listen").await?;
    let playback = bind(config.playback_listen, "origin.playback.listen").await?;
    let http = bind(config.http_listen, "origin.http.listen").await?;
    // Not before the ports are ours: the file may be that of a process that has them.
    let ready_file = ReadyFile::new(arguments.ready_file.as_deref())?;
    let certificate = ReloadingCertificate::load(&config.playback_certificate)
        .context("origin.playback.certificate cannot be used")?;
    // Edges of this machine find it without being told; any other cluster says where its origins are.
    let relay_address = match config.relay_advertise {
        Some(address) => address,
        None => relay.local_addr()?.to_string(),
    };
    config.origin.relay_address = relay_address;
    let ready = json!({
        "role": "origin",
        "name": config.origin.name.as_str(),
        "relay": relay.local_addr()?.to_string(),
        "playback": playback.local_addr()?.to_string(),
        "http": http.local_addr()?.to_string(),
        "admin_url": process.admin_url(),
    });
    let dependencies = Dependencies {
        registry,
        metrics: process.metrics.clone(),
        readiness: process.readiness.clone(),
        grants: config.grants,
        playback: config.playback,
    };
    let origin = Origin::new(config.origin, dependencies);
    let listeners = Listeners {
        relay: Listener::Internal(relay, internal_tls, vec![Role::Edge]),
        playback: Listener::Public(playback, certificate),
        http,
    };
    process.started();
    ready_file.write(&ready)?;
    let shutdown = process.shutdown.clone();
    process
        .run(async {
            origin
                .run(listeners, shutdown)
                .await
                .context("the origin failed")
        })
        .await
}
