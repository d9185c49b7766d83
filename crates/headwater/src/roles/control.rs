//! `headwater control`.

use std::time::Duration;

use anyhow::Context as _;
use control::{Control, Dependencies, Listeners};
use runtime::{grpc::Listener, identity::Role};
use serde_json::json;
use tokio::net::TcpListener;

use super::{Wiring, public_certificate};
use crate::{cli::RoleArguments, config, process::bind, ready::ReadyFile};

pub(crate) async fn run(arguments: &RoleArguments) -> anyhow::Result<()> {
    let (shared, config) = config::control(&arguments.config)?;
    let Wiring {
        internal_tls,
        live,
        process,
        registry,
    } = Wiring::start(shared).await?;

    let public = bind(config.public_listen, "control.public.listen").await?;
    let internal = bind(config.internal_listen, "control.internal.listen").await?;
    // Not before the ports are ours: the file may be that of a process that has them.
    let ready_file = ReadyFile::new(arguments.ready_file.as_deref())?;
    let certificate = public_certificate(&process, &config.public_certificate)
        .context("control.public.certificate cannot be used")?
        .with_client_certificates(config.public_client_certificates)
        .context("control.public.client_certificates cannot be used")?;
    let ready = json!({
        "role": "control",
        "public": public.local_addr()?.to_string(),
        "internal": internal.local_addr()?.to_string(),
        "admin_url": process.admin_url(),
    });
    let dependencies = Dependencies {
        registry,
        metrics: process.metrics.clone(),
        readiness: process.readiness.clone(),
    };
    let own_applications = config.control.applications.clone();
    let opening = Control::new(config.control, dependencies);
    let opened = tokio::select! {
        opened = turning_away(opening, &public, &internal) => opened,
        () = process.shutdown.leaving() => return Ok(()),
    };
    let control = opened.context("control cannot start")?;
    let in_control = control.live();
    live.follow(move |version| {
        let applications = version.applications.as_ref().unwrap_or(&own_applications);
        in_control.replace(applications, version.hash.clone())?;
        Ok(())
    })?;
    let listeners = Listeners {
        public: Listener::Public(public, certificate),
        internal: Listener::Internal(internal, internal_tls, vec![Role::Edge, Role::Operator]),
    };
    process.started();
    ready_file.write(&ready)?;
    let shutdown = process.shutdown.clone();
    process
        .run(async {
            control
                .run(listeners, shutdown)
                .await
                .context("control failed")
        })
        .await
}

/// Closes what connects before control is open, which may wait for its database for long: who asks goes on to another
/// control at once. The ports are ours all the same.
async fn turning_away<T>(
    opening: impl Future<Output = T>,
    public: &TcpListener,
    internal: &TcpListener,
) -> T {
    tokio::pin!(opening);
    loop {
        let accepted = tokio::select! {
            opened = &mut opening => return opened,
            accepted = public.accept() => accepted,
            accepted = internal.accept() => accepted,
        };
        if accepted.is_err() {
            // As when no descriptor is left.
            tokio::time::sleep(ACCEPT_RETRY).await;
        }
    }
}

const ACCEPT_RETRY: Duration = Duration::from_millis(50);
