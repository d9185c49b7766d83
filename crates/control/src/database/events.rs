//! The event log: what happened, in order, written with the change that it tells of or not at all.

use data_encoding::HEXLOWER;
use prost::Message as _;
use proto::v1::{EventType, KeyEvent, SessionEvent};
use sqlx::{Any, Transaction};

use super::DatabaseError;

/// One event to be written. Its position is the database's to give.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewEvent {
    /// Unique: an event that is there already is not written again.
    pub(crate) id: String,
    pub(crate) create_ms: i64,
    pub(crate) tenant: String,
    pub(crate) event_type: EventType,
    pub(crate) subject: Subject,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Subject {
    Key(KeyEvent),
    Session(Box<SessionEvent>),
}

impl NewEvent {
    /// A change of a key, now.
    pub(crate) fn of_key(
        event_type: EventType,
        tenant: &str,
        now_ms: i64,
        event: KeyEvent,
    ) -> Self {
        Self {
            id: uuid::Uuid::now_v7().to_string(),
            create_ms: now_ms,
            tenant: tenant.to_owned(),
            event_type,
            subject: Subject::Key(event),
        }
    }
}

impl Subject {
    fn app(&self) -> &str {
        match self {
            Self::Key(event) => &event.app,
            Self::Session(event) => &event.app,
        }
    }

    fn encode(&self) -> String {
        HEXLOWER.encode(&match self {
            Self::Key(event) => event.encode_to_vec(),
            Self::Session(event) => event.encode_to_vec(),
        })
    }
}

/// Takes the next position of the event log. Locks its head until the commit: comes last but for
/// [`append`](super::revocations::append), always in this order.
pub(super) async fn append_event(
    transaction: &mut Transaction<'_, Any>,
    event: &NewEvent,
) -> Result<(), DatabaseError> {
    let position: i64 =
        sqlx::query_scalar("UPDATE events_head SET position = position + 1 RETURNING position")
            .fetch_one(&mut **transaction)
            .await?;
    sqlx::query(
        "INSERT INTO events (position, id, create_ms, tenant, app, type, subject) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(position)
    .bind(&event.id)
    .bind(event.create_ms)
    .bind(&event.tenant)
    .bind(event.subject.app())
    .bind(i64::from(i32::from(event.event_type)))
    .bind(event.subject.encode())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
