//! One `WatchSessions`: what was told, and what is different by now.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use proto::v1::{
    Session, SessionsComplete, WatchSessionsResponse, watch_sessions_response::Change,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::Status;

use super::{Filter, live::Looked, registry_unavailable};
use crate::watches::Watch;

pub(super) struct SessionWatch {
    looks: watch::Receiver<Looked>,
    filter: Filter,
    /// As of the last look.
    told: BTreeMap<String, Arc<Session>>,
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
            told: BTreeMap::new(),
            complete: false,
            changes: VecDeque::new(),
            deadline: Instant::now() + STALE_AFTER,
        }
    }

    fn compare(&mut self, sessions: &BTreeMap<String, Arc<Session>>) {
        let now = sessions
            .iter()
            .filter(|(_, session)| self.filter.wants(session));
        let now: BTreeMap<String, Arc<Session>> = now
            .map(|(id, session)| (id.clone(), session.clone()))
            .collect();
        let changed = now.iter().filter(|(id, session)| {
            let told = self.told.get(*id);
            told.is_none_or(|told| !Arc::ptr_eq(told, session))
        });
        let ended = self.told.keys().filter(|id| !now.contains_key(*id));
        let changes = ended
            .map(|id| Difference::Ended(id.clone()))
            .chain(changed.map(|(_, session)| Difference::Session(session.clone())));
        self.changes.extend(changes);
        if !std::mem::replace(&mut self.complete, true) {
            self.changes.push_back(Difference::Complete);
        }
        self.told = now;
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
                self.compare(&sessions);
            }
        }
    }
}

/// Without an answer of the registry for this long, nobody knows who is live.
const STALE_AFTER: Duration = Duration::from_secs(10);
