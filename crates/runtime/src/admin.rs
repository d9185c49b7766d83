//! The admin port: `/livez`, `/readyz`, `/metrics`. Read-only.

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use tokio::net::TcpListener;

use crate::{metrics::Metrics, shutdown::Shutdown};

/// Named conditions, all of which must hold. A cheap handle.
#[derive(Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<std::collections::BTreeMap<&'static str, Result<(), String>>>>,
}

impl Readiness {
    /// Declares a condition as not met yet. `/readyz` fails until every declared condition is met.
    pub fn expect(&self, condition: &'static str, reason: impl Into<String>) {
        self.conditions.lock().insert(condition, Err(reason.into()));
    }

    /// The condition holds.
    pub fn met(&self, condition: &'static str) {
        self.conditions.lock().insert(condition, Ok(()));
    }

    /// The condition does not hold (any more).
    pub fn unmet(&self, condition: &'static str, reason: impl Into<String>) {
        self.conditions.lock().insert(condition, Err(reason.into()));
    }

    /// The conditions that do not hold, `name: reason`; empty when ready.
    pub fn missing(&self) -> Vec<String> {
        todo!()
    }
}

/// Serves until shutdown.
pub async fn serve(
    _listener: TcpListener,
    _readiness: Readiness,
    _metrics: Metrics,
    _shutdown: Shutdown,
) -> std::io::Result<()> {
    todo!()
}

/// Binds the admin port.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}
