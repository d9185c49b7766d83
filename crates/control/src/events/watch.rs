//! One `WatchEvents`: a position in the log, and what comes behind it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proto::{
    error::status,
    v1::{EventType, WatchEventsRequest, WatchEventsResponse},
};
use tokio::{sync::watch, time::timeout};
use tonic::{Code, Status};

use super::message;
use crate::{
    Shared,
    caller::Caller,
    database::{Database, EventEntry},
    field::{self, Violations},
    log_tail::LogTail,
    page_token::LogCursor,
    watches::Watch,
};

pub(super) struct EventWatch {
    database: Database,
    tail: watch::Receiver<LogTail<EventEntry>>,
    filter: Filter,
    /// Everything up to here was told or left out.
    position: u64,
    greeted: bool,
}

/// What a watcher wants to hear of.
struct Filter {
    /// Empty: every type.
    types: BTreeSet<i32>,
    /// Empty: every app.
    app: String,
    /// `None`: every tenant.
    tenant: Option<Arc<str>>,
}

impl EventWatch {
    pub(super) async fn open(
        shared: &Shared,
        caller: &Caller,
        request: WatchEventsRequest,
    ) -> Result<Self, Status> {
        let mut violations = Violations::default();
        let cursor = (!request.cursor.is_empty()).then(|| LogCursor::decode(&request.cursor));
        let cursor = violations.check("cursor", cursor.transpose()).flatten();
        let since = violations.check("since", request.since.map(field::time_ms).transpose());
        violations.check("types", types(&request.types));
        if !request.app.is_empty() {
            violations.check("app", field::app(&request.app));
        }
        let tenant = violations.check("tenant", caller.listed(&request.tenant));
        violations.finish()?;
        let filter = Filter {
            types: request.types.into_iter().collect(),
            app: request.app,
            tenant: tenant.flatten(),
        };
        let tail = shared.events.clone();
        let position = match (cursor, since.flatten()) {
            (Some(LogCursor(position)), _) => {
                // Asked of the database itself: a cursor ahead of our tail may have come from a faster replica.
                let page = shared.database.log_page::<EventEntry>(position, 1).await?;
                if page.truncated {
                    return Err(expired());
                }
                position
            }
            (None, Some(since_ms)) => shared.database.events_since(since_ms).await?,
            (None, None) => tail.borrow().position,
        };
        Ok(Self {
            database: shared.database.clone(),
            tail,
            filter,
            position,
            greeted: false,
        })
    }
}

impl Watch for EventWatch {
    type Answer = WatchEventsResponse;

    /// The next answer: at once where something is to be told, else a sign of life every [`SIGN_OF_LIFE_PERIOD`].
    async fn next(&mut self) -> Result<WatchEventsResponse, Status> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Ok(self.answer(Vec::new()));
        }
        loop {
            let tail = self.tail.borrow_and_update().clone();
            if !tail.fresh {
                return Err(stale());
            }
            if tail.position > self.position {
                let page = tail.page_behind(&self.database, self.position).await?;
                let page = page.ok_or_else(expired)?;
                self.position = page.last().map_or(self.position, |last| last.position);
                let events: Vec<_> = page
                    .iter()
                    .filter(|event| self.filter.wants(event))
                    .map(|event| message(event))
                    .collect();
                if !events.is_empty() {
                    return Ok(self.answer(events));
                }
                continue;
            }
            match timeout(SIGN_OF_LIFE_PERIOD, self.tail.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_no_follower)) => return Err(stale()),
                Err(_quiet) => return Ok(self.answer(Vec::new())),
            }
        }
    }
}

impl EventWatch {
    fn answer(&self, events: Vec<proto::v1::Event>) -> WatchEventsResponse {
        WatchEventsResponse {
            events,
            cursor: LogCursor(self.position).encode(),
        }
    }
}

impl Filter {
    fn wants(&self, event: &EventEntry) -> bool {
        let of_type = self.types.is_empty() || self.types.contains(&event.event_type.into());
        let of_app = self.app.is_empty() || self.app == event.subject.app();
        let of_tenant = self
            .tenant
            .as_deref()
            .is_none_or(|tenant| tenant == event.tenant);
        of_type && of_app && of_tenant
    }
}

/// Known ones.
pub(super) fn types(types: &[i32]) -> Result<(), &'static str> {
    let known = |event_type: &i32| {
        EventType::try_from(*event_type).is_ok_and(|known| known != EventType::Unspecified)
    };
    if types.iter().all(known) && types.len() <= TYPES_MAX {
        Ok(())
    } else {
        Err("not types of events")
    }
}

fn expired() -> Status {
    let description = "events behind the cursor have been forgotten";
    status(Code::OutOfRange, "CURSOR_EXPIRED", description)
}

fn stale() -> Status {
    let description = "the event log cannot be followed";
    status(Code::Unavailable, "DATABASE_UNAVAILABLE", description)
}

/// How often a watcher hears that there is nothing to tell.
const SIGN_OF_LIFE_PERIOD: Duration = Duration::from_secs(5);
/// More than there are.
const TYPES_MAX: usize = 32;
