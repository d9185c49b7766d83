//! One role to a process: its configuration, its ports and its dependencies, wired.

pub(crate) mod control;
pub(crate) mod edge;
pub(crate) mod operator;
pub(crate) mod origin;
mod redis_metrics;

use anyhow::Context as _;
use registry::{RedisRegistry, Registry};
use runtime::tls::{CertificateFiles, InternalTls, ReloadingCertificate};

use crate::{config::Shared, live::LiveConfiguration, process::Process};

/// What every role process has beside its role.
struct Wiring {
    internal_tls: InternalTls,
    live: LiveConfiguration,
    process: Process,
    registry: Registry,
}

impl Wiring {
    async fn start(shared: Shared) -> anyhow::Result<Self> {
        let process = Process::start(&shared.process).await?;
        let internal_tls = InternalTls::load(&shared.internal_tls, shared.cluster.clone())
            .context("internal_tls cannot be used")?;
        let internal = internal_tls.clone();
        process
            .own_metrics
            .certificate("internal", move || internal.not_after());
        let live = LiveConfiguration::new(
            shared.live,
            &process.metrics,
            process.log_filter(),
            &shared.process.log_filter,
        );
        let observe = redis_metrics::observer(&process.metrics);
        let redis = RedisRegistry::open_observed(&shared.registry, observe)
            .context("registry.redis cannot be used")?;
        Ok(Self {
            internal_tls,
            live,
            process,
            registry: Registry::Redis(redis),
        })
    }
}

/// The certificate that others than the cluster's own roles see.
fn public_certificate(
    process: &Process,
    files: &CertificateFiles,
) -> anyhow::Result<ReloadingCertificate> {
    let certificate = ReloadingCertificate::load(files)?;
    let shown = certificate.clone();
    process
        .own_metrics
        .certificate("public", move || shown.not_after());
    Ok(certificate)
}
