//! `headwater control`.

use anyhow::Context as _;
use control::{Control, Dependencies, Listeners};
use runtime::{grpc::Listener, identity::Role};
use serde_json::json;

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
        .context("control.public.certificate cannot be used")?;
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
    let control = Control::new(config.control, dependencies)
        .await
        .context("control cannot start")?;
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
