//! Who is live, as this process knows it: one task asks the registry while somebody watches, every watcher reads from here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proto::v1::Session;
use runtime::error::chain;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::message;
use crate::{database::EventEntry, leases::Leases, log_tail::LogTail};

/// Sessions by id; one that did not change between two looks is the same `Arc`.
pub(super) type Snapshot = Arc<BTreeMap<String, Arc<Session>>>;

/// Hands out what was seen last. A cheap handle.
#[derive(Clone)]
pub(crate) struct LiveSessions(watch::Sender<Looked>);

/// A look at the registry.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    /// When it last answered.
    pub(super) at: Option<Instant>,
    pub(super) sessions: Snapshot,
}

impl LiveSessions {
    pub(crate) fn new() -> Self {
        let looked = Looked {
            at: None,
            sessions: Arc::default(),
        };
        Self(watch::Sender::new(looked))
    }

    /// What is there may be old; what comes is not.
    pub(super) fn subscribe(&self) -> watch::Receiver<Looked> {
        let mut receiver = self.0.subscribe();
        receiver.mark_unchanged();
        receiver
    }

    /// Looks while somebody watches, until it is dropped: every [`PERIOD`], and sooner where an event says that
    /// something changed.
    pub(crate) async fn look(
        self,
        leases: Leases,
        mut events: watch::Receiver<LogTail<EventEntry>>,
    ) {
        loop {
            if self.0.receiver_count() > 0 {
                self.look_once(&leases).await;
            }
            sleep(PERIOD_MIN).await;
            if let Ok(Err(_no_follower)) = timeout(PERIOD, events.changed()).await {
                sleep(PERIOD).await;
            }
        }
    }

    async fn look_once(&self, leases: &Leases) {
        let leases = match leases.at_most(PERIOD_MIN).await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::info!(
                    reason = chain(&error),
                    "watchers of sessions wait for the registry"
                );
                // Watchers look at the age of what they have.
                self.0.send_modify(|_looked| {});
                return;
            }
        };
        let before = self.0.borrow().sessions.clone();
        let sessions = leases.iter().map(|lease| {
            let session = message(lease.clone());
            let same = before
                .get(&session.id)
                .filter(|same| is_same(same, &session));
            let same = same.cloned();
            (
                session.id.clone(),
                same.unwrap_or_else(|| Arc::new(session)),
            )
        });
        let looked = Looked {
            at: Some(Instant::now()),
            sessions: Arc::new(sessions.collect()),
        };
        self.0.send_replace(looked);
    }
}

/// Whether there is nothing to tell. The age of the last media grows by itself.
fn is_same(told: &Session, session: &Session) -> bool {
    let grown_ms = session.media_age_ms.abs_diff(told.media_age_ms);
    let aged = Session {
        media_age_ms: session.media_age_ms,
        ..told.clone()
    };
    aged == *session && grown_ms < AGE_STEP_MS
}

/// Told of a session without media, and without other changes, so often.
const AGE_STEP_MS: u64 = 5000;
/// A change in the registry is told at most this long (and a query) after it was made.
const PERIOD: Duration = Duration::from_secs(1);
/// Events are no reason to ask more often; what others asked for since is as good.
const PERIOD_MIN: Duration = Duration::from_millis(200);
