//! One `WatchSessions`: what was told, and what is different by now.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use proto::v1::{
    Session, SessionsComplete, WatchSessionsResponse, watch_sessions_response::Change,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::Status;

use super::{
    Filter,
    live::{Looked, Snapshot},
    registry_unavailable,
};
use crate::watches::Watch;

pub(super) struct SessionWatch {
    looks: watch::Receiver<Looked>,
    filter: Filter,
    /// The last look, of all tenants: shared by every watcher, and told as far as the filter wants it.
    told: Snapshot,
    /// Whether the watcher knows that it knows all.
    complete: bool,
    /// What the last look brought and is still to be told.
    changes: VecDeque<Difference>,
    /// Without another look until then, nobody knows who is live.
    deadline: Instant,
}

/// A change before it is told: sessions are copied then, one at a time.
enum Difference {
    Complete,
    Ended(String),
    Session(Arc<Session>),
}

impl SessionWatch {
    pub(super) fn new(looks: watch::Receiver<Looked>, filter: Filter) -> Self {
        Self {
            looks,
            filter,
            told: Snapshot::default(),
            complete: false,
            changes: VecDeque::new(),
            deadline: Instant::now() + STALE_AFTER,
        }
    }

    fn compare(&mut self, now: Snapshot) {
        let told = std::mem::replace(&mut self.told, now);
        let wanted = |session: &&Arc<Session>| self.filter.wants(session);
        let ended = told
            .iter()
            .filter(|(id, session)| wanted(session) && self.told.get(*id).filter(wanted).is_none());
        let changed = self.told.iter().filter(|(id, session)| {
            wanted(session) && told.get(*id).is_none_or(|told| !Arc::ptr_eq(told, session))
        });
        let changes = ended
            .map(|(id, _)| Difference::Ended(id.clone()))
            .chain(changed.map(|(_, session)| Difference::Session(session.clone())));
        self.changes.extend(changes);
        if !std::mem::replace(&mut self.complete, true) {
            self.changes.push_back(Difference::Complete);
        }
    }
}

impl Watch for SessionWatch {
    type Answer = WatchSessionsResponse;

    async fn next(&mut self) -> Result<WatchSessionsResponse, Status> {
        loop {
            if let Some(change) = self.changes.pop_front() {
                let change = match change {
                    Difference::Complete => Change::Complete(SessionsComplete {}),
                    Difference::Ended(id) => Change::EndedSessionId(id),
                    Difference::Session(session) => Change::Session(Arc::unwrap_or_clone(session)),
                };
                return Ok(WatchSessionsResponse {
                    change: Some(change),
                });
            }
            match timeout_at(self.deadline, self.looks.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(registry_unavailable()),
            }
            let Looked { at, sessions } = self.looks.borrow_and_update().clone();
            let at = at.and_then(|at| at.checked_add(STALE_AFTER));
            // Else not answered yet, or not for long.
            if let Some(at) = at.filter(|at| *at > Instant::now()) {
                self.deadline = at;
                self.compare(sessions);
            }
        }
    }
}

/// Without an answer of the registry for this long, nobody knows who is live.
const STALE_AFTER: Duration = Duration::from_secs(10);
