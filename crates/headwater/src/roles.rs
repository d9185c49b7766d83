//! One role to a process: its configuration, its ports and its dependencies, wired.

pub(crate) mod control;
pub(crate) mod edge;
pub(crate) mod operator;
pub(crate) mod origin;
mod redis_metrics;

use anyhow::Context as _;
use registry::{RedisCertificate, RedisRegistry, Registry};
use runtime::{
    error::chain,
    metrics::ProcessMetrics,
    tls::{CertificateFiles, InternalTls, ReloadingCertificate},
};

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
        if let Some(shown) = &shared.registry.access.certificate {
            show_redis_certificate(&process.own_metrics, shown);
        }
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

/// For its end alone: each connection to Redis reads the files by itself. One that is damaged keeps from Redis, not from a start.
fn show_redis_certificate(metrics: &ProcessMetrics, shown: &RedisCertificate) {
    let files = CertificateFiles {
        certificate: shown.certificate.clone(),
        private_key: shown.private_key.clone(),
    };
    match ReloadingCertificate::load(&files) {
        Ok(certificate) => metrics.certificate("redis", move || certificate.not_after()),
        Err(error) => tracing::warn!(
            reason = chain(&error),
            "the certificate for Redis cannot be used"
        ),
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

#[cfg(test)]
mod tests {
    use runtime::{metrics::Metrics, shutdown::Shutdown};

    use super::*;
    use crate::bootstrap;

    #[tokio::test]
    async fn the_end_of_the_certificate_for_redis_is_told() {
        runtime::tls::install_crypto_provider();
        let directory = tempfile::tempdir().unwrap();
        bootstrap::write(directory.path()).unwrap();
        let shown = |private_key: &str| {
            let metrics = Metrics::default();
            let own = ProcessMetrics::register(&metrics, "1.2.3", &Shutdown::default());
            let certificate = RedisCertificate {
                certificate: directory.path().join("public.pem"),
                private_key: directory.path().join(private_key),
            };
            show_redis_certificate(&own, &certificate);
            let line = r#"headwater_certificate_not_after_timestamp_seconds{certificate="redis"}"#;
            metrics.encode().contains(line)
        };
        assert!(shown("public.key"));
        assert!(!shown("missing.key"));
    }
}
