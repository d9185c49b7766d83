//! One registry of metrics per process. Labels never carry a stream, a key or an address.

mod process;

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

pub use self::process::ProcessMetrics;

/// A cheap handle to the process's metrics, all of them prefixed `headwater_`.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            registry: Arc::new(Mutex::new(Registry::with_prefix("headwater"))),
        }
    }
}

impl Metrics {
    /// Lets a role register its own: `metrics.register(|registry| registry.register(…))`. prometheus-client appends
    /// `_total` to counters by itself.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock())
    }

    /// OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock()).ok();
        text
    }
}
