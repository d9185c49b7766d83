//! What a process is whatever its roles: logs, the admin port, signals, and the order of its end.

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use runtime::{
    admin,
    admin::Readiness,
    metrics::{Metrics, ProcessMetrics},
    shutdown::{DrainTimes, Shutdown},
    telemetry::{self, Export, LogFilter, Telemetry},
};
use tokio::net::TcpListener;
use tracing::info;

use crate::{
    channel,
    config::{ProcessConfig, TelemetryConfig},
};

/// A running process. Roles take clones of its handles.
pub(crate) struct Process {
    pub(crate) admin_address: SocketAddr,
    pub(crate) drain: DrainTimes,
    pub(crate) metrics: Metrics,
    /// Gets the certificates that the process has.
    pub(crate) own_metrics: ProcessMetrics,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: Shutdown,
    telemetry: Telemetry,
}

impl Process {
    /// Sets up logging and signals, and serves the admin port.
    pub(crate) async fn start(config: &ProcessConfig) -> anyhow::Result<Self> {
        let metrics = Metrics::default();
        let export = match &config.telemetry {
            Some(telemetry) => Some(export(&config.service, telemetry, &metrics)?),
            None => None,
        };
        let telemetry = telemetry::init(config.log_format, &config.log_filter, export)
            .context("cannot set up logging")?;
        let shutdown = Shutdown::default();
        shutdown
            .listen_to_signals()
            .context("cannot listen to signals")?;
        let listener = bind(config.admin, "metrics and health").await?;
        let process = Self {
            admin_address: listener.local_addr()?,
            drain: config.drain,
            own_metrics: ProcessMetrics::register(&metrics, VERSION, &shutdown),
            metrics,
            readiness: Readiness::default(),
            shutdown,
            telemetry,
        };
        process.readiness.expect(STARTED, "still starting");
        tokio::spawn(admin::serve(
            listener,
            process.readiness.clone(),
            process.metrics.clone(),
            process.shutdown.clone(),
        ));
        let (shutdown, times) = (process.shutdown.clone(), config.drain);
        tokio::spawn(async move { shutdown.keep_time(times).await });
        Ok(process)
    }

    /// Every port is bound and served.
    pub(crate) fn started(&self) {
        self.readiness.met(STARTED);
        info!(version = VERSION, admin = %self.admin_address, "started");
    }

    /// Ends once every condition of readiness holds.
    pub(crate) async fn ready(&self) {
        while !self.readiness.missing().is_empty() {
            tokio::time::sleep(READINESS_POLL_PERIOD).await;
        }
    }

    /// Waits for the roles' end. What they hold is released by then.
    pub(crate) async fn run(
        &self,
        roles: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let ended = tokio::select! {
            ended = roles => ended,
            () = self.overdue() => Err(anyhow::anyhow!("the roles did not end in time")),
        };
        if ended.is_ok() {
            info!("stopped");
        }
        self.telemetry.flush().await;
        ended
    }

    /// Ends when the roles should have ended since long.
    async fn overdue(&self) {
        self.shutdown.stopping().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    }

    /// Changes what is logged.
    pub(crate) fn log_filter(&self) -> LogFilter {
        self.telemetry.log_filter()
    }

    /// `http://…` of the admin port.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin_address)
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Readiness: the process's own condition beside those of its roles.
const STARTED: &str = "started";
/// For the roles to end once they were told to stop at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often conditions are looked at while a process waits for its own readiness.
const READINESS_POLL_PERIOD: Duration = Duration::from_millis(20);

/// The name of the machine; on Kubernetes, of the pod. Empty where it is no name.
pub(crate) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    let is_name = name.bytes().all(|byte| byte.is_ascii_graphic()) && name.len() <= 128;
    if is_name {
        name.to_owned()
    } else {
        String::new()
    }
}

/// Binds a port; the error says for what.
pub(crate) async fn bind(address: SocketAddr, purpose: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({purpose})"))
}

fn export(service: &str, config: &TelemetryConfig, metrics: &Metrics) -> anyhow::Result<Export> {
    Ok(Export {
        collector: channel::lazy(&config.otlp_endpoint, config.ca_file.clone())
            .context("telemetry.otlp_endpoint cannot be used")?,
        sample_ratio: config.sample_ratio,
        service: service.to_owned(),
        version: env!("CARGO_PKG_VERSION"),
        resource_attributes: config.resource_attributes.clone(),
        metrics: metrics.clone(),
    })
}
