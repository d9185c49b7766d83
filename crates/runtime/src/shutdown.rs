//! Signals and drain. The first SIGTERM or SIGINT asks for a drain, the second forces the end.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Says when to drain and when to stop. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    stop: CancellationToken,
}

impl Shutdown {
    /// Ends when a drain was asked for: stop accepting, finish, release.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Whether a drain was asked for.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Ends when everything must stop now.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Asks for a drain.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Forces the end.
    pub fn stop(&self) {
        self.drain.cancel();
        self.stop.cancel();
    }

    /// Cancelled when everything must stop now.
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Turns signals into [`drain`](Self::drain) and [`stop`](Self::stop). Must be called inside a tokio runtime.
    pub fn listen_to_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                if shutdown.is_draining() {
                    info!(signal = name, "stopping");
                    shutdown.stop();
                    return;
                }
                info!(signal = name, "draining; a second signal stops at once");
                shutdown.drain();
            }
        });
        Ok(())
    }
}
