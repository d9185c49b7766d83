//! What a process is whatever its roles: logs, the admin port, signals, and the order of its end.

use std::{future::Future, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use runtime::{admin, admin::Readiness, metrics::Metrics, shutdown::Shutdown, telemetry};
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::config::ProcessConfig;

/// A running process. Roles take clones of its handles.
pub(crate) struct Process {
    pub(crate) admin_address: SocketAddr,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: Shutdown,
}

impl Process {
    /// Sets up logging and signals, and serves the admin port.
    pub(crate) async fn start(config: &ProcessConfig) -> anyhow::Result<Self> {
        telemetry::init(config.log_format, &config.log_filter).context("cannot set up logging")?;
        let shutdown = Shutdown::default();
        shutdown
            .listen_to_signals()
            .context("cannot listen to signals")?;
        let listener = bind(config.admin, "metrics and health").await?;
        let process = Self {
            admin_address: listener.local_addr()?,
            metrics: Metrics::default(),
            readiness: Readiness::default(),
            shutdown,
        };
        process.readiness.expect(STARTED, "still starting");
        tokio::spawn(admin::serve(
            listener,
            process.readiness.clone(),
            process.metrics.clone(),
            process.shutdown.clone(),
        ));
        tokio::spawn(stop_at_deadline(
            process.shutdown.clone(),
            config.drain_timeout,
        ));
        Ok(process)
    }

    /// Every port is bound and served.
    pub(crate) fn started(&self) {
        self.readiness.met(STARTED);
        info!(version = env!("CARGO_PKG_VERSION"), admin = %self.admin_address, "started");
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
        tokio::select! {
            ended = roles => ended?,
            () = self.overdue() => anyhow::bail!("the roles did not end in time"),
        }
        info!("stopped");
        Ok(())
    }

    /// Ends when the roles should have ended since long.
    async fn overdue(&self) {
        self.shutdown.stopping().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    }

    /// `http://…` of the admin port.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin_address)
    }
}

/// Readiness: the process's own condition beside those of its roles.
const STARTED: &str = "started";
/// For the roles to end once they were told to stop at once.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often conditions are looked at while a process waits for its own readiness.
const READINESS_POLL_PERIOD: Duration = Duration::from_millis(20);

/// Binds a port; the error says for what.
pub(crate) async fn bind(address: SocketAddr, purpose: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({purpose})"))
}

async fn stop_at_deadline(shutdown: Shutdown, drain_timeout: Duration) {
    shutdown.draining().await;
    tokio::select! {
        () = tokio::time::sleep(drain_timeout) => {
            warn!(?drain_timeout, "the drain took too long: stopping");
            shutdown.stop();
        }
        () = shutdown.stopping() => {}
    }
}
