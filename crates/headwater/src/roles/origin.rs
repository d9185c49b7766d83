//! `headwater origin`.

use std::sync::Arc;

use anyhow::Context as _;
use origin::{Dependencies, Listeners, Origin, RtmpListener};
use runtime::{
    bearer::BearerCredentials,
    grpc::{Listener, Target},
    identity::Role,
    tls::ReloadingCertificate,
};
use serde_json::json;

use super::{Wiring, public_certificate};
use crate::{
    cli::RoleArguments,
    config::{self, RtmpConfig},
    process::bind,
    ready::ReadyFile,
};

pub(crate) async fn run(arguments: &RoleArguments) -> anyhow::Result<()> {
    let (shared, mut config) = config::origin(&arguments.config)?;
    let Wiring {
        internal_tls,
        live,
        process,
        registry,
    } = Wiring::start(shared).await?;

    let relay = bind(config.relay_listen, "origin.relay.listen").await?;
    let playback = bind(config.playback_listen, "origin.playback.listen").await?;
    let http = bind(config.http_listen, "origin.http.listen").await?;
    let rtmp = match &config.rtmp {
        Some(rtmp) => Some(listen_rtmp(rtmp).await?),
        None => None,
    };
    // Not before the ports are ours: the file may be that of a process that has them.
    let ready_file = ReadyFile::new(arguments.ready_file.as_deref())?;
    let certificate = public_certificate(&process, &config.playback_certificate)
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
        "rtmp": match &rtmp {
            Some(rtmp) => Some(rtmp.listener.local_addr()?.to_string()),
            None => None,
        },
        "admin_url": process.admin_url(),
    });
    let tls = internal_tls.clone();
    let dialer = move |other: &registry::Origin| {
        Target::Internal(other.relay_address.clone(), tls.clone(), Role::Origin)
    };
    let dependencies = Dependencies {
        registry,
        dialer: Some(Arc::new(dialer)),
        metrics: process.metrics.clone(),
        readiness: process.readiness.clone(),
        grants: origin::watch_grant_keys(config.grant_public_key_file)
            .context("origin.grant_public_key_file cannot be used")?,
        playback: BearerCredentials::watch("playback token", config.playback_token_file)
            .context("origin.playback_token_file cannot be used")?,
    };
    let origin = Origin::new(config.origin, dependencies);
    // Of what is live, the log filter alone concerns an origin.
    live.follow(|_version| Ok(()))?;
    let listeners = Listeners {
        relay: Listener::Internal(relay, internal_tls, vec![Role::Edge, Role::Origin]),
        playback: Listener::Public(playback, certificate),
        http,
        rtmp,
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

async fn listen_rtmp(config: &RtmpConfig) -> anyhow::Result<RtmpListener> {
    let listener = bind(config.listen, "origin.rtmp.listen").await?;
    let certificate = config.certificate.as_ref().map(ReloadingCertificate::load);
    Ok(RtmpListener {
        certificate: certificate
            .transpose()
            .context("origin.rtmp.certificate cannot be used")?,
        listener,
    })
}
