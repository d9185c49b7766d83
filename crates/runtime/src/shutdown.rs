//! Signals and drain: serving → noticed → draining → stopping, and never back.
//!
//! The first SIGTERM or SIGINT gives notice, the second forces the end. While noticed, a process says that it is not
//! ready and goes on taking in whatever comes: whoever sends it work (a load balancer, the endpoints of a Kubernetes
//! Service) learns of its end later than itself.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Says when to leave, to drain and to stop. A cheap handle.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    notice: CancellationToken,
    drain: CancellationToken,
    stop: CancellationToken,
    stops_at: Arc<OnceLock<Instant>>,
}

/// How far the end of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainState {
    /// There is none in sight.
    Serving,
    /// Not ready, but takes in what comes.
    Noticed,
    /// Takes nothing in, and waits for what it has.
    Draining,
    /// Ends now.
    Stopping,
}

/// How long a process takes to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainTimes {
    /// From the notice to the drain.
    pub notice: Duration,
    /// From the drain to the stop.
    pub timeout: Duration,
}

impl Default for DrainTimes {
    fn default() -> Self {
        Self {
            notice: Duration::ZERO,
            timeout: Duration::from_secs(30),
        }
    }
}

impl Shutdown {
    /// Ends when the process is about to leave, by a notice or at once: new work should go elsewhere.
    pub async fn leaving(&self) {
        self.notice.cancelled().await;
    }

    /// Ends when a drain was asked for: stop accepting, finish, release.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Whether a drain was asked for.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Whether the process is about to leave.
    pub fn is_leaving(&self) -> bool {
        self.notice.is_cancelled()
    }

    /// Ends when everything must stop now.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// How far the end is.
    pub fn state(&self) -> DrainState {
        if self.stop.is_cancelled() {
            DrainState::Stopping
        } else if self.is_draining() {
            DrainState::Draining
        } else if self.is_leaving() {
            DrainState::Noticed
        } else {
            DrainState::Serving
        }
    }

    /// When the stop comes, once that is known.
    pub fn stops_at(&self) -> Option<Instant> {
        self.stops_at.get().copied()
    }

    /// Announces a drain.
    pub fn give_notice(&self) {
        self.notice.cancel();
    }

    /// Asks for a drain.
    pub fn drain(&self) {
        self.notice.cancel();
        self.drain.cancel();
    }

    /// Forces the end.
    pub fn stop(&self) {
        self.notice.cancel();
        self.drain.cancel();
        self.stop.cancel();
    }

    /// Cancelled when everything must stop now.
    pub(crate) fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Goes from one state to the next when its time is over, once notice was given; ends with the stop.
    pub async fn keep_time(&self, times: DrainTimes) {
        self.leaving().await;
        if !times.notice.is_zero() && !self.is_draining() {
            info!(drain_notice = ?times.notice, "leaving: not ready, but still taking connections");
        }
        tokio::select! {
            () = tokio::time::sleep(times.notice) => {}
            () = self.draining() => {}
        }
        // Known before those hear of it who wait for the drain.
        self.stops_at.set(Instant::now() + times.timeout).ok();
        self.drain();
        tokio::select! {
            () = tokio::time::sleep(times.timeout) => {
                warn!(drain_timeout = ?times.timeout, "the drain took too long: stopping");
                self.stop();
            }
            () = self.stopping() => {}
        }
    }

    /// Turns signals into [`give_notice`](Self::give_notice) and [`stop`](Self::stop). Must be called inside a tokio
    /// runtime.
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
                if shutdown.is_leaving() {
                    info!(signal = name, "stopping");
                    shutdown.stop();
                    return;
                }
                info!(signal = name, "draining; a second signal stops at once");
                shutdown.give_notice();
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const TIMES: DrainTimes = DrainTimes {
        notice: Duration::from_secs(10),
        timeout: Duration::from_secs(30),
    };

    fn start(times: DrainTimes) -> (Shutdown, Instant, tokio::task::JoinHandle<()>) {
        let shutdown = Shutdown::default();
        let keeper = shutdown.clone();
        let keeping = tokio::spawn(async move { keeper.keep_time(times).await });
        (shutdown, Instant::now(), keeping)
    }

    #[tokio::test(start_paused = true)]
    async fn a_notice_comes_before_the_drain_and_the_drain_has_its_whole_time() {
        let (shutdown, begun, keeping) = start(TIMES);
        sleep(Duration::from_secs(100)).await;
        assert_eq!(shutdown.state(), DrainState::Serving);
        shutdown.give_notice();
        shutdown.leaving().await;
        sleep(Duration::from_millis(9_990)).await;
        assert_eq!(shutdown.state(), DrainState::Noticed);
        shutdown.draining().await;
        assert_eq!(begun.elapsed().as_secs(), 110);
        assert_eq!(shutdown.state(), DrainState::Draining);
        shutdown.stopping().await;
        assert_eq!(begun.elapsed().as_secs(), 140);
        assert_eq!(shutdown.state(), DrainState::Stopping);
        keeping.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_notice_the_drain_begins_at_once() {
        let (shutdown, begun, _keeping) = start(DrainTimes {
            notice: Duration::ZERO,
            ..TIMES
        });
        shutdown.give_notice();
        shutdown.draining().await;
        assert!(begun.elapsed() < Duration::from_millis(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_nothing() {
        let (shutdown, begun, keeping) = start(TIMES);
        shutdown.give_notice();
        sleep(Duration::from_secs(1)).await;
        shutdown.stop();
        keeping.await.unwrap();
        assert_eq!(shutdown.state(), DrainState::Stopping);
        assert_eq!(begun.elapsed().as_secs(), 1);
    }
}
