//! One `WatchSessions`: what was told, and what is different by now.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use proto::v1::{
    Session, SessionsComplete, WatchSessionsResponse, watch_sessions_response::Change,
};
use runtime::shutdown::Shutdown;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tonic::{Code, Status};

use super::{Filter, live::Looked, registry_unavailable};

pub(super) struct Watch {
    pub(super) looks: watch::Receiver<Looked>,
    pub(super) filter: Filter,
}

impl Watch {
    /// Answers until the watcher goes, control drains, or nobody knows who is live.
    pub(super) async fn run(
        self,
        answers: mpsc::Sender<Result<WatchSessionsResponse, Status>>,
        shutdown: Shutdown,
    ) {
        let ended = tokio::select! {
            biased;
            () = answers.closed() => return,
            () = shutdown.draining() => {
                proto::error::status(Code::Unavailable, "DRAINING", "this control is going away")
            }
            ended = self.tell(&answers) => match ended {
                Some(status) => status,
                None => return,
            },
        };
        tokio::select! {
            _sent = answers.send(Err(ended)) => {}
            () = shutdown.stopping() => {}
        }
    }

    /// `None`: the watcher has gone.
    async fn tell(
        mut self,
        answers: &mpsc::Sender<Result<WatchSessionsResponse, Status>>,
    ) -> Option<Status> {
        let mut told: BTreeMap<String, Arc<Session>> = BTreeMap::new();
        let mut complete = false;
        let mut deadline = Instant::now().checked_add(STALE_AFTER)?;
        loop {
            match timeout_at(deadline, self.looks.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Some(registry_unavailable()),
            }
            let Looked { at, sessions } = self.looks.borrow_and_update().clone();
            let at = at.and_then(|at| at.checked_add(STALE_AFTER));
            let Some(at) = at.filter(|at| *at > Instant::now()) else {
                // Not answered yet, or not for long.
                continue;
            };
            deadline = at;
            let now = sessions
                .iter()
                .filter(|(_, session)| self.filter.wants(session));
            let now: BTreeMap<String, Arc<Session>> = now
                .map(|(id, session)| (id.clone(), session.clone()))
                .collect();
            let changed = now.iter().filter(|(id, session)| {
                told.get(*id).is_none_or(|told| !Arc::ptr_eq(told, session))
            });
            let ended = told.keys().filter(|id| !now.contains_key(*id));
            let changes = ended
                .map(|id| Change::EndedSessionId(id.clone()))
                .chain(changed.map(|(_, session)| Change::Session((**session).clone())));
            let first = !std::mem::replace(&mut complete, true);
            let changes = changes.chain(first.then_some(Change::Complete(SessionsComplete {})));
            for change in changes {
                let change = Some(change);
                answers
                    .send(Ok(WatchSessionsResponse { change }))
                    .await
                    .ok()?;
            }
            told = now;
        }
    }
}

/// Without an answer of the registry for this long, nobody knows who is live.
const STALE_AFTER: Duration = Duration::from_secs(10);
