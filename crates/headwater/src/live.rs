//! The live configuration of a role process: looked at again and again, and put into effect.

use std::time::SystemTime;

use anyhow::Context as _;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Unit,
};
use runtime::{metrics::Metrics, telemetry::LogFilter};
use tracing::{info, warn};

use crate::config::{LiveConfig, LiveFile};

/// What follows the file. Without one, what the process's own file says stays.
pub(crate) struct LiveConfiguration {
    file: Option<LiveFile>,
    metrics: Metrics,
    log_filter: LogFilter,
    /// Of the process's own file.
    own_filter: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone)]
struct Reloads {
    outcomes: Family<Outcome, Counter>,
    last_success: Gauge,
}

impl LiveConfiguration {
    pub(crate) fn new(
        file: Option<LiveFile>,
        metrics: &Metrics,
        log_filter: LogFilter,
        own_filter: &str,
    ) -> Self {
        Self {
            file,
            metrics: metrics.clone(),
            log_filter,
            own_filter: own_filter.to_owned(),
        }
    }

    /// Puts the version of the start into effect before it returns, and each later one as long as the process runs.
    /// `apply` does what is the role's own, or fails and changes nothing: at the start that is an error, later the last
    /// good version stays.
    pub(crate) fn follow(
        self,
        apply: impl Fn(&LiveConfig) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let Some(file) = self.file else {
            return Ok(());
        };
        let reloads = Reloads::register(&self.metrics);
        let apply = move |version: &LiveConfig| {
            apply(version)?;
            let filter = version.log_filter.as_deref().unwrap_or(&self.own_filter);
            if let Err(error) = self.log_filter.replace(filter) {
                // It was checked with the rest of the file.
                warn!(%error, "the log filter stays as it is");
            }
            anyhow::Ok(())
        };
        apply(&file.start)
            .with_context(|| format!("{} cannot be put into effect", file.path.display()))?;
        reloads.succeeded();
        info!(file = %file.path.display(), hash = file.start.hash, "live configuration in effect");
        tokio::spawn(follow(file, reloads, apply));
        Ok(())
    }
}

/// Lasts as long as the process.
async fn follow(
    mut file: LiveFile,
    reloads: Reloads,
    apply: impl Fn(&LiveConfig) -> anyhow::Result<()>,
) {
    loop {
        // Said once per version: a look tells of no version twice.
        let contents = match file.files.changed(file.poll_period).await {
            Ok(contents) => contents,
            Err(error) => {
                reloads.count("unreadable");
                warn!(
                    error = &error as &dyn std::error::Error,
                    "the live configuration cannot be read; the last good version stays in effect"
                );
                continue;
            }
        };
        match LiveConfig::parse(&file.path, &contents) {
            Ok(version) => match apply(&version) {
                Ok(()) => {
                    reloads.count("applied");
                    reloads.succeeded();
                    info!(hash = version.hash, "a new live configuration is in effect");
                }
                Err(error) => {
                    reloads.count("rejected");
                    warn!(
                        file = %file.path.display(),
                        reason = format!("{error:#}"),
                        "the live configuration cannot be put into effect; the last good version stays"
                    );
                }
            },
            Err(error) => {
                reloads.count("rejected");
                warn!(
                    file = %file.path.display(),
                    mistakes = error.mistakes().join("; "),
                    "the live configuration is not valid; the last good version stays in effect"
                );
            }
        }
    }
}

impl Reloads {
    fn register(metrics: &Metrics) -> Self {
        let this = Self {
            outcomes: Family::default(),
            last_success: Gauge::default(),
        };
        // From the beginning, so that the first one is an increase.
        for outcome in ["applied", "rejected", "unreadable"] {
            this.outcomes.get_or_create(&Outcome { outcome }).inc_by(0);
        }
        metrics.register(|registry| {
            registry.register(
                "config_reloads",
                "Versions of the live configuration that were looked at after the start",
                this.outcomes.clone(),
            );
            registry.register_with_unit(
                "config_last_success_timestamp",
                "When the live configuration in effect was loaded",
                Unit::Seconds,
                this.last_success.clone(),
            );
        });
        this
    }

    fn count(&self, outcome: &'static str) {
        self.outcomes.get_or_create(&Outcome { outcome }).inc();
    }

    fn succeeded(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs());
        self.last_success
            .set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }
}
