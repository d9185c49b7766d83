//! One try to deliver one event.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use proto::cloud_events;
use runtime::{egress::HttpsUrl, error::chain};
use tokio::time::{Instant, timeout_at};

use super::{Context, room::Place};
use crate::{
    database::{DatabaseError, EventEntry},
    events::message,
    field::now_ms,
    standard_webhooks::{self, Secret},
};

/// Where to, and what signs it.
pub(super) struct Receiver {
    pub(super) url: HttpsUrl,
    pub(super) secret: Secret,
}

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    /// The event is older than what the log keeps, or of a type that this version does not know.
    Forgotten,
    /// 410: the receiver wants nothing any more.
    Gone,
    Failed(String),
    /// The event could not be read, or the hold was over before an answer: as if nobody was asked.
    NotTried,
}

/// It is over when the webhook may be another's: `until`.
pub(super) async fn attempt(
    context: Arc<Context>,
    receiver: Arc<Receiver>,
    position: u64,
    _place: Place,
    until: Instant,
) -> Outcome {
    let tried = timeout_at(until, attempt_now(&context, &receiver, position)).await;
    tried.unwrap_or(Outcome::NotTried)
}

async fn attempt_now(context: &Context, receiver: &Receiver, position: u64) -> Outcome {
    match event(context, position).await {
        Ok(Some(event)) if event.subject.is_none() => Outcome::Forgotten,
        Ok(Some(event)) => send(context, receiver, &event).await,
        Ok(None) => Outcome::Forgotten,
        Err(error) => {
            tracing::info!(
                reason = chain(&error),
                "an event cannot be read for its delivery"
            );
            Outcome::NotTried
        }
    }
}

async fn event(context: &Context, position: u64) -> Result<Option<Arc<EventEntry>>, DatabaseError> {
    let recent = position.checked_sub(1).and_then(|before| {
        let tail = context.shared.events.borrow();
        tail.behind(before, 1)?.pop()
    });
    match recent {
        Some(event) => Ok(Some(event)),
        None => Ok(context.shared.database.event(position).await?.map(Arc::new)),
    }
}

async fn send(context: &Context, receiver: &Receiver, event: &EventEntry) -> Outcome {
    let body = Bytes::from(cloud_events::json(&message(event)).to_string());
    let timestamp = now_ms().div_euclid(1000);
    let content = (cloud_events::CONTENT_TYPE, &*body);
    let headers = standard_webhooks::headers(&receiver.secret, &event.id, timestamp, content);
    let Some(headers) = headers else {
        return Outcome::Failed("the event's id is no header".to_owned());
    };
    match context.egress.post(&receiver.url, headers, body).await {
        Ok(response) if response.status.is_success() => Outcome::Delivered,
        Ok(response) if response.status == StatusCode::GONE => Outcome::Gone,
        Ok(response) => Outcome::Failed(format!("HTTP {}", response.status.as_u16())),
        Err(error) => Outcome::Failed(chain(&error)),
    }
}
