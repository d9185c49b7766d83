//! One try to deliver one event.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use proto::cloud_events;
use runtime::{egress::HttpsUrl, error::chain};

use super::Context;
use crate::{
    database::{DatabaseError, EventEntry},
    events::message,
    field::now_ms,
    standard_webhooks::{ID, SIGNATURE, Secret, TIMESTAMP, sign},
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
    /// The event is older than what the log keeps.
    Forgotten,
    /// 410: the receiver wants nothing any more.
    Gone,
    Failed(String),
    /// The event could not be read: nobody was asked.
    NotTried,
}

pub(super) async fn attempt(
    context: Arc<Context>,
    receiver: Arc<Receiver>,
    position: u64,
) -> Outcome {
    let Ok(_permit) = context.requests.acquire().await else {
        return Outcome::NotTried;
    };
    match event(&context, position).await {
        Ok(Some(event)) => send(&context, &receiver, &event).await,
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
    let signature = sign(&receiver.secret, &event.id, timestamp, &body);
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(cloud_events::CONTENT_TYPE),
    );
    for (name, value) in [
        (ID, event.id.clone()),
        (TIMESTAMP, timestamp.to_string()),
        (SIGNATURE, signature),
    ] {
        let Ok(value) = HeaderValue::from_str(&value) else {
            return Outcome::Failed("the event's id is no header".to_owned());
        };
        headers.insert(HeaderName::from_static(name), value);
    }
    match context.egress.post(&receiver.url, headers, body).await {
        Ok(response) if response.status.is_success() => Outcome::Delivered,
        Ok(response) if response.status == StatusCode::GONE => Outcome::Gone,
        Ok(response) => Outcome::Failed(format!("HTTP {}", response.status.as_u16())),
        Err(error) => Outcome::Failed(chain(&error)),
    }
}
