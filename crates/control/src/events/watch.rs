//! One `WatchEvents`: a position in the log, and what comes behind it.

use std::{collections::BTreeSet, sync::Arc};

use proto::{
    error::status,
    v1::{EventType, WatchEventsRequest, WatchEventsResponse},
};
use tonic::{Code, Status};

use super::message;
use crate::{
    Shared,
    caller::Caller,
    database::EventEntry,
    field::{self, Violations},
    log_tail::{Following, News},
    page_token::LogCursor,
    watches::Watch,
};

pub(super) struct EventWatch {
    /// Everything up to its position was told or left out.
    following: Following<EventEntry>,
    filter: Filter,
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
            following: Following::new(shared.database.clone(), tail, position),
            filter,
            greeted: false,
        })
    }
}

impl Watch for EventWatch {
    type Answer = WatchEventsResponse;

    /// At once where something is to be told, else a sign of life.
    async fn next(&mut self) -> Result<WatchEventsResponse, Status> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Ok(self.answer(Vec::new()));
        }
        loop {
            let page = match self.following.next().await? {
                News::Forgotten => return Err(expired()),
                News::Page(page) => page,
                News::Quiet => Vec::new(),
            };
            let wanted = page.iter().filter(|event| self.filter.wants(event));
            let events: Vec<_> = wanted.map(|event| message(event)).collect();
            if !events.is_empty() || self.following.is_quiet() {
                return Ok(self.answer(events));
            }
        }
    }
}

impl EventWatch {
    fn answer(&mut self, events: Vec<proto::v1::Event>) -> WatchEventsResponse {
        self.following.answered();
        WatchEventsResponse {
            events,
            cursor: LogCursor(self.following.position).encode(),
        }
    }
}

impl Filter {
    fn wants(&self, event: &EventEntry) -> bool {
        let Some(subject) = &event.subject else {
            return false;
        };
        let of_type = self.types.is_empty() || self.types.contains(&event.event_type.into());
        let of_app = self.app.is_empty() || self.app == subject.app();
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

/// More than there are.
const TYPES_MAX: usize = 32;
