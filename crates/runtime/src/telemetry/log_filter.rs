//! The log filter of a running process.

use tracing_subscriber::{EnvFilter, Registry, reload};

use super::{TelemetryError, parse};

/// Changes what is logged. A cheap handle.
#[derive(Clone, Debug)]
pub struct LogFilter(pub(super) reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Logs by this filter from now on.
    pub fn replace(&self, filter: &str) -> Result<(), TelemetryError> {
        // An error says that the log is gone, and with it whom the filter concerns.
        self.0.reload(parse(filter)?).ok();
        Ok(())
    }
}
