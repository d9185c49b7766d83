//! One role to a process: its configuration, its ports and its dependencies, wired.

pub(crate) mod control;
pub(crate) mod edge;
pub(crate) mod operator;
pub(crate) mod origin;
mod redis_metrics;

use anyhow::Context as _;
use registry::{RedisRegistry, Registry};
use runtime::tls::InternalTls;

use crate::{config::Shared, process::Process};

/// What every role process has beside its role.
struct Wiring {
    internal_tls: InternalTls,
    process: Process,
    registry: Registry,
}

impl Wiring {
    async fn start(shared: &Shared) -> anyhow::Result<Self> {
        let process = Process::start(&shared.process).await?;
        let internal_tls = InternalTls::load(&shared.internal_tls, shared.cluster.clone())
            .context("internal_tls cannot be used")?;
        let observe = redis_metrics::observer(&process.metrics);
        let redis = RedisRegistry::open_observed(&shared.registry, observe)
            .context("registry.redis cannot be used")?;
        Ok(Self {
            internal_tls,
            process,
            registry: Registry::Redis(redis),
        })
    }
}
